"""What captions say on a robot."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from camscribe.runtime.errors import OptionError
from camscribe.runtime.stream.ros_topics import ERROR, OK, WARN, diagnostics, full_name, stamped_json


@pytest.mark.parametrize("topic", ["/caption", "caption", "a/b_c/d1"])
def test_a_topic_gets_its_full_name(topic: str) -> None:
    assert full_name(topic) == f"/{topic.removeprefix('/')}"


@pytest.mark.parametrize("topic", ["", "/", "a/", "a//b", "a b", "1a", "a/1b", "a-b", "a__b", "~/a", "a\n"])
def test_what_is_no_topic_is_refused(topic: str) -> None:
    with pytest.raises(OptionError, match="is not the name of a ROS topic"):
        full_name(topic)


def test_a_stamped_caption_is_one_line_of_json(captioned: Any, counts: Any) -> None:
    item = captioned("a “man”\nrides", 3)
    text = stamped_json(item, counts(captured=7, dropped=2))
    assert "\n" not in text
    record = json.loads(text)
    assert record["caption"] == "a “man”\nrides"
    assert record["stamp"]["sec"] * 10**9 + record["stamp"]["nanosec"] == item.frame.stamp_ns == record["stamp_ns"]
    assert (record["captured"], record["dropped"], record["sequence"]) == (7, 2, 3)
    assert [entry["caption"] for entry in record["hypotheses"]] == ["a “man”\nrides", "a dog"]
    assert json.loads(stamped_json(item))["dropped"] is None


@pytest.mark.parametrize(
    ("changes", "max_age_ms", "level", "message"),
    [
        ({}, None, OK, "captioning"),
        ({}, 100, OK, "captioning"),
        ({}, 50, WARN, "captions are late: 55 ms (p95), expected 50"),
        ({"captured_per_s": 0.0}, 50, ERROR, "no frames arrive"),
        ({"captured_per_s": math.nan}, None, ERROR, "no frames arrive"),
        ({"captioned_per_s": 0.0, "age_p95_ms": math.nan}, 50, WARN, "frames arrive, none is captioned"),
    ],
)
def test_diagnostics_tell_how_it_goes(
    counts: Any, changes: dict[str, float], max_age_ms: float | None, level: int, message: str
) -> None:
    (status,) = diagnostics(counts(**changes), "ros2://camera", max_age_ms).status
    assert status.level == level
    assert status.message.startswith(message)
    assert dict(status.values)["source"] == "ros2://camera"
