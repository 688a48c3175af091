"""What Prometheus reads: its text format, version 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from camscribe.runtime.stream.counters import Counts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)
"""Upper bounds of the histograms."""

_COUNTERS = {
    "captured": "Frames that the source gave.",
    "captioned": "Frames that were captioned.",
    "dropped": "Frames that were replaced by newer ones before the captioner was free, or too old then.",
    "unchanged": "Frames that were not captioned because the scene was as before.",
    "failed": "Frames that could not be read or captioned.",
}


class Histogram:
    """Counts values below fixed bounds; any thread may add."""

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        """Counts a value."""
        place = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[place] += 1
            self._sum += value

    def lines(self, name: str, text: str) -> list[str]:
        """The histogram as lines of the text format."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        lines, below = _head(name, "histogram", text), 0
        for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
            below += count
            lines.append(_sample(f"{name}_bucket", below, {"le": "+Inf" if bound == float("inf") else repr(bound)}))
        return [*lines, _sample(f"{name}_sum", total), _sample(f"{name}_count", below)]


class Metrics:
    """What the sink itself counts; any thread may add."""

    def __init__(self) -> None:
        self.age = Histogram()
        self.latency = Histogram()
        self.uploads: Counter[int] = Counter()
        """By status of the answer. Only touched by the event loop."""
        self.pictures_sent: Counter[str] = Counter()
        """By kind of viewer. Only touched by the event loop."""

    def render(
        self,
        counts: Counts,
        *,
        paused: bool,
        encoded: int,
        viewers: Mapping[Literal["page", "mjpeg"], int],
        about: Mapping[str, str],
    ) -> str:
        """All of it.

        Args:
            counts: of the stream.
            paused: whether it pauses.
            encoded: pictures encoded.
            viewers: by kind, how many look now.
            about: what captions, by label.
        """
        lines: list[str] = []

        def one(name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> None:
            lines.extend(_head(name, kind, text))
            lines.extend(_sample(name, value, labels) for labels, value in samples)

        for name, text in _COUNTERS.items():
            one(f"camscribe_frames_{name}_total", "counter", text, [({}, getattr(counts, name))])
        one("camscribe_source_reopened_total", "counter", "Times the source was lost and opened again.",
            [({}, counts.reopened)])  # fmt: skip
        one("camscribe_stream_seconds", "gauge", "Since the stream began.", [({}, counts.seconds)])
        one("camscribe_stream_paused", "gauge", "1 while no frame is captioned.", [({}, int(paused))])
        one("camscribe_captured_per_second", "gauge", "Over the last seconds.", [({}, counts.captured_per_s)])
        one("camscribe_captioned_per_second", "gauge", "Over the last seconds.", [({}, counts.captioned_per_s)])
        lines += self.age.lines("camscribe_frame_age_seconds", "From a frame's capture to its caption.")
        lines += self.latency.lines("camscribe_caption_seconds", "Time that the captioner took for a frame.")
        one("camscribe_web_viewers", "gauge", "Who looks now.", [({"kind": k}, n) for k, n in viewers.items()])
        one("camscribe_web_pictures_encoded_total", "counter", "JPEGs made, each for all viewers.", [({}, encoded)])
        one("camscribe_web_pictures_sent_total", "counter", "JPEGs sent.",
            [({"kind": kind}, self.pictures_sent[kind]) for kind in viewers])  # fmt: skip
        one("camscribe_web_uploads_total", "counter", "Images sent to be captioned, by the answer's status.",
            [({"status": str(status)}, count) for status, count in sorted(self.uploads.items())])  # fmt: skip
        one("camscribe_info", "gauge", "What captions.", [(about, 1)])
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _sample(name: str, value: float, labels: Mapping[str, str] | None = None) -> str:
    inside = ",".join(f'{key}="{_escape(text)}"' for key, text in (labels or {}).items())
    number = "NaN" if value != value else repr(value)
    return f"{name}{{{inside}}} {number}" if inside else f"{name} {number}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
