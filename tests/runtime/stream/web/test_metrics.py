"""What Prometheus reads, by its own parser."""

from __future__ import annotations

import math

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from camscribe.runtime.stream.counters import Counts
from camscribe.runtime.stream.web.metrics import SECONDS, Metrics

COUNTS = Counts(12.5, 100, 60, 38, 1, 1, 2, math.nan, math.nan, math.nan, 30.0, math.nan)


def render(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = metrics.render(
        COUNTS,
        paused=True,
        encoded=7,
        viewers={"page": 2, "mjpeg": 0},
        about={"bundle": 'a "b"\\\nc', "backend": "cpu"},
    )
    families = list(text_string_to_metric_families(text))
    assert all(family.documentation and family.type in ("counter", "gauge", "histogram") for family in families)
    assert len({family.name for family in families}) == len(families)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_counters_and_gauges_are_read_back() -> None:
    metrics = Metrics()
    metrics.uploads.update([200, 200, 413])
    metrics.pictures_sent["page"] = 5
    found = render(metrics)
    assert found["camscribe_frames_captured_total", ()] == 100
    assert found["camscribe_frames_captioned_total", ()] == 60
    assert found["camscribe_source_reopened_total", ()] == 2
    assert found["camscribe_stream_paused", ()] == 1
    assert found["camscribe_captured_per_second", ()] == 30
    assert math.isnan(found["camscribe_captioned_per_second", ()])
    assert found["camscribe_web_viewers", (("kind", "page"),)] == 2
    assert found["camscribe_web_pictures_sent_total", (("kind", "mjpeg"),)] == 0
    assert found["camscribe_web_uploads_total", (("status", "200"),)] == 2
    assert found["camscribe_info", (("backend", "cpu"), ("bundle", 'a "b"\\\nc'))] == 1


def test_histograms_count_what_lies_below_each_bound() -> None:
    values = [0.0, 0.005, *np.random.default_rng(0).gamma(2, 0.05, 500), 9.0]
    metrics = Metrics()
    for value in values:
        metrics.age.add(float(value))
    found = render(metrics)
    for bound in SECONDS:
        assert found["camscribe_frame_age_seconds_bucket", (("le", repr(bound)),)] == sum(v <= bound for v in values)
    assert found["camscribe_frame_age_seconds_bucket", (("le", "+Inf"),)] == len(values)
    assert found["camscribe_frame_age_seconds_count", ()] == len(values)
    assert found["camscribe_frame_age_seconds_sum", ()] == pytest.approx(sum(values))
