"""Capturing in a process of its own, whose frames come through a pipe.

What captures may hang in a driver or a network, crash in a decoder, or need settings that are a process's own. A child
can be killed at any moment, which is what makes ``close`` quick, and takes only itself along when it crashes.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from camscribe.runtime.errors import SourceError

_PIPE_BYTES = 1 << 20


class Child:
    """A child process that writes frames to a pipe, and lines of text.

    Args:
        argv: the program and its arguments; ``{fd}`` in them becomes the number of the pipe's descriptor.
        on_line: called with each line of its standard output and error, and with None when there are no more, in a
            thread of this object.
        environment: variables besides those of this process.
        settings: what it reads on its standard input, which stays open until this process ends; None closes it.

    Raises:
        SourceError: the program cannot be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        on_line: Callable[[str | None], None],
        environment: Mapping[str, str],
        settings: bytes | None = None,
    ) -> None:
        reader, writer = os.pipe()
        with contextlib.suppress(OSError, AttributeError):  # not Linux, or Python 3.9: the pipe is smaller then
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            # Ctrl-C on the terminal is for this process, which then ends the child.
            self._process = subprocess.Popen(
                [word.replace("{fd}", str(writer)) for word in argv],
                stdin=subprocess.DEVNULL if settings is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(writer,),
                start_new_session=True,
                env={**os.environ, **environment},
            )
        except OSError as error:
            os.close(reader)
            raise SourceError(f"{argv[0]}: cannot be started ({error.strerror})") from error
        finally:
            os.close(writer)
        self._pipe = io.FileIO(reader)
        self._reading = threading.Lock()
        self._on_line = on_line
        self._lines = threading.Thread(target=self._read_lines, name="camscribe-child", daemon=True)
        self._lines.start()
        if settings is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # died already: the first read says so
                self._process.stdin.write(settings)
                self._process.stdin.flush()

    def read_into(self, array: npt.NDArray[np.uint8]) -> bool:
        """Fills an array from the pipe; False where the pipe ends before."""
        buffer = memoryview(array).cast("B")  # type: ignore[arg-type]  # an array is a buffer
        with self._reading:
            done = 0
            while done < len(buffer) and not self._pipe.closed:
                count = self._pipe.readinto(buffer[done:])
                if not count:
                    return False
                done += count
            return done == len(buffer)

    def status(self) -> int:
        """Waits for the child, which has closed its pipe, and returns its exit status; a signal's is negative."""
        try:
            return self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self.close()
            return self._process.returncode

    def close(self) -> None:
        """Kills the child. A read that waits ends. Again does nothing."""
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with self._reading:
            self._pipe.close()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if self._lines is not threading.current_thread():
            self._lines.join()

    def _read_lines(self) -> None:
        if self._process.stdout is not None:
            with self._process.stdout as lines:
                for line in lines:
                    self._on_line(line.decode(errors="replace").rstrip())
        self._on_line(None)
