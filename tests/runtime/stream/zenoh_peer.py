"""The other process of ``test_zenoh.py``: a zenoh-bridge-ros2dds with the CDR of ``rosbags``.

``zenoh_peer.py PORT cameras`` publishes until it is ended; ``zenoh_peer.py PORT listen KEY`` prints captions.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import zenoh
from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_HUMBLE)
TYPES = STORE.types


def session() -> zenoh.Session:
    config = zenoh.Config()
    config.insert_json5("listen/endpoints", f'["tcp/127.0.0.1:{sys.argv[1]}"]')
    config.insert_json5("scouting/multicast/enabled", "false")
    return zenoh.open(config)


def payload(kind: str, number: int) -> bytes:
    """A message of a camera whose stamp and first pixel count up."""
    stamp = TYPES["builtin_interfaces/msg/Time"](sec=1_700_000_000 + number, nanosec=5)
    header = TYPES["std_msgs/msg/Header"](stamp=stamp, frame_id="front camera")
    if kind == "image":
        row = [number % 250, 1, 2, 3, 4, 5, 99, 99]
        message = TYPES["sensor_msgs/msg/Image"](
            header=header, height=2, width=2, encoding="rgb8", is_bigendian=0, step=8, data=np.array(row * 2, np.uint8)
        )
    elif kind == "string":
        message = TYPES["std_msgs/msg/String"](data="no image")
    else:
        import cv2

        file = cv2.imencode(".jpg", np.full((24, 32, 3), 77, np.uint8))[1].reshape(-1)
        if kind == "file":
            return bytes(file)
        message = TYPES["sensor_msgs/msg/CompressedImage"](header=header, format="jpeg", data=file)
    return bytes(STORE.serialize_cdr(message, message.__msgtype__))


def cameras() -> None:
    """Keys with images of each kind, and one with none."""
    kinds = {"camera/image_raw": "image", "camera/compressed": "compressed", "camera/file": "file", "chatter": "string"}
    with session() as network:
        publishers = {network.declare_publisher(key): kind for key, kind in kinds.items()}
        print("ready", flush=True)
        for number in range(10_000):
            for publisher, kind in publishers.items():
                publisher.put(payload(kind, number))
            time.sleep(0.02)


def listen(key: str) -> None:
    def heard(sample: zenoh.Sample) -> None:
        name = str(sample.key_expr)
        kind = "diagnostic_msgs/msg/DiagnosticArray" if name == "diagnostics" else "std_msgs/msg/String"
        message = STORE.deserialize_cdr(sample.payload.to_bytes(), kind)
        value = message.status[0].message if name == "diagnostics" else message.data
        sys.stdout.write(json.dumps([name, value]) + "\n")  # whole: each subscriber has a thread of its own
        sys.stdout.flush()

    with session() as network:
        subscribers = [network.declare_subscriber(name, heard) for name in (key, f"{key}/stamped", "diagnostics")]
        print("ready", flush=True)
        while subscribers:
            time.sleep(1)


if __name__ == "__main__":
    {"cameras": cameras, "listen": listen}[sys.argv[2]](*sys.argv[3:])
