"""Captions of a whole split, by a bundle on any backend or by a checkpoint in PyTorch, and files of captions."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from camscribe.runtime.bundle import content_sha256
from camscribe.runtime.captioner import Captioner, check_batch
from camscribe.runtime.commands.arguments import ensemble_of, print_choice
from camscribe.runtime.errors import DataError, OptionError, SourceError
from camscribe.runtime.guided.options import OwnChanges
from camscribe.runtime.images import read
from camscribe.runtime.pixels import Pixels, PixelSpec, reduce
from camscribe.runtime.progress import ProgressBar
from camscribe.runtime.search import Hypothesis, SearchOptions
from camscribe.runtime.vocab import Vocabulary
from camscribe.train.config import Config
from camscribe.train.readers import CaptionedImage

if TYPE_CHECKING:
    from camscribe.runtime.guided.options import GuidedChanges
    from camscribe.train.executor import TorchExecutor
    from camscribe.train.stored_regions import StoredRegions

CHECKPOINT_SUFFIX = ".safetensors"
Caption = Callable[["TorchExecutor", Sequence[CaptionedImage], SearchOptions], Iterator[Hypothesis | SourceError]]
"""Gives the best hypothesis of each image."""


@dataclass(frozen=True)
class Device:
    """Where and how a model is run."""

    backend: str = "auto"
    """For a bundle one of the runtime's; for a checkpoint ``auto``, ``cpu`` or ``cuda``."""
    precision: str | None = None
    """A precision of the bundle; a checkpoint has none but float32."""
    threads: int | None = None
    verbose: bool = False
    """Say on standard error where it runs, and why."""


@dataclass(frozen=True)
class Written:
    """A generated caption."""

    text: str
    log_prob: float
    score: float
    truncated: bool


@dataclass(frozen=True)
class Captions:
    """Generated captions and what made them."""

    by_image: dict[str, Written]
    """In the order of the images."""
    unreadable: tuple[str, ...]
    """Images that could not be read, one line each."""
    model: dict[str, Any]
    """Kind, name, sha256, backend, precision: JSON-able."""
    search: dict[str, Any]
    """All search options."""
    vocabulary: Vocabulary
    seconds: float
    """For all images, reading them included."""


def caption_split(
    model: Path | None,
    images: Sequence[CaptionedImage],
    *,
    device: Device | None = None,
    batch: int = 8,
    ban: Sequence[str] = (),
    changes: GuidedChanges | None = None,
    features: Path | None = None,
    ensemble: Sequence[Path] = (),
) -> Captions:
    """Captions images with a bundle (a folder; None for the one that comes with camscribe) or a checkpoint (a file).

    Args:
        model: the bundle or checkpoint.
        images: what is captioned.
        device: where it runs.
        batch: images captioned together.
        ban: words that may not appear, besides those the model bans.
        changes: search options that differ from the model's own.
        features: precomputed ones, for a checkpoint that was trained on such; None for those it was trained on.
        ensemble: further bundles, whose probabilities are averaged with the first one's.

    Raises:
        CamscribeError: the model cannot be used, or an option has no meaning. An image that cannot be read is no
            reason to stop: see ``Captions.unreadable``.
    """
    device = device or Device()
    changes = {name: value for name, value in (changes or {}).items() if value is not None}  # type: ignore[assignment]
    if model is not None and model.suffix == CHECKPOINT_SUFFIX:
        if ensemble:
            raise OptionError(
                f"{model} is a checkpoint, and an ensemble is of bundles; export it first, or join decoders of one "
                "encoder with camscribe join"
            )
        return _caption_by_checkpoint(model, images, device, batch, ban, changes, features)
    if features is not None:
        raise OptionError("features are given, and a bundle captions pixels; expected a checkpoint trained on features")
    return _caption_by_bundle(model, ensemble, images, device, batch, ban, changes)


def write_lines(captions: Captions, images: Sequence[CaptionedImage]) -> bytes:
    """Captions as JSON lines, which ``read_results`` reads back."""
    return "".join(
        json.dumps({"image_id": image.image_id, "file": image.path.name, "caption": written.text, **_numbers(written)})
        + "\n"
        for image in images
        if (written := captions.by_image.get(image.image_id)) is not None
    ).encode()


