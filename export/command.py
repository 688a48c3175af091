"""``camscribe export``: turns a checkpoint into a bundle, or adds measured quality to one."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from camscribe.export import enhancer_command
from camscribe.export.bundling import CPU_PRECISIONS, export_bundle
from camscribe.export.fp16 import Added, add_fp16
from camscribe.export.photographs import calibration_images, folder_images, parity_images
from camscribe.export.renew import quantise_encoder, renew_decoders
from camscribe.runtime.bundle import MANIFEST, VOCABULARY, Bundle, kind_of, write_bundle
from camscribe.runtime.commands.arguments import Parser
from camscribe.runtime.errors import DataError, OptionError
from camscribe.runtime.files import make_folder, write_atomically
from camscribe.runtime.pixels import PixelSpec
from camscribe.runtime.search import SearchOptions
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.ranges import MODEL

_NEW = (
    "name",
    "parity_images",
    "no_repeat",
    "no_fp16",
    "no_int8",
    "gan",
    "blend",
    "beams",
    "length_penalty",
    "max_words",
    "stop",
)
"""Options of a bundle that is made anew."""
_OF_GRAPHS = ("add", "renew", "int8_encoder")
"""Options of an update that make graphs."""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(argv)
    _check(options)
    if options.update is not None:
        return _update(options)
    file = options.checkpoint / "best.safetensors" if options.checkpoint.is_dir() else options.checkpoint
    checkpoint = Checkpoint.load(file)
    if checkpoint.task == "super_resolution":
        options.blend = 1.0 if options.blend is None else options.blend
        return enhancer_command.export(checkpoint, file, options)
    if options.gan is not None:
        raise OptionError("--gan is an enhancer's; expected a generator's checkpoint with it")
    quality = _quality(options.quality)
    if options.ranges is not None:
        make_folder(options.ranges.parent, "--ranges")
    if options.no_repeat is not None:
        checkpoint.meta["config"]["model"]["no_repeat"] = options.no_repeat
    config = checkpoint.config
    if config.model.encoder == "features":
        raise OptionError(
            f"{file}: was trained on precomputed features and has no encoder of pixels, so that nothing can be "
            'exported; train one with encoder = "regions" or "faster_rcnn" (camscribe evaluate scores this one)'
        )
    spec = PixelSpec(config.model.image_height, config.model.image_width, config.model.fit)
    search = SearchOptions(
        beams=config.validation.beams,
        length_penalty=config.validation.length_penalty,
        max_words=config.validation.max_words,
        ban=("<unk>",),
    ).override(
        beams=options.beams, length_penalty=options.length_penalty, max_words=options.max_words, stop=options.stop
    )
    needs_images = not options.no_int8 or options.calibration is not None
    exported = export_bundle(
        checkpoint,
        options.out,
        name=options.name or options.out.name,
        search=search,
        spec=spec,
        parity_images=parity_images(options.parity_images, spec),
        calibration=calibration_images(options.calibration, config.data, spec) if needs_images else None,
        quality=quality,
        cpu_precision=options.cpu_precision or "float32",
        fp16=not options.no_fp16,
        int8=not options.no_int8,
        int8_encoder=options.int8_encoder,
    )
    _write_ranges(options.ranges, exported.ranges)
    for precision, values in exported.figures.items():
        print(f"{precision}: {_line(values)}")
    print(f"wrote {options.out}, {sum(path.stat().st_size for path in options.out.iterdir()) / 1e6:.1f} MB")
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuses options that do not go together, before anything is read."""
    if options.update is not None:
        if options.checkpoint is not None or options.out is not None:
            raise OptionError(
                "--update takes neither a checkpoint nor --out; give it --quality, --cpu-precision, --add, --renew, "
                "--int8-encoder"
            )
        for name in _NEW:
            if getattr(options, name) is not None and getattr(options, name) is not False:  # 0 is given, too
                raise OptionError(
                    f"--{name.replace('_', '-')} is for a new bundle; --update changes one that is there, whose "
                    "options stay"
                )
        if options.int8_encoder and options.calibration is None:
            raise OptionError("--int8-encoder needs photographs to calibrate on; name a folder with --calibration")
        if options.ranges is not None and options.add is None:
            raise OptionError("--ranges shows the numbers of half-precision graphs; give it --add fp16 too")
        if not any(getattr(options, name) for name in ("quality", "cpu_precision", "calibration", *_OF_GRAPHS)):
            raise OptionError(
                "--update has nothing to do; give it --quality, --cpu-precision, --add, --renew or --int8-encoder"
            )
        return
    if options.renew:
        raise OptionError("--renew rewrites the graphs of a bundle; name it with --update BUNDLE")
    if options.add is not None:
        raise OptionError("--add adds to a bundle; name it with --update BUNDLE")
    if options.blend is not None and options.gan is None:
        raise OptionError("--blend mixes in a second network; name its checkpoint with --gan, or leave --blend out")
    for text in options.quality:
        precision = text.partition("=")[0].rpartition(".")[2]  # an enhancer's is behind its variant
        if (options.no_fp16 and precision == "fp16") or (options.no_int8 and precision == "int8"):
            raise OptionError(
                f"--quality {text!r}: the bundle will hold no {precision} graphs; leave out --no-{precision}, or it"
            )
    if options.no_fp16 and options.ranges is not None:
        raise OptionError("--ranges shows the numbers of half-precision graphs; leave out --no-fp16, or it")
    if options.no_int8 and (options.int8_encoder or options.cpu_precision == "int8"):
        raise OptionError("--no-int8 writes no int8 graphs; leave out --int8-encoder and --cpu-precision int8, or it")
    if options.no_repeat is not None and not MODEL["no_repeat"].holds(options.no_repeat):
        raise OptionError(f"--no-repeat is {options.no_repeat}; expected {MODEL['no_repeat']}")
    if options.checkpoint is None or options.out is None:
        raise OptionError("expected a checkpoint and --out BUNDLE; see camscribe export --help")


