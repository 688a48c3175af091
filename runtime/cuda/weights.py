"""``camscribe.runtime.pixels.reduce`` as weights: each pixel of the result is a weighted sum of source pixels.

Every resize is linear and works on rows and columns alike, so a chain of them is one band of weights an axis. What
differs from the CPU is only that nothing is rounded in between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from camscribe.runtime.pixels import PixelSpec, resizes, visible_box

_CUBIC = -0.75
"""The slope of OpenCV's cubic filter."""


@dataclass(frozen=True)
class Band:
    """Weights of one axis: result i is the sum of ``weights[i, j] * source[first[i] + j]``."""

    first: npt.NDArray[np.int32]
    """[n]"""
    weights: npt.NDArray[np.float64]
    """[n, taps]"""


def bands(height: int, width: int, spec: PixelSpec) -> tuple[Band, Band]:
    """Weights of the rows and of the columns that reduce an image of that size."""
    top, left, rows, columns = visible_box(height, width, spec)
    sizes = [rows, columns]
    made = [_identity(rows), _identity(columns)]
    for *size, name in resizes(rows, columns, spec):
        for axis in (0, 1):
            if size[axis] != sizes[axis]:
                made[axis] = _chain(made[axis], *_FILTERS[name](sizes[axis], size[axis]))
                sizes[axis] = size[axis]
    return Band(made[0].first + np.int32(top), made[0].weights), Band(made[1].first + np.int32(left), made[1].weights)


Taps = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""Source indices and weights [n, taps] of each result, in any order."""


def _identity(size: int) -> Band:
    return Band(np.arange(size, dtype=np.int32), np.ones((size, 1)))


def _chain(inner: Band, index: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]) -> Band:
    """The band of a filter on the results of another."""
    count, taps = len(index), inner.weights.shape[1]
    source = (inner.first[index][:, :, None] + np.arange(taps)).reshape(count, -1)
    product = (weights[:, :, None] * inner.weights[index]).reshape(count, -1)
    source = np.where(product == 0, source[:, :1], source)
    first = source.min(axis=1)
    size = int((source.max(axis=1) - first).max()) + 1
    # Every band has the same width; those at the end begin earlier, so that none reads beyond the last source.
    first = np.minimum(first, int(source.max()) + 1 - size)
    band = np.zeros((count, size))
    np.add.at(band, (np.arange(count)[:, None], source - first[:, None]), product)
    return Band(first.astype(np.int32), band)


def _area(source: int, size: int) -> Taps:
    scale = source / size
    begin = np.arange(size)[:, None] * scale
    index = np.floor(begin).astype(np.int64) + np.arange(int(np.ceil(scale)) + 1)
    overlap = np.minimum(index + 1, begin + scale) - np.maximum(index, begin)
    weights = np.where(index < source, np.clip(overlap, 0, None), 0)
    return np.minimum(index, source - 1), weights / weights.sum(axis=1, keepdims=True)


def _linear(source: int, size: int) -> Taps:
    index, rest = _position(source, size)
    return np.clip(index + np.arange(2), 0, source - 1), np.concatenate([1 - rest, rest], axis=1)


def _cubic(source: int, size: int) -> Taps:
    index, rest = _position(source, size)
    distance = np.abs(rest - np.arange(-1, 3))
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    far = _CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    return np.clip(index + np.arange(-1, 3), 0, source - 1), np.where(distance <= 1, near, far)


def _position(source: int, size: int) -> Taps:
    """The source pixel left of each result's centre [n, 1], and how far right of it the centre lies."""
    centre = (np.arange(size)[:, None] + 0.5) * (source / size) - 0.5
    index = np.floor(centre).astype(np.int64)
    return index, centre - index


_FILTERS = {"area": _area, "linear": _linear, "cubic": _cubic}
