"""What captions say on a robot: the same three topics over DDS, Zenoh, rclpy and in recordings.

For a topic ``/caption`` these are

- ``/caption``, ``std_msgs/msg/String``: the sentence;
- ``/caption/stamped``, ``std_msgs/msg/String`` that holds a JSON object (``stamped_json``): the sentence with the stamp
  of the frame it was made of, how sure and how late it is;
- ``/diagnostics``, ``diagnostic_msgs/msg/DiagnosticArray``: rates, frame age, drops, once a second.

``String`` has no header, and a type of our own would have to be built on every machine that listens.
"""

from __future__ import annotations

import json
import math
import re
import time

from camscribe.runtime.errors import OptionError
from camscribe.runtime.stream.cdr import DiagnosticArray, DiagnosticStatus
from camscribe.runtime.stream.counters import Counts
from camscribe.runtime.stream.frame import Captioned

OK, WARN, ERROR, STALE = range(4)
"""Levels of ``diagnostic_msgs/msg/DiagnosticStatus``."""
DIAGNOSTICS = "/diagnostics"
STAMPED = "stamped"
"""What follows the topic's name where the stamped captions are."""
_NS = 1_000_000_000
_NAME = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")


def full_name(topic: str) -> str:
    """A topic's full name: ``/caption`` for ``caption``.

    Raises:
        OptionError: it is no name of a topic.
    """
    if not _NAME.fullmatch(topic) or "__" in topic:
        raise OptionError(
            f"{topic!r} is not the name of a ROS topic; expected letters, digits and single _, in parts joined by /, "
            "none of which begins with a digit, such as /camera/image_raw"
        )
    return topic if topic.startswith("/") else f"/{topic}"


def stamped(item: Captioned, counts: Counts | None = None) -> dict[str, object]:
    """A caption with all that is known of it, ready for JSON: ``Captioned.to_dict`` and what a robot adds to that.

    Args:
        item: the caption.
        counts: the stream's latest counters; None where there are none yet.
    """
    seconds, nanoseconds = divmod(item.frame.stamp_ns, _NS)
    return {
        "stamp": {"sec": seconds, "nanosec": nanoseconds},
        "frame_id": item.frame.name,
        **item.to_dict(),
        "latency_ms": round(item.caption.timings.total_ms, 3),
        "captured": None if counts is None else counts.captured,
        "dropped": None if counts is None else counts.dropped,
    }


def stamped_json(item: Captioned, counts: Counts | None = None) -> str:
    """``stamped`` as one line of JSON."""
    return json.dumps(stamped(item, counts), ensure_ascii=False, allow_nan=False)


def diagnostics(counts: Counts, source: str, max_age_ms: float | None = None) -> DiagnosticArray:
    """A stream's counters as ROS tools show them.

    The level is ERROR where no frame comes, and WARN where none is captioned or the captions' age (p95) passes
    ``max_age_ms``.

    Args:
        counts: the counters.
        source: where the frames come from.
        max_age_ms: the age that is still good; None for any.
    """
    level, message = OK, "captioning"
    if not counts.captured_per_s > 0:
        level, message = ERROR, "no frames arrive"
    elif max_age_ms is not None and counts.age_p95_ms > max_age_ms:
        level, message = WARN, f"captions are late: {counts.age_p95_ms:.0f} ms (p95), expected {max_age_ms:.0f}"
    elif not counts.captioned_per_s > 0:
        level, message = WARN, "frames arrive, none is captioned: paused, unchanged or too old"
    values = {
        "source": source,
        "captured": str(counts.captured),
        "captioned": str(counts.captioned),
        "dropped": str(counts.dropped),
        "unchanged": str(counts.unchanged),
        "failed": str(counts.failed),
        "reopened": str(counts.reopened),
        "capture rate [Hz]": _text(counts.captured_per_s),
        "caption rate [Hz]": _text(counts.captioned_per_s),
        "frame age p50 [ms]": _text(counts.age_p50_ms),
        "frame age p95 [ms]": _text(counts.age_p95_ms),
        "latency p50 [ms]": _text(counts.latency_p50_ms),
    }
    status = DiagnosticStatus(level, "camscribe: captions", message, "camscribe", tuple(values.items()))
    return DiagnosticArray(time.time_ns(), "", (status,))


def _text(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "unknown"
