"""Cameras and videos through a child process with OpenCV: ``v4l2://``, ``rtsp://``, ``http://`` and video files."""

from __future__ import annotations

import os
import re
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np

from camscribe.runtime.errors import OptionError, SourceError
from camscribe.runtime.stream.child import Child
from camscribe.runtime.stream.frame import Frame
from camscribe.runtime.stream.grab import HEADER_BYTES, Header, Request
from camscribe.runtime.stream.source import FrameError
from camscribe.runtime.stream.uri import SourceUri, redact

_TRANSPORTS = {"auto": ("udp", "tcp"), "udp": ("udp",), "tcp": ("tcp",)}
_MOST_BYTES = 1 << 30


def open_source(uri: SourceUri) -> GrabSource:
    """Opens a camera.

    Raises:
        SourceError: there is no such camera, or it may not be used.
        OptionError: an option has no meaning.
    """
    if uri.scheme == "v4l2":
        return GrabSource(_v4l2(uri), str(uri), live=True)
    if uri.scheme == "rtsp":
        transports = _TRANSPORTS[uri.choice("transport", "auto", _TRANSPORTS)]
        return GrabSource(Request("rtsp", uri.path, transports=transports), str(uri), live=True)
    return GrabSource(Request("http", uri.path), str(uri), live=True)


class GrabSource:
    """Frames from ``grab`` in a process of its own.

    Args:
        request: what to capture.
        name: begins the messages.
        live: see ``Source``.
    """

    def __init__(self, request: Request, name: str, *, live: bool) -> None:
        self.live = live
        self._request, self._name = request, name
        self._sequence = 0
        self._closed = False
        self._said: deque[str] = deque(maxlen=20)
        paths = dict.fromkeys(str(Path(path).absolute()) for path in sys.path)
        environment = {
            "PYTHONPATH": os.pathsep.join(paths),
            "OPENCV_LOG_LEVEL": "ERROR",
            "OPENCV_FFMPEG_LOGLEVEL": "16",  # errors
            "OMP_NUM_THREADS": "1",
        }
        argv = [_python(), "-m", "camscribe.runtime.stream.grab", "{fd}"]
        self._child = Child(argv, self._hear, environment, request.to_json())

    def read(self) -> Frame | None:
        """See ``Source``."""
        if self._closed:
            return None
        header = self._header()
        if header is None:
            return None
        if header.kind != b"F":
            text = self._text(header.shape[0])
            if header.kind == b"Z":
                return None
            if header.kind == b"B":
                raise FrameError(f"{self._name}: {text}")
            raise SourceError(f"{self._name}: {text}{self._last_words()}")
        rows, columns, channels = header.shape
        if not 0 < rows * columns * channels <= _MOST_BYTES:
            raise SourceError(f"{self._name}: gives frames of {columns} x {rows} pixels; expected 1 to 2**28 in all")
        pixels = np.empty((rows, columns) if channels == 1 else (rows, columns, channels), np.uint8)
        if not self._child.read_into(pixels):
            self._check()
            return None
        frame = Frame(
            pixels,
            None if channels == 1 else "bgr",
            self._sequence,
            header.captured_s if self.live else time.monotonic(),
            header.stamp_ns,
        )
        self._sequence += 1
        return frame

    def close(self) -> None:
        """See ``Source``."""
        self._closed = True
        self._child.close()

    def _header(self) -> Header | None:
        data = np.empty(HEADER_BYTES, np.uint8)
        if self._child.read_into(data):
            return Header.unpack(data.tobytes())
        self._check()
        return None

    def _text(self, size: int) -> str:
        data = np.zeros(size, np.uint8)
        self._child.read_into(data)
        return data.tobytes().decode(errors="replace")

    def _check(self) -> None:
        """Called when the pipe has ended.

        Raises:
            SourceError: the child ended by itself, and not because this was closed.
        """
        if not self._closed:
            status = self._child.status()
            how = f"signal {-status}" if status < 0 else f"status {status}"
            raise SourceError(f"{self._name}: the capturing process ended with {how}{self._last_words()}")

    def _last_words(self) -> str:
        """The last line of what the libraries printed, in brackets."""
        last = next((line for line in reversed(self._said) if line.strip()), "")
        return f" ({redact(last):.200})" if last else ""

    def _hear(self, line: str | None) -> None:
        if line is not None:
            self._said.append(line)


def _v4l2(uri: SourceUri) -> Request:
    device = f"/dev/video{int(uri.path)}" if re.fullmatch(r"\d{1,3}", uri.path) else uri.path
    _check_device(device)
    width, height = uri.integer("width", 0, 16, 16384), uri.integer("height", 0, 16, 16384)
    if bool(width) != bool(height):
        raise OptionError(f"{uri}: has only one of width and height; expected both, or none")
    letters = uri.options.get("format", "MJPG" if height >= 720 else "")
    if letters and not re.fullmatch(r"[A-Za-z0-9 ]{4}", letters):
        raise OptionError(f"{uri}: format is {letters!r}; expected four letters, such as MJPG or YUYV")
    return Request("v4l2", device, width, height, uri.number("fps", 0.0, 1.0, 1000.0), letters)


def _check_device(device: str) -> None:
    """Says early, and better than a driver would, why a camera cannot be opened."""
    path = Path(device)
    if not path.exists():
        cameras = sorted(Path("/dev").glob("video*"))
        found = f"; here are {', '.join(map(str, cameras))}" if cameras else "; this machine shows no cameras"
        raise SourceError(f"{device}: no such camera{found}")
    if not path.is_char_device():
        raise SourceError(f"{device}: is not a camera; expected a device such as /dev/video0")
    if not os.access(path, os.R_OK | os.W_OK):
        raise SourceError(f"{device}: may not be opened; add yourself to the group video: usermod -aG video USER")


def _python() -> str:
    """This interpreter's program; not that of a robot that embeds it."""
    own = Path(sys.executable or "")
    if own.name.startswith(("python", "pypy")):
        return str(own)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for path in (Path(sys.exec_prefix) / "bin" / f"python{version}", Path(sys.exec_prefix) / "bin" / "python3"):
        if path.exists():
            return str(path)
    raise SourceError(f"no Python interpreter in {sys.exec_prefix}; it runs the process that captures")
