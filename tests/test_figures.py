"""The tables of the documents are those that the kept results make, and what makes them notices what is wrong."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from camscribe.benchmarks import tables
from camscribe.benchmarks.document_tables import BLOCKS, Results
from camscribe.runtime.errors import DataError, OptionError

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"


def load(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The documents and the results, to be changed."""
    shutil.copytree(RESULTS, tmp_path / "benchmarks" / "results")
    for document in tables.documents(REPOSITORY):
        target = tmp_path / document.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(document, target)
    return tmp_path


def test_every_table_in_the_documents_is_the_one_that_the_results_make(capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["--check", "--root", str(REPOSITORY)]) == 0, capsys.readouterr().out


def test_every_table_stands_in_a_document() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in tables.documents(REPOSITORY))
    assert set(re.findall(r"<!-- table: (.*?) -->", text)) == BLOCKS.keys()


def test_the_readme_has_the_figures_themselves() -> None:
    """By hand, so that a generator that always agrees with itself is found out."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    scores = load("quality-int8-test")["scores"]
    assert f"| camscribe, int8 | {100 * scores['bleu1']:.1f} | {100 * scores['bleu4']:.1f} |" in text
    speed = {item["name"]: item["median"] for item in load("caption_speed")["sections"]["tutorial"]["ratios"]}
    one, other = (speed[f"tutorial's loop / caption, {name}"] for name in ("float32", "int8"))
    assert f"| {one:.1f} times as fast | {other:.1f} times as fast | at least 2.5 and 4 |" in text


def test_the_model_card_s_own_figure_is_that_of_the_split_that_chose(repository: Path) -> None:
    (found,) = re.findall(
        r"its own CIDEr, ([\d.]+),", (repository / "docs" / "model_card.md").read_text(encoding="utf-8")
    )
    assert found == f"{load('quality-float32-tune')['scores']['cider']:.3f}"


def test_another_result_makes_another_table(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = checkout / "benchmarks" / "results" / "quality-int8-test.json"
    report = json.loads(file.read_text(encoding="utf-8"))
    report["scores"]["cider"] = 0.999
    file.write_text(json.dumps(report), encoding="utf-8")
    assert tables.main(["--check", "--root", str(checkout)]) == 1
    assert "README.md: is out of date" in capsys.readouterr().out
    assert "0.999" not in (checkout / "README.md").read_text(encoding="utf-8"), "--check writes nothing"
    assert tables.main(["--root", str(checkout)]) == 0
    assert "0.999" in (checkout / "README.md").read_text(encoding="utf-8")
    assert tables.main(["--check", "--root", str(checkout)]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: quality -->\n", "without its own <!-- end -->"),
        ("<!-- table: quality -->\n<!-- table: speed -->\n<!-- end -->\n", "without its own <!-- end -->"),
        ("<!-- end -->\n", "without its own <!-- end -->"),
        ("<!-- table: speeed -->\n<!-- end -->\n", "has a table 'speeed'; expected one of quality"),
    ],
)
def test_a_broken_mark_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        tables.render(text, Results(RESULTS), "README.md")


def test_missing_and_damaged_results_are_one_line(checkout: Path) -> None:
    file = checkout / "benchmarks" / "results" / "caption_speed.json"
    file.write_text('{"sections": {}}', encoding="utf-8")
    with pytest.raises(DataError, match=r"README\.md: table speed: the results lack a figure \(KeyError"):
        tables.main(["--root", str(checkout)])
    file.write_text("no", encoding="utf-8")
    with pytest.raises(DataError, match=r"caption_speed\.json: is not JSON"):
        tables.main(["--root", str(checkout)])
    file.unlink()
    with pytest.raises(DataError, match=r"caption_speed\.json: cannot be read"):
        tables.main(["--root", str(checkout)])
    with pytest.raises(OptionError, match="run it in a checkout"):
        tables.main(["--root", str(checkout / "docs")])


def test_a_study_that_was_not_made_is_said_to_be_missing(checkout: Path) -> None:
    (checkout / "benchmarks" / "results" / "training_speed.json").unlink(missing_ok=True)
    assert tables.main(["--root", str(checkout)]) == 0
    text = (checkout / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert text.count("Not measured yet: there is no `benchmarks/results/training_speed.json`.") == 2


@pytest.mark.parametrize(("threads", "ratio", "verdict"), [(2, 1.0, ": met."), (2, 0.1, ": missed."), (1, 1.0, ",")])
def test_what_was_asked_of_the_enhancer_is_judged_on_two_cores_only(
    checkout: Path, threads: int, ratio: float, verdict: str
) -> None:
    file = checkout / "benchmarks" / "results" / "enhancer_speed.json"
    report = json.loads(file.read_text(encoding="utf-8"))
    report["protocol"]["threads"] = threads
    for peer in report["peers"]:
        peer["ratios"] = {name: value * ratio for name, value in peer["ratios"].items()}
    file.write_text(json.dumps(report), encoding="utf-8")
    assert tables.main(["--root", str(checkout)]) == 0
    text = (checkout / "docs" / "enhance.md").read_text(encoding="utf-8")
    assert f"at least 2 times as fast on two cores{verdict}" in text
    assert f"{threads} thread{'s' if threads > 1 else ''}, " in text


def test_the_robot_guide_s_times_are_measured() -> None:
    times = load("cdr_decode")["sizes"]["640x480 bgr8"]["ms"]
    text = (REPOSITORY / "docs" / "robots.md").read_text(encoding="utf-8")
    (ours, stock) = re.findall(
        r"VGA message took ([\d.]+) ms here, the stock coding of Cyclone's Python package (\d+) ms", text
    )[0]
    assert ours == f"{times['camscribe']['median']:.2f}"
    assert stock == f"{times['cyclonedds']['median']:.0f}"
