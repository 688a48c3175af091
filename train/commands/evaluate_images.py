"""``camscribe evaluate`` of an enhancer: PSNR and SSIM of enlarged images beside the truth."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from camscribe.runtime import images
from camscribe.runtime.bundle import MANIFEST, kind_of
from camscribe.runtime.commands.arguments import print_choice
from camscribe.runtime.enhancer import Enhancer
from camscribe.runtime.errors import DataError, OptionError
from camscribe.runtime.files import make_folder, write_atomically
from camscribe.runtime.guided.options import OwnChanges
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.progress import ProgressBar
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.superres.metrics import cropped, image_scores
from camscribe.train.superres.patches import Pair, pair, photograph_files
from camscribe.train.superres.perceptual import LPIPS_SMALLEST, lpips_metric
from camscribe.train.superres.pictures import sheet
from camscribe.train.superres.resize import resize
from camscribe.train.versions import versions

REPORT_SCHEMA = 1
_LABELS = {
    "psnr_y": "PSNR, luma",
    "ssim_y": "SSIM, luma",
    "psnr_rgb": "PSNR, RGB",
    "ssim_rgb": "SSIM, RGB",
    "lpips": "LPIPS (AlexNet)",
}
_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "scikit-image", "torch", "lpips")
_CAPTIONERS = (
    "ensemble",
    "results",
    "split",
    "captions",
    "images",
    "features",
    "skip_bad",
    "beams",
    "length_penalty",
    "max_words",
    "min_words",
    "stop",
    "ban",
    "tokenizer",
    "captions_out",
    *OwnChanges.__annotations__,
)
"""Options of ``camscribe evaluate`` that mean nothing here."""
_MODELS = {"backend": "auto", "precision": None, "threads": None, "verbose": False, "bundle_variant": None}
"""Those that mean nothing without a model, with their defaults."""
_LARGE, _SMALL = "_HR", "_LR"
_SMALLEST = 11

Enlarge = Callable[[Pixels], Pixels]
"""uint8 [h, w, 3] -> [scale h, scale w, 3]."""


def is_enhancer(model: Path) -> bool:
    """Whether a path is an enhancer's bundle, or a generator's checkpoint."""
    if (model / MANIFEST).is_file():
        return kind_of(model) == "enhancer"
    return model.is_file() and Checkpoint.load(model).task == "super_resolution"


def evaluate_images(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Scores an enhancer, or bicubic enlargement, as the options of ``camscribe evaluate`` say; returns the status."""
    if options.data is None:
        raise OptionError("--data is not given; expected a folder of images in full resolution")
    for name in _CAPTIONERS:
        if getattr(options, name) not in (None, False, []):
            raise OptionError(f"{flag(name)} is a captioner's; enlarged images are scored here")
    if options.border is not None and options.border < 0:
        raise OptionError(f"--border is {options.border}; expected 0 or more pixels")
    if options.bicubic is not None:
        refuse_ignored(options, _MODELS, "--bicubic runs no model")
    check_outputs({"--out": options.out, "--sheet": options.sheet})
    enlarge, scale, about = _model(options)
    border = scale if options.border is None else options.border
    pairs, origin = read_pairs(options.data, options.small, scale, border)
    if options.self_ensemble:
        enlarge = _ensemble(enlarge)
    perceived, why_not = lpips_metric()
    too_small = [item.name for item in pairs if min(item.large.shape[:2]) - 2 * border < LPIPS_SMALLEST]
    if perceived is not None and too_small:
        perceived = None
        why_not = f"{too_small[0]} has fewer than {LPIPS_SMALLEST}x{LPIPS_SMALLEST} pixels without its border"
    each: dict[str, dict[str, float]] = {}
    made: list[Pixels] = []
    with ProgressBar("scored", len(pairs)) as bar:
        for done, item in enumerate(pairs, start=1):
            big = enlarge(item.small)
            each[item.name] = asdict(image_scores(big, item.large, border))
            if perceived is not None:
                each[item.name]["lpips"] = perceived(cropped(big, border), cropped(item.large, border))
            made.append(big)
            bar.update(done)
    scores = {name: float(np.mean([row[name] for row in each.values()])) for name in next(iter(each.values()))}
    report = {
        "schema": REPORT_SCHEMA,
        "command": ["camscribe", "evaluate", *argv],
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(_PACKAGES),
        "model": about,
        "data": {
            "name": options.data.resolve().name,
            "images": len(pairs),
            "scale": scale,
            "border": border,
            "small_images": origin,
        },
        "self_ensemble": options.self_ensemble,
        "scores": scores,
        "each": each,
    }
    if options.out is not None:
        write_atomically(options.out, (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
    if options.sheet is not None:
        sheet(pairs, made, options.sheet)
    print(f"{about['name']}: {len(pairs)} images of {report['data']['name']}, x{scale}, small images {origin}")
    ensemble = "; mean over eight flips and turns" if options.self_ensemble else ""
    print(f"border of {border} pixels left out; luma is BT.601's in whole levels{ensemble}")
    for name, value in scores.items():
        unit = " dB" if name.startswith("psnr") else ""
        print(f"  {_LABELS[name]:16} {value:8.4f}{unit}")
    if why_not:
        print(f"  no LPIPS: {why_not}")
    return 0


def flag(name: str) -> str:
    """The option that has this destination."""
    return "--variant" if name == "bundle_variant" else f"--{name.replace('_', '-')}"


def refuse_ignored(options: argparse.Namespace, defaults: Mapping[str, Any], why: str) -> None:
    """Refuses options that would be ignored.

    Args:
        options: of the command line.
        defaults: of the options in question, by their destination.
        why: they would be.

    Raises:
        OptionError: one is given.
    """
    for name, default in defaults.items():
        if getattr(options, name) != default:
            raise OptionError(f"{flag(name)} is given, but {why}; leave it out")


def check_outputs(outputs: Mapping[str, Path | None]) -> None:
    """Makes sure that files can be written, before any work is done for them.

    Args:
        outputs: files, or None, by their option.

    Raises:
        OptionError: one is a folder, two are the same, or a folder cannot be made or written into.
    """
    taken: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        if path.is_dir():
            raise OptionError(f"{option} {path}: is a folder; expected the name of a file to write")
        other = taken.setdefault(path.resolve(), option)
        if other != option:
            raise OptionError(f"{option} {path}: is the file of {other} too; expected two files")
    for option, path in outputs.items():
        if path is not None:
            make_folder(path.parent, option)


def read_pairs(large: Path, small: Path | None, scale: int, border: int) -> tuple[list[Pair], str]:
    """The images to score and their small versions.

    Args:
        large: a folder of images in full resolution, or of pairs named ``NAME_HR`` and ``NAME_LR``.
        small: a folder of small images of the same names (with ``x4`` or ``_LR`` added or not).
        scale: of the model.
        border: left out of every side.

    Returns:
        The pairs, and where the small images are from.

    Raises:
        DataError: images are missing or too small, or a pair is not of this scale; all are named.
    """
    files = photograph_files(large)
    if small is None and any(path.stem.endswith(_LARGE) for path in files):
        names = {path.stem: path for path in files}
        found = [(path, names.get(path.stem[: -len(_LARGE)] + _SMALL)) for path in files if path.stem.endswith(_LARGE)]
    elif small is not None:
        names = {path.stem: path for path in photograph_files(small)}
        found = [(path, _small_of(path.stem, names, scale)) for path in files]
    else:
        made = [pair(path.name, images.read(path), scale) for path in files]
        _refuse([line for item in made for line in _problems(item, scale, border)])
        return made, "reduced as MATLAB's imresize does"
    problems = [f"{path.name}: has no small image" for path, other in found if other is None]
    _refuse(problems)
    made = [Pair(path.name, images.read(other), images.read(path)) for path, other in found if other is not None]
    _refuse([line for item in made for line in _problems(item, scale, border)])
    return made, "given"


def _small_of(stem: str, names: dict[str, Path], scale: int) -> Path | None:
    for name in (stem, f"{stem}x{scale}", f"{stem}{_SMALL}", stem.removesuffix(_LARGE) + _SMALL):
        if name in names:
            return names[name]
    return None


def _problems(item: Pair, scale: int, border: int) -> list[str]:
    expected = tuple(size * scale for size in item.small.shape[:2])
    if item.large.shape[:2] != expected:
        small, large = (f"{image.shape[1]}x{image.shape[0]}" for image in (item.small, item.large))
        return [f"{item.name}: {small} enlarged x{scale} is {expected[1]}x{expected[0]}, the truth is {large}"]
    if min(expected) - 2 * border < _SMALLEST:
        return [f"{item.name}: {expected[1]}x{expected[0]} is too small to leave a border of {border} pixels out"]
    return []


def _refuse(problems: list[str]) -> None:
    if problems:
        raise DataError(f"{len(problems)} bad pairs: {'; '.join(problems[:5])}")


def _model(options: argparse.Namespace) -> tuple[Enlarge, int, dict[str, Any]]:
    """What enlarges, by how much, and what the report says of it."""
    if options.bicubic is not None:
        if options.model is not None:
            raise OptionError("--bicubic takes no model")
        if not 2 <= options.bicubic <= 8:
            raise OptionError(f"--bicubic is {options.bicubic}; expected 2 to 8")
        scale = options.bicubic
        return lambda image: resize(image, float(scale)), scale, {"name": "bicubic"}
    if (options.model / MANIFEST).is_file():
        enhancer = Enhancer.load(
            options.model,
            "cpu" if options.backend == "cpu" else "auto",
            options.precision,
            options.threads,
            variant=options.bundle_variant,
        )
        print_choice(enhancer.choice, verbose=options.verbose)
        about = {
            "name": f"{enhancer.bundle.manifest.name} {enhancer.variant} {enhancer.choice.precision}",
            "bundle": enhancer.bundle.manifest.name,
            "variant": enhancer.variant,
            "precision": enhancer.choice.precision,
            "backend": enhancer.choice.backend,
        }
        return enhancer.enlarge, enhancer.scale, about
    return _checkpoint(options.model)


def _checkpoint(path: Path) -> tuple[Enlarge, int, dict[str, Any]]:
    import torch

    from camscribe.train.superres.weights import load_generator

    generator = load_generator(Checkpoint.load(path), str(path))

    @torch.no_grad()
    def enlarge(image: Pixels) -> Pixels:
        pixels = torch.tensor(image).permute(2, 0, 1)[None].float() / 255
        made: Pixels = (generator(pixels)[0] * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        return made

    return enlarge, generator.scale, {"name": f"checkpoint {path.name}", "backend": "pytorch", "precision": "float32"}


def _ensemble(enlarge: Enlarge) -> Enlarge:
    """The mean over eight flips and turns (Timofte et al. 2016, "seven ways")."""

    def mean(image: Pixels) -> Pixels:
        total = 0.0
        for turns in range(4):
            for flip in (False, True):
                turned = np.rot90(image[:, ::-1] if flip else image, turns)
                back = np.rot90(enlarge(np.ascontiguousarray(turned)), -turns)
                total = total + (back[:, ::-1] if flip else back).astype(np.float64)
        made: Pixels = np.floor(total / 8 + 0.5).astype(np.uint8)
        return made

    return mean
