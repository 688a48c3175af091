"""What programs ask: the newest caption, settings, metrics, health."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from camscribe.runtime.errors import CamscribeError, OptionError
from camscribe.runtime.stream.web import messages
from camscribe.runtime.stream.web.hub import Hub
from camscribe.runtime.stream.web.metrics import CONTENT_TYPE
from camscribe.runtime.stream.web.responses import problem, reply

if TYPE_CHECKING:
    from aiohttp import web

SILENT_S = 30.0
"""A stream without a frame for so long is not well."""
_MAX_CONTROL_BYTES = 4096
_CHANGES = ("beams", "nbest", "min_words", "max_words", "length_penalty", "stop")


class Api:
    """Handlers of ``/caption.json``, ``/control``, ``/metrics`` and ``/healthz``."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def caption(self, request: web.Request) -> web.Response:
        """GET /caption.json: the newest caption; ``?attention=1`` adds where the model looked."""
        item = self._hub.captions.value
        if item is None:
            return problem(503, "there is no caption yet", {"Retry-After": "1"})
        attention = request.query.get("attention", "0") == "1"
        return reply(messages.latest(self._hub.control, item, attention=attention))

    async def settings(self, request: web.Request) -> web.Response:
        """GET /control: settings and counters."""
        control = self._hub.control
        return reply({**messages.settings(control), "counts": control.counts().to_dict()})

    async def change(self, request: web.Request) -> web.Response:
        """POST /control: changes settings; all that it names, or none."""
        # A page of another origin cannot send this type unasked.
        if request.content_type != "application/json":
            return problem(415, f"the body is {request.content_type}; expected application/json")
        if (request.content_length or 0) > _MAX_CONTROL_BYTES:
            return problem(413, f"the body is too large; expected at most {_MAX_CONTROL_BYTES} bytes")
        try:
            wanted = json.loads(await request.content.read(_MAX_CONTROL_BYTES))
        except ValueError:
            return problem(400, "the body is not JSON")
        if not isinstance(wanted, dict):
            return problem(400, 'expected an object such as {"paused": true, "beams": 5}')
        try:
            self._apply(wanted)
        except CamscribeError as error:
            return problem(400, str(error))
        self._hub.refresh()
        return await self.settings(request)

    async def metrics(self, request: web.Request) -> web.Response:
        """GET /metrics: for Prometheus."""
        from aiohttp import web

        from camscribe import __version__

        control = self._hub.control
        text = self._hub.metrics.render(
            control.counts(),
            paused=control.paused,
            encoded=self._hub.pictures.encoded,
            viewers=self._hub.viewers,
            about={"version": __version__, **messages.made_by(control.captioner)},
        )
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def health(self, request: web.Request) -> web.Response:
        """GET /healthz: 200 while frames come, else 503."""
        silent = self._hub.silent_s()
        if silent is None:
            return reply({"status": "waiting for the first frame"}, 503)
        if silent > SILENT_S:
            return reply({"status": f"no frame for {silent:.0f} s"}, 503)
        return reply({"status": "ok"})

    def _apply(self, wanted: dict[str, object]) -> None:
        unknown = [name for name in wanted if name not in ("paused", *_CHANGES)]
        if unknown:
            raise OptionError(f"{unknown[0]!r:.50} is not a setting; expected {', '.join(('paused', *_CHANGES))}")
        paused = wanted.get("paused")
        if paused not in (None, True, False):
            raise OptionError(f"paused is {paused!r:.50}; expected true or false")
        changes = {name: value for name, value in wanted.items() if name != "paused"}
        if changes:
            self._hub.control.change(**changes)  # type: ignore[arg-type]  # judged there
        if paused is not None:
            self._hub.control.pause(bool(paused))
