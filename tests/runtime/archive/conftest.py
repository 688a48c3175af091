"""Small archives: image files, tar shards, and what goes wrong with them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def photo() -> Callable[[int], bytes]:
    """``photo(seed)``: the bytes of a small PNG of its own."""

    def encode(seed: int) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (16 + seed % 7, 24, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "png")
        return file.getvalue()

    return encode


@pytest.fixture(scope="session")
def write_tar() -> Callable[[Path, list[tuple[str, bytes]]], Path]:
    """``write_tar(path, members)``: a tar file with these names and contents, names twice if they are given twice."""

    def write(path: Path, members: list[tuple[str, bytes]]) -> Path:
        with tarfile.open(path, "w") as tar:
            for name, content in members:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return path

    return write
