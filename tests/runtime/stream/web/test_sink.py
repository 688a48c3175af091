"""The sink's life: its port, its thread, its token, and viewers that stall."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from yarl import URL

from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import OptionError, SinkError
from camscribe.runtime.stream.stream import CaptionStream
from camscribe.runtime.stream.web.sink import WebSink

from .conftest import SCENE, Served, until

Serve = Callable[..., Served]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "web" in thread.name]


def wait_for(check: Callable[[], Any], seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while not (answer := check()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return answer


def test_a_port_in_use_is_one_line_and_stops_the_start(serve: Serve, toy_captioner: Captioner) -> None:
    port = serve().port
    with pytest.raises(SinkError, match=f"port {port} is in use") as caught:
        CaptionStream(toy_captioner, SCENE, [WebSink(str(port))]).open()
    assert "\n" not in str(caught.value)


def test_names_and_addresses_hold_no_token(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    made, given = serve("0.0.0.0:0"), serve("0", "correct-horse")
    token = made.sink.token or ""
    printed = capfd.readouterr().err.splitlines()
    assert [token in line for line in printed] == [True, False]
    assert printed[0] == f"camscribe: page at {made.sink.url}?token={token}"
    assert "correct-horse" not in printed[1]
    for sink in (made.sink, given.sink):
        assert (sink.token or "") not in sink.url + sink.name + repr(sink)
    with pytest.raises(OptionError):
        WebSink("0.0.0.0:0", "short")
    with pytest.raises(OptionError):
        WebSink("nowhere:port")


def test_a_first_visit_with_the_token_is_remembered(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    served = serve("0.0.0.0:0")
    token = served.sink.token or ""

    async def check(session: Any) -> None:
        for path in ("/", "/caption.json", "/stream.mjpg", "/live", "/metrics", "/page.js", "/control"):
            async with session.get(path) as answer:
                assert answer.status == 401, path
                assert answer.headers["WWW-Authenticate"] == "Bearer"
        async with session.post("/caption", data=b"x") as answer:
            assert answer.status == 401
        async with session.get("/") as answer:
            assert 'name="token"' in await answer.text()
        async with session.get("/healthz") as answer:
            assert answer.status in (200, 503)
        async with session.get("/", params={"token": token[:-1]}) as answer:
            assert answer.status == 401
        async with session.get("/metrics", headers={"Authorization": f"Bearer {token}"}) as answer:
            assert answer.status == 200
        async with session.get("/metrics", params={"token": token}) as answer:
            assert (answer.status, answer.cookies) == (200, {})
        async with session.get("/", params={"token": token, "x": "1"}, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/?x=1")
            (cookie,) = answer.cookies.values()
            assert (cookie.key, cookie["httponly"], cookie["samesite"]) == (f"camscribe_{served.port}", True, "Lax")
        async with session.get("/") as answer:
            assert (answer.status, answer.url) == (200, URL(f"{served.url}/"))
        async with session.ws_connect("/live") as live:
            assert (await live.receive_json())["type"] == "hello"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect("/live", headers={"Origin": "http://evil.example"})
        assert refused.value.status == 403
        async with session.post("/control", json={"paused": True}, headers={"Origin": "http://evil.example"}) as answer:
            assert answer.status == 403

    served.visit(check)
    # Requests that are no HTTP hold it, too.
    with socket.create_connection(("127.0.0.1", served.port)) as raw:
        raw.sendall(f"GET /?token={token} HTTP/9.9 nonsense\r\nbad header {token}\r\n\r\n".encode())
        raw.settimeout(20)
        assert b" 400 " in raw.recv(4096)
    assert not served.stream.paused
    assert caplog.records  # asyncio says at least that it begins
    ours = [record for record in caplog.records if record.name.split(".")[0] in ("camscribe", "aiohttp", "asyncio")]
    assert not [text for text in map(logging.Formatter().format, ours) if token in text]


def test_a_name_that_somebody_turned_to_this_machine_is_not_served(serve: Serve) -> None:
    async def check(session: Any) -> None:
        async with session.get("/caption.json", headers={"Host": "evil.example"}) as answer:
            assert answer.status == 421
            assert "evil.example" in (await answer.json())["error"]

    serve().visit(check)


def test_viewers_that_stall_hold_up_nobody(serve: Serve) -> None:
    """They take pictures that are far larger than what the kernel keeps for them, and read none."""
    served = serve(source="test://?size=1280x960&rate=20")
    stalled = []
    for path in ["/stream.mjpg"] * 8:
        viewer = socket.create_connection(("127.0.0.1", served.port))
        viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        viewer.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        stalled.append(viewer)

    async def check(session: Any) -> None:
        async def sent() -> float:
            async with session.get("/metrics") as answer:
                lines = (await answer.text()).splitlines()
            return next(
                float(x.split()[1]) for x in lines if x.startswith('camscribe_web_pictures_sent_total{kind="mjpeg')
            )

        async with session.ws_connect("/live") as live:
            pictures = 0
            await live.send_str("next")
            while pictures < 30:
                if (await live.receive(timeout=30)).type is aiohttp.WSMsgType.BINARY:
                    pictures += 1
                    await live.send_str("next")
        # What waits for each is a handful; it does not grow.
        first = await sent()
        captioned = served.stream.counts().captioned
        await until(lambda: _captioned(served, captioned + 5))
        assert await sent() == first < 8 * 30

    served.visit(check)
    began = time.monotonic()
    served.stream.close()
    assert time.monotonic() - began < 10  # a second is asked for, of a machine with nothing else to do
    wait_for(lambda: not threads())
    for viewer in stalled:
        viewer.close()


async def _captioned(served: Served, count: int) -> bool:
    return served.stream.counts().captioned >= count


def test_the_end_frees_the_port_and_leaves_no_thread(serve: Serve) -> None:
    before = threads()
    served = serve()
    port = served.port

    async def check(session: Any) -> Any:
        live = await session.ws_connect("/live")
        while (await live.receive_json())["type"] != "caption":
            pass
        served.stream.close()
        while (message := await live.receive(timeout=20)).type is aiohttp.WSMsgType.TEXT:
            pass
        return message

    message = served.visit(check)
    assert message.type is aiohttp.WSMsgType.CLOSE
    assert (message.data, message.extra) == (aiohttp.WSCloseCode.GOING_AWAY, "the stream ended")
    wait_for(lambda: threads() == before)
    again = serve(str(port))
    assert again.port == port
    served.sink.close()  # once more does nothing
    with pytest.raises(SinkError, match="is not open"):
        served.sink.counts(served.stream.counts())


def test_a_server_that_fails_is_told_to_the_stream(serve: Serve) -> None:
    served = serve()
    hub = served.sink._hub
    assert hub is not None

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    hub._tell = fail  # type: ignore[method-assign]
    wait_for(lambda: served.stream.failed_sinks == [served.sink.name])
    captioned = served.stream.counts().captioned
    wait_for(lambda: served.stream.counts().captioned > captioned)


def test_without_aiohttp_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from camscribe.runtime.cli import main; sys.exit(main(['stream', 'test://', '--web', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 2
    assert done.stderr == ('camscribe: --web 0: needs aiohttp, which is not installed: pip install "camscribe[web]"\n')
