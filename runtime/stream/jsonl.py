"""Captions as lines of JSON in a file that can be read at any moment."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from camscribe.runtime.errors import SinkError
from camscribe.runtime.stream.counters import Counts
from camscribe.runtime.stream.frame import Captioned, Frame
from camscribe.runtime.stream.sink import Control


class JsonlSink:
    """Appends a line for each caption.

    Each line is written at once and whole, so a process that is killed loses none; the disk is told to keep them once a
    second, so a power cut loses a second. A line that an earlier process left unfinished is cut off; one that lacks its
    newline alone gets it. On a full disk the file ends with the last whole line. The file is this sink's alone.
    """

    wants_frames = False

    def __init__(self, path: Path) -> None:
        self.name = f"--jsonl {path}"
        self._path = path
        self._file = -1
        self._size = 0
        self._new = False
        self._unsaved = False

    def open(self, control: Control) -> None:
        """Opens the file, new or with lines in it already.

        Raises:
            SinkError: it cannot be written, holds something else, or another stream writes it.
        """
        try:
            new = not self._path.exists()
            if not new and not self._path.is_file():
                raise SinkError(f"{self.name}: is not a regular file; expected a file of JSON lines, or a new name")
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            self._lock()
            self._new = new  # else close would remove what another stream began at the same time
            self._size = self._end_of_lines(os.fstat(self._file).st_size)
            os.ftruncate(self._file, self._size)
            os.lseek(self._file, self._size, os.SEEK_SET)
        except OSError as error:
            raise SinkError(f"{self.name}: cannot be written ({error.strerror}); name another file") from error

    def frame(self, frame: Frame) -> None:
        """Does nothing."""

    def caption(self, item: Captioned) -> None:
        """Writes a line.

        Raises:
            SinkError: it cannot be written, for want of space as a rule.
        """
        line = f"{json.dumps(item.to_dict())}\n".encode()
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise SinkError(f"{self.name}: cannot be written any further ({error.strerror})") from error
        self._size += len(line)
        self._unsaved = True

    def counts(self, counts: Counts) -> None:
        """Has the disk keep what was written.

        Raises:
            SinkError: it cannot.
        """
        if self._unsaved:
            self._unsaved = False
            try:
                os.fdatasync(self._file)
            except OSError as error:
                raise SinkError(f"{self.name}: cannot be saved ({error.strerror})") from error

    def close(self) -> None:
        """Closes the file; one that is new and has no lines goes away."""
        if self._file < 0:
            return
        try:
            if self._new and not self._size:  # while it is locked, so that no other stream can have begun it
                self._path.unlink(missing_ok=True)
        finally:
            os.close(self._file)
            self._file = -1

    def _lock(self) -> None:
        """Keeps other streams, and other sinks of this one, from writing the file until it is closed."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SinkError(f"{self.name}: another stream writes it; name another file") from error
        except OSError:  # a file system without locks
            pass

    def _end_of_lines(self, size: int) -> int:
        """Where the last whole line ends, after its newline was added should only that be missing."""
        if not size:
            return 0
        if os.pread(self._file, 1, 0) != b"{":
            raise SinkError(f"{self.name}: holds something else than JSON lines; name another file")
        end, start, found = size, 0, -1
        while end and found < 0:
            start = max(0, end - 65536)
            found = os.pread(self._file, end - start, start).rfind(b"\n")
            end = start
        whole = start + found + 1
        try:
            json.loads(os.pread(self._file, size - whole, whole))
        except (ValueError, RecursionError):  # nothing, or a part of a line
            return whole
        os.pwrite(self._file, b"\n", size)
        return size + 1
