"""Frames as JPEGs: each is encoded once, and only when somebody looks."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import TypeAlias

from camscribe.runtime.errors import SourceError
from camscribe.runtime.pixels import opencv
from camscribe.runtime.stream.frame import Frame
from camscribe.runtime.stream.web.latest import Latest

LONGEST = 1280
"""Pixels of a picture's longer side; larger frames are reduced."""
QUALITY = 80
"""Of the JPEGs, 0 to 100."""
RATE_HZ = 30.0
"""Pictures a second that a viewer gets at most."""
BUDGET_HZ = 300.0
"""Pictures a second that all viewers together get at most, so that many leave the captioner its time: 10 get all 30."""
_KEPT = 16
"""Pictures kept, of those shown last and of the captions' own: about 1 MB each of the two at 640 x 480."""


@dataclass(frozen=True)
class Picture:
    """A frame as a JPEG."""

    frame: Frame
    jpeg: bytes


_Made: TypeAlias = "OrderedDict[int, tuple[Frame, asyncio.Future[Picture]]]"
"""Pictures by their frames' sequence numbers, the one used last at the end."""


def encode_picture(frame: Frame) -> Picture:
    """Encodes a frame, reduced to ``LONGEST``.

    Raises:
        SourceError: its pixels are of no form that a frame may have.
        EngineError: OpenCV is not installed.
    """
    cv2 = opencv()
    pixels = frame.pixels
    try:
        if frame.color == "nv12":
            pixels = cv2.cvtColor(pixels, cv2.COLOR_YUV2BGR_NV12)
        height, width = pixels.shape[:2]
        scale = LONGEST / max(height, width)
        if scale < 1:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        if frame.color == "rgb":
            pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        _, jpeg = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
    except (cv2.error, ValueError) as error:
        raise SourceError(f"frame {frame.sequence}: cannot be shown ({pixels.shape}, {pixels.dtype})") from error
    return Picture(frame, jpeg.tobytes())


class Pictures:
    """The pictures of a stream, for any number of viewers of one event loop."""

    def __init__(self, frames: Latest[Frame]) -> None:
        self._frames = frames
        self._encoder = ThreadPoolExecutor(1, "camscribe-web-jpeg")
        self._recent: _Made = OrderedDict()
        self._kept: _Made = OrderedDict()
        self._taken: dict[object, float] = {}
        """When each viewer took its newest picture."""
        self.encoded = 0
        """Counts them."""

    async def of(self, frame: Frame) -> Picture:
        """The picture of a frame.

        Raises:
            SourceError: there is none.
        """
        return await asyncio.shield(self._begin(frame))

    async def keep(self, frame: Frame) -> None:
        """Makes the picture of a captioned frame, and keeps it until some more captions have come."""
        future = self._begin(frame)
        _remember(self._kept, frame, future)
        await asyncio.wait([future])

    async def kept(self, sequence: int) -> Picture | None:
        """The picture of a frame that was captioned or shown lately; None where it is no longer here."""
        known = self._kept.get(sequence) or self._recent.get(sequence)
        return None if known is None else await asyncio.shield(known[1])

    async def stream(self) -> AsyncIterator[Picture]:
        """The newest picture whenever the caller is ready for it, without end."""
        version, viewer = 0, object()
        try:
            while True:
                version, frame = await self._frames.after(version)
                began = monotonic()
                try:
                    picture = await self.of(frame)
                except SourceError:  # the captioner meets the same frame, and says so
                    continue
                self._taken[viewer] = began
                yield picture
                await asyncio.sleep(max(0.0, began + self._interval_s() - monotonic()))
        finally:
            self._taken.pop(viewer, None)

    def _interval_s(self) -> float:
        """From picture to picture of a viewer. Those that stall take nothing from the others."""
        lately = monotonic() - 1.0
        taking = sum(taken > lately for taken in self._taken.values())
        return max(1 / RATE_HZ, taking / BUDGET_HZ)

    def close(self) -> None:
        """Gives the thread back; does not wait for it."""
        self._encoder.shutdown(wait=False, cancel_futures=True)

    def _begin(self, frame: Frame) -> asyncio.Future[Picture]:
        known = self._recent.get(frame.sequence)
        if known is not None and known[0] is frame:  # a source that was opened again may count from 0 again
            return known[1]
        self.encoded += 1
        future = asyncio.get_running_loop().run_in_executor(self._encoder, encode_picture, frame)
        future.add_done_callback(_retrieve)
        _remember(self._recent, frame, future)
        return future


def _remember(where: _Made, frame: Frame, future: asyncio.Future[Picture]) -> None:
    where[frame.sequence] = frame, future
    where.move_to_end(frame.sequence)
    while len(where) > _KEPT:
        where.popitem(last=False)


def _retrieve(future: asyncio.Future[Picture]) -> None:
    """Looks at an error, as asyncio complains of one that nobody looked at; whoever waits gets it all the same."""
    if not future.cancelled():
        future.exception()
