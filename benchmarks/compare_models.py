"""Captioners side by side: grid or regions, three decoders, before and after self-critical training.

    python -m camscribe.benchmarks.compare_models --data ../shared/data/flickr8k --runs runs/compare \\
        --out benchmarks/results/models.json

Trains every kind with the same recipe (train/configs/compare.toml) on the shipped bundle's encoder, exports the best
checkpoint of both stages, scores the bundles by ``camscribe evaluate`` and measures them in turn, beside the shipped
one. Training, hours of it on a small machine, goes on where it was interrupted; what is exported and scored is not done
again. ``--bundle NAME=FOLDER`` adds others; NAME/STAGE says after which training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from camscribe.benchmarks import scripts
from camscribe.benchmarks.measure import Environment, environment
from camscribe.runtime.bundle import Bundle, content_sha256
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.commands.arguments import Parser
from camscribe.runtime.errors import OptionError
from camscribe.runtime.files import make_folder
from camscribe.runtime.images import read

CONFIG = Path("train") / "configs" / "compare.toml"
KINDS: dict[str, tuple[str, ...]] = {
    "grid-soft_attention": (),
    "grid-updown": ("model.decoder=updown",),
    "regions-updown": ("model.encoder=regions", "model.decoder=updown"),
    "grid-transformer": ("model.decoder=transformer", "model.state_width=256"),
}
"""What is trained, and how its configuration differs from ``CONFIG``."""
STAGES = ("cross-entropy", "self-critical")
"""Of ``CONFIG``; the best checkpoint of each is compared."""
SHIPPED = "shipped"
SPLITS = {"test": "dev[500:]", "all": "dev"}
SCORES = ("bleu4", "meteor", "cider")


@dataclass(frozen=True)
class Model:
    """One bundle."""

    name: str
    stage: str
    """The last stage of its training."""
    encoder: str
    decoder: str
    precision: str
    """What a CPU takes, and so what is scored and measured."""
    bundle_mb: float
    scores: dict[str, dict[str, float]]
    """By ``SPLITS``: BLEU-4, METEOR, CIDEr."""
    tune_cider: float | None
    """On the images that chose the checkpoint; None where that is not known."""
    caption_ms: float
    """Median over photographs and rounds, pixels included, file not."""
    encode_ms: float
    step_ms: float
    """One step of the decoder, with all that search does around it."""
    words: float
    """Steps of a caption."""
    to_shipped: float
    """Median ratio of its caption's time to the shipped bundle's, measured in turn."""


@dataclass(frozen=True)
class Comparison:
    """The report."""

    environment: Environment
    shipped_sha256: str
    """``bundle.content_sha256`` of the shipped bundle."""
    photographs: int
    rounds: int
    models: list[Model]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the comparison; returns the exit status."""
    parser = Parser(prog="python -m camscribe.benchmarks.compare_models", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="Flickr8k's folder")
    parser.add_argument("--runs", type=Path, required=True, metavar="FOLDER", help="of the trainings, kept")
    parser.add_argument("--kinds", default=",".join(KINDS), metavar="NAME,...", help="(default: all)")
    parser.add_argument(
        "--bundle", action="append", default=[], metavar="NAME[/STAGE]=FOLDER", help="compare this one, too"
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of the timing (default: 3)")
    parser.add_argument("--train-only", action="store_true", help="stop when all are trained")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the report goes")
    options = parser.parse_args(argv)
    kinds = options.kinds.split(",") if options.kinds else []
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise OptionError(f"--kinds has {unknown[0]!r}; expected some of {', '.join(KINDS)}")
    others = {name: Path(folder) for name, _, folder in (item.partition("=") for item in options.bundle)}
    scripts.prepare(options.out)
    make_folder(options.runs, "--runs")
    _write_shipped(options.runs / "shipped.safetensors")
    for kind in kinds:
        _train(kind, options.runs, options.data)
    if options.train_only:
        return 0
    bundles: dict[tuple[str, str], Path] = {}
    for kind in kinds:
        for index, stage in enumerate(STAGES):
            bundles[kind, stage] = _export(
                options.runs / kind / f"stage-{index}.safetensors", options.runs, kind, stage
            )
    for name, folder in others.items():
        kind, _, stage = name.partition("/")
        bundles[kind, stage] = folder
    bundles[SHIPPED, ""] = shipped = Bundle.load(None).path
    made = Comparison(
        environment(), content_sha256(shipped), *_measured(bundles, options.data, options.runs, options.rounds)
    )
    for model in made.models:
        test = model.scores["test"]
        print(
            f"{model.name:20} {model.stage:14} CIDEr {test['cider']:.3f}  BLEU-4 {100 * test['bleu4']:.1f}  "
            f"{model.bundle_mb:.1f} MB  step {model.step_ms:.2f} ms  {model.to_shipped:.2f} x shipped"
        )
    if options.out is not None:
        scripts.write(made, options.out)
    return 0


def _write_shipped(path: Path) -> None:
    """The shipped bundle's weights as a checkpoint, for its encoder."""
    if not path.exists():
        from camscribe.benchmarks.peers import bundle_weights

        bundle_weights.read(Bundle.load(None)).write(path)


def _train(kind: str, runs: Path, data: Path) -> None:
    manifest = Bundle.load(None).manifest
    changes = [
        *KINDS[kind],
        f"model.backbone={manifest.architecture['backbone']}",
        f"model.image_height={manifest.pixels.height}",
        f"model.image_width={manifest.pixels.width}",
        f"data.root={data.resolve()}",
        f"model.weights={(runs / 'shipped.safetensors').resolve()}",
    ]
    command = ["train", str(CONFIG), "--out", str(runs / kind), "--cache", str(runs / "cache")]
    _run([*command, *(part for change in changes for part in ("--set", change))])


def _export(checkpoint: Path, runs: Path, kind: str, stage: str) -> Path:
    bundle = runs / "bundles" / f"{kind}-{stage}"
    if not (bundle / "bundle.json").exists():
        _run(
            ["export", str(checkpoint), "--out", str(bundle), "--int8-encoder", "--cpu-precision", "int8", "--no-fp16"]
        )
    return bundle


def _measured(
    bundles: dict[tuple[str, str], Path], data: Path, runs: Path, rounds: int
) -> tuple[int, int, list[Model]]:
    """Number of photographs and rounds, and the models."""
    photographs = [read(path) for path in sorted((data / "images").iterdir())[::400]]
    opened = {key: Captioner.load(path, backend="cpu") for key, path in bundles.items()}
    times: dict[tuple[str, str], list[float]] = {key: [] for key in opened}
    parts: dict[tuple[str, str], list[tuple[float, float, int]]] = {key: [] for key in opened}
    for turn in range(-1, rounds):  # the first one warms up
        for photograph in photographs:
            for key, captioner in opened.items():
                made = captioner.caption(photograph, "rgb")
                if turn >= 0:
                    timings, words = made.timings, len(made.words) + 1
                    times[key].append(timings.total_ms)
                    parts[key].append((timings.encode_ms, timings.decode_ms / words, words))
    shipped = times[SHIPPED, ""]
    models = []
    for (name, stage), captioner in opened.items():
        key, manifest = (name, stage), captioner.bundle.manifest
        encode, step, words = zip(*parts[key], strict=True)
        models.append(
            Model(
                name=name,
                stage=stage,
                encoder=manifest.architecture.get("encoder", "grid"),
                decoder=manifest.architecture["decoder"],
                precision=captioner.choice.precision,
                bundle_mb=sum(file.stat().st_size for file in captioner.bundle.path.iterdir()) / 1e6,
                scores={
                    split: _score(
                        bundles[key], data, wanted, runs / "scores" / f"{name}-{stage or 'bundle'}-{split}.json"
                    )
                    for split, wanted in SPLITS.items()
                },
                tune_cider=_tune_cider(manifest.provenance, stage),
                caption_ms=median(times[key]),
                encode_ms=median(encode),
                step_ms=median(step),
                words=sum(words) / len(words),
                to_shipped=median(mine / theirs for mine, theirs in zip(times[key], shipped, strict=True)),
            )
        )
        captioner.close()
    return len(photographs), rounds, models


def _score(bundle: Path, data: Path, split: str, report: Path) -> dict[str, float]:
    command = ["evaluate", str(bundle), "--backend", "cpu", "--data", str(data), "--split", split, "--out", str(report)]
    scores = scripts.kept_scores(report, bundle / "bundle.json", lambda: _run(command))
    return {name: scores[name] for name in SCORES if name in scores}


def _tune_cider(provenance: dict[str, Any], stage: str) -> float | None:
    found = [
        entry["tune_cider"] for name, entry in provenance.get("history", {}).items() if name.rpartition(" ")[0] == stage
    ]
    return max(found, default=None)


def _run(arguments: list[str]) -> None:
    print("$ camscribe", " ".join(arguments), flush=True)
    scripts.camscribe(arguments)


if __name__ == "__main__":
    scripts.end(main, "compare_models")
