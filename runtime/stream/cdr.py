"""ROS 2 messages as bytes: the coding (CDR) that DDS, Zenoh and bag files share, for the few types that captions need.

A library that reads every type turns the pixels of an image into a Python list; here they stay where they are. The
coding is the Common Data Representation of the OMG (CORBA 3.0, section 15.3), as DDS-XTypes 1.3 (section 7.4.3.4.2)
heads it: two bytes that name the byte order, two that mean nothing, then the fields. Numbers are aligned to their size,
counted from behind that head.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

from camscribe.runtime.stream.source import FrameError

Buffer: TypeAlias = "bytes | bytearray | memoryview"

_LITTLE = b"\x00\x01\x00\x00"
_ORDERS = {0: ">", 1: "<", 6: ">", 7: "<"}
"""The head's second byte: CDR, and the plain form of XCDR2, which differs only in numbers of 8 bytes."""
_NS = 1_000_000_000
MAX_TEXT = 1 << 20
"""A name or a text of a message with more bytes than this is a damaged message."""


class Message(Protocol):
    """What every message here can do."""

    TYPE: ClassVar[str]
    """Its name in ROS 2."""

    def encode(self) -> bytes:
        """The message in CDR, little-endian, its head included."""


@dataclass(frozen=True)
class Image:
    """``sensor_msgs/msg/Image``."""

    stamp_ns: int
    """Nanoseconds since 1970; 0 where the driver sets no stamp."""
    frame_id: str
    height: int
    width: int
    encoding: str
    """See ``pixels_of`` in ``ros_images``."""
    big_endian: bool
    """The byte order of pixels of 16 bits; nothing to do with that of the message."""
    step: int
    """Bytes from one row to the next."""
    data: Buffer

    TYPE: ClassVar[str] = "sensor_msgs/msg/Image"

    def encode(self) -> bytes:
        """See ``Message``."""
        out = Writer()
        out.header(self.stamp_ns, self.frame_id)
        out.numbers("II", self.height, self.width)
        out.text(self.encoding)
        out.numbers("B", self.big_endian)
        out.numbers("I", self.step)
        return out.ended_by(self.data)

    @classmethod
    def decode(cls, data: Buffer) -> Image:
        """Reads a message. ``data`` of the result is a view of the argument, nothing is copied.

        Raises:
            FrameError: the bytes are no such message.
        """
        return cls._read(_Reader(data, cls.TYPE))

    @classmethod
    def _read(cls, reader: _Reader) -> Image:
        stamp_ns, frame_id = reader.header()
        height, width = reader.numbers("II")
        encoding = reader.text()
        (big_endian,) = reader.numbers("B")
        (step,) = reader.numbers("I")
        return cls(stamp_ns, frame_id, height, width, encoding, bool(big_endian), step, reader.block())


@dataclass(frozen=True)
class CompressedImage:
    """``sensor_msgs/msg/CompressedImage``."""

    stamp_ns: int
    """Nanoseconds since 1970; 0 where the driver sets no stamp."""
    frame_id: str
    format: str
    """``jpeg``, ``png``, or as image_transport writes it: ``rgb8; jpeg compressed bgr8``."""
    data: Buffer
    """The image file."""

    TYPE: ClassVar[str] = "sensor_msgs/msg/CompressedImage"

    def encode(self) -> bytes:
        """See ``Message``."""
        out = Writer()
        out.header(self.stamp_ns, self.frame_id)
        out.text(self.format)
        return out.ended_by(self.data)

    @classmethod
    def decode(cls, data: Buffer) -> CompressedImage:
        """Reads a message, see ``Image.decode``."""
        return cls._read(_Reader(data, cls.TYPE))

    @classmethod
    def _read(cls, reader: _Reader) -> CompressedImage:
        stamp_ns, frame_id = reader.header()
        return cls(stamp_ns, frame_id, reader.text(), reader.block())


@dataclass(frozen=True)
class String:
    """``std_msgs/msg/String``."""

    data: str

    TYPE: ClassVar[str] = "std_msgs/msg/String"

    def encode(self) -> bytes:
        """See ``Message``."""
        out = Writer()
        out.text(self.data)
        return out.ended()

    @classmethod
    def decode(cls, data: Buffer) -> String:
        """Reads a message, see ``Image.decode``."""
        return cls(_Reader(data, cls.TYPE).text())


@dataclass(frozen=True)
class DiagnosticStatus:
    """``diagnostic_msgs/msg/DiagnosticStatus``: how a part of a robot does."""

    level: int
    """0 OK, 1 warning, 2 error, 3 stale."""
    name: str
    message: str
    hardware_id: str
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class DiagnosticArray:
    """``diagnostic_msgs/msg/DiagnosticArray``."""

    stamp_ns: int
    frame_id: str
    status: tuple[DiagnosticStatus, ...]

    TYPE: ClassVar[str] = "diagnostic_msgs/msg/DiagnosticArray"

    def encode(self) -> bytes:
        """See ``Message``."""
        out = Writer()
        out.header(self.stamp_ns, self.frame_id)
        out.numbers("I", len(self.status))
        for status in self.status:
            out.numbers("B", status.level)
            out.texts((status.name, status.message, status.hardware_id))
            out.numbers("I", len(status.values))
            for pair in status.values:
                out.texts(pair)
        return out.ended()

    @classmethod
    def decode(cls, data: Buffer) -> DiagnosticArray:
        """Reads a message, see ``Image.decode``."""
        reader = _Reader(data, cls.TYPE)
        stamp_ns, frame_id = reader.header()
        status = []
        for _ in range(reader.count()):
            (level,) = reader.numbers("B")
            name, message, hardware_id = reader.text(), reader.text(), reader.text()
            values = tuple((reader.text(), reader.text()) for _ in range(reader.count()))
            status.append(DiagnosticStatus(level, name, message, hardware_id, values))
        return cls(stamp_ns, frame_id, tuple(status))


