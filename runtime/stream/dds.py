"""ROS 2 topics without a ROS installation: Eclipse Cyclone DDS speaks to every ROS 2 system that speaks DDS.

ROS's topic ``/caption`` is the DDS topic ``rt/caption``; its type ``std_msgs/msg/String`` is
``std_msgs::msg::dds_::String_``. Cyclone's Python package would turn each pixel into a Python number, so its own coding
is stepped over: messages come and go as the bytes that ``cdr`` reads and writes.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from functools import lru_cache
from typing import Any

from camscribe.runtime.errors import CamscribeError, OptionError, SinkError, SourceError
from camscribe.runtime.stream.cdr import CompressedImage, DiagnosticArray, Image, Message, String
from camscribe.runtime.stream.counters import Counts
from camscribe.runtime.stream.frame import Captioned, Frame
from camscribe.runtime.stream.robots import located, need, not_among
from camscribe.runtime.stream.ros_images import frame_of
from camscribe.runtime.stream.ros_topics import DIAGNOSTICS, STAMPED, diagnostics, full_name, stamped_json
from camscribe.runtime.stream.sink import Control
from camscribe.runtime.stream.uri import SourceUri

WAIT_S = 5.0
"""How long a topic is waited for that nobody publishes yet; ``?wait=SECONDS``."""
_LOOK_S = 0.1
"""Between two looks at whether a source was closed."""
_MS = 1_000_000
_DEPTH = 10
"""Captions that a writer keeps for a reader that was not listening: ROS's default."""
_LOCALHOST = (
    "<CycloneDDS><Domain><General><AllowMulticast>false</AllowMulticast><Interfaces>"
    '<NetworkInterface address="127.0.0.1"/></Interfaces></General><Discovery><ParticipantIndex>auto</ParticipantIndex>'
    '<MaxAutoParticipantIndex>119</MaxAutoParticipantIndex><Peers><Peer address="127.0.0.1"/></Peers></Discovery>'
    "</Domain></CycloneDDS>"
)
"""What ROS_LOCALHOST_ONLY means to Cyclone."""
_environment = threading.Lock()


def open_source(uri: SourceUri) -> RosSource:
    """Opens ``ros2://TOPIC``, of ``sensor_msgs/msg/Image`` or ``CompressedImage``.

    Options: ``domain`` (default: ROS_DOMAIN_ID, else 0) and ``wait``, the seconds for which a topic is waited for that
    nobody publishes yet (default 5; ``inf`` for ever: then it is waited for in ``read``).

    Raises:
        SourceError: nobody publishes the topic, or it is no topic of images.
        OptionError: the topic is no name, or an option has no meaning.
        EngineError: Cyclone DDS is not installed.
    """
    return RosSource(uri)


class RosSource:
    """The newest image of a topic: best effort and a depth of 1, which fits reliable and best-effort cameras alike."""

    def __init__(self, uri: SourceUri) -> None:
        self._uri = uri
        self._topic = full_name(uri.path)
        domain = _domain(uri.options.get("domain"), str(uri))
        wait_s = uri.number("wait", WAIT_S, 0.0, float("inf"))
        self._closed = threading.Event()
        self._using = threading.Lock()
        self._sequence = 0
        self._type: type[Image] | type[CompressedImage] = Image
        self._reader: Any = None
        self._waiting: Any = None
        self._participant = _participant(domain, str(uri), SourceError)
        self._looker = _publications(self._participant)
        try:
            if wait_s < float("inf") and not self._find(wait_s):
                raise self._nobody(wait_s)
        except BaseException:
            self.close()
            raise

    @property
    def live(self) -> bool:
        """See ``Source``."""
        return True

    def read(self) -> Frame | None:
        """See ``Source``. A publisher that goes and comes back is heard again without more ado."""
        with self._using:
            while not self._closed.is_set():
                if self._reader is None and not self._find(_LOOK_S):
                    continue
                if not self._waiting.wait(int(_LOOK_S * 1000) * _MS):
                    continue
                for sample in self._reader.take(1):
                    frame = self._frame(sample)
                    if frame is not None:
                        return frame
        return None

    def close(self) -> None:
        """See ``Source``."""
        self._closed.set()
        with self._using:
            self._waiting = self._reader = self._looker = self._participant = None

    def _frame(self, sample: Any) -> Frame | None:
        """A sample as a frame; None where it says no more than that a publisher left."""
        if not sample.sample_info.valid_data:
            return None
        arrived_s, arrived_ns = time.monotonic(), time.time_ns()
        self._sequence += 1
        try:
            return frame_of(self._type.decode(sample.cdr), self._sequence - 1, arrived_s, arrived_ns)
        except SourceError as error:
            raise located(error, self._uri) from error

    def _find(self, wait_s: float) -> bool:
        """Waits until somebody publishes the topic, and begins to listen.

        Raises:
            SourceError: it is no topic of images.
        """
        end_s = time.monotonic() + wait_s
        while not self._closed.is_set():
            kind = dict(self._seen()).get(self._topic)
            if kind is not None:
                if kind not in (Image.TYPE, CompressedImage.TYPE):
                    raise SourceError(
                        f"{self._uri}: is a topic of {kind}; expected {Image.TYPE} or {CompressedImage.TYPE}"
                        f"{not_among(self._topic, self._images())}"
                    )
                self._listen(Image if kind == Image.TYPE else CompressedImage)
                return True
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return False
            self._closed.wait(min(left_s, 0.05))
        return False

    def _listen(self, kind: type[Image] | type[CompressedImage]) -> None:
        core, qos, sub, topic = (_cyclone(name, str(self._uri)) for name in ("core", "qos", "sub", "topic"))
        policy = qos.Policy
        self._type = kind
        self._reader = sub.DataReader(
            self._participant,
            topic.Topic(self._participant, f"rt{self._topic}", _types()[kind.TYPE]),
            qos=qos.Qos(
                policy.Reliability.BestEffort,
                policy.History.KeepLast(1),
                policy.Durability.Volatile,
                policy.DataRepresentation(use_cdrv0_representation=True),
            ),
        )
        self._waiting = core.WaitSet(self._participant)
        anything = core.ViewState.Any | core.InstanceState.Any | core.SampleState.Any
        self._waiting.attach(core.ReadCondition(self._reader, anything))

    def _seen(self) -> list[tuple[str, str]]:
        """ROS topics that are published now, with ROS's names of their types."""
        found = []
        for item in self._looker.read(10_000):
            name, kind = getattr(item, "topic_name", ""), getattr(item, "type_name", "")
            if name.startswith("rt/"):
                found.append((name.removeprefix("rt"), _ros_type(kind)))
        return found

    def _images(self) -> list[str]:
        return [name for name, kind in self._seen() if kind in (Image.TYPE, CompressedImage.TYPE)]

    def _nobody(self, wait_s: float) -> SourceError:
        return SourceError(
            f"{self._uri}: nobody published {self._topic} for {wait_s:g} s{not_among(self._topic, self._images())}; "
            "the publisher's ROS_DOMAIN_ID must be the same"
        )


