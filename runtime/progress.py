"""A progress bar on a terminal; nothing where the output is piped."""

from __future__ import annotations

import sys
import time
from types import TracebackType


class ProgressBar:
    """Shows ``label  done/total  rate  time left`` on one line of standard error, once the work has taken a second.

    Args:
        label: what is counted.
        total: the count at the end.
        start: the count already done, by an earlier run.
        show: False hides the bar even on a terminal, for all but the first of several processes.
    """

    def __init__(self, label: str, total: int, start: int = 0, *, show: bool = True) -> None:
        self.label, self.total, self._start = label, total, start
        self._shown = show and sys.stderr.isatty()
        self._began = time.monotonic()
        self._last = self._began + 0.9

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.clear()

    def clear(self) -> None:
        """Makes room for a line of output."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def update(self, done: int, note: str = "") -> None:
        """Redraws at most ten times a second, with ``note`` behind the numbers."""
        now = time.monotonic()
        if not self._shown or now - self._last < 0.1:
            return
        self._last = now
        rate = (done - self._start) / (now - self._began)
        left = f"{(self.total - done) / rate:.0f} s left" if rate else ""
        filled = 24 * done // max(self.total, 1)
        bar = "█" * filled + "░" * (24 - filled)
        sys.stderr.write(f"\r\x1b[K{self.label} {bar} {done}/{self.total}  {rate:.1f}/s  {left}  {note}")
        sys.stderr.flush()
