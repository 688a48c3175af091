"""``camscribe export``: turns a checkpoint into a bundle, or adds measured quality to one."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from camscribe.export.bundling import CPU_PRECISIONS, export_bundle
from camscribe.export.photographs import calibration_images, parity_images
from camscribe.runtime.bundle import MANIFEST, VOCABULARY, Bundle, write_bundle
from camscribe.runtime.commands.arguments import Parser
from camscribe.runtime.errors import DataError, OptionError
from camscribe.runtime.pixels import PixelSpec
from camscribe.runtime.search import SearchOptions
from camscribe.train.checkpoint import Checkpoint


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(argv)
    quality = _quality(options.quality)
    if options.update is not None:
        if options.checkpoint is not None or options.out is not None:
            raise OptionError("--update takes neither a checkpoint nor --out; give it --quality, and --cpu-precision")
        update_bundle(options.update, quality, options.cpu_precision)
        print(f"updated {options.update}")
        return 0
    if options.no_int8 and (options.int8_encoder or options.cpu_precision == "int8"):
        raise OptionError("--no-int8 writes no int8 graphs; leave out --int8-encoder and --cpu-precision int8, or it")
    if options.checkpoint is None or options.out is None:
        raise OptionError("expected a checkpoint and --out BUNDLE; see camscribe export --help")
    file = options.checkpoint / "best.safetensors" if options.checkpoint.is_dir() else options.checkpoint
    checkpoint = Checkpoint.load(file)
    config = checkpoint.config
    spec = PixelSpec(config.model.image_height, config.model.image_width, config.model.fit)
    search = SearchOptions(
        beams=config.validation.beams,
        length_penalty=config.validation.length_penalty,
        max_words=config.validation.max_words,
        ban=("<unk>",),
    ).override(
        beams=options.beams, length_penalty=options.length_penalty, max_words=options.max_words, stop=options.stop
    )
    figures = export_bundle(
        checkpoint,
        options.out,
        name=options.name or options.out.name,
        search=search,
        spec=spec,
        parity_images=parity_images(options.parity_images, spec),
        calibration=None if options.no_int8 else calibration_images(options.calibration, config.data, spec),
        quality=quality,
        cpu_precision=options.cpu_precision or "float32",
        int8_encoder=options.int8_encoder,
    )
    for precision, values in figures.items():
        print(f"{precision}: {_line(values)}")
    print(f"wrote {options.out}, {sum(path.stat().st_size for path in options.out.iterdir()) / 1e6:.1f} MB")
    return 0


def update_bundle(folder: Path, quality: dict[str, dict[str, Any]], cpu_precision: str | None) -> None:
    """Adds measured quality to a bundle, and names the precision that CPUs take; all else stays as it is.

    Raises:
        BundleError: the bundle cannot be used, or not be written.
        OptionError: it has no such precision.
    """
    bundle = Bundle.load(folder)
    for precision in (*quality, *([cpu_precision] if cpu_precision else [])):
        bundle.manifest.precision_for("cpu", precision)
    manifest = replace(
        bundle.manifest,
        quality={
            **bundle.manifest.quality,
            **{name: {**bundle.manifest.quality.get(name, {}), **splits} for name, splits in quality.items()},
        },
        cpu_precision=cpu_precision or bundle.manifest.cpu_precision,
    )
    with write_bundle(folder) as draft:
        for name in manifest.files:
            if name not in (MANIFEST, VOCABULARY):
                shutil.copyfile(folder / name, draft.folder / name)
        draft.finish(manifest, bundle.vocabulary)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="camscribe export", description="Turns a checkpoint into a bundle, which is all a device needs."
    )
    parser.add_argument("checkpoint", nargs="?", type=Path, help="a checkpoint, or a run's folder for its best one")
    parser.add_argument("--out", type=Path, metavar="BUNDLE", help="folder to write; a bundle there is replaced")
    parser.add_argument("--name", help="the bundle's name (default: the folder's)")
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FOLDER",
        help="photographs that show int8 graphs the range of their numbers (default: the training data)",
    )
    parser.add_argument("--no-int8", action="store_true", help="write no int8 graphs")
    parser.add_argument(
        "--int8-encoder", action="store_true", help="quantise the encoder too: faster, and worth measuring the loss"
    )
    parser.add_argument("--cpu-precision", choices=CPU_PRECISIONS, help="what CPUs take (default: float32)")
    parser.add_argument(
        "--parity-images",
        type=Path,
        metavar="FOLDER",
        help="photographs that lie in the bundle with their expected words (default: those of the shipped bundle)",
    )
    parser.add_argument(
        "--quality",
        action="append",
        default=[],
        metavar="PRECISION=REPORT",
        help="a report of camscribe evaluate to record; more than one for more precisions",
    )
    parser.add_argument("--update", type=Path, metavar="BUNDLE", help="add --quality or --cpu-precision to this bundle")
    search = parser.add_argument_group("search defaults of the bundle", "Those of the training's validation if absent.")
    search.add_argument("--beams", type=int, metavar="K")
    search.add_argument("--length-penalty", type=float, metavar="A")
    search.add_argument("--max-words", type=int, metavar="N")
    search.add_argument("--stop", choices=("optimal", "first_k"))
    return parser


def _quality(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``int8=report.json`` ... -> precision -> split -> what the manifest keeps of the report."""
    quality: dict[str, dict[str, Any]] = {}
    for text in texts:
        precision, _, path = text.partition("=")
        if not path:
            raise OptionError(f"--quality {text!r}; expected PRECISION=REPORT.json")
        try:
            report = json.loads(Path(path).read_text(encoding="utf-8"))
            data, counts = report["data"], report["quality"]
            kept = {
                "images": data["scored"],
                **report["scores"],
                "tokenizer": report["tokenizer"],
                "beams": report["search"]["beams"],
                "different": counts["different"],
                "bad_endings": counts["bad_endings"],
                "stuttered": counts["stuttered"],
            }
            split = f"{data['format']} {data['split']}"
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: is not a report of camscribe evaluate on a model ({error!r:.100})") from error
        quality.setdefault(precision, {})[split] = kept
    return quality


def _line(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.2e}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )
