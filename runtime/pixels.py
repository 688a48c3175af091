"""How pixels are reduced: the one home of it, for training, calibration and the device alike.

The encoder graph takes uint8 RGB of one fixed size. What lies between a photograph and that array changes captions, so
it is part of the bundle (``PixelSpec``) and happens nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import ModuleType
from typing import Literal

import numpy as np
import numpy.typing as npt

from camscribe.runtime.errors import BundleError, EngineError

Pixels = npt.NDArray[np.uint8]
Filter = Literal["area", "linear", "cubic"]
"""A mean over areas; between two pixels an axis; between four."""

_SAMPLED = 5.0
"""Up to this factor two samples an axis, of two pixels each, see nearly every pixel."""
_HALVED = 12.0
"""From this factor in area on, halving comes first: it is faster, and then the samples see every pixel."""


@dataclass(frozen=True)
class PixelSpec:
    """How the pixels of a photograph become the encoder's input."""

    height: int
    """Rows of the encoder's input."""
    width: int
    """Columns of the encoder's input."""
    fit: Literal["squash", "crop"] = "squash"
    """``squash``: the whole picture, its aspect ratio given up; ``crop``: the largest centred part of that ratio."""
    filter: Literal["area"] = "area"
    """``area``: in each axis a mean over the source pixels when shrinking, cubic when enlarging; see ``reduce``."""
    color: Literal["rgb"] = "rgb"
    """Order of the channels the encoder expects."""

    def __post_init__(self) -> None:
        # bool is an int to Python, and JSON has both.
        problems = [
            f"{name} is {size!r}; expected an integer from 8 to 4096"
            for name, size in (("height", self.height), ("width", self.width))
            if type(size) is not int or not 8 <= size <= 4096
        ]
        choices: dict[str, tuple[str, ...]] = {"fit": ("squash", "crop"), "filter": ("area",), "color": ("rgb",)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                problems.append(f"{name} is {getattr(self, name)!r}; expected {' or '.join(map(repr, known))}")
        if problems:
            raise BundleError(f"pixel spec: {'; '.join(problems)}")

    def to_dict(self) -> dict[str, int | str]:
        """The form it has in a bundle's manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entry: Mapping[str, object]) -> PixelSpec:
        """Reads the form of ``to_dict``.

        Raises:
            BundleError: a field is missing, unknown or has no meaning.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(entry, Mapping) or set(entry) != names:
            raise BundleError(f"pixel spec: expected the fields {', '.join(sorted(names))}; got {entry!r:.200}")
        return cls(**entry)  # type: ignore[arg-type]  # checked by __post_init__


def reduce(image: Pixels, spec: PixelSpec) -> Pixels:
    """Reduces a photograph to the encoder's input.

    What is far too large is halved first (means of 2 x 2 pixels), again and again. The rest of the way, each pixel is
    the mean of two samples of the source in each axis that shrinks. On photographs that differs from exact means over
    areas by about one of 256 levels, and takes a quarter of the time, which is most of what lies around the graphs.

    Args:
        image: uint8 [h, w, 3], RGB, of any size from 1x1.
        spec: the size and the way.

    Returns:
        uint8 [spec.height, spec.width, 3], RGB; ``image`` itself when it has that size already.

    Raises:
        EngineError: OpenCV is not installed.
    """
    image = visible_part(image, spec)
    if image.shape[:2] == (spec.height, spec.width):
        return image
    cv2 = opencv()
    filters = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}
    for height, width, name in resizes(image.shape[0], image.shape[1], spec):
        image = cv2.resize(image, (width, height), interpolation=filters[name])
    return image


def resizes(height: int, width: int, spec: PixelSpec) -> list[tuple[int, int, Filter]]:
    """How ``reduce`` brings the visible part of an image to the encoder's size.

    Returns:
        (rows, columns, filter) after each resize; none where the size is right.
    """
    steps: list[tuple[int, int, Filter]] = []

    def to(rows: int, columns: int, name: Filter) -> None:
        nonlocal height, width
        if (rows, columns) != (height, width):
            height, width = rows, columns
            steps.append((rows, columns, name))

    def excess() -> tuple[float, float]:
        return height / spec.height, width / spec.width

    while min(excess()) >= 2 and math.prod(excess()) > _HALVED:
        to(height // 2, width // 2, "area")
    smaller = (min(height, spec.height), min(width, spec.width))
    if smaller != (height, width) and max(excess()) <= _SAMPLED:
        to(
            2 * spec.height if height > spec.height else height,
            2 * spec.width if width > spec.width else width,
            "linear",
        )
    # OpenCV's area filter is one only where neither axis grows, so the axes that shrink go first, alone. It also takes
    # care of images that are far too large in one axis only.
    to(*smaller, "area")
    to(spec.height, spec.width, "cubic")
    return steps


def visible_part(image: Pixels, spec: PixelSpec) -> Pixels:
    """The part of a photograph (uint8 [h, w, 3]) that the model sees: all of it, or its centre."""
    if spec.fit == "squash":
        return image
    top, left, rows, columns = visible_box(image.shape[0], image.shape[1], spec)
    return image[top : top + rows, left : left + columns]


def visible_box(height: int, width: int, spec: PixelSpec) -> tuple[int, int, int, int]:
    """Top, left, rows and columns of the part that the model sees of so many rows and columns."""
    if spec.fit == "squash":
        return 0, 0, height, width
    ratio = spec.height / spec.width
    rows = max(1, min(height, round(width * ratio)))
    columns = max(1, min(width, round(height / ratio)))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def in_whole_image(boxes: npt.NDArray[np.float32], height: int, width: int, spec: PixelSpec) -> npt.NDArray[np.float32]:
    """Boxes of the part that the model sees, as boxes of the whole image.

    Args:
        boxes: float32 [P, 4]: left, top, right and bottom as fractions of that part.
        height, width: of the image; only their ratio matters.
        spec: the bundle's.

    Returns:
        The same as fractions of the image, a new array. Boxes of zeros, which are none, stay so.
    """
    top, left, rows, columns = visible_box(height, width, spec)
    scale = np.array([columns / width, rows / height] * 2, np.float32)
    offset = np.array([left / width, top / height] * 2, np.float32)
    return np.where(boxes.any(axis=1, keepdims=True), boxes * scale + offset, np.float32(0))


def opencv() -> ModuleType:
    """The ``cv2`` module, imported on first use.

    Raises:
        EngineError: it is not installed, or does not load.
    """
    try:
        import cv2
    except ImportError as error:
        raise EngineError(
            f'OpenCV cannot be imported ({error}); it resizes images: pip install "camscribe[cpu]"'
        ) from error
    return cv2
