"""``ros2://`` and ``--ros2`` over real DDS on loopback. The other process has Cyclone's own coding, none of ours."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camscribe.runtime.errors import OptionError, SinkError, SourceError
from camscribe.runtime.stream import dds
from camscribe.runtime.stream.source import FrameError
from camscribe.runtime.stream.uri import SourceUri, parse

pytest.importorskip("cyclonedds", reason="cyclonedds is not installed")

PEER = Path(__file__).with_name("dds_peer.py")
DOMAIN = random.randrange(20, 100)
"""Two test runs on one machine must not hear each other."""
LOOPBACK = (
    "<CycloneDDS><Domain><General><AllowMulticast>false</AllowMulticast><Interfaces>"
    '<NetworkInterface address="127.0.0.1"/></Interfaces></General><Discovery><ParticipantIndex>auto</ParticipantIndex>'
    '<Peers><Peer address="127.0.0.1"/></Peers></Discovery></Domain></CycloneDDS>'
)


@pytest.fixture(autouse=True)
def _loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYCLONEDDS_URI", LOOPBACK)
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))


def opened(topic: str, wait: str = "20") -> dds.RosSource:
    return dds.open_source(SourceUri("ros2", topic, {"wait": wait}, f"ros2://{topic}"))


Peer = Callable[..., "subprocess.Popen[str]"]


def start(*arguments: str, domain: int = DOMAIN) -> subprocess.Popen[str]:
    command = [sys.executable, str(PEER), str(domain), *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "CYCLONEDDS_URI": LOOPBACK}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def peer() -> Iterator[Peer]:
    """Starts the other process."""
    running: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, domain: int = DOMAIN) -> subprocess.Popen[str]:
        running.append(start(*arguments, domain=domain))
        return running[-1]

    yield begin
    for process in running:
        end(process)


@pytest.fixture(scope="module")
def cameras() -> Iterator[None]:
    """The other process, which publishes images."""
    process = start("cameras")
    yield
    end(process)


@pytest.mark.usefixtures("cameras")
@pytest.mark.parametrize("topic", ["camera/image_raw", "/reliable/image_raw"])
def test_images_of_another_process_arrive(topic: str) -> None:
    source = opened(topic)
    try:
        frames = [source.read() for _ in range(3)]
    finally:
        source.close()
    assert source.live
    for frame in frames:
        assert frame is not None
        number = frame.stamp_ns // 10**9 - 1_700_000_000
        assert frame.stamp_ns % 10**9 == 5
        row = [[number % 250, 1, 2], [3, 4, 5]]
        np.testing.assert_array_equal(frame.pixels, [row, row])  # without the padding of a row
        assert (frame.color, frame.name) == ("bgr", "front camera")
        assert time.monotonic() - frame.captured_s < 60
    assert [frame.sequence for frame in frames if frame] == [0, 1, 2]


@pytest.mark.usefixtures("cameras")
def test_compressed_images_arrive_and_a_damaged_one_is_passed_over() -> None:
    source = opened("/camera/compressed")
    frames, damaged = [], []
    try:
        while len(frames) < 8 or not damaged:
            try:
                frames.append(source.read())
            except FrameError as error:  # noqa: PERF203
                damaged.append(str(error))
    finally:
        source.close()
    assert "is damaged" in damaged[0]
    numbers = [frame.stamp_ns // 10**9 - 1_700_000_000 for frame in frames if frame]
    assert not [number for number in numbers if number % 5 == 0]
    assert numbers == sorted(numbers)
    assert {frame.pixels.shape for frame in frames if frame} == {(24, 32, 3)}
    assert frames[-1] is not None
    assert frames[-1].sequence == len(frames) + len(damaged) - 1


@pytest.mark.usefixtures("cameras")
def test_only_the_newest_frame_waits() -> None:
    source = opened("camera/image_raw", "20")
    try:
        first = source.read()
        time.sleep(1)
        second, third = source.read(), source.read()
    finally:
        source.close()
    assert first is not None
    assert second is not None
    assert third is not None
    assert second.stamp_ns - first.stamp_ns > 10 * 10**9  # what came meanwhile was not kept
    assert third.stamp_ns > second.stamp_ns


def test_a_publisher_that_returns_is_heard_again(peer: Peer) -> None:
    one = peer("cameras", domain=DOMAIN + 100)
    uri = SourceUri("ros2", "camera/image_raw", {"wait": "20", "domain": str(DOMAIN + 100)}, "ros2://camera/image_raw")
    source = dds.open_source(uri)
    try:
        assert source.read() is not None
        one.kill()
        one.wait()
        peer("cameras", domain=DOMAIN + 100)
        frame = source.read()
        while frame is not None and frame.stamp_ns // 10**9 - 1_700_000_000 > 50:
            frame = source.read()
    finally:
        source.close()
    assert frame is not None


@pytest.mark.usefixtures("cameras")
def test_a_topic_of_another_type_is_named() -> None:
    with pytest.raises(
        SourceError, match=r"chatter.*is a topic of std_msgs/msg/String; expected sensor_msgs/msg/Image"
    ):
        opened("chatter", "20")


@pytest.mark.usefixtures("cameras")
def test_a_misspelt_topic_says_which_one_may_be_meant() -> None:
    with pytest.raises(SourceError, match="did you mean /camera/image_raw"):
        opened("camera/image_rw", "3")


@pytest.mark.usefixtures("cameras")
def test_an_encoding_nobody_knows_ends_the_source_at_its_first_image() -> None:
    source = opened("depth", "20")
    try:
        with pytest.raises(SourceError, match="depth image"):
            source.read()
    finally:
        source.close()


def test_close_from_another_thread_ends_a_read_that_waits() -> None:
    source = opened("nobody", "inf")
    result: list[object] = []
    thread = threading.Thread(target=lambda: result.append(source.read()))
    thread.start()
    time.sleep(0.3)
    source.close()
    thread.join(1)
    assert result == [None]
    source.close()
    assert source.read() is None


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ros2://", "not the name of a ROS topic"),
        ("ros2://1st", "not the name of a ROS topic"),
        ("ros2://a//b", "not the name of a ROS topic"),
        ("ros2://a?domain=233", "domain is '233'; expected 0 to 232"),
        ("ros2://a?domain=-1", "domain is '-1'; expected 0 to 232"),
    ],
)
def test_a_wrong_uri_is_one_clear_line(uri: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        dds.open_source(parse(uri))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_process_hears_captions_and_diagnostics(peer: Peer, captioned: Any, counts: Any, control: Any) -> None:
    listener = peer("listen", "/caption")
    sink = dds.RosSink("caption")
    assert sink.name == "--ros2 caption"
    assert not sink.wants_frames
    sink.open(control)
    try:
        sink.counts(counts())
        # A writer knows its reader only after they found each other.
        heard: dict[str, Any] = {}
        assert listener.stdout is not None
        lines = iter(listener.stdout)
        publishing = threading.Event()

        def publish() -> None:
            while not publishing.wait(0.05):
                sink.caption(captioned("a man é", 7))
                sink.counts(counts())

        thread = threading.Thread(target=publish)
        thread.start()
        while len(heard) < 3:
            topic, value = json.loads(next(lines))
            heard[topic] = value
        publishing.set()
        thread.join()
    finally:
        sink.close()
        sink.close()
    assert heard["/caption"] == "a man é"
    record = json.loads(heard["/caption/stamped"])
    assert record["stamp"] == {"sec": 1_700_000_000, "nanosec": 823_456_789}
    assert (record["caption"], record["frame_id"], record["sequence"]) == ("a man é", "front camera", 7)
    assert (record["latency_ms"], record["age_ms"], record["dropped"]) == (10.5, 33.3, 40)
    level, message, values = heard["/diagnostics"]
    assert (level, message) == (0, "captioning")
    assert values["dropped"] == "40"
    assert values["latency p50 [ms]"] == "unknown"


def test_the_last_captions_reach_a_listener_before_the_sink_ends(peer: Peer, captioned: Any, control: Any) -> None:
    listener = peer("listen", "/caption")
    sink = dds.RosSink("/caption")
    sink.open(control)
    assert listener.stdout is not None
    probe = threading.Thread(target=listener.stdout.readline)
    probe.start()
    while probe.is_alive():
        sink.caption(captioned("searching"))
        probe.join(0.05)
    sink.caption(captioned("the last"))
    sink.close()
    for line in listener.stdout:
        if json.loads(line) == ["/caption", "the last"]:
            return


def test_a_wrong_domain_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "many")
    with pytest.raises(OptionError, match="ROS_DOMAIN_ID is 'many'; expected 0 to 232"):
        dds.RosSink("caption")


def test_a_configuration_that_is_none_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, control: Any) -> None:
    monkeypatch.setenv("CYCLONEDDS_URI", "<Cyclone")
    sink = dds.RosSink("caption", domain=DOMAIN + 101)
    with pytest.raises(SinkError, match=f"DDS domain {DOMAIN + 101} cannot be joined"):
        sink.open(control)


@pytest.mark.usefixtures("cameras")
def test_localhost_only_is_obeyed_and_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CYCLONEDDS_URI")
    monkeypatch.setenv("ROS_LOCALHOST_ONLY", "1")
    code = (
        "import os\n"
        "from camscribe.runtime.stream.uri import open_source\n"
        "source = open_source('ros2://camera/image_raw')\n"
        "print(source.read().name, 'CYCLONEDDS_URI' in os.environ)\n"
        "source.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "front camera False\n", done.stderr