def read_results(path: Path) -> dict[str, str]:
    """Reads captions: COCO's results (a JSON list of ``image_id`` and ``caption``), or the same as JSON lines.

    Returns:
        image_id as text -> caption.

    Raises:
        DataError: the file cannot be read, an entry is broken, or an image is captioned twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        is_list = text.lstrip().startswith("[")
        entries = json.loads(text) if is_list else [json.loads(line) for line in text.splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected captions as JSON") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is neither JSON nor JSON lines ({error})") from error
    captions: dict[str, str] = {}
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("caption"), str) or "image_id" not in entry:
            raise DataError(f"{path}: entry {number} of {len(entries)} has no image_id and caption")
        image = str(entry["image_id"])
        if image in captions:
            raise DataError(f"{path}: entry {number} of {len(entries)} captions image {image} a second time")
        captions[image] = entry["caption"]
    if not captions:
        raise DataError(f"{path}: holds no captions")
    return captions


def _caption_by_bundle(
    model: Path | None,
    ensemble: Sequence[Path],
    images: Sequence[CaptionedImage],
    device: Device,
    batch: int,
    ban: Sequence[str],
    changes: GuidedChanges,
) -> Captions:
    bundles = ensemble_of(model, ensemble)
    with Captioner.load(bundles, device.backend, device.precision, device.threads) as captioner:  # type: ignore[arg-type]
        print_choice(captioner.choice, verbose=device.verbose)
        options = captioner.options(ban, **changes)
        found = captioner.caption_each([image.path for image in images], options, batch=batch)
        results = (
            each if isinstance(each, SourceError) else Written(each.text, each.log_prob, each.score, each.truncated)
            for each in found
        )
        by_image, unreadable, seconds = _collect(images, results)
        (bundle, *others), choice = captioner.bundles, captioner.choice
    about: dict[str, Any] = {
        "kind": "bundle",
        "name": bundle.manifest.name,
        "sha256": content_sha256(bundle.path),
        "backend": choice.backend,
        "precision": choice.precision,
    }
    if others:
        about["ensemble"] = [{"name": other.manifest.name, "sha256": content_sha256(other.path)} for other in others]
    return Captions(by_image, unreadable, about, asdict(options), bundle.vocabulary, seconds)


def _caption_by_checkpoint(
    model: Path,
    images: Sequence[CaptionedImage],
    device: Device,
    batch: int,
    ban: Sequence[str],
    changes: GuidedChanges,
    features: Path | None,
) -> Captions:
    import torch

    from camscribe.train.checkpoint import Checkpoint
    from camscribe.train.executor import TorchExecutor

    guided = [name for name in changes if name in OwnChanges.__annotations__]
    if guided:
        raise OptionError(f"{' and '.join(guided)}: a bundle's search can do that, a checkpoint's cannot: export it")
    if device.precision not in (None, "float32"):
        raise OptionError(f"precision is {device.precision!r}; a checkpoint has only float32: export it for others")
    check_batch(batch)
    if device.threads is not None:
        if device.threads < 1:
            raise OptionError(f"threads is {device.threads}; expected 1 or more")
        torch.set_num_threads(device.threads)
    where = _torch_device(device.backend)
    if device.verbose:
        print(f"camscribe: backend torch {where.type}: a checkpoint runs in PyTorch", file=sys.stderr)
    checkpoint = Checkpoint.load(model)
    config, vocabulary = checkpoint.config, checkpoint.vocabulary
    for word in ban:
        if word not in vocabulary:
            raise OptionError(f"ban has {word!r}, which is not a word of this model")
    own = config.validation
    options = SearchOptions(
        beams=own.beams,
        max_words=own.max_words,
        length_penalty=own.length_penalty,
        ban=tuple(dict.fromkeys(("<unk>", *ban))),
    ).override(**changes)
    executor = TorchExecutor(checkpoint.model().to(where), vocabulary)

    def results(caption: Caption) -> Iterator[Written | SourceError]:
        for start in range(0, len(images), batch):
            for best in caption(executor, images[start : start + batch], options):
                if isinstance(best, SourceError):
                    yield best
                else:
                    yield Written(" ".join(vocabulary.decode(best.tokens)), best.log_prob, best.score, best.truncated)

    with _way_of(config, features, images) as caption:
        by_image, unreadable, seconds = _collect(images, results(caption))
    about = {
        "kind": "checkpoint",
        "name": model.name,
        "sha256": _sha256(model),
        "backend": f"torch {where.type}",
        "precision": "float32",
    }
    return Captions(by_image, unreadable, about, asdict(options), vocabulary, seconds)


def _collect(
    images: Sequence[CaptionedImage], results: Iterable[Written | SourceError]
) -> tuple[dict[str, Written], tuple[str, ...], float]:
    """Captions by image, what is wrong with those that cannot be read, and the seconds it took."""
    begin = time.perf_counter()
    by_image: dict[str, Written] = {}
    unreadable = []
    with ProgressBar("captioned", len(images)) as bar:
        for done, (image, result) in enumerate(zip(images, results, strict=True), start=1):
            if isinstance(result, SourceError):
                unreadable.append(str(result))
            else:
                by_image[image.image_id] = result
            bar.update(done)
    return by_image, tuple(unreadable), time.perf_counter() - begin


@contextlib.contextmanager
def _way_of(config: Config, features: Path | None, images: Sequence[CaptionedImage]) -> Iterator[Caption]:
    """How a checkpoint captions images: by their pixels, or by their precomputed features."""
    stored = stored_features(config, features)
    if stored is None:
        spec = PixelSpec(config.model.image_height, config.model.image_width, config.model.fit)
        yield functools.partial(_by_pixels, spec)
        return
    from camscribe.train.stored_regions import StoredRegions

    with tempfile.TemporaryDirectory() as folder:
        yield functools.partial(_by_features, StoredRegions(stored, images, config.model, Path(folder)))


def stored_features(config: Config, given: Path | None) -> Path | None:
    """The precomputed features that a model captions by: the given ones, else those it was trained on; None for one
    that sees pixels.

    Raises:
        OptionError: such a model is given features.
    """
    if config.model.encoder != "features":
        if given is not None:
            raise OptionError(f"features are given, and the checkpoint's encoder is {config.model.encoder}")
        return None
    return given or Path(config.data.features or "")


def _by_pixels(
    spec: PixelSpec, executor: TorchExecutor, images: Sequence[CaptionedImage], options: SearchOptions
) -> Iterator[Hypothesis | SourceError]:
    pixels = [_pixels(image.path, spec) for image in images]
    good = [each for each in pixels if not isinstance(each, SourceError)]
    found = iter(executor.caption(np.stack(good), options) if good else ())
    for each in pixels:
        yield each if isinstance(each, SourceError) else next(found)[0]


def _by_features(
    stored: StoredRegions, executor: TorchExecutor, images: Sequence[CaptionedImage], options: SearchOptions
) -> Iterator[Hypothesis | SourceError]:
    good = [image for image in images if image.image_id not in stored.problems]
    found: Iterator[Sequence[Hypothesis]] = iter(())
    if good:
        regions = stored.of(good).batch(range(len(good)), [0] * len(good))
        found = iter(executor.caption_regions(regions, options))
    for image in images:
        problem = stored.problems.get(image.image_id)
        yield next(found)[0] if problem is None else SourceError(problem)


def _pixels(path: Path, spec: PixelSpec) -> Pixels | SourceError:
    try:
        return reduce(read(path), spec)
    except SourceError as error:
        return error


def _torch_device(backend: str) -> Any:
    import torch

    if backend not in ("auto", "cpu", "cuda"):
        raise OptionError(f"backend is {backend!r}; a checkpoint runs in PyTorch on auto, cpu or cuda: export it first")
    if backend == "cuda" and not torch.cuda.is_available():
        raise OptionError("backend is 'cuda'; PyTorch finds no GPU here: use cpu")
    return torch.device("cuda" if backend != "cpu" and torch.cuda.is_available() else "cpu")


def _numbers(written: Written) -> dict[str, Any]:
    return {"log_prob": written.log_prob, "score": written.score, "truncated": written.truncated}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
