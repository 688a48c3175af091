"""MATLAB's ``imresize`` with its bicubic kernel, which the published numbers of super-resolution rest on.

It differs from Pillow's and OpenCV's: antialiased when shrinking, a = -0.5, rows before columns, each rounded to
whole levels. Borders are repeated, as by the MATLAB that made the published pairs of Set5; later ones mirror them.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from camscribe.runtime.pixels import Pixels

_SUPPORT = 4.0


def cubic(distance: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Keys' cubic convolution kernel with a = -0.5 (Keys 1981, eq. 15)."""
    x = np.abs(distance.astype(np.float64))
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def resize(image: Pixels, scale: float) -> Pixels:
    """uint8 [h, w, 3] -> [ceil(scale h), ceil(scale w), 3]."""
    rows, columns = (_weights(size, scale) for size in image.shape[:2])
    made = _levels(np.tensordot(rows, image.astype(np.float64), axes=(1, 0)))
    return _levels(np.tensordot(columns, made, axes=(1, 1)).transpose(1, 0, 2))


def _levels(values: npt.NDArray[np.float64]) -> Pixels:
    """As MATLAB does after each axis: halves round up."""
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)


@lru_cache(maxsize=64)
def _weights(size: int, scale: float) -> npt.NDArray[np.float64]:
    """[ceil(scale size), size] weights of one axis."""
    made = math.ceil(size * scale)
    stretch = min(scale, 1.0)
    centers = (np.arange(made) + 0.5) / scale - 0.5
    width = _SUPPORT / stretch
    first = np.floor(centers - width / 2).astype(int)
    taps = first[:, None] + np.arange(math.ceil(width) + 2)[None, :]
    values = stretch * cubic(stretch * (centers[:, None] - taps))
    values /= values.sum(axis=1, keepdims=True)
    taps = np.clip(taps, 0, size - 1)
    weights = np.zeros((made, size))
    np.add.at(weights, (np.arange(made)[:, None], taps), values)
    return weights
