"""What it costs to get the pixels out of a ROS 2 image message: our CDR beside Cyclone DDS's own and that of rosbags.

Each of the three makes a uint8 array [h, w, 3] of the same bytes, as they come from DDS or a bag; all are timed in
turns, and compared first. Cyclone's own coding stops at a list of numbers, so making an array of it is counted too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from camscribe.benchmarks.measure import environment, package_version
from camscribe.benchmarks.protocol import Samples, in_turn
from camscribe.benchmarks.statistics import spread
from camscribe.runtime.stream.cdr import Image
from camscribe.runtime.stream.ros_images import pixels_of

SIZES = ((640, 480), (1280, 720))
Decode = Callable[[bytes], Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="timed runs of each (default: 30)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    decoders = {"camscribe": ours, "cyclonedds": cyclone(), "rosbags": rosbags()}
    report: dict[str, Any] = {
        "environment": asdict(environment())
        | {"libraries": {name: package_version(name) for name in ("cyclonedds", "rosbags")}},
        "question": "What does it cost to get the pixels out of a sensor_msgs/msg/Image in CDR?",
        "rounds": options.rounds,
        "sizes": {},
    }
    for width, height in SIZES:
        data = message(width, height)
        expected = ours(data)
        for name, decode in decoders.items():
            if not np.array_equal(decode(data), expected):
                raise SystemExit(f"{name} has other pixels")
        samples = Samples()
        in_turn(
            {name: work(decode, data) for name, decode in decoders.items()}, [0], options.rounds, 0, samples, warm_up=2
        )
        times = samples.milliseconds
        report["sizes"][f"{width}x{height} bgr8"] = {
            "ms": {name: asdict(spread(values)) for name, values in times.items()},
            "times_as_long_as_camscribe": {
                name: float(np.median(np.divide(times[name], times["camscribe"]))) for name in ("cyclonedds", "rosbags")
            },
        }
    text = json.dumps(report, indent=1)
    if options.out:
        options.out.write_text(f"{text}\n", encoding="utf-8")
    for size, entry in report["sizes"].items():
        print(size, *(f"{name} {value['median']:.3f} ms" for name, value in entry["ms"].items()), sep="  ")
    return 0


def work(decode: Decode, data: bytes) -> Callable[[int], Any]:
    """The decoding of these bytes, as ``in_turn`` calls it."""
    return lambda _: decode(data)


def message(width: int, height: int) -> bytes:
    """An image message of noise, in CDR."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image(1, "camera", height, width, "bgr8", False, width * 3, pixels.tobytes()).encode()


def ours(data: bytes) -> np.ndarray[Any, Any]:
    """Ours: a view."""
    return pixels_of(Image.decode(data))[0]


def cyclone() -> Decode:
    """Cyclone's Python coding, of a type that is declared as its manual says."""
    from cyclonedds.idl import make_idl_struct
    from cyclonedds.idl.types import int32, sequence, uint8, uint32

    stamp = make_idl_struct("Time", "builtin_interfaces.msg.dds_.Time_", {"sec": int32, "nanosec": uint32})
    header = make_idl_struct("Header", "std_msgs.msg.dds_.Header_", {"stamp": stamp, "frame_id": str})
    image = make_idl_struct(
        "Image",
        "sensor_msgs.msg.dds_.Image_",
        {
            "header": header,
            "height": uint32,
            "width": uint32,
            "encoding": str,
            "is_bigendian": uint8,
            "step": uint32,
            "data": sequence[uint8],
        },
    )

    def decode(data: bytes) -> np.ndarray[Any, Any]:
        read = image.deserialize(data)
        # The fastest way out of a list of small numbers.
        return np.frombuffer(bytes(read.data), np.uint8).reshape(read.height, read.width, 3)

    return decode


def rosbags() -> Decode:
    """That of rosbags."""
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)

    def decode(data: bytes) -> np.ndarray[Any, Any]:
        read: Any = store.deserialize_cdr(data, Image.TYPE)
        return np.asarray(read.data).reshape(read.height, read.width, 3)

    return decode


if __name__ == "__main__":
    sys.exit(main())
