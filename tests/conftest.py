"""What every test area shares: where the development data is, and which tests this machine can run."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]

# How fast a busy machine draws examples says nothing about the code.
settings.register_profile("camscribe", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("camscribe")


def _data_dir() -> Path:
    """The folder of the development data: ``CAMSCRIBE_DATA``, else ``../shared/data`` beside the checkout."""
    return Path(os.environ.get("CAMSCRIBE_DATA") or REPOSITORY.parent / "shared" / "data")


def _has_gpu() -> bool:
    """Whether the NVIDIA driver starts; asked of the driver itself, so that no framework is needed."""
    try:
        return ctypes.CDLL("libcuda.so.1").cuInit(0) == 0
    except OSError:
        return False


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips tests marked ``data`` or ``gpu`` with a reason where their need is not met."""
    if item.get_closest_marker("data") and not _data_dir().is_dir():
        pytest.skip(f"no development data at {_data_dir()}; set CAMSCRIBE_DATA")
    if item.get_closest_marker("gpu") and not _has_gpu():
        pytest.skip("no NVIDIA GPU: the driver is missing or does not start")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the development data. Only for tests marked ``data``."""
    return _data_dir()


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in Flickr8k's layout that a small network learns in seconds: squares of four colours, on two sides."""
    root = tmp_path_factory.mktemp("shapes")
    (root / "images").mkdir()
    colours = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230), "white": (250, 250, 250)}
    lines: dict[str, list[str]] = {"train": [], "dev": []}
    for split, seed, copies in (("train", 0, 4), ("dev", 1, 1)):
        generator = np.random.default_rng(seed)
        for copy in range(copies):
            for colour, value in colours.items():
                for side in ("left", "right"):
                    pixels = np.full((64, 64, 3), 90, dtype=np.uint8)
                    top, inset = generator.integers(8, 32), generator.integers(2, 8)
                    start = inset if side == "left" else 64 - 24 - inset
                    pixels[top : top + 24, start : start + 24] = value
                    name = f"{split}{copy}-{colour}-{side}.png"
                    Image.fromarray(pixels).save(root / "images" / name)
                    texts = (f"A {colour} square on the {side} .", f"the {side} side has a {colour} square .")
                    lines[split] += [f"{name}#{index}\t{text}" for index, text in enumerate(texts)]
    for split, content in lines.items():
        (root / f"captions.{split}.tsv").write_text("\n".join(content) + "\n", encoding="utf-8")
    return root
