"""Captioners that attend to boxes: from the encoder through every executor to captions, JSON and pictures."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from camscribe.runtime.bundle import Bundle, write_bundle
from camscribe.runtime.caption import Caption, Sentence, Timings
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.cli import main
from camscribe.runtime.draw import caption_sheet
from camscribe.runtime.errors import EngineError, NoEngineError
from camscribe.runtime.executor import Executor
from camscribe.runtime.fallback import FallbackExecutor
from camscribe.runtime.guided.ensemble import EnsembleExecutor
from camscribe.runtime.onnxruntime_executor import OnnxRuntimeExecutor
from camscribe.runtime.pixels import PixelSpec, in_whole_image, visible_box
from camscribe.runtime.search import SearchOptions

OPTIONS = SearchOptions(beams=3, max_words=8, nbest=2)


@pytest.fixture(scope="module")
def captioner(boxes_bundle: Bundle) -> Iterator[Captioner]:
    with Captioner.load(boxes_bundle.path, backend="cpu", threads=1) as loaded:
        yield loaded


def encoded(bundle: Bundle, images: np.ndarray) -> np.ndarray:
    """What the encoder says by itself."""
    path = str(bundle.graph("float32", "encoder"))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (boxes,) = session.run(["boxes"], {"image": images})
    return np.asarray(boxes)


def executors(bundle: Bundle) -> Iterator[tuple[str, Executor]]:
    def plain() -> OnnxRuntimeExecutor:
        return OnnxRuntimeExecutor(bundle, "float32", "cpu", 1)

    class NoEngines(OnnxRuntimeExecutor):
        def encode(self, images: Any, options: SearchOptions, bias: Any) -> None:
            raise NoEngineError("there are no engines")

    yield "onnxruntime", plain()
    yield "fallback, first", FallbackExecutor(plain(), plain)
    yield "fallback, second", FallbackExecutor(NoEngines(bundle, "float32", "cpu", 1), plain)
    yield "ensemble", EnsembleExecutor([plain(), plain()], bundle.vocabulary.end_id)


def test_every_executor_hands_out_the_boxes_of_the_images_encoded_last(
    boxes_bundle: Bundle, boxes_toy: Any, toy_bundle: Bundle, toy: Any
) -> None:
    bias = boxes_bundle.vocabulary.bias()
    for name, executor in executors(boxes_bundle):
        for count in (4, 1, 3):
            images = boxes_toy.images(count, seed=count)
            executor.encode(images, OPTIONS, bias)
            found = executor.boxes()
            assert found is not None
            assert (found.dtype, found.shape) == (np.float32, (count, 5, 4)), name
            np.testing.assert_array_equal(found, encoded(boxes_bundle, images), name)
        executor.close()
    for name, executor in executors(toy_bundle):
        executor.encode(toy.images(2), OPTIONS, toy_bundle.vocabulary.bias())
        assert executor.boxes() is None, name
        executor.close()


def test_boxes_before_an_encode_are_refused(boxes_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="boxes was called without encode"):
        OnnxRuntimeExecutor(boxes_bundle, "float32", "cpu", 1).boxes()


def test_captions_have_boxes_and_an_attention_on_them(captioner: Captioner, boxes_toy: Any) -> None:
    images = list(boxes_toy.images(24))
    captions = captioner.caption(images, color="rgb", nbest=2)
    kept = set()
    for caption, wanted in zip(captions, encoded(captioner.bundle, np.stack(images)), strict=True):
        assert caption.boxes is not None
        np.testing.assert_array_equal(caption.boxes, wanted)
        np.testing.assert_array_equal(caption.boxes[0], [0, 0, 1, 1])
        padding = ~caption.boxes.any(axis=1)
        kept.add(int((~padding).sum()))
        for item in caption.hypotheses:
            assert item.attention.shape == (len(item.words), 1, 5)
            np.testing.assert_allclose(item.attention.sum(axis=(1, 2)), 1, atol=1e-5)
            assert not item.attention[:, 0, padding].any()
    assert len(kept) > 1  # images differ in how many are found, or this shows little


def test_an_image_alone_has_the_boxes_it_has_in_a_batch(captioner: Captioner, boxes_toy: Any) -> None:
    images = list(boxes_toy.images(5))
    together = captioner.caption(images, color="rgb", batch=5)
    for image, caption in zip(images, together, strict=True):
        alone = captioner.caption(image, color="rgb")
        np.testing.assert_array_equal(alone.boxes, caption.boxes)  # type: ignore[arg-type]
        assert alone.words == caption.words


def test_boxes_outlive_the_next_search(captioner: Captioner, boxes_toy: Any) -> None:
    first, second = boxes_toy.images(2)
    caption = captioner.caption(first, color="rgb")
    assert caption.boxes is not None
    before = caption.boxes.copy()
    captioner.caption(second, color="rgb")
    np.testing.assert_array_equal(caption.boxes, before)


def test_guided_searches_and_ensembles_have_boxes(boxes_bundle: Bundle, captioner: Captioner, boxes_toy: Any) -> None:
    image = boxes_toy.images(1)[0]
    plain = captioner.caption(image, color="rgb").boxes
    guided = captioner.caption(image, color="rgb", no_repeat=2)
    np.testing.assert_array_equal(guided.boxes, plain)  # type: ignore[arg-type]
    with Captioner.load([boxes_bundle.path, boxes_bundle.path], backend="cpu", threads=1) as ensemble:
        np.testing.assert_array_equal(ensemble.caption(image, color="rgb").boxes, plain)  # type: ignore[arg-type]


# --- Whole images


def test_boxes_of_a_cropped_image_are_those_of_the_whole_image(
    boxes_bundle: Bundle, boxes_toy: Any, tmp_path: Path
) -> None:
    with write_bundle(tmp_path / "crop") as draft:
        for name in ("encoder.onnx", "decoder.onnx"):
            (draft.folder / name).write_bytes((boxes_bundle.path / name).read_bytes())
        manifest = boxes_bundle.manifest
        draft.finish(replace(manifest, pixels=replace(manifest.pixels, fit="crop")), boxes_bundle.vocabulary)
    side = boxes_toy.side
    centre = boxes_toy.images(1)[0]
    wide, tall = np.zeros((side, 2 * side, 3), np.uint8), np.zeros((4 * side, side, 3), np.uint8)
    wide[:, side // 2 : side // 2 + side] = centre
    tall[side * 3 // 2 : side * 5 // 2] = centre
    with Captioner.load(tmp_path / "crop", backend="cpu", threads=1) as cropping:
        alone, across, down = cropping.caption([centre, wide, tall], color="rgb")
    assert alone.words == across.words == down.words
    found, padding = encoded(boxes_bundle, centre[None])[0], np.zeros(4, np.float32)
    np.testing.assert_allclose(alone.boxes, found)  # type: ignore[arg-type]
    for row, boxes in enumerate(found):
        left, top, right, bottom = boxes.tolist()
        expected = [
            [left / 2 + 0.25, top, right / 2 + 0.25, bottom],
            [left, top / 4 + 0.375, right, bottom / 4 + 0.375],
        ]
        for caption, wanted in zip((across, down), expected, strict=True):
            assert caption.boxes is not None
            np.testing.assert_allclose(caption.boxes[row], wanted if boxes.any() else padding, atol=1e-6)


@given(
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    spec=st.builds(PixelSpec, st.integers(8, 640), st.integers(8, 640), st.sampled_from(["squash", "crop"])),
)
def test_the_first_box_is_what_the_model_sees_and_no_box_leaves_the_image(
    size: tuple[int, int], spec: PixelSpec
) -> None:
    boxes = np.array([[0, 0, 1, 1], [0.25, 0.5, 0.75, 1], [0, 0, 0, 0]], np.float32)
    found = in_whole_image(boxes, *size, spec)
    top, left, rows, columns = visible_box(*size, spec)
    corners = found[0] * np.array([size[1], size[0]] * 2)
    np.testing.assert_allclose(corners, [left, top, left + columns, top + rows], rtol=1e-5, atol=1e-3)
    assert found.dtype == np.float32
    assert (found >= 0).all()
    assert (found <= 1 + 1e-6).all()
    assert not found[2].any()


# --- What people see


def made_caption(words: str, boxes: list[list[float]], weights: list[list[float]]) -> Caption:
    split = tuple(words.split())
    attention = np.array(weights, np.float32).reshape(len(split), 1, len(boxes))
    sentence = Sentence(words, split, -3.0, -1.0, False, attention)
    return Caption((sentence,), Timings(1, 1, 1, 1, 1), np.array(boxes, np.float32))


def test_json_has_the_boxes_beside_the_attention(captioner: Captioner, boxes_toy: Any) -> None:
    caption = captioner.caption(boxes_toy.images(1)[0], color="rgb")
    assert "boxes" not in caption.to_dict()
    entry = json.loads(json.dumps(caption.to_dict(attention=True)))
    np.testing.assert_allclose(entry["boxes"], caption.boxes, atol=1e-5)
    assert np.array(entry["attention"]).shape == (len(caption.words), 1, 5)


def test_pictures_show_the_boxes_with_the_most_weight() -> None:
    photo = np.zeros((120, 120, 3), np.uint8)
    photo[...] = 40, 160, 90  # of a colour, so that what is grey shows
    boxes = [[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0, 0, 0]]
    caption = made_caption("left right", boxes, [[0, 1, 0, 0], [0, 0, 1, 0]])
    spec = PixelSpec(64, 64)
    plain = np.asarray(caption_sheet(photo, caption, spec, attention=False)).astype(int)
    sheet = np.asarray(caption_sheet(photo, caption, spec, attention=True)).astype(int)[plain.shape[0] - 20 :]
    green = (np.abs(sheet - [40, 160, 90]).max(axis=2) < 6).nonzero()
    half = sheet.shape[1] // 2
    left, right = green[1] < half, green[1] >= half
    for side in (left, right):
        assert side.sum() > 70 * 70  # a quarter of a tile, inside its outline
        for axis in (0, 1):
            assert np.ptp(green[axis][side]) < 100  # and of that alone
    assert green[0][left].max() <= green[0][right].min()
    hot = ((sheet[..., 0] > 200) & (sheet[..., 1] > 180) & (sheet[..., 2] < 200)).nonzero()
    assert hot[0].size > 300  # the outlines, yellow where the weight is greatest


def test_an_attention_that_is_on_no_box_and_boxes_of_any_size_are_drawn() -> None:
    photo = np.full((30, 50, 3), 100, np.uint8)
    boxes = [[0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5], [0.9999, 0.9999, 1, 1], [0.2, 0.2, 0.21, 0.9], [0, 0, 0, 0]]
    for weights in ([0, 0, 0, 0, 0], [0.2] * 5, [1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]):
        caption = made_caption("word", boxes, [weights])
        assert caption_sheet(photo, caption, PixelSpec(64, 64), attention=True).width == 800
    assert caption_sheet(photo, made_caption("", boxes, []), PixelSpec(64, 64), attention=True).width == 800


def run(*arguments: object) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([str(each) for each in arguments]) == 0
    return out.getvalue()


def test_the_command_draws_boxes_and_prints_them(default_with_boxes: Bundle, repository: Path, tmp_path: Path) -> None:
    photo = repository / "examples" / "two_dogs.jpg"
    arguments = ("caption", photo, "--backend", "cpu", "--json", "--attention", "--out")
    entry = json.loads(run(*arguments, tmp_path / "boxes", "--bundle", default_with_boxes.path))
    grid = json.loads(run(*arguments, tmp_path / "grid"))
    assert entry["caption"] == grid["caption"]
    assert "boxes" not in grid
    np.testing.assert_array_equal(entry["boxes"][0], [0, 0, 1, 1])
    assert np.array(entry["boxes"]).shape == (64, 4)
    np.testing.assert_allclose(np.ravel(entry["attention"]), np.ravel(grid["attention"]), atol=1e-5)
    sizes = []
    for name in ("boxes", "grid"):
        with Image.open(tmp_path / name / "two_dogs.caption.jpg") as picture:
            sizes.append(picture.size)
    assert sizes[0] != sizes[1]


def test_info_counts_boxes(boxes_bundle: Bundle, toy_bundle: Bundle) -> None:
    assert "\nattention      5 boxes\n" in run("info", boxes_bundle.path)
    assert "\nattention      2 x 2 cells\n" in run("info", toy_bundle.path)
