"""A moving synthetic scene, for trying things and for tests: a camera that pans over photographs, and a ball."""

from __future__ import annotations

import math
import re
import threading
import time

import numpy as np

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import OptionError
from camscribe.runtime.pixels import Pixels, opencv
from camscribe.runtime.stream.frame import Frame
from camscribe.runtime.stream.uri import SourceUri

_PHOTO_S = 4.0
"""A photograph is shown for as long."""
_ZOOM = 1.25
"""Photographs are larger than the frame by this factor, so that there is room to pan."""


def open_source(uri: SourceUri) -> SyntheticSource:
    """Opens ``test://``.

    Raises:
        OptionError: an option has no meaning.
    """
    size = re.fullmatch(r"(\d{1,4})x(\d{1,4})", uri.options.get("size", "640x480"))
    width, height = (int(size[1]), int(size[2])) if size else (0, 0)
    if not 16 <= min(width, height) <= max(width, height) <= 4096:
        raise OptionError(f"{uri}: size is {uri.options['size']!r}; expected WIDTHxHEIGHT from 16 to 4096")
    rate = uri.number("rate", 30.0, 0.0, 1000.0)
    return SyntheticSource(width, height, rate, uri.integer("frames", 0, 0, 10**9))


class SyntheticSource:
    """The bundle's test photographs, panned over, with a bouncing ball; the same frames each time.

    Args:
        width: of a frame.
        height: of a frame.
        rate: frames a second, live; 0 gives the scene of 30 a second and waits for the captioner.
        frames: ends after as many; 0 never.
    """

    def __init__(self, width: int, height: int, rate: float, frames: int = 0) -> None:
        self.live = rate > 0
        self._width, self._height, self._frames = width, height, frames
        self._interval_s = 1 / (rate or 30.0)
        self._stop = threading.Event()
        self._next = 0
        self._began_s = time.monotonic()
        self._began_ns = time.time_ns()
        self._photos = [self._enlarged(photo) for photo in Bundle.load(None).parity_images()]

    def read(self) -> Frame | None:
        """The next frame, when it is due."""
        if self.live:
            # Whoever comes late has missed frames, as with a camera.
            self._next = max(self._next, math.floor((time.monotonic() - self._began_s) / self._interval_s))
            due_s = self._began_s + self._next * self._interval_s
            if self._stop.wait(max(0.0, due_s - time.monotonic())):
                return None
        sequence = self._next
        if self._stop.is_set() or (self._frames and sequence >= self._frames):
            return None
        self._next += 1
        seconds = sequence * self._interval_s
        stamp_ns = self._began_ns + round(seconds * 1e9)
        return Frame(self._draw(seconds), "rgb", sequence, time.monotonic(), stamp_ns, "")

    def close(self) -> None:
        """Ends it."""
        self._stop.set()

    def _enlarged(self, photo: Pixels) -> Pixels:
        cv2 = opencv()
        size = (round(self._width * _ZOOM), round(self._height * _ZOOM))
        large: Pixels = cv2.resize(photo, size, interpolation=cv2.INTER_LINEAR)
        return large

    def _draw(self, seconds: float) -> Pixels:
        """The scene at a time, uint8 [height, width, 3] RGB."""
        photo = self._photos[int(seconds / _PHOTO_S) % len(self._photos)]
        room_y, room_x = photo.shape[0] - self._height, photo.shape[1] - self._width
        top = round(room_y * (0.5 + 0.5 * math.sin(seconds * 0.9)))
        left = round(room_x * (0.5 + 0.5 * math.sin(seconds * 0.7)))
        pixels = np.ascontiguousarray(photo[top : top + self._height, left : left + self._width])
        radius = max(2, min(self._width, self._height) // 24)
        x = _bounce(seconds * 0.31, radius, self._width - radius)
        y = _bounce(seconds * 0.47, radius, self._height - radius)
        drawn: Pixels = opencv().circle(pixels, (x, y), radius, (240, 120, 20), -1)
        return drawn


def _bounce(turns: float, low: int, high: int) -> int:
    """A place that goes to and fro between two others."""
    return round(low + (high - low) * abs(2 * (turns % 1) - 1))
