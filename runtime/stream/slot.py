"""The one frame that waits for the captioner."""

from __future__ import annotations

import threading

from camscribe.runtime.stream.frame import Frame


class LatestFrame:
    """Room for one frame, between the thread that captures and the one that captions.

    Args:
        waits: whether ``put`` waits for the room to be free, as files do; else a newer frame takes the older one's
            place, as with cameras.
    """

    def __init__(self, *, waits: bool) -> None:
        self._waits = waits
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._ended = False
        self._error: BaseException | None = None

    def put(self, frame: Frame) -> bool:
        """Puts a frame in; returns whether another was lost by that."""
        with self._changed:
            while self._waits and self._frame is not None and not self._ended:
                self._changed.wait()
            lost = self._frame is not None or self._ended
            if not self._ended:
                self._frame = frame
            self._changed.notify_all()
            return lost

    def take(self) -> Frame | None:
        """Waits for a frame and takes it out; None at the end.

        Raises:
            BaseException: what ended the source.
        """
        with self._changed:
            while self._frame is None and not self._ended:
                self._changed.wait()
            frame, self._frame = self._frame, None
            self._changed.notify_all()
            if frame is None and self._error is not None:
                error, self._error = self._error, None
                raise error
            return frame

    def end(self, error: BaseException | None = None) -> None:
        """No more frames come. One that is there can still be taken; then ``error`` is raised, if there is one."""
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
            self._changed.notify_all()

    def clear(self) -> bool:
        """Ends at once; returns whether a frame was there."""
        with self._changed:
            was = self._frame is not None
            self._frame, self._error, self._ended = None, None, True
            self._changed.notify_all()
            return was
