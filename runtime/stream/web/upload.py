"""``POST /caption``: captions an image that somebody sends."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from camscribe.runtime.errors import CamscribeError, EngineError, OptionError
from camscribe.runtime.images import decode
from camscribe.runtime.search import SearchOptions
from camscribe.runtime.stream.web.hub import Hub
from camscribe.runtime.stream.web.messages import made_by
from camscribe.runtime.stream.web.responses import problem, reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

MAX_BYTES = 20 * 1024 * 1024
"""Of an upload: a telephone's largest photographs."""
MAX_S = 20.0
"""For an upload to arrive."""
MAX_WAITING = 4
"""Images that wait for the captioner, or are captioned; more are refused, so that the stream gets its turn."""


def _flag(text: str) -> bool:
    return {"0": False, "1": True}[text]


_KINDS: Mapping[Callable[[str], Any], str] = {int: "an integer", float: "a number", str: "a word", _flag: "0 or 1"}
_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "beams": int,
    "nbest": int,
    "min_words": int,
    "max_words": int,
    "length_penalty": float,
    "stop": str,
    "length_rule": str,
    "no_repeat": int,
    "no_bad_endings": _flag,
    "groups": int,
    "diversity": float,
    "sample": _flag,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "seed": int,
    "attention": _flag,
}
_LISTS = ("ban", "contain")


class _RefusedError(Exception):
    """Raised when an upload is not taken."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Upload:
    """Handler of ``POST /caption``. One image is captioned at a time, in a thread of its own."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._worker = ThreadPoolExecutor(1, "camscribe-web-upload")
        self._waiting = 0

    async def caption(self, request: web.Request) -> web.Response:
        """Answers as ``camscribe caption --json`` prints."""
        response = await self._answer(request)
        self._hub.metrics.uploads[response.status] += 1
        return response

    def close(self) -> None:
        """Gives the thread back; does not wait for it."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, request: web.Request) -> web.Response:
        if self._waiting >= MAX_WAITING:
            return problem(503, f"{MAX_WAITING} images wait already; try again", {"Retry-After": "1"})
        self._waiting += 1
        try:
            options, attention = self._options(request)
            try:
                content = await asyncio.wait_for(_content(request), MAX_S)
            except asyncio.TimeoutError:
                raise _RefusedError(408, f"the image did not arrive within {MAX_S:.0f} s") from None
            loop = asyncio.get_running_loop()
            return reply(await loop.run_in_executor(self._worker, self._work, content, options, attention))
        except _RefusedError as refused:
            # The rest of what comes is not read, so the connection is of no use any more.
            return problem(refused.status, str(refused), {"Connection": "close"})
        except EngineError as error:
            return problem(503, str(error))
        except CamscribeError as error:
            return problem(400, str(error))
        finally:
            self._waiting -= 1

    def _options(self, request: web.Request) -> tuple[SearchOptions, bool]:
        """The search that the query asks for, where it says nothing the bundle's; and whether attention is wanted."""
        query = request.query
        known = (*_OPTIONS, *_LISTS, "token")
        unknown = [name for name in query if name not in known]
        if unknown:
            raise OptionError(f"{unknown[0]!r:.50} is not an option; expected {', '.join(known[:-1])}")
        changes: dict[str, Any] = {}
        for name, kind in _OPTIONS.items():
            if name in query:
                try:
                    changes[name] = kind(query[name])
                except (ValueError, KeyError) as error:
                    raise OptionError(f"{name} is {query[name]!r:.50}; expected {_KINDS[kind]}") from error
        attention = changes.pop("attention", False)
        if "contain" in query:
            changes["contain"] = tuple(query.getall("contain"))
        return self._hub.control.captioner.options(query.getall("ban", []), **changes), attention

    def _work(self, content: bytes, options: SearchOptions, attention: bool) -> dict[str, Any]:
        captioner = self._hub.control.captioner
        spec = captioner.bundle.manifest.pixels
        pixels = decode(io.BytesIO(content), "upload", at_least=2 * max(spec.height, spec.width)).pixels
        (caption,) = captioner.caption_each([pixels], options, "rgb")
        if isinstance(caption, CamscribeError):
            raise caption
        return {**caption.to_dict(attention=attention), **made_by(captioner)}


async def _content(request: web.Request) -> bytes:
    """The image's bytes: the field ``image`` of a form, or the whole body.

    Raises:
        _RefusedError: there is none, or too much.
    """
    from aiohttp import ClientPayloadError, web
    from aiohttp.http_exceptions import HttpProcessingError

    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise _RefusedError(415, "the upload is compressed; send the image file as it is")
    if (request.content_length or 0) > MAX_BYTES:
        raise _too_large()
    try:
        if request.content_type == "multipart/form-data":
            return await _field(request)
        return await _limited(request.content.iter_any(), MAX_BYTES)
    except (ValueError, ClientPayloadError, HttpProcessingError, web.PayloadAccessError) as error:
        raise _RefusedError(400, f"the upload is damaged ({' '.join(str(error).split())[:100]})") from error


async def _field(request: web.Request) -> bytes:
    from aiohttp import BodyPartReader

    rest = MAX_BYTES
    reader = await request.multipart()
    while (part := await reader.next()) is not None:
        if not isinstance(part, BodyPartReader):
            raise _RefusedError(400, "the form has a form in it; expected a field image")
        content = await _limited(_chunks(part), rest)
        if part.name == "image":
            return content
        rest -= len(content)
    raise _RefusedError(400, "the form has no field image")


async def _chunks(part: Any) -> AsyncIterator[bytes]:
    while chunk := await part.read_chunk():
        yield chunk


async def _limited(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    content = bytearray()
    async for chunk in chunks:
        content += chunk
        if len(content) > limit:
            raise _too_large()
    return bytes(content)


def _too_large() -> _RefusedError:
    return _RefusedError(413, f"the upload is too large; expected at most {MAX_BYTES} bytes")
