"""What a stream counts."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass

import numpy as np

LATELY = 512
"""Ages and latencies are of as many captions."""
_WINDOW_S = 5.0
"""Rates are over this time."""


@dataclass(frozen=True)
class Counts:
    """A stream's counters at one moment. Ages and times that are not known yet are NaN, never 0."""

    seconds: float
    """Since the stream began."""
    captured: int
    captioned: int
    dropped: int
    """Captured, but replaced by a newer frame before the captioner was free, or too old then."""
    unchanged: int
    """Not captioned because the scene was as before (``--on-change``)."""
    failed: int
    """Frames that could not be read or captioned."""
    reopened: int
    age_p50_ms: float
    """Median age of the frames captioned lately, at the time of their caption."""
    age_p95_ms: float
    latency_p50_ms: float
    """Median time that the captioner took for those frames."""
    captured_per_s: float
    """Over the last seconds, as the next one."""
    captioned_per_s: float

    def to_dict(self) -> dict[str, float | None]:
        """As JSON has it, which knows no NaN: what is not known is None."""
        return {name: None if math.isnan(value) else round(value, 3) for name, value in asdict(self).items()}

    def line(self) -> str:
        """As a person reads it."""
        parts = [f"captured {self.captured}", f"captioned {self.captioned}", f"dropped {self.dropped}"]
        parts += [f"unchanged {self.unchanged}"] if self.unchanged else []
        parts += [f"failed {self.failed}"] if self.failed else []
        parts += [f"reopened {self.reopened}"] if self.reopened else []
        if not math.isnan(self.age_p50_ms):
            parts.append(f"age {self.age_p50_ms:.0f} ms (p95 {self.age_p95_ms:.0f})")
            parts.append(f"caption {self.latency_p50_ms:.0f} ms")
        return ", ".join(parts)


class Tally:
    """Counts as it goes, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._counts = dict.fromkeys(("captured", "captioned", "dropped", "unchanged", "failed", "reopened"), 0)
        self._ages: deque[float] = deque(maxlen=LATELY)
        self._latencies: deque[float] = deque(maxlen=LATELY)
        self._times: dict[str, deque[float]] = {"captured": deque(), "captioned": deque()}

    def add(self, name: str, count: int = 1) -> None:
        """Adds to one of the counters of ``Counts``."""
        with self._lock:
            self._counts[name] += count
            if name in self._times:
                self._times[name].append(time.monotonic())
                self._forget(self._times[name])

    def captioned(self, age_ms: float, latency_ms: float) -> None:
        """Counts a caption."""
        self.add("captioned")
        with self._lock:
            self._ages.append(age_ms)
            self._latencies.append(latency_ms)

    def counts(self) -> Counts:
        """The counters as they are now."""
        with self._lock:
            seconds = time.monotonic() - self._began
            for times in self._times.values():
                self._forget(times)
            p50, p95 = np.percentile(self._ages, [50, 95]) if self._ages else (math.nan, math.nan)
            latency = np.median(self._latencies) if self._latencies else math.nan
            window = max(min(seconds, _WINDOW_S), 1e-9)
            return Counts(
                seconds,
                **self._counts,
                age_p50_ms=float(p50),
                age_p95_ms=float(p95),
                latency_p50_ms=float(latency),
                captured_per_s=len(self._times["captured"]) / window,
                captioned_per_s=len(self._times["captioned"]) / window,
            )

    @staticmethod
    def _forget(times: deque[float]) -> None:
        while times and times[0] < time.monotonic() - _WINDOW_S:
            times.popleft()
