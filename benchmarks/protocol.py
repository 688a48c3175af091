"""How time is taken: single stream and sweeps with all variants in turn, and frames at a fixed rate.

A measurement is a list of samples that grows turn by turn. What interrupts it leaves whole turns behind, so that what
was measured side by side stays comparable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from camscribe.benchmarks.schema import FixedRate, Missing, SweepPoint
from camscribe.benchmarks.statistics import spread

Work = Callable[[int], object]
"""Does the work of one sample; the argument says on which image, or with which value."""


@dataclass
class Samples:
    """Milliseconds of several variants, timed in turn."""

    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    """By variant; the n-th of each were timed one after the other."""
    items: list[int] = field(default_factory=list)
    """Of each turn, what the work was told."""
    rounds: int = 0
    """Whole rounds over all items."""

    def of(self, name: str, item: int) -> list[float]:
        """The samples of a variant and an item."""
        return [value for value, each in zip(self.milliseconds.get(name, ()), self.items, strict=False) if each == item]


def in_turn(
    work: Mapping[str, Work],
    items: Sequence[int],
    rounds: int,
    seed: int,
    samples: Samples,
    *,
    warm_up: int = 0,
    seconds: float | None = None,
    pause_s: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Times all variants on one item, then on the next (A B C A B C ...): what disturbs the machine disturbs all alike.

    The order of items and of variants is drawn anew in each round, so that none always follows the same other.

    Args:
        work: by variant.
        items: what the work is told; each once a round.
        rounds: over all items.
        seed: of the order.
        samples: grows turn by turn.
        warm_up: runs of each variant before, over the items in their order; not kept.
        seconds: no new round is begun after so long; the first is always whole.
        pause_s: rest before each sample, for variants whose threads go on spinning after their work.
        clock: seconds.
    """
    generator = np.random.default_rng(seed)
    names = list(work)
    for name in names:
        samples.milliseconds.setdefault(name, [])
        for turn in range(warm_up):
            work[name](items[turn % len(items)])
    began = clock()
    for _ in range(rounds):
        if seconds is not None and samples.rounds and clock() - began >= seconds:
            break
        for index in generator.permutation(len(items)):
            item, turn_ms = items[index], {}
            for place in generator.permutation(len(names)):
                if pause_s:
                    time.sleep(pause_s)
                start = clock()
                work[names[place]](item)
                turn_ms[names[place]] = (clock() - start) * 1e3
            for name, value in turn_ms.items():
                samples.milliseconds[name].append(value)
            samples.items.append(item)
        samples.rounds += 1


def sweep(samples: Samples, name: str, values: Sequence[int], images: Callable[[int], int]) -> tuple[SweepPoint, ...]:
    """The points of one variant.

    Args:
        samples: timed with the values as items.
        name: of the variant.
        values: of what is varied.
        images: that are captioned in one sample of a value.
    """
    points = []
    for value in values:
        each = samples.of(name, value)
        if each:
            statistics = spread(each)
            points.append(SweepPoint(value, statistics, images(value) / statistics.median * 1e3))
    return tuple(points)


def fixed_rate(
    work: Work,
    items: int,
    rate_hz: float,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> FixedRate:
    """Frames arrive at a fixed rate; the newest waits, and drops the one that waited before.

    Args:
        work: captions a frame.
        items: number of images, which the frames repeat.
        rate_hz: frames a second.
        seconds: how long frames arrive.
        clock, sleep: of the time.
    """
    frames = max(1, round(rate_hz * seconds))
    ages: list[float] = []
    began, following = clock(), 0
    while following < frames:
        newest = min(int((clock() - began) * rate_hz), frames - 1)
        if newest < following:
            sleep(max(0.0, began + following / rate_hz - clock()))
            continue
        work(newest % items)
        ages.append((clock() - began - newest / rate_hz) * 1e3)
        following = newest + 1
    elapsed = max(clock() - began, frames / rate_hz)  # the last frame lasts as long as every other
    age = spread(ages) if ages else Missing("no frame was captioned")
    return FixedRate(rate_hz, elapsed, frames, frames - len(ages), age, len(ages) / elapsed)
