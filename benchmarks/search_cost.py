"""What each option of a guided search costs, beside the plain search of the same bundle with the same beams.

    python -m camscribe.benchmarks.search_cost --out benchmarks/results/search_cost.json

Times a whole ``Captioner.caption`` of decoded photographs, one at a time, all searches in turn on each photograph. An
option changes the captions and so the number of steps; therefore the ratio of a word stands beside that of a caption.
The ensemble is the bundle with itself: it costs what any two of its size cost.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from camscribe.benchmarks import scripts
from camscribe.benchmarks.measure import Environment, Ratio, Seconds, environment, ratio
from camscribe.benchmarks.protocol import Samples, in_turn
from camscribe.benchmarks.results import BundleId, identify
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import OptionError
from camscribe.runtime.images import expand, read
from camscribe.runtime.pixels import Pixels

if TYPE_CHECKING:
    from camscribe.runtime.caption import Caption
    from camscribe.runtime.guided.options import GuidedChanges

PLAIN = "plain"


@dataclass(frozen=True)
class Search:
    """One search."""

    name: str
    arguments: str
    """Of ``camscribe caption``."""
    changes: GuidedChanges
    ensemble: bool = False


@dataclass(frozen=True)
class Cost:
    """What a search costs."""

    name: str
    arguments: str
    beams: int
    """That the graphs run."""
    caption: Ratio
    """Time of a caption / that of the plain search."""
    word: float
    """The same of decoding alone, for each word and the end; median over all captions."""
    select_ms: float
    """On the host, in a caption; median. 0 where the graph selects."""
    decode_ms: float
    """All steps, in a caption; median."""
    words: float
    """Of a caption, in the mean."""
    other_captions: int
    """Photographs whose caption is another one."""


@dataclass(frozen=True)
class SearchCost:
    """The whole of ``search_cost.json``."""

    environment: Environment
    bundle: BundleId
    beams: int
    photographs: int
    costs: tuple[Cost, ...]
    left_out: dict[str, str]
    """Searches that this bundle cannot make, and why."""


def searches(beams: int, words: Sequence[str]) -> list[Search]:
    """What is measured, the plain search first.

    Args:
        beams: of the plain search.
        words: two that captions must have, likely ones.
    """
    one, two = words
    return [
        Search(PLAIN, "", {}),
        Search("GNMT's length penalty", "--length-rule gnmt", {"length_rule": "gnmt"}),
        Search("no repeated trigram", "--no-repeat 3", {"no_repeat": 3}),
        Search("no bad endings", "--no-bad-endings", {"no_bad_endings": True}),
        Search("a required word", f"--contain {one}", {"contain": (one,)}),
        Search("two required words", f"--contain {one} --contain {two}", {"contain": (one, two)}),
        Search("diverse groups", f"--groups {beams}", {"groups": beams}),
        Search("sampling", "--sample --top-p 0.9", {"sample": True, "top_p": 0.9}),
        Search("ensemble of two", "--ensemble OTHER", {}, ensemble=True),
    ]


def measure(
    plain: Captioner, double: Captioner, images: Sequence[Pixels], rounds: int, beams: int, words: Sequence[str]
) -> tuple[tuple[Cost, ...], dict[str, str]]:
    """Times all searches in turn.

    Args:
        plain: of the bundle.
        double: of the bundle twice.
        images: RGB photographs.
        rounds: over all of them.
        beams: of every search, where it takes no more.
        words: see ``searches``.
    """
    made: dict[str, list[Caption]] = {}

    def work(search: Search) -> Any:
        captioner = double if search.ensemble else plain
        kept = made.setdefault(search.name, [])
        return lambda item: kept.append(captioner.caption(images[item], "rgb", beams=beams, **search.changes))

    def why_not(search: Search) -> str | None:
        try:
            work(search)(0)
        except OptionError as error:
            return str(error)
        return None

    answers = [(search, why_not(search)) for search in searches(beams, words)]
    wanted = [search for search, why in answers if why is None]
    left_out = {search.name: why for search, why in answers if why is not None}
    samples = Samples()
    in_turn({search.name: work(search) for search in wanted}, list(range(len(images))), rounds, 0, samples, warm_up=2)
    turns = len(samples.items)
    kept = {search.name: made[search.name][-turns:] for search in wanted}
    seconds: Seconds = {name: [value / 1e3 for value in values] for name, values in samples.milliseconds.items()}
    return tuple(_cost(search, seconds, kept, samples.items, beams) for search in wanted), left_out


def _cost(search: Search, seconds: Seconds, kept: dict[str, list[Caption]], items: Sequence[int], beams: int) -> Cost:
    own, plain = kept[search.name], kept[PLAIN]
    texts = [dict(zip(items, [caption.text for caption in part], strict=True)) for part in (own, plain)]
    timings = [caption.timings for caption in own]
    return Cost(
        search.name,
        search.arguments,
        beams << len(search.changes.get("contain") or ()),
        ratio(f"{search.name} / {PLAIN}", seconds, search.name, PLAIN),
        round(float(np.median([_per_word(one) / _per_word(other) for one, other in zip(own, plain, strict=True)])), 4),
        round(float(np.median([each.select_ms for each in timings])), 4),
        round(float(np.median([each.decode_ms for each in timings])), 4),
        round(float(np.mean([len(caption.words) for caption in own])), 2),
        sum(texts[0][item] != texts[1][item] for item in texts[0]),
    )


def _per_word(caption: Caption) -> float:
    return caption.timings.decode_ms / (len(caption.words) + 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="folder of the bundle (default: the one that comes with camscribe)")
    parser.add_argument("--images", nargs="+", default=["examples"], help="photographs (default: examples)")
    parser.add_argument("--precision", help="of the bundle (default: its own for a CPU)")
    parser.add_argument("--beams", type=int, help="of all searches (default: the bundle's)")
    parser.add_argument("--rounds", type=int, default=15, help="timed runs of each photograph (default: 15)")
    parser.add_argument(
        "--words", nargs=2, default=["dog", "grass"], metavar="W", help="that captions must have (default: dog grass)"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    if not 1 <= options.rounds <= 10_000:
        raise OptionError(f"--rounds is {options.rounds}; expected 1 to 10000")
    scripts.prepare(options.out)
    files, problems = expand(options.images)
    if problems:
        raise problems[0]
    where, images = environment(), [read(file) for file in files]
    with ExitStack() as stack:
        plain = stack.enter_context(Captioner.load(options.bundle, "cpu", options.precision))
        folder = plain.bundle.path
        double = stack.enter_context(Captioner.load([folder, folder], "cpu", options.precision))
        beams = options.beams or plain.options().beams
        costs, left_out = measure(plain, double, images, options.rounds, beams, options.words)
        bundle = identify(plain.bundle, plain.choice.precision)
    made = SearchCost(where, bundle, beams, len(images), costs, left_out)
    if options.out:
        scripts.write(made, options.out)
    for cost in costs:
        print(
            f"{cost.name:24} {cost.caption.median:6.3f} of a plain caption ({cost.caption.p10:.3f} to "
            f"{cost.caption.p90:.3f}), {cost.word:6.3f} a word; host {cost.select_ms:.2f} of {cost.decode_ms:.2f} ms"
        )
    for name, why in left_out.items():
        print(f"{name:24} left out: {why}")
    return 0


if __name__ == "__main__":
    scripts.end(main, "search_cost")
