"""Pictures with captions and attention strips."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.caption import Caption, Sentence, Timings
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.draw import caption_sheet, encode_jpeg
from camscribe.runtime.pixels import PixelSpec

SPEC = PixelSpec(64, 64)


def caption(words: str, attention: np.ndarray | None = None) -> Caption:
    split = tuple(words.split())
    weights = np.full((len(split), 4, 4), 1 / 16, np.float32) if attention is None else attention
    return Caption((Sentence(words, split, -3.0, -1.0, False, weights),), Timings(1, 1, 1, 1, 1))


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (3000, 4000), (480, 640), (900, 300), (1, 5000), (5000, 1)])
@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_photographs_of_any_size_make_a_sheet_of_a_sensible_size(
    size: tuple[int, int], attention: bool, fit: str
) -> None:
    spec = PixelSpec(64, 48, fit=fit)  # type: ignore[arg-type]
    sheet = caption_sheet(photo(*size), caption("a dog runs through the tall grass"), spec, attention=attention)
    assert sheet.width == 800
    assert 80 <= sheet.height <= 1400


@pytest.mark.parametrize("words", ["", "a", "word " * 60, "w" * 300])
def test_captions_of_any_length_are_drawn(words: str) -> None:
    sheet = caption_sheet(photo(48, 64), caption(words), SPEC, attention=True)
    assert sheet.height > caption_sheet(photo(48, 64), caption(""), SPEC, attention=False).height - 1


def test_each_word_has_its_tile_lit_where_the_model_looked() -> None:
    weights = np.zeros((2, 4, 4), np.float32)
    weights[0, 0, 0] = weights[1, 3, 3] = 1
    black = np.zeros((64, 64, 3), np.uint8)
    dark = np.asarray(caption_sheet(black, caption("left right", weights * 0), SPEC, attention=True)).astype(int)
    lit = np.asarray(caption_sheet(black, caption("left right", weights), SPEC, attention=True)).astype(int)
    changed = np.abs(lit - dark).sum(axis=2) > 100
    rows, columns = np.nonzero(changed)
    half = lit.shape[1] // 2
    assert rows[columns < half].mean() < rows[columns >= half].mean() - 50


def test_a_real_caption_makes_a_jpeg(toy_bundle: Bundle, toy: Any) -> None:
    with Captioner.load(toy_bundle.path, backend="cpu", threads=1) as captioner:
        found = captioner.caption(toy.images(1)[0], color="rgb", min_words=3)
    content = encode_jpeg(caption_sheet(toy.images(1)[0], found, toy_bundle.manifest.pixels, attention=True))
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "JPEG"
        image.load()
