"""Sheets that show enlargements side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from camscribe.runtime.files import write_atomically
from camscribe.runtime.pixels import Pixels
from camscribe.train.superres.patches import Pair
from camscribe.train.superres.resize import resize

_CROP = 160
_GAP = 4
_SHOWN = 4


def sheet(pairs: Sequence[Pair], made: Sequence[Pixels], out: Path) -> None:
    """Draws crops of a few photographs, a row each: bicubic, enlarged, truth.

    Args:
        pairs: photographs and their reduced versions.
        made: the enlargement of each.
        out: the PNG file to write.
    """
    rows = []
    for pair, big in list(zip(pairs, made, strict=True))[:_SHOWN]:
        scale = pair.large.shape[0] // pair.small.shape[0]
        top, left = (max(size - _CROP, 0) // 2 for size in pair.large.shape[:2])
        views = (resize(pair.small, float(scale)), big, pair.large)
        rows.append(beside([view[top : top + _CROP, left : left + _CROP] for view in views], axis=1))
    write_atomically(out, png(beside(rows, axis=0)))


def beside(views: Sequence[Pixels], axis: int) -> Pixels:
    """Joins pictures along an axis, with a white gap; shorter ones are filled with white."""
    across = 1 - axis
    length = max(view.shape[across] for view in views)
    parts: list[Pixels] = []
    for view in views:
        room = [(0, 0), (0, 0), (0, 0)]
        room[across] = (0, length - view.shape[across])
        room[axis] = (_GAP if parts else 0, 0)
        parts.append(np.pad(view, room, constant_values=255))
    return np.concatenate(parts, axis)


def png(image: Pixels) -> bytes:
    """The picture as a PNG file."""
    import io

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()
