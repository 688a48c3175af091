"""A sink's thread, and the queue before it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from camscribe.runtime.errors import SinkError
from camscribe.runtime.stream.frame import Captioned, Frame
from camscribe.runtime.stream.sink import Control, Sink

CAPTIONS, FRAMES = 16, 4
"""So many wait for a sink. One more takes the oldest one's place, or waits itself where the source waits."""
_COUNTS_S = 1.0
_LOG = logging.getLogger(__name__)


class Delivery:
    """Hands frames and captions to a sink in a thread of its own.

    Args:
        sink: never called from another thread.
        control: what the sink may ask.
        report: takes a line for people.
        waits: whether what comes waits for room in the queue; else the oldest of its kind is dropped.
    """

    def __init__(self, sink: Sink, control: Control, report: Callable[[str], None], *, waits: bool) -> None:
        self.sink = sink
        self.failed = False
        self.dropped = 0
        """Captions that the sink did not take in time."""
        self._control, self._report, self.waits = control, report, waits
        self._changed = threading.Condition()
        self._queue: deque[Frame | Captioned] = deque()
        self._ending = False
        self._opened = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"camscribe-sink {sink.name}", daemon=True)

    def open(self) -> None:
        """Opens the sink.

        Raises:
            SinkError: it cannot work.
        """
        self._thread.start()
        self._opened.wait()
        if self._error is not None:
            self._fail()
            raise self._error

    def frame(self, frame: Frame) -> None:
        """Hands on a frame, if the sink wants frames."""
        if self.sink.wants_frames:
            self._put(frame, Frame, FRAMES)

    def caption(self, item: Captioned) -> None:
        """Hands on a caption."""
        self._put(item, Captioned, CAPTIONS)

    def end(self) -> None:
        """Tells the sink to end once it has taken what waits."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def join(self, until_s: float | None) -> None:
        """Waits until the sink has ended. What it has not taken then is dropped.

        Args:
            until_s: by ``time.monotonic()``; None to wait as long as it takes.
        """
        if self._thread.ident is None or self._thread is threading.current_thread():
            return
        self._thread.join(None if until_s is None else max(0.0, until_s - time.monotonic()))
        if self._thread.is_alive():
            with self._changed:
                self.dropped += self._count(Captioned)
                self._queue.clear()
            self._thread.join(0.3)
            if self._thread.is_alive():
                self._report(f"{self.sink.name}: does not end; left alone")

    def _put(self, item: Frame | Captioned, kind: type, most: int) -> None:
        with self._changed:
            while self._count(kind) >= most and not self._ending and not self.failed:
                if self.waits:
                    self._changed.wait()
                    continue
                del self._queue[next(at for at, each in enumerate(self._queue) if isinstance(each, kind))]
                self.dropped += kind is Captioned
            if not self._ending and not self.failed:
                self._queue.append(item)
                self._changed.notify_all()

    def _count(self, kind: type) -> int:
        return sum(isinstance(each, kind) for each in self._queue)

    def _run(self) -> None:
        try:
            try:
                self.sink.open(self._control)
            except BaseException as error:  # raised by open, in the thread that waits there
                self._error = error
                return
            finally:
                self._opened.set()
            self._deliver()
        except SinkError as error:
            self._fail()
            self._report(f"{error}; the stream goes on without it")
        except Exception:
            self._fail()
            _LOG.exception("%s: failed; the stream goes on without it", self.sink.name)
        finally:
            self._close()
            if self.dropped:
                self._report(f"{self.sink.name}: was too slow for {self.dropped} captions")

    def _deliver(self) -> None:
        due = time.monotonic() + _COUNTS_S
        while True:
            with self._changed:
                while not self._queue and not self._ending and (left := due - time.monotonic()) > 0:
                    self._changed.wait(left)
                item = self._queue.popleft() if self._queue else None
                ending = self._ending
                self._changed.notify_all()
            if isinstance(item, Frame):
                self.sink.frame(item)
            elif item is not None:
                self.sink.caption(item)
            elif ending:
                break
            if time.monotonic() >= due:
                due = time.monotonic() + _COUNTS_S
                self.sink.counts(self._control.counts())
        self.sink.counts(self._control.counts())

    def _fail(self) -> None:
        with self._changed:
            self.failed = True
            self._queue.clear()
            self._changed.notify_all()

    def _close(self) -> None:
        try:
            self.sink.close()
        except SinkError as error:
            if not self.failed and self._error is None:
                self.failed = True
                self._report(str(error))
        except Exception:
            self.failed = True
            _LOG.exception("%s: failed at its end", self.sink.name)
