"""Video files, and folders and globs of images."""

from __future__ import annotations

import time
from pathlib import Path

from camscribe.runtime.errors import SourceError
from camscribe.runtime.images import SUFFIXES, expand, read
from camscribe.runtime.stream.camera import GrabSource
from camscribe.runtime.stream.frame import Frame
from camscribe.runtime.stream.grab import Request
from camscribe.runtime.stream.playback import played
from camscribe.runtime.stream.source import FrameError, Source
from camscribe.runtime.stream.uri import SourceUri


def open_source(uri: SourceUri) -> Source:
    """Opens a video file, or images: a folder, a glob, a file.

    Raises:
        SourceError: there is no such file, or none of the kind.
        OptionError: an option has no meaning.
    """
    path = Path(uri.path)
    fps = uri.number("fps", 0.0, 0.0, 1000.0)
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        request = Request("video", str(path.absolute()), fps=fps)
        return played(uri, lambda: GrabSource(request, uri.path, live=False), fps or 1.0)
    files, problems = expand([uri.path])
    if problems:
        raise problems[0]
    if not path.exists() and files == [path]:
        raise SourceError(f"{uri.path}: no such file; expected a video, an image, a folder or a glob of images")
    return played(uri, lambda: ImageSource(files, fps or 1.0), fps or 1.0)


class ImageSource:
    """Images, one after the other, that wait for the captioner.

    Args:
        files: read in this order; one that is damaged gives a ``FrameError``.
        fps: images a second by their stamps, which a recording of them is made with.
    """

    live = False

    def __init__(self, files: list[Path], fps: float) -> None:
        self._files, self._fps = files, fps
        self._next = 0
        self._began_ns = time.time_ns()

    def read(self) -> Frame | None:
        """See ``Source``."""
        if self._next >= len(self._files):
            return None
        sequence, path = self._next, self._files[self._next]
        self._next += 1
        try:
            pixels = read(path)
        except SourceError as error:
            raise FrameError(str(error)) from error
        stamp_ns = self._began_ns + round(sequence / self._fps * 1e9)
        return Frame(pixels, "rgb", sequence, time.monotonic(), stamp_ns, str(path))

    def close(self) -> None:
        """See ``Source``."""
        self._next = len(self._files)
