"""What libcamscribe refuses, and how: a status, one line, and nothing else happens."""

from __future__ import annotations

import ctypes
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camscribe.runtime.bundle import Bundle

ARGUMENT, BUNDLE, ENGINE, NO_ENGINE, OPTION, SOURCE = range(1, 7)


@pytest.fixture
def copy(toy_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_bundle.path, tmp_path / "copy"))


@pytest.fixture(scope="module")
def captioner(library: Any, toy_bundle: Bundle) -> Any:
    return library.load(toy_bundle.path)


@pytest.fixture
def image(toy: Any) -> np.ndarray:
    return np.ascontiguousarray(toy.images(1)[0])


def assert_refused(refused: type[Exception], status: int, words: str, work: Callable[[], object]) -> None:
    with pytest.raises(refused) as caught:
        work()
    assert (caught.value.status, words in str(caught.value)) == (status, True), str(caught.value)  # type: ignore[attr-defined]
    assert "\n" not in str(caught.value)


def edit(folder: Path, change: Callable[[Any], None]) -> None:
    manifest = json.loads((folder / "bundle.json").read_text())
    change(manifest)
    (folder / "bundle.json").write_text(json.dumps(manifest))


def damage(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


BUNDLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "no such bundle folder"),
    "no manifest": (lambda folder: (folder / "bundle.json").unlink(), "it has no bundle.json"),
    "no graph": (lambda folder: (folder / "decoder.onnx").unlink(), "decoder.onnx is missing"),
    "altered graph": (lambda folder: damage(folder, "encoder.onnx"), "encoder.onnx is altered"),
    "altered words": (lambda folder: damage(folder, "vocab.txt"), "vocab.txt is altered"),
    "longer graph": (lambda folder: lengthen(folder / "decoder.onnx"), "bytes; expected"),
    "not JSON": (lambda folder: (folder / "bundle.json").write_text('{"schema": 1,'), "is not valid JSON"),
    "newer schema": (lambda folder: edit(folder, lambda it: it.update(schema=2)), "upgrade camscribe"),
    "no schema": (lambda folder: edit(folder, lambda it: it.pop("schema")), "has no schema version"),
    "unknown field": (lambda folder: edit(folder, lambda it: it.update(extra=1)), "manifest.extra is unknown"),
    "outside": (
        lambda folder: edit(folder, lambda it: it["files"].update({"../x": it["files"]["vocab.txt"]})),
        "plain",
    ),
}


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_that_cannot_be_used(library: Any, refused: type[Exception], copy: Path, name: str) -> None:
    change, words = BUNDLES[name]
    change(copy)
    assert_refused(refused, BUNDLE, words, lambda: library.load(copy))


def test_everything_wrong_with_a_bundle_is_told_at_once(library: Any, refused: type[Exception], copy: Path) -> None:
    (copy / "decoder.onnx").unlink()
    damage(copy, "vocab.txt")
    assert_refused(refused, BUNDLE, "decoder.onnx is missing; vocab.txt is altered", lambda: library.load(copy))


def test_ways_to_load_that_have_no_meaning(library: Any, refused: type[Exception], toy_bundle: Bundle) -> None:
    path = toy_bundle.path
    assert_refused(refused, OPTION, "expected auto, cpu or tensorrt", lambda: library.load(path, "gpu"))
    assert_refused(refused, OPTION, "bundle 'toy' has float32", lambda: library.load(path, precision="int4"))
    assert_refused(refused, OPTION, "threads is -1", lambda: library.load(path, threads=-1))
    assert_refused(refused, ENGINE, "compiled without TensorRT", lambda: library.load(path, "tensorrt"))


