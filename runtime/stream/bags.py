"""Frames of a recorded topic: rosbag2 folders (SQLite and MCAP), MCAP files, and bags of ROS 1.

Recordings that were cut off, by a power cut as a rule, are read as far as they go: an MCAP file without its end, and a
rosbag2 folder without its ``metadata.yaml``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from camscribe.runtime.errors import SourceError
from camscribe.runtime.stream.cdr import CompressedImage, Image
from camscribe.runtime.stream.frame import Frame
from camscribe.runtime.stream.playback import played
from camscribe.runtime.stream.robots import located, need, not_among
from camscribe.runtime.stream.ros_images import frame_of
from camscribe.runtime.stream.source import Source
from camscribe.runtime.stream.uri import SourceUri

_KINDS: dict[str, type[Image] | type[CompressedImage]] = {kind.TYPE: kind for kind in (Image, CompressedImage)}


def open_source(uri: SourceUri) -> Source:
    """Opens ``bag://PATH``.

    Options: ``topic`` (default: the only one with images), and those of ``playback``.

    Raises:
        SourceError: there is no such recording, it cannot be read, or it has no such topic of images.
        OptionError: an option has no meaning.
        EngineError: ``rosbags`` or ``mcap`` is not installed.
    """
    return played(uri, lambda: BagSource(uri))


class Recording(Protocol):
    """A file or folder with messages."""

    def topics(self) -> dict[str, str]:
        """Its topics, and ROS's names of their types."""

    def messages(self, topic: str) -> Iterator[tuple[int, bytes]]:
        """When each message of a topic was recorded, in nanoseconds since 1970, and its CDR."""

    def close(self) -> None:
        """Closes it."""


class BagSource:
    """The images of a topic, one after the other."""

    live = False

    def __init__(self, uri: SourceUri) -> None:
        self._uri = uri
        self._closed = threading.Event()
        self._using = threading.Lock()
        self._sequence = 0
        self._recording = _open(Path(uri.path), str(uri))
        try:
            self._topic = _choose(self._recording.topics(), uri)
            self._kind = _KINDS[self._recording.topics()[self._topic]]
            self._messages = self._recording.messages(self._topic)
        except BaseException:
            self._recording.close()
            raise

    def read(self) -> Frame | None:
        """See ``Source``."""
        with self._using:
            found = None if self._closed.is_set() else _guarded(self._messages, self._uri)
            if found is None:
                return None
            recorded_ns, data = found
            self._sequence += 1
            try:
                message = self._kind.decode(data)
                return frame_of(message, self._sequence - 1, time.monotonic(), recorded_ns)
            except SourceError as error:
                raise located(error, self._uri) from error

    def close(self) -> None:
        """See ``Source``."""
        self._closed.set()
        with self._using:
            self._messages = iter(())
            self._recording.close()


def _choose(topics: dict[str, str], uri: SourceUri) -> str:
    """The topic to read.

    Raises:
        SourceError: there is no such topic of images, or it must be said which.
    """
    images = [name for name, kind in topics.items() if kind in _KINDS]
    listed = ", ".join(f"{name} ({kind})" for name, kind in sorted(topics.items())) or "none"
    asked = uri.options.get("topic")
    if asked is None:
        if not images:
            raise SourceError(
                f"{uri}: holds no topic of images ({Image.TYPE} or {CompressedImage.TYPE}); it has {listed}"
            )
        if len(images) > 1:
            raise SourceError(
                f"{uri}: holds several topics of images; add ?topic= and one of {', '.join(sorted(images))}"
            )
        return images[0]
    topic = next((name for name in (asked, f"/{asked}") if name in topics), None)
    if topic is None:
        raise SourceError(f"{uri}: holds no topic {asked}{not_among(asked, images)}")
    if topic not in images:
        raise SourceError(f"{uri}: {topic} is of {topics[topic]}; expected {Image.TYPE}{not_among(topic, images)}")
    return topic


def _guarded(messages: Iterator[tuple[int, bytes]], uri: SourceUri) -> tuple[int, bytes] | None:
    """The next message. Readers of damaged files raise whatever the damage makes them raise."""
    try:
        return next(messages, None)
    except Exception as error:
        raise SourceError(f"{uri}: is damaged from here on ({_line(error)})") from error