def _update(options: argparse.Namespace) -> int:
    if kind_of(options.update) == "enhancer":
        return enhancer_command.update(options)
    if options.calibration is not None and not any(getattr(options, name) for name in _OF_GRAPHS):
        raise OptionError("--calibration is for graphs that are made; give it --add, --renew or --int8-encoder too")
    quality = _quality(options.quality)
    if options.ranges is not None:
        make_folder(options.ranges.parent, "--ranges")
    added = update_bundle(
        options.update,
        quality,
        options.cpu_precision,
        options.add,
        options.calibration,
        renew=options.renew,
        int8_encoder=options.int8_encoder,
    )
    if added is not None:
        print(f"fp16: {_line(added.figures)}")
        _write_ranges(options.ranges, added.ranges)
    print(f"updated {options.update}")
    return 0


def update_bundle(
    folder: Path,
    quality: dict[str, dict[str, Any]],
    cpu_precision: str | None = None,
    add: str | None = None,
    calibration: Path | None = None,
    *,
    renew: bool = False,
    int8_encoder: bool = False,
) -> Added | None:
    """Adds measured quality or a precision to a bundle, or names the precision that CPUs take; all else stays.

    Args:
        folder: the bundle's.
        quality: by precision and split.
        cpu_precision: what CPUs take from now on.
        add: ``fp16`` makes half-precision graphs of the float32 ones.
        calibration: photographs that graphs are calibrated and checked on, besides the bundle's own.
        renew: write the float32 and int8 decoders as this version exports them.
        int8_encoder: quantise the encoder that the int8 decoder is used with.

    Returns:
        What adding the precision came to.

    Raises:
        BundleError: the bundle cannot be used, or not be written.
        EngineError: half precision cannot hold the numbers of its graphs, or renewed ones do something else.
        OptionError: it has no such precision.
    """
    bundle = Bundle.load(folder)
    for precision in (*quality, *([cpu_precision] if cpu_precision else [])):
        if precision == add:
            continue
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
        images = np.stack(bundle.parity_images())
        if calibration is not None:
            images = np.concatenate([images, folder_images(calibration, manifest.pixels)])
        if renew:
            manifest = renew_decoders(draft, folder, manifest, bundle.vocabulary, images)
        if int8_encoder:
            manifest = quantise_encoder(draft, folder, manifest, bundle.vocabulary, images)
        added = None
        if add is not None:
            added = add_fp16(draft, manifest, bundle.vocabulary, images)
            manifest = added.manifest
        draft.finish(manifest, bundle.vocabulary)
    return added


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
        help="photographs that show int8 graphs the range of their numbers, and that graphs are compared on "
        "(default: the training data)",
    )
    parser.add_argument(
        "--no-repeat",
        type=int,
        metavar="N",
        help="build into the decoder that no N words in a row are said twice (Paulus et al. 2017, with 3), which takes "
        "less time than the option of camscribe caption (default: as it was trained)",
    )
    parser.add_argument("--no-fp16", action="store_true", help="write no half-precision graphs")
    parser.add_argument("--no-int8", action="store_true", help="write no int8 graphs")
    parser.add_argument(
        "--int8-encoder",
        action="store_true",
        help="quantise the encoder too: faster, and worth measuring the loss; with --update on the photographs of "
        "--calibration",
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
        help="a report of camscribe evaluate to record; more than one for more precisions. An enhancer's is "
        "VARIANT.PRECISION=REPORT",
    )
    parser.add_argument(
        "--update",
        type=Path,
        metavar="BUNDLE",
        help="apply --quality, --cpu-precision, --add, --renew or --int8-encoder to this bundle",
    )
    parser.add_argument(
        "--add",
        choices=("fp16",),
        help="with --update: make half-precision graphs of the bundle's float32 ones, checked on the bundle's own "
        "images and those of --calibration",
    )
    parser.add_argument(
        "--renew",
        action="store_true",
        help="with --update: write the float32 and int8 decoders as this version exports them; where the bundle has "
        "half-precision graphs, give it --add fp16 too",
    )
    parser.add_argument(
        "--ranges", type=Path, metavar="FILE", help="write the largest absolute value of every fp16 tensor as JSON"
    )
    enhancers = parser.add_argument_group("enhancers")
    enhancers.add_argument("--gan", type=Path, metavar="CHECKPOINT", help="a second network for the variant gan")
    enhancers.add_argument(
        "--blend",
        type=float,
        metavar="SHARE",
        help="of that network's weights in the variant gan, the rest being the first's (default: 1)",
    )
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


def _write_ranges(path: Path | None, ranges: dict[str, Any]) -> None:
    if path is not None:
        write_atomically(path, (json.dumps(ranges, indent=1) + "\n").encode())


def _line(values: dict[str, Any]) -> str:
    parts = []
    for name, value in values.items():
        if isinstance(value, dict):
            parts.append(f"{name} ({_line(value)})")
        else:
            parts.append(f"{name} {value:.2e}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(parts)
