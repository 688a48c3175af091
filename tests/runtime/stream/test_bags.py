"""``bag://`` on recordings that ``rosbags`` and ``mcap`` wrote."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camscribe.runtime.errors import SourceError
from camscribe.runtime.stream.bags import open_source
from camscribe.runtime.stream.cdr import CompressedImage, Image, String
from camscribe.runtime.stream.frame import Frame
from camscribe.runtime.stream.source import FrameError, Source
from camscribe.runtime.stream.uri import parse

rosbag2 = pytest.importorskip("rosbags.rosbag2", reason="rosbags is not installed")
rosbag1 = pytest.importorskip("rosbags.rosbag1", reason="rosbags is not installed")
typesys = pytest.importorskip("rosbags.typesys", reason="rosbags is not installed")
pytest.importorskip("mcap", reason="mcap is not installed")

STORE = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
BEGAN_NS = 1_700_000_000 * 10**9


def image(number: int, stamp_ns: int = -1) -> bytes:
    stamp_ns = BEGAN_NS + number * 10**8 - 7 if stamp_ns < 0 else stamp_ns
    return Image(stamp_ns, "camera", 4, 6, "bgr8", False, 18, bytes([number]) * 72).encode()


def picture(number: int) -> bytes:
    import cv2

    file = cv2.imencode(".png", np.full((4, 6, 3), number, np.uint8))[1].tobytes()
    return CompressedImage(BEGAN_NS + number * 10**8 - 7, "camera", "png", file).encode()


Content = dict[str, tuple[str, list[bytes]]]
CAMERA: Content = {"/camera/image_raw": (Image.TYPE, [image(number) for number in range(5)])}
TALK: Content = {"/chatter": (String.TYPE, [String("hello").encode()] * 3)}


def write(path: Path, content: Content, storage: str = "sqlite3", **options: Any) -> Path:
    """A rosbag2 folder. Message n of each topic was recorded n tenths of a second after the begin."""
    plugin = rosbag2.StoragePlugin.MCAP if storage == "mcap" else rosbag2.StoragePlugin.SQLITE3
    writer = rosbag2.Writer(path, version=9, storage_plugin=plugin)
    if options:
        writer.set_compression(**options)
    with writer:
        for topic, (kind, messages) in content.items():
            connection = writer.add_connection(topic, kind, typestore=STORE)
            for number, data in enumerate(messages):
                writer.write(connection, BEGAN_NS + number * 10**8, data)
    return path


def opened(path: Path, options: str = "") -> Source:
    return open_source(parse(f"bag://{path}{options}"))


def frames_of(source: Source) -> list[Frame]:
    found = []
    while (frame := source.read()) is not None:
        found.append(frame)
    source.close()
    return found


def check(frames: list[Frame], count: int = 5) -> None:
    assert [int(frame.pixels[0, 0, 0]) for frame in frames] == list(range(count))
    assert [frame.stamp_ns for frame in frames] == [BEGAN_NS + number * 10**8 - 7 for number in range(count)]
    assert [frame.sequence for frame in frames] == list(range(count))
    assert {(frame.pixels.shape, frame.color, frame.name) for frame in frames} == {((4, 6, 3), "bgr", "camera")}


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_a_rosbag2_folder_gives_its_frames(tmp_path: Path, storage: str) -> None:
    source = opened(write(tmp_path / "drive", CAMERA | TALK, storage))
    assert not source.live
    check(frames_of(source))


def test_a_compressed_folder_gives_its_frames(tmp_path: Path) -> None:
    mode = rosbag2.CompressionMode.MESSAGE
    check(frames_of(opened(write(tmp_path / "drive", CAMERA, mode=mode, fmt=rosbag2.CompressionFormat.ZSTD))))


def test_compressed_images_are_decoded(tmp_path: Path) -> None:
    content: Content = {"/camera/compressed": (CompressedImage.TYPE, [picture(number) for number in range(5)])}
    check(frames_of(opened(write(tmp_path / "drive", content))))


def test_an_mcap_file_alone_will_do(tmp_path: Path) -> None:
    (file,) = write(tmp_path / "drive", CAMERA | TALK, "mcap").glob("*.mcap")
    check(frames_of(opened(file, "?topic=camera/image_raw")))


def test_a_folder_that_lost_its_metadata_is_read(tmp_path: Path) -> None:
    for storage in ("sqlite3", "mcap"):
        folder = write(tmp_path / storage, CAMERA, storage)
        (folder / "metadata.yaml").unlink()
        check(frames_of(opened(folder)))


def test_an_mcap_file_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    from mcap.writer import CompressionType, Writer

    path = tmp_path / "cut.mcap"
    with path.open("wb") as file:
        writer = Writer(file, compression=CompressionType.ZSTD)
        writer.start("ros2")
        schema = writer.register_schema(Image.TYPE, "ros2msg", b"")
        channel = writer.register_channel("/camera/image_raw", "cdr", schema)
        for number in range(5):
            writer.add_message(channel, BEGAN_NS + number * 10**8, image(number), 0)
            writer.flush()
            if number == 2:
                third = file.tell()
    whole = path.read_bytes()
    for size, count in ((len(whole), 5), (third + 20, 3), (third, 3), (third - 1, 3), (third - 100, 2)):
        path.write_bytes(whole[:size])
        check(frames_of(opened(path)), count)


def test_a_bag_of_ros_1_gives_its_frames(tmp_path: Path) -> None:
    store = typesys.get_typestore(typesys.Stores.ROS1_NOETIC)
    types = store.types
    with rosbag1.Writer(tmp_path / "old.bag") as writer:
        connection = writer.add_connection("/camera/image_raw", Image.TYPE, typestore=store)
        for number in range(5):
            stamp_ns = BEGAN_NS + number * 10**8 - 7
            stamp = types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
            message = types[Image.TYPE](
                header=types["std_msgs/msg/Header"](seq=0, stamp=stamp, frame_id="camera"),
                height=4,
                width=6,
                encoding="bgr8",
                is_bigendian=0,
                step=18,
                data=np.full(72, number, np.uint8),
            )
            writer.write(connection, BEGAN_NS + number * 10**8, store.serialize_ros1(message, Image.TYPE))
    check(frames_of(opened(tmp_path / "old.bag")))


def test_a_message_without_a_stamp_has_that_of_its_recording(tmp_path: Path) -> None:
    content: Content = {"/camera": (Image.TYPE, [image(0, 0), image(1, 0)])}
    frames = frames_of(opened(write(tmp_path / "drive", content)))
    assert [frame.stamp_ns for frame in frames] == [BEGAN_NS, BEGAN_NS + 10**8]


def test_frames_that_change_size_midway_are_given_as_they_are(tmp_path: Path) -> None:
    larger = Image(BEGAN_NS, "camera", 8, 10, "rgb8", False, 30, bytes(240)).encode()
    frames = frames_of(opened(write(tmp_path / "drive", {"/camera": (Image.TYPE, [image(0), larger, image(2)])})))
    assert [frame.pixels.shape for frame in frames] == [(4, 6, 3), (8, 10, 3), (4, 6, 3)]


def test_a_damaged_message_is_one_bad_frame_and_the_next_one_is_good(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "drive", {"/camera": (Image.TYPE, [image(0), image(1)[:40], image(2)])}))
    assert source.read() is not None
    with pytest.raises(FrameError, match=r"drive: a sensor_msgs/msg/Image is cut off"):
        source.read()
    frame = source.read()
    source.close()
    assert frame is not None
    assert frame.sequence == 2


def test_realtime_plays_at_the_recorded_pace(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "drive", CAMERA), "?realtime=1")
    assert source.live
    began_s = time.monotonic()
    frames = frames_of(source)
    assert frames[0].sequence == 0
    assert time.monotonic() - began_s > (frames[-1].stamp_ns - frames[0].stamp_ns) / 1e9 - 0.1


def test_close_ends_a_read_that_waits_for_its_time(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "drive", {"/camera": (Image.TYPE, [image(0)] * 100)}), "?realtime=1")
    result: list[object] = []

    def play() -> None:
        result.extend(iter(source.read, None))

    thread = threading.Thread(target=play)
    thread.start()
    time.sleep(0.15)
    source.close()
    thread.join(1)
    assert not thread.is_alive()
    assert source.read() is None
    source.close()


def test_loop_begins_again(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "drive", CAMERA), "?loop=1")
    frames = [source.read() for _ in range(12)]
    source.close()
    assert [int(frame.pixels[0, 0, 0]) for frame in frames if frame] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert [frame.sequence for frame in frames if frame] == list(range(12))


TWO: Content = {"/left/image": CAMERA["/camera/image_raw"], "/right/image": CAMERA["/camera/image_raw"]}


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (TALK, "", r"holds no topic of images .*; it has /chatter \(std_msgs/msg/String\)"),
        (CAMERA | TALK, "?topic=/camera/image_rw", r"no topic /camera/image_rw; did you mean /camera/image_raw\?"),
        (
            CAMERA | TALK,
            "?topic=/chatter",
            r"/chatter is of std_msgs/msg/String; expected .*topics of images here: /cam",
        ),
        (TWO, "", r"several topics of images; add \?topic= and one of /left/image, /right/image"),
    ],
)
def test_the_wrong_topic_is_one_clear_line(
    tmp_path: Path, storage: str, content: Content, options: str, message: str
) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        opened(write(tmp_path / "drive", content, storage), options)
    assert "\n" not in str(caught.value)


def test_what_is_no_recording_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metadata.yaml").write_text("rosbag2_bagfile_information: 3")
    for name, content in (("a.mcap", b"MCAP, not"), ("b.mcap", b""), ("c.db3", b"SQLite, not"), ("d.bag", b"#ROSBAG")):
        (tmp_path / name).write_bytes(content)
    for name, message in (
        ("nothing.mcap", "no such file"),
        ("empty", "expected a folder with metadata.yaml"),
        ("broken", "is no recording, or a damaged one"),
        ("a.mcap", "is not an MCAP file"),
        ("b.mcap", "is empty"),
        ("c.db3", "is no recording, or a damaged one"),
        ("d.bag", "is no recording, or a damaged one"),
    ):
        with pytest.raises(SourceError, match=message) as caught:
            opened(tmp_path / name)
        assert "\n" not in str(caught.value)