class RosSink:
    """Publishes captions on a ROS 2 topic, see ``ros_topics``: reliably, as ROS's own publishers do by default."""

    def __init__(self, topic: str, domain: int | None = None, max_age_ms: float | None = None) -> None:
        """Args:
            topic: of the sentences.
            domain: ROS_DOMAIN_ID; None for the environment's, else 0.
            max_age_ms: frames older than that make /diagnostics warn; None: never.

        Raises:
            OptionError: the topic is no name, or the domain no number of one.
            EngineError: Cyclone DDS is not installed.
        """
        self._topic = full_name(topic)
        self._name = f"--ros2 {topic}"
        _cyclone("core", self._name)
        self._domain = _domain(None if domain is None else str(domain), self._name)
        self._max_age_ms = max_age_ms
        self._counts: Counts | None = None
        self._source = ""
        self._participant: Any = None
        self._writers: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """See ``Sink``."""
        return self._name

    @property
    def wants_frames(self) -> bool:
        """See ``Sink``."""
        return False

    def open(self, control: Control) -> None:
        """See ``Sink``."""
        self._source = control.source
        self._participant = _participant(self._domain, self._name, SinkError)
        for topic, kind in (
            (self._topic, String.TYPE),
            (f"{self._topic}/{STAMPED}", String.TYPE),
            (DIAGNOSTICS, DiagnosticArray.TYPE),
        ):
            self._writers[topic] = self._writer(topic, kind)

    def frame(self, frame: Frame) -> None:
        """See ``Sink``. Does nothing: on a robot the camera's own topic has the frames."""

    def caption(self, item: Captioned) -> None:
        """See ``Sink``."""
        self._publish(self._topic, String(item.caption.text))
        self._publish(f"{self._topic}/{STAMPED}", String(stamped_json(item, self._counts)))

    def counts(self, counts: Counts) -> None:
        """See ``Sink``."""
        self._counts = counts
        self._publish(DIAGNOSTICS, diagnostics(counts, self._source, self._max_age_ms))

    def close(self) -> None:
        """See ``Sink``. Waits up to half a second until those who listen have the last caption."""
        writers, self._writers = self._writers, {}
        for writer in writers.values():
            # cyclonedds 11.0.1 looks for a time-out's number in the wrong class, and raises this where it means False.
            with contextlib.suppress(AttributeError):
                writer.wait_for_acks(150 * _MS)
        writers.clear()
        self._participant = None

    def _writer(self, topic_name: str, kind: str) -> Any:
        pub, qos, topic = (_cyclone(name, self._name) for name in ("pub", "qos", "topic"))
        policy = qos.Policy
        return pub.DataWriter(
            self._participant,
            topic.Topic(self._participant, f"rt{topic_name}", _types()[kind]),
            qos=qos.Qos(
                policy.Reliability.Reliable(100 * _MS),
                policy.History.KeepLast(_DEPTH),
                policy.Durability.Volatile,
                policy.DataRepresentation(use_cdrv0_representation=True),
            ),
        )

    def _publish(self, topic: str, message: Message) -> None:
        core = _cyclone("core", self._name)
        writer = self._writers.get(topic)
        if writer is None:
            return
        sample = _types()[message.TYPE].__new__(_types()[message.TYPE])
        sample.cdr = message.encode()
        try:
            writer.write(sample)
        except core.DDSException as error:
            if error.code == core.DDSException.DDS_RETCODE_TIMEOUT:
                return  # A reliable reader that does not read. ROS drops such messages too.
            raise SinkError(f"{self._name}: {topic} cannot be published ({error})") from error


