"""The picture and the captions while they come: a WebSocket for the page, multipart JPEG for other programs.

Whoever looks takes the newest picture when ready for it. The page says when it has drawn one ("next"), so that nothing
piles up on the way to a slow one; a browser that shows another tab says nothing and is sent no pictures.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import TYPE_CHECKING

from camscribe.runtime.errors import CamscribeError
from camscribe.runtime.stream.web.hub import Hub, Kind
from camscribe.runtime.stream.web.latest import Latest
from camscribe.runtime.stream.web.pictures import Picture
from camscribe.runtime.stream.web.responses import problem

if TYPE_CHECKING:
    from aiohttp import web

MAX_VIEWERS = 100
STALL_S = 30.0
"""Who takes no picture of ``/stream.mjpg`` for so long is disconnected."""
HEARTBEAT_S = 20.0
"""A page whose browser does not answer is disconnected after one and a half times as long."""
GOODBYE_S = 0.2
"""How long a page may take to say goodbye when the stream ends."""
_MAX_DIGITS = 20
"""Of a sequence number; ``int`` refuses thousands."""
_BOUNDARY = "camscribe-frame"
PICTURE_HEADER = struct.Struct(">d")
"""Before each JPEG of the WebSocket: the frame's sequence number, as JavaScript has numbers."""


class Live:
    """Handlers of ``/live``, ``/stream.mjpg`` and ``/frame.jpg``."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._sockets: set[web.WebSocketResponse] = set()
        self._transports: set[asyncio.Transport] = set()
        """Of those who watch ``/stream.mjpg``."""
        self._newest_part: tuple[Picture, bytes] | None = None

    async def live(self, request: web.Request) -> web.StreamResponse:
        """GET /live: JSON as text, pictures as binary messages."""
        from aiohttp import WSMsgType, web

        if self._is_full():
            return self._full()
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT_S, timeout=GOODBYE_S, compress=False, max_msg_size=1024, autoping=True
        )
        if not socket.can_prepare(request):
            return problem(400, "/live is a WebSocket; for a browser there is /, for programs /stream.mjpg")
        transport = request.transport
        await socket.prepare(request)
        ready = asyncio.Event()
        self._sockets.add(socket)
        with self._hub.viewer("page"):
            await socket.send_str(self._hub.hello())
            self._hub.refresh()
            senders = [
                asyncio.create_task(self._send_messages(socket, self._hub.state)),
                asyncio.create_task(self._send_messages(socket, self._hub.shown)),
                asyncio.create_task(self._send_pictures(socket, ready)),
            ]
            try:
                async for message in socket:
                    if message.type is WSMsgType.TEXT and message.data == "next":
                        ready.set()
            finally:
                self._sockets.discard(socket)
                for sender in senders:
                    sender.cancel()
                await asyncio.gather(*senders, return_exceptions=True)
                if transport is not None:
                    transport.abort()
        return socket

    async def mjpeg(self, request: web.Request) -> web.StreamResponse:
        """GET /stream.mjpg: multipart/x-mixed-replace, as cameras give it."""
        from aiohttp import web

        if self._is_full():
            return self._full()
        response = web.StreamResponse(
            headers={"Content-Type": f"multipart/x-mixed-replace; boundary={_BOUNDARY}", "Connection": "close"}
        )
        transport = request.transport
        await response.prepare(request)
        if transport is None:  # gone already
            return response
        self._transports.add(transport)
        try:
            with self._hub.viewer("mjpeg"), contextlib.suppress(ConnectionError):
                await self._send_parts(transport, response)
        finally:
            self._transports.discard(transport)
            transport.abort()  # what it did not take would hold up the end
        return response

    async def frame(self, request: web.Request) -> web.Response:
        """GET /frame.jpg: the newest picture; with ``?sequence=N`` that of a frame shown or captioned lately."""
        from aiohttp import web

        text = request.query.get("sequence")
        if text is not None and not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS):
            return problem(400, f"sequence is {text!r:.50}; expected a number of at most {_MAX_DIGITS} digits")
        pictures, newest, captioned = self._hub.pictures, self._hub.frames.value, self._hub.captions.value
        if newest is None:
            return problem(503, "there is no frame yet", {"Retry-After": "1"})
        try:
            if text is None:
                picture = await pictures.of(newest)
            elif captioned is not None and captioned.frame.sequence == int(text):
                picture = await pictures.of(captioned.frame)
            else:
                kept = await pictures.kept(int(text))
                if kept is None:
                    return problem(404, f"frame {text} is no longer here")
                picture = kept
        except CamscribeError as error:
            return problem(503, str(error))
        return web.Response(
            body=picture.jpeg, content_type="image/jpeg", headers={"X-Sequence": str(picture.frame.sequence)}
        )

    async def close(self) -> None:
        """Tells all pages that the stream ends, and cuts off the others."""
        from aiohttp import WSCloseCode

        for transport in list(self._transports):
            transport.abort()
        goodbyes = [each.close(code=WSCloseCode.GOING_AWAY, message=b"the stream ended") for each in self._sockets]
        if goodbyes:
            await asyncio.wait([asyncio.ensure_future(each) for each in goodbyes], timeout=GOODBYE_S)

    async def _send_parts(self, transport: asyncio.Transport, response: web.StreamResponse) -> None:
        loop = asyncio.get_running_loop()
        # A browser shows a picture when it sees the line after it, so that line is sent along.
        await response.write(f"--{_BOUNDARY}\r\n".encode())
        async for picture in self._hub.pictures.stream():
            stalled = loop.call_later(STALL_S, transport.abort)
            try:
                await response.write(self._part(picture))
            finally:
                stalled.cancel()
            self._count("mjpeg")

    def _part(self, picture: Picture) -> bytes:
        """A picture as a part of the multipart answer; made once for all viewers."""
        if self._newest_part is None or self._newest_part[0] is not picture:
            head = (
                f"Content-Type: image/jpeg\r\nContent-Length: {len(picture.jpeg)}\r\n"
                f"X-Sequence: {picture.frame.sequence}\r\nX-Stamp-Ns: {picture.frame.stamp_ns}\r\n\r\n"
            )
            part = b"".join((head.encode(), picture.jpeg, f"\r\n--{_BOUNDARY}\r\n".encode()))
            self._newest_part = picture, part
        return self._newest_part[1]

    async def _send_messages(self, socket: web.WebSocketResponse, slot: Latest[str]) -> None:
        version = 0
        with contextlib.suppress(ConnectionError):
            while True:
                version, text = await slot.after(version)
                await socket.send_str(text)

    async def _send_pictures(self, socket: web.WebSocketResponse, ready: asyncio.Event) -> None:
        with contextlib.suppress(ConnectionError):
            await ready.wait()
            async for picture in self._hub.pictures.stream():
                ready.clear()
                await socket.send_bytes(PICTURE_HEADER.pack(picture.frame.sequence) + picture.jpeg)
                self._count("page")
                await ready.wait()

    def _count(self, kind: Kind) -> None:
        self._hub.metrics.pictures_sent[kind] += 1

    def _is_full(self) -> bool:
        return sum(self._hub.viewers.values()) >= MAX_VIEWERS

    def _full(self) -> web.Response:
        return problem(503, f"{MAX_VIEWERS} viewers look already; try again later", {"Retry-After": "10"})
