"""Something that tells energy or power, and how it is summed while captions are made."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

INTERVAL_S = 0.05
"""Between two looks at a power in watts."""


def _nothing() -> None:
    """Nothing needs to be given back."""


class Meter(NamedTuple):
    """Something that tells energy or power."""

    source: str
    scope: str
    """What it sees: the package of the CPU, the GPU, the whole board."""
    kind: str
    """``joules``, a counter, or ``watts``."""
    read: Callable[[], float]
    """Raises OSError or ValueError where it cannot be read any more."""
    wraps_at: float = 0.0
    """Joules at which a counter begins again at 0; 0 for never."""
    close: Callable[[], None] = _nothing


class Watcher:
    """Reads one meter from ``start`` to ``stop``; a power is summed by the trapezoid rule."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._stop = threading.Event()
        self._problem = ""
        self._joules = 0.0
        self._thread = threading.Thread(target=self._look, name=meter.source, daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._last, self._at = self._read(), time.perf_counter()
        self._thread.start()

    def stop(self) -> float | str:
        """Joules, or what went wrong."""
        self._stop.set()
        self._thread.join()
        self._add()
        return self._problem or self._joules

    def _look(self) -> None:
        # Counters are looked at too, so that one that wraps is noticed.
        while not self._stop.wait(INTERVAL_S if self._meter.kind == "watts" else 1.0):
            self._add()

    def _add(self) -> None:
        value, now = self._read(), time.perf_counter()
        if self._meter.kind == "watts":
            self._joules += (self._last + value) / 2 * (now - self._at)
        else:
            more = value - self._last
            self._joules += more + self._meter.wraps_at if more < 0 else more
        self._last, self._at = value, now

    def _read(self) -> float:
        try:
            return self._meter.read()
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._problem = self._problem or f"could not be read during the run ({error})"
            return 0.0
