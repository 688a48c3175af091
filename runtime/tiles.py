"""Cuts images of any size into windows that a network can take, so that what is put together shows no seams.

A pixel's result depends on the pixels within the network's radius. So windows overlap by twice the radius, of each only
what lies a radius within is kept, and at the image's own borders the window has the same border: every pixel is then
computed from the same numbers as without tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np

from camscribe.runtime.errors import BundleError, OptionError
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


Stage = Callable[[str], AbstractContextManager[object]]
"""Told in whose block what happens: ``tiling``, ``graph`` or ``stitching``."""


def enlarge(
    image: Pixels,
    run: Callable[[Pixels], Pixels],
    scale: int,
    window: tuple[int, int],
    radius: int,
    stage: Stage = lambda name: nullcontext(),
) -> Pixels:
    """Enlarges an image window by window.

    Args:
        image: uint8 [h, w, 3].
        run: uint8 [1, h, w, 3] -> [1, scale h, scale w, 3], of at most ``window`` rows and columns.
        scale: enlargement in each axis.
        window: rows and columns that ``run`` takes at most.
        radius: see the module.
        stage: for benchmarks.

    Returns:
        uint8 [scale h, scale w, 3].

    Raises:
        BundleError: ``run`` enlarges by another scale.
    """
    height, width = image.shape[:2]
    if height <= window[0] and width <= window[1]:
        with stage("graph"):
            return _enlarged(run, image[None], scale)
    made: Pixels = np.empty((height * scale, width * scale, 3), np.uint8)
    for rows in spans(height, window[0], radius):
        for columns in spans(width, window[1], radius):
            with stage("tiling"):
                cut = np.ascontiguousarray(image[None, rows.start : rows.stop, columns.start : columns.stop])
            with stage("graph"):
                tile = _enlarged(run, cut, scale)
            with stage("stitching"):
                kept = tile[_kept(rows, rows.start, scale), _kept(columns, columns.start, scale)]
                made[_kept(rows, 0, scale), _kept(columns, 0, scale)] = kept
    return made


def _enlarged(run: Callable[[Pixels], Pixels], images: Pixels, scale: int) -> Pixels:
    """What a network makes of one image; one of another scale must not pass as a picture."""
    made = run(images)
    expected = (1, images.shape[1] * scale, images.shape[2] * scale, 3)
    if made.shape != expected:
        raise BundleError(
            f"the network enlarges {images.shape[2]} x {images.shape[1]} pixels to {made.shape[2]} x {made.shape[1]}, "
            f"its bundle says x{scale}: fetch or export the bundle again"
        )
    return made[0]  # type: ignore[no-any-return]


def _kept(span: Span, origin: int, scale: int) -> slice:
    """What is kept of a window, in enlarged pixels from an origin on."""
    return slice((span.keep_from - origin) * scale, (span.keep_to - origin) * scale)
