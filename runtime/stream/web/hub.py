"""Between the stream and its viewers: takes frames and captions from the sink's thread, and hands on the newest."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from time import monotonic
from typing import Any, Literal

from camscribe.runtime.stream.counters import Counts
from camscribe.runtime.stream.frame import Captioned, Frame
from camscribe.runtime.stream.sink import Control
from camscribe.runtime.stream.web import messages
from camscribe.runtime.stream.web.latest import Latest
from camscribe.runtime.stream.web.metrics import Metrics
from camscribe.runtime.stream.web.pictures import Pictures

Kind = Literal["page", "mjpeg"]
CAPTION_RATE_HZ = 20.0
"""Captions a second that the page shows at most; nobody reads faster."""
_HISTORY = 240
"""Captions whose times a page gets that is opened later, for its curves."""


class Hub:
    """What all viewers share. ``frame``, ``caption`` and ``counts`` are for any thread, the rest for the event loop."""

    def __init__(self, control: Control, loop: asyncio.AbstractEventLoop) -> None:
        self.control = control
        self.metrics = Metrics()
        self.viewers: dict[Kind, int] = {"page": 0, "mjpeg": 0}
        self.frames: Latest[Frame] = Latest()
        self.captions: Latest[Captioned] = Latest()
        self.shown: Latest[str] = Latest()
        """The message of the newest caption that pages show; made once for all of them."""
        self.state: Latest[str] = Latest()
        """The message of counters and settings."""
        self.pictures = Pictures(self.frames)
        self._loop = loop
        self._counts: Latest[Counts] = Latest()
        self._history: deque[tuple[float, float]] = deque(maxlen=_HISTORY)
        self._frame_s: float | None = None
        self._lock = threading.Lock()
        self._waiting: dict[Latest[Any], Any] = {}

    def frame(self, frame: Frame) -> None:
        """Takes a captured frame."""
        self._frame_s = monotonic()
        self._hand_over(self.frames, frame)

    def caption(self, item: Captioned) -> None:
        """Takes a caption."""
        latency_ms = item.caption.timings.total_ms
        self.metrics.age.add(item.age_ms / 1e3)
        self.metrics.latency.add(latency_ms / 1e3)
        with self._lock:
            self._history.append((item.age_ms, latency_ms))
        self._hand_over(self.captions, item)

    def counts(self, counts: Counts) -> None:
        """Takes the counters."""
        self._hand_over(self._counts, counts)

    def hello(self) -> str:
        """The first message to a page."""
        with self._lock:
            history = list(self._history)
        return messages.hello(self.control, history)

    def refresh(self) -> None:
        """Tells all pages of settings that were changed."""
        self._tell(self.control.counts())

    def silent_s(self) -> float | None:
        """Seconds since the last frame; None before the first."""
        return None if self._frame_s is None else monotonic() - self._frame_s

    @contextlib.contextmanager
    def viewer(self, kind: Kind) -> Iterator[None]:
        """Counts somebody who looks."""
        self.viewers[kind] += 1
        try:
            yield
        finally:
            self.viewers[kind] -= 1

    async def run(self) -> None:
        """Makes messages of what comes in, until it is cancelled."""
        await asyncio.gather(self._show_captions(), self._tell_counts())

    async def _show_captions(self) -> None:
        version = 0
        while True:
            version, item = await self.captions.after(version)
            if self.viewers["page"]:
                # A word that is pointed at is shown on the very frame that the model saw.
                await self.pictures.keep(item.frame)
            self.shown.put(messages.shown(item))
            await asyncio.sleep(1 / CAPTION_RATE_HZ)

    async def _tell_counts(self) -> None:
        version = 0
        while True:
            version, counts = await self._counts.after(version)
            self._tell(counts)

    def _tell(self, counts: Counts) -> None:
        self.state.put(messages.state(self.control, counts, sum(self.viewers.values())))

    def _hand_over(self, slot: Latest[Any], value: Any) -> None:
        """Only the newest value of each slot waits for the event loop, however busy that is."""
        with self._lock:
            first = not self._waiting
            self._waiting[slot] = value
        if first:
            # A loop that has ended is told by the sink.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for slot, value in waiting.items():
            slot.put(value)
