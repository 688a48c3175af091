"""Cuts images of any size into windows that a network can take, so that what is put together shows no seams.

A pixel's result depends on the pixels within the network's radius. So windows overlap by twice the radius, of each only
what lies a radius within is kept, and at the image's own borders the window has the same border: every pixel is then
computed from the same numbers as without tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from camscribe.runtime.errors import OptionError
from camscribe.runtime.pixels import Pixels


class Span(NamedTuple):
    """One window along one axis, in pixels of the small image."""

    start: int
    stop: int
    keep_from: int
    keep_to: int
    """What is kept of the window, in coordinates of the image."""


def spans(size: int, window: int, radius: int) -> Iterator[Span]:
    """Windows along an axis. All are ``window`` long where the axis is; what they keep covers it once.

    Raises:
        OptionError: nothing would be left of a window.
    """
    if size <= window:
        yield Span(0, size, 0, size)
        return
    if window <= 2 * radius:
        raise OptionError(f"tile is {window} pixels; expected more than {2 * radius}, the overlap of two tiles")
    start = kept = 0
    while kept < size:
        stop = min(start + window, size)
        keep_to = size if stop == size else stop - radius
        yield Span(stop - window, stop, kept, keep_to)
        kept = keep_to
        start = kept - radius


def enlarge(image: Pixels, run: Callable[[Pixels], Pixels], scale: int, window: tuple[int, int], radius: int) -> Pixels:
    """Enlarges an image window by window.

    Args:
        image: uint8 [h, w, 3].
        run: uint8 [1, h, w, 3] -> [1, scale h, scale w, 3], of at most ``window`` rows and columns.
        scale: enlargement in each axis.
        window: rows and columns that ``run`` takes at most.
        radius: see the module.

    Returns:
        uint8 [scale h, scale w, 3].
    """
    height, width = image.shape[:2]
    if height <= window[0] and width <= window[1]:
        whole: Pixels = run(image[None])[0]
        return whole
    made: Pixels = np.empty((height * scale, width * scale, 3), np.uint8)
    for rows in spans(height, window[0], radius):
        for columns in spans(width, window[1], radius):
            tile = run(np.ascontiguousarray(image[None, rows.start : rows.stop, columns.start : columns.stop]))[0]
            made[_scaled(rows.keep_from, rows.keep_to, scale), _scaled(columns.keep_from, columns.keep_to, scale)] = (
                tile[
                    _scaled(rows.keep_from - rows.start, rows.keep_to - rows.start, scale),
                    _scaled(columns.keep_from - columns.start, columns.keep_to - columns.start, scale),
                ]
            )
    return made


def _scaled(start: int, stop: int, scale: int) -> slice:
    return slice(start * scale, stop * scale)
