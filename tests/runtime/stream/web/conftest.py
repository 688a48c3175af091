"""A stream with a web page, of a moving scene and a toy captioner; and a client that speaks HTTP for real."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.stream.stream import CaptionStream
from camscribe.runtime.stream.web.sink import WebSink

aiohttp = pytest.importorskip("aiohttp", reason='aiohttp is not installed: pip install "camscribe[web]"')
SCENE = "test://?size=160x120&rate=20"


@dataclass
class Served:
    """A stream and its page."""

    stream: CaptionStream
    sink: WebSink

    @property
    def port(self) -> int:
        return int(self.sink.url.rstrip("/").rpartition(":")[2])

    @property
    def url(self) -> str:
        """Without a slash at the end, and by the address that is always there."""
        return f"http://127.0.0.1:{self.port}"

    def visit(self, visitor: Callable[[Any], Awaitable[Any]]) -> Any:
        """Runs a coroutine function with a client session whose addresses begin with that of the page."""

        async def run() -> Any:
            jar = aiohttp.CookieJar(unsafe=True)  # cookies of addresses, too, as browsers keep them
            timeout = aiohttp.ClientTimeout(total=60)
            async with aiohttp.ClientSession(self.url, timeout=timeout, cookie_jar=jar) as session:
                return await asyncio.wait_for(visitor(session), 60)

        return asyncio.run(run())


@pytest.fixture(scope="session")
def toy_captioner(toy_bundle: Bundle) -> Iterator[Captioner]:
    with Captioner.load(toy_bundle.path, backend="cpu", threads=1) as captioner:
        yield captioner


@pytest.fixture
def serve(toy_captioner: Captioner) -> Iterator[Callable[..., Served]]:
    """``serve(address, token, source, captioner)`` starts a stream with a page; all are closed at the end."""
    opened: list[CaptionStream] = []

    def start(
        address: str = "0",
        token: str | None = None,
        source: Any = SCENE,
        captioner: Captioner = toy_captioner,
        **options: Any,
    ) -> Served:
        sink = WebSink(address, token)
        stream = CaptionStream(captioner, source, [sink], **{"rate": 20, **options})
        opened.append(stream)
        stream.open()
        stream.start()
        return Served(stream, sink)

    yield start
    for stream in opened:
        stream.close()


async def until(check: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
    """Asks again and again until the answer is true."""
    for _ in range(int(seconds / 0.05)):
        if answer := await check():
            return answer
        await asyncio.sleep(0.05)
    raise AssertionError(f"was not so within {seconds} s")
