"""Timing in turn, ratios of pairs, and what a result says of its machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from camscribe.benchmarks.measure import environment, interleave, merge, portable, ratio
from camscribe.benchmarks.quality import agreement, tidy
from camscribe.benchmarks.startup import launch


def test_variants_run_in_turn_after_the_warm_up() -> None:
    calls: list[str] = []
    seconds = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warm_up=2)
    assert "".join(calls) == "ab" * 5
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
    assert all(value >= 0 for values in seconds.values() for value in values)


def test_a_ratio_is_the_median_of_the_pairs_and_not_of_the_medians() -> None:
    seconds = {"a": [2.0, 9.0, 30.0], "b": [1.0, 3.0, 5.0]}
    made = ratio("a / b", seconds, "a", "b", "at most", 3.0)
    assert made.median == 3.0
    assert made.p10 == pytest.approx(2.2)
    assert made.p90 == pytest.approx(5.4)
    assert (made.pairs, made.numerator_ms, made.denominator_ms) == (3, 9000.0, 3000.0)


@pytest.mark.parametrize(
    ("bound", "limit", "met"),
    [("at most", 2.0, True), ("at most", 1.9, False), ("at least", 2.0, True), ("at least", 2.1, False)],
)
def test_a_limit_is_met_or_not(bound: str, limit: float, met: bool) -> None:
    assert ratio("", {"a": [2.0], "b": [1.0]}, "a", "b", bound, limit).met is met  # type: ignore[arg-type]


def test_no_limit_is_neither_met_nor_missed() -> None:
    assert ratio("", {"a": [2.0], "b": [1.0]}, "a", "b").met is None


def test_measurements_of_several_images_are_put_together_in_order() -> None:
    assert merge([{"a": [1.0], "b": [2.0]}, {"a": [3.0], "b": [4.0]}]) == {"a": [1.0, 3.0], "b": [2.0, 4.0]}


def test_results_name_no_folder_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert portable(str(tmp_path / "photos" / "a.jpg")) == str(Path("photos") / "a.jpg")
    assert portable("/somewhere/else/b.jpg") == ".../b.jpg"
    assert portable("../c.jpg") == "../c.jpg"
    assert portable("b/after=/somewhere/else/bundle") == "b/after=.../bundle"
    assert portable("beams=3") == "beams=3"
    monkeypatch.setattr(sys, "argv", ["x.py", "--bundle", "/somewhere/else", str(tmp_path / "d.jpg")])
    where = environment()
    assert where.command.endswith("--bundle .../else d.jpg")
    assert where.cores >= 1
    assert "numpy" in where.packages


LAUNCHES = """
import json, sys
from camscribe.benchmarks.quality import tidy
from camscribe.benchmarks.startup import launch
large = "import time; print('ready', flush=True); time.sleep(0.5); x = bytearray(150_000_000); print(len(x))"
print(json.dumps([launch([sys.executable, "-c", code]) for code in (large, "print('ready')")]))
"""


def test_a_process_is_timed_until_its_first_line_and_to_its_end() -> None:
    """In a process of its own: on Linux a child's peak memory is never less than what its parent held."""
    done = subprocess.run([sys.executable, "-c", LAUNCHES], capture_output=True, text=True, check=True)
    (first, whole, memory), (_, _, small) = json.loads(done.stdout)
    assert whole >= first + 0.5
    assert memory > 150
    assert small < memory - 100


def test_a_timed_process_may_keep_its_compiled_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "compiled_once.py").write_text("print('ready')\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    launch([sys.executable, "-c", "import compiled_once"])
    assert list((tmp_path / "__pycache__").glob("compiled_once.*.pyc"))


def test_a_process_that_fails_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        launch([sys.executable, "-c", "print('ready'); raise SystemExit('no such thing')"])


def test_a_report_of_quality_keeps_its_scores_and_loses_the_machines_folders(tmp_path: Path) -> None:
    file = tmp_path / "quality.json"
    report = {
        "command": ["camscribe", "evaluate", "/elsewhere/bundle", "--split", "dev[:500]"],
        "scores": {"cider": 0.5},
    }
    file.write_text(json.dumps(report), encoding="utf-8")
    tidied = tidy(file)
    assert tidied == json.loads(file.read_text(encoding="utf-8"))
    assert tidied == {**report, "command": ["camscribe", "evaluate", ".../bundle", "--split", "dev[:500]"]}


def test_captions_of_two_runs_are_compared_word_for_word(tmp_path: Path) -> None:
    def lines(name: str, *captions: tuple[str, str, float]) -> Path:
        rows = [{"image_id": image, "caption": text, "score": score} for image, text, score in captions]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    reference = lines("a", ("1", "a dog", -0.5), ("2", "a cat", -0.6), ("3", "a man", -0.7))
    found = agreement(reference, lines("b", ("2", "a cat", -0.61), ("1", "a hot dog", -0.53), ("4", "new", -1.0)))
    assert (found["images"], found["same"]) == (2, 1)
    assert found["largest_gap"] == pytest.approx(0.03)
    assert found["different"] == [
        {"image_id": "1", "float32": "a dog", "found": "a hot dog", "float32_score": -0.5, "score": -0.53}
    ]
    assert agreement(reference, reference) == {"images": 3, "same": 3, "largest_gap": 0.0, "different": []}


def test_the_kept_captions_of_fp16_are_as_near_to_float32_as_the_design_says(repository: Path) -> None:
    results = repository / "benchmarks" / "results"
    found = agreement(results / "captions-float32.jsonl", results / "captions-fp16.jsonl")
    said = (repository / "docs" / "design.md").read_text(encoding="utf-8")
    assert f"{found['same']} of Flickr8k's 1,000 development captions are those of float32" in said
    assert f"scores are at most {found['largest_gap']:.3f} apart" in said
