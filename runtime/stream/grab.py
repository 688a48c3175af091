"""The child process that captures with OpenCV or from a web server, and the form of what it writes.

    python -m camscribe.runtime.stream.grab FD   # the request as a line of JSON on standard input

Ends when its standard input does, so it never outlives its parent.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from camscribe.runtime.pixels import Pixels, opencv

_HEADER = struct.Struct("=cIIIqd")
"""Kind, rows, columns, channels (text: its bytes, 0, 0), stamp in ns, capture by ``time.monotonic()`` in s."""
HEADER_BYTES = _HEADER.size
LOST_S = 10.0
"""A camera that gives nothing for so long is lost."""


@dataclass(frozen=True)
class Request:
    """What to capture."""

    kind: Literal["v4l2", "rtsp", "http", "video"]
    address: str
    """A device, a URL or a file."""
    width: int = 0
    """Of a camera; 0 for what it gives by itself."""
    height: int = 0
    fps: float = 0.0
    """Of a camera, as above; of a video: frames to take for each second of it, 0 for all."""
    format: str = ""
    """Four letters to ask a camera for."""
    transports: tuple[str, ...] = ()
    """Of RTSP, in the order to try."""

    def to_json(self) -> bytes:
        """The line that the child reads."""
        return f"{json.dumps(asdict(self))}\n".encode()


class Header(NamedTuple):
    """What comes before the bytes of a frame or of a text."""

    kind: bytes
    """``F`` a frame, ``B`` a text about a damaged one, ``E`` a text about the end by an error, ``Z`` the end."""
    shape: tuple[int, int, int]
    """Of a frame; of a text its bytes and two zeros."""
    stamp_ns: int
    captured_s: float

    @classmethod
    def unpack(cls, data: bytes) -> Header:
        """Reads what ``pack`` made."""
        kind, rows, columns, channels, stamp_ns, captured_s = _HEADER.unpack(data)
        return cls(kind, (rows, columns, channels), stamp_ns, captured_s)

    def pack(self) -> bytes:
        """As bytes."""
        return _HEADER.pack(self.kind, *self.shape, self.stamp_ns, self.captured_s)


class _LostError(Exception):
    """The end, by an error."""


class _DamagedError(Exception):
    """A frame that cannot be decoded."""


Shot = tuple[Pixels, int, float]
"""BGR [h, w, 3] or grey [h, w], stamp in ns, time of capture."""


def main() -> int:
    """Runs the child."""
    out = os.fdopen(int(sys.argv[1]), "wb")
    entry = json.loads(sys.stdin.buffer.readline())
    request = Request(**{**entry, "transports": tuple(entry["transports"])})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    capture = {"v4l2": _v4l2, "rtsp": _rtsp, "http": _http, "video": _video}[request.kind]
    try:
        _check_name(request.address)
        for shot in capture(request):
            if isinstance(shot, _DamagedError):
                _write_text(out, b"B", str(shot))
            else:
                _write_shot(out, shot)
        _write_text(out, b"Z", "")
    except _LostError as error:
        _write_text(out, b"E", str(error))
    except BrokenPipeError:
        pass
    return 0


def _check_name(address: str) -> None:
    """Refuses what OpenCV would crash on."""
    try:
        address.encode()
    except UnicodeEncodeError as error:
        raise _LostError("its name is not UTF-8; rename it") from error


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def _write_shot(out: BinaryIO, shot: Shot) -> None:
    pixels, stamp_ns, captured_s = shot
    rows, columns = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    out.write(Header(b"F", (rows, columns, channels), stamp_ns, captured_s).pack())
    out.write(np.ascontiguousarray(pixels).data)
    out.flush()


def _write_text(out: BinaryIO, kind: bytes, text: str) -> None:
    data = text.encode(errors="replace")
    out.write(Header(kind, (len(data), 0, 0), 0, 0.0).pack() + data)
    out.flush()


# --- OpenCV.


def _v4l2(request: Request) -> Iterator[Shot]:
    cv2 = opencv()
    wanted = (
        (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*request.format) if request.format else 0),
        (cv2.CAP_PROP_FRAME_WIDTH, request.width),
        (cv2.CAP_PROP_FRAME_HEIGHT, request.height),
        (cv2.CAP_PROP_FPS, request.fps),
        (cv2.CAP_PROP_BUFFERSIZE, 1),
    )
    capture = cv2.VideoCapture(request.address, cv2.CAP_V4L2)
    if not capture.isOpened():
        raise _LostError("cannot be opened as a camera; v4l2-ctl --list-devices shows the cameras")
    for name, value in wanted:  # the format first: sizes and rates depend on it
        if value:
            capture.set(name, value)
    for shot in _shots(capture):
        rows, columns = shot[0].shape[:2]
        if (request.width or columns, request.height or rows) != (columns, rows):
            raise _LostError(
                f"gives {columns}x{rows} instead of {request.width}x{request.height}; "
                "v4l2-ctl --list-formats-ext shows what it can"
            )
        yield shot
    users = users_of(Path(request.address))
    if not Path(request.address).exists():
        raise _LostError("was unplugged")
    if users:
        raise _LostError(f"gives no frames; it is in use by {', '.join(users)}: a camera serves one program at a time")
    raise _LostError("gives no frames; dmesg may say why")


def users_of(path: Path) -> list[str]:
    """The other processes that hold a file open, as far as this one may see, as ``name (pid)``."""
    real = path.resolve()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        try:
            if any(link.readlink() == real for link in (process / "fd").iterdir()):
                found.append(f"{(process / 'comm').read_text().strip()} ({process.name})")
        except OSError:  # another user's, or gone
            continue
    return found


def _rtsp(request: Request) -> Iterator[Shot]:
    cv2 = opencv()
    for transport in request.transports:
        capture = _ffmpeg(cv2, request.address, f"rtsp_transport;{transport}|reorder_queue_size;0|max_delay;0")
        if capture.isOpened():
            yield from _shots(capture)
            raise _LostError(f"ended, or gave nothing for {LOST_S:g} s")
        capture.release()
    raise _LostError(f"cannot be opened over {' or '.join(request.transports)}")


def _ffmpeg(cv2: Any, address: str, options: str) -> Any:
    """Opens a network stream for low latency."""
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = f"{options}|fflags;nobuffer|flags;low_delay"
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 6000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(LOST_S * 1e3)]
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, [*limits, cv2.CAP_PROP_N_THREADS, 1])


def _shots(capture: Any) -> Iterator[Shot]:
    while capture.grab():
        captured_s, stamp_ns = time.monotonic(), time.time_ns()
        good, pixels = capture.retrieve()
        if good:
            yield pixels, stamp_ns, captured_s


def _video(request: Request) -> Iterator[Shot | _DamagedError]:
    cv2 = opencv()
    capture = cv2.VideoCapture(request.address, cv2.CAP_FFMPEG)
    codec = "".join(chr(int(capture.get(cv2.CAP_PROP_FOURCC)) >> shift & 255) for shift in (0, 8, 16, 24)).strip("\0 ")
    reason = (
        f"its codec {codec!r} is missing"
        if codec.isalnum() and codec.isascii()
        else "it is none, or its codec is missing"
    )
    if not capture.isOpened():
        raise _LostError(f"cannot be opened as a video; {reason} in OpenCV's FFmpeg")
    began_ns, due_ms, frames = time.time_ns(), 0.0, 0
    while capture.grab():
        frames += 1
        at_ms = max(0.0, capture.get(cv2.CAP_PROP_POS_MSEC))
        if request.fps:
            if at_ms < due_ms - 0.5:
                continue
            due_ms = max(due_ms + 1e3 / request.fps, at_ms)
        good, pixels = capture.retrieve()
        if good:
            yield pixels, began_ns + round(at_ms * 1e6), time.monotonic()
    if not frames:
        raise _LostError(f"cannot be decoded; {reason} in OpenCV's FFmpeg, or the file is damaged")
    whole = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    # Only these containers know their number of frames; others guess it from sizes and rates.
    if request.address.lower().endswith((".mp4", ".mov", ".m4v", ".avi")) and frames < 0.95 * whole - 1:
        yield _DamagedError(f"ends after {frames} of {whole} frames; the file is truncated or damaged")


# --- MJPEG from a web server.


def _http(request: Request) -> Iterator[Shot | _DamagedError]:
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError

    try:
        response = _opened(request.address)
        kind = response.headers.get_content_type()
        if kind.startswith("multipart/"):
            with response:
                yield from _decoded(_parts(response, response.headers.get_param("boundary")))
            raise _LostError("the server ended the stream")
    except HTTPError as error:
        raise _LostError(f"the server answers {error.code} {error.reason}") from error
    except URLError as error:
        raise _LostError(f"cannot be reached ({error.reason})") from error
    except TimeoutError as error:
        raise _LostError(f"gave nothing for {LOST_S:g} s") from error
    except (OSError, HTTPException, ValueError) as error:
        raise _LostError(f"the connection broke ({error or type(error).__name__})") from error
    response.close()
    cv2 = opencv()
    capture = _ffmpeg(cv2, request.address, "reconnect;1")
    if kind.startswith(("text/", "image/")) or not capture.isOpened():
        raise _LostError(f"gives {kind}; expected multipart/x-mixed-replace (MJPEG) or a video")
    yield from _shots(capture)
    raise _LostError("ended")


def _opened(url: str) -> Any:
    """The server's answer, logged in where the URL has a user."""
    import urllib.parse
    import urllib.request

    parts = urllib.parse.urlsplit(url)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if parts.username is not None:
        user, password = (urllib.parse.unquote(text or "") for text in (parts.username, parts.password))
        passwords.add_password(None, plain, user, password)
    opener = urllib.request.build_opener(
        urllib.request.HTTPBasicAuthHandler(passwords), urllib.request.HTTPDigestAuthHandler(passwords)
    )
    return opener.open(plain, timeout=LOST_S)


