"""What the encoder's frozen parts make of the images, computed once.

A frozen prefix of the backbone gives the same output in every epoch, and so does a detector. That is kept on disk in
half precision, for a few variants of every image (plain, flipped, cropped and jittered). With nothing frozen, pixels
are read afresh.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from camscribe.runtime import images, pixels
from camscribe.runtime.errors import DataError
from camscribe.runtime.progress import ProgressBar
from camscribe.train.backbone import Backbone
from camscribe.train.detector import Detector, Regions
from camscribe.train.faster_rcnn import FasterRcnn
from camscribe.train.readers import CaptionedImage

Pixels = npt.NDArray[np.uint8]
_TOGETHER = 8
"""Images that a detector sees at once: it holds the features of all their proposals."""


def vary(image: Pixels, variant: int, seed: int) -> Pixels:
    """A variant of a photograph, uint8 [h, w, 3] RGB: 0 is plain, 1 flipped, later ones cropped and jittered too.

    Odd variants are flipped (see ``is_flipped``). Crops keep at least 75 % of each side, so that captions stay true.
    """
    if variant >= 2:
        generator = np.random.default_rng((seed, variant))
        height, width = image.shape[:2]
        rows, columns = (max(1, round(side * generator.uniform(0.75, 1.0))) for side in (height, width))
        top, left = (int(generator.integers(0, spare + 1)) for spare in (height - rows, width - columns))
        image = _jitter(image[top : top + rows, left : left + columns], generator)
    return image[:, ::-1] if is_flipped(variant) else image


def is_flipped(variant: int) -> bool:
    """Whether a variant shows the image mirrored, so that left and right change places in its captions."""
    return variant % 2 == 1


def _jitter(image: Pixels, generator: np.random.Generator) -> Pixels:
    """Brightness, contrast and saturation, each within 20 %."""
    brightness, contrast, saturation = generator.uniform(0.8, 1.2, size=3)
    values = image.astype(np.float32) * brightness
    grey = values.mean(axis=2, keepdims=True)
    values = grey + (values - grey) * saturation
    values = values.mean() + (values - values.mean()) * contrast
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


class Seen(NamedTuple):
    """A batch of images as training takes them."""

    features: Tensor | None
    """What the trained stages of the backbone take, [B, ...]; uint8 pixels where nothing is frozen. None where the
    model has no backbone."""
    regions: Regions | None
    """Where the model has some."""

    def to(self, device: torch.device) -> Seen:
        """The same on a device."""
        return Seen(
            None if self.features is None else self.features.to(device),
            None if self.regions is None else self.regions.to(device),
        )


class Source(NamedTuple):
    """Gives images as training takes them."""

    features: FeatureSource | None
    regions: RegionSource | None

    def batch(self, indices: Sequence[int], variants: Sequence[int]) -> Seen:
        """Images by index."""
        features = None if self.features is None else self.features.batch(indices, variants)
        return Seen(features, None if self.regions is None else self.regions.batch(indices, variants))


class FeatureSource(Protocol):
    """Gives what the backbone's trained stages take."""

    variants: int

    def batch(self, indices: Sequence[int], variants: Sequence[int]) -> Tensor:
        """What the trained stages of the backbone take (or uint8 pixels where nothing is frozen) of images by index."""


class RegionSource(Protocol):
    """Gives regions, found or stored."""

    def batch(self, indices: Sequence[int], variants: Sequence[int]) -> Regions:
        """Regions of images by index."""


class PixelSource:
    """Reads and varies the images of a batch; for a backbone trained as a whole."""

    def __init__(self, data: Sequence[CaptionedImage], spec: pixels.PixelSpec, variants: int, seed: int) -> None:
        self.data, self.spec, self.variants, self.seed = data, spec, variants, seed
        self._pool = ThreadPoolExecutor(max_workers=4)

    def batch(self, indices: Sequence[int], variants: Sequence[int]) -> Tensor:
        """uint8 [B, H, W, 3]."""
        return torch.from_numpy(np.stack(list(self._pool.map(self._read, indices, variants))))

    def _read(self, index: int, variant: int) -> Pixels:
        image = vary(images.read(self.data[index].path), variant, self.seed * 1_000_003 + index)
        return pixels.reduce(np.ascontiguousarray(image), self.spec)


