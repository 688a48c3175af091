"""Pixels out of ROS's image messages, and into them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from camscribe.runtime.errors import SourceError
from camscribe.runtime.images import MAX_PIXELS, Color
from camscribe.runtime.pixels import Pixels, opencv
from camscribe.runtime.stream.cdr import CompressedImage, Image
from camscribe.runtime.stream.frame import Frame
from camscribe.runtime.stream.source import FrameError


class _Layout(NamedTuple):
    """How an encoding lays its bytes out."""

    channels: int
    """Bytes of a pixel in a row."""
    color: Color | None
    """Where a captioner takes the bytes as they lie; else None."""
    conversion: str = ""
    """OpenCV's name of the conversion to BGR, where they must be converted."""


# sensor_msgs/image_encodings.hpp. A Bayer pattern is named by ROS for its first pixels, by OpenCV for the second row's
# second and third.
_LAYOUTS = {
    "bgr8": _Layout(3, "bgr"),
    "rgb8": _Layout(3, "rgb"),
    "8UC3": _Layout(3, "bgr"),
    "bgra8": _Layout(4, "bgr"),
    "rgba8": _Layout(4, "rgb"),
    "8UC4": _Layout(4, "bgr"),
    "mono8": _Layout(1, None),
    "8UC1": _Layout(1, None),
    "mono16": _Layout(2, None),
    "yuv422": _Layout(2, "bgr", "COLOR_YUV2BGR_UYVY"),
    "uyvy": _Layout(2, "bgr", "COLOR_YUV2BGR_UYVY"),
    "yuv422_yuy2": _Layout(2, "bgr", "COLOR_YUV2BGR_YUY2"),
    "yuyv": _Layout(2, "bgr", "COLOR_YUV2BGR_YUY2"),
    "nv12": _Layout(1, "nv12"),
    "nv21": _Layout(1, "bgr", "COLOR_YUV2BGR_NV21"),
    "bayer_rggb8": _Layout(1, "bgr", "COLOR_BayerBG2BGR"),
    "bayer_bggr8": _Layout(1, "bgr", "COLOR_BayerRG2BGR"),
    "bayer_gbrg8": _Layout(1, "bgr", "COLOR_BayerGR2BGR"),
    "bayer_grbg8": _Layout(1, "bgr", "COLOR_BayerGB2BGR"),
}
ENCODINGS = tuple(_LAYOUTS)
"""The encodings of ``sensor_msgs/msg/Image`` that are read."""
_DEPTH = ("16UC1", "32FC1")


def frame_of(message: Image | CompressedImage, sequence: int, arrived_s: float, arrived_ns: int) -> Frame:
    """An image message as a frame.

    Args:
        message: from a topic or a recording.
        sequence: see ``Frame``.
        arrived_s: ``time.monotonic()`` at its arrival.
        arrived_ns: nanoseconds since 1970 at its arrival, or when it was recorded: the frame's stamp where the message
            has none.

    Raises:
        SourceError: the encoding is not known.
        FrameError: the sizes do not fit, or the image file inside is damaged.
        EngineError: OpenCV is not installed, and the pixels must be converted.
    """
    pixels, color = pixels_of(message)
    return Frame(pixels, color, sequence, arrived_s, message.stamp_ns or arrived_ns, message.frame_id)


def pixels_of(message: Image | CompressedImage) -> tuple[Pixels, Color | None]:
    """The pixels of an image message, and the order of their channels.

    Where an encoding is one that the captioner takes (bgr8, rgb8, mono8, nv12), they are a view of the message, rows
    that are padded included: nothing is copied. bgra8 and rgba8 lose their fourth channel, mono16 its lower half;
    yuv422, nv21 and Bayer patterns become BGR.

    Raises:
        SourceError: see ``frame_of``.
        FrameError: see ``frame_of``.
        EngineError: see ``frame_of``.
    """
    return _decompressed(message) if isinstance(message, CompressedImage) else _raw(message)


def jpeg_of(frame: Frame, quality: int = 85) -> bytes:
    """A frame as a JPEG file.

    Args:
        frame: of any order of channels.
        quality: 1 to 100.

    Raises:
        SourceError: the pixels are of no such form.
        EngineError: OpenCV is not installed.
    """
    cv2 = opencv()
    pixels = frame.pixels
    if frame.color == "nv12":
        pixels = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_YUV2BGR_NV12)
    elif frame.color == "rgb":
        pixels = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR)
    try:
        done, content = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    except cv2.error as error:
        raise SourceError(f"a frame of shape {pixels.shape} cannot be written as JPEG ({error})") from error
    if not done:
        raise SourceError(f"a frame of shape {pixels.shape} cannot be written as JPEG")
    return bytes(content)


def _raw(message: Image) -> tuple[Pixels, Color | None]:
    encoding, height, width = message.encoding, message.height, message.width
    layout = _LAYOUTS.get(encoding)
    if layout is None:
        hint = "it is a depth image, not a picture" if encoding in _DEPTH else f"expected {', '.join(_LAYOUTS)}"
        raise SourceError(f"the images have the encoding {encoding!r}; {hint}")
    size = f"{width} x {height} {encoding} with {message.step} bytes a row"
    if not 1 <= height * width <= MAX_PIXELS:
        raise FrameError(f"an image says {size}; expected 1 to {MAX_PIXELS} pixels")
    planar = encoding in ("nv12", "nv21")
    if (planar and (height % 2 or width % 2)) or (encoding.startswith(("yuv", "uyvy", "yuyv")) and width % 2):
        raise FrameError(f"an image says {size}; expected even sides")
    rows = height * 3 // 2 if planar else height
    shape = (rows, width) if layout.channels == 1 else (rows, width, layout.channels)
    strides = (message.step, 1) if layout.channels == 1 else (message.step, layout.channels, 1)
    if message.step < width * layout.channels:
        raise FrameError(f"an image says {size}; expected at least {width * layout.channels}")
    # The last row may come without its padding.
    if len(message.data) < message.step * (rows - 1) + width * layout.channels:
        raise FrameError(f"an image says {size}, and has {len(message.data)} bytes in all")
    pixels: Pixels = np.ndarray(shape, np.uint8, message.data, strides=strides)
    if encoding == "mono16":
        return pixels[:, :, 0 if message.big_endian else 1], None
    if layout.conversion:
        cv2 = opencv()
        try:
            pixels = cv2.cvtColor(np.ascontiguousarray(pixels), getattr(cv2, layout.conversion))
        except cv2.error as error:
            raise FrameError(f"an image says {size}; OpenCV cannot convert it ({error})") from error
    return (pixels[:, :, :3] if layout.channels == 4 else pixels), layout.color


def _decompressed(message: CompressedImage) -> tuple[Pixels, Color | None]:
    if "compressedDepth" in message.format:
        raise SourceError(f"the images have the format {message.format!r}; it is a depth image, not a picture")
    cv2 = opencv()
    content = np.frombuffer(message.data, np.uint8)
    try:
        pixels = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    except cv2.error as error:
        raise FrameError(f"a compressed image ({message.format or 'no format said'}) is damaged ({error})") from error
    if pixels is None:
        raise FrameError(
            f"a compressed image ({message.format or 'no format said'}, {content.size} bytes) is damaged, or of a kind "
            "that OpenCV does not read; expected JPEG or PNG"
        )
    return pixels, "bgr"
