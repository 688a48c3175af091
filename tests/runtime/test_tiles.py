"""Tiles: what is kept of the windows covers an image once, and no pixel depends on where they lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camscribe.runtime.errors import OptionError
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.tiles import enlarge, spans

RADIUS = 3


def _network(images: Pixels) -> Pixels:
    """A network of radius 3 that pads with zeros, as convolutions do: a mean over 7 x 7 pixels, then x2."""
    padded = np.pad(images.astype(np.int64), ((0, 0), (RADIUS, RADIUS), (RADIUS, RADIUS), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), axis=(1, 2))
    made: Pixels = (windows.sum(axis=(-2, -1)) // 49).astype(np.uint8)
    return made.repeat(2, axis=1).repeat(2, axis=2)


@given(size=st.integers(1, 400), window=st.integers(1, 120), radius=st.integers(0, 30))
def test_what_is_kept_covers_the_axis_once(size: int, window: int, radius: int) -> None:
    if size > window and window <= 2 * radius:
        with pytest.raises(OptionError, match="overlap"):
            list(spans(size, window, radius))
        return
    found = list(spans(size, window, radius))
    kept = [position for span in found for position in range(span.keep_from, span.keep_to)]
    assert kept == list(range(size))
    for span in found:
        assert 0 <= span.start <= span.keep_from < span.keep_to <= span.stop <= size
        assert span.stop - span.start == min(size, window)
        assert span.start == 0 or span.keep_from - span.start >= radius
        assert span.stop == size or span.stop - span.keep_to >= radius


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    window=st.tuples(st.integers(7, 30), st.integers(7, 30)),
    seed=st.integers(0, 99),
)
def test_tiled_equals_whole(height: int, width: int, window: tuple[int, int], seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    assert np.array_equal(enlarge(image, _network, 2, window, RADIUS), _network(image[None])[0])


def test_too_little_overlap_would_show() -> None:
    image = np.random.default_rng(1).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    assert not np.array_equal(enlarge(image, _network, 2, (16, 16), RADIUS - 1), _network(image[None])[0])
