"""Training throughput: ``camscribe train`` beside the tutorial's training loop, same weights, photographs and batch.

    python -m camscribe.benchmarks.training_speed --data FLICKR8K --until-cider 0.4 \\
        --out benchmarks/results/training_speed.json

Ours is the real command in a process of its own; its own log says how many images a second it trained on. The
tutorial's loop (peers/tutorial_training.py) runs here, in turn with it. A sample is one photograph with one caption.
The first epoch of either warms up and is not counted, nor are start-up, validation and (ours) filling the cache of
frozen features, whose seconds stand beside.

``--until-cider X`` then measures how long each trains a new decoder until its captions reach X (time_to_cider.py).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from camscribe.benchmarks import scripts, time_to_cider
from camscribe.benchmarks.flickr8k import read_captions
from camscribe.benchmarks.measure import Environment, environment
from camscribe.benchmarks.time_to_cider import TimeToCider, score
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import EngineError, OptionError
from camscribe.runtime.images import read
from camscribe.runtime.pixels import PixelSpec, reduce
from camscribe.runtime.threads import physical_cores
from camscribe.runtime.vocab import Vocabulary

if TYPE_CHECKING:
    from camscribe.benchmarks.peers.tutorial_training import Samples
    from camscribe.benchmarks.peers.tutorial_weights import Weights

SCHEMA = 2
MOST_EPOCHS = 1000
"""Of a run that is stopped before."""
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

    captions = read_captions(data, "train", vocabulary)
    names = sorted(captions)[:count]
    images = np.stack([reduce(read(data / "images" / name), spec) for name in names])
    return Samples(images, tuple(tuple(captions[name]) for name in names))


def configuration(
    checkpoint: Path,
    weights: Weights,
    data: Path,
    train: str,
    tune: str,
    setting: Setting,
    epochs: int,
    schedule: bool = True,
) -> str:
    """What ``camscribe train`` is given: the tutorial's objective, our optimiser and averaging.

    TOML, whose strings and numbers are those of JSON. Without ``schedule`` the learning rate stays as it is, because
    nobody knows beforehand how many epochs there will be, and the average of the weights is one over fewer steps.
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
    if not schedule:
        stage |= {"warm_up_steps": 50, "final_learning_rate": 1.0, "average_decay": 0.98}
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
    process = time_to_cider.start(configuration, folder, cache, threads)
    start = time.perf_counter()
    _, errors = process.communicate()
    seconds = time.perf_counter() - start
    if process.returncode:
        raise EngineError(f"camscribe train failed: {errors.strip()[-500:]}")
    return time_to_cider.read_log(folder), seconds


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
) -> tuple[Throughput, ...]:
    """Both sides in turn, for each setting.

    Args:
        checkpoint: of camscribe; where both begin.
        data: Flickr8k's folder.
        images: the first so many of its training split.
        settings: what is trained.
        rounds: how often each side runs.
        epochs: of a run; the first warms up.
        threads: of the CPU.

    """
    from camscribe.benchmarks.peers.tutorial_weights import Weights

    weights = Weights.read(checkpoint)
    samples = read_samples(data, images, _spec(weights), weights.vocabulary)
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
    return tuple(results)


