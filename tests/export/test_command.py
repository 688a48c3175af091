"""``camscribe export``: what it refuses, and that nothing is left half written."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from camscribe.export import bundling
from camscribe.export.command import main
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import BundleError, CamscribeError, DataError, EngineError, OptionError

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextmanager
def _files_no_larger_than(count: int) -> Iterator[None]:
    """A disk that is full: writing beyond ``count`` bytes fails. (Python ignores the signal that goes with it.)"""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _report(path: Path) -> Path:
    report = {
        "data": {"scored": 10, "format": "flickr8k", "split": "dev"},
        "quality": {"different": 9, "bad_endings": 0, "stuttered": 0},
        "scores": {"CIDEr": 0.5},
        "tokenizer": "PTB",
        "search": {"beams": 3},
    }
    path.write_text(json.dumps(report))
    return path


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint", b"\x08" + b"\0" * 40])
def test_a_bad_checkpoint_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "best.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        main([str(path), "--out", str(tmp_path / "bundle")])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_decoder_that_repeats_nothing_says_what_the_host_would_let_it(
    checkpoint: Path, bundle: Bundle, tmp_path: Path, size: int
) -> None:
    out = tmp_path / "bundle"
    images = ["--calibration", str(EXAMPLES), "--parity-images", str(EXAMPLES)]
    assert main([str(checkpoint), "--out", str(out), "--no-repeat", str(size), "--no-fp16", "--no-int8", *images]) == 0
    photographs = sorted(EXAMPLES.glob("*.jpg"))
    banned = False
    with (
        Captioner.load(out, "cpu", "float32", 1) as built,
        Captioner.load(bundle.path, "cpu", "float32", 1) as plain,
    ):
        for beams in (1, 3):
            mine = built.caption(photographs, beams=beams, max_words=12)
            theirs = plain.caption(photographs, beams=beams, max_words=12, no_repeat=size)
            assert [caption.words for caption in mine] == [caption.words for caption in theirs]
            assert [caption.score for caption in mine] == pytest.approx([caption.score for caption in theirs])
            free = plain.caption(photographs, beams=beams, max_words=12)
            banned = banned or [caption.words for caption in mine] != [caption.words for caption in free]
    assert banned, "else nothing was there to be said twice"


@pytest.mark.parametrize("size", ["-1", "21"])
def test_a_number_of_words_that_has_no_meaning_is_one_line(checkpoint: Path, tmp_path: Path, size: str) -> None:
    with pytest.raises(OptionError, match=f"--no-repeat is {size}; expected 0 to 20"):
        main([str(checkpoint), "--out", str(tmp_path / "bundle"), "--no-repeat", size])


def test_a_full_disk_leaves_nothing_behind(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    arguments = [str(checkpoint), "--out", str(out), "--no-int8", "--parity-images", str(EXAMPLES)]
    with _files_no_larger_than(1 << 20), pytest.raises(BundleError, match="cannot be written"):
        main(arguments)
    assert list(tmp_path.iterdir()) == []


def test_graphs_that_are_not_pytorchs_model_are_not_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundling, "LARGEST_DISTANCE", -1.0)
    with pytest.raises(EngineError, match="do not do what PyTorch"):
        main([str(checkpoint), "--out", str(tmp_path / "b"), "--no-int8", "--parity-images", str(EXAMPLES)])
    assert list(tmp_path.iterdir()) == []


def test_int8_shares_the_float32_encoder_unless_asked(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    arguments = [str(checkpoint), "--out", str(out), "--calibration", str(EXAMPLES), "--cpu-precision", "int8"]
    assert main([*arguments, "--no-fp16"]) == 0
    bundle = Bundle.load(out)
    assert set(bundle.manifest.precisions) == {"float32", "int8"}
    assert bundle.graph("int8", "encoder") == bundle.graph("float32", "encoder")
    assert bundle.graph("int8", "decoder") != bundle.graph("float32", "decoder")
    assert bundle.manifest.cpu_precision == "int8"


def test_calibration_needs_images(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--calibration"):
        main([str(checkpoint), "--out", str(tmp_path / "b"), "--parity-images", str(EXAMPLES)])


def test_a_folder_of_other_things_is_not_replaced(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_work(*_: object) -> None:
        raise AssertionError("graphs are made for a place that cannot be had")

    monkeypatch.setattr("camscribe.export.bundling.export_graphs", no_work)
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(BundleError, match="is not a bundle"):
        main([str(checkpoint), "--out", str(tmp_path), "--no-int8", "--parity-images", str(EXAMPLES)])
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_measured_quality_is_added_to_a_bundle(bundle: Bundle, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(bundle.path, folder)
    report = _report(tmp_path / "report.json")
    assert main(["--update", str(folder), "--quality", f"int8={report}", "--cpu-precision", "int8"]) == 0
    updated = Bundle.load(folder).manifest
    assert updated.quality["int8"]["flickr8k dev"]["CIDEr"] == 0.5
    assert updated.cpu_precision == "int8"
    assert updated.files == bundle.manifest.files
    with _files_no_larger_than(1 << 16), pytest.raises(BundleError, match="cannot be written"):
        main(["--update", str(folder), "--cpu-precision", "float32"])
    assert Bundle.load(folder).manifest == updated


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--quality", "int8"],
        ["--quality", "int8=missing.json", "--update", "nowhere"],
        ["--update", "nowhere", "--cpu-precision", "int8"],
        ["checkpoint", "--out", "x", "--update", "nowhere"],
        ["checkpoint", "--out", "x", "--renew"],
        ["checkpoint", "--out", "x", "--no-int8", "--cpu-precision", "int8"],
        ["checkpoint", "--out", "x", "--no-int8", "--int8-encoder"],
        ["--update", "nowhere", "--int8-encoder"],
    ],
)
def test_options_without_meaning_are_refused(arguments: list[str]) -> None:
    with pytest.raises(CamscribeError):
        main(arguments)


@pytest.mark.parametrize(
    "option",
    [
        ["--beams", "3"],
        ["--name", "other"],
        ["--no-fp16"],
        ["--stop", "first_k"],
        ["--blend", "0"],
        ["--no-repeat", "0"],
    ],
)
def test_an_update_refuses_what_it_would_leave_undone(option: list[str]) -> None:
    with pytest.raises(OptionError, match=f"^{option[0]} is for a new bundle; --update changes one that is there"):
        main(["--update", "nowhere", *option])


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("variant", ["", "psnr."])
def test_quality_of_graphs_that_are_not_made_is_refused(tmp_path: Path, precision: str, variant: str) -> None:
    quality = f"{variant}{precision}={_report(tmp_path / 'report.json')}"
    with pytest.raises(OptionError, match=f"will hold no {precision} graphs; leave out --no-{precision}, or it"):
        main(["nowhere", "--out", str(tmp_path / "x"), "--quality", quality, f"--no-{precision}"])


def test_an_update_of_nothing_is_refused(bundle: Bundle) -> None:
    with pytest.raises(OptionError, match="--update has nothing to do; give it --quality, "):
        main(["--update", str(bundle.path)])
    with pytest.raises(OptionError, match="--calibration is for graphs that are made; give it --add, "):
        main(["--update", str(bundle.path), "--calibration", str(EXAMPLES)])


def test_blending_takes_a_second_network() -> None:
    with pytest.raises(OptionError, match="--blend mixes in a second network; name its checkpoint with --gan"):
        main(["nowhere", "--out", "x", "--blend", "0.5"])


def test_graphs_that_find_other_boxes_are_refused_and_an_untrained_detector_is_thought_of() -> None:
    figures = {"images": 10, "same_captions": 10, "score": 0.0, "other_boxes": 0.75}
    with pytest.raises(EngineError, match=r"75% of the boxes are others \(as of a detector that was never trained"):
        bundling._refuse(figures)
    bundling._refuse({**figures, "other_boxes": 0.01})
