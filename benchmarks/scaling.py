"""What a caption costs against beams, steps, batch, threads, vocabulary and positions, each with a fitted line.

    python -m camscribe.benchmarks.scaling --models --out benchmarks/results/scaling.json

Without ``--models`` vocabulary and positions are left out: they are sizes of a model, so that random models of other
sizes are made and exported for them, which needs PyTorch and minutes. All values of one study are timed in turn.
docs/scaling.md says what follows from the lines.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from camscribe.benchmarks import scripts
from camscribe.benchmarks.measure import environment
from camscribe.benchmarks.peers import missing, usual_steps
from camscribe.benchmarks.projection import count
from camscribe.benchmarks.random_models import make_random_bundle
from camscribe.benchmarks.results import identify
from camscribe.benchmarks.scaling_results import SCHEMA, Line, Point, Scaling, Study, summary
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import DataError, OptionError
from camscribe.runtime.executor import open_executor
from camscribe.runtime.images import expand, read
from camscribe.runtime.pixels import reduce
from camscribe.runtime.search import SearchOptions
from camscribe.runtime.threads import physical_cores

Times = tuple[float, float]
"""Seconds of the encoder and of all steps together."""

_NO_ROUNDS = "nothing was timed (--rounds 0)"
BEAMS = (1, 2, 3, 5, 8, 12)
STEPS = (2, 5, 10, 15, 20)
BATCH = (1, 2, 4, 8, 16)
WORDS = (1000, 3000, 10000, 30000)
GRIDS = (4, 7, 10, 14)


class Search:
    """Encoder and a fixed number of steps, timed apart, for one setting. It has an executor of its own, whose memory
    no other setting pushes out. ``close`` it.

    Args:
        path: of a bundle, None for the default one.
        precision: one of its precisions.
        photograph: captioned.
        images, beams, steps, threads: B, K, steps and CPU threads.
    """

    def __init__(
        self, path: Path | None, precision: str, photograph: Path, *, images: int, beams: int, steps: int, threads: int
    ) -> None:
        bundle, self._executor, _ = open_executor(path, "cpu", precision, threads)
        pixels = reduce(read(photograph), bundle.manifest.pixels)
        self._pixels = pixels[None].repeat(images, axis=0)
        self._steps = steps
        # No beam may end: all settings run as many steps with as many live beams.
        self._options = SearchOptions(beams=beams, max_words=steps, min_words=steps - 1)
        self._bias = bundle.vocabulary.bias(bundle.manifest.search.ban)

    def __call__(self) -> Times:
        start = time.perf_counter()
        self._executor.encode(self._pixels, self._options, self._bias)
        middle = time.perf_counter()
        for _ in range(self._steps):
            self._executor.step()
        return middle - start, time.perf_counter() - middle

    def close(self) -> None:
        """Gives memory and threads back."""
        self._executor.close()


def measure(searches: Mapping[int, Callable[[], Times]], rounds: int, warm_up: int = 2) -> dict[int, list[Times]]:
    """Times all values in turn (A B C A B C ...), so that what disturbs the machine disturbs all alike."""
    for _ in range(warm_up):
        for search in searches.values():
            search()
    times: dict[int, list[Times]] = {value: [] for value in searches}
    for _ in range(rounds):
        for value, search in searches.items():
            times[value].append(search())
    return times


def fit(values: Sequence[int], costs_ms: Sequence[float], x: Literal["value", "1 / value"] = "value") -> Line:
    """The line through costs, by least squares.

    Raises:
        DataError: there are fewer than two values.
    """
    if len(set(values)) < 2:
        raise DataError(f"a line needs two values; got {', '.join(map(str, values)) or 'none'}")
    at = np.array(values, float) if x == "value" else 1 / np.array(values, float)
    cost = np.array(costs_ms, float)
    slope, fixed = (float(number) for number in np.polyfit(at, cost, 1))
    spread = float(((cost - cost.mean()) ** 2).sum())
    left = float(((cost - fixed - slope * at) ** 2).sum())
    meets = fixed / slope if x == "value" and slope > 0 and fixed > 0 else None
    r2 = None if spread == 0 else round(1 - left / spread, 4)
    return Line(x, round(fixed, 6), round(slope, 6), r2, None if meets is None else round(meets, 2), None, None)


def with_errors(line: Line, costs_ms: Mapping[int, Sequence[float]], draws: int = 400, seed: int = 0) -> Line:
    """A line with 95 % intervals: rounds are drawn anew, whole, since all values of one were timed in turn.

    Args:
        line: through the medians.
        costs_ms: of each value, in the order of the rounds.
        draws: of the bootstrap.
        seed: of the draws.
    """
    values, table = list(costs_ms), np.array(list(costs_ms.values()), float)
    rounds = table.shape[1]
    if rounds < 3:
        return line
    chosen = np.random.default_rng(seed).integers(0, rounds, (draws, rounds))
    medians = np.median(table[:, chosen], axis=2)
    at = np.array(values, float) if line.x == "value" else 1 / np.array(values, float)
    slopes, fixed = np.polyfit(at, medians, 1)
    low, high = np.percentile([fixed, slopes], [2.5, 97.5], axis=1)
    first, second = ((round(float(a), 6), round(float(b), 6)) for a, b in zip(low, high, strict=True))
    return replace(line, fixed_95=first, slope_95=second)


def study(varied: str, held: dict[str, int], times: Mapping[int, Sequence[Times]], steps: int | None = None) -> Study:
    """Points and line of one study.

    Args:
        varied: name of the size.
        held: the other sizes.
        times: of each value.
        steps: given, the cost is that of one of so many steps; else that of encoder and steps.
    """
    points = []
    all_costs = {
        value: [1e3 * (decode / steps if steps else encode + decode) for encode, decode in pairs]
        for value, pairs in times.items()
    }
    for value, costs in all_costs.items():
        p10, median, p90 = (float(cost) for cost in np.percentile(costs, [10, 50, 90]))
        points.append(Point(value, round(median, 4), round(p10, 4), round(p90, 4), len(costs)))
    line = fit(
        [p.value for p in points], [p.median_ms for p in points], "1 / value" if varied == "threads" else "value"
    )
    cost = "one decoder step" if steps else "encoder and all steps"
    return Study(varied, cost, held, tuple(points), with_errors(line, all_costs))


def run(
    path: Path | None, precision: str | None, photograph: Path, rounds: int, models: bool, report: Callable[[str], None]
) -> Scaling:
    """Makes all studies.

    Args:
        path: of the bundle, None for the default one.
        precision: None for the one taken on a CPU.
        photograph: captioned again and again.
        rounds: timed runs of each value; 0 leaves all lines out and counts operations and bytes only.
        models: also those that need random models of other sizes.
        report: told the name of the study that begins.
    """
    bundle = Bundle.load(path)
    precision = bundle.manifest.precision_for("cpu", precision)
    cores, usual = physical_cores(), {"images": 1, "beams": bundle.manifest.search.beams, "steps": usual_steps(bundle)}
    held = {**usual, "threads": cores}
    studies: dict[str, Study] = {}
    left_out: dict[str, str] = {}

    def make(varied: str, values: Sequence[int], per_step: bool) -> None:
        report(varied)
        settings = {value: {**held, varied: value} for value in values}
        searches = {value: Search(path, precision, photograph, **setting) for value, setting in settings.items()}
        studies[varied] = _timed(varied, held, searches, rounds, held["steps"] if per_step else None)

    if rounds:
        make("beams", BEAMS, per_step=True)
        make("steps", STEPS, per_step=False)
        make("images", BATCH, per_step=False)
    if not rounds:
        left_out |= dict.fromkeys(("beams", "steps", "images", "threads"), _NO_ROUNDS)
    elif cores > 1:
        make("threads", sorted({1, 2, *(2**power for power in range(2, 8) if 2**power < cores), cores}), per_step=False)
    else:
        left_out["threads"] = "this machine has one core"
    without = _NO_ROUNDS if not rounds else None if models else "no --models was given"
    without = without or missing("torch", "torchvision", "onnx", "safetensors")
    for varied, values in (("vocabulary", WORDS), ("positions", GRIDS)):
        if without:
            left_out[varied] = without
            continue
        report(varied)
        with tempfile.TemporaryDirectory() as folder:
            searches = {}
            for value in values:
                size = {"words": value, "grid": 0} if varied == "vocabulary" else {"words": 3000, "grid": value}
                made = make_random_bundle(Path(folder), photograph, "mobilenet_v2", side=224, width=512, **size)[1]
                x = value if varied == "vocabulary" else value**2
                searches[x] = Search(made, "float32", photograph, **held)
            studies[varied] = _timed(varied, held, searches, rounds, held["steps"])
    report("operations and bytes")
    graphs = count(bundle, usual["beams"], cores)
    return Scaling(
        SCHEMA,
        environment(),
        identify(bundle, precision),
        precision,
        graphs,
        usual["beams"],
        usual["steps"],
        studies,
        left_out,
    )


def _timed(varied: str, held: dict[str, int], searches: dict[int, Search], rounds: int, steps: int | None) -> Study:
    try:
        times = measure(searches, rounds)
    finally:
        for search in searches.values():
            search.close()
    return study(varied, {name: value for name, value in held.items() if name != varied}, times, steps)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="folder of the bundle (default: the one that comes with camscribe)")
    parser.add_argument("--precision", help="of the bundle (default: the one taken on a CPU)")
    parser.add_argument("--image", default="examples", help="photograph; of a folder the first (default: examples)")
    parser.add_argument("--rounds", type=int, default=15, help="timed runs of each value; 0: only count (default: 15)")
    parser.add_argument("--models", action="store_true", help="also vocabulary and positions; needs PyTorch and onnx")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    if not 0 <= options.rounds <= 100_000:
        raise OptionError(f"--rounds is {options.rounds}; expected at least 0")
    scripts.prepare(options.out)
    files, problems = expand([options.image])
    if problems:
        raise problems[0]
    made = run(
        options.bundle,
        options.precision,
        files[0],
        options.rounds,
        options.models,
        lambda name: print(f"{name} ...", file=sys.stderr, flush=True),
    )
    if options.out:
        scripts.write(made, options.out)
    print(summary(made))
    return 0


if __name__ == "__main__":
    scripts.end(main, "scaling")
