"""Recordings for Foxglove and for ROS: frames, captions and counters in an MCAP file that can be read at any moment.

Every topic has a ROS 2 type with its definition in the file, so that Foxglove, ``rosbags``, ``ros2 bag`` and ``bag://``
all read it:

- ``/camera/image/compressed``: the frames as JPEG, ``sensor_msgs/msg/CompressedImage``;
- ``/caption``, ``/caption/stamped`` and ``/diagnostics``: what ``--ros2`` publishes (see ``ros_topics``), so playing
  the file is like running the stream;
- ``/caption/fields``: the caption's numbers as fields, to plot: a type of our own, since a JSON channel's schema makes
  ``rosbags`` refuse the whole file.

A message's time in the file is its frame's stamp and age: when it was written, by the clock of the camera.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from camscribe.runtime.errors import SinkError, SourceError
from camscribe.runtime.stream import cdr
from camscribe.runtime.stream.counters import Counts
from camscribe.runtime.stream.frame import Captioned, Frame
from camscribe.runtime.stream.robots import need
from camscribe.runtime.stream.ros_images import jpeg_of
from camscribe.runtime.stream.ros_topics import DIAGNOSTICS, STAMPED, diagnostics, stamped_json
from camscribe.runtime.stream.sink import Control

FRAMES, CAPTIONS, FIELDS = "/camera/image/compressed", "/caption", "/caption/fields"
_FLUSH_S = 1.0
"""What a process that is killed may lose."""
_FLUSH_BYTES = 4 << 20
"""Messages held in memory before they are written, at most."""
_RESERVE_BYTES = 256 << 10
"""Free space at which a recording ends, so that its index still fits; and for each chunk:"""
_INDEX_BYTES = 256
_NEVER = 1 << 62


@dataclass(frozen=True)
class CaptionFields:
    """A caption as fields, our own type."""

    item: Captioned
    counts: Counts | None

    TYPE: ClassVar[str] = "camscribe_msgs/msg/Caption"

    def encode(self) -> bytes:
        """See ``cdr.Message``."""
        item, counts = self.item, self.counts
        out = cdr.Writer()
        out.header(item.frame.stamp_ns, item.frame.name)
        out.texts((item.caption.text,))
        out.numbers("ffff", item.caption.score, item.caption.log_prob, item.caption.timings.total_ms, item.age_ms)
        out.numbers("III", item.frame.sequence & 0xFFFFFFFF, *((counts.captured, counts.dropped) if counts else (0, 0)))
        return out.ended()


_HEADER = """std_msgs/Header header
{}
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
================================================================================
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
"""
_DEFINITIONS = {
    cdr.CompressedImage.TYPE: _HEADER.format("string format\nuint8[] data"),
    cdr.String.TYPE: "string data\n",
    CaptionFields.TYPE: _HEADER.format(
        "string text\nfloat32 score\nfloat32 log_prob\nfloat32 latency_ms\nfloat32 age_ms\nuint32 sequence\n"
        "uint32 captured\nuint32 dropped"
    ),
    cdr.DiagnosticArray.TYPE: _HEADER.format("diagnostic_msgs/DiagnosticStatus[] status")
    + """================================================================================
