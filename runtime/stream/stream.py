"""Captions of a source's frames, always of the newest one, in Python.

    with Captioner.load() as captioner, CaptionStream(captioner, "0") as stream:
        for item in stream:
            print(item.caption.text, item.age_ms)

One thread captures. Whoever asks for the next caption makes it, of the newest frame at that moment, so nothing queues:
a frame is never older than one interval of the camera and one caption. ``run`` and ``start`` ask for you, ``async for``
asks in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING

from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import EngineError, OptionError, SinkError, SourceError, one_line
from camscribe.runtime.search import SearchOptions
from camscribe.runtime.stream import uri
from camscribe.runtime.stream.capture import Capture
from camscribe.runtime.stream.change import SceneChange
from camscribe.runtime.stream.counters import Counts, Tally
from camscribe.runtime.stream.delivery import Delivery
from camscribe.runtime.stream.frame import Captioned, Frame
from camscribe.runtime.stream.sink import Sink
from camscribe.runtime.stream.source import Source
from camscribe.runtime.stream.terminal import TerminalSink

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from camscribe.runtime.search import SearchChanges

_LOG = logging.getLogger(__name__)
_CLOSE_S = 0.8
"""What ending may take, when a stream is closed before its source has ended: the source, a caption, the sinks."""


class CaptionStream:
    """Captions the frames of a source. An iterator, a context manager, an asynchronous iterator, and a ``Control``.

    The source and the sinks are opened by ``with``, or by the first caption asked for. ``close`` ends all of it within
    a second, from any thread; a stream whose source ends closes itself. It cannot be opened again.

    Args:
        captioner: stays open, and may caption other images meanwhile.
        source: a URI (see ``uri``), a function that opens a source, or a source; a lost one is not opened again then.
        sinks: get all frames and captions, each in a thread of its own.
        search: how to search; None for the bundle's own options.
        rate: captions a second at most; None for as many as can be made.
        on_change: captions a frame only when the scene has changed by so many levels of 255 (see ``SceneChange``);
            None captions all.
        max_age_ms: frames older than this when the captioner is free are dropped; None drops none. Frames of a source
            that waits have no age.
        enhance: is given each frame before it is captioned, and returns the one to caption.
        report: takes a line for people when something went wrong and the stream goes on: a camera lost, a sink failed.
            Called from any thread. None logs it as a warning.

    Raises:
        OptionError: an option has no meaning.
        SourceError: there is no such kind of source, or no such file.
    """

    def __init__(
        self,
        captioner: Captioner,
        source: str | Source | Callable[[], Source],
        sinks: Sequence[Sink] = (),
        *,
        search: SearchOptions | None = None,
        rate: float | None = None,
        on_change: float | None = None,
        max_age_ms: float | None = None,
        enhance: Callable[[Frame], Frame] | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        for name, value, most in (("rate", rate, 1e4), ("on_change", on_change, 255), ("max_age_ms", max_age_ms, 1e9)):
            if value is not None and not 0 < value <= most:
                raise OptionError(f"{name} is {value}; expected a number above 0, up to {most:g}")
        self._captioner, self._search = captioner, search or captioner.options()
        self._begun_with, self._refused = self._search, self._search
        self._name, self._open_source, self._reopens = _opener(source)
        self._interval_s, self._max_age_ms, self._enhance = 1 / rate if rate else 0.0, max_age_ms, enhance
        self._change = None if on_change is None else SceneChange(on_change)
        say = report or _LOG.warning
        self._report: Callable[[str], None] = lambda line: say(one_line(line))  # names of files may hold anything
        self._tally = Tally()
        self._deliveries = [Delivery(sink, self, self._report, waits=False) for sink in sinks]
        self._capture: Capture | None = None
        self._opening, self._turn, self._lock = threading.Lock(), threading.Lock(), threading.Lock()
        self._stop, self._going = threading.Event(), threading.Event()
        self._going.set()
        self._ended = False
        self._due = 0.0
        self._thread: threading.Thread | None = None
        self._thread_error: BaseException | None = None
        self._pool: ThreadPoolExecutor | None = None

    # --- Opening, and the next caption.

    def open(self) -> None:
        """Opens the source and the sinks, and begins to capture. Again does nothing.

        Raises:
            SourceError: the source cannot be opened.
            SinkError: none of the sinks can work.
            EngineError: a library is missing.
        """
        with self._opening:
            if self._capture is not None or self._ended:
                return
            capture = Capture(self._open_source, self._tally, self._report, self._show, reopens=self._reopens)
            with self._lock:
                self._capture = capture
            if self._stop.is_set():  # closed meanwhile
                capture.close(_CLOSE_S)
                return
            try:
                self._open_sinks(waits=not capture.live)
            except BaseException:
                self.close()
                raise
            capture.start()

    def _open_sinks(self, *, waits: bool) -> None:
        """Opens the sinks. One that cannot work costs itself alone, unless there is no other one to go on for."""
        failures: list[SinkError] = []
        for delivery in self._deliveries:
            delivery.waits = waits
            try:
                delivery.open()
            except SinkError as error:
                failures.append(error)
        # Lines on a terminal are there unasked.
        if failures and len(failures) >= sum(not isinstance(each.sink, TerminalSink) for each in self._deliveries):
            raise failures[0]
        for failure in failures:
            self._report(f"{failure}; the stream goes on without it")

    def __iter__(self) -> Iterator[Captioned]:
        return self

    def __next__(self) -> Captioned:
        """Captions the newest frame; waits for one that was not captioned yet.

        Raises:
            StopIteration: the source has ended, or the stream was closed.
            SourceError: the source was lost before its first frame, or for good.
            OptionError: no caption is possible with the options that the stream began with.
            EngineError: the captioner failed.
        """
        with self._turn:
            self.open()
            try:
                while (frame := self._take()) is not None:
                    if (item := self._caption(frame)) is not None:
                        return item
            except BaseException:
                self._finish(time.monotonic() + _CLOSE_S)
                raise
            self._finish(None)
            raise StopIteration

    def _take(self) -> Frame | None:
        """The next frame to caption; None at the end."""
        capture = self._capture
        while capture is not None:
            self._going.wait()
            if self._stop.wait(max(0.0, self._due - time.monotonic())):
                break
            frame = capture.slot.take()
            if frame is None or self._stop.is_set():
                break
            if not self._going.is_set() and not capture.live:
                self._going.wait()
            old = capture.live and self._max_age_ms is not None and _age_ms(frame) > self._max_age_ms
            if old or not self._going.is_set():
                self._tally.add("dropped")
            elif self._change is not None and not self._change.look(frame):
                self._tally.add("unchanged")
                if not capture.live:
                    self._show(frame)
            else:
                return frame
        return None

    def _caption(self, frame: Frame) -> Captioned | None:
        """Captions a frame and hands it to the sinks; None if that cannot be done."""
        began = time.monotonic()
        # On the beat, but for one that was missed: then a whole interval from here.
        self._due += self._interval_s
        if self._due <= began:
            self._due = began + self._interval_s
        search = self._search
        try:
            if self._enhance is not None:
                frame = self._enhance(frame)
            (caption,) = self._captioner.caption_each([frame.pixels], search, frame.color, batch=1)
            if isinstance(caption, SourceError):
                raise caption
        except SourceError as error:
            self._tally.add("failed")
            self._report(f"frame {frame.sequence}: {error}")
            return None
        except OptionError as error:
            if search is self._begun_with:
                raise
            # Of a change meanwhile, which must not end the stream. Every frame fails until the next: said once.
            self._tally.add("failed")
            if search is not self._refused:
                self._refused = search
                self._report(f"frame {frame.sequence}: {error}")
            return None
        except EngineError:
            if self._stop.is_set():  # closed, and the captioner after it
                return None
            raise
        item = Captioned(frame, caption, _age_ms(frame))
        self._tally.captioned(item.age_ms, (time.monotonic() - began) * 1e3)
        for delivery in self._deliveries:
            delivery.caption(item)
        if self._capture is not None and not self._capture.live:
            self._show(frame)  # after its caption, so that a recording has both together
        return item

    def _show(self, frame: Frame) -> None:
        for delivery in self._deliveries:
            delivery.frame(frame)

    # --- Other ways to go through it.

    def run(self, on_caption: Callable[[Captioned], object] | None = None) -> None:
        """Captions until the source ends or the stream is closed, and calls ``on_caption`` with each.

        Raises:
            SourceError: see ``next``.
            EngineError: see ``next``.
        """
        for item in self:
            if on_caption is not None:
                on_caption(item)

    def start(self, on_caption: Callable[[Captioned], object] | None = None) -> None:
        """Opens the stream and does the same as ``run`` in a thread of its own; ``wait`` tells how it ended.

        Raises:
            SourceError: see ``open``.
            SinkError: see ``open``.
            EngineError: see ``open``.
        """
        self.open()

        def run() -> None:
            try:
                self.run(on_caption)
            except BaseException as error:  # raised by wait
                self._thread_error = error

        self._thread = threading.Thread(target=run, name="camscribe-caption", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits for the end of what ``start`` began; returns whether it has come.

        Raises:
            Exception: what ended it, be it an error of the source, of the captioner or of ``on_caption``.
        """
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                return False
        error, self._thread_error = self._thread_error, None
        if error is not None:
            raise error
        return True

    def __aiter__(self) -> AsyncIterator[Captioned]:
        return self

    async def __anext__(self) -> Captioned:
        """As ``next``, made in a thread: the event loop goes on meanwhile."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "camscribe-caption")
        try:
            item = await asyncio.get_running_loop().run_in_executor(self._pool, lambda: next(self, None))
        except RuntimeError:
            if self._ended:
                raise StopAsyncIteration from None
            raise
        if item is None:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        """As ``close``, in a thread."""
        await asyncio.to_thread(self.close)

    # --- The end.

    def close(self) -> None:
        """Gives the source back, lets the sinks end, and ends all threads, within a second. Again does nothing."""
        self._stop.set()
        self._going.set()
        until_s = time.monotonic() + _CLOSE_S
        if self._capture is not None:
            self._capture.close(_CLOSE_S)
        # The caption that is being made is still for the sinks.
        if self._turn.acquire(timeout=max(0.0, until_s - time.monotonic() - 0.2)):
            self._turn.release()
        self._finish(until_s)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    def _finish(self, until_s: float | None) -> None:
        """Ends source and sinks; by ``until_s`` of the monotonic clock, or when the sinks have taken all."""
        with self._lock:
            self._ended = True
        left_s = _CLOSE_S if until_s is None else max(0.0, until_s - time.monotonic())
        if self._capture is not None and not self._capture.close(left_s):
            self._report(f"{self.source}: does not end; left alone")
        for delivery in self._deliveries:
            delivery.end()
        for delivery in self._deliveries:
            delivery.join(until_s)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # --- What sinks may ask: Control.

    @property
    def captioner(self) -> Captioner:
        """See ``Control``."""
        return self._captioner

    @property
    def source(self) -> str:
        """The source's URI, without a password."""
        return self._name

    @property
    def options(self) -> SearchOptions:
        """How the next frame is searched."""
        return self._search

    def change(self, **changes: Unpack[SearchChanges]) -> None:
        """Changes ``options`` from the next frame on.

        Raises:
            OptionError: the options would have no meaning.
        """
        with self._lock:
            self._search = self._search.override(**changes)

    @property
    def paused(self) -> bool:
        """True while no frame is captioned."""
        return not self._going.is_set()

    def pause(self, paused: bool) -> None:
        """Stops captioning, or goes on. Frames are captured all the same."""
        if paused and not self._stop.is_set():
            self._going.clear()
        else:
            self._going.set()

    def counts(self) -> Counts:
        """The counters as they are now."""
        return self._tally.counts()

    @property
    def failed_sinks(self) -> list[str]:
        """Names of the sinks that failed."""
        return [delivery.sink.name for delivery in self._deliveries if delivery.failed]


def _age_ms(frame: Frame) -> float:
    return (time.monotonic() - frame.captured_s) * 1e3


def _opener(source: str | Source | Callable[[], Source]) -> tuple[str, Callable[[], Source], bool]:
    """A source's name, what opens it, and whether it can be opened more than once."""
    if isinstance(source, str):
        return uri.redact(source), uri.opener(source), True
    if callable(source):
        return getattr(source, "__name__", type(source).__name__), source, True
    opened = source
    return type(opened).__name__, lambda: opened, False
