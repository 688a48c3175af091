"""Which block of a super-resolution network reconstructs best at equal cost: in multiply-adds, and in time on a CPU.

    python -m camscribe.benchmarks.enhancer_ablation --data ../shared/data/sr --runs runs/ablation \\
        --out benchmarks/results/enhancer-ablation.json

Trains every network of ``KINDS`` with each seed by the same recipe, which is in their configurations, scores the best
checkpoint of each on Set5 by ``camscribe evaluate``, exports that of the first seed and measures the graphs in turn.
Trainings go on where they were interrupted; what is exported and scored is not done again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from time import perf_counter

import numpy as np

from camscribe.benchmarks import scripts
from camscribe.benchmarks.graph_cost import cost
from camscribe.benchmarks.measure import Environment, environment
from camscribe.runtime.commands.arguments import Parser
from camscribe.runtime.enhancer import Enhancer
from camscribe.runtime.enhancer_bundle import EnhancerBundle
from camscribe.runtime.errors import OptionError
from camscribe.runtime.files import make_folder

CONFIGS = Path("train") / "configs"
KINDS = {
    "inception-residual": "superres-ablation-inception",
    "inception-residual, deeper": "superres-ablation-inception-time",
    "SRResNet's": "superres-ablation-srresnet",
    "ESRGAN's RRDB": "superres-ablation-rrdb",
}
"""Networks by the names of their configurations. The deeper one takes the time of the RRDB, the first its
multiply-adds."""
BESIDE = "ESRGAN's RRDB"
"""Whose time the others are compared with."""
PRECISIONS = ("float32", "int8")
SIZE = (90, 160)
"""Rows and columns of the small image that is timed."""


@dataclass(frozen=True)
class Run:
    """One training."""

    seed: int
    tune_psnr_y: float
    set5_psnr_y: float
    set5_ssim_y: float


@dataclass(frozen=True)
class Network:
    """One block."""

    configuration: str
    multiply_adds: int
    """For a pixel of the small image."""
    runs: list[Run]
    tune_psnr_y: float
    """Mean of the runs, as are the next two."""
    set5_psnr_y: float
    set5_ssim_y: float
    time_ms: dict[str, float]
    """Of an image, by precision; median."""
    to_rrdb: dict[str, float]
    """Median ratio of its time to the RRDB's, measured in turn, by precision."""


