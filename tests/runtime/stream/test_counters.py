"""Counters: what is not known is NaN, ages are percentiles, all adds up from any thread."""

from __future__ import annotations

import json
import math
import threading

import numpy as np
import pytest

from camscribe.runtime.stream.counters import LATELY, Tally


def test_nothing_is_known_at_the_start() -> None:
    counts = Tally().counts()
    assert math.isnan(counts.age_p50_ms)
    assert math.isnan(counts.latency_p50_ms)
    assert json.loads(json.dumps(counts.to_dict()))["age_p95_ms"] is None
    assert counts.line() == "captured 0, captioned 0, dropped 0"


def test_percentiles_are_of_the_captions_made_lately() -> None:
    tally = Tally()
    ages = np.random.default_rng(0).uniform(10, 90, LATELY + 100)
    for age in ages:
        tally.captioned(float(age), float(age) / 2)
    counts = tally.counts()
    lately = ages[-LATELY:]
    assert counts.captioned == len(ages)
    assert counts.age_p50_ms == pytest.approx(np.percentile(lately, 50))
    assert counts.age_p95_ms == pytest.approx(np.percentile(lately, 95))
    assert counts.latency_p50_ms == pytest.approx(np.median(lately) / 2)
    assert counts.captioned_per_s > 0


def test_counts_of_many_threads_add_up() -> None:
    tally = Tally()

    def count() -> None:
        for _ in range(500):
            tally.add("captured")
            tally.add("dropped", 2)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tally.counts().captured, tally.counts().dropped) == (2000, 4000)
    assert "dropped 4000" in tally.counts().line()
