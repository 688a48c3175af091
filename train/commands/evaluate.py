"""``camscribe evaluate``: scores a model's captions, or a file of captions, against what people wrote."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from camscribe.runtime.commands.arguments import Parser, add_device_arguments, add_ensemble_argument, named_bundle
from camscribe.runtime.errors import DataError, OptionError
from camscribe.runtime.files import write_atomically
from camscribe.runtime.guided.arguments import add_guided_arguments, guided_changes
from camscribe.runtime.guided.options import OwnChanges
from camscribe.runtime.vocab import Vocabulary
from camscribe.train.captioning import (
    CHECKPOINT_SUFFIX,
    Captions,
    Device,
    caption_split,
    read_results,
    stored_features,
    write_lines,
)
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.commands.evaluate_images import check_outputs, evaluate_images, flag, is_enhancer, refuse_ignored
from camscribe.train.metrics import METRICS, Quality, Scores, quality, score
from camscribe.train.readers import FORMATS, CaptionedImage, Dataset, read_dataset
from camscribe.train.versions import versions

REPORT_SCHEMA = 1
_NAMES = dict(zip(METRICS, ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"), strict=True))
_SPLITS = {"flickr8k": "dev", "karpathy": "val", "coco": "val"}
_SAMPLES = 12
_BATCH = 8
_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "torch", "pycocoevalcap")


_OF_ENHANCERS = ("bundle_variant", "small", "self_ensemble", "border")
_OF_MODELS: dict[str, Any] = {
    "features": None,
    "beams": None,
    "length_penalty": None,
    "max_words": None,
    "min_words": None,
    "stop": None,
    "ban": [],
    "batch": _BATCH,
    **dict.fromkeys(OwnChanges.__annotations__),
    "backend": "auto",
    "precision": None,
    "threads": None,
    "verbose": False,
}
"""Options that mean nothing where no model captions, with their defaults."""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(argv)
    options.model = named_bundle(options.model)
    if options.bicubic is not None or (options.model is not None and is_enhancer(options.model)):
        return evaluate_images(options, argv)
    for option in _OF_ENHANCERS:
        if (given := getattr(options, option)) is not None and given is not False:  # 0 is given, too
            raise OptionError(f"{flag(option)} is an enhancer's; name one, or --bicubic SCALE")
    check_outputs({"--out": options.out, "--captions-out": options.captions_out, "--sheet": options.sheet})
    outcome = _read_captions(options) if options.results is not None else _make_captions(options)
    scores = score(outcome.texts, {image.image_id: image.captions for image in outcome.images}, options.tokenizer)
    counts = quality(outcome.texts.values(), outcome.vocabulary)
    report = {
        "schema": REPORT_SCHEMA,
        "command": ["camscribe", "evaluate", *argv],
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(_PACKAGES),
        **outcome.about,
        "tokenizer": scores.tokenizer,
        "scores": scores.values,
        "missing": list(scores.missing),
        "quality": counts.to_dict(),
    }
    if options.sheet is not None:  # First, as it fails where there is nothing to draw.
        _draw(outcome, options.sheet)
    if options.out is not None:
        write_atomically(options.out, (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
    _print(report, scores, counts)
    return 0


@dataclass(frozen=True)
class _Outcome:
    """Captions to be scored."""

    texts: dict[str, str]
    """image_id -> caption."""
    images: list[CaptionedImage]
    """Those of ``texts``, in its order."""
    vocabulary: Vocabulary | None
    about: dict[str, Any]
    """What the report says of model and data."""


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="camscribe evaluate", description=__doc__.split(": ", 1)[1] if __doc__ else None)
    parser.add_argument(
        "model",
        nargs="?",
        type=Path,
        metavar="BUNDLE|CHECKPOINT",
        help="a bundle's folder or a checkpoint's file (default: the bundle that comes with camscribe)",
    )
    add_ensemble_argument(parser)
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="score these captions (COCO results or JSON lines), no model"
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, metavar="FOLDER", help="the data set's folder")
    data.add_argument("--format", choices=FORMATS, default="flickr8k", help="its layout (default: flickr8k)")
    data.add_argument("--split", help="split, or a part such as 'dev[500:]' (default: dev of flickr8k, else val)")
    data.add_argument("--captions", type=Path, metavar="FILE", help="the file of captions, where it has another name")
    data.add_argument("--images", type=Path, metavar="FOLDER", help="the folder of images, where it has another name")
    data.add_argument(
        "--features",
        type=Path,
        metavar="PATH",
        help="precomputed features, for a checkpoint that was trained on such (default: those it was trained on)",
    )
    data.add_argument("--skip-bad", action="store_true", help="leave out, count and name what cannot be read")
    pictures = parser.add_argument_group(
        "enlarged images",
        "Of an enhancer, --data is a folder of images in full resolution, which are reduced as MATLAB does, or of "
        "pairs named NAME_HR.png and NAME_LR.png.",
    )
    pictures.add_argument("--bicubic", type=int, metavar="SCALE", help="score bicubic enlargement, no model")
    pictures.add_argument("--small", type=Path, metavar="FOLDER", help="the small images, of the same names")
    pictures.add_argument("--border", type=int, metavar="N", help="pixels of every side left out (default: the scale)")
    pictures.add_argument("--variant", dest="bundle_variant", help="of the bundle: psnr or gan")
    pictures.add_argument(
        "--self-ensemble", action="store_true", help="mean over the eight flips and turns: slower, and reported as such"
    )
    search = parser.add_argument_group("search", "The defaults are the model's.")
    search.add_argument("--beams", type=int, metavar="K")
    search.add_argument("--length-penalty", type=float, metavar="A", help="score = log-probability / words**A")
    search.add_argument("--max-words", type=int, metavar="N")
    search.add_argument("--min-words", type=int, metavar="N")
    search.add_argument("--stop", choices=("optimal", "first_k"), help="when an image's search ends")
    search.add_argument("--ban", action="append", default=[], metavar="WORD", help="a word that may not appear")
    search.add_argument("--batch", type=int, default=_BATCH, metavar="B", help="images captioned together (default: 8)")
    add_guided_arguments(parser)
    output = parser.add_argument_group("scores and output")
    output.add_argument(
        "--tokenizer",
        choices=("ptb", "words", "spaces"),
        help="ptb needs Java and is that of published scores; spaces is for captions that are cut already "
        "(default: ptb, or words where Java is missing)",
    )
    output.add_argument("--out", type=Path, metavar="FILE", help="write the report as JSON")
    output.add_argument("--captions-out", type=Path, metavar="FILE", help="write the captions as JSON lines")
    output.add_argument("--sheet", type=Path, metavar="FILE", help=f"write {_SAMPLES} captioned images as a PNG")
    add_device_arguments(parser)
    return parser


def _make_captions(options: argparse.Namespace) -> _Outcome:
    """Captions the split with a model."""
    dataset = _read(options, with_images=not _is_blind(options))
    captions = caption_split(
        options.model,
        dataset.images,
        device=Device(options.backend, options.precision, options.threads, options.verbose),
        batch=options.batch,
        ban=options.ban,
        changes={
            "beams": options.beams,
            "length_penalty": options.length_penalty,
            "max_words": options.max_words,
            "min_words": options.min_words,
            "stop": options.stop,
            **guided_changes(options),
        },
        features=options.features,
        ensemble=options.ensemble,
    )
    _check_readable(captions, options)
    if options.captions_out is not None:  # Before they are scored: captioning takes longest.
        write_atomically(options.captions_out, write_lines(captions, dataset.images))
    texts = {image: written.text for image, written in captions.by_image.items()}
    images = [image for image in dataset if image.image_id in texts]
    about = {
        "model": captions.model,
        "search": captions.search,
        "data": _about(options, dataset, images, captions.unreadable),
        "seconds": round(captions.seconds, 3),
        "truncated": sum(written.truncated for written in captions.by_image.values()),
    }
    return _Outcome(texts, images, captions.vocabulary, about)


def _is_blind(options: argparse.Namespace) -> bool:
    """Whether the model captions precomputed features, so that images need not be there."""
    if options.model is None or options.model.suffix != CHECKPOINT_SUFFIX:
        return False
    return stored_features(Checkpoint.load(options.model).config, options.features) is not None


def _read_captions(options: argparse.Namespace) -> _Outcome:
    """Reads captions made elsewhere. As in coco-caption, images without one are left out; the report says so."""
    if options.model is not None or options.ensemble or options.captions_out is not None:
        raise OptionError("--results scores captions that exist already; leave out models and --captions-out")
    refuse_ignored(options, _OF_MODELS, "--results scores captions that exist already, with no model")
    dataset = _read(options, with_images=options.sheet is not None)
    texts = read_results(options.results)
    images = [image for image in dataset if image.image_id in texts]
    unknown = sorted(texts.keys() - {image.image_id for image in images})
    if unknown:
        raise DataError(
            f"{options.results}: {len(unknown)} captioned images are not in split {_split(options)}, the first is "
            f"{unknown[0]}; name the split they are of with --split"
        )
    model = {"kind": "results", "name": options.results.name}
    about = {"model": model, "data": _about(options, dataset, images, ())}
    return _Outcome({image.image_id: texts[image.image_id] for image in images}, images, None, about)


def _read(options: argparse.Namespace, *, with_images: bool) -> Dataset:
    root = options.data
    if root is None and options.results is not None and options.captions is not None:
        root = options.captions.parent
    if root is None:
        raise OptionError("--data is missing; expected the folder of a data set, such as --data flickr8k")
    return read_dataset(
        options.format,
        root,
        split=_split(options),
        captions=options.captions,
        images=options.images,
        skip_bad=options.skip_bad,
        with_images=with_images,
    )


def _split(options: argparse.Namespace) -> str:
    return str(options.split or _SPLITS[options.format])


def _check_readable(captions: Captions, options: argparse.Namespace) -> None:
    if not options.skip_bad or not captions.by_image:  # Those left out are said with the scores.
        for line in captions.unreadable:
            print(f"camscribe: {line}", file=sys.stderr)
    if captions.unreadable and not options.skip_bad:
        raise DataError(
            f"{len(captions.unreadable)} images cannot be read, so there are no scores; leave them out with --skip-bad"
        )
    if not captions.by_image:
        raise DataError("none of the images can be read")


def _about(
    options: argparse.Namespace, dataset: Dataset, images: Sequence[CaptionedImage], unreadable: Sequence[str]
) -> dict[str, Any]:
    return {
        "format": options.format,
        "split": _split(options),
        "images": len(dataset),
        "scored": len(images),
        "references": sum(len(image.captions) for image in images),
        "skipped": [*dataset.problems, *unreadable],
    }


def _draw(outcome: _Outcome, out: Path) -> None:
    from camscribe.train.figures import sheet

    here = [image for image in outcome.images if image.path.is_file()]
    if not here:
        raise DataError(f"{out}: none of the images is here to be drawn; leave out --sheet")
    chosen = [here[round(row)] for row in np.linspace(0, len(here) - 1, min(_SAMPLES, len(here)))]
    sheet([(image.path, outcome.texts[image.image_id], image.captions[0]) for image in chosen], out)


def _print(report: dict[str, Any], scores: Scores, counts: Quality) -> None:
    model, data = report["model"], report["data"]
    where = f", {model['backend']} {model['precision']}" if "backend" in model else ""
    beams = f", {report['search']['beams']} beams" if "search" in report else ""
    names = " + ".join([model["name"], *(each["name"] for each in model.get("ensemble", ()))])
    print(f"model     {names} ({model['kind']}{where}{beams})")
    print(f"data      {data['format']} {data['split']}: {data['scored']} images, {data['references']} references")
    used = "" if counts.vocabulary_used is None else f", {counts.vocabulary_used:.1%} of the vocabulary"
    print(
        f"captions  {counts.different} different of {counts.captions}, {counts.mean_words:.1f} words on average{used}, "
        f"{counts.bad_ending_share:.1%} bad endings, {counts.stuttered} stuttered"
    )
    print(f"tokens    {scores.tokenizer}")
    shown = [name for name in METRICS if name in scores.values]
    print()
    print("  ".join(f"{_NAMES[name]:>7}" for name in shown))
    print("  ".join(f"{scores.values[name]:7.3f}" for name in shown))
    if data["scored"] < data["images"]:
        print(f"note: {data['images'] - data['scored']} of {data['images']} images have no caption and are not scored")
    for line in data["skipped"]:
        print(f"skipped: {line}", file=sys.stderr)
    for line in scores.missing:
        print(f"missing: {line}", file=sys.stderr)
