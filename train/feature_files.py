"""Features of regions as other programs store them: bottom-up-attention's TSV files, and folders of npz or npy files.

A file is read one image at a time, and what is wrong with an image's entry is a line instead of that entry.
"""

from __future__ import annotations

import base64
import binascii
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from camscribe.runtime.errors import DataError
from camscribe.train.readers import CaptionedImage

Floats = npt.NDArray[np.float32]
_COLUMNS = 6
_HEADER = b"image_id"
_NUMBER = re.compile(r"(?:COCO_\w+?_)?0*(\d+)")
_FEATURES = ("feat", "features", "x")
_BOXES = ("boxes", "bbox")
_ORIENTATION, _TURNED = 0x0112, 5
"""EXIF's tag, and its first value that swaps width and height."""


class Entry(NamedTuple):
    """The regions of an image, as many as there are."""

    features: Floats
    """[n, D]"""
    boxes: Floats
    """[n, 4]: left, top, right, bottom, fractions of the image; zeros where the files have no boxes."""


class Found(NamedTuple):
    """What a file says of one of the images."""

    index: int
    """Of the image."""
    entry: Entry | str
    """The regions, or what is wrong with them."""


def feature_files(path: Path) -> tuple[Path, ...]:
    """The files that hold features: TSV files, or the folder itself where there is a file for each image.

    Raises:
        DataError: there is nothing of the kind.
    """
    if path.is_file():
        return (path,)
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; expected precomputed features, a TSV or a folder")
    return tuple(sorted(file for file in path.iterdir() if ".tsv" in file.suffixes)) or (path,)


def read_features(file: Path, images: Sequence[CaptionedImage], width: int) -> Iterator[Found]:
    """What a file, or a folder with a file for each image, holds of the images, in its own order.

    Args:
        file: one of ``feature_files``.
        images: those that are wanted; others are passed over.
        width: D.

    Raises:
        DataError: it cannot be read at all.
    """
    try:
        yield from (_read_folder if file.is_dir() else _read_tsv)(file, images, width)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); expected precomputed features") from error


def names_of(images: Sequence[CaptionedImage]) -> list[list[str]]:
    """What each image may be called: its file's stem, its id, and its number where it has one, as COCO's have; the
    latter two where no other image may be called so."""
    named = []
    for image in images:
        number = _NUMBER.fullmatch(image.path.stem)
        named.append(list(dict.fromkeys((image.path.stem, image.image_id, *(number.groups() if number else ())))))
    count = Counter(name for names in named for name in names)
    return [[names[0], *(name for name in names[1:] if count[name] == 1)] for names in named]


def _read_tsv(file: Path, images: Sequence[CaptionedImage], width: int) -> Iterator[Found]:
    """Lines of image_id, image_w, image_h, num_boxes, boxes and features, the last two float32 in base64."""
    wanted = {name: index for index, names in enumerate(names_of(images)) for name in names}
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            columns = line.rstrip(b"\r\n").split(b"\t")
            index = wanted.get(columns[0].decode("utf-8", "replace"))
            if index is None or columns[0] == _HEADER:
                continue
            try:
                yield Found(index, _tsv_entry(columns, width))
            except ValueError as error:
                yield Found(index, f"{file.name}:{number}: features of {images[index].image_id}: {error}")


def _tsv_entry(columns: list[bytes], width: int) -> Entry:
    if len(columns) != _COLUMNS:
        raise ValueError(f"{len(columns)} columns; expected {_COLUMNS}")
    across, down, count = (int(column) for column in columns[1:4])
    if count < 1:
        raise ValueError("no region")
    boxes, features = (_decoded(column).reshape(count, -1) for column in columns[4:])
    return _entry(features, boxes, (across, down), width)


def _read_folder(folder: Path, images: Sequence[CaptionedImage], width: int) -> Iterator[Found]:
    box_folder = _box_folder(folder)
    for index, (image, names) in enumerate(zip(images, names_of(images), strict=True)):
        file = _file_of(folder, names)
        if file is None:
            continue
        try:
            beside = None if box_folder is None else _file_of(box_folder, names)
            if box_folder is not None and beside is None:
                raise ValueError(f"no boxes in {box_folder.name}")
            yield Found(index, _file_entry(file, beside, image, width))
        except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            yield Found(index, f"{file.name}: features of {image.image_id}: {error}")


