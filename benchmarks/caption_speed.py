"""Speed of captioning, as ratios of what is timed in turn in one run.

    python -m camscribe.benchmarks.caption_speed --images examples --random --out benchmarks/results/caption_speed.json

MobileNetV2 and ResNet-101, with random weights, are left out without ``--random``. See benchmarks/README.md for what is
measured and what is not timed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from camscribe.benchmarks import scripts
from camscribe.benchmarks.measure import environment, portable, ratio
from camscribe.benchmarks.peers import missing
from camscribe.benchmarks.random_models import make_random_bundle, make_resnet_bundle
from camscribe.benchmarks.results import SCHEMA, Report, SectionResult, identify, summary, write_report
from camscribe.benchmarks.sections import Images, Section, beams, overhead, versus_tutorial
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import OptionError
from camscribe.runtime.images import expand, read
from camscribe.runtime.search import SearchOptions
from camscribe.runtime.threads import physical_cores

QUESTIONS = {
    "overhead": "What does a caption of a decoded photograph cost beyond the raw graphs?",
    "beams": "What does a decoder step of beam 5 cost beside one of beam 1?",
    "startup": "How long does a fresh process take until its first caption, and how much memory?",
    "tutorial": "How much faster is the bundle than the tutorial's loop in PyTorch?",
    "mobilenet": "How much faster is MobileNetV2, with captions of as many steps as ours have on average?",
    "resnet": "How much faster is ResNet-101, the tutorial's own size?",
}
_TUTORIAL_LIMITS = {"float32": 2.5, "int8": 4.0}
_USUAL_STEPS = 11
"""Of a caption of the bundle that ships: ten words and the end."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; returns the exit status."""
    options = _parser().parse_args(argv)
    bundle = Bundle.load(options.bundle)
    where = environment()
    images = _read(options.images)
    more = _read(options.compare) if options.compare else {}
    sections: dict[str, SectionResult] = {}
    left_out = {name: _why_not(name, options) or "the run ended before" for name in QUESTIONS}
    report = Report(SCHEMA, where, identify(bundle, bundle.manifest.cpu_precision), sections, left_out)
    for name in QUESTIONS:
        if _why_not(name, options):
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        measured = _MEASURES[name](options, bundle, images, more)
        ratios = tuple(item for section in measured.values() for item in section.ratios)
        sections[name] = SectionResult(QUESTIONS[name], ratios, {key: item.details for key, item in measured.items()})
        del left_out[name]
        if options.out:  # what is measured so far outlives a run that is ended
            write_report(report, options.out)
    print(summary(report))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="folder of the bundle (default: the one that comes with camscribe)")
    parser.add_argument("--images", nargs="+", default=["examples"], help="photographs to time (default: examples)")
    parser.add_argument("--checkpoint", type=Path, help="what the bundle was exported from (default: its own weights)")
    parser.add_argument("--compare", nargs="+", help="more photographs whose float32 tokens are compared, untimed")
    parser.add_argument(
        "--random",
        action="store_true",
        help="measure MobileNetV2 and ResNet-101 with random weights, too; needs PyTorch and onnx",
    )
    parser.add_argument("--only", choices=list(QUESTIONS), nargs="+", help="measure nothing else")
    parser.add_argument("--rounds", type=int, default=30, help="timed runs of each image (default: 30)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser


def _why_not(name: str, options: argparse.Namespace) -> str | None:
    if options.only and name not in options.only:
        return "not asked for"
    if name == "tutorial":
        return missing("torch", "torchvision", "safetensors", "onnx")
    if name in ("mobilenet", "resnet") and not options.random:
        return "no --random was given"
    return None


def _overhead(options: argparse.Namespace, bundle: Bundle, images: Images, more: Images) -> dict[str, Section]:
    return {
        precision: overhead(options.bundle, precision, images, options.rounds) for precision in _cpu_precisions(bundle)
    }


def _beams(options: argparse.Namespace, bundle: Bundle, images: Images, more: Images) -> dict[str, Section]:
    image = next(iter(images.values()))
    return {
        precision: beams(options.bundle, precision, image, 2 * options.rounds) for precision in _cpu_precisions(bundle)
    }


def _startup(options: argparse.Namespace, bundle: Bundle, images: Images, more: Images) -> dict[str, Section]:
    command = [sys.executable, "-m", "camscribe.benchmarks.startup", "--image", str(expand(options.images)[0][0])]
    command += ["--rounds", str(max(3, options.rounds // 2))]
    command += [] if options.bundle is None else ["--bundle", str(options.bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OptionError(f"startup failed: {done.stderr.strip()[-500:]}")
    seconds = json.loads(done.stdout)
    memory = seconds["caption memory_mb"]
    first = ratio(
        "first caption / imports and opening sessions",
        seconds,
        "caption first_s",
        "floor first_s",
        "at most",
        1.5,
    )
    whole = ratio("the same, to the end of the process", seconds, "caption whole_s", "floor whole_s")
    details = {
        "peak_memory_mb": round(max(memory), 1),
        "peak_memory_limit_mb": 300,
        "peak_memory_met": max(memory) < 300,
        "peak_memory_of_imports_and_sessions_mb": round(max(seconds["floor memory_mb"]), 1),
    }
    return {bundle.manifest.cpu_precision: Section((first, whole), details)}


def _tutorial(options: argparse.Namespace, bundle: Bundle, images: Images, more: Images) -> dict[str, Section]:
    _limit_threads()
    limits = {precision: _TUTORIAL_LIMITS[precision] for precision in _cpu_precisions(bundle)}
    rounds = max(3, options.rounds // 3)
    return {"bundle": versus_tutorial(options.checkpoint, options.bundle, limits, images, rounds, more=more)}


def _mobilenet(options: argparse.Namespace, bundle: Bundle, images: Images, more: Images) -> dict[str, Section]:
    _limit_threads()
    photographs = expand(options.images)[0]
    search = SearchOptions(beams=3, max_words=_USUAL_STEPS, min_words=_USUAL_STEPS - 1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, made = make_random_bundle(
            Path(folder),
            photographs[0],
            "mobilenet_v2",
            side=224,
            grid=0,
            words=2000,
            width=512,
            calibration=photographs[0].parent,
        )
        few = dict(list(images.items())[:3])
        return {"random": versus_tutorial(checkpoint, made, _TUTORIAL_LIMITS, few, max(3, options.rounds // 3), search)}


def _resnet(options: argparse.Namespace, bundle: Bundle, images: Images, more: Images) -> dict[str, Section]:
    _limit_threads()
    few = dict(list(images.items())[:3])
    # Ended sentences are banned until the last step, so that all run the same 20.
    search = SearchOptions(beams=3, max_words=20, min_words=19)
    rounds = max(1, options.rounds // 6)
    result = {}
    for grid, limit in ((14, 15.0), (0, None)):
        with tempfile.TemporaryDirectory() as folder:
            checkpoint, made = make_resnet_bundle(Path(folder), grid, expand(options.images)[0][0])
            limits = {"float32": limit}
            result[f"grid of {grid or 8}"] = versus_tutorial(checkpoint, made, limits, few, rounds, search)
    return result


_MEASURES: dict[str, Callable[[argparse.Namespace, Bundle, Images, Images], dict[str, Section]]] = {
    "overhead": _overhead,
    "beams": _beams,
    "startup": _startup,
    "tutorial": _tutorial,
    "mobilenet": _mobilenet,
    "resnet": _resnet,
}


def _cpu_precisions(bundle: Bundle) -> list[str]:
    return [precision for precision in ("float32", "int8") if precision in bundle.manifest.precisions]


def _limit_threads() -> None:
    """Gives PyTorch the threads that ONNX Runtime has."""
    import torch

    torch.set_num_threads(physical_cores())


def _read(arguments: Sequence[str]) -> Images:
    files, problems = expand(arguments)
    if problems:
        raise problems[0]
    return {portable(str(path)): read(path) for path in files}


if __name__ == "__main__":
    scripts.end(main, "caption_speed")
