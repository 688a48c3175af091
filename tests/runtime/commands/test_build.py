"""``camscribe build``: what it says, and how it ends where something is missing."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from camscribe.runtime import executor
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.cli import main
from camscribe.runtime.commands import build
from camscribe.runtime.tensorrt import gate, versions
from camscribe.runtime.tensorrt.audit import Audit
from camscribe.runtime.tensorrt.engines import Built
from camscribe.runtime.tensorrt.toolchain import EnginePair


@pytest.fixture
def without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["build", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("camscribe: ")
    return err


@pytest.mark.usefixtures("without_tensorrt")
def test_without_tensorrt_one_line_says_what_to_install(capsys: pytest.CaptureFixture[str], toy_bundle: Bundle) -> None:
    assert 'pip uninstall onnxruntime, then pip install "camscribe[tensorrt]"' in fails(
        capsys, str(toy_bundle.path), "--precision", "fp32"
    )


def test_without_a_gpu_it_says_so_before_it_asks_for_what_only_a_gpu_needs(
    capsys: pytest.CaptureFixture[str], toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "load", lambda *, building=False: None)
    monkeypatch.setattr(executor, "has_nvidia_gpu", lambda: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # no PyCUDA
    said = fails(capsys, str(toy_bundle.path), "--precision", "fp32")
    assert said.startswith("camscribe: no engine can be built here: there is no NVIDIA GPU here, nor PyCUDA")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--precision", "fp16"), "has no graphs in fp16: export it again with this release, or take --precision fp32"),
        (("--precision", "fp32", "--batch", "0"), "batch is 0; expected 1 to 1024"),
        (("--precision", "fp32", "--beams", "65"), "beams is 65; expected 1 to 64"),
        (("--precision", "fp32", "--workspace", "0"), "--workspace is 0; expected at least 1 MiB"),
        (("--precision", "fp8"), "argument --precision"),
        (("--batch", "many"), "argument --batch"),
    ],
)
def test_an_option_without_a_meaning_is_one_line(
    capsys: pytest.CaptureFixture[str], toy_bundle: Bundle, arguments: tuple[str, ...], words: str
) -> None:
    assert words in fails(capsys, str(toy_bundle.path), *arguments)


def test_a_bundle_that_is_none_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no such bundle folder" in fails(capsys, str(tmp_path / "none"))


def test_the_help_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "build      build TensorRT engines for this GPU" in capsys.readouterr().out


def test_what_int8_costs_is_said_as_it_was_measured(
    make_toy: Callable[..., Path], tmp_path: Path, toy_bundle: Bundle
) -> None:
    quality = {"float32": {"dev": {"cider": 0.5}, "test": {"cider": 0.4}}, "int8": {"dev": {"cider": 0.45}}}
    measured = replace(toy_bundle, manifest=replace(toy_bundle.manifest, quality=quality))
    assert list(build._int8_loss(measured)) == ["int8 on dev: CIDEr 0.4500, float32 0.5000 (-10.0 %)"]
    for none in ({}, {"int8": {"dev": {"bleu4": 1}}, "float32": {}}, {"int8": 3, "float32": None}):
        unknown = replace(toy_bundle, manifest=replace(toy_bundle.manifest, quality=none))
        assert "was not measured for this bundle" in next(build._int8_loss(unknown))


def test_what_int8_costs_the_bundled_model_is_in_its_manifest() -> None:
    lines = list(build._int8_loss(Bundle.load()))
    assert lines
    assert all(line.startswith("int8 on flickr8k dev") and line.endswith(" %)") for line in lines)


def test_the_result_is_told_in_words_and_as_json(tmp_path: Path) -> None:
    paths = {graph: tmp_path / f"{graph}.engine" for graph in ("encoder", "decoder")}
    for path in paths.values():
        path.write_bytes(b"x" * 1_500_000)
    verdict = gate.Verdict(8, {"attention": 0.004}, 0.02, same_captions=7, gaps=[0.01])
    built = Built(
        EnginePair(b"", b"", 1, 3), paths, ("decoder",), {"decoder": Audit({"half": 30, "float": 9})}, verdict, True
    )
    text = "\n".join(build.describe([built], 12.3))
    assert "encoder.engine (1.5 MB, was there)" in text
    assert "39 layers: 30 in half, 9 in float" in text
    assert "7 of 8 captions as in float32, log-probabilities within 0.02" in text
    assert "built in 12 s" in text
    assert json.loads(json.dumps(build.as_json(built)))["gate"]["gaps"] == [0.01]
    assert "nothing to build" in list(build.describe([Built(built.engines, paths, ())], 0.1))


@dataclass
class Terminal(io.StringIO):
    """A stream that says whether it is a terminal."""

    terminal: bool

    def __post_init__(self) -> None:
        super().__init__()

    def isatty(self) -> bool:
        return self.terminal


def test_progress_is_a_line_for_each_phase_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal(terminal=False)
    monkeypatch.setattr(sys, "stderr", stream)
    with build.BuildProgress(show=True) as progress:
        for share in (0.1, 0.2, 0.3):
            progress.show("encoder: Building engine", share)
        progress.show("decoder: building", float("nan"))
    assert stream.getvalue() == "camscribe: encoder: Building engine, 10% (0 s)\ncamscribe: decoder: building (0 s)\n"


def test_progress_is_one_line_on_a_terminal_and_nothing_when_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal(terminal=True)
    monkeypatch.setattr(sys, "stderr", stream)
    with build.BuildProgress(show=True) as progress:
        progress.show("encoder: Building engine", 0.5)
    assert "\n" not in stream.getvalue()
    assert "encoder: Building engine ████████████░░░░░░░░░░░░" in stream.getvalue()
    quiet = Terminal(terminal=True)
    monkeypatch.setattr(sys, "stderr", quiet)
    with build.BuildProgress(show=False) as progress:
        progress.show("encoder", 0.5)
    assert quiet.getvalue() == ""


@pytest.mark.gpu
def test_the_command_builds_a_toys_engines(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt")
    pytest.importorskip("pycuda")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    shutil.copytree(toy_bundle.path, tmp_path / "toy")
    arguments = ["build", str(tmp_path / "toy"), "--precision", "fp32", "--batch", "2", "--beams", "2", "--json"]
    assert main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["built"] == ["encoder", "decoder"]
    assert first["gate"]["same_captions"] == 8
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["built"] == []
