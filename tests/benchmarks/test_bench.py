"""``camscribe bench``: statistics, protocol, stages, the report's form, comparison, and the command itself."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camscribe.benchmarks import captions_quality, child, compare, plugs, protocol, schema, statistics, variants
from camscribe.benchmarks.schema import Missing, Report, Spread, Stage
from camscribe.runtime import cli
from camscribe.runtime.errors import DataError, EngineError, OptionError

FAST = ["--backend", "cpu", "--rounds", "1", "--warm-up", "1", "--rate-seconds", "0.2", "--stage-rounds", "1"]
FAST += ["--batches", "1", "2", "--beams", "1", "--no-energy", "--no-roofline", "--quiet"]


@pytest.fixture(scope="session")
def photo(repository: Path) -> str:
    return str(repository / "examples" / "shepherd.jpg")


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory, photo: str) -> Path:
    """A report of the bundle that comes with the package, float32 and int8."""
    out = tmp_path_factory.mktemp("bench")
    assert cli.main(["bench", *FAST, "--precision", "float32", "int8", "--images", photo, "--out", str(out)]) == 0
    return out / "report.json"


# Statistics


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=50))
def test_statistics_are_ordered(samples: list[float]) -> None:
    found = statistics.spread(samples)
    ordered = [found.min, found.median, found.p90, found.p95, found.p99, found.max]
    assert all(one <= other * (1 + 1e-12) for one, other in pairwise(ordered))
    assert found.min * (1 - 1e-9) <= found.mean <= found.max * (1 + 1e-9)
    assert found.count == len(samples)
    assert (found.variation is None) == (len(samples) == 1)


def test_statistics_keep_zeros_and_refuse_nothing() -> None:
    zero = statistics.spread([0.0, 0.0])
    assert (zero.min, zero.median, zero.variation) == (0.0, 0.0, None)
    with pytest.raises(OptionError, match="rounds"):
        statistics.spread([])


def test_images_of_different_cost_are_no_unsteadiness() -> None:
    samples, groups = [10.0, 20.0] * 60, [0, 1] * 60
    assert statistics.steadiness(samples, groups) == 0
    assert statistics.latency_warnings(samples, groups) == []
    shaky = [10.0, 20.0, 12.0, 24.0] * 30
    assert any("unsteady" in text for text in statistics.latency_warnings(shaky, groups))
    assert statistics.steadiness([1.0, 2.0], [0, 1]) is None


def test_a_device_that_waits_is_warned_of() -> None:
    def stage(mean: float, times: float = 1.0) -> Stage:
        return Stage(Spread(1, mean, mean, mean, mean, mean, mean, mean, None), times, "device")

    parts = {"h2d": stage(1.0), "encoder": stage(2.0), "decoder step": stage(0.1, 10), "d2h": stage(0.1)}
    assert statistics.stage_warnings(parts, 1.0) == []
    assert "enqueue-bound" in statistics.stage_warnings(parts, 4.0)[0]
    assert "transfer-bound" in statistics.stage_warnings({**parts, "h2d": stage(5.0)})[0]


def test_limits_that_a_caption_beats_are_warned_of() -> None:
    assert statistics.limit_warnings(Missing("not asked for")) == []
    assert statistics.limit_warnings({"caption": {"share": 0.4}}) == []
    (warning,) = statistics.limit_warnings({"caption": {"share": 2.36}})
    assert "a caption reaches 236% of them" in warning


def test_the_interval_of_a_ratio_holds_what_noise_makes() -> None:
    generator = np.random.default_rng(1)
    old, new = generator.normal(10, 1, 400), generator.normal(10, 1, 400)
    _, low, high = statistics.ratio_interval(old.tolist(), new.tolist())
    assert low < 1 < high
    ratio, low, _ = statistics.ratio_interval(old.tolist(), (new * 1.2).tolist())
    assert low > 1.1
    assert ratio == pytest.approx(1.2, abs=0.05)


# Protocol, on a clock of its own


class Clock:
    """Time that passes only where somebody spends it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


def test_variants_are_timed_in_turn() -> None:
    clock, order, samples = Clock(), [], protocol.Samples()

    def work(name: str, seconds: float, item: int) -> None:
        order.append((name, item))
        clock.spend(seconds * (item + 1))

    both = {"a": lambda item: work("a", 0.001, item), "b": lambda item: work("b", 0.002, item)}
    protocol.in_turn(both, [0, 1], 5, 3, samples, warm_up=2, clock=clock)
    assert samples.rounds == 5
    assert samples.of("a", 1) == pytest.approx([2.0] * 5)
    assert samples.of("b", 0) == pytest.approx([2.0] * 5)
    timed = order[4:]
    for first, second in zip(timed[::2], timed[1::2], strict=True):
        assert {first[0], second[0]} == {"a", "b"}  # side by side
        assert first[1] == second[1]
    again = protocol.Samples()
    protocol.in_turn(both, [0, 1], 5, 3, again, clock=clock)
    assert again.items == samples.items  # by the seed


