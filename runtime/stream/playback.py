"""Recordings at their own pace, and again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from camscribe.runtime.stream.frame import Frame
from camscribe.runtime.stream.source import Source
from camscribe.runtime.stream.uri import SourceUri


def played(uri: SourceUri, open_source: Callable[[], Source], fps: float = 1.0) -> Source:
    """A recording as the options ``loop`` and ``realtime`` want it.

    Args:
        uri: has the options.
        open_source: opens the recording.
        fps: see ``Loop``.

    Raises:
        SourceError: it cannot be opened.
        OptionError: an option is neither 0 nor 1.
    """
    loop, realtime = uri.flag("loop"), uri.flag("realtime")
    source: Source = Loop(open_source, fps) if loop else open_source()
    return RealTime(source) if realtime else source


class Loop:
    """Begins again at the end. Stamps go on from where they were.

    Args:
        open_source: opens the recording.
        fps: the pace of a recording of a single frame, whose stamps show none.
    """

    def __init__(self, open_source: Callable[[], Source], fps: float) -> None:
        self._open = open_source
        self._lock = threading.Lock()
        self._closed = False
        self._source = open_source()
        self.live = self._source.live
        self._frames = self._last_ns = self._shift_ns = 0
        self._step_ns = round(1e9 / fps)
        self._fresh = False
        """Whether the recording has begun anew and gave no frame since."""

    def read(self) -> Frame | None:
        """See ``Source``."""
        frame = self._source.read()
        if frame is None and self._frames and not self._fresh and self._begin_again():
            frame = self._source.read()
        if frame is None:
            return None
        if self._fresh:
            self._fresh = False
            self._shift_ns = self._last_ns + self._step_ns - frame.stamp_ns
        stamp_ns = frame.stamp_ns + self._shift_ns
        if self._frames:
            self._step_ns = stamp_ns - self._last_ns
        self._last_ns = stamp_ns
        self._frames += 1
        return replace(frame, sequence=self._frames - 1, stamp_ns=stamp_ns)

    def _begin_again(self) -> bool:
        self._source.close()
        source = self._open()
        self._fresh = True
        with self._lock:
            self._source, closed = source, self._closed
        if closed:
            source.close()
        return not closed

    def close(self) -> None:
        """See ``Source``."""
        with self._lock:
            self._closed, source = True, self._source
        source.close()


class RealTime:
    """Gives the frames of a recording when they are due by their stamps, and leaves out those that are late.

    Where the recording cannot be read that fast, it is played slower: half a second without a frame is the longest.

    Args:
        source: the recording.
    """

    live = True
    _LATE_S, _LONGEST_S = 0.1, 0.5

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stop = threading.Event()
        self._origin_s: float | None = None
        """The monotonic time of stamp 0."""
        self._given_s = 0.0

    def read(self) -> Frame | None:
        """See ``Source``."""
        while (frame := self._source.read()) is not None:
            now_s, stamp_s = time.monotonic(), frame.stamp_ns / 1e9
            if self._origin_s is None:
                self._origin_s = now_s - stamp_s
            late_s = now_s - self._origin_s - stamp_s
            if late_s > self._LATE_S and now_s - self._given_s > self._LONGEST_S:
                self._origin_s += late_s
            elif late_s > self._LATE_S:
                continue
            elif self._stop.wait(max(0.0, -late_s)):
                return None
            self._given_s = time.monotonic()
            return replace(frame, captured_s=self._given_s)
        return None

    def close(self) -> None:
        """See ``Source``."""
        self._stop.set()
        self._source.close()