class _Cache:
    """Half-precision rows of numbers, one for each variant of an image, in a memory-mapped file that an interrupted run
    goes on filling.

    Args:
        source: the images.
        compute: uint8 [n, H, W, 3] -> rows [n, ...].
        key: hash of all that decides what ``compute`` makes.
        folder: where the file lies.
        label: of the progress bar.
        show: draw the progress bar.
    """

    def __init__(
        self, source: PixelSource, compute: Callable[[Tensor], Tensor], key: Any, folder: Path, label: str, show: bool
    ) -> None:
        self.variants = source.variants
        probe = compute(torch.zeros(1, source.spec.height, source.spec.width, 3, dtype=torch.uint8))
        shape = (len(source.data) * self.variants, *probe.shape[1:])
        path = folder / f"{_key(source, key)}.npy"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._rows = open_rows(path, shape)
        except OSError as error:
            raise DataError(
                f"{path}: cannot hold the cache of {label} of {np.prod(shape) * 2 / 1e9:.1f} GB ({error})"
            ) from error
        self._fill(source, compute, path.with_suffix(".json"), label, show)

    @torch.no_grad()
    def _fill(
        self, source: PixelSource, compute: Callable[[Tensor], Tensor], state: Path, label: str, show: bool
    ) -> None:
        done = json.loads(state.read_text())["rows"] if state.exists() else 0
        with ProgressBar(label, len(self._rows), done, show=show) as progress:
            while done < len(self._rows):
                rows = range(done, min(done + 64, len(self._rows)))
                pixels_ = source.batch([row // self.variants for row in rows], [row % self.variants for row in rows])
                made = compute(pixels_).half().cpu().numpy()
                if not np.isfinite(made).all():
                    raise DataError(
                        f"cache of {label}: a number is beyond half precision's range; train with variants from pixels"
                    )
                self._rows[rows.start : rows.stop] = made
                done = rows.stop
                if done % 4096 < 64 or done == len(self._rows):
                    self._rows.flush()
                    part = state.with_suffix(".part")
                    part.write_text(json.dumps({"rows": done}))
                    part.replace(state)
                progress.update(done)

    def rows(self, indices: Sequence[int], variants: Sequence[int]) -> Tensor:
        """float32 [B, ...]"""
        return torch.from_numpy(self._rows[np.asarray(indices) * self.variants + np.asarray(variants)]).float()


class FeatureCache(_Cache):
    """Output of the backbone's frozen stages.

    Args:
        backbone: on the device that computes.
        trained: number of the backbone's last stages that are trained.
        source: the images.
        folder: where the file lies; its name is a hash of all that decides its content.
        show: draw a progress bar.
    """

    def __init__(self, backbone: Backbone, trained: int, source: PixelSource, folder: Path, show: bool = True) -> None:
        device = next(backbone.parameters()).device
        frozen = backbone.stages[: len(backbone.stages) - trained]
        # Its form tells networks apart whose weights fit each other, as a ResNet's and one with Caffe's strides.
        key = hashlib.sha256(f"{trained} {frozen}".encode())
        for name, value in (*backbone.named_buffers(), *frozen.state_dict().items()):
            key.update(name.encode())
            key.update(value.detach().cpu().numpy().tobytes())
        super().__init__(
            source,
            lambda image: backbone.stem(image.to(device), trained).permute(0, 2, 3, 1),
            key,
            folder,
            "features",
            show,
        )

    def batch(self, indices: Sequence[int], variants: Sequence[int]) -> Tensor:
        """float32 [B, C, h, w] (in channels-last memory, which CPUs prefer)."""
        return self.rows(indices, variants).permute(0, 3, 1, 2)


class RegionCache(_Cache):
    """What the detector finds, which no training changes.

    Args:
        detector: whose regions they are.
        source: the images.
        folder: where the file lies; its name is a hash of all that decides its content.
        show: draw a progress bar.
    """

    def __init__(self, detector: Detector | FasterRcnn, source: PixelSource, folder: Path, show: bool = True) -> None:
        device = next(iter(detector.state_dict().values())).device

        def compute(pixels_: Tensor) -> Tensor:
            return torch.cat([packed(detector(part.to(device))) for part in pixels_.split(_TOGETHER)])

        super().__init__(source, compute, hashlib.sha256(detector.fingerprint), folder, "regions", show)

    def batch(self, indices: Sequence[int], variants: Sequence[int]) -> Regions:
        """Regions of images by index."""
        return unpacked(self.rows(indices, variants))


def packed(regions: Regions) -> Tensor:
    """Regions as rows of numbers [B, R, 5 + N]."""
    return torch.cat([regions.boxes, regions.shown.unsqueeze(2), regions.features], dim=2)


def unpacked(rows: Tensor) -> Regions:
    """``packed`` undone."""
    return Regions(rows[:, :, :4], rows[:, :, 4], rows[:, :, 5:])


def open_rows(path: Path, shape: tuple[int, ...]) -> np.memmap:  # type: ignore[type-arg]
    """A file of half-precision numbers, as it is where it has that shape, else a new one whose state is forgotten.

    Raises:
        OSError: there is no room for it; none of it is left.
    """
    if path.exists():
        try:
            rows = np.lib.format.open_memmap(path, mode="r+")
        except ValueError:  # cut off where it began
            rows = None
        if rows is not None and rows.shape == shape:
            return rows
    path.with_suffix(".json").unlink(missing_ok=True)
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    if hasattr(os, "posix_fallocate"):
        # A mapped file that the disk turns out to have no room for ends the process by a signal, without a word.
        try:
            with path.open("rb+") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError:
            path.unlink()
            raise
    return rows


def _key(source: PixelSource, made: Any) -> str:
    digest = made.copy()
    digest.update(json.dumps([asdict(source.spec), source.variants, source.seed]).encode())
    for item in source.data:
        stat = item.path.stat()
        digest.update(f"{item.path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return str(digest.hexdigest()[:24])