IMAGES: dict[str, tuple[dict[str, Any], str]] = {
    "no pixels": ({"width": 0}, "0 x 16 pixels; expected at least one"),
    "negative": ({"height": -4}, "16 x -4 pixels"),
    "null": ({"data": None}, "the pointer is null"),
    "short stride": ({"stride": 47}, "a stride of 47 bytes; expected at least 48 for 16 pixels"),
    "unknown format": ({"format": 9}, "image has format 9"),
    "too large": ({"width": 1 << 20, "height": 1 << 20, "stride": 0}, "at most 89478485"),
    "odd NV12": ({"format": 4, "width": 15}, "even sides"),
    "chroma": ({"chroma": 1}, "for NV12 only"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_is_none(
    captioner: Any, refused: type[Exception], as_image: Callable[..., Any], image: np.ndarray, name: str
) -> None:
    members, words = IMAGES[name]
    assert_refused(refused, SOURCE, words, lambda: captioner.caption(as_image(image, **members)))
    assert captioner.caption(as_image(image)).sentences


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "beams": ({"beams": 0}, "beams is 0; expected 1 to 64"),
    "nbest": ({"beams": 2, "nbest": 3}, "raise beams or lower nbest"),
    "min_words": ({"min_words": 8}, "min_words is 8; expected 0 to max_words - 1 = 7"),
    "penalty": ({"length_penalty": float("nan")}, "length_penalty is nan"),
    "stop": ({"length_penalty": -1.0}, "stop 'optimal' needs"),
    "poll": ({"poll": 9}, "poll is 9"),
    "ban": ({"ban": ("xyzzy",)}, "ban has 'xyzzy', which is not a word of this model"),
    "no word left": (
        {"ban": tuple(f"word{index}" for index in range(4, 12)), "min_words": 1},
        "no caption is possible: 9 banned words",
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_without_a_meaning(
    captioner: Any, refused: type[Exception], as_image: Callable[..., Any], image: np.ndarray, name: str
) -> None:
    changes, words = OPTIONS[name]
    assert_refused(refused, OPTION, words, lambda: captioner.caption(as_image(image), **changes))


def test_null_pointers_are_refused(
    library: Any, captioner: Any, as_image: Callable[..., Any], image: np.ndarray
) -> None:
    c, given, out = library.c, as_image(image), ctypes.c_void_p()
    for status in (
        c.camscribe_captioner_load(None, None, ctypes.byref(out)),
        c.camscribe_captioner_load(b"x", None, None),
        c.camscribe_captioner_info(captioner.handle, None),
        c.camscribe_captioner_info(None, None),
        c.camscribe_caption_image(None, ctypes.byref(given), None, ctypes.byref(out)),
        c.camscribe_caption_image(captioner.handle, None, None, ctypes.byref(out)),
        c.camscribe_caption_image(captioner.handle, ctypes.byref(given), None, None),
        c.camscribe_caption_hypothesis(None, 0, None),
        c.camscribe_caption_trace(None, None),
        c.camscribe_caption_timings(None, None),
    ):
        assert status == ARGUMENT
        assert b"is a null pointer" in c.camscribe_last_error()
    assert c.camscribe_caption_count(None) == 0
    assert c.camscribe_captioner_word(None, 0) is None
    c.camscribe_captioner_free(None)
    c.camscribe_caption_free(None)
    assert out.value is None


def test_structs_of_other_versions(
    library: Any, captioner: Any, as_image: Callable[..., Any], image: np.ndarray
) -> None:
    c, out = library.c, ctypes.c_void_p()

    def caption(struct: ctypes.Structure) -> int:
        status: int = c.camscribe_caption_image(captioner.handle, ctypes.byref(struct), None, ctypes.byref(out))
        return status

    plain = as_image(image)

    class Newer(ctypes.Structure):
        _fields_ = (("old", type(plain)), ("more", ctypes.c_int64))

    newer = Newer(old=plain)
    newer.old.size = ctypes.sizeof(Newer)
    assert caption(newer) == 0  # what is new is not used
    c.camscribe_caption_free(out)
    newer.more = 1
    assert caption(newer) == ARGUMENT
    assert b"use a newer one" in c.camscribe_last_error()
    for size in (0, 8, 1 << 40):
        plain.size = size
        assert caption(plain) == ARGUMENT
        assert b"camscribe_image.size is" in c.camscribe_last_error()


def test_a_message_belongs_to_the_thread_that_failed(library: Any) -> None:
    import threading

    library.c.camscribe_captioner_load(None, None, None)
    heard: list[bytes] = []
    thread = threading.Thread(target=lambda: heard.append(library.c.camscribe_last_error()))
    thread.start()
    thread.join()
    assert heard == [b""]
    assert library.c.camscribe_last_error()
