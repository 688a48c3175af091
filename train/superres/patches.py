"""Photographs in memory, and the pairs of patches that a step trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from camscribe.runtime import images
from camscribe.runtime.errors import DataError, SourceError
from camscribe.runtime.pixels import Pixels
from camscribe.train.superres.config import DataConfig
from camscribe.train.superres.degrade import camera
from camscribe.train.superres.resize import resize


@dataclass(frozen=True)
class Pair:
    """One photograph, cut to a multiple of the scale, and its reduced version."""

    name: str
    small: Pixels
    """[h, w, 3]."""
    large: Pixels
    """[scale h, scale w, 3]."""


@dataclass(frozen=True)
class Photographs:
    """A folder's photographs as pairs."""

    train: tuple[Pair, ...]
    tune: tuple[Pair, ...]
    photographs: int
    """Files that ``train`` was made of."""

    def report(self) -> str:
        """One line for people and for checkpoints."""
        return f"{self.photographs} photographs as {len(self.train)} pairs; {len(self.tune)} tuning photographs"


def read_photographs(config: DataConfig, scale: int, patch: int) -> Photographs:
    """Reads, cuts and reduces all photographs of the configured folder.

    Args:
        config: which folder, how many to tune on, in which sizes.
        scale: of the generator.
        patch: side of the largest patch, in pixels of the small image.

    Raises:
        DataError: there is no such folder, it holds too few photographs, or some cannot be read or are too small.
    """
    files = photograph_files(Path(config.root))
    if len(files) <= config.tune:
        raise DataError(f"{config.root}: {len(files)} photographs; expected more than the {config.tune} to tune on")
    problems: list[str] = []

    def read(path: Path, sizes: Sequence[float]) -> list[Pair]:
        try:
            whole = images.read(path)
        except SourceError as error:
            problems.append(str(error))
            return []
        made = [pair(path.name, whole if size == 1 else resize(whole, size), scale) for size in sizes]
        smallest = min(min(item.small.shape[:2]) for item in made)
        if smallest < patch:
            problems.append(f"{path}: {whole.shape[1]}x{whole.shape[0]}, reduced {smallest}; expected {patch} or more")
        return made

    cut = len(files) - config.tune
    train = [pair for path in files[:cut] for pair in read(path, config.sizes)]
    tune = [pair for path in files[cut:] for pair in read(path, (1.0,))]
    if problems:
        raise DataError(f"{len(problems)} bad photographs: {'; '.join(problems[:5])}")
    return Photographs(tuple(train), tuple(tune), cut)


def photograph_files(root: Path) -> list[Path]:
    """The image files of a folder, by name.

    Raises:
        DataError: there is no such folder, or none in it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected photographs")
    files = sorted(path for path in root.iterdir() if path.suffix.lower() in images.SUFFIXES)
    if not files:
        raise DataError(f"{root}: holds no image files")
    return files


def pair(name: str, image: Pixels, scale: int) -> Pair:
    """An image cut to a multiple of ``scale``, and reduced as MATLAB does."""
    height, width = (size - size % scale for size in image.shape[:2])
    large = np.ascontiguousarray(image[:height, :width])
    return Pair(name, resize(large, 1 / scale), large)


class Patches:
    """Draws the pairs of patches of a step: flipped, turned, and degraded where they are a camera's.

    Args:
        pairs: photographs to draw from.
        scale: of the generator.
        config: says which degradation.
    """

    def __init__(self, pairs: Sequence[Pair], scale: int, config: DataConfig) -> None:
        self.pairs, self.scale, self.config = pairs, scale, config

    def batch(self, size: int, patch: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Small patches [B, 3, patch, patch] and large ones [B, 3, scale patch, scale patch], float32 in 0..1."""
        drawn = [self._draw(patch, generator) for _ in range(size)]
        small, large = (np.stack([pair[side] for pair in drawn]) for side in (0, 1))
        return _tensor(small), _tensor(large)

    def _draw(self, patch: int, generator: np.random.Generator) -> tuple[Pixels, Pixels]:
        chosen = self.pairs[generator.integers(len(self.pairs))]
        top, left = (int(generator.integers(size - patch + 1)) for size in chosen.small.shape[:2])
        large = chosen.large[
            top * self.scale : (top + patch) * self.scale, left * self.scale : (left + patch) * self.scale
        ]
        if self.config.degradation == "camera":
            small = camera(large, self.scale, self.config, generator)
        else:
            small = chosen.small[top : top + patch, left : left + patch]
        turns, flip = int(generator.integers(4)), bool(generator.integers(2))
        small, large = (np.rot90(side, turns) for side in (small, large))
        return (small[:, ::-1], large[:, ::-1]) if flip else (small, large)


def _tensor(pixels: Pixels) -> Tensor:
    """uint8 [B, h, w, 3] -> float32 [B, 3, h, w] in 0..1, its channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(255)
