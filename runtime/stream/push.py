"""A source whose messages are handed to it by whoever receives them: Zenoh, or a ROS node."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from camscribe.runtime.errors import SourceError
from camscribe.runtime.stream.cdr import CompressedImage, Image
from camscribe.runtime.stream.frame import Frame
from camscribe.runtime.stream.robots import located
from camscribe.runtime.stream.ros_images import frame_of


class PushSource:
    """The newest message waits until it is read; older ones are lost.

    Args:
        name: begins messages about what cannot be read.
        decode: makes an image message of bytes, or raises a ``SourceError``.
    """

    def __init__(self, name: str, decode: Callable[[bytes], Image | CompressedImage]) -> None:
        self._name, self._decode = name, decode
        self._arrived = threading.Condition()
        self._newest: tuple[bytes, float, int] | None = None
        self._sequence = -1
        self._closed = False

    @property
    def live(self) -> bool:
        """See ``Source``."""
        return True

    def put(self, data: bytes) -> None:
        """Takes a message. Returns at once, from any thread."""
        with self._arrived:
            self._newest = data, time.monotonic(), time.time_ns()
            self._sequence += 1
            self._arrived.notify_all()

    def wait(self, seconds: float) -> bytes | None:
        """Waits for a message and leaves it there; None where none came in that time."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._newest is not None or self._closed, seconds)
            return None if self._newest is None else self._newest[0]

    def read(self) -> Frame | None:
        """See ``Source``."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._newest is not None or self._closed)
            if self._newest is None or self._closed:
                return None
            (data, arrived_s, arrived_ns), self._newest = self._newest, None
            sequence = self._sequence
        try:
            return frame_of(self._decode(data), sequence, arrived_s, arrived_ns)
        except SourceError as error:
            raise located(error, self._name) from error

    def close(self) -> None:
        """See ``Source``."""
        with self._arrived:
            self._closed = True
            self._arrived.notify_all()
