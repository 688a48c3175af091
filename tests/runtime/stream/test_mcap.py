"""``--mcap``: what ``rosbags`` and ``mcap`` read back, also after SIGKILL and on a full disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from camscribe.runtime.errors import SinkError
from camscribe.runtime.stream import mcap as module
from camscribe.runtime.stream.bags import open_source
from camscribe.runtime.stream.mcap import CAPTIONS, FIELDS, FRAMES, McapSink
from camscribe.runtime.stream.uri import parse

reader = pytest.importorskip("mcap.reader", reason="mcap is not installed")

CHILD = Path(__file__).with_name("mcap_child.py")


def record(path: Path, captioned: Any, counts: Any, control: Any, count: int = 5) -> None:
    sink = McapSink(path)
    assert sink.wants_frames
    assert sink.name == f"--mcap {path}"
    sink.open(control)
    for number in range(count):
        item = captioned(f"caption {number}", number)
        sink.frame(item.frame)
        sink.counts(counts())
        sink.caption(item)
    sink.close()
    sink.close()


def test_mcap_reads_what_was_recorded(tmp_path: Path, captioned: Any, counts: Any, control: Any) -> None:
    record(tmp_path / "a.mcap", captioned, counts, control)
    with (tmp_path / "a.mcap").open("rb") as file:
        recording = reader.make_reader(file, validate_crcs=True)
        assert recording.get_header().profile == "ros2"
        messages = [(channel.topic, message) for _, channel, message in recording.iter_messages()]
        statistics = recording.get_summary().statistics
    assert statistics.message_count == len(messages) == 25
    assert {topic for topic, _ in messages} == {FRAMES, CAPTIONS, "/caption/stamped", FIELDS, "/diagnostics"}
    times = [message.log_time for _, message in messages]
    assert times == sorted(times)
    frames = [message.publish_time for topic, message in messages if topic == FRAMES]
    assert frames == [captioned("", number).frame.stamp_ns for number in range(5)]


def test_rosbags_reads_what_was_recorded(tmp_path: Path, captioned: Any, counts: Any, control: Any) -> None:
    highlevel = pytest.importorskip("rosbags.highlevel", reason="rosbags is not installed")
    record(tmp_path / "a.mcap", captioned, counts, control)
    found: dict[str, list[Any]] = {}
    with highlevel.AnyReader([tmp_path / "a.mcap"]) as recording:
        for connection, _, data in recording.messages():
            found.setdefault(connection.topic, []).append(recording.deserialize(data, connection.msgtype))
    assert [message.data for message in found[CAPTIONS]] == [f"caption {number}" for number in range(5)]
    assert json.loads(found["/caption/stamped"][4].data)["caption"] == "caption 4"
    fields = found[FIELDS][4]
    assert (fields.text, fields.sequence, fields.dropped, fields.header.frame_id) == (
        "caption 4",
        4,
        40,
        "front camera",
    )
    np.testing.assert_allclose([fields.score, fields.latency_ms, fields.age_ms], [-0.5, 10.5, 33.3], rtol=1e-5)
    stamp = fields.header.stamp
    assert stamp.sec * 10**9 + stamp.nanosec == captioned("", 4).frame.stamp_ns
    assert found["/diagnostics"][0].status[0].message == "captioning"
    picture = cv2.imdecode(np.asarray(found[FRAMES][4].data), cv2.IMREAD_COLOR)
    np.testing.assert_allclose(picture, captioned("", 4).frame.pixels, atol=2)


def test_a_recording_is_a_source(tmp_path: Path, captioned: Any, counts: Any, control: Any) -> None:
    record(tmp_path / "a.mcap", captioned, counts, control)
    source = open_source(parse(str(tmp_path / "a.mcap")))
    frames = list(iter(source.read, None))
    source.close()
    assert [frame.stamp_ns for frame in frames if frame] == [captioned("", n).frame.stamp_ns for n in range(5)]


def test_it_is_written_at_least_each_second(
    tmp_path: Path, captioned: Any, control: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = McapSink(tmp_path / "a.mcap")
    sink.open(control)
    empty = (tmp_path / "a.mcap").stat().st_size
    sink.caption(captioned())
    assert (tmp_path / "a.mcap").stat().st_size == empty
    later_s = time.monotonic() + 1.01
    monkeypatch.setattr(module.time, "monotonic", lambda: later_s)
    sink.caption(captioned())
    assert (tmp_path / "a.mcap").stat().st_size > empty
    sink.close()


def test_memory_is_bounded_between_two_writes(tmp_path: Path, captioned: Any, control: Any) -> None:
    sink = McapSink(tmp_path / "a.mcap")
    sink.open(control)
    noise = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    frame = captioned().frame
    object.__setattr__(frame, "pixels", noise)
    for _ in range(4):
        sink.frame(frame)
    assert (tmp_path / "a.mcap").stat().st_size > 2 << 20
    sink.close()


def test_every_form_of_pixels_is_recorded(tmp_path: Path, captioned: Any, control: Any) -> None:
    forms = {"rgb": (48, 64, 3), "bgr": (48, 64, 3), None: (48, 64), "nv12": (72, 64)}
    sink = McapSink(tmp_path / "a.mcap")
    sink.open(control)
    for color, shape in forms.items():
        frame = captioned().frame
        pixels = np.full(shape, 128, np.uint8)
        if color in ("rgb", "bgr"):
            pixels[..., 0 if color == "rgb" else 2] = 250  # red
        object.__setattr__(frame, "pixels", pixels)
        object.__setattr__(frame, "color", color)
        sink.frame(frame)
    sink.close()
    source = open_source(parse(str(tmp_path / "a.mcap")))
    found = [frame.pixels for frame in iter(source.read, None) if frame is not None]
    source.close()
    assert [pixels.shape for pixels in found] == [(48, 64, 3)] * 4
    for pixels in found[:2]:
        np.testing.assert_allclose(pixels[0, 0], [128, 128, 250], atol=4)


def test_an_existing_file_is_left_alone(tmp_path: Path, control: Any) -> None:
    (tmp_path / "a.mcap").write_text("precious")
    with pytest.raises(SinkError, match="exists already; name another file"):
        McapSink(tmp_path / "a.mcap").open(control)
    assert (tmp_path / "a.mcap").read_text() == "precious"
    with pytest.raises(SinkError, match="cannot be written"):
        McapSink(tmp_path / "no such folder" / "a.mcap").open(control)


def test_a_recording_without_messages_leaves_no_file(tmp_path: Path, counts: Any, control: Any) -> None:
    sink = McapSink(tmp_path / "a.mcap")
    sink.open(control)
    sink.counts(counts())
    sink.close()
    assert list(tmp_path.iterdir()) == []


def frames_in(path: Path) -> int:
    source = open_source(parse(f"bag://{path}"))
    count = sum(frame is not None for frame in iter(source.read, None))
    source.close()
    return count


def test_a_killed_process_loses_no_more_than_a_second(tmp_path: Path) -> None:
    path = tmp_path / "killed.mcap"
    child = subprocess.Popen([sys.executable, str(CHILD), str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    recorded: list[float] = []
    for _ in child.stdout:
        recorded.append(time.monotonic())
        if recorded[-1] - recorded[0] > 2.5:
            break
    killed_s = time.monotonic()
    child.kill()
    child.communicate()
    before = sum(moment < killed_s - 1.5 for moment in recorded)  # half a second for a busy machine
    assert 0 < before <= frames_in(path)
    with path.open("rb") as file, pytest.raises(Exception):  # noqa: B017, PT011 - there is no index
        reader.make_reader(file).get_summary()


def end_of(child: list[str]) -> tuple[int, str]:
    """Runs the child until it ends by itself; its number of frames, and what it said."""
    done = subprocess.run(child, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return sum(line.isdecimal() for line in lines), lines[-1]


def test_a_write_that_fails_leaves_the_file_whole_until_there(tmp_path: Path) -> None:
    path = tmp_path / "limited.mcap"
    recorded, said = end_of([sys.executable, str(CHILD), str(path), str(1_500_000)])
    assert "cannot be written any further (File too large)" in said
    found = frames_in(path)
    assert recorded / 2 < found <= recorded + 1
    assert path.stat().st_size <= 1_500_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted: not root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_the_recording_with_its_index(small_disk: Path) -> None:
    path = small_disk / "full.mcap"
    recorded, said = end_of([sys.executable, str(CHILD), str(path)])
    assert "the disk is full; the recording ends here, whole" in said
    with path.open("rb") as file:
        summary = reader.make_reader(file, validate_crcs=True).get_summary()
    assert summary is not None
    assert recorded / 2 < frames_in(path) <= recorded + 1
    assert os.statvfs(small_disk).f_bavail > 0


def test_a_disk_that_was_full_before_leaves_no_file(small_disk: Path, captioned: Any, control: Any) -> None:
    (small_disk / "filler").write_bytes(bytes(1_900_000))
    sink = McapSink(small_disk / "late.mcap")
    sink.open(control)
    sink.caption(captioned())
    with pytest.raises(SinkError, match="the disk is full"):
        sink.close()
    sink.close()
    assert [item.name for item in small_disk.iterdir()] == ["filler"]
