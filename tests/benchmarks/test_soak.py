"""The soak of streams, for seconds instead of half an hour."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from camscribe.benchmarks.soak import kills, soak
from camscribe.runtime.captioner import Captioner


def test_a_short_soak_measures_all_that_is_asked_for(tmp_path: Path) -> None:
    with Captioner.load(None, "cpu", threads=1) as captioner:
        found = soak(captioner, 3.0, 30, ["jsonl", "video"], tmp_path)
    json.dumps(found)
    assert found["left"] == []
    assert found["said"] == []
    assert found["jsonl_lines"] == found["counts"]["captioned"] == found["age"]["captions"] > 1
    assert 1 < found["video_s"] < 10
    assert found["memory"]["first_mb"] > 10
    assert found["age"]["p95_ms"] >= found["age"]["p50_ms"] > 0
    assert found["age"]["camera_interval_ms"] > 20


@pytest.mark.slow
def test_a_killed_camera_is_counted() -> None:
    with Captioner.load(None, "cpu", threads=1) as captioner:
        found = kills(captioner, 1)
    assert (found["reopened"], found["left"]) == (1, [])
    assert found["back_after_s"]["most"] > 0