def _parts(response: Any, boundary: object) -> Iterator[tuple[dict[bytes, bytes], bytes]]:
    """Headers and content of each part (RFC 2046)."""
    if not isinstance(boundary, str) or not boundary:
        raise _LostError("gives multipart without a boundary")
    mark = b"--" + boundary.strip('"').removeprefix("--").encode()
    line = b"start"
    while line:
        while line and not line.startswith(mark):
            line = response.readline(65536)
        headers = {}
        while (line := response.readline(65536)).strip():
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        if not line:
            return
        length = headers.get(b"content-length", b"")
        if length.isdigit():
            content = response.read(int(length))
            if len(content) < int(length):
                return
        else:
            lines = []
            while (line := response.readline(65536)) and not line.startswith(mark):
                lines.append(line)
            content = b"".join(lines).removesuffix(b"\n").removesuffix(b"\r")
        if content:
            yield headers, content


def _decoded(parts: Iterator[tuple[dict[bytes, bytes], bytes]]) -> Iterator[Shot | _DamagedError]:
    cv2, damaged = opencv(), 0
    for headers, content in parts:
        captured_s, stamp_ns = time.monotonic(), time.time_ns()
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        if pixels is not None:
            damaged = 0
            yield pixels, _stamp_ns(headers, stamp_ns), captured_s
            continue
        damaged += 1
        if damaged == 10:
            raise _LostError("gives no JPEG images, ten times in a row")
        yield _DamagedError("a frame is no JPEG image, or a damaged one")


def _stamp_ns(headers: dict[bytes, bytes], arrived_ns: int) -> int:
    """The camera's own time, where it says one that can be (``X-Timestamp``, as mjpg-streamer has it)."""
    try:
        seconds = float(headers[b"x-timestamp"])
    except (KeyError, ValueError):
        return arrived_ns
    return round(seconds * 1e9) if 1e9 < seconds < 1e10 else arrived_ns


if __name__ == "__main__":
    sys.exit(main())
