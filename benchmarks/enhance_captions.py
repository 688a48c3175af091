"""Whether enhancing small images before they are captioned improves the captions.

    python -m camscribe.benchmarks.enhance_captions --data ../shared/data/flickr8k \\
        --out benchmarks/results/enhance_captions.json

Every image of a split is reduced to 56x56 pixels with Pillow's bicubic filter, then captioned by the shipped captioner:
as it is (the captioner enlarges it cubically), enhanced x4 by each variant first, and never reduced at all. Captions
are scored by ``camscribe evaluate``, so this folder needs nothing of the training side.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from camscribe.benchmarks import scripts
from camscribe.benchmarks.measure import environment
from camscribe.runtime.bundle import content_sha256
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.commands.arguments import Parser
from camscribe.runtime.enhancer import Enhancer
from camscribe.runtime.errors import DataError
from camscribe.runtime.images import read
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.progress import ProgressBar

SIDE = 56
"""Rows and columns that the images are reduced to."""

Prepare = Callable[[Pixels], Pixels]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the study; returns the exit status."""
    parser = Parser(prog="python -m camscribe.benchmarks.enhance_captions", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="Flickr8k's folder")
    parser.add_argument("--split", default="dev", help="which images (default: dev)")
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="how many of them (default: 1000)")
    parser.add_argument("--enhancer", type=Path, metavar="FOLDER", help="default: the enhancer that comes along")
    parser.add_argument("--threads", type=int, metavar="N", help="default: one per physical core")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the report goes")
    options = parser.parse_args(argv)
    names = _names(options.data / f"captions.{options.split}.tsv")[: options.images]
    enhancers = {
        variant: Enhancer.load(options.enhancer, "cpu", threads=options.threads, variant=variant)
        for variant in ("psnr", "gan")
    }
    ways: dict[str, Prepare] = {
        "not reduced": lambda image: image,
        "plain": _reduce,
        **{name: _enhanced_by(enhancer) for name, enhancer in enhancers.items()},
    }
    captions: dict[str, dict[str, str]] = {name: {} for name in ways}
    with Captioner.load(backend="cpu", threads=options.threads) as captioner, ProgressBar("images", len(names)) as bar:
        for done, name in enumerate(names, start=1):
            image = read(options.data / "images" / name)
            for way, prepare in ways.items():
                captions[way][name] = captioner.caption(prepare(image), "rgb").text
            bar.update(done)
        about = {
            "captioner": captioner.bundle.manifest.name,
            "captioner_sha256": content_sha256(captioner.bundle.path),
            "precision": captioner.choice.precision,
        }
    split = f"{options.split}[:{len(names)}]"
    scores = {way: _score(found, options.data, split) for way, found in captions.items()}
    rows = {
        way: {
            **scores[way],
            "same_as_not_reduced": sum(found[name] == captions["not reduced"][name] for name in names) / len(names),
            "same_as_plain": sum(found[name] == captions["plain"][name] for name in names) / len(names),
        }
        for way, found in captions.items()
    }
    report = {
        "question": f"Does enhancing images of {SIDE}x{SIDE} pixels before captioning improve the captions?",
        **about,
        "enhancer": enhancers["psnr"].bundle.manifest.name,
        "enhancer_precision": enhancers["psnr"].choice.precision,
        "data": f"flickr8k {split}",
        "images": len(names),
        "environment": asdict(environment()),
        "ways": rows,
    }
    for way, row in rows.items():
        print(f"{way:12} CIDEr {row['cider']:.4f}  BLEU-4 {row['bleu4']:.4f}  METEOR {row['meteor']:.4f}")
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _names(path: Path) -> list[str]:
    """Names of the images of a split in the order of ``camscribe evaluate``."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected Flickr8k's captions") from error
    return sorted({line.partition("\t")[0].partition("#")[0] for line in lines if line.strip()})


def _reduce(image: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _enhanced_by(enhancer: Enhancer) -> Prepare:
    return lambda image: enhancer.enlarge(_reduce(image))


def _score(captions: dict[str, str], data: Path, split: str) -> dict[str, Any]:
    """What ``camscribe evaluate`` says of captions."""
    with tempfile.TemporaryDirectory() as folder:
        results, report = Path(folder) / "captions.jsonl", Path(folder) / "report.json"
        lines = (json.dumps({"image_id": name, "caption": text}) for name, text in captions.items())
        results.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = ["evaluate", "--results", str(results), "--data", str(data), "--split", split, "--out", str(report)]
        scripts.camscribe(command, show=False)
        found = json.loads(report.read_text(encoding="utf-8"))
    return {**found["scores"], "different": found["quality"]["different"]}


if __name__ == "__main__":
    scripts.end(main, "enhance_captions")
