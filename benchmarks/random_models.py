"""Random models as a checkpoint and as a bundle: the tutorial's own, ResNet-101 at 256x256, and others by size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from camscribe.runtime.errors import EngineError


def make_resnet_bundle(folder: Path, grid: int, photograph: Path) -> tuple[Path, Path]:
    """The tutorial's own model, see ``make_random_bundle``.

    Args:
        folder: where both go.
        grid: side of the grid; 14 as in the tutorial (which spreads ResNet-101's grid of 8), 0 for the network's own.
        photograph: for the export's own proof of parity.
    """
    return make_random_bundle(folder, photograph, "resnet101", side=256, grid=grid, words=9490, width=512)


def make_random_bundle(
    folder: Path,
    photograph: Path,
    backbone: str,
    *,
    side: int,
    grid: int,
    words: int,
    width: int,
    calibration: Path | None = None,
) -> tuple[Path, Path]:
    """Writes a checkpoint of random weights and exports it by the command that users have.

    Args:
        folder: where both go.
        photograph: for the export's own proof of parity.
        backbone, side, grid, words, width: see ``random_weights``.
        calibration: photographs for graphs in 8 bits, encoder and decoder; None makes none.

    Returns:
        Checkpoint and bundle.

    Raises:
        EngineError: the export failed.
    """
    from camscribe.benchmarks.peers.tutorial_weights import random_weights

    name = f"{backbone}-side{side}-grid{grid}-words{words}"
    checkpoint, bundle = folder / f"{name}.safetensors", folder / name
    random_weights(backbone, side=side, grid=grid, words=words, width=width).write(checkpoint)
    arguments = ["export", str(checkpoint), "--out", str(bundle), "--parity-images", str(photograph)]
    arguments += ["--int8-encoder", "--calibration", str(calibration)] if calibration else ["--no-int8"]
    command = [sys.executable, "-m", "camscribe.runtime.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineError(f"camscribe {' '.join(arguments)} failed: {done.stderr.strip()[-500:]}")
    return checkpoint, bundle