@dataclass(frozen=True)
class Ablation:
    """The report."""

    question: str
    environment: Environment
    timed: str
    rounds: int
    networks: dict[str, Network]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the ablation; returns the exit status."""
    parser = Parser(prog="python -m camscribe.benchmarks.enhancer_ablation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="with bsds400 and set5_x4 in it")
    parser.add_argument("--runs", type=Path, required=True, metavar="FOLDER", help="of the trainings, kept")
    parser.add_argument("--seeds", default="3,4,5", metavar="N,...", help="of the trainings (default: 3,4,5)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of a training (default: 1)")
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="of the timing (default: 30)")
    parser.add_argument("--train-only", action="store_true", help="stop when all are trained")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the report goes")
    options = parser.parse_args(argv)
    seeds = _seeds(options.seeds)
    scripts.prepare(options.out)
    make_folder(options.runs, "--runs")
    for seed in seeds:
        for name in KINDS:
            _train(name, seed, options.runs, options.data, options.threads)
    if options.train_only:
        return 0
    runs = {name: [_scored(name, seed, options.runs, options.data) for seed in seeds] for name in KINDS}
    times = _timed({name: _export(name, seeds[0], options.runs) for name in KINDS}, options.rounds)
    networks = {name: _network(name, runs[name], times, options.runs / _folder(name, seeds[0])) for name in KINDS}
    for name, network in networks.items():
        print(
            f"{name:28} {network.multiply_adds:7} multiply-adds  tuning {network.tune_psnr_y:.3f} dB  "
            f"Set5 {network.set5_psnr_y:.3f} / {network.set5_ssim_y:.4f}  "
            + "  ".join(f"{key} {value:.2f} ms" for key, value in network.time_ms.items())
        )
    if options.out is not None:
        made = Ablation(
            "Which block reconstructs best at equal cost?",
            environment(),
            f"{SIZE[1]}x{SIZE[0]} pixels, in one piece; all networks and precisions in turn",
            options.rounds,
            networks,
        )
        scripts.write(made, options.out)
    return 0


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise OptionError(f"--seeds is {text!r}; expected whole numbers such as 3,4,5") from error


def _folder(name: str, seed: int) -> str:
    return f"{KINDS[name].removeprefix('superres-ablation-')}-{seed}"


def _train(name: str, seed: int, runs: Path, data: Path, threads: int) -> None:
    changes = (f"seed={seed}", f"data.root={(data / 'bsds400').resolve()}")
    command = ["train", str(CONFIGS / f"{KINDS[name]}.toml"), "--out", str(runs / _folder(name, seed))]
    command += ["--threads", str(threads), *(part for change in changes for part in ("--set", change))]
    print("$ camscribe", " ".join(command), flush=True)
    scripts.camscribe(command)


def _scored(name: str, seed: int, runs: Path, data: Path) -> Run:
    folder = runs / _folder(name, seed)
    checkpoint, report = folder / "best.safetensors", folder / "set5.json"
    command = ["evaluate", str(checkpoint), "--data", str(data / "set5_x4"), "--out", str(report)]
    scores = scripts.kept_scores(report, checkpoint, lambda: scripts.camscribe(command, show=False))
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    tuned = [entry["tune_psnr_y"] for entry in map(json.loads, lines) if "tune_psnr_y" in entry]
    return Run(seed, max(tuned), scores["psnr_y"], scores["ssim_y"])


def _export(name: str, seed: int, runs: Path) -> Path:
    folder = runs / _folder(name, seed)
    bundle = folder / "bundle"
    if not (bundle / "bundle.json").exists():
        scripts.camscribe(["export", str(folder / "best.safetensors"), "--out", str(bundle), "--no-fp16"], show=False)
    return bundle


def _timed(bundles: dict[str, Path], rounds: int) -> dict[tuple[str, str], list[float]]:
    """Milliseconds by network and precision, of each round."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    opened = {
        (name, precision): Enhancer.load(folder, "cpu", precision=precision, tile=max(SIZE))
        for name, folder in bundles.items()
        for precision in PRECISIONS
    }
    times: dict[tuple[str, str], list[float]] = {key: [] for key in opened}
    for turn in range(-2, rounds):  # the first ones warm up
        for key, enhancer in opened.items():
            start = perf_counter()
            enhancer.enhance(image, "rgb")
            if turn >= 0:
                times[key].append(1e3 * (perf_counter() - start))
    for enhancer in opened.values():
        enhancer.close()
    return times


def _network(name: str, runs: list[Run], times: dict[tuple[str, str], list[float]], folder: Path) -> Network:
    path = folder / "bundle"
    counted = cost(
        path / EnhancerBundle.load(path).manifest.graph_for("cpu", "psnr", "float32")[2].file,
        {"B": 1, "H": SIZE[0], "W": SIZE[1]},
        threads=1,
        runs=1,
    )
    return Network(
        configuration=(CONFIGS / f"{KINDS[name]}.toml").as_posix(),
        multiply_adds=round(sum(counted.macs.values()) / (SIZE[0] * SIZE[1])),
        runs=runs,
        tune_psnr_y=mean(run.tune_psnr_y for run in runs),
        set5_psnr_y=mean(run.set5_psnr_y for run in runs),
        set5_ssim_y=mean(run.set5_ssim_y for run in runs),
        time_ms={precision: median(times[name, precision]) for precision in PRECISIONS},
        to_rrdb={
            precision: median(
                mine / theirs for mine, theirs in zip(times[name, precision], times[BESIDE, precision], strict=True)
            )
            for precision in PRECISIONS
        },
    )


if __name__ == "__main__":
    scripts.end(main, "enhancer_ablation")
