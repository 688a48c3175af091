"""A source whose messages are handed to it."""

from __future__ import annotations

import threading
import time

import pytest

from camscribe.runtime.errors import SourceError
from camscribe.runtime.stream.cdr import Image
from camscribe.runtime.stream.push import PushSource
from camscribe.runtime.stream.source import FrameError


def message(number: int, encoding: str = "mono8") -> bytes:
    return Image(number, "camera", 1, 2, encoding, False, 2, bytes([number, number])).encode()


def test_the_newest_message_waits_and_the_others_are_counted() -> None:
    source = PushSource("/image", Image.decode)
    assert source.live
    for number in range(1, 4):
        source.put(message(number))
    before_s = time.monotonic()
    assert source.wait(0) == message(3)
    frame = source.read()
    assert frame is not None
    assert (frame.stamp_ns, frame.sequence, frame.pixels.tolist()) == (3, 2, [[3, 3]])
    assert frame.captured_s <= before_s  # when it arrived, not when it was read
    assert source.wait(0) is None


def test_read_waits_for_a_message_and_close_ends_it() -> None:
    source = PushSource("/image", Image.decode)
    stamps: list[int] = []

    def read() -> None:
        while (frame := source.read()) is not None:
            stamps.append(frame.stamp_ns)

    thread = threading.Thread(target=read)
    thread.start()
    source.put(message(1))
    while not stamps:
        time.sleep(0.01)
    source.close()
    thread.join(1)
    assert not thread.is_alive()
    source.put(message(2))
    assert source.read() is None
    source.close()


def test_what_cannot_be_read_is_named() -> None:
    source = PushSource("/image", Image.decode)
    source.put(message(1)[:-1])
    with pytest.raises(FrameError, match=r"^/image: a sensor_msgs/msg/Image is cut off"):
        source.read()
    source.put(message(1, "16UC1"))
    with pytest.raises(SourceError, match=r"^/image: .* depth image"):
        source.read()
