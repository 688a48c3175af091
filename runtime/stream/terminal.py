"""Captions as lines on standard output, and the counters on the last line of a terminal."""

from __future__ import annotations

import json
import shutil
import sys
import time

from camscribe.runtime.errors import one_line
from camscribe.runtime.stream.counters import Counts
from camscribe.runtime.stream.frame import Captioned, Frame
from camscribe.runtime.stream.sink import Control


class TerminalSink:
    """Prints a line when the sentence has changed; with ``as_json`` a JSON object for each caption."""

    name = "terminal"
    wants_frames = False

    def __init__(self, *, as_json: bool = False) -> None:
        self._json = as_json
        self._last = ("", "")
        self._live = sys.stderr.isatty()
        self._status = ""
        self.error: OSError | None = None
        """Why nothing can be printed any more: whoever read has gone, or the disk is full."""

    def open(self, control: Control) -> None:
        """Does nothing."""

    def frame(self, frame: Frame) -> None:
        """Does nothing."""

    def caption(self, item: Captioned) -> None:
        """Prints a caption."""
        if self._json:
            self._print(json.dumps(item.to_dict()))
            return
        shown = (item.frame.name, item.caption.text)
        if shown == self._last:
            return
        self._last = shown
        seconds = item.frame.stamp_ns / 1e9
        moment = f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{int(seconds % 1 * 10)}"
        note = f"{item.caption.score:.2f}  {item.caption.timings.total_ms:.0f} ms  age {item.age_ms:.0f} ms"
        self._print(one_line(f"{item.frame.name or moment}  {item.caption.text:<64}  {note}"))

    def counts(self, counts: Counts) -> None:
        """Shows the counters below the captions, on a terminal."""
        if self._live:
            status = f"{counts.captioned_per_s:.1f} captions/s of {counts.captured_per_s:.1f}  {counts.line()}"
            self._status = status[: shutil.get_terminal_size().columns - 1]  # a line that wraps cannot be taken away
            sys.stderr.write(f"\r\x1b[K{self._status}")
            sys.stderr.flush()

    def close(self) -> None:
        """Takes the counters away again."""
        self._clear()
        self._status = ""

    def _print(self, line: str) -> None:
        if self.error is not None:
            return
        self._clear()
        try:
            print(line, flush=True)
        except OSError as error:
            self.error = error
        if self._status:
            sys.stderr.write(self._status)
            sys.stderr.flush()

    def _clear(self) -> None:
        if self._status:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
