"""A video of what the camera saw, with the captions burnt in."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from camscribe.runtime.draw import burn_in, text_mask
from camscribe.runtime.errors import SinkError
from camscribe.runtime.images import as_rgb
from camscribe.runtime.pixels import Pixels, opencv
from camscribe.runtime.stream.avi import AviWriter
from camscribe.runtime.stream.counters import Counts
from camscribe.runtime.stream.frame import Captioned, Frame
from camscribe.runtime.stream.sink import Control

FPS = 25
MOST_WIDTH, MOST_HEIGHT = 1920, 1080
"""Larger frames are made smaller."""
PART_BYTES = 1 << 30
"""A file that has reached this is followed by another one; AVI ends at 4 GiB, and some players before."""
_LONGEST_S = 10.0
"""A frame is shown for so long at most, then time jumps: a camera that is away for an hour is no hour of video."""
_QUALITY = 85
_LOG = logging.getLogger(__name__)


class VideoSink:
    """Records Motion JPEG in AVI, 25 frames a second of the frames' own stamps, in the size of the first frame.

    A frame bears the newest caption that was there when it came; of sources that wait, its own. Frames of another size
    are fitted in. The file can be played at any moment, also after the process was killed or the disk is full. An
    existing file is never written over: the recording goes to ``NAME-2.avi``, as does what follows the first GiB.
    """

    wants_frames = True

    def __init__(self, path: Path, part_bytes: int = PART_BYTES) -> None:
        self.name = f"--video {path}"
        self._path, self._part_bytes = path, part_bytes
        self._writer: AviWriter | None = None
        self._size = (0, 0)
        self._text = ""
        self._mask: npt.NDArray[np.uint8] | None = None
        self._jpeg = b""
        self._origin_ns = self._last_ns = 0
        self._at = 0
        """Pictures since ``_origin_ns``."""
        self._step_s = 1 / FPS
        self._unsaved = False

    def open(self, control: Control) -> None:
        """Looks whether the file can be made; that is done with the first frame, which tells its size.

        Raises:
            SinkError: it cannot, or is not to be an AVI file.
        """
        import tempfile

        if self._path.suffix.lower() != ".avi":
            raise SinkError(f"{self.name}: expected a name that ends in .avi, which stays readable when it is cut off")
        try:
            with tempfile.TemporaryFile(dir=self._path.parent):
                pass
        except OSError as error:
            raise self._cannot(error) from error

    def frame(self, frame: Frame) -> None:
        """Records a frame for as long as it was to be seen.

        Raises:
            SinkError: it cannot be written, for want of space as a rule.
        """
        seconds = (frame.stamp_ns - self._last_ns) / 1e9
        if not self._jpeg or not 0 <= seconds <= _LONGEST_S:  # the first, or time has jumped
            self._origin_ns, self._at = frame.stamp_ns, 0
        else:
            self._step_s = seconds
        self._last_ns = frame.stamp_ns
        due = math.floor((frame.stamp_ns - self._origin_ns) / 1e9 * FPS + 0.5)
        if due < self._at:
            return  # more frames than are recorded
        while self._at < due:
            self._write()
        self._jpeg = self._encoded(frame)
        self._write()

    def caption(self, item: Captioned) -> None:
        """Takes the text for the frames that follow."""
        if item.caption.text != self._text:
            self._text, self._mask = item.caption.text, None

    def counts(self, counts: Counts) -> None:
        """Has the disk keep what was written.

        Raises:
            SinkError: it cannot.
        """
        if self._writer is not None and self._unsaved:
            self._unsaved = False
            try:
                self._writer.sync()
            except OSError as error:
                raise self._cannot(error) from error

    def close(self) -> None:
        """Shows the last frame as long as the one before, a second at most, and completes the file."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            for _ in range(round(min(self._step_s, 1.0) * FPS) - 1):
                writer.write(self._jpeg)
        except OSError as error:
            raise self._cannot(error) from error
        finally:
            writer.close()

    def _write(self) -> None:
        try:
            if self._writer is None or self._writer.bytes > self._part_bytes:
                if self._writer is not None:
                    self._writer.close()
                self._writer = self._next_part()
            self._writer.write(self._jpeg)
        except OSError as error:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()
            raise self._cannot(error) from error
        self._at += 1
        self._unsaved = True

    def _next_part(self) -> AviWriter:
        path, number = self._path, 1
        while path.exists():
            number += 1
            path = self._path.with_stem(f"{self._path.stem}-{number}")
        if number > 1 and self._writer is None:
            _LOG.warning("%s: exists already; recording to %s", self.name, path)
        return AviWriter(path, self._size, FPS)

    def _encoded(self, frame: Frame) -> bytes:
        """The picture as JPEG."""
        cv2 = opencv()
        pixels = self._fitted(np.ascontiguousarray(as_rgb(frame.pixels, frame.color)[:, :, ::-1]))
        if self._mask is None:
            self._mask = text_mask(self._text, self._size[0])
        burn_in(pixels, self._mask)
        good, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        if not good:
            raise SinkError(f"{self.name}: OpenCV cannot encode JPEG")
        return bytes(data.data)

    def _fitted(self, pixels: Pixels) -> Pixels:
        """A frame (BGR) in the size of the video, with black bars where its shape is another; may be the frame."""
        cv2 = opencv()
        height, width = pixels.shape[:2]
        if not self._size[0]:
            scale = min(1.0, MOST_WIDTH / width, MOST_HEIGHT / height)
            self._size = (max(2, int(width * scale) // 2 * 2), max(2, int(height * scale) // 2 * 2))
        if (width, height) == self._size:
            return pixels
        scale = min(self._size[0] / width, self._size[1] / height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(pixels, inner, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        canvas = np.zeros((self._size[1], self._size[0], 3), np.uint8)
        left, top = (self._size[0] - inner[0]) // 2, (self._size[1] - inner[1]) // 2
        canvas[top : top + inner[1], left : left + inner[0]] = small
        return canvas

    def _cannot(self, error: OSError) -> SinkError:
        return SinkError(f"{self.name}: cannot be written{' any further' if self._jpeg else ''} ({error.strerror})")
