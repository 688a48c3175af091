"""What a stream counts."""

from __future__ import annotations

from dataclasses import dataclass


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
