"""Files of captions and of video: whole at any moment, also when killed and when the disk is full."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import SinkError
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.stream.avi import AviWriter
from camscribe.runtime.stream.frame import Captioned, Frame
from camscribe.runtime.stream.jsonl import JsonlSink
from camscribe.runtime.stream.recorder import FPS, VideoSink
from camscribe.runtime.stream.stream import CaptionStream

from .conftest import jpeg


def pictures(path: Path) -> list[Pixels]:
    """The frames of a video as FFmpeg reads them."""
    video, found = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), []
    while (read := video.read())[0]:
        found.append(read[1])
    return found


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- JSON lines.


def test_a_line_for_each_caption_and_more_later(captioner: Captioner, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    items = list(CaptionStream(captioner, str(photos), [JsonlSink(path)]))
    assert [line["caption"] for line in lines(path)] == [item.caption.text for item in items]
    assert lines(path)[2] == items[2].to_dict()
    assert set(lines(path)[0]) == {
        *("sequence", "stamp_ns", "name", "age_ms", "caption", "words", "log_prob", "score", "truncated"),
        *("hypotheses", "timings_ms"),
    }
    with path.open("a") as file:
        file.write('{"caption": "cut off in the mid')
    list(CaptionStream(captioner, str(photos), [JsonlSink(path)]))
    assert len(lines(path)) == 10


def test_what_is_no_file_of_lines_is_left_alone(captioner: Captioner, ticker: Any, tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    for path, expected in (
        (other, "holds something else than JSON lines"),
        (tmp_path, "is not a regular file"),
        (tmp_path / "none" / "x.jsonl", "No such file or directory"),
    ):
        with pytest.raises(SinkError, match=expected):
            next(CaptionStream(captioner, ticker(), [JsonlSink(path)]))
    assert other.read_text() == "mine"
    with CaptionStream(captioner, ticker(rate=0.01), [JsonlSink(tmp_path / "empty.jsonl")]):
        pass
    assert not (tmp_path / "empty.jsonl").exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"a": 1}\n{"b": 2}', '{"a": 1}\n{"b": 2}\n'),
        ('{"a": 1}', '{"a": 1}\n'),
        ('{"a": 1}\n{"b": ', '{"a": 1}\n'),
        ('{"a": ', ""),
        (f'{{"a": "{"x" * 70_000}"}}\n{{"b": "{"y" * 140_000}"}}', None),
        (f'{{"a": 1}}\n{{"b": {"[" * 100_000}', '{"a": 1}\n'),
    ],
    ids=["whole", "first", "cut", "first cut", "long", "deep"],
)
def test_a_last_line_that_lacks_only_its_newline_is_kept(
    control: Any, captioned: Any, tmp_path: Path, before: str, after: str | None
) -> None:
    path, sink, item = tmp_path / "x.jsonl", JsonlSink(tmp_path / "x.jsonl"), captioned()
    path.write_text(before)
    sink.open(control)
    sink.caption(item)
    sink.close()
    assert path.read_text() == f"{before + chr(10) if after is None else after}{json.dumps(item.to_dict())}\n"


def test_a_file_is_written_by_one_sink_alone(control: Any, captioned: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    first, second, third = JsonlSink(path), JsonlSink(path), JsonlSink(path)
    first.open(control)
    with pytest.raises(SinkError, match=r"x\.jsonl: another stream writes it; name another file"):
        second.open(control)
    second.close()
    first.caption(captioned())
    first.close()
    third.open(control)
    third.caption(captioned())
    third.close()
    assert len(lines(path)) == 2


# --- AVI.


def test_a_video_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "x.avi"
    writer = AviWriter(path, (64, 48), 25)
    assert pictures(path) == []
    for count in range(1, 8):
        writer.write(jpeg(64, 48, 30 * count))
        np.testing.assert_allclose([p.mean() for p in pictures(path)], 30 * np.arange(1, count + 1), atol=2)
    writer.close()
    writer.close()
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    assert (video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)) == (7, 25)
    video.set(cv2.CAP_PROP_POS_FRAMES, 5)  # by its index
    assert video.read()[1].mean() == pytest.approx(180, abs=2)


def test_a_recording_shows_each_photograph_with_its_caption_for_its_time(
    captioner: Captioner, photos: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.avi"
    CaptionStream(captioner, f"{photos}/*.png?fps=5", [VideoSink(path)]).run()
    found = pictures(path)
    assert len(found) == 5 * FPS / 5
    assert found[0].shape == (60, 90, 3)
    steps = [np.abs(a.astype(int) - b).mean() for a, b in pairwise(found)]
    assert [index + 1 for index, step in enumerate(steps) if step > 1] == [5, 10, 15, 20]
    # The strip at the bottom is dark and has the letters.
    strip = found[0][-10:]
    assert strip.max() > 200
    assert np.median(strip) < 100


def stamped(level: int, seconds: float, size: tuple[int, int] = (64, 48)) -> Frame:
    pixels = np.full((size[1], size[0], 3), level, np.uint8)
    return Frame(pixels, "rgb", 0, 0.0, 10**18 + round(seconds * 1e9))


def test_time_in_a_recording_is_that_of_the_frames(tmp_path: Path) -> None:
    path = tmp_path / "x.avi"
    sink = VideoSink(path)
    sink.open(None)  # type: ignore[arg-type]
    # Too many at first, a gap, an hour without the camera, a clock that was set back, and another size.
    moments = [*(index / 100 for index in range(100)), 2.0, 3602.0, 5.0]
    for index, moment in enumerate(moments):
        sink.frame(stamped(index, moment))
    sink.frame(stamped(200, 5.04, (32, 48)))
    sink.close()
    found = pictures(path)
    assert len(found) == 25 + 26 + 1 + 1 + 1
    last = found[-1]
    assert last.shape == (48, 64, 3)
    assert last[:, 20:44].mean() == pytest.approx(200, abs=3)
    assert last[:, :12].mean() < 8


def test_every_colour_a_camera_may_give(tmp_path: Path) -> None:
    path = tmp_path / "x.avi"
    sink = VideoSink(path)
    sink.open(None)  # type: ignore[arg-type]
    red = np.zeros((48, 64, 3), np.uint8)
    red[:, :, 0] = 200
    nv12 = np.full((72, 64), 128, np.uint8)
    for index, (pixels, color) in enumerate(
        [(red, "rgb"), (np.ascontiguousarray(red[:, :, ::-1]), "bgr"), (red[:, :, 0].copy(), None), (nv12, "nv12")]
    ):
        sink.frame(Frame(pixels, color, index, 0.0, index * 40_000_000))  # type: ignore[arg-type]
    sink.close()
    means = [picture.mean(axis=(0, 1)) for picture in pictures(path)]
    for mean, expected in zip(means, [(0, 0, 200), (0, 0, 200), (200, 200, 200), (130, 130, 130)], strict=True):
        np.testing.assert_allclose(mean, expected, atol=4)


def test_a_text_of_any_script_and_length_fits(tmp_path: Path, captioner: Captioner, toy: Any) -> None:
    from dataclasses import replace

    caption = captioner.caption(toy.images(1)[0], "rgb")
    sink = VideoSink(tmp_path / "x.avi")
    sink.open(None)  # type: ignore[arg-type]
    for index, text in enumerate(["", "a dog", "żółć größer 犬 🐕", "word " * 80, "x" * 300]):
        best = replace(caption.hypotheses[0], text=text)
        frame = stamped(90, index / 25, (33, 25))
        sink.caption(Captioned(frame, replace(caption, hypotheses=(best,)), 1.0))
        sink.frame(frame)
    sink.close()
    assert len(pictures(tmp_path / "x.avi")) == 5


def test_nothing_is_written_over_and_parts_follow(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.avi"
    path.write_text("precious")
    sink = VideoSink(path, part_bytes=20_000)
    sink.open(None)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        for index in range(60):
            sink.frame(stamped(index, index / 25))
    sink.close()
    assert path.read_text() == "precious"
    assert caplog.messages == [f"--video {path}: exists already; recording to {tmp_path / 'x-2.avi'}"]
    parts = sorted(tmp_path.glob("x-*.avi"))
    assert len(parts) > 1
    assert sum(len(pictures(part)) for part in parts) == 60


def test_only_names_that_can_be_recorded_to(tmp_path: Path) -> None:
    for path, expected in ((tmp_path / "x.mp4", r"ends in \.avi"), (tmp_path / "none" / "x.avi", "No such file")):
        with pytest.raises(SinkError, match=expected):
            VideoSink(path).open(None)  # type: ignore[arg-type]


# --- Killed, and a full disk.

_RECORD = """
import resource, sys
from pathlib import Path
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.stream.jsonl import JsonlSink
from camscribe.runtime.stream.recorder import VideoSink
from camscribe.runtime.stream.stream import CaptionStream

