"""How far an archive is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time

from camscribe.runtime.archive.table import Row
from camscribe.runtime.progress import ProgressBar

_EVERY_S = 60.0
_NAMED = 20
"""Failed images that are named; the table has them all."""


class Progress:
    """Says nothing."""

    def note(self, text: str) -> None:
        """Takes a word about how the work is done."""

    def begin(self, done: int, total: int) -> None:
        """Takes how many images were done before, and how many there are."""

    def add(self, rows: list[Row]) -> None:
        """Takes the rows of a unit."""


class TerminalProgress(Progress):
    """Says it on standard error."""

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        self._bar = ProgressBar("captioned", 0)
        self._done = self._total = self._start = self._failed = 0
        self._began = self._last = time.monotonic()

    def note(self, text: str) -> None:
        if self._verbose:
            print(f"camscribe: {text}", file=sys.stderr)

    def begin(self, done: int, total: int) -> None:
        self._done = self._start = done
        self._total = total
        self._bar = ProgressBar("captioned", total, done)
        self._began = self._last = time.monotonic()
        if done:
            print(f"camscribe: {done} images were done before, {total - done} are left", file=sys.stderr)

    def add(self, rows: list[Row]) -> None:
        self._bar.clear()
        for row in rows:
            self._done += row.get("shard") is None or row.get("index") is not None  # else a row about a shard
            if row.get("error") is not None:
                self._failed += 1
                if self._failed <= _NAMED:
                    print(f"camscribe: {row['error']}", file=sys.stderr)
                elif self._failed == _NAMED + 1:
                    print("camscribe: more images failed; the table's column error names them", file=sys.stderr)
        failed = f"{self._failed} failed" if self._failed else ""
        now = time.monotonic()
        if not sys.stderr.isatty() and now - self._last >= _EVERY_S:
            self._last = now
            rate = (self._done - self._start) / (now - self._began)
            print(f"camscribe: captioned {self._done}/{self._total}  {rate:.1f}/s  {failed}".rstrip(), file=sys.stderr)
        self._bar.update(self._done, failed)

    def close(self) -> None:
        """Makes room for what comes next."""
        self._bar.clear()
