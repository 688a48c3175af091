"""Pixels of image messages, against what was painted into them."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camscribe.runtime.errors import SourceError
from camscribe.runtime.images import as_rgb
from camscribe.runtime.stream.cdr import CompressedImage, Image
from camscribe.runtime.stream.ros_images import ENCODINGS, frame_of, jpeg_of, pixels_of
from camscribe.runtime.stream.source import FrameError

HEIGHT, WIDTH = 32, 48
RGB = np.empty((HEIGHT, WIDTH, 3), np.uint8)
RGB[:, : WIDTH // 2], RGB[:, WIDTH // 2 :] = (200, 60, 30), (20, 90, 220)
GREY = np.tile(np.arange(WIDTH, dtype=np.uint8) * 5, (HEIGHT, 1))


def encoded(encoding: str) -> np.ndarray:
    """The picture in an encoding, [rows, bytes]; OpenCV or plain NumPy made it."""
    alpha = np.full((HEIGHT, WIDTH, 1), 9, np.uint8)
    if encoding in ("mono8", "8UC1"):
        return GREY
    if encoding == "mono16":
        return (GREY.astype("<u2") * 257).view(np.uint8)
    if encoding.startswith("bayer"):
        pattern = {"r": 0, "g": 1, "b": 2}
        mosaic = np.empty((HEIGHT, WIDTH), np.uint8)
        for index, letter in enumerate(encoding[6:10]):
            row, column = divmod(index, 2)
            mosaic[row::2, column::2] = RGB[row::2, column::2, pattern[letter]]
        return mosaic
    if encoding in ("nv12", "nv21"):
        planar = cv2.cvtColor(RGB, cv2.COLOR_RGB2YUV_I420).reshape(-1)
        y, u, v = np.split(planar, [HEIGHT * WIDTH, HEIGHT * WIDTH * 5 // 4])
        chroma = np.stack([u, v] if encoding == "nv12" else [v, u], axis=1).reshape(-1)
        return np.concatenate([y, chroma]).reshape(-1, WIDTH)
    if encoding in ("yuv422", "uyvy", "yuv422_yuy2", "yuyv"):
        planar = cv2.cvtColor(RGB, cv2.COLOR_RGB2YUV_I420).reshape(-1)
        y = planar[: HEIGHT * WIDTH].reshape(HEIGHT, WIDTH)
        u, v = (part.reshape(HEIGHT // 2, WIDTH // 2).repeat(2, axis=0) for part in np.split(planar[y.size :], 2))
        first, second = y[:, 0::2], y[:, 1::2]
        order = [first, u, second, v] if encoding in ("yuv422_yuy2", "yuyv") else [u, first, v, second]
        return np.stack(order, axis=2).reshape(HEIGHT, -1)
    layers = {"rgb8": RGB, "rgba8": np.dstack([RGB, alpha])}
    bgr = RGB[:, :, ::-1]
    layers |= {"bgr8": bgr, "8UC3": bgr, "bgra8": np.dstack([bgr, alpha]), "8UC4": np.dstack([bgr, alpha])}
    return layers[encoding].reshape(HEIGHT, -1)


def message(painted: str, padding: int = 0, **changes: Any) -> Image:
    rows = np.pad(encoded(painted), ((0, 0), (0, padding)), constant_values=255)
    fields: dict[str, Any] = {"height": HEIGHT, "width": WIDTH, "encoding": painted, "big_endian": False}
    fields |= {"step": rows.shape[1], "data": rows.tobytes()}
    return Image(1, "camera", **(fields | changes))


@pytest.mark.parametrize("padding", [0, 12])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_shows_the_picture(encoding: str, padding: int) -> None:
    pixels, color = pixels_of(Image.decode(message(encoding, padding).encode()))
    rgb = as_rgb(pixels, color)
    assert rgb.shape == (HEIGHT, WIDTH, 3)
    if encoding in ("mono8", "8UC1", "mono16"):
        np.testing.assert_array_equal(rgb, np.repeat(GREY[:, :, None], 3, axis=2))
        return
    # Chroma and Bayer patterns blur the edge between the two colours, and YUV rounds.
    for columns in (slice(4, WIDTH // 2 - 4), slice(WIDTH // 2 + 4, WIDTH - 4)):
        np.testing.assert_allclose(rgb[4:-4, columns].astype(int), RGB[4:-4, columns].astype(int), atol=6)


@pytest.mark.parametrize("encoding", ["bgr8", "rgb8", "mono8", "nv12", "bgra8"])
def test_what_a_captioner_takes_is_not_copied(encoding: str) -> None:
    data = bytearray(message(encoding, 4).encode())
    pixels, _ = pixels_of(Image.decode(data))
    view = np.frombuffer(data, np.uint8)
    assert np.shares_memory(pixels, view)


def test_grey_of_16_bits_may_be_big_endian() -> None:
    data = (GREY.astype(">u2") * 257 + 3).astype(">u2").tobytes()
    pixels, _ = pixels_of(message("mono16", big_endian=True, data=data))
    np.testing.assert_array_equal(pixels, GREY)


def test_the_last_row_may_come_without_its_padding() -> None:
    whole = message("bgr8", 12)
    pixels, _ = pixels_of(message("bgr8", 12, data=bytes(whole.data)[:-12]))
    np.testing.assert_array_equal(pixels[:, :, ::-1], RGB)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"data": b"123"}, "has 3 bytes in all"),
        ({"data": b""}, "has 0 bytes in all"),
        ({"step": 5}, "with 5 bytes a row; expected at least 144"),
        ({"height": 0}, "expected 1 to"),
        ({"width": 2**32 - 1, "height": 2**32 - 1, "step": 2**32 - 1}, "expected 1 to"),
        ({"encoding": "yuv422", "width": 3}, "expected even sides"),
        ({"encoding": "nv12", "height": 3}, "expected even sides"),
    ],
)
def test_sizes_that_do_not_fit_are_one_bad_frame(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(FrameError) as caught:
        pixels_of(message("bgr8", **changes))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("encoding", "text"), [("16UC1", "depth image"), ("32FC1", "depth image"), ("bgr16", "expected bgr8")]
)
def test_an_encoding_that_is_not_known_is_no_bad_frame_but_an_error(encoding: str, text: str) -> None:
    with pytest.raises(SourceError, match=text) as caught:
        pixels_of(message("bgr8", encoding=encoding))
    assert not isinstance(caught.value, FrameError)


@settings(max_examples=60)
@given(
    st.sampled_from(ENCODINGS),
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(0, 90),
    st.binary(max_size=2000),
    st.booleans(),
)
def test_any_sizes_give_pixels_or_a_bad_frame(
    encoding: str, height: int, width: int, step: int, data: bytes, big: bool
) -> None:
    try:
        pixels, color = pixels_of(Image(0, "", height, width, encoding, big, step, data))
    except FrameError:
        return
    assert as_rgb(pixels, color).shape == (height, width, 3)


@pytest.mark.parametrize(("suffix", "said"), [(".jpg", "bgr8; jpeg compressed bgr8"), (".png", "png"), (".png", "")])
def test_compressed_images_are_decoded(suffix: str, said: str) -> None:
    file = cv2.imencode(suffix, RGB[:, :, ::-1])[1].tobytes()
    frame = frame_of(CompressedImage.decode(CompressedImage(0, "", said, file).encode()), 3, 1.5, 99)
    assert frame.color == "bgr"
    np.testing.assert_allclose(frame.pixels[:, 4:20, ::-1].astype(int), RGB[:, 4:20].astype(int), atol=4)
    assert (frame.sequence, frame.captured_s, frame.stamp_ns) == (
        3,
        1.5,
        99,
    )  # no stamp of its own: that of its arrival


@pytest.mark.parametrize("file", [b"", b"\xff\xd8\xff", b"noise" * 10])
def test_a_damaged_compressed_image_is_one_bad_frame(file: bytes) -> None:
    with pytest.raises(FrameError, match="is damaged"):
        pixels_of(CompressedImage(0, "", "jpeg", file))


def test_compressed_depth_is_refused() -> None:
    with pytest.raises(SourceError, match="depth image"):
        pixels_of(CompressedImage(0, "", "16UC1; compressedDepth", b"x"))


def test_a_frame_becomes_a_jpeg(captioned: Any) -> None:
    item = captioned(sequence=7)
    np.testing.assert_allclose(cv2.imdecode(np.frombuffer(jpeg_of(item.frame), np.uint8), 1), item.frame.pixels, atol=2)