MSG: diagnostic_msgs/DiagnosticStatus
byte OK=0
byte WARN=1
byte ERROR=2
byte STALE=3
byte level
string name
string message
string hardware_id
diagnostic_msgs/KeyValue[] values
================================================================================
MSG: diagnostic_msgs/KeyValue
string key
string value
""",
}


class McapSink:
    """Records frames and captions.

    What came is written once a second, as a chunk that is whole, so a process that is killed loses a second. On a disk
    that fills up the recording ends in good order with its index; where a write fails all the same, the file is cut
    back to its last whole chunk.
    """

    def __init__(self, path: Path) -> None:
        """Args:
            path: the file, which must not exist yet.

        Raises:
            EngineError: ``mcap`` is not installed.
        """
        self._path = path
        self._name = f"--mcap {path}"
        self._writers = need("mcap.writer", self._name, "mcap")
        self._file: _File | None = None
        self._writer: Any = None
        self._channels: dict[str, int] = {}
        self._source = ""
        self._counts: Counts | None = None
        self._pending: list[tuple[int, int, bytes, int]] = []
        """(channel, time, message, stamp) of what is not written yet."""
        self._pending_bytes = self._chunks = 0
        self._flushed_s = 0.0
        self._clock: tuple[int, float] | None = None
        self._last_ns = 0

    @property
    def name(self) -> str:
        """See ``Sink``."""
        return self._name

    @property
    def wants_frames(self) -> bool:
        """See ``Sink``."""
        return True

    def open(self, control: Control) -> None:
        """See ``Sink``."""
        self._source = control.source
        try:
            self._file = _File(self._path)
        except FileExistsError as error:
            raise SinkError(f"{self._name}: exists already; name another file") from error
        except OSError as error:
            raise SinkError(f"{self._name}: cannot be written ({error.strerror}); name another file") from error
        # JPEG does not get smaller, and captions are small.
        self._writer = self._writers.Writer(
            self._file, chunk_size=_NEVER, compression=self._writers.CompressionType.NONE
        )
        try:
            self._writer.start("ros2", "camscribe")
            schemas = {
                kind: self._writer.register_schema(kind, "ros2msg", text.encode())
                for kind, text in _DEFINITIONS.items()
            }
            for topic, kind in (
                (FRAMES, cdr.CompressedImage.TYPE),
                (CAPTIONS, cdr.String.TYPE),
                (f"{CAPTIONS}/{STAMPED}", cdr.String.TYPE),
                (FIELDS, CaptionFields.TYPE),
                (DIAGNOSTICS, cdr.DiagnosticArray.TYPE),
            ):
                self._channels[topic] = self._writer.register_channel(topic, "cdr", schemas[kind])
        except OSError as error:
            self._give_up()
            raise SinkError(f"{self._name}: cannot be written ({error.strerror}); name another file") from error
        self._flushed_s = time.monotonic()

    def frame(self, frame: Frame) -> None:
        """See ``Sink``."""
        try:
            message = cdr.CompressedImage(frame.stamp_ns, frame.name, "jpeg", jpeg_of(frame))
        except SourceError as error:
            raise SinkError(f"{self._name}: {error}") from error
        self._add(FRAMES, message, frame)

    def caption(self, item: Captioned) -> None:
        """See ``Sink``."""
        self._add(CAPTIONS, cdr.String(item.caption.text), item.frame)
        self._add(f"{CAPTIONS}/{STAMPED}", cdr.String(stamped_json(item, self._counts)), item.frame)
        self._add(FIELDS, CaptionFields(item, self._counts), item.frame)

    def counts(self, counts: Counts) -> None:
        """See ``Sink``."""
        self._counts = counts
        if self._clock is not None:  # before the first frame nobody knows the camera's time
            self._add(DIAGNOSTICS, diagnostics(counts, self._source), None)
        self._flush()

    def close(self) -> None:
        """See ``Sink``. A recording without any message leaves no file."""
        if self._writer is None:
            return
        self._flush()
        if self._chunks:
            self._end("cannot be ended")
        else:
            self._give_up()
            self._path.unlink(missing_ok=True)

    def _add(self, topic: str, message: cdr.Message, frame: Frame | None) -> None:
        if self._writer is None:
            return
        now_s = time.monotonic()
        if frame is not None:
            self._clock = frame.stamp_ns, frame.captured_s
        stamp_ns, captured_s = self._clock or (0, 0.0)
        # A file that was cut off has no index and is read as it comes, so that must be in order.
        self._last_ns = max(self._last_ns, stamp_ns + max(0, int((now_s - captured_s) * 1e9)))
        data = message.encode()
        self._pending.append((self._channels[topic], self._last_ns, data, stamp_ns))
        self._pending_bytes += len(data)
        if self._pending_bytes >= _FLUSH_BYTES or now_s - self._flushed_s >= _FLUSH_S:
            self._flush()

    def _flush(self) -> None:
        """Writes what is pending.

        Raises:
            SinkError: it cannot be written; the recording has ended then.
        """
        pending, self._pending = self._pending, []
        size, self._pending_bytes = self._pending_bytes, 0
        self._flushed_s = time.monotonic()
        if self._writer is None or self._file is None or not pending:
            return
        if self._file.free_bytes() < size + _RESERVE_BYTES + self._chunks * _INDEX_BYTES:
            if self._chunks:
                self._end("the disk is full, and it cannot be ended")
            else:
                self._give_up()
                self._path.unlink(missing_ok=True)
            raise SinkError(f"{self._name}: the disk is full; the recording ends here, whole")
        try:
            for channel, time_ns, data, stamp_ns in pending:
                self._writer.add_message(channel, time_ns, data, stamp_ns)
            self._writer.flush()
        except OSError as error:
            self._give_up()
            raise SinkError(self._cut("cannot be written any further", error)) from error
        self._chunks += 1
        self._file.mark()

    def _end(self, problem: str) -> None:
        """Writes the index and closes the file.

        Raises:
            SinkError: it cannot be written.
        """
        try:
            self._writer.finish()
        except OSError as error:
            self._give_up()
            raise SinkError(self._cut(problem, error)) from error
        if self._file is not None:
            self._file.mark()
        self._give_up()

    def _give_up(self) -> None:
        """Closes the file after its last whole chunk."""
        self._writer = None
        if self._file is not None:
            self._file.close()

    def _cut(self, problem: str, error: OSError) -> str:
        return (
            f"{self._name}: {problem} ({error.strerror}); what was recorded can be read, "
            f"'mcap recover {self._path}' adds the index"
        )


class _File:
    """A new file that is cut back to its last mark when it is closed.

    Raises:
        OSError: it exists, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._at = self._marked = 0

    def write(self, data: bytes) -> int:
        """Writes all of it at once: nothing is buffered."""
        rest = memoryview(data)
        while rest:
            written = os.write(self._descriptor, rest)
            self._at += written
            rest = rest[written:]
        return len(data)

    def tell(self) -> int:
        """Bytes that were written."""
        return self._at

    def flush(self) -> None:
        """Does nothing: there is no buffer."""

    def mark(self) -> None:
        """What was written until here is good, and the disk is told to keep it."""
        self._marked = self._at
        os.fdatasync(self._descriptor)

    def free_bytes(self) -> int:
        """What the disk still takes."""
        disk = os.fstatvfs(self._descriptor)
        return disk.f_bavail * disk.f_frsize

    def close(self) -> None:
        """Closes it. Again does nothing."""
        if self._descriptor < 0:
            return
        try:
            if self._at > self._marked:
                os.ftruncate(self._descriptor, self._marked)
        finally:
            os.close(self._descriptor)
            self._descriptor = -1
