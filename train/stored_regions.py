"""Regions that come precomputed from files, in a cache on disk: they need not fit into memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from camscribe.runtime.errors import DataError
from camscribe.runtime.files import write_atomically
from camscribe.runtime.progress import ProgressBar
from camscribe.train.config import ModelConfig
from camscribe.train.detector import Regions
from camscribe.train.feature_files import Entry, feature_files, read_features
from camscribe.train.features import open_rows, unpacked
from camscribe.train.readers import CaptionedImage

_FORMAT = 1


class StoredRegions:
    """What feature files hold of images, read once into half-precision rows of a memory-mapped file.

    Args:
        path: the files.
        images: of all splits.
        config: the model's table of the configuration; says how many regions there are and how wide they are.
        folder: where the cache lies; its name is a hash of all that decides its content.
        show: draw a progress bar.

    Raises:
        DataError: the files cannot be read, or the cache cannot be written.
    """

    problems: dict[str, str]
    """What is wrong with an image's entry, by ``image_id``."""

    def __init__(
        self, path: Path, images: Iterable[CaptionedImage], config: ModelConfig, folder: Path, show: bool = True
    ) -> None:
        self._images = list({image.image_id: image for image in images}.values())
        self._row = {image.image_id: row for row, image in enumerate(self._images)}
        self._config = config
        files = feature_files(path)
        data = folder / f"{self._key(files)}.npy"
        state = data.with_suffix(".json")
        try:
            if not state.exists():
                self._fill(files, data, state, show)
            self._rows = np.load(data, mmap_mode="r")
            self.problems = json.loads(state.read_text(encoding="utf-8"))["problems"]
        except OSError as error:
            size = len(self._images) * config.regions * (5 + config.feature_width) * 2 / 1e9
            raise DataError(f"{data}: cannot hold the cache of features of {size:.1f} GB ({error})") from error

    def of(self, images: Sequence[CaptionedImage]) -> StoredSplit:
        """The regions of some of the images, by their index."""
        return StoredSplit(self, [self._row[image.image_id] for image in images])

    def rows(self, rows: Sequence[int]) -> Regions:
        """Regions of images by their row."""
        return unpacked(torch.from_numpy(self._rows[np.asarray(rows)]).float())

    def _fill(self, files: Sequence[Path], data: Path, state: Path, show: bool) -> None:
        config, count = self._config, len(self._images)
        data.parent.mkdir(parents=True, exist_ok=True)
        rows = open_rows(data, (count, config.regions, 5 + config.feature_width))
        problems: dict[str, str] = {}
        done: set[int] = set()
        with ProgressBar("features", count, show=show) as progress:
            for file in files:
                for index, entry in read_features(file, self._images, config.feature_width):
                    if index in done:  # The paper's files have a few images twice.
                        continue
                    image = self._images[index].image_id
                    if isinstance(entry, Entry) and len(entry.boxes) > config.regions:
                        found = len(entry.boxes)
                        entry = f"{image}: has {found} regions; expected at most model.regions = {config.regions}"
                    if isinstance(entry, str):
                        problems.setdefault(image, entry)
                        continue
                    problems.pop(image, None)
                    rows[index] = 0
                    rows[index, : len(entry.boxes)] = np.concatenate(
                        [entry.boxes, np.ones_like(entry.boxes[:, :1]), entry.features], axis=1
                    )
                    done.add(index)
                    progress.update(len(done))
        rows.flush()
        for index, each in enumerate(self._images):
            if index not in done:
                problems.setdefault(each.image_id, f"{each.image_id}: no features")
        write_atomically(state, json.dumps({"problems": problems}).encode())

    def _key(self, files: Sequence[Path]) -> str:
        each = [file for item in files for file in (sorted(item.iterdir()) if item.is_dir() else [item])]
        stats = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in each]
        images = [(image.image_id, image.path.name) for image in self._images]
        about = [_FORMAT, self._config.regions, self._config.feature_width, images, stats]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]


class StoredSplit:
    """Regions of a split's images, as training takes them."""

    def __init__(self, stored: StoredRegions, rows: Sequence[int]) -> None:
        self._stored, self._rows = stored, rows

    def batch(self, indices: Sequence[int], variants: Sequence[int]) -> Regions:
        """Regions of images by index. There are no variants but the plain one."""
        return self._stored.rows([self._rows[index] for index in indices])
