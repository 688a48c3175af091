"""The images that an export needs: for calibration, and those that go into the bundle with their expected words."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from camscribe.runtime import images
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import BundleError, OptionError
from camscribe.runtime.pixels import Pixels, PixelSpec, reduce
from camscribe.train.config import DataConfig
from camscribe.train.trainer import read_split

CALIBRATION_IMAGES = 200
PARITY_IMAGES = 6


def calibration_images(folder: Path | None, data: DataConfig, spec: PixelSpec) -> Pixels:
    """Up to 200 images, spread evenly over a folder or over the training split. uint8 [N, H, W, 3].

    Raises:
        OptionError: there is neither.
    """
    if folder is not None:
        return folder_images(folder, spec)
    if not Path(data.root).is_dir():
        raise OptionError(
            f"{data.root}: the training data is not here, so int8 graphs cannot be calibrated; name a folder of "
            "photographs with --calibration, or export without them (--no-int8)"
        )
    return _read([image.path for image in read_split(data, data.train)], CALIBRATION_IMAGES, spec)


def folder_images(folder: Path, spec: PixelSpec) -> Pixels:
    """Up to 200 images, spread evenly over a folder. uint8 [N, H, W, 3]."""
    return _read(_files(folder), CALIBRATION_IMAGES, spec)


def parity_images(folder: Path | None, spec: PixelSpec) -> Pixels:
    """Up to six images that may be handed on with the bundle. uint8 [N, H, W, 3].

    Raises:
        OptionError: no folder is named, and there is no shipped bundle to take them from.
    """
    if folder is not None:
        return _read(_files(folder), PARITY_IMAGES, spec)
    try:
        shipped = Bundle.load(None).parity_images()
    except BundleError as error:
        raise OptionError(f"no images for the proof of parity ({error}); name a folder with --parity-images") from error
    return np.stack([reduce(image, spec) for image in shipped[:PARITY_IMAGES]])


def _files(folder: Path) -> list[Path]:
    files, errors = images.expand([str(folder)])
    if errors:
        raise errors[0]
    return files


def _read(files: list[Path], count: int, spec: PixelSpec) -> Pixels:
    chosen = [files[round(row)] for row in np.linspace(0, len(files) - 1, min(count, len(files)))]
    return np.stack([reduce(images.read(file), spec) for file in chosen])
