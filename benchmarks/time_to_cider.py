"""How long ``camscribe train`` and the tutorial's loop train until captions reach a CIDEr, from the same weights.

Both begin with the encoder of a checkpoint, frozen, and with the same new decoder, and learn from the same photographs
with all their captions. After each epoch the captions of a small split are scored in the same way. The clock runs while
a side trains; of ours also while the process starts and fills its cache of features, which the tutorial has not. It
stands still while captions are scored.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from camscribe.benchmarks.startup import command_line
from camscribe.runtime.errors import EngineError

if TYPE_CHECKING:
    from camscribe.benchmarks.peers.tutorial_training import Samples
    from camscribe.benchmarks.peers.tutorial_weights import Weights


@dataclass(frozen=True)
class Course:
    """One side's way to the CIDEr."""

    reached_s: float | None
    """Seconds on the clock after the first epoch whose captions reached it; None where it was not reached."""
    why_not: str | None
    """Why it was not reached."""
    epochs_s: tuple[float, ...]
    """Seconds on the clock at the end of each epoch."""
    ciders: tuple[float, ...]
    """After each epoch; 1 is 100 %."""


@dataclass(frozen=True)
class TimeToCider:
    """Both sides."""

    cider: float
    """What is to be reached."""
    images: int
    """Trained on."""
    captions: int
    """Of an image."""
    tune: str
    """The split that is scored."""
    limit_s: float
    """Seconds on the clock after which a side begins no new epoch."""
    ours: Course
    tutorial: Course
    ratio: float | None
    """Tutorial / ours; None unless both reached it."""


def ratio(ours: Course, theirs: Course) -> float | None:
    """How many times as long the tutorial took; None unless both reached it."""
    if ours.reached_s is None or theirs.reached_s is None:
        return None
    return round(theirs.reached_s / ours.reached_s, 4)


def train_ours(
    process: subprocess.Popen[str], folder: Path, cider: float, limit_s: float, look_s: float = 0.1
) -> Course:
    """Watches a run of ``camscribe train`` until it reaches ``cider``, passes the limit or ends; then stops it.

    Args:
        process: of the run, just started.
        folder: where it writes its log.
        cider: to be reached.
        limit_s: on the clock.
        look_s: between two looks at the log.

    Raises:
        EngineError: the run failed.
    """
    began = mark = time.perf_counter()
    scored, waiting = 0.0, False
    epochs: list[float] = []
    ciders: list[float] = []
    try:
        while True:
            ended = process.poll() is not None
            log, now = read_log(folder), time.perf_counter()
            found = [float(entry["tune_cider"]) for entry in log if "tune_cider" in entry]
            # The last entry of an epoch before its score says that its training is done.
            if len(found) == len(ciders) and log and "images_per_s" in log[-1] and not waiting:
                waiting, mark = True, now
                epochs.append(now - began - scored)
            elif len(found) > len(ciders):
                if not waiting:  # both came between two looks
                    mark = now
                epochs += [now - began - scored] * (len(found) - len(epochs))
                ciders, waiting = found, False
                scored += now - mark
            if ended or (ciders and (ciders[-1] >= cider or epochs[-1] > limit_s)):
                break
            time.sleep(look_s)
    finally:
        if process.poll() is None:
            process.kill()
        _, errors = process.communicate()
    if ended and process.returncode:
        raise EngineError(f"camscribe train failed: {errors.strip()[-500:]}")
    return _course(epochs[: len(ciders)], ciders, cider, limit_s)


def train_tutorial(
    weights: Weights,
    samples: Samples,
    batch: int,
    captions: int,
    cider: float,
    limit_s: float,
    score: Callable[[Weights], float],
) -> Course:
    """Trains by the tutorial's loop until the captions reach ``cider`` or the limit is passed.

    Args:
        weights: to begin with.
        samples: to learn from.
        batch: samples of a step.
        captions: of an image.
        cider, limit_s: see ``train_ours``.
        score: CIDEr of a model's captions.
    """
    import torch

    from camscribe.benchmarks.peers.tutorial_training import Training

    torch.manual_seed(0)
    training = Training(weights.tutorial(), weights.vocabulary.pad_id, trained=0)
    generator, clock = np.random.default_rng(0), 0.0
    epochs: list[float] = []
    ciders: list[float] = []
    while not ciders or (ciders[-1] < cider and clock <= limit_s):
        began = time.perf_counter()
        training.model.decoder.train()
        for images, words in training.batches(samples, batch, captions, generator):
            training.step(images, words)
        clock += time.perf_counter() - began
        epochs.append(clock)
        ciders.append(score(weights.taken_from(training.model)))
    return _course(epochs, ciders, cider, limit_s)


def score(weights: Weights, data: Path, split: str, threads: int) -> float:
    """CIDEr of a model's captions by ``camscribe evaluate``, words cut as the trainer's validation has them.

    Raises:
        EngineError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, report = Path(folder) / "model.safetensors", Path(folder) / "report.json"
        weights.write(checkpoint)
        command = [*command_line(), "evaluate", str(checkpoint), "--data", str(data), "--split", split, "--beams", "3"]
        command += ["--backend", "cpu", "--tokenizer", "words", "--ban", "<unk>", "--batch", "50", "--out", str(report)]
        command += ["--threads", str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EngineError(f"camscribe evaluate failed: {done.stderr.strip()[-500:]}")
        return float(json.loads(report.read_text(encoding="utf-8"))["scores"]["cider"])


def start(configuration: str, folder: Path, cache: Path, threads: int) -> subprocess.Popen[str]:
    """Starts ``camscribe train``.

    Args:
        configuration: TOML.
        folder: of the run, made here.
        cache: of frozen features.
        threads: of the CPU.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "speed.toml"
    file.write_text(configuration, encoding="utf-8")
    command = [sys.executable, "-m", "camscribe.runtime.cli", "train", str(file), "--out", str(folder)]
    command += ["--cache", str(cache), "--threads", str(threads), "--accelerator", "cpu"]
    # Its standard output is a bar of progress, which would fill a pipe that nobody empties.
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The entries that a run has logged so far."""
    file = folder / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def _course(epochs: list[float], ciders: list[float], cider: float, limit_s: float) -> Course:
    reached = next((seconds for seconds, found in zip(epochs, ciders, strict=True) if found >= cider), None)
    why = None
    if reached is None:
        best = max(ciders, default=0.0)
        why = f"stopped after {epochs[-1] if epochs else 0:.0f} s (limit {limit_s:g} s) at CIDEr {best:.3f}"
    return Course(
        None if reached is None else round(reached, 2),
        why,
        tuple(round(seconds, 2) for seconds in epochs),
        tuple(round(found, 4) for found in ciders),
    )
