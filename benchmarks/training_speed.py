"""Training throughput: ``camscribe train`` beside the tutorial's training loop, same weights, photographs and batch.

    python -m camscribe.benchmarks.training_speed --checkpoint CHECKPOINT --data FLICKR8K \\
        --out benchmarks/results/training_speed.json

Ours is the real command in a process of its own; its own log says how many images a second it trained on. The
tutorial's loop (peers/tutorial_training.py) runs here, in turn with it. A sample is one photograph with one caption.
The first epoch of either warms up and is not counted, nor are start-up, validation and (ours) filling the cache of
frozen features, whose seconds stand beside.

``--until-cider X`` measures, in place of that, how long ours trains until its validation reaches X.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from camscribe.benchmarks.measure import Environment, environment
from camscribe.runtime import typed_json
from camscribe.runtime.errors import CamscribeError, DataError, EngineError, OptionError
from camscribe.runtime.files import write_atomically
from camscribe.runtime.images import read
from camscribe.runtime.pixels import PixelSpec, reduce
from camscribe.runtime.threads import physical_cores
from camscribe.runtime.vocab import Vocabulary

if TYPE_CHECKING:
    from camscribe.benchmarks.peers.tutorial_training import Samples
    from camscribe.benchmarks.peers.tutorial_weights import Weights

SCHEMA = 1
MAX_WORDS = 20
_TUNE = 8
"""Images of the validation that a run cannot do without; not timed."""


@dataclass(frozen=True)
class Setting:
    """What is trained."""

    trained: int
    """Of the backbone's last stages; 0 freezes it."""
    captions: int
    """Of an image: ours takes them in one step together, the tutorial one after the other."""
    batch: int
    """Images of a step (ours), samples of a step (tutorial)."""


@dataclass(frozen=True)
class Throughput:
    """One setting, both sides in turn."""

    setting: Setting
    ours_samples_per_s: tuple[float, ...]
    """Of each counted epoch."""
    tutorial_samples_per_s: tuple[float, ...]
    ratio: float
    """Ours / tutorial, of the medians."""
    ours_before_s: float
    """Seconds of our process that are not in its epochs, in the median: start-up, cache, validation."""


@dataclass(frozen=True)
class TimeToCider:
    """How long ours trained until a quality was reached, everything included."""

    cider: float
    reached: float | None
    """CIDEr of the validation that reached it; None where the run ended before."""
    seconds: float
    epochs: int


@dataclass(frozen=True)
class TrainingSpeed:
    """The whole of ``training_speed.json``."""

    schema: int
    environment: Environment
    images: int
    threads: int
    model: dict[str, Any]
    throughput: tuple[Throughput, ...]
    time_to_cider: TimeToCider | None


def read_samples(data: Path, count: int, spec: PixelSpec, vocabulary: Vocabulary) -> Samples:
    """The first photographs of a Flickr8k training split, in the order in which ``camscribe train`` takes them.

    Args:
        data: folder with ``captions.train.tsv`` and ``images/``.
        count: of photographs.
        spec: of the pixels.
        vocabulary: of the checkpoint.

    Raises:
        DataError: the data is missing or broken.
    """
    from camscribe.benchmarks.peers.tutorial_training import Samples

    table = data / "captions.train.tsv"
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{table}: cannot be read ({error.strerror}); expected Flickr8k's captions") from error
    captions: dict[str, list[tuple[int, ...]]] = {}
    for number, line in enumerate(lines, 1):
        name, tab, text = line.partition("\t")
        if not tab or "#" not in name:
            raise DataError(f"{table}:{number}: is {line[:40]!r}; expected 'name.jpg#0<TAB>caption'")
        words = [word for word in text.lower().split() if any(letter.isalnum() for letter in word)]
        captions.setdefault(name.rpartition("#")[0], []).append(tuple(vocabulary.encode(words[:MAX_WORDS])))
    names = sorted(captions)[:count]
    images = np.stack([reduce(read(data / "images" / name), spec) for name in names])
    return Samples(images, tuple(tuple(captions[name]) for name in names))