def _cyclone(module: str, what: str) -> Any:
    return need(f"cyclonedds.{module}", what, "ros2")


def _domain(text: str | None, what: str) -> int:
    """The number of the ROS domain.

    Raises:
        OptionError: it is none.
    """
    given = text if text is not None else os.environ.get("ROS_DOMAIN_ID") or "0"
    # Ports are computed from it: above 232 there are none.
    if not given.isdecimal() or int(given) > 232:
        name = "domain" if text is not None else "ROS_DOMAIN_ID"
        raise OptionError(f"{what}: {name} is {given!r}; expected 0 to 232")
    return int(given)


def _participant(domain: int, what: str, error: type[CamscribeError]) -> Any:
    """Joins a domain, on this machine alone where ROS was told so.

    Raises:
        CamscribeError: of the class ``error``: it cannot be joined.
    """
    core = _cyclone("core", what)
    alone = (
        os.environ.get("ROS_LOCALHOST_ONLY") == "1"
        or os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper() == "LOCALHOST"
    )
    # Cyclone reads the variable when a process joins a domain for the first time, and has no other way to configure a
    # domain that ends with its last participant.
    with _environment:
        configure = alone and "CYCLONEDDS_URI" not in os.environ
        try:
            if configure:
                os.environ["CYCLONEDDS_URI"] = _LOCALHOST
            return _cyclone("domain", what).DomainParticipant(domain)
        except core.DDSException as reason:
            raise error(f"{what}: DDS domain {domain} cannot be joined ({reason}); see CYCLONEDDS_URI") from reason
        finally:
            if configure:
                del os.environ["CYCLONEDDS_URI"]


def _publications(participant: Any) -> Any:
    from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication

    return BuiltinDataReader(participant, BuiltinTopicDcpsPublication)


def _ros_type(kind: str) -> str:
    """``std_msgs/msg/String`` for ``std_msgs::msg::dds_::String_``."""
    return kind.replace("::dds_::", "::").removesuffix("_").replace("::", "/")


@lru_cache(maxsize=1)
def _types() -> dict[str, Any]:
    """What Cyclone must know of each type: its name and fields. The bytes are in ``cdr`` of a sample, see ``cdr``."""
    from cyclonedds.idl import IdlStruct, make_idl_struct, types

    class Coded(IdlStruct):  # type: ignore[misc]  # an optional library, which mypy does not follow
        """A sample that is its own bytes."""

        def serialize(self, buffer: object = None, endianness: object = None, use_version_2: object = None) -> bytes:
            return self.cdr  # type: ignore[no-any-return]

        @classmethod
        def deserialize(cls, data: bytes, has_header: bool = True, use_version_2: object = None) -> Coded:
            sample: Coded = cls.__new__(cls)
            sample.cdr = data
            return sample

    def struct(package: str, name: str, fields: dict[str, Any], *bases: Any) -> Any:
        return make_idl_struct(f"{name}_", f"{package}.msg.dds_.{name}_", fields, bases=bases)

    octets, text = types.sequence[types.uint8], str
    stamp = struct("builtin_interfaces", "Time", {"sec": types.int32, "nanosec": types.uint32})
    header = struct("std_msgs", "Header", {"stamp": stamp, "frame_id": text})
    pair = struct("diagnostic_msgs", "KeyValue", {"key": text, "value": text})
    status = struct(
        "diagnostic_msgs",
        "DiagnosticStatus",
        {
            "level": types.byte,
            "name": text,
            "message": text,
            "hardware_id": text,
            "values": types.sequence[pair],
        },
    )
    image = {
        "header": header,
        "height": types.uint32,
        "width": types.uint32,
        "encoding": text,
        "is_bigendian": types.uint8,
        "step": types.uint32,
        "data": octets,
    }
    return {
        Image.TYPE: struct("sensor_msgs", "Image", image, Coded),
        CompressedImage.TYPE: struct(
            "sensor_msgs", "CompressedImage", {"header": header, "format": text, "data": octets}, Coded
        ),
        String.TYPE: struct("std_msgs", "String", {"data": text}, Coded),
        DiagnosticArray.TYPE: struct(
            "diagnostic_msgs", "DiagnosticArray", {"header": header, "status": types.sequence[status]}, Coded
        ),
    }