def test_seconds_end_after_a_whole_round() -> None:
    clock, samples = Clock(), protocol.Samples()
    protocol.in_turn({"a": lambda _: clock.spend(1.0)}, [0, 1], 100, 0, samples, seconds=3.0, clock=clock)
    assert samples.rounds == 2
    assert len(samples.items) == 4


def test_an_interruption_leaves_whole_turns() -> None:
    samples, calls = protocol.Samples(), 0

    def work(_: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        protocol.in_turn({"a": work, "b": work}, [0], 100, 0, samples)
    assert {name: len(each) for name, each in samples.milliseconds.items()} == {"a": 2, "b": 2}
    assert samples.items == [0, 0]


def test_frames_at_a_fixed_rate_are_dropped_only_where_a_newer_one_waits() -> None:
    clock = Clock()
    fast = protocol.fixed_rate(lambda _: clock.spend(0.01), 3, 10, 2, clock, clock.spend)
    assert (fast.frames, fast.dropped) == (20, 0)
    assert isinstance(fast.age_ms, Spread)
    assert fast.age_ms.max == pytest.approx(10, abs=1e-3)
    assert fast.captions_per_s == pytest.approx(10, rel=0.01)
    clock = Clock()
    slow = protocol.fixed_rate(lambda _: clock.spend(0.25), 3, 10, 2, clock, clock.spend)
    assert isinstance(slow.age_ms, Spread)
    assert slow.dropped == slow.frames - slow.age_ms.count
    assert slow.captions_per_s == pytest.approx(4, rel=0.1)
    assert slow.age_ms.min >= 250 - 1e-3
    assert slow.age_ms.max <= 350 + 1e-3


# The report


def test_a_report_has_every_figure_beside_the_latency(measured: Path) -> None:
    report = schema.read(measured)
    assert not report.partial
    assert [row.precision for row in report.variants] == ["float32", "int8"]
    for row in report.variants:
        assert row.latency_ms.count == len(row.samples_ms) == 1
        assert not isinstance(row.stages, Missing)
        assert set(row.stages) >= {"decode", "preprocess", "h2d", "encoder", "decoder step", "d2h", "search", "words"}
        assert row.stages["decoder step"].per_caption > row.words
        assert isinstance(row.quality, schema.Quality)
        assert isinstance(row.quality.cider, Missing)
        assert isinstance(row.memory, schema.Memory)
        assert row.memory.host_bytes > 50e6
        assert isinstance(row.memory.device_bytes, Missing)
        assert isinstance(row.build, Missing)
        assert isinstance(row.energy, Missing)
        assert isinstance(row.floor, schema.Floor)
        assert isinstance(row.fixed_rate, schema.FixedRate)
        assert not isinstance(row.batch_sweep, Missing)
        assert [point.value for point in row.batch_sweep] == [1, 2]
    assert isinstance(report.variants[0].quality, schema.Quality)
    assert report.variants[0].quality.same_as_float32 == 1.0
    assert report.command[:2] == ("camscribe", "bench")
    assert not any("/" in word and word.startswith("/") for word in report.command)


def test_a_report_survives_writing_and_reading(measured: Path, tmp_path: Path) -> None:
    report = schema.read(measured)
    zero = dataclasses.replace(report.variants[0], words=0.0, samples_ms=(0.0,))
    changed = dataclasses.replace(report, variants=(zero,), environment={"odd": float("nan"), "none": 0})
    schema.write(changed, tmp_path / "new" / "report.json")
    again = schema.read(tmp_path / "new" / "report.json")
    assert again.variants[0].words == 0.0
    assert again.variants[0].samples_ms == (0.0,)
    assert again.environment == {"odd": None, "none": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "has schema 99; this release reads schema 1"),
        ({"kind": "other"}, "no report of camscribe bench"),
        ({"partial": 3}, "report.partial is 3"),
        ({"new": 3}, "report.new is unknown"),
    ],
)
def test_other_reports_are_refused_in_one_line(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(measured.read_text()) | change))
    assert cli.main(["bench", "--compare", str(measured), str(other)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@given(st.text(max_size=40))
def test_no_text_makes_a_traceback(text: str) -> None:
    with pytest.raises(DataError):
        schema.parse(text)


# Comparison


def slower(report: Report, factor: float, count: int = 200) -> Report:
    """The report with many samples, scaled."""
    generator = np.random.default_rng(7)
    rows = []
    for row in report.variants:
        samples = (generator.normal(10, 0.3, count) * factor).tolist()
        rows.append(dataclasses.replace(row, samples_ms=tuple(samples), latency_ms=statistics.spread(samples)))
    return dataclasses.replace(report, variants=tuple(rows))


def test_a_comparison_fails_beyond_threshold_and_noise(measured: Path, tmp_path: Path) -> None:
    report = schema.read(measured)
    old = slower(report, 1.0)
    assert not compare.compare(old, slower(report, 1.02)).failed
    assert compare.compare(old, slower(report, 1.2)).failed
    assert not compare.compare(old, slower(report, 1.2), threshold=0.3).failed
    assert not compare.compare(old, slower(report, 0.5)).failed
    few = slower(report, 1.0, 2)
    noisy = dataclasses.replace(
        few, variants=tuple(dataclasses.replace(row, samples_ms=(5.0, 15.0)) for row in few.variants)
    )
    assert not any(change.fails for change in compare.compare(old, noisy).changes if change.figure == "latency ms")
    schema.write(old, tmp_path / "old.json")
    schema.write(slower(report, 1.2), tmp_path / "new.json")
    assert cli.main(["bench", "--compare", str(tmp_path / "old.json"), str(tmp_path / "new.json")]) == 1
    assert cli.main(["bench", "--compare", str(tmp_path / "new.json"), str(tmp_path / "old.json")]) == 0


def test_a_loss_of_quality_fails_a_comparison(measured: Path) -> None:
    report = schema.read(measured)
    row = report.variants[0]
    assert isinstance(row.quality, schema.Quality)
    worse = dataclasses.replace(row, quality=dataclasses.replace(row.quality, same_as_float32=0.0))
    result = compare.compare(report, dataclasses.replace(report, variants=(worse,)))
    assert result.failed
    assert any("only in the old report" in remark for remark in result.remarks)


# The command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "nonsense"], "--backend is 'nonsense'; expected cpu, cuda"),
        (["--precision", "int3"], "--precision is 'int3'; the bundles have float32"),
        (["--images", "nowhere.jpg"], "nowhere.jpg: no such file"),
        (["--rounds", "0"], "--rounds is 0; expected at least 1"),
        (["--rate", "nan"], "--rate is nan"),
        (["--batches", "2", "2"], "expected different numbers"),
        (["--peers", "nonsense"], "--peers has 'nonsense'; expected all, or some of tutorial"),
        (["--peers", "all", "tutorial"], "--peers has 'all'"),
        (["--split", "dev"], "need --data"),
        (["--threshold", "5"], "--threshold needs --compare"),
        (["--out", ""], "argument --out: an empty name is no folder"),
        (["--checkpoint", "nowhere.safetensors"], "--checkpoint nowhere.safetensors: no such file"),
        (["--threads", "-1"], "threads is -1"),
        (["nowhere"], "nowhere"),
    ],
)
def test_bad_options_are_one_line(
    tmp_path: Path, photo: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    images = [] if "--images" in arguments else ["--images", photo]
    assert cli.main(["bench", "--out", str(tmp_path / "out"), *arguments, *images]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "report.json").exists()


def test_without_photographs_nothing_is_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench"]) == 2
    assert capsys.readouterr().err == "camscribe: there is no folder examples here; name photographs with --images\n"
    assert not any(tmp_path.iterdir())


def test_a_split_without_what_scores_it_is_refused_at_once(
    tmp_path: Path, photo: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "safetensors" else find_spec(name, *rest)
    )
    assert cli.main(["bench", "--data", str(tmp_path), "--images", photo, "--out", str(tmp_path / "out")]) == 2
    expected = 'camscribe: --data needs safetensors, which is not installed: pip install "camscribe[train]"\n'
    assert capsys.readouterr().err == expected
    assert not (tmp_path / "out").exists()


def test_a_split_without_captions_is_one_line(
    tmp_path: Path, photo: str, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*FAST, "--precision", "float32", "--images", photo, "--out", str(tmp_path)]
    assert cli.main(["bench", *arguments, "--data", str(shapes), "--split", "nosuch"]) == 2
    error = capsys.readouterr().err
    assert "captions.nosuch.tsv: cannot be read" in error
    assert error.count("\n") == 1


def test_a_split_gives_scores(tmp_path: Path, photo: str, shapes: Path) -> None:
    opened, _ = variants.open_variants([None], ["cpu"], ["int8"], None)
    quality = captions_quality.OnSplit(captions_quality.Split(shapes, "dev[:3]"), None, lambda _: None).of(opened[0])
    variants.close(opened)
    assert isinstance(quality, schema.Quality)
    assert quality.images == 3
    assert isinstance(quality.cider, float)
    assert isinstance(quality.bleu4, float)
    assert isinstance(quality.same_as_float32, float)


def interrupted(arguments: list[str], out: Path, at: str, after_s: float) -> tuple[str, str]:
    """What ``camscribe bench`` prints when Ctrl-C comes some seconds after it told that it does something."""
    # A job in the background ignores Ctrl-C, and so would its children.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from camscribe.runtime.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "bench", "--backend", "cpu", *arguments, "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stderr is not None
    for line in process.stderr:
        if at in line:
            time.sleep(after_s)
            process.send_signal(signal.SIGINT)
            break
    printed, error = process.communicate(timeout=300)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    return printed, error


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path, photo: str) -> None:
    arguments = ["--precision", "int8", "--rounds", "1000000", "--images", photo]
    printed, _ = interrupted(arguments, tmp_path, "single stream", 3)  # for the warm-up, and some rounds
    assert "PARTIAL" in printed
    report = schema.read(tmp_path / "report.json")
    assert report.partial
    assert report.variants[0].latency_ms.count > 0
    assert isinstance(report.variants[0].stages, Missing)
    assert isinstance(report.variants[0].memory, Missing)


