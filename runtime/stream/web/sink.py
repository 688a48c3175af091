"""``--web [HOST:]PORT``: the sink that shows a stream as a web page."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import socket
import sys
import threading

from camscribe.runtime.errors import CamscribeError, SinkError
from camscribe.runtime.pixels import opencv
from camscribe.runtime.stream.counters import Counts
from camscribe.runtime.stream.frame import Captioned, Frame
from camscribe.runtime.stream.sink import Control
from camscribe.runtime.stream.web.access import Access, choose_token
from camscribe.runtime.stream.web.address import Address, join, reachable
from camscribe.runtime.stream.web.hub import Hub

_CLOSE_S = 1.0
"""Within this the server has ended and its port is free."""


class WebSink:
    """Serves the page and what programs ask, from a thread and an event loop of its own.

    Frames and captions are handed over as references and the newest wins, so that neither viewers nor their number
    slow the caller.
    """

    def __init__(self, address: str, token: str | None = None) -> None:
        """Nothing is opened yet.

        Args:
            address: ``[HOST:]PORT``; without a host only this machine can reach the page. Port 0 takes a free one.
            token: what visitors must know, at least 8 characters. None for none, or, where other machines can reach
                the page, for a new one that is printed once.

        Raises:
            OptionError: the address or the token is of no such form.
            SinkError: aiohttp is missing.
        """
        self._asked = address
        if importlib.util.find_spec("aiohttp") is None:
            raise SinkError(f'{self.name}: needs aiohttp, which is not installed: pip install "camscribe[web]"')
        self._address = Address.parse(address)
        self._was_given = token is not None
        self._token = choose_token(self._address, token)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._hub: Hub | None = None
        self._failure: BaseException | None = None

    @property
    def name(self) -> str:
        """As on the command line; without the token."""
        return f"--web {self._asked}"

    @property
    def wants_frames(self) -> bool:
        """The picture moves between captions, too."""
        return True

    @property
    def token(self) -> str | None:
        """What visitors must know; None where that is nothing."""
        return self._token

    @property
    def url(self) -> str:
        """Where the page is, without the token. The port is the one taken once the sink is open."""
        return f"http://{join(reachable(self._address.host), self._address.port)}/"

    def open(self, control: Control) -> None:
        """Takes the port and serves; prints where the page is, with the token where that was made up here.

        Raises:
            SinkError: the port cannot be taken, or OpenCV is missing.
        """
        try:
            opencv()
        except CamscribeError as error:
            raise SinkError(f"{self.name}: {error}") from error
        listener = self._address.listen()
        self._address = Address(self._address.host, listener.getsockname()[1])
        began = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(control, listener, began), name="camscribe-web", daemon=True
        )
        self._thread.start()
        began.wait()
        self._raise_failure()
        shown = f"{self.url}?token={self._token}" if self._token and not self._was_given else self.url
        print(f"camscribe: page at {shown}", file=sys.stderr, flush=True)

    def frame(self, frame: Frame) -> None:
        """Takes a captured frame.

        Raises:
            SinkError: the server has failed.
        """
        self._opened().frame(frame)

    def caption(self, item: Captioned) -> None:
        """Takes a caption.

        Raises:
            SinkError: the server has failed.
        """
        self._opened().caption(item)

    def counts(self, counts: Counts) -> None:
        """Takes the counters.

        Raises:
            SinkError: the server has failed.
        """
        self._opened().counts(counts)

    def close(self) -> None:
        """Says goodbye to viewers and frees the port, within a second. Again does nothing."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        loop, task = self._loop, self._task
        if loop is not None and task is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                loop.call_soon_threadsafe(task.cancel)
        thread.join(_CLOSE_S)

    def _run(self, control: Control, listener: socket.socket, began: threading.Event) -> None:
        try:
            with listener:
                asyncio.run(self._serve(control, listener, began))
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # handed to the thread that feeds this sink
            self._failure = error
        finally:
            began.set()

    async def _serve(self, control: Control, listener: socket.socket, began: threading.Event) -> None:
        from camscribe.runtime.stream.web.server import serve

        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._hub = Hub(control, self._loop)
        await serve(self._hub, Access(self._address, self._token), listener, began.set)

    def _opened(self) -> Hub:
        self._raise_failure()
        if self._hub is None or self._thread is None:
            raise SinkError(f"{self.name}: is not open")
        return self._hub

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise SinkError(f"{self.name}: the server has failed ({self._failure!r})") from self._failure
