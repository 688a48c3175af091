"""Samples as statistics, ratios of what was timed in pairs, and what to be warned of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from camscribe.benchmarks.schema import Missing, Spread, Stage
from camscribe.runtime.errors import OptionError

UNSTEADY = 0.025
"""Coefficient of variation above which trtexec, and we, call a measurement unsteady."""


def spread(samples: Sequence[float]) -> Spread:
    """Statistics of at least one sample.

    Percentiles are interpolated between the samples; the 99th of a few samples is hardly less than the largest.

    Raises:
        OptionError: there is no sample.
    """
    if not samples:
        raise OptionError("there is nothing to take statistics of; raise the number of rounds")
    values = np.asarray(samples, np.float64)
    mean = float(values.mean())
    variation = float(values.std(ddof=1)) / mean if len(values) > 1 and mean else None
    median, p90, p95, p99 = (float(value) for value in np.percentile(values, [50, 90, 95, 99]))
    return Spread(len(values), float(values.min()), mean, median, p90, p95, p99, float(values.max()), variation)


def steadiness(samples: Sequence[float], groups: Sequence[int]) -> float | None:
    """Coefficient of variation within groups: captions of one image are alike, those of two images are not.

    Args:
        samples: what was measured.
        groups: of each sample, which it belongs to.

    Returns:
        None where no group has two samples.
    """
    values, labels = np.asarray(samples, np.float64), np.asarray(groups)
    relative = [
        values[labels == label] / values[labels == label].mean() - 1
        for label in np.unique(labels)
        if (labels == label).sum() > 1
    ]
    if not relative:
        return None
    freedom = sum(len(part) - 1 for part in relative)
    return float(np.sqrt(sum(float((part**2).sum()) for part in relative) / freedom))


def paired_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Median of the ratios of what was timed one after the other."""
    return float(np.median(np.asarray(over) / np.asarray(under)))


def ratio_interval(old: Sequence[float], new: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """How many times as long the new samples are: ratio of the medians, and its 95 % interval by the bootstrap.

    Neighbouring samples are alike on a machine that drifts, so blocks of about the square root of their number are
    drawn, not single ones (Künsch 1989). Of a single sample nothing is known of the noise: 0 to infinity.
    """
    generator = np.random.default_rng(seed)

    def medians(samples: Sequence[float]) -> np.ndarray:
        values = np.asarray(samples, np.float64)
        length = max(1, int(len(values) ** 0.5))
        starts = generator.integers(0, len(values), (1000, -(-len(values) // length)))
        indices = (starts[:, :, None] + np.arange(length)) % len(values)
        return np.median(values[indices.reshape(1000, -1)[:, : len(values)]], axis=1)

    if min(len(old), len(new)) < 2:
        return float(np.median(new) / np.median(old)), 0.0, float("inf")
    ratios = medians(new) / medians(old)
    low, high = (float(value) for value in np.percentile(ratios, [2.5, 97.5]))
    return float(np.median(new) / np.median(old)), low, high


def latency_warnings(samples: Sequence[float], groups: Sequence[int], what: str = "caption") -> list[str]:
    """What to know of the latencies before they are believed."""
    found = []
    if len(samples) < 100:
        plural = "" if len(samples) == 1 else "s"
        found.append(f"only {len(samples)} {what}{plural}: p99 is little more than the slowest of all")
    variation = steadiness(samples, groups)
    if variation is not None and variation > UNSTEADY:
        found.append(
            f"unsteady: {what}s of one image vary by {variation:.1%} (above {UNSTEADY:.1%}); "
            "close other programs, fix the clocks, or measure longer"
        )
    return found


def limit_warnings(roofline: Mapping[str, Any] | Missing) -> list[str]:
    """Whether the limits of the machine can be believed: nothing is faster than it can be."""
    if isinstance(roofline, Missing):
        return []
    share = roofline["caption"]["share"]
    if share <= 1:
        return []
    return [
        f"the machine's limits were measured too low: a caption reaches {share:.0%} of them; something else ran "
        "meanwhile, so measure again when nothing does"
    ]


def stage_warnings(stages: Mapping[str, Stage], enqueue_ms: float | None = None) -> list[str]:
    """Whether a device waits for the host or for copies.

    Args:
        stages: of a variant.
        enqueue_ms: host time to enqueue what the device does in a caption; None where nothing is enqueued.
    """

    def cost(*names: str) -> float:
        return sum(stages[name].time_ms.mean * stages[name].per_caption for name in names if name in stages)

    found = []
    compute, transfers = cost("encoder", "decoder step"), cost("h2d", "d2h")
    if transfers > compute > 0:
        found.append(f"transfer-bound: copies take {transfers:.2f} ms, the graphs {compute:.2f} ms")
    if enqueue_ms is not None and enqueue_ms > compute > 0:
        found.append(f"enqueue-bound: the host needs {enqueue_ms:.2f} ms to enqueue {compute:.2f} ms of the graphs")
    return found