def test_ctrl_c_while_a_split_is_captioned_keeps_the_times_and_the_scores_before(
    tmp_path: Path, photo: str, shapes: Path
) -> None:
    arguments = ["--precision", "float32", "int8", "--images", photo, "--data", str(shapes), "--split", "dev[:1]"]
    arguments += [argument for argument in FAST[2:] if argument != "--quiet"]
    interrupted(arguments, tmp_path, "by cpu int8", 0.1)
    report = schema.read(tmp_path / "report.json")
    first, second = report.variants
    assert report.partial
    assert isinstance(first.quality, schema.Quality)
    assert isinstance(first.quality.cider, float)
    assert second.quality == Missing("interrupted before it was measured")
    assert second.latency_ms.count > 0
    assert isinstance(second.memory, schema.Memory)


def test_ctrl_c_before_anything_is_timed_says_that_there_is_no_report(tmp_path: Path, photo: str, shapes: Path) -> None:
    arguments = ["--precision", "int8", "--images", photo, "--data", str(shapes), "--split", "dev[:1]"]
    _, error = interrupted(arguments, tmp_path, "by cpu int8", 0.1)
    assert "camscribe: interrupted; nothing was timed yet, so there is no report" in error
    assert not (tmp_path / "report.json").exists()


def test_what_does_not_work_here_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    opened, left_out = variants.open_variants([None, None], ["cpu", "tensorrt"], ["float32"], None)
    variants.close(opened)
    assert len({variant.name for variant in opened} | set(left_out)) == 4
    with pytest.raises(EngineError, match="nothing can be measured here"):
        variants.open_variants([None], [next(iter(left_out)).split()[1]], ["float32"], None)


