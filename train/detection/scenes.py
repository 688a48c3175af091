"""Images and their boxes as the detector takes them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from camscribe.runtime import images, pixels
from camscribe.runtime.errors import DataError
from camscribe.train.detection.annotations import AnnotatedImage
from camscribe.train.features import is_flipped
from camscribe.train.text import swap_sides

Targets = dict[str, Tensor]
"""``boxes`` float32 [N, 4], pixels of the detector's input; ``labels`` int64 [N], from 1; ``attributes`` float32
[N, A + 1], equal shares of what a box has, all of the last one where it has none, zeros where nobody said; ``crowd``
bool [N]."""


class Names(NamedTuple):
    """What a detector tells apart."""

    classes: tuple[str, ...]
    """Class k + 1 of the network; its 0 is the background."""
    attributes: tuple[str, ...]
    """Attribute k of the network; behind the last stands "no attributes"."""


class Scenes:
    """Reads the images of a split.

    Args:
        data: the images.
        names: those that the network knows.
        spec: of the network's input.
    """

    def __init__(self, data: Sequence[AnnotatedImage], names: Names, spec: pixels.PixelSpec) -> None:
        self.data, self.names, self.spec = data, names, spec
        self._classes = {name: number for number, name in enumerate(names.classes, start=1)}
        self._attributes = {name: number for number, name in enumerate(names.attributes)}
        self._pool = ThreadPoolExecutor(max_workers=4)

    def batch(
        self, indices: Sequence[int], variants: Sequence[int], crowds: bool = False
    ) -> tuple[list[Tensor], list[Targets]]:
        """Images float32 [3, H, W] in 0..1, the odd variants mirrored, and what is in them, with ``crowds`` or without.

        Raises:
            SourceError: an image cannot be read.
            DataError: an image has another size than its annotations say.
        """
        seen = list(self._pool.map(self._read, indices, variants))
        return seen, [self.targets(*each, crowds) for each in zip(indices, variants, strict=True)]

    def targets(self, index: int, variant: int = 0, crowds: bool = False) -> Targets:
        """What is in one image. Of a box that the centre cut off what is left counts, if it is a pixel in each axis."""
        image, mirrored = self.data[index], is_flipped(variant)
        top, left, rows, columns = pixels.visible_box(image.height, image.width, self.spec)
        size = np.array([self.spec.width, self.spec.height] * 2, np.float32)
        boxes = [box for box in image.boxes if crowds or not box.crowd]
        corners = np.array([box.corners for box in boxes], np.float32).reshape(-1, 4)
        corners = (corners - [left, top, left, top]) / [columns, rows, columns, rows] * size
        corners = corners.clip(0, size).astype(np.float32)
        if mirrored:
            corners[:, [0, 2]] = self.spec.width - corners[:, [2, 0]]
        large = ((corners[:, 2:] - corners[:, :2]) >= 1).all(axis=1)
        boxes = [box for box, kept in zip(boxes, large, strict=True) if kept]
        labels = [self._classes[_named(box.name, self._classes, mirrored)] for box in boxes]
        attributes = [self._shares(box.attributes, mirrored) for box in boxes]
        return {
            "boxes": torch.from_numpy(corners[large]),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "attributes": torch.tensor(attributes).reshape(len(boxes), len(self.names.attributes) + 1),
            "crowd": torch.tensor([box.crowd for box in boxes], dtype=torch.bool),
        }

    def _shares(self, attributes: tuple[str, ...] | None, mirrored: bool) -> list[float]:
        shares = [0.0] * (len(self.names.attributes) + 1)
        known = [_named(name, self._attributes, mirrored) for name in attributes or () if name in self._attributes]
        for name in known:
            shares[self._attributes[name]] = 1 / len(known)
        if attributes is not None and not attributes:
            shares[-1] = 1.0
        return shares

    def _read(self, index: int, variant: int) -> Tensor:
        image = self.data[index]
        seen = images.read(image.path)
        if seen.shape[:2] != (image.height, image.width):
            raise DataError(
                f"{image.path}: is {seen.shape[1]}x{seen.shape[0]}; its annotations are of {image.width}x{image.height}"
            )
        seen = pixels.reduce(seen, self.spec)
        seen = np.array(seen[:, ::-1] if is_flipped(variant) else seen)  # of its own: an image may be read-only
        return torch.from_numpy(seen).permute(2, 0, 1).float().div_(255)


def _named(name: str, known: dict[str, int], mirrored: bool) -> str:
    """A name in a mirrored image: ``left hand`` is a ``right hand`` there, if there is such a name."""
    other = " ".join(swap_sides(name.split())) if mirrored else name
    return other if other in known else name
