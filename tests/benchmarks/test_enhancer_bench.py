"""``camscribe bench`` of an enhancer: beside a network that makes the same picture, and in every form of report."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camscribe.benchmarks import (
    command,
    enhancer_schema,
    enhancers,
    report_html,
    report_markdown,
    schema,
    statistics,
    terminal,
)
from camscribe.benchmarks.enhancer_schema import EnhancerReport, EnhancerVariant
from camscribe.benchmarks.enhancer_session import EnhancerSession
from camscribe.benchmarks.peers import enhancer as peer
from camscribe.benchmarks.schema import Missing
from camscribe.benchmarks.stages import Recorder
from camscribe.runtime import cli
from camscribe.runtime.enhancer import Enhancer
from camscribe.runtime.errors import DataError, EngineError

FAST = ["bench", "enhancer", "--backend", "cpu", "--rounds", "2", "--warm-up", "1", "--stage-rounds", "1"]
FAST += ["--threads", "1", "--no-energy", "--quiet", "--sizes", "24x20", "40x30"]
needs_torch = pytest.mark.skipif(peer.why_not() is not None, reason=str(peer.why_not()))


@pytest.fixture(scope="module")
def photo(repository: Path) -> str:
    return str(repository / "examples" / "car.jpg")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: str) -> Path:
    """Reports of the shipped enhancer, float32 and int8."""
    out = tmp_path_factory.mktemp("bench")
    assert cli.main([*FAST, "--precision", "float32", "int8", "--images", photo, "--out", str(out)]) == 0
    return out


@pytest.fixture
def report(folder: Path) -> EnhancerReport:
    return enhancer_schema.read(folder / "report.json")


def test_a_report_has_every_figure_of_every_size(report: EnhancerReport) -> None:
    assert not report.partial
    assert [(row.precision, row.size) for row in report.variants] == [
        ("float32", "24x20"),
        ("int8", "24x20"),
        ("float32", "40x30"),
        ("int8", "40x30"),
    ]
    for row in report.variants:
        assert row.latency_ms.count == len(row.samples_ms) == 2
        assert row.images_per_s == pytest.approx(1e3 / row.latency_ms.median)
        assert not isinstance(row.stages, Missing)
        assert list(row.stages) == ["graph"]  # in one piece, so nothing is cut and put together
        assert isinstance(row.memory, schema.Memory)
        assert row.memory.host_bytes > 30e6
        assert row.build == Missing("has no engines")
        assert row.energy == Missing("not asked for (--no-energy)")
        assert row.fidelity.largest == 0 if row.precision == "float32" else 0 < row.fidelity.largest < 100
    assert report.variants[0].size_bytes > 2 * report.variants[1].size_bytes
    assert report.protocol.images[0].endswith("car.jpg 24x20")
    assert report.bundles[0].variant == "psnr"
    assert not any(word.startswith("/") for word in report.command)


@needs_torch
def test_pytorch_is_timed_in_the_same_turns_and_makes_the_same_picture(report: EnhancerReport) -> None:
    assert [each.name for each in report.peers] == ["pytorch 24x20", "pytorch 40x30"]
    for each in report.peers:
        assert each.fidelity.largest <= 1
        rows = {row.name: row for row in report.variants if row.size == each.size}
        assert each.ratios.keys() == rows.keys()
        for name, ratio in each.ratios.items():
            pairs = np.array(each.samples_ms) / np.array(rows[name].samples_ms)
            assert ratio == pytest.approx(float(np.median(pairs)), rel=1e-3)


def test_the_report_says_the_same_on_the_terminal_in_markdown_and_in_html(folder: Path, report: EnhancerReport) -> None:
    text, markdown, page = "\n".join(terminal.table(report)), report_markdown.render(report), report_html.render(report)
    assert (folder / "report.md").read_text() == markdown
    assert (folder / "report.html").read_text() == page
    for row in report.variants:
        for form in (text, markdown, page):
            assert f"{row.latency_ms.median:.2f}" in form
            assert f"cpu {row.precision} {row.size}" in form
    assert page.count("<svg") == 3
    assert "Latency of every picture in ms" in page
    assert "caption" not in re.sub(r"figcaption", "", page)
    assert "<script" not in page
    assert not re.search(r"https?://(?!www\.w3\.org/)", page)
    partial = dataclasses.replace(report, partial=True, peers=(), left_out={"peer pytorch": "torch not installed"})
    assert "PARTIAL" in report_html.render(partial)
    assert "not measured: peer pytorch: torch not installed" in "\n".join(terminal.table(partial))


def test_two_reports_are_compared(folder: Path, tmp_path: Path, repository: Path, capsys: Any) -> None:
    report = enhancer_schema.read(folder / "report.json")

    def timed(row: EnhancerVariant, *samples: float) -> EnhancerVariant:
        return dataclasses.replace(row, samples_ms=samples, latency_ms=statistics.spread(samples))

    rows = [timed(row, 10.0, 10.1) for row in report.variants]
    for name, variants in (("old", rows), ("new", [timed(rows[0], 30.0, 30.1), *rows[1:]])):
        schema.write(dataclasses.replace(report, variants=tuple(variants)), tmp_path / f"{name}.json")
    old, new = (str(tmp_path / f"{name}.json") for name in ("old", "new"))
    assert cli.main(["bench", "--compare", old, old]) == 0
    assert cli.main(["bench", "--compare", old, new]) == 1
    assert capsys.readouterr().out.count("WORSE BY MORE THAN") == 1
    other = str(repository / "benchmarks" / "results" / "bench-cpu.json")
    assert cli.main(["bench", "--compare", old, other]) == 2
    assert "one is a captioner's report, the other an enhancer's" in capsys.readouterr().err


def test_damaged_reports_are_one_line(folder: Path, tmp_path: Path) -> None:
    text = (folder / "report.json").read_text()
    with pytest.raises(DataError, match=r"x\.json: report\.partial is 3"):
        enhancer_schema.parse(text.replace('"partial": false', '"partial": 3'), "x.json")
    with pytest.raises(DataError, match="is no report of camscribe bench; expected"):
        schema.parse(text)
    with pytest.raises(DataError, match="cannot be read"):
        enhancer_schema.read(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "80"], "--sizes has '80'; expected columns x rows"),
        (["--sizes", "0x20"], "--sizes has '0x20'"),
        (["--sizes", "4000x20"], "fewer than 4000x20; name another photograph with --images"),
        (["--sizes", "24x7"], "image is 24 x 7 pixels; this enhancer takes 8 x 8 or more"),
        (["--variant", "x"], "variant is 'x'"),
        (["--precision", "fp8"], "precision is 'fp8'"),
        (["--backend", "cuda-graph"], "--backend is 'cuda-graph'; an enhancer runs on cpu, cuda"),
        (["--peers", "tutorial"], "--peers is none or left out for an enhancer"),
        (["--beams", "3"], "--beams is a captioner's; this bundle is an enhancer's"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--images", "none.png"], "none.png"),
    ],
)
def test_options_without_a_meaning_are_one_line(
    photo: str, tmp_path: Path, capsys: Any, arguments: list[str], message: str
) -> None:
    wanted = ["bench", "enhancer", "--quiet", "--out", str(tmp_path), "--images", photo, *arguments]
    assert cli.main(wanted) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_kinds_of_bundles_are_not_mixed(capsys: Any, repository: Path, tmp_path: Path) -> None:
    captioner = str(repository / "runtime" / "bundles" / "default")
    for arguments, message in (
        (["enhancer", "enhancer"], "name one bundle"),
        (["--variant", "gan"], "--variant is an enhancer's; this bundle is a captioner's"),
        (["--sizes", "8x8"], "--sizes is an enhancer's"),
        *([([captioner, "enhancer"], "runs of their own")] if Path(captioner).exists() else []),
    ):
        assert cli.main(["bench", *arguments, "--out", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err


def test_without_the_examples_a_photograph_must_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "enhancer"]) == 2
    assert "no examples/horses.jpg here; name a photograph with --images" in capsys.readouterr().err.replace("\\", "/")


def test_what_is_missing_costs_its_own_part_only(
    photo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(peer, "why_not", lambda: "torch not installed")
    monkeypatch.setattr(enhancers, "why_not", lambda name: f"no {name} here")
    monkeypatch.setattr(command, "_tell", lambda text: None)
    arguments = [word for word in FAST if word not in ("--backend", "cpu", "--quiet")]
    assert cli.main([*arguments, "--precision", "int8", "--images", photo, "--out", str(tmp_path)]) == 0
    report = enhancer_schema.read(tmp_path / "report.json")
    assert report.peers == ()
    assert report.left_out["peer pytorch"] == "torch not installed"
    assert report.left_out["enhancer-x4 psnr tensorrt int8"] == "no tensorrt here"
    assert "not measured: enhancer-x4 psnr cuda int8: no cuda here" in capsys.readouterr().out
    with pytest.raises(EngineError, match="nothing can be measured here: no cuda here"):
        enhancers.open_enhancers(Path(Enhancer.load(backend="cpu").bundle.path), None, ["cuda"], ["int8"], 1)


def test_an_interruption_keeps_what_was_measured(
    photo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def interrupted(self: EnhancerSession) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(EnhancerSession, "_stages", interrupted)
    arguments = [*FAST, "--precision", "int8", "--peers", "none", "--images", photo, "--out", str(tmp_path)]
    assert cli.main(arguments) == 130
    report = enhancer_schema.read(tmp_path / "report.json")
    assert report.partial
    assert len(report.variants) == 2
    assert isinstance(report.variants[0].stages, Missing)
    assert "marked as partial" in capsys.readouterr().err


def test_stages_of_a_picture_of_several_tiles() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    recorder = Recorder()
    with Enhancer.load(backend="cpu", precision="int8", threads=1, tile=60) as enhancer:
        made = enhancer.enlarge(image, recorder.stage)
        np.testing.assert_array_equal(made, enhancer.enlarge(image))
    assert {name: len(each) for name, each in recorder.samples.items()} == {"tiling": 2, "graph": 2, "stitching": 2}