def test_a_child_that_fails_gives_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = child._ask(["memory", "cuda", "float32", "/nowhere", "0"])
    assert isinstance(answer, Missing)
    assert "the process that measures it failed" in answer.missing


def test_modules_that_are_absent_or_refuse_cost_their_part_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plugs.ask("no_such_module", "measure") == Missing("this release has no no_such_module")
    monkeypatch.setattr(statistics, "spread", lambda _: (_ for _ in ()).throw(PermissionError(13, "no permission")))
    refused = plugs.ask("statistics", "spread", [1.0])
    assert isinstance(refused, Missing)
    assert "no permission" in refused.missing


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["tensorrt", "cuda"])
def test_a_gpu_is_measured_with_its_own_clock_and_memory(tmp_path: Path, photo: str, backend: str) -> None:
    opened, left_out = variants.open_variants([None], ["cpu", backend], ["float32"], None)
    variants.close(opened)
    if left_out:
        pytest.skip("; ".join(left_out.values()))
    arguments = [*FAST, "--backend", backend, "--precision", "float32", "--images", photo, "--out", str(tmp_path)]
    assert cli.main(["bench", *arguments]) == 0
    (row,) = schema.read(tmp_path / "report.json").variants
    assert not isinstance(row.stages, Missing)
    assert row.stages["decoder step"].time_ms.min > 0
    assert row.stages["decoder step"].where == ("device" if backend == "tensorrt" else "host")
    assert isinstance(row.memory, schema.Memory)
    if backend == "tensorrt":
        assert isinstance(row.floor, schema.Floor)
        assert isinstance(row.memory.device_bytes, int)
