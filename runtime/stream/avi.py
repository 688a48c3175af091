"""AVI files of JPEG pictures that can be read at any moment of their writing.

OpenCV's writers keep a quarter of a megabyte to themselves, which a killed process loses, and are silent about a full
disk. Here each picture is in the file when ``write`` returns, and the header says so. (RIFF and AVI as in Microsoft's
"AVI RIFF File Reference"; the index at the end is for players that jump, and not needed to play.)
"""

from __future__ import annotations

import contextlib
import os
import struct
from array import array
from pathlib import Path

_HEADER = struct.Struct("<4sI4s 4sI4s 4sI14I 4sI4s 4sI4s4s12I 4sI3I2H4s5I 4sI4s")
_RIFF_SIZE_AT, _FRAMES_AT, _LENGTH_AT, _MOVI_SIZE_AT = 4, 48, 140, 216
_MOVI_AT = _HEADER.size - 4
_HAS_INDEX, _KEY = 0x10, 0x10


class AviWriter:
    """Writes JPEG pictures of one size at a constant rate.

    Args:
        path: a new file.
        size: width and height.
        fps: pictures a second.

    Raises:
        OSError: the file exists or cannot be made.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: int) -> None:
        self.path = path
        self.frames = 0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._index = array("I")
        self.bytes = 0
        """Of the file, without its index."""
        try:
            self._append(_header(size, fps))
        except OSError:
            os.close(self._file)
            path.unlink()
            raise

    def write(self, jpeg: bytes) -> None:
        """Appends a picture.

        Raises:
            OSError: it cannot be written; the file is as it was before.
        """
        self._append(struct.pack("<4sI", b"00dc", len(jpeg)) + jpeg + b"\0" * (len(jpeg) % 2))
        self._index.append(len(jpeg))
        self.frames += 1
        self._update(self.bytes)

    def sync(self) -> None:
        """Has the disk keep what was written.

        Raises:
            OSError: it cannot.
        """
        os.fdatasync(self._file)

    def close(self) -> None:
        """Adds the index, where there is room for it. Again does nothing."""
        if self._file < 0:
            return
        entries, at = bytearray(), 4
        for size in self._index:
            entries += struct.pack("<4s3I", b"00dc", _KEY, at, size)
            at += 8 + size + size % 2
        before = self.bytes
        with contextlib.suppress(OSError):
            self._append(struct.pack("<4sI", b"idx1", len(entries)) + entries)
            self._update(before)
        os.close(self._file)
        self._file = -1

    def _append(self, data: bytes) -> None:
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(self._file, data[done:], self.bytes + done)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self.bytes)
            raise
        self.bytes += len(data)

    def _update(self, end_of_pictures: int) -> None:
        """Has the header tell how much there is."""
        for at, value in (
            (_RIFF_SIZE_AT, self.bytes - 8),
            (_MOVI_SIZE_AT, end_of_pictures - _MOVI_AT),
            (_FRAMES_AT, self.frames),
            (_LENGTH_AT, self.frames),
        ):
            os.pwrite(self._file, struct.pack("<I", value), at)


def _header(size: tuple[int, int], fps: int) -> bytes:
    width, height = size
    picture = 3 * width * height
    main = (round(1e6 / fps), picture * fps, 0, _HAS_INDEX, 0, 0, 1, picture, width, height, 0, 0, 0, 0)
    stream = (0, 0, 0, 1, fps, 0, 0, picture, 0xFFFFFFFF, 0, 0, width | height << 16)
    bitmap = (40, width, height, 1, 24, b"MJPG", picture, 0, 0, 0, 0)
    movi = _HEADER.size - 12
    return _HEADER.pack(
        *(b"RIFF", _HEADER.size - 8, b"AVI "),
        *(b"LIST", movi - 20, b"hdrl"),
        *(b"avih", 56, *main),
        *(b"LIST", movi - 96, b"strl"),
        *(b"strh", 56, b"vids", b"MJPG", *stream),
        *(b"strf", 40, *bitmap),
        *(b"LIST", 4, b"movi"),
    )