def _file_entry(file: Path, box_file: Path | None, image: CaptionedImage, width: int) -> Entry:
    """An npy file of features [..., D]; or an npz file of ``feat`` (ruotianluo's), or of ``x`` [D, n], ``bbox``,
    ``image_w`` and ``image_h`` (bottom-up-attention's), both of which may be in base64."""
    arrays = _arrays(file)
    features = _numbers(_first(arrays, _FEATURES))
    if features.ndim == 1 and "num_bbox" in arrays:
        features = features.reshape(_whole(arrays, "num_bbox"), -1)
    if features.ndim == 2 and features.shape[1] != width == features.shape[0]:
        features = features.T
    features = features.reshape(-1, features.shape[-1] if features.ndim else 1)
    boxes = _numbers(_first(arrays, _BOXES)) if set(_BOXES) & set(arrays) else None
    if box_file is not None:
        boxes = _numbers(_first(_arrays(box_file), ("x", *_BOXES)))
    if boxes is None:
        return _entry(features, np.zeros((len(features), 4), np.float32), (1, 1), width)
    size = (_whole(arrays, "image_w"), _whole(arrays, "image_h")) if "image_w" in arrays else _size_of(image)
    return _entry(features, boxes.reshape(len(features), -1), size, width)


def _arrays(file: Path) -> dict[str, npt.NDArray[np.generic]]:
    """What a file holds; the one array of an npy file is ``x``. Its content decides which it is, not its name."""
    stored = np.load(file, allow_pickle=False)
    if not isinstance(stored, np.lib.npyio.NpzFile):
        return {"x": stored}
    with stored:
        return {name: np.asarray(stored[name]) for name in stored.files if name != "info"}


def _whole(arrays: dict[str, npt.NDArray[np.generic]], name: str) -> int:
    """A whole number among the arrays."""
    if name not in arrays:
        raise ValueError(f"has no {name}")
    try:
        return int(arrays[name].item())
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} is {arrays[name].tolist()!r:.40}; expected one whole number") from error


def _entry(features: Floats, boxes: Floats, size: tuple[int, int], width: int) -> Entry:
    """Checked, with boxes in fractions of an image of that size (width, height)."""
    if not len(features):
        raise ValueError("no region")
    if features.shape[1] != width:
        raise ValueError(f"width {features.shape[1]}; expected model.feature_width = {width}")
    if boxes.shape != (len(features), 4):
        raise ValueError(f"boxes of shape {boxes.shape}; expected {(len(features), 4)}")
    if min(size) < 1:
        raise ValueError(f"an image of {size[0]} x {size[1]} pixels")
    with np.errstate(over="ignore"):
        held = features.astype(np.float16)
    if not (np.isfinite(held).all() and np.isfinite(boxes).all()):
        raise ValueError("numbers that half precision does not hold")
    fractions = boxes / np.array([*size, *size], np.float32)
    return Entry(features, fractions.clip(0, 1))


def _numbers(stored: npt.NDArray[np.generic]) -> Floats:
    """An array, which may be text: float32 in base64."""
    if stored.dtype.kind in "SU" and stored.ndim == 0:
        return _decoded(str(stored.astype(np.str_)).encode())
    if stored.dtype.kind not in "fiu":
        raise ValueError(f"an array of {stored.dtype}; expected numbers")
    return stored.astype(np.float32)


def _decoded(text: bytes) -> Floats:
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"broken base64 ({error})") from error
    return np.frombuffer(content, "<f4").astype(np.float32)


def _first(arrays: dict[str, npt.NDArray[np.generic]], names: Sequence[str]) -> npt.NDArray[np.generic]:
    for name in names:
        if name in arrays:
            return arrays[name]
    raise ValueError(f"has {', '.join(arrays) or 'nothing'}; expected one of {', '.join(names)}")


def _file_of(folder: Path, names: Sequence[str]) -> Path | None:
    files = (folder / f"{name}{suffix}" for name in names for suffix in (".npz", ".npy"))
    return next((file for file in files if file.is_file()), None)


def _box_folder(folder: Path) -> Path | None:
    """Boxes lie beside ``NAME_att`` in ``NAME_box``."""
    beside = folder.with_name(f"{folder.name.removesuffix('_att')}_box")
    return beside if folder.name.endswith("_att") and beside.is_dir() else None


def _size_of(image: CaptionedImage) -> tuple[int, int]:
    """Width and height, as the image is seen."""
    try:
        with Image.open(image.path) as opened:
            turned = opened.getexif().get(_ORIENTATION, 1) >= _TURNED
            return (opened.height, opened.width) if turned else opened.size
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"its boxes are in pixels, and {image.path} cannot be read for its size") from error