def _open(path: Path, where: str) -> Recording:
    """Opens a recording.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        if not path.exists():
            raise SourceError(f"{where}: no such file or folder")
        if path.is_dir() and not (path / "metadata.yaml").is_file():
            parts = sorted(path.glob("*.mcap")) or sorted(path.glob("*.db3"))
            if not parts:
                raise SourceError(
                    f"{where}: is no recording; expected a folder with metadata.yaml, .mcap or .db3 files"
                )
        else:
            parts = [path]
        if parts[0].suffix == ".mcap":
            return _Mcap(parts, where)
        if len(parts) > 1:
            raise SourceError(f"{where}: has no metadata.yaml; name one of its files: {', '.join(map(str, parts))}")
        return _Rosbag(parts[0], where)
    except OSError as error:
        raise SourceError(f"{where}: cannot be read ({error.strerror or _line(error)})") from error


class _Rosbag:
    """What ``rosbags`` reads."""

    def __init__(self, path: Path, where: str) -> None:
        highlevel, typesys = need("rosbags.highlevel", where, "bag"), need("rosbags.typesys", where, "bag")
        # Bags in SQLite carry no definitions, but the types of images have not changed since ROS 2 began.
        self._store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
        self._end = ExitStack()
        try:
            self._reader = self._end.enter_context(highlevel.AnyReader([path], default_typestore=self._store))
        except OSError:
            raise
        except Exception as error:
            raise SourceError(f"{where}: is no recording, or a damaged one ({_line(error)})") from error

    def topics(self) -> dict[str, str]:
        """See ``Recording``."""
        return {connection.topic: connection.msgtype for connection in self._reader.connections}

    def messages(self, topic: str) -> Iterator[tuple[int, bytes]]:
        """See ``Recording``."""
        wanted = [connection for connection in self._reader.connections if connection.topic == topic]
        for connection, recorded_ns, data in self._reader.messages(wanted):
            if not self._reader.is2:
                data = bytes(self._store.ros1_to_cdr(data, connection.msgtype))
            yield recorded_ns, data

    def close(self) -> None:
        """See ``Recording``."""
        self._end.close()


class _Mcap:
    """MCAP files, one after the other, whole or cut off."""

    def __init__(self, paths: list[Path], where: str) -> None:
        self._make_reader = need("mcap.reader", where, "mcap").make_reader
        self._stream_reader = need("mcap.stream_reader", where, "mcap").StreamReader
        self._end = ExitStack()
        self._files: list[tuple[Any, bool]] = []
        self._topics: dict[str, str] = {}
        try:
            for path in paths:
                file = self._end.enter_context(path.open("rb"))
                self._files.append((file, self._add_topics(file, f"{where}" if len(paths) == 1 else str(path))))
        except BaseException:
            self._end.close()
            raise

    def topics(self) -> dict[str, str]:
        """See ``Recording``."""
        return self._topics

    def messages(self, topic: str) -> Iterator[tuple[int, bytes]]:
        """See ``Recording``. Those of a whole file by their time, those of one that was cut off as they come."""
        for file, whole in self._files:
            file.seek(0)
            if whole:
                for _, _, message in self._make_reader(file).iter_messages(topics=[topic]):
                    yield message.log_time, message.data
                continue
            wanted = set()
            for record in self._records(file):
                if hasattr(record, "topic") and record.topic == topic:
                    wanted.add(record.id)
                elif getattr(record, "channel_id", None) in wanted and hasattr(record, "log_time"):
                    yield record.log_time, record.data

    def close(self) -> None:
        """See ``Recording``."""
        self._end.close()

    def _add_topics(self, file: Any, where: str) -> bool:
        """Notes a file's topics; returns whether it has its end.

        Raises:
            SourceError: it is no MCAP file.
        """
        magic = file.read(8)
        if magic != b"\x89MCAP0\r\n":
            raise SourceError(f"{where}: {'is empty' if not magic else 'is not an MCAP file'}; expected a recording")
        file.seek(0)
        try:
            summary = self._make_reader(file).get_summary()
        except Exception:  # no end: read it all
            summary = None
        schemas = {} if summary is None else summary.schemas
        channels = [] if summary is None else list(summary.channels.values())
        if summary is None:
            file.seek(0)
            schemas = {}
            for record in self._records(file):
                if hasattr(record, "topic"):
                    channels.append(record)
                elif hasattr(record, "encoding"):
                    schemas[record.id] = record
        for channel in channels:
            schema = schemas.get(channel.schema_id)
            kind = "no schema" if schema is None else schema.name
            # Foxglove's own type of the same name is in another coding.
            self._topics[channel.topic] = (
                kind if channel.message_encoding == "cdr" else f"{kind}, {channel.message_encoding}"
            )
        return summary is not None

    def _records(self, file: Any) -> Iterator[Any]:
        """The records of a file that was cut off, as far as they are whole."""
        try:
            yield from self._stream_reader(file).records
        except Exception:  # whatever half a record makes the reader raise
            return


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