def configuration(
    checkpoint: Path, weights: Weights, data: Path, train: str, tune: str, setting: Setting, epochs: int
) -> str:
    """What ``camscribe train`` is given: the tutorial's objective, our optimiser and averaging.

    TOML, whose strings and numbers are those of JSON.
    """
    model = {name: value for name, value in weights.model.items() if name != "weights"}
    stage = {
        "name": "speed",
        "epochs": epochs,
        "trained_backbone_stages": setting.trained,
        "batch": setting.batch,
        "captions_per_image": setting.captions,
        "variants": 1,
        "label_smoothing": 0.0,
        "attention_regularisation": 1.0,
        "gradient_clip": 5.0,
    }
    lines = [f"start = {json.dumps(str(checkpoint.resolve()))}", "checkpoint_seconds = 100000", "[data]"]
    lines += [f"root = {json.dumps(str(data.resolve()))}", f'train = "{train}"', f'tune = "{tune}"', "[model]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in {**model, "weights": "none"}.items()]
    lines += ["[[stage]]", *(f"{name} = {json.dumps(value)}" for name, value in stage.items())]
    return "\n".join(lines) + "\n"


def train_ours(configuration: str, folder: Path, cache: Path, threads: int) -> tuple[list[dict[str, Any]], float]:
    """Runs ``camscribe train`` to its end.

    Args:
        configuration: TOML.
        folder: of the run, made here.
        cache: of frozen features.
        threads: of the CPU.

    Returns:
        The entries of its log, and the seconds of the whole process.

    Raises:
        EngineError: it failed.
    """
    process = _start(configuration, folder, cache, threads)
    start = time.perf_counter()
    _, errors = process.communicate()
    seconds = time.perf_counter() - start
    if process.returncode:
        raise EngineError(f"camscribe train failed: {errors.strip()[-500:]}")
    return _log(folder), seconds


def train_tutorial(weights: Weights, samples: Samples, setting: Setting, epochs: int, threads: int) -> list[float]:
    """Runs the tutorial's loop; samples a second of each epoch."""
    import torch

    from camscribe.benchmarks.peers.tutorial_training import Training

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    training = Training(weights.tutorial(), weights.vocabulary.pad_id, setting.trained)
    generator, rates = np.random.default_rng(0), []
    for _ in range(epochs):
        done, start = 0, time.perf_counter()
        for images, captions in training.batches(samples, setting.batch, setting.captions, generator):
            training.step(images, captions)
            done += len(captions)
        rates.append(done / (time.perf_counter() - start))
    return rates


def throughput(
    checkpoint: Path, data: Path, images: int, settings: Sequence[Setting], rounds: int, epochs: int, threads: int
) -> tuple[dict[str, Any], tuple[Throughput, ...]]:
    """Both sides in turn, for each setting.

    Args:
        checkpoint: of camscribe; where both begin.
        data: Flickr8k's folder.
        images: the first so many of its training split.
        settings: what is trained.
        rounds: how often each side runs.
        epochs: of a run; the first warms up.
        threads: of the CPU.

    Returns:
        The model, and the results.
    """
    from camscribe.benchmarks.peers.tutorial_weights import Weights

    if epochs < 2:
        raise OptionError(f"--epochs is {epochs}; expected 2 or more, because the first one is not counted")
    weights = Weights.read(checkpoint)
    model = weights.model
    spec = PixelSpec(model["image_height"], model["image_width"], model.get("fit", "squash"))
    samples = read_samples(data, images, spec, weights.vocabulary)
    results = []
    for setting in settings:
        ours: list[float] = []
        theirs: list[float] = []
        outside: list[float] = []
        text = configuration(
            checkpoint, weights, data, f"train[:{len(samples.images)}]", f"train[:{_TUNE}]", setting, epochs
        )
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                log, seconds = train_ours(text, Path(folder) / "run", Path(folder) / "cache", threads)
            rates = [entry["images_per_s"] for entry in log if "images_per_s" in entry]
            outside.append(seconds - sum(len(samples.images) / rate for rate in rates))
            ours += [rate * setting.captions for rate in rates[1:]]
            theirs += train_tutorial(weights, samples, setting, epochs, threads)[1:]
        ratio = float(np.median(ours) / np.median(theirs))
        results.append(
            Throughput(setting, tuple(ours), tuple(theirs), round(ratio, 4), round(float(np.median(outside)), 2))
        )
    return model, tuple(results)


def until_cider(text: str, cider: float, folder: Path, cache: Path, threads: int, look_s: float = 1.0) -> TimeToCider:
    """Trains until a validation reaches ``cider``, then ends the run.

    Args:
        text: configuration with as many epochs as it may take.
        cider: 1 is 100 %.
        folder, cache, threads: see ``train_ours``.
        look_s: between two looks at the log.

    Raises:
        EngineError: the run failed.
    """
    process = _start(text, folder, cache, threads)
    start = time.perf_counter()
    try:
        while True:
            ended = process.poll() is not None
            seconds = time.perf_counter() - start
            scores = [entry["tune_cider"] for entry in _log(folder) if "tune_cider" in entry]
            reached = next((score for score in scores if score >= cider), None)
            if reached is not None or ended:
                break
            time.sleep(look_s)
    finally:
        if process.poll() is None:
            process.kill()
        _, errors = process.communicate()
    if ended and process.returncode:
        raise EngineError(f"camscribe train failed: {errors.strip()[-500:]}")
    return TimeToCider(cider, reached, round(seconds, 2), len(scores))


def _start(configuration: str, folder: Path, cache: Path, threads: int) -> subprocess.Popen[str]:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "speed.toml"
    file.write_text(configuration, encoding="utf-8")
    command = [sys.executable, "-m", "camscribe.runtime.cli", "train", str(file), "--out", str(folder)]
    command += ["--cache", str(cache), "--threads", str(threads), "--accelerator", "cpu"]
    # Its standard output is a bar of progress, which would fill a pipe that nobody empties.
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _log(folder: Path) -> list[dict[str, Any]]:
    file = folder / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def summary(made: TrainingSpeed) -> str:
    """For people."""
    rows = []
    for item in made.throughput:
        what = "frozen encoder" if not item.setting.trained else f"last {item.setting.trained} stages trained"
        ours, theirs = float(np.median(item.ours_samples_per_s)), float(np.median(item.tutorial_samples_per_s))
        rows.append(
            f"{what}, {item.setting.captions} captions an image: {ours:.1f} samples/s, tutorial {theirs:.1f}, "
            f"{item.ratio:.2f} times as fast"
        )
    if made.time_to_cider:
        found = made.time_to_cider
        end = "not reached" if found.reached is None else f"reached ({found.reached:.3f})"
        rows.append(f"CIDEr {found.cider} {end} after {found.seconds:.0f} s, {found.epochs} epochs")
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="of camscribe; where both sides begin")
    parser.add_argument("--data", type=Path, required=True, help="Flickr8k: captions.train.tsv and images/")
    parser.add_argument("--images", type=int, default=256, help="photographs to train on (default: 256)")
    parser.add_argument("--batch", type=int, default=32, help="of a step (default: 32)")
    parser.add_argument("--trained", type=int, nargs="+", default=[0, 5], help="backbone stages trained (default: 0 5)")
    parser.add_argument("--captions", type=int, nargs="+", default=[1, 5], help="of an image (default: 1 5)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side (default: 3)")
    parser.add_argument("--epochs", type=int, default=3, help="of a run, the first not counted (default: 3)")
    parser.add_argument("--until-cider", type=float, metavar="X", help="train on the whole data until X; takes hours")
    parser.add_argument("--tune", default="dev[:500]", help="split that --until-cider validates on")
    parser.add_argument("--max-epochs", type=int, default=30, help="of --until-cider (default: 30)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    from camscribe.benchmarks.peers.tutorial_weights import Weights

    where, threads = environment(), physical_cores()
    settings = [
        Setting(trained, captions, options.batch) for trained in options.trained for captions in options.captions
    ]
    model: dict[str, Any] = {}
    results: tuple[Throughput, ...] = ()
    reached = None
    if options.until_cider is None:
        model, results = throughput(
            options.checkpoint, options.data, options.images, settings, options.rounds, options.epochs, threads
        )
    else:
        weights = Weights.read(options.checkpoint)
        model = weights.model
        text = configuration(
            options.checkpoint, weights, options.data, "train", options.tune, settings[-1], options.max_epochs
        )
        with tempfile.TemporaryDirectory() as folder:
            reached = until_cider(text, options.until_cider, Path(folder) / "run", Path(folder) / "cache", threads)
    made = TrainingSpeed(SCHEMA, where, options.images, threads, model, results, reached)
    if options.out:
        text = json.dumps(typed_json.encode(made), indent=1, ensure_ascii=False)
        write_atomically(options.out, f"{text}\n".encode())
    print(summary(made))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CamscribeError as error:
        print(f"training_speed: {error}", file=sys.stderr)
        sys.exit(2)
