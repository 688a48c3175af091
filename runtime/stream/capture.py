"""The thread that reads a source, and opens it again when it was lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from camscribe.runtime.errors import CamscribeError, SourceError
from camscribe.runtime.stream.counters import Tally
from camscribe.runtime.stream.frame import Frame
from camscribe.runtime.stream.slot import LatestFrame
from camscribe.runtime.stream.source import FrameError, Source

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 8.0
"""Before a lost source is opened again: doubled each time, until a frame comes."""


class Capture:
    """Reads frames into a slot.

    A live source that was lost after its first frame is opened again and again; one that never gave a frame, or is not
    live, ends the slot with its error.

    Args:
        open_source: opens the source, and opens it again.
        tally: counts what was captured, failed and opened again.
        report: takes a line for people.
        taken: called with each frame that comes of a live source, in this thread.
        reopens: whether ``open_source`` may be called again.

    Raises:
        CamscribeError: the source cannot be opened.
    """

    def __init__(
        self,
        open_source: Callable[[], Source],
        tally: Tally,
        report: Callable[[str], None],
        taken: Callable[[Frame], None],
        *,
        reopens: bool = True,
    ) -> None:
        self._reopens = reopens
        self._open, self._tally, self._report, self._taken = open_source, tally, report, taken
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._source = open_source()
        self.live = self._source.live
        self.slot = LatestFrame(waits=not self.live)
        self._thread = threading.Thread(target=self._run, name="camscribe-capture", daemon=True)

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """Gives the source back; returns whether the thread has ended in time. Again does nothing."""
        with self._lock:
            self._stop.set()
            source = self._source
        source.close()
        if self.slot.clear():
            self._tally.add("dropped")
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._read_all()
        except BaseException as error:  # whoever takes frames gets it
            self.slot.end(None if self._stop.is_set() and isinstance(error, CamscribeError) else error)
        else:
            self.slot.end()
        finally:
            self._source.close()

    def _read_all(self) -> None:
        pause_s, lost_at, first, following = FIRST_PAUSE_S, 0.0, 0, 0
        while not self._stop.is_set():
            try:
                frame = self._source.read()
            except FrameError as error:
                self._tally.add("failed")
                self._report(str(error))
                continue
            except SourceError as error:
                if not self.live or not self._reopens or not following or self._stop.is_set():
                    raise
                if not lost_at:
                    lost_at = time.monotonic()
                    self._report(f"{error}; opening it again until it is back")
                self._source.close()
                pause_s = self._open_again(pause_s)
                continue
            if frame is None:
                return
            if lost_at:
                self._tally.add("reopened")
                self._report(f"back after {time.monotonic() - lost_at:.1f} s")
                pause_s, lost_at, first = FIRST_PAUSE_S, 0.0, following
            if first:  # an opened source counts from 0 again
                frame = replace(frame, sequence=first + frame.sequence)
            following = frame.sequence + 1
            self._tally.add("captured")
            if self.live:
                self._taken(frame)
            if self.slot.put(frame):
                self._tally.add("dropped")

    def _open_again(self, pause_s: float) -> float:
        """Waits and opens the source until that works; returns the next pause."""
        while not self._stop.wait(pause_s):
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            try:
                source = self._open()
            except SourceError:
                continue
            with self._lock:
                stopped, self._source = self._stop.is_set(), source
            if stopped:
                source.close()
            break
        return pause_s