bundle, folder, limit = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
sinks = [JsonlSink(Path(folder, "x.jsonl")), VideoSink(Path(folder, "x.avi"))]
with Captioner.load(bundle, "cpu", threads=1) as captioner:
    # A line is one write, because two threads print.
    report = lambda line: print(f"said: {line}\\n", end="", flush=True)
    with CaptionStream(captioner, "test://?size=160x120", sinks, report=report) as stream:
        for item in stream:
            print(f"{item.frame.sequence}\\n", end="", flush=True)
"""


@pytest.fixture
def recording(captioner: Captioner, tmp_path: Path) -> Iterator[Any]:
    """``recording(limit)``: starts a process that records to x.jsonl and x.avi, files of ``limit`` bytes at most."""
    started: list[subprocess.Popen[str]] = []

    def start(limit: int = 0) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _RECORD, str(captioner.bundle.path), str(tmp_path), str(limit)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_killed_files_are_readable_up_to_the_last_second(recording: Any, tmp_path: Path) -> None:
    process = recording()
    shown: list[int] = []
    began = 0.0
    while not began or time.monotonic() - began < 2.5:
        shown.append(int(process.stdout.readline()))
        began = began or time.monotonic()
    process.send_signal(signal.SIGKILL)
    shown += [int(line) for line in process.stdout]
    written = [line["sequence"] for line in lines(tmp_path / "x.jsonl")]
    # What was still on its way to the sink's thread is all that may be missing: far less than a second.
    assert written == shown[: len(written)]
    first_ns, last_ns = (lines(tmp_path / "x.jsonl")[at]["stamp_ns"] for at in (0, -1))
    assert shown[-1] - written[-1] < 30
    assert len(pictures(tmp_path / "x.avi")) > (last_ns - first_ns) / 1e9 * FPS - FPS


def test_a_full_disk_ends_what_cannot_be_written_and_leaves_it_whole(recording: Any, tmp_path: Path) -> None:
    """A limit on the size of files fails writes in the same place as a full disk does."""
    process = recording(60_000)
    said, shown = [], 0
    for line in process.stdout:
        if line.startswith("said: "):
            said.append(line)
        elif len(said) == 2:
            shown += 1
        if shown == 5:  # the stream goes on
            break
    assert {line.split()[1] for line in said} == {"--jsonl", "--video"}
    assert all("cannot be written any further (File too large); the stream goes on without it" in line for line in said)
    assert len(lines(tmp_path / "x.jsonl")) > 10
    assert (tmp_path / "x.avi").stat().st_size <= 60_000
    assert len(pictures(tmp_path / "x.avi")) > 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_really_full(captioner: Captioner, ticker: Any, tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount here")
    try:
        said: list[str] = []
        sinks = [JsonlSink(tmp_path / "x.jsonl"), VideoSink(tmp_path / "x.avi")]
        with CaptionStream(captioner, "test://?size=160x120", sinks, report=said.append) as stream:
            for _ in stream:
                if len(said) == 2:
                    break
        assert all("No space left on device" in line for line in said)
        assert all(line["caption"] for line in lines(tmp_path / "x.jsonl"))
        assert len(pictures(tmp_path / "x.avi")) > 1
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
