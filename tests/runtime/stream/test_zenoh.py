"""``zenoh://`` and ``--zenoh`` over real Zenoh on loopback. The other process has the CDR of ``rosbags``."""

from __future__ import annotations

import json
import socket
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
from camscribe.runtime.stream.uri import SourceUri, parse

pytest.importorskip("zenoh", reason="eclipse-zenoh is not installed")
pytest.importorskip("rosbags", reason="rosbags is not installed")

from camscribe.runtime.stream import zenoh

PEER = Path(__file__).with_name("zenoh_peer.py")

Peer = Callable[..., tuple["subprocess.Popen[str]", str]]


@pytest.fixture(autouse=True)
def _loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "zenoh.json5"
    config.write_text('{scouting: {multicast: {enabled: false}}, listen: {endpoints: ["tcp/127.0.0.1:0"]}}')
    monkeypatch.setenv("ZENOH_CONFIG", str(config))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(*arguments: str, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(PEER), str(port), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def peer() -> Iterator[Peer]:
    """Starts the other process; gives it and its endpoint."""
    running: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, port: int | None = None) -> tuple[subprocess.Popen[str], str]:
        port = port or free_port()
        running.append(start(*arguments, port=port))
        return running[-1], f"tcp/127.0.0.1:{port}"

    yield begin
    for process in running:
        end(process)


@pytest.fixture(scope="module")
def cameras() -> Iterator[str]:
    """The endpoint of the other process, which publishes images."""
    port = free_port()
    process = start("cameras", port=port)
    yield f"tcp/127.0.0.1:{port}"
    end(process)


def opened(key: str, endpoint: str, wait: str = "20") -> zenoh.ZenohSource:
    return zenoh.open_source(SourceUri("zenoh", key, {"connect": endpoint, "wait": wait}, f"zenoh://{key}"))


@pytest.mark.parametrize("mode", ["peer", "client"])
def test_images_of_another_process_arrive(cameras: str, mode: str) -> None:
    source = zenoh.open_source(parse(f"zenoh:///camera/image_raw?connect={cameras}&mode={mode}"))
    try:
        frames = [source.read() for _ in range(3)]
    finally:
        source.close()
    assert source.live
    numbers = []
    for frame in frames:
        assert frame is not None
        numbers.append(frame.stamp_ns // 10**9 - 1_700_000_000)
        row = [[numbers[-1] % 250, 1, 2], [3, 4, 5]]
        np.testing.assert_array_equal(frame.pixels, [row, row])
        assert (frame.color, frame.name) == ("rgb", "front camera")
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("kind", ["compressed", "file"])
def test_compressed_images_and_plain_files_arrive(cameras: str, kind: str) -> None:
    source = opened(f"camera/{kind}", cameras)
    try:
        frame = source.read()
    finally:
        source.close()
    assert frame is not None
    assert frame.pixels.shape == (24, 32, 3)
    assert abs(int(frame.pixels[0, 0, 0]) - 77) < 3
    if kind == "file":
        assert abs(frame.stamp_ns - time.time_ns()) < 60 * 10**9


def test_only_the_newest_frame_waits(cameras: str) -> None:
    source = opened("camera/image_raw", cameras)
    try:
        first = source.read()
        time.sleep(1)
        second = source.read()
    finally:
        source.close()
    assert first is not None
    assert second is not None
    assert second.stamp_ns - first.stamp_ns > 5 * 10**9
    assert second.sequence - first.sequence > 5  # those that were missed are counted


def test_a_publisher_that_returns_is_heard_again(peer: Peer) -> None:
    one, endpoint = peer("cameras")
    source = opened("camera/image_raw", endpoint)
    try:
        assert source.read() is not None
        one.kill()
        one.wait()
        peer("cameras", port=int(endpoint.rpartition(":")[2]))
        waiting = threading.Timer(30, source.close)  # instead of for ever, should it not work
        waiting.start()
        frame = source.read()
        while frame is not None and frame.stamp_ns // 10**9 - 1_700_000_000 > 50:  # of the first one still
            frame = source.read()
        waiting.cancel()
        assert frame is not None
    finally:
        source.close()


def test_a_misspelt_key_says_which_one_may_be_meant(cameras: str) -> None:
    with pytest.raises(
        SourceError, match=r"nothing arrived on camera/image_rw for 1 s; did you mean camera/image_raw\?"
    ):
        opened("camera/image_rw", cameras, "1")


def test_a_key_of_another_type_is_named(cameras: str) -> None:
    with pytest.raises(SourceError, match=r"what arrives on chatter .* is no image"):
        opened("chatter", cameras)


def test_nobody_at_the_endpoint_is_one_clear_line(control: Any) -> None:
    sink = zenoh.ZenohSink(f"caption?connect=tcp/127.0.0.1:{free_port()}&mode=client")
    with pytest.raises(SinkError, match="Zenoh cannot be joined") as caught:
        sink.open(control)
    assert "\n" not in str(caught.value)


def test_close_from_another_thread_ends_a_read_that_waits() -> None:
    source = zenoh.open_source(SourceUri("zenoh", "nobody", {"wait": "inf"}, "zenoh://nobody"))
    result: list[object] = []
    thread = threading.Thread(target=lambda: result.append(source.read()))
    thread.start()
    time.sleep(0.2)
    source.close()
    thread.join(1)
    assert result == [None]
    source.close()
    assert source.read() is None


@pytest.mark.parametrize("key", ["", "/", "camera//image", "camera/", "a#b"])
def test_what_is_no_key_is_one_clear_line(key: str) -> None:
    with pytest.raises(OptionError, match="is not a key of Zenoh"):
        zenoh.ZenohSink(key)


def test_another_process_hears_captions_and_diagnostics(peer: Peer, captioned: Any, counts: Any, control: Any) -> None:
    listener, endpoint = peer("listen", "caption")
    sink = zenoh.ZenohSink(f"caption?connect={endpoint}")
    assert not sink.wants_frames
    sink.open(control)
    done = threading.Event()

    def publish() -> None:
        while not done.wait(0.05):
            sink.counts(counts())
            sink.caption(captioned("a man é", 7))

    thread = threading.Thread(target=publish)
    thread.start()
    heard: dict[str, str] = {}
    assert listener.stdout is not None
    try:
        while len(heard) < 3:
            key, value = json.loads(listener.stdout.readline())
            heard[key] = value
    finally:
        done.set()
        thread.join()
        sink.close()
        sink.close()
    assert heard["caption"] == "a man é"
    record = json.loads(heard["caption/stamped"])
    assert (record["stamp"]["sec"], record["frame_id"], record["dropped"]) == (1_700_000_000, "front camera", 40)
    assert heard["diagnostics"] == "captioning"
