"""``camscribe export`` of a generator's checkpoint: an enhancer's bundle."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from camscribe.export.enhancer import CALIBRATED, calibration_pixels, export_enhancer, update_enhancer
from camscribe.export.photographs import parity_images
from camscribe.runtime.errors import DataError, OptionError
from camscribe.runtime.pixels import PixelSpec
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.superres.weights import blend, config_of, load_generator

_CAPTIONERS = ("beams", "length_penalty", "max_words", "stop", "no_repeat", "ranges", "int8_encoder", "add", "renew")


def export(checkpoint: Checkpoint, file: Path, options: argparse.Namespace) -> int:
    """Exports an enhancer as the options of ``camscribe export`` say; returns the exit status."""
    _refuse_captioners(options)
    config = config_of(checkpoint, str(file))
    variants = {"psnr": (checkpoint, load_generator(checkpoint, str(file)))}
    if options.gan is not None:
        other = Checkpoint.load(options.gan)
        variants["gan"] = blend((checkpoint, str(file)), (other, str(options.gan)), options.blend)
    figures = export_enhancer(
        variants,
        options.out,
        name=options.name or options.out.name,
        parity_image=parity_images(options.parity_images, PixelSpec(CALIBRATED, CALIBRATED, "crop"))[0],
        calibration=calibration_pixels(options.calibration, config.data, config.model.scale),
        quality=read_quality(options.quality),
        cpu_precision=options.cpu_precision or "float32",
        fp16=not options.no_fp16,
        int8=not options.no_int8,
    )
    for variant, precisions in figures.items():
        for precision, values in precisions.items():
            largest, mean = values["largest"], values["mean"]
            print(f"{variant} {precision}: at most {largest} levels from PyTorch, {mean:.4f} on average")
    print(f"wrote {options.out}, {sum(path.stat().st_size for path in options.out.iterdir()) / 1e6:.1f} MB")
    return 0


def update(options: argparse.Namespace) -> int:
    """Updates an enhancer's bundle as ``camscribe export --update`` says; returns the exit status."""
    _refuse_captioners(options)
    if options.calibration is not None:
        raise OptionError("--calibration is for a new enhancer; --update makes no graphs of one")
    update_enhancer(options.update, read_quality(options.quality), options.cpu_precision)
    print(f"updated {options.update}")
    return 0


def _refuse_captioners(options: argparse.Namespace) -> None:
    for name in _CAPTIONERS:
        if getattr(options, name):
            raise OptionError(f"--{name.replace('_', '-')} is a captioner's; this is an enhancer")


def read_quality(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``psnr.int8=report.json`` ... -> variant -> precision -> data set -> scores.

    Raises:
        OptionError: a text has another form.
        DataError: a file is no report of ``camscribe evaluate`` on images.
    """
    quality: dict[str, dict[str, Any]] = {}
    for text in texts:
        names, _, path = text.partition("=")
        variant, _, precision = names.partition(".")
        if not path or not precision:
            raise OptionError(f"--quality {text!r}; expected VARIANT.PRECISION=REPORT.json for an enhancer")
        try:
            report = json.loads(Path(path).read_text(encoding="utf-8"))
            data = report["data"]
            kept = {"images": data["images"], "border": data["border"], **report["scores"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: is not a report of camscribe evaluate on images ({error!r:.100})") from error
        quality.setdefault(variant, {}).setdefault(precision, {})[data["name"]] = kept
    return quality
