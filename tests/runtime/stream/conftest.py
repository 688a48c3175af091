"""What the tests of streams share: a fast captioner, a folder of images, a camera with HTTP."""

from __future__ import annotations

import base64
import contextlib
import http.server
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.stream.frame import Frame


@pytest.fixture(scope="session")
def captioner(toy_bundle: Bundle) -> Iterator[Captioner]:
    with Captioner.load(toy_bundle.path, "cpu", threads=1) as loaded:
        yield loaded


@pytest.fixture
def photos(tmp_path: Path, toy: Any) -> Path:
    """A folder of five images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, image in enumerate(toy.images(5)):
        Image.fromarray(image).resize((90, 60)).save(folder / f"p{index}.png")
    return folder


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Every test must end all threads that it began."""
    yield
    until = time.monotonic() + 3
    while time.monotonic() < until:
        left = [thread.name for thread in threading.enumerate() if thread.name.startswith("camscribe-")]
        if not left:
            return
        time.sleep(0.02)
    pytest.fail(f"left running: {left}")


def jpeg(width: int = 64, height: int = 48, level: int = 100) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), level, np.uint8)).save(file, "jpeg")
    return file.getvalue()


class MjpegCamera:
    """A real web server that gives MJPEG; ``stop`` pulls its plug, ``start`` brings it back on the same port."""

    def __init__(
        self, pictures: Callable[[], Iterator[bytes]], *, length: bool = True, login: str | None = None
    ) -> None:
        self._pictures, self._length = pictures, length
        self._login = login and f"Basic {base64.b64encode(login.encode()).decode()}"
        self._server: http.server.ThreadingHTTPServer | None = None
        self._sockets: list[socket.socket] = []
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/stream.mjpg"

    def start(self) -> None:
        camera = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera._sockets.append(self.connection)
                if self.path != "/stream.mjpg":
                    self.send_error(404)
                    return
                if camera._login and self.headers["Authorization"] != camera._login:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with contextlib.suppress(OSError, ValueError):
                    for picture in camera._pictures():
                        length = f"Content-Length: {len(picture)}\r\n" if camera._length else ""
                        self.wfile.write(f"--frame\r\nContent-Type: image/jpeg\r\n{length}\r\n".encode())
                        self.wfile.write(picture + b"\r\n")
                    self.wfile.write(b"--frame--\r\n")

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()


@pytest.fixture
def make_camera() -> Iterator[Callable[..., MjpegCamera]]:
    """``make_camera(pictures)``: starts a ``MjpegCamera``."""
    made: list[MjpegCamera] = []

    def make(pictures: Callable[[], Iterator[bytes]], **options: Any) -> MjpegCamera:
        made.append(MjpegCamera(pictures, **options))
        return made[-1]

    yield make
    for camera in made:
        camera.stop()


@pytest.fixture
def endless() -> Callable[[], Iterator[bytes]]:
    """Pictures at 50 a second."""

    def pictures() -> Iterator[bytes]:
        while True:
            yield jpeg()
            time.sleep(0.02)

    return pictures


class Ticker:
    """A live source of a user's own, at so many frames a second."""

    live = True

    def __init__(self, rate: float = 100.0, frames: int = 10**9, levels: Callable[[int], int] = lambda at: 100) -> None:
        self._interval_s, self._frames, self._levels = 1 / rate, frames, levels
        self._stop = threading.Event()
        self._next = 0
        self.closed = False

    def read(self) -> Frame | None:
        if self._stop.wait(self._interval_s) or self._next >= self._frames:
            return None
        pixels = np.full((24, 32, 3), self._levels(self._next), np.uint8)
        self._next += 1
        return Frame(pixels, "rgb", self._next - 1, time.monotonic(), time.time_ns())

    def close(self) -> None:
        self.closed = True
        self._stop.set()


@pytest.fixture
def ticker() -> type[Ticker]:
    """A user's own live source: ``ticker(rate, frames, levels)``."""
    return Ticker
