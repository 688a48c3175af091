"""The server: what answers which path, who may ask, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from camscribe.runtime.stream.web.access import HEADERS, Access
from camscribe.runtime.stream.web.api import Api
from camscribe.runtime.stream.web.hub import Hub
from camscribe.runtime.stream.web.live import Live
from camscribe.runtime.stream.web.responses import problem
from camscribe.runtime.stream.web.upload import Upload

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.typedefs import Handler, Middleware

_LOG = logging.getLogger("camscribe.web")
_PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    **{
        f"/{name}": (name, "text/javascript")
        for name in ("page.js", "picture.js", "curve.js", "photo.js", "sentences.js")
    },
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_COOKIE_S = 30 * 24 * 3600
_SHUTDOWN_S = 0.3
"""For answers that are being sent when the stream ends."""


async def serve(hub: Hub, access: Access, listener: socket.socket, began: Callable[[], None]) -> None:
    """Serves until it is cancelled; the port is free then.

    Args:
        hub: of the stream.
        access: who may.
        listener: bound and listening.
        began: called when requests are answered.
    """
    from aiohttp import web

    live, api, upload = Live(hub), Api(hub), Upload(hub)
    application = web.Application(middlewares=[_guard(access)])
    application.on_response_prepare.append(_add_headers)
    application.router.add_routes(
        [
            *(web.get(path, _file(name, kind)) for path, (name, kind) in _PAGE.items()),
            web.get("/live", live.live),
            web.get("/stream.mjpg", live.mjpeg),
            web.get("/frame.jpg", live.frame),
            web.get("/caption.json", api.caption),
            web.post("/caption", upload.caption),
            web.get("/control", api.settings),
            web.post("/control", api.change),
            web.get("/metrics", api.metrics),
            web.get("/healthz", api.health),
        ]
    )
    runner = web.AppRunner(
        application,
        logger=_http_log(),
        access_log=None,  # would hold the token of the first visit
        handler_cancellation=True,
        auto_decompress=False,
        keepalive_timeout=30,
        lingering_time=2,
        shutdown_timeout=_SHUTDOWN_S,
    )
    await runner.setup()
    work = asyncio.create_task(hub.run())
    try:
        await web.SockSite(runner, listener).start()
        began()
        await work
    finally:
        work.cancel()
        await live.close()
        await runner.cleanup()
        await asyncio.sleep(0)  # the loop closes what was cut off
        upload.close()
        hub.pictures.close()


def _guard(access: Access) -> Middleware:
    """What stands before every handler."""
    from aiohttp import web

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.query.get("token")
        refusal = access.judge(request.method, request.path, request.headers, request.cookies, given)
        if refusal is not None:
            headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else None
            if request.path == "/" and refusal.status == 401:
                return web.Response(text=_read("token.html"), status=401, content_type="text/html", headers=headers)
            return problem(refusal.status, refusal.message, headers)
        if request.path == "/" and given is not None:
            return _remember(request, access)
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            allowed = error.headers.get("Allow")
            return problem(error.status, error.reason.lower(), {"Allow": allowed} if allowed else None)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            # The path only: the query may hold the token.
            _LOG.exception("%s %s failed", request.method, request.path)
            return problem(500, "this is a bug of camscribe; its log has more")

    return guard


def _http_log() -> logging.Logger:
    """A log without requests that are no HTTP: they are their sender's fault, and are logged with all they hold."""
    from aiohttp.http_exceptions import HttpProcessingError

    class OursOnly(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))

    log = _LOG.getChild("http")
    log.filters[:] = [OursOnly()]
    return log


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "camscribe"


def _remember(request: web.Request, access: Access) -> web.Response:
    """Puts the token of the first visit into a cookie, and takes it out of the address."""
    from aiohttp import web

    rest = urlencode([(name, value) for name, value in request.query.items() if name != "token"])
    response = web.Response(status=303, headers={"Location": f"/?{rest}" if rest else "/"})
    if access.token is not None:
        response.set_cookie(
            access.cookie, access.token, max_age=_COOKIE_S, httponly=True, samesite="Lax", secure=request.secure
        )
    return response


def _file(name: str, kind: str) -> Handler:
    from aiohttp import web

    content = _read(name)

    async def send(request: web.Request) -> web.Response:
        return web.Response(text=content, content_type=kind)

    return send


def _read(name: str) -> str:
    return (resources.files("camscribe.runtime.stream.web") / "page" / name).read_text(encoding="utf-8")
