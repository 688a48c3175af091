"""Boxes of two encoders in one order, so that what they say of each can be compared.

Of two boxes that score nearly alike another precision may well put the other one first, or drop one at the threshold.
The decoder attends to a set, so neither matters to it, as far as the boxes are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from camscribe.runtime.manifest import BOXES, TensorSpec
from camscribe.runtime.search import Floats

SAME = 0.8
"""Boxes that overlap by so much (intersection over union) count as the same."""
ALIKE = 1e-4
"""Corners that are no further apart, as fractions of the image, are the same."""


def align(
    outputs: Sequence[TensorSpec],
    positions: int,
    mine: Mapping[str, npt.NDArray[Any]],
    theirs: Mapping[str, npt.NDArray[Any]],
) -> tuple[dict[str, npt.NDArray[Any]], int]:
    """Brings the outputs of an encoder into the order of another one's boxes.

    Args:
        outputs: of the encoder.
        positions: P.
        mine: what gives the order, ``boxes`` among it.
        theirs: to be brought into it.

    Returns:
        ``theirs`` in that order, and how many boxes have no counterpart. Where there is none it has what ``mine`` has,
        in the types of ``theirs``; so have, for such an image, the outputs that are not about single positions.
    """
    order, same = match(mine[BOXES], theirs[BOXES])
    made = {}
    for spec in outputs:
        reference, found = mine[spec.name], theirs[spec.name]
        axis = next((at for at, size in enumerate(spec.shape) if at and size in ("P", positions)), None)
        if spec.name.startswith("state.") or axis is None:
            whole = same.all(axis=1).reshape(-1, *[1] * (found.ndim - 1))
            made[spec.name] = np.where(whole, found, reference).astype(found.dtype)
            continue
        shape = [1] * found.ndim
        shape[0], shape[axis] = order.shape
        ordered = np.take_along_axis(found, order.reshape(shape), axis)
        made[spec.name] = np.where(same.reshape(shape), ordered, reference).astype(found.dtype)
    return made, int((~same).sum())


def match(mine: Floats, theirs: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """For each box of ``mine`` the one of ``theirs`` that overlaps it most, each taken once, the best pairs first.

    Args:
        mine, theirs: float32 [B, P, 4]: left, top, right, bottom; zeros are none, and go with zeros.

    Returns:
        Its index, [B, P], and whether it is the same box, [B, P].
    """
    order = np.zeros(mine.shape[:2], np.intp)
    same = np.zeros(mine.shape[:2], np.bool_)
    for image in range(len(mine)):
        overlap = overlaps(mine[image], theirs[image])
        for _ in range(len(overlap)):
            row, column = divmod(int(overlap.argmax()), overlap.shape[1])
            order[image, row], same[image, row] = column, overlap[row, column] >= SAME
            overlap[row], overlap[:, column] = -1, -1
    return order, same


def overlaps(one: Floats, other: Floats) -> Floats:
    """Intersection over union of all pairs of two lists of boxes, [P, 4] and [Q, 4]: [P, Q]; 1 where both are none, or
    have the same corners: a box at the image's border may have no area."""
    left_top = np.maximum(one[:, None, :2], other[None, :, :2])
    right_bottom = np.minimum(one[:, None, 2:], other[None, :, 2:])
    common = (right_bottom - left_top).clip(0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1) for boxes in (one, other)]
    union = areas[0][:, None] + areas[1][None] - common
    alike = np.abs(one[:, None] - other[None]).max(axis=2) <= ALIKE
    ratio: Floats = np.where(alike, 1, common / np.maximum(union, 1e-12)).astype(np.float32)
    return ratio
