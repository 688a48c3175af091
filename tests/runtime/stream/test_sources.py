"""Each source for real: child processes, files, a web server, GStreamer, an RTSP server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import OptionError, SourceError
from camscribe.runtime.stream.avi import AviWriter
from camscribe.runtime.stream.frame import Frame
from camscribe.runtime.stream.grab import users_of
from camscribe.runtime.stream.source import FrameError, Source
from camscribe.runtime.stream.stream import CaptionStream
from camscribe.runtime.stream.uri import open_source

from .conftest import MjpegCamera, jpeg

gstreamer = pytest.mark.skipif(
    shutil.which("gst-launch-1.0") is None, reason="needs gst-launch-1.0 (apt: gstreamer1.0-tools, -plugins-base)"
)


def frames(source: Source, most: int = 10**9) -> list[Frame]:
    found = []
    try:
        while len(found) < most and (frame := source.read()) is not None:
            found.append(frame)
    finally:
        source.close()
    return found


def until_lost(source: Source) -> tuple[list[Frame], list[str]]:
    """Reads until the end or a loss; returns the frames, and what was said, the loss last."""
    found, said = [], []
    try:
        while True:
            try:
                frame = source.read()
            except FrameError as error:
                said.append(str(error))
                continue
            if frame is None:
                return found, said
            found.append(frame)
    except SourceError as error:
        return found, [*said, str(error)]
    finally:
        source.close()


def write_video(path: Path, levels: list[int], size: tuple[int, int] = (64, 48)) -> Path:
    writer = AviWriter(path, size, 25)
    for level in levels:
        writer.write(jpeg(*size, level))
    writer.close()
    return path


# --- test://


def test_the_synthetic_scene_moves_and_is_the_same_each_time() -> None:
    one, other = (frames(open_source("test://?rate=0&frames=5&size=80x60")) for _ in range(2))
    assert [frame.pixels.shape for frame in one] == [(60, 80, 3)] * 5
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(one, other, strict=True))
    assert all(not np.array_equal(a.pixels, b.pixels) for a, b in pairwise(one))
    assert {frame.stamp_ns - one[0].stamp_ns for frame in one} == {round(at / 30 * 1e9) for at in range(5)}


def test_the_synthetic_scene_keeps_its_rate_and_ends_when_closed() -> None:
    source = open_source("test://?rate=50&size=32x32")
    assert source.live
    began = time.monotonic()
    found = [source.read() for _ in range(6)]
    assert time.monotonic() - began > 5 / 50 - 0.02
    threading.Timer(0.05, source.close).start()
    while source.read() is not None:
        pass
    assert all(frame is not None for frame in found)


@pytest.mark.parametrize("options", ["size=9", "size=10x5000", "rate=-1", "rate=fast", "frames=x"])
def test_synthetic_options_are_checked(options: str) -> None:
    with pytest.raises(OptionError, match=options.partition("=")[0]):
        open_source(f"test://?{options}")


# --- Files.


def test_a_damaged_image_is_one_failure_and_the_rest_is_captioned(captioner: Captioner, photos: Path) -> None:
    (photos / "p2.png").write_bytes((photos / "p2.png").read_bytes()[:60])
    said: list[str] = []
    stream = CaptionStream(captioner, str(photos), report=said.append)
    assert [Path(item.frame.name).name for item in stream] == ["p0.png", "p1.png", "p3.png", "p4.png"]
    assert stream.counts().failed == 1
    assert len(said) == 1
    assert "p2.png: is a damaged" in said[0]


def test_globs_and_single_images(photos: Path) -> None:
    assert [Path(f.name).name for f in frames(open_source(f"{photos}/p[13].png"))] == ["p1.png", "p3.png"]
    assert [Path(f.name).name for f in frames(open_source(str(photos / "p4.png")))] == ["p4.png"]
    for text, expected in ((f"{photos}/*.jpg", "matches no file"), (f"file://{photos}/none.png", "no such file")):
        with pytest.raises(SourceError, match=expected):
            open_source(text)


def test_a_video_gives_all_its_frames_in_order_and_waits(captioner: Captioner, tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", list(range(20, 220, 10)))
    stream = CaptionStream(captioner, str(path))
    items = list(stream)
    levels = [float(item.frame.pixels.mean()) for item in items]
    np.testing.assert_allclose(levels, range(20, 220, 10), atol=3)
    assert stream.counts().dropped == 0
    stamps = np.diff([item.frame.stamp_ns for item in items])
    np.testing.assert_allclose(stamps, 40e6, rtol=1e-3)


def test_a_part_of_the_frames_at_the_recorded_pace_and_again(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a clip.avi", [100] * 25)
    few = frames(open_source(f"{path}?fps=5"))
    assert [round((frame.stamp_ns - few[0].stamp_ns) / 1e6) for frame in few] == [0, 200, 400, 600, 800]
    source = open_source(f"file://{str(path).replace(' ', '%20')}?fps=5&realtime=1&loop=1")
    assert source.live
    began = time.monotonic()
    found = frames(source, 8)
    assert time.monotonic() - began > 1.1
    assert [frame.sequence for frame in found] == sorted({frame.sequence for frame in found})
    assert all(np.diff([frame.stamp_ns for frame in found]) > 0)


def test_a_single_image_is_looped_at_its_pace(photos: Path) -> None:
    stamps = [frame.stamp_ns for frame in frames(open_source(f"{photos / 'p0.png'}?loop=1"), 3)]
    assert np.diff(stamps).tolist() == [10**9] * 2
    began = time.monotonic()
    found = frames(open_source(f"{photos / 'p0.png'}?loop=1&realtime=1&fps=20"), 5)
    assert time.monotonic() - began > 4 / 20 - 0.01
    assert len(found) == 5


def test_a_truncated_video_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "cut.avi", [100] * 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found, said = until_lost(open_source(str(path)))
    assert said == [f"{path}: ends after {len(found)} of 40 frames; the file is truncated or damaged"]
    assert 10 < len(found) < 40


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_video_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", [100] * 5).rename(tmp_path / os.fsdecode(b"clip\xff.avi"))
    with pytest.raises(SourceError, match=r"\.avi: its name is not UTF-8; rename it$"):
        frames(open_source(str(path)))


def test_a_missing_codec_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", [100] * 5)
    path.write_bytes(path.read_bytes().replace(b"MJPG", b"QX9Z"))
    with pytest.raises(SourceError, match=r"clip\.avi: cannot be opened as a video; .*codec.* is missing in OpenCV's"):
        frames(open_source(str(path)))
    text = tmp_path / "notes.mp4"
    text.write_text("no video")
    with pytest.raises(SourceError, match=r"notes\.mp4: cannot be opened as a video; it is none, or its codec"):
        frames(open_source(str(text)))


# --- Cameras.


def test_cameras_that_are_not_there(tmp_path: Path) -> None:
    for text, expected in (
        ("v4l2://987", "/dev/video987: no such camera"),
        ("v4l2:///dev/null?width=640", "only one of width and height"),
        ("v4l2:///dev/null?format=MJPEG", "format is 'MJPEG'; expected four letters"),
        (f"v4l2://{tmp_path}", "is not a camera"),
    ):
        with pytest.raises((SourceError, OptionError)) as caught:
            open_source(text)
        assert expected in str(caught.value)
    with pytest.raises(SourceError, match="/dev/null: cannot be opened as a camera"):
        frames(open_source("v4l2:///dev/null"))


def test_who_holds_a_camera_is_named(tmp_path: Path) -> None:
    path = tmp_path / "video0"
    path.touch()
    assert users_of(path) == []
    code = f"import sys; f = open({str(path)!r}); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        (user,) = users_of(path)
        assert user.endswith(f"({other.pid})")
        other.communicate()


# --- MJPEG from a real web server.


@pytest.mark.parametrize("length", [True, False])
def test_mjpeg_with_frames_that_change_size_and_a_damaged_one(
    make_camera: Callable[..., MjpegCamera], length: bool
) -> None:
    pictures = [jpeg(64, 48), jpeg(32, 24), b"no picture", jpeg(80, 60), jpeg(80, 60)]
    camera = make_camera(lambda: iter(pictures), length=length)
    found, said = until_lost(open_source(camera.url))
    assert said == [
        f"{camera.url}: a frame is no JPEG image, or a damaged one",
        f"{camera.url}: the server ended the stream",
    ]
    assert [frame.pixels.shape[:2] for frame in found] == [(48, 64), (24, 32), (60, 80), (60, 80)]


def test_a_killed_camera_comes_back(
    captioner: Captioner, make_camera: Callable[..., MjpegCamera], endless: Callable[[], Iterator[bytes]]
) -> None:
    camera, said = make_camera(endless), []
    with CaptionStream(captioner, camera.url, report=said.append) as stream:
        sequences = []
        for item in stream:
            sequences.append(item.frame.sequence)
            reopened = stream.counts().reopened
            if len(sequences) == 3:
                camera.stop()
                threading.Timer(0.2, camera.start).start()
            if reopened:
                break
    assert sequences == sorted(set(sequences))
    assert said[0].endswith("opening it again until it is back")
    assert said[1].startswith("back after")


def test_wrong_answers_of_a_server(make_camera: Callable[..., MjpegCamera], endless: Any) -> None:
    camera = make_camera(endless)
    for url, expected in (
        (camera.url.replace("stream", "none"), "the server answers 404 Not Found"),
        ("http://127.0.0.1:9/", "cannot be reached"),
    ):
        with pytest.raises(SourceError, match=expected):
            frames(open_source(url))


def test_a_camera_with_a_login(make_camera: Callable[..., MjpegCamera]) -> None:
    camera = make_camera(lambda: iter([jpeg()] * 3), login="me:pass@word")
    with_login = camera.url.replace("://", "://me:pass%40word@")
    assert len(until_lost(open_source(with_login))[0]) == 3
    for url in (camera.url, with_login.replace("word", "wurd")):
        found, (said,) = until_lost(open_source(url))
        assert found == []
        assert said.endswith("/stream.mjpg: the server answers 401 Unauthorized")
        assert "wurd" not in said


def test_a_capturing_process_that_dies_is_a_lost_camera(make_camera: Callable[..., MjpegCamera], endless: Any) -> None:
    source = open_source(make_camera(endless).url)
    assert source.read() is not None
    os.kill(source._child._process.pid, signal.SIGKILL)
    with pytest.raises(SourceError, match="the capturing process ended with signal 9"):
        frames(source)


def test_close_ends_a_read_that_waits(make_camera: Callable[..., MjpegCamera]) -> None:
    def stalled() -> Iterator[bytes]:
        yield jpeg()
        time.sleep(20)

    source = open_source(make_camera(stalled).url)
    assert source.read() is not None
    timer = threading.Timer(0.2, source.close)
    timer.start()
    began = time.monotonic()
    assert source.read() is None
    timer.join()
    assert time.monotonic() - began < 3


def test_the_capturing_process_ends_with_its_parent(make_camera: Callable[..., MjpegCamera]) -> None:
    def stalled() -> Iterator[bytes]:
        yield jpeg()
        time.sleep(20)

    code = (
        "import sys, time; from camscribe.runtime.stream.uri import open_source; "
        f"s = open_source({make_camera(stalled).url!r}); s.read(); "
        "print(s._child._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 10
    while alive(child):
        assert time.monotonic() < until, "the child outlives its parent"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


# --- GStreamer.


@gstreamer
def test_a_pipeline_with_padded_rows_whose_size_changes() -> None:
    pipeline = (
        "videotestsrc num-buffers=3 pattern=red ! video/x-raw,width=66,height=48 ! c.sink_0 "
        "videotestsrc num-buffers=3 pattern=blue ! video/x-raw,width=32,height=24 ! c.sink_1 concat name=c"
    )
    found = frames(open_source(f"gst://{pipeline}#live=0"))
    assert [frame.pixels.shape for frame in found] == [(48, 66, 3)] * 3 + [(24, 32, 3)] * 3
    assert all((frame.pixels.reshape(-1, 3).argmax(axis=1) == 2).all() for frame in found[:3])  # red in BGR
    assert all((frame.pixels.reshape(-1, 3).argmax(axis=1) == 0).all() for frame in found[3:])


@gstreamer
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gst://nothing-like-this", 'no element "nothing-like-this"'),
        ("gst://", "is an empty pipeline"),
        ("gst://a 'b", "is not a pipeline"),
        ("csi://front", "camera is 'front'; expected its number"),
        ("csi://0?flip=9", "flip is '9'"),
        ("csi://0", "nvarguscamerasrc"),
    ],
)
def test_wrong_pipelines(text: str, expected: str) -> None:
    with pytest.raises((SourceError, OptionError)) as caught:
        frames(open_source(text))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@gstreamer
def test_a_killed_pipeline_is_begun_again(captioner: Captioner) -> None:
    source = "gst://videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=50/1"
    said: list[str] = []
    with CaptionStream(captioner, source, report=said.append) as stream:
        next(stream)
        assert stream._capture is not None
        os.kill(stream._capture._source._child._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        for _ in stream:
            if stream.counts().reopened:
                break
    assert "gst-launch-1.0 ended with status -9; opening it again" in said[0]


def has_rtsp_server() -> bool:
    code = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    try:
        return subprocess.run(["/usr/bin/python3", "-c", code], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not has_rtsp_server(), reason="needs python3-gi and gir1.2-gst-rtsp-server-1.0")
@pytest.mark.parametrize(("server", "options"), [("tcp", ""), ("", "#transport=udp")])
def test_rtsp_over_udp_and_with_tcp_as_fallback(server: str, options: str) -> None:
    command = ["/usr/bin/python3", str(Path(__file__).with_name("rtsp_server.py")), *filter(None, [server])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as camera:
        try:
            assert camera.stdout is not None
            port = int(camera.stdout.readline())
            source = open_source(f"rtsp://127.0.0.1:{port}/live{options}")
            assert [frame.pixels.shape for frame in frames(source, 3)] == [(240, 320, 3)] * 3
        finally:
            camera.kill()


def test_images_of_all_sizes_go_through_one_stream(captioner: Captioner, tmp_path: Path) -> None:
    for index, size in enumerate([(40, 30), (7, 90), (1, 1), (300, 200)]):
        Image.new("RGB", size, (index * 40, 90, 30)).save(tmp_path / f"{index}.png")
    assert len(list(CaptionStream(captioner, str(tmp_path)))) == 4
