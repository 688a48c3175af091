"""The other process of ``test_dds.py``: a ROS 2 system as Cyclone's own Python coding makes it, none of ours.

``dds_peer.py DOMAIN cameras`` publishes images until it is ended; ``dds_peer.py DOMAIN listen TOPIC`` prints captions
and diagnostics as JSON lines.
"""

# No annotations from __future__: Cyclone reads them as objects.
import json
import sys
import time
from dataclasses import dataclass

from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import byte, int32, sequence, uint8, uint32
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic

CLASSIC = Policy.DataRepresentation(use_cdrv0_representation=True)


@dataclass
class Time(IdlStruct, typename="builtin_interfaces.msg.dds_.Time_"):
    sec: int32
    nanosec: uint32


@dataclass
class Header(IdlStruct, typename="std_msgs.msg.dds_.Header_"):
    stamp: Time
    frame_id: str


@dataclass
class Image(IdlStruct, typename="sensor_msgs.msg.dds_.Image_"):
    header: Header
    height: uint32
    width: uint32
    encoding: str
    is_bigendian: uint8
    step: uint32
    data: sequence[uint8]


@dataclass
class CompressedImage(IdlStruct, typename="sensor_msgs.msg.dds_.CompressedImage_"):
    header: Header
    format: str
    data: sequence[uint8]


@dataclass
class String(IdlStruct, typename="std_msgs.msg.dds_.String_"):
    data: str


@dataclass
class KeyValue(IdlStruct, typename="diagnostic_msgs.msg.dds_.KeyValue_"):
    key: str
    value: str


@dataclass
class DiagnosticStatus(IdlStruct, typename="diagnostic_msgs.msg.dds_.DiagnosticStatus_"):
    level: byte
    name: str
    message: str
    hardware_id: str
    values: sequence[KeyValue]


@dataclass
class DiagnosticArray(IdlStruct, typename="diagnostic_msgs.msg.dds_.DiagnosticArray_"):
    header: Header
    status: sequence[DiagnosticStatus]


def cameras() -> None:
    """Topics of images and of none; stamps and first pixels count up, each fifth compressed image is damaged."""
    import cv2
    import numpy as np

    participant = DomainParticipant(int(sys.argv[1]))
    reliable, best = Policy.Reliability.Reliable(10**8), Policy.Reliability.BestEffort

    def writer(topic: str, kind: type, reliability: object) -> DataWriter:
        qos = Qos(reliability, Policy.History.KeepLast(5), CLASSIC)
        return DataWriter(participant, Topic(participant, f"rt{topic}", kind), qos=qos)

    plain = [writer("/camera/image_raw", Image, best), writer("/reliable/image_raw", Image, reliable)]
    depth = writer("/depth", Image, reliable)
    compressed = writer("/camera/compressed", CompressedImage, best)
    chatter = writer("/chatter", String, reliable)
    print("ready", flush=True)
    for number in range(10_000):
        header = Header(Time(1_700_000_000 + number, 5), "front camera")
        row = [number % 250, 1, 2, 3, 4, 5, 99, 99]
        for each in plain:
            each.write(Image(header, 2, 2, "bgr8", 0, 8, row * 2))
        depth.write(Image(header, 2, 2, "32FC1", 0, 8, row * 2))
        picture = np.full((24, 32, 3), number % 250, np.uint8)
        data = cv2.imencode(".png", picture)[1].tobytes() if number % 5 else b"damaged"
        compressed.write(CompressedImage(header, "bgr8; png compressed bgr8", list(data)))
        chatter.write(String("no image"))
        time.sleep(0.02)


def listen(topic: str) -> None:
    """Prints what comes on a caption's three topics."""
    participant = DomainParticipant(int(sys.argv[1]))
    default = Qos(Policy.Reliability.Reliable(10**8), Policy.History.KeepLast(10), CLASSIC)
    readers = {
        name: DataReader(participant, Topic(participant, f"rt{name}", kind), qos=default)
        for name, kind in ((topic, String), (f"{topic}/stamped", String), ("/diagnostics", DiagnosticArray))
    }
    print("ready", flush=True)
    while True:
        for name, reader in readers.items():
            for sample in reader.take(10):
                if isinstance(sample, String):
                    print(json.dumps([name, sample.data]), flush=True)
                elif isinstance(sample, DiagnosticArray):
                    status = sample.status[0]
                    values = {pair.key: pair.value for pair in status.values}
                    print(json.dumps([name, [int(status.level), status.message, values]]), flush=True)
        time.sleep(0.02)


if __name__ == "__main__":
    {"cameras": cameras, "listen": listen}[sys.argv[2]](*sys.argv[3:])
