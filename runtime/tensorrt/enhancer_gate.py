"""The parity gate of an enhancer's engines: their pictures are compared with those of ONNX Runtime's float32 graph.

On the bundle's parity image, continued by its mirror image where the engine's tile is larger, cut where it is smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from camscribe.runtime.pixels import Pixels

Enlarge = Callable[[Pixels], Pixels]
"""uint8 [h, w, 3] -> [scale h, scale w, 3]."""


class Limits(NamedTuple):
    """The differences that pass."""

    psnr: float
    """dB, at least, of each picture beside float32's."""
    largest: int
    """Levels of 255, at most, of any pixel."""


LIMITS = {"float32": Limits(60.0, 1), "fp16": Limits(45.0, 8), "int8": Limits(35.0, 100)}
"""By precision. On ONNX Runtime's CPU the bundled networks' fp16 graphs are 62 dB and one level from float32 (types and
weights rounded, most sums in float32); their int8 ones, with the symmetric scales that TensorRT takes, 47 dB and 30
levels."""


@dataclass
class PictureVerdict:
    """What the gate found. See ``camscribe.runtime.tensorrt.gate.Finding``."""

    pictures: int = 0
    psnr: float = float("inf")
    """dB, of the worst picture."""
    largest: int = 0
    """Levels of 255."""
    problems: list[str] = field(default_factory=list)

    def notes(self) -> dict[str, Any]:
        """The figures as JSON."""
        same = self.psnr == float("inf")
        return {"pictures": self.pictures, "psnr": None if same else round(self.psnr, 2), "largest": self.largest}

    def __str__(self) -> str:
        near = "the same" if self.psnr == float("inf") else f"{self.psnr:.1f} dB apart"
        return f"float32's picture and the engine's are {near}, {self.largest} levels at most"


def compare(
    image: Pixels, reference: Enlarge, candidate: Enlarge, height: int, width: int, limits: Limits
) -> PictureVerdict:
    """Compares two executions of one network.

    Args:
        image: the parity image, uint8 [h, w, 3].
        reference: takes any size.
        candidate: may be frozen for ``height`` and ``width``; gets no others.
        height, width: of the tile.
        limits: what passes.

    Returns:
        The verdict; it passed if ``problems`` is empty.
    """
    verdict = PictureVerdict()
    for picture in pictures(image, height, width):
        expected, found = reference(picture).astype(np.int16), candidate(picture).astype(np.int16)
        apart = np.abs(expected - found)
        error = float(np.mean(apart.astype(np.float64) ** 2))
        verdict.pictures += 1
        verdict.psnr = min(verdict.psnr, 10 * float(np.log10(255**2 / error)) if error else float("inf"))
        verdict.largest = max(verdict.largest, int(apart.max()))
    if verdict.psnr < limits.psnr:
        verdict.problems.append(
            f"the picture is {verdict.psnr:.1f} dB from float32's, expected at least {limits.psnr:g}"
        )
    if verdict.largest > limits.largest:
        verdict.problems.append(f"a pixel is {verdict.largest} levels off, expected at most {limits.largest}")
    return verdict


def pictures(image: Pixels, height: int, width: int) -> Iterator[Pixels]:
    """Windows of exactly that size that hold the whole of an image, continued by its mirror image where it ends."""
    more = (max(0, height - image.shape[0]), max(0, width - image.shape[1]))
    grown = np.pad(image, ((0, more[0]), (0, more[1]), (0, 0)), "symmetric")
    for top in _starts(grown.shape[0], height):
        for left in _starts(grown.shape[1], width):
            yield np.ascontiguousarray(grown[top : top + height, left : left + width])


def _starts(size: int, window: int) -> list[int]:
    """Where windows begin that cover an axis; the last one ends where it ends."""
    return sorted({*range(0, size - window + 1, window), size - window})
