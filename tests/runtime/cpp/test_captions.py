"""Through its C interface, libcamscribe finds the very captions that Python finds: words, numbers, trace, attention."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camscribe.runtime.bundle import DEFAULT_BUNDLE, Bundle, write_bundle
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.images import read
from camscribe.runtime.onnxruntime_executor import OnnxRuntimeExecutor
from camscribe.runtime.pixels import Pixels, reduce

PRECISIONS = ("int8", "float32")
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"beams": 1},
    {"beams": 5, "nbest": 3, "length_penalty": 0.7},
    {"beams": 4, "nbest": 4, "stop": "first_k", "length_penalty": -0.5, "poll": 3},
    {"max_words": 6, "nbest": 2, "min_words": 5},
    {"ban": ("dog", "man", "red"), "max_words": 30},
)


@pytest.fixture(scope="module")
def examples(repository: Path) -> dict[str, Pixels]:
    return {path.stem: np.ascontiguousarray(read(path)) for path in sorted((repository / "examples").glob("*.jpg"))}


@pytest.fixture(scope="module", params=PRECISIONS)
def both(request: pytest.FixtureRequest, library: Any) -> Iterator[tuple[Any, Captioner]]:
    """C++ and Python on the bundled model."""
    ours = library.load(DEFAULT_BUNDLE, "cpu", request.param)
    with Captioner.load(backend="cpu", precision=request.param) as theirs:
        yield ours, theirs
    ours.close()


def assert_same(found: Any, expected: Any) -> None:
    assert [sentence.words for sentence in found.sentences] == [sentence.words for sentence in expected.hypotheses]
    for ours, theirs in zip(found.sentences, expected.hypotheses, strict=True):
        assert (ours.text, ours.truncated) == (theirs.text, theirs.truncated)
        assert ours.log_prob == pytest.approx(theirs.log_prob, abs=1e-4)
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)
        np.testing.assert_allclose(ours.attention, theirs.attention, atol=1e-5)
    assert (found.boxes is None) == (expected.boxes is None)
    if expected.boxes is not None:
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-6)


def test_photographs_get_the_words_of_python(
    both: tuple[Any, Captioner], examples: dict[str, Pixels], as_image: Callable[..., Any]
) -> None:
    assert len(examples) >= 10
    for image in examples.values():
        assert_same(both[0].caption(as_image(image)), both[1].caption(image, "rgb"))


@pytest.mark.parametrize("options", OPTIONS[1:], ids=lambda options: "-".join(options))
def test_every_option_does_what_it_does_in_python(
    both: tuple[Any, Captioner], examples: dict[str, Pixels], as_image: Callable[..., Any], options: dict[str, Any]
) -> None:
    for name in ("shepherd", "concert", "dune"):
        assert_same(
            both[0].caption(as_image(examples[name]), **options), both[1].caption(examples[name], "rgb", **options)
        )


def test_parity_images_get_the_tokens_of_the_machine_that_exported_them(
    both: tuple[Any, Captioner], as_image: Callable[..., Any]
) -> None:
    bundle = both[1].bundle
    expected = bundle.manifest.parity.tokens[both[1].choice.precision]
    found = [both[0].caption(as_image(image)).sentences[0].tokens for image in bundle.parity_images()]
    assert found == [tuple(tokens) for tokens in expected]


def test_the_trace_is_the_one_of_python(
    library: Any, toy_bundle: Bundle, toy: Any, as_image: Callable[..., Any]
) -> None:
    ours = library.load(toy_bundle.path)
    options = toy_bundle.manifest.search.override(beams=4, nbest=2)
    executor = OnnxRuntimeExecutor(toy_bundle, "float32", "cpu", 1)
    for image in toy.images(5):
        found = ours.caption(as_image(image), beams=4, nbest=2).trace
        executor.encode(image[None], options, toy_bundle.vocabulary.bias(options.ban))
        for _ in range(len(found["token"])):
            executor.step()
        expected = executor.trace(attention=True)
        for name in ("token", "parent", "ended_parent"):
            np.testing.assert_array_equal(found[name], getattr(expected, name)[:, 0])
        for name in ("score", "ended_score", "attention"):
            np.testing.assert_allclose(found[name], getattr(expected, name)[:, 0], rtol=1e-5, atol=1e-5)
    executor.close()
    ours.close()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_captioner_that_attends_to_boxes_captions(
    library: Any,
    boxes_bundle: Bundle,
    boxes_toy: Any,
    default_with_boxes: Bundle,
    examples: dict[str, Pixels],
    as_image: Callable[..., Any],
    precision: str,
    tmp_path: Path,
) -> None:
    toys = [np.ascontiguousarray(image) for image in boxes_toy.images(6)]
    cropping = tmp_path / "crop"
    with write_bundle(cropping) as draft:
        for name in ("encoder.onnx", "decoder.onnx"):
            shutil.copy(boxes_bundle.path / name, draft.folder)
        manifest = boxes_bundle.manifest
        draft.finish(replace(manifest, pixels=replace(manifest.pixels, fit="crop")), boxes_bundle.vocabulary)
    wide = np.random.default_rng(0).integers(0, 256, (20, 50, 3), np.uint8)
    for path, taken, images in (
        (boxes_bundle.path, "float32", toys),
        (cropping, "float32", [wide, np.ascontiguousarray(wide.transpose(1, 0, 2)), toys[0]]),
        (default_with_boxes.path, precision, list(examples.values())[:3]),
    ):
        ours = library.load(path, "cpu", taken)
        with Captioner.load(path, backend="cpu", precision=taken) as theirs:
            columns = theirs.bundle.manifest.attention_grid[1]
            assert (ours.info().rows, ours.info().columns) == (1, columns)
            for image in images:
                found, expected = ours.caption(as_image(image), nbest=2), theirs.caption(image, "rgb", nbest=2)
                assert_same(found, expected)
                assert found.sentences[0].attention.shape == (len(expected.words), 1, columns)
        ours.close()


def test_every_format_and_stride_gives_the_words_of_python(
    library: Any, examples: dict[str, Pixels], as_image: Callable[..., Any]
) -> None:
    cv2 = pytest.importorskip("cv2")
    rgb = examples["two_dogs"][:256, :320]
    padded = np.zeros((256, 400, 3), np.uint8)
    padded[:, :320] = rgb
    i420 = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2YUV_I420)
    chroma = np.ascontiguousarray(i420[256:].reshape(2, 128, 160).transpose(1, 2, 0)).reshape(128, 320)
    nv12 = np.concatenate([i420[:256], chroma])
    grey = np.ascontiguousarray(rgb[:, :, 1])
    bgr = np.ascontiguousarray(rgb[:, :, ::-1])
    apart = np.zeros((128, 512), np.uint8)  # chroma in a place of its own, with a stride of its own
    apart[:, :320] = chroma
    two = as_image(nv12, "nv12", chroma=apart.ctypes.data, chroma_stride=512)
    ours = library.load(DEFAULT_BUNDLE)
    with Captioner.load(backend="cpu") as theirs:
        assert_same(ours.caption(as_image(padded, width=320)), theirs.caption(np.ascontiguousarray(rgb), "rgb"))
        assert_same(ours.caption(as_image(bgr, "bgr")), theirs.caption(bgr, "bgr"))
        assert_same(ours.caption(as_image(grey, "grey")), theirs.caption(grey))
        assert_same(ours.caption(as_image(nv12, "nv12")), theirs.caption(nv12, "nv12"))
        assert_same(ours.caption(two), theirs.caption(nv12, "nv12"))
    ours.close()


def test_many_threads_may_share_one_captioner(
    library: Any, examples: dict[str, Pixels], as_image: Callable[..., Any]
) -> None:
    ours = library.load(DEFAULT_BUNDLE)
    names = sorted(examples)[:4]
    alone = {name: ours.caption(as_image(examples[name]), beams=2).sentences[0].text for name in names}
    found: dict[int, list[str]] = {}

    def work(index: int) -> None:
        order = names[index:] + names[:index]
        found[index] = [ours.caption(as_image(examples[name]), beams=2).sentences[0].text for name in order]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ours.close()
    assert found == {index: [alone[name] for name in names[index:] + names[:index]] for index in range(4)}


def test_what_was_loaded_can_be_asked(library: Any, toy_bundle: Bundle) -> None:
    ours = library.load(toy_bundle.path, "auto")
    info = ours.info()
    manifest = toy_bundle.manifest
    assert (info.name, info.backend, info.precision) == (b"toy", b"cpu", b"float32")
    assert b"tensorrt: " in info.reasons
    assert info.onnxruntime.count(b".") == 2
    assert (info.width, info.height, info.vocabulary_size) == (
        manifest.pixels.width,
        manifest.pixels.height,
        manifest.vocabulary_size,
    )
    assert (info.rows, info.columns) == manifest.attention_grid
    assert (info.beams, info.max_words) == (manifest.search.beams, manifest.search.max_words)
    words = [library.c.camscribe_captioner_word(ours.handle, index) for index in range(manifest.vocabulary_size)]
    assert tuple(word.decode() for word in words) == toy_bundle.vocabulary.tokens
    assert library.c.camscribe_captioner_word(ours.handle, manifest.vocabulary_size) is None
    ours.close()


def test_an_image_of_the_encoder_s_size_is_taken_as_it_is(
    library: Any, examples: dict[str, Pixels], as_image: Callable[..., Any]
) -> None:
    ours = library.load(DEFAULT_BUNDLE, precision="float32")
    spec = Bundle.load().manifest.pixels
    image = examples["car"]
    reduced = np.ascontiguousarray(reduce(image, spec))
    first, second = (ours.caption(as_image(pixels)).sentences[0] for pixels in (image, reduced))
    assert (first.tokens, first.log_prob) == (second.tokens, second.log_prob)
    ours.close()