def image_of(data: Buffer) -> Image | CompressedImage:
    """Reads an image message of either type, where nothing but the bytes tells which: the one that ends where they do.

    Raises:
        FrameError: the bytes are neither.
    """
    for kind in (Image, CompressedImage):
        reader = _Reader(data, f"{Image.TYPE} or {CompressedImage.TYPE}")
        try:
            message: Image | CompressedImage = kind._read(reader)
        except FrameError:
            continue
        if reader.left < 4:  # some writers pad the end
            return message
    raise FrameError(f"a message of {len(data)} bytes is no {Image.TYPE} and no {CompressedImage.TYPE}")


class Writer:
    """Puts fields behind one another, little-endian."""

    def __init__(self) -> None:
        self._out = bytearray(_LITTLE)

    def numbers(self, kinds: str, *values: float) -> None:
        """Numbers of one size, as ``struct`` names it."""
        self._align(struct.calcsize("<" + kinds[0]))
        self._out += struct.pack("<" + kinds, *values)

    def text(self, text: str) -> None:
        """A string: its bytes and a zero, counted before."""
        content = text.encode("utf-8", errors="replace").replace(b"\x00", b" ")
        self.numbers("I", len(content) + 1)
        self._out += content + b"\x00"

    def texts(self, texts: Iterable[str]) -> None:
        """Strings."""
        for text in texts:
            self.text(text)

    def header(self, stamp_ns: int, frame_id: str) -> None:
        """``std_msgs/msg/Header``."""
        seconds, nanoseconds = divmod(stamp_ns, _NS)
        self._align(4)
        self._out += struct.pack("<iI", seconds, nanoseconds)
        self.text(frame_id)

    def ended(self) -> bytes:
        """All of it."""
        return bytes(self._out)

    def ended_by(self, block: Buffer) -> bytes:
        """All of it, and at the end a sequence of bytes, which is copied once."""
        self.numbers("I", len(block))
        return b"".join((self._out, block))

    def _align(self, size: int) -> None:
        # The head has 4 bytes, so positions in the buffer serve as long as no number has 8.
        self._out += bytes(-len(self._out) % size)


class _Reader:
    """Takes fields one behind the other."""

    def __init__(self, data: Buffer, kind: str) -> None:
        self._data = memoryview(data).cast("B")
        self._kind = kind
        if len(self._data) < 4 or self._data[0] or self._data[1] not in _ORDERS:
            head = bytes(self._data[:4]).hex(" ") or "nothing"
            raise FrameError(f"a message begins with {head}; expected {kind} in CDR (00 01 00 00 or 00 00 00 00)")
        self._order = _ORDERS[self._data[1]]
        self._at = 4

    @property
    def left(self) -> int:
        """Bytes that were not taken yet."""
        return len(self._data) - self._at

    def numbers(self, kinds: str) -> tuple[int, ...]:
        """Numbers of one size."""
        size = struct.calcsize("<" + kinds[0])
        self._at += -self._at % size
        return struct.unpack(self._order + kinds, self._take(size * len(kinds)))

    def text(self) -> str:
        """A string. Some writers count no zero behind an empty one."""
        (size,) = self.numbers("I")
        if size > MAX_TEXT:
            raise FrameError(f"a {self._kind} has a text of {size} bytes; it is damaged, or of another type")
        return str(self._take(size), "utf-8", errors="replace").removesuffix("\x00")

    def header(self) -> tuple[int, str]:
        """``std_msgs/msg/Header``: stamp_ns and frame_id."""
        self._at += -self._at % 4
        seconds, nanoseconds = struct.unpack(self._order + "iI", self._take(8))
        return seconds * _NS + nanoseconds, self.text()

    def count(self) -> int:
        """The length of a sequence whose items take at least 4 bytes."""
        (count,) = self.numbers("I")
        if count * 4 > self.left:
            raise self._cut_off(count * 4)
        return count

    def block(self) -> memoryview:
        """A sequence of bytes, where it lies."""
        (size,) = self.numbers("I")
        return self._take(size)

    def _take(self, size: int) -> memoryview:
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise self._cut_off(size)
        self._at += size
        return taken

    def _cut_off(self, size: int) -> FrameError:
        return FrameError(
            f"a {self._kind} is cut off: {size} bytes were to follow, {max(0, self.left)} do; "
            "it is damaged, or of another type"
        )
