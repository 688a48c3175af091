"""GStreamer pipelines and a Jetson's CSI cameras, through a child ``gst-launch-1.0`` whose raw frames come in a pipe.

So OpenCV needs no GStreamer in it, which pip's has not. The pipeline gets an ``identity`` element at its end that tells
on standard output, for each buffer and before it, how many bytes it has, and each change of the picture's size: that
tells the frames in the pipe apart, also where their size changes midway.
"""

from __future__ import annotations

import queue
import re
import shlex
import shutil
import time

import numpy as np

from camscribe.runtime.errors import SourceError
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.stream.child import Child
from camscribe.runtime.stream.frame import Frame
from camscribe.runtime.stream.uri import SourceUri, redact

_NAME = "camscribe"
_CAPS = re.compile(rf"GstIdentity:{_NAME}\.GstPad:src: caps = video/x-raw.*width=\(int\)(\d+).*height=\(int\)(\d+)")
_BUFFER = re.compile(rf"GstIdentity:{_NAME}: last-message = chain .*?\((\d+) bytes")
_LEAKY = "queue leaky=downstream max-size-buffers=1 max-size-bytes=0 max-size-time=0"
_END = f"videoconvert ! video/x-raw,format=BGR ! identity name={_NAME} silent=false ! fdsink fd={{fd}} sync=false"


def open_source(uri: SourceUri) -> GstSource:
    """Opens ``gst://``.

    Raises:
        SourceError: GStreamer is missing, or the pipeline is not one.
        OptionError: an option has no meaning.
    """
    return GstSource(uri.path, str(uri), live=uri.flag("live", True))


def open_csi(uri: SourceUri) -> GstSource:
    """Opens ``csi://``.

    Raises:
        SourceError: GStreamer is missing, or the camera has no number.
        OptionError: an option has no meaning.
    """
    return GstSource(csi_pipeline(uri), str(uri), live=True)


def csi_pipeline(uri: SourceUri) -> str:
    """NVIDIA's way from a CSI camera to pictures in the CPU's memory.

    Raises:
        SourceError: the camera has no number.
        OptionError: an option has no meaning.
    """
    if not re.fullmatch(r"\d{1,2}", uri.path):
        raise SourceError(f"{uri}: camera is {uri.path!r}; expected its number, such as csi://0")
    width, height = uri.integer("width", 1280, 16, 16384), uri.integer("height", 720, 16, 16384)
    fps, flip = uri.integer("fps", 30, 1, 1000), uri.integer("flip", 0, 0, 7)
    return (
        f"nvarguscamerasrc sensor-id={int(uri.path)} ! "
        f"video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1,format=NV12 ! "
        f"nvvidconv flip-method={flip} ! video/x-raw,format=BGRx"
    )


class GstSource:
    """Frames of a GStreamer pipeline.

    Args:
        pipeline: as ``gst-launch-1.0`` takes it in a shell, up to an element that gives raw video.
        name: begins the messages.
        live: whether frames that nobody takes are lost.

    Raises:
        SourceError: GStreamer is missing, or the pipeline is not one.
    """

    def __init__(self, pipeline: str, name: str, *, live: bool) -> None:
        self.live = live
        self._name = name
        self._sequence = 0
        self._closed = False
        self._buffers: queue.SimpleQueue[tuple[int, int, int] | None] = queue.SimpleQueue()
        self._size = (0, 0)
        self._said: list[str] = []
        program = shutil.which("gst-launch-1.0")
        if program is None:
            raise SourceError(
                f"{name}: gst-launch-1.0 is not installed; it runs the pipeline: "
                "apt install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
            )
        try:
            words = shlex.split(pipeline)
        except ValueError as error:
            raise SourceError(f"{name}: is not a pipeline ({error}); expected ELEMENT ! ELEMENT ...") from error
        if not words:
            raise SourceError(f"{name}: is an empty pipeline; expected ELEMENT ! ELEMENT ...")
        end = f"! {_LEAKY} ! {_END}" if live else f"! {_END}"
        self._child = Child([program, "-v", *words, *end.split()], self._hear, {"LC_ALL": "C"})

    def read(self) -> Frame | None:
        """See ``Source``."""
        item = None if self._closed else self._buffers.get()
        data = np.empty(item[0] if item else 0, np.uint8)
        if item is None or not self._child.read_into(data):
            self._check()
            return None
        _, width, height = item
        now_ns = time.time_ns()
        frame = Frame(self._pixels(data, width, height), "bgr", self._sequence, time.monotonic(), now_ns)
        self._sequence += 1
        return frame

    def close(self) -> None:
        """See ``Source``."""
        self._closed = True
        self._child.close()

    def _pixels(self, data: Pixels, width: int, height: int) -> Pixels:
        """BGR [height, width, 3] of a buffer, whose rows may be padded."""
        if not height or data.size % height or data.size // height < 3 * width:
            raise SourceError(f"{self._name}: gives {data.size} bytes for {width}x{height} pixels of BGR")
        return np.ascontiguousarray(data.reshape(height, -1)[:, : 3 * width]).reshape(height, width, 3)

    def _check(self) -> None:
        """Called when the pipe has ended.

        Raises:
            SourceError: the pipeline failed; it neither came to its end nor was it closed.
        """
        if self._closed:
            return
        status = self._child.status()
        errors = [line for line in self._said if re.search(r"\b(ERROR|erroneous)\b", line)]
        if status or errors:
            text = errors[0] if errors else f"gst-launch-1.0 ended with status {status}"
            text = re.sub(r"^(WARNING: )?(ERROR: )?(from element \S+?(\w+): )?", r"\4: ", text).removeprefix(": ")
            if "nvarguscamerasrc" in text:
                text += "; that is NVIDIA's for a Jetson's CSI cameras, elsewhere see gst:// and v4l2://"
            raise SourceError(f"{self._name}: {redact(text):.300}")

    def _hear(self, line: str | None) -> None:
        """Takes a line of gst-launch; runs in the child's thread."""
        if line is None:
            self._buffers.put(None)
        elif found := _BUFFER.search(line):
            self._buffers.put((int(found[1]), *self._size))
        elif found := _CAPS.search(line):
            self._size = (int(found[1]), int(found[2]))
        elif not line.startswith("/GstPipeline") and len(self._said) < 100:
            self._said.append(line)