def until_cider(
    checkpoint: Path,
    data: Path,
    images: int,
    batch: int,
    cider: float,
    limit_s: float,
    threads: int,
    tune: str = "dev[:200]",
    captions: int = 5,
) -> TimeToCider:
    """Both sides until ``cider``, ours first; see time_to_cider.py.

    Args:
        checkpoint: whose encoder both have; its decoder is forgotten.
        data: Flickr8k's folder.
        images: the first so many of its training split.
        batch: captions of a step.
        cider: to be reached; 1 is 100 %.
        limit_s: seconds of training after which a side gives up.
        threads: of the CPU.
        tune: split to score.
        captions: of an image.
    """
    import torch

    from camscribe.benchmarks.peers.tutorial_weights import Weights

    torch.set_num_threads(threads)
    weights = Weights.read(checkpoint).forgotten()
    samples = read_samples(data, images, _spec(weights), weights.vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        new, run = Path(folder) / "new.safetensors", Path(folder) / "run"
        weights.write(new)
        # Ours takes an image with all its captions: as many captions in a step on both sides.
        setting = Setting(0, captions, max(1, batch // captions))
        text = configuration(new, weights, data, f"train[:{images}]", tune, setting, MOST_EPOCHS, schedule=False)
        process = time_to_cider.start(text, run, Path(folder) / "cache", threads)
        ours = time_to_cider.train_ours(process, run, cider, limit_s)
        theirs = time_to_cider.train_tutorial(
            weights, samples, batch, captions, cider, limit_s, lambda made: score(made, data, tune, threads)
        )
    ratio = time_to_cider.ratio(ours, theirs)
    return TimeToCider(cider, images, captions, tune, limit_s, ours, theirs, ratio)


def _spec(weights: Weights) -> PixelSpec:
    model = weights.model
    return PixelSpec(model["image_height"], model["image_width"], model.get("fit", "squash"))


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
        for name, course in (("ours", found.ours), ("tutorial", found.tutorial)):
            end = course.why_not or f"reached after {course.reached_s:.0f} s, {len(course.epochs_s)} epochs"
            rows.append(f"CIDEr {found.cider:g} with {found.images} images, {name}: {end}")
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; returns the exit status."""
    from camscribe.benchmarks.peers.tutorial_weights import Weights

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Flickr8k: captions.train.tsv and images/")
    parser.add_argument("--checkpoint", type=Path, help="where both sides begin (default: the bundled model's weights)")
    parser.add_argument("--images", type=int, default=256, help="photographs to train on (default: 256)")
    parser.add_argument("--batch", type=int, default=32, help="of a step (default: 32)")
    parser.add_argument("--trained", type=int, nargs="+", default=[0, 5], help="backbone stages trained (default: 0 5)")
    parser.add_argument("--captions", type=int, nargs="+", default=[1, 5], help="of an image (default: 1 5)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side; 0: no throughput (default: 3)")
    parser.add_argument("--epochs", type=int, default=3, help="of a run, the first not counted (default: 3)")
    until = parser.add_argument_group("time to a CIDEr")
    until.add_argument("--until-cider", type=float, metavar="X", help="train a new decoder until X, both sides")
    until.add_argument("--until-images", type=int, default=1000, help="photographs to train it on (default: 1000)")
    until.add_argument("--tune", default="dev[:200]", help="split whose captions are scored (default: dev[:200])")
    until.add_argument("--limit", type=float, default=300, metavar="S", help="give up after so long (default: 300)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    _check(options)
    scripts.prepare(options.out)
    where, threads = environment(), physical_cores()
    settings = [
        Setting(trained, captions, options.batch) for trained in options.trained for captions in options.captions
    ]
    results: tuple[Throughput, ...] = ()
    reached = None
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = options.checkpoint or _bundled(Path(folder))
        model = Weights.read(checkpoint).model
        if options.rounds:
            results = throughput(
                checkpoint, options.data, options.images, settings, options.rounds, options.epochs, threads
            )
        if options.until_cider is not None:
            sizes = options.until_images, options.batch
            reached = until_cider(
                checkpoint, options.data, *sizes, options.until_cider, options.limit, threads, options.tune
            )
    made = TrainingSpeed(SCHEMA, where, options.images, threads, model, results, reached)
    if options.out:
        scripts.write(made, options.out)
    print(summary(made))
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuses numbers that have no meaning."""
    for name, least in (("images", 1), ("batch", 1), ("rounds", 0), ("epochs", 2), ("until_images", 1)):
        value = getattr(options, name)
        if not least <= value <= 1_000_000:
            raise OptionError(f"--{name.replace('_', '-')} is {value}; expected at least {least}")
    if options.until_cider is not None and not 0 <= options.until_cider <= 10:
        raise OptionError(f"--until-cider is {options.until_cider:g}; expected a score such as 0.4, where 1 is 100 %")
    if not 0 < options.limit <= 1e6:
        raise OptionError(f"--limit is {options.limit:g}; expected seconds")
    if not options.rounds and options.until_cider is None:
        raise OptionError("--rounds 0 leaves nothing to measure; add --until-cider X")


def _bundled(folder: Path) -> Path:
    """The weights of the bundle that comes with camscribe as a checkpoint."""
    from camscribe.benchmarks.peers import bundle_weights

    file = folder / "bundled.safetensors"
    bundle_weights.read(Bundle.load(None)).write(file)
    return file


if __name__ == "__main__":
    scripts.end(main, "training_speed")
