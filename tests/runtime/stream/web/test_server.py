"""What programs get, over real connections, of a stream that runs."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
import threading
import zlib
from collections.abc import Callable
from typing import Any

import aiohttp
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.stream.web import live, upload

from .conftest import Served, until

Serve = Callable[..., Served]


def png(height: int = 40, width: int = 60) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file, "png")
    return file.getvalue()


def size(jpeg: bytes) -> tuple[int, int]:
    image = Image.open(io.BytesIO(jpeg))
    image.load()
    return image.size


async def caption_of(session: Any, query: str = "") -> dict[str, Any]:
    async def ask() -> Any:
        async with session.get(f"/caption.json{query}") as answer:
            return await answer.json() if answer.status == 200 else None

    return await until(ask)  # type: ignore[no-any-return]


def test_the_page_is_whole_and_guarded(serve: Serve) -> None:
    async def check(session: Any) -> None:
        async with session.get("/") as answer:
            text = await answer.text()
            assert answer.status == 200
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert "python" not in answer.headers["Server"].lower()
        assert "http://" not in text.replace("http://www.w3.org/", "")
        assert "https://" not in text
        for path, kind in (("/page.css", "text/css"), ("/page.js", "text/javascript"), ("/icon.svg", "image/svg+xml")):
            async with session.get(path) as answer:
                assert (answer.status, answer.content_type) == (200, kind)
        async with session.get("/nothing") as answer:
            assert (answer.status, await answer.json()) == (404, {"error": "not found"})
            assert "Content-Security-Policy" in answer.headers
        async with session.delete("/caption.json") as answer:
            assert answer.status == 405

    serve().visit(check)


def test_the_newest_caption_is_that_of_the_captioner(serve: Serve) -> None:
    served = serve(search=None)

    async def check(session: Any) -> None:
        first = await caption_of(session)
        assert first["source"] == "test://?size=160x120&rate=20"
        assert first["caption"] == " ".join(first["words"]) == first["hypotheses"][0]["caption"]
        assert (first["bundle"], first["backend"], first["precision"]) == ("toy", "cpu", "float32")
        assert first["age_ms"] > 0
        assert "attention" not in first
        later = await until(lambda: _newer(session, first["sequence"]))
        assert later["stamp_ns"] > first["stamp_ns"]
        full = await caption_of(session, "?attention=1")
        attention = np.array(full["attention"])
        assert attention.shape == (len(full["words"]), 2, 2)
        np.testing.assert_allclose(attention.sum(axis=(1, 2)), 1, atol=1e-3)

    served.visit(check)


def test_boxes_that_the_model_looked_at_are_told(serve: Serve, boxes_bundle: Bundle) -> None:
    async def check(session: Any) -> None:
        async with session.ws_connect("/live") as socket:
            seen: dict[str, Any] = {}
            while "caption" not in seen:
                message = json.loads((await socket.receive(timeout=20)).data)
                seen[message["type"]] = message
        caption = seen["caption"]
        assert caption["grid"] == [1, 5]
        assert len(base64.b64decode(caption["attention"])) == 5 * len(caption["words"])
        assert caption["boxes"][0] == [0, 0, 1, 1]
        assert np.array(caption["boxes"]).shape == (5, 4)
        full = await caption_of(session, "?attention=1")
        assert full["boxes"][0] == [0, 0, 1, 1]
        assert np.array(full["attention"]).shape == (len(full["words"]), 1, 5)
        assert "boxes" not in await caption_of(session)

    with Captioner.load(boxes_bundle.path, backend="cpu", threads=1) as captioner:
        served = serve(captioner=captioner)
        served.visit(check)
        served.stream.close()


async def _newer(session: Any, sequence: int) -> dict[str, Any] | None:
    found = await caption_of(session)
    return found if found["sequence"] > sequence else None


def test_before_the_first_frame_programs_are_told_to_wait(serve: Serve) -> None:
    class Silent:
        live = True

        def __init__(self) -> None:
            self.ended = threading.Event()

        def read(self) -> None:
            self.ended.wait()

        def close(self) -> None:
            self.ended.set()

    async def check(session: Any) -> None:
        for path in ("/caption.json", "/frame.jpg", "/healthz"):
            async with session.get(path) as answer:
                assert answer.status == 503
        async with session.get("/metrics") as answer:
            assert answer.status == 200

    serve(source=Silent()).visit(check)


def test_multipart_jpeg_moves_and_single_frames_can_be_had(serve: Serve) -> None:
    async def check(session: Any) -> None:
        sequences = []
        async with session.get("/stream.mjpg") as answer:
            assert answer.content_type == "multipart/x-mixed-replace"
            reader = aiohttp.MultipartReader.from_response(answer).stream
            while len(sequences) < 4:
                part = await reader.next()
                sequences.append(int(part.headers["X-Sequence"]))
                assert size(await part.read()) == (160, 120)
        assert sequences == sorted(set(sequences))
        async with session.get("/frame.jpg") as answer:
            assert size(await answer.read()) == (160, 120)
            sequence = int(answer.headers["X-Sequence"])
        async with session.get(f"/frame.jpg?sequence={sequence}") as answer:
            assert (answer.status, answer.headers["X-Sequence"]) == (200, str(sequence))
        caption = await caption_of(session)
        async with session.get(f"/frame.jpg?sequence={caption['sequence']}") as answer:
            assert answer.status in (200, 404)
        for wrong, status in (("99999999", 404), ("-1", 400), ("x", 400), ("٣", 400), ("9" * 4500, 400)):
            async with session.get(f"/frame.jpg?sequence={wrong}") as answer:
                assert answer.status == status

    serve().visit(check)


def test_a_page_gets_captions_counters_and_each_picture_that_it_asks_for(serve: Serve) -> None:
    async def check(session: Any) -> None:
        async with session.ws_connect("/live") as socket:
            hello = await socket.receive_json(timeout=20)
            assert hello["type"] == "hello"
            assert hello["pixels"]["fit"] == "squash"
            seen: dict[str, Any] = {}
            while not {"state", "caption"} <= seen.keys():
                message = await socket.receive(timeout=20)
                assert message.type is aiohttp.WSMsgType.TEXT, "a picture that was not asked for"
                seen[json.loads(message.data)["type"]] = json.loads(message.data)
            assert seen["state"]["paused"] is False
            assert seen["state"]["viewers"] == 1
            caption = seen["caption"]
            assert (caption["grid"], caption["boxes"]) == ([2, 2], None)
            assert len(caption["hypotheses"]) == 1
            sequences = []
            for _ in range(3):
                await socket.send_str("next")
                while (message := await socket.receive(timeout=20)).type is not aiohttp.WSMsgType.BINARY:
                    text = json.loads(message.data)
                    caption = text if text["type"] == "caption" else caption
                sequences.append(struct.unpack_from(">d", message.data)[0])
                assert size(message.data[8:]) == (160, 120)
            assert sequences == sorted(set(sequences))
            # A word of it is looked at on the very frame, which is kept.
            assert caption["sequence"] > seen["caption"]["sequence"]
        async with session.get(f"/frame.jpg?sequence={caption['sequence']}") as answer:
            assert answer.status == 200
        async with session.get("/live") as answer:
            assert answer.status == 400

    serve().visit(check)


def test_settings_change_the_search_and_pause(serve: Serve) -> None:
    served = serve()

    async def post(session: Any, body: Any, **how: Any) -> tuple[int, dict[str, Any]]:
        async with session.post("/control", **(how or {"json": body})) as answer:
            return answer.status, await answer.json()

    async def check(session: Any) -> None:
        status, found = await post(session, {"beams": 4, "nbest": 3})
        assert (status, found["options"]["beams"], found["options"]["nbest"]) == (200, 4, 3)
        assert await until(lambda: _has(session, lambda item: len(item["hypotheses"]) == 3))
        for body, message in (
            ({"beams": 0}, "beams is 0"),
            ({"beams": 2}, "nbest is 3"),
            ({"beams": "5"}, "beams is '5'"),
            ({"beams": True}, "beams is True"),
            ({"beam": 5}, "'beam' is not a setting"),
            ({"paused": 1.5}, "paused is 1.5"),
            ({"paused": True, "beams": 99}, "beams is 99"),
            ([], "expected an object"),
            ({"length_penalty": None, "min_words": -1}, "min_words is -1"),
        ):
            status, found = await post(session, body)
            assert status == 400
            assert message in found["error"]
        assert served.stream.options.beams == 4
        assert not served.stream.paused
        assert (await post(session, None, data=b"{", headers={"Content-Type": "application/json"}))[0] == 400
        assert (await post(session, None, data=b"\xff", headers={"Content-Type": "application/json"}))[0] == 400
        assert (await post(session, None, data=b" " * 5000, headers={"Content-Type": "application/json"}))[0] == 413
        assert (await post(session, None, data='{"paused": true}'))[0] == 415
        assert (await post(session, {"paused": True}))[1]["paused"] is True
        await asyncio.sleep(0.3)
        before = served.stream.counts()
        await until(lambda: _captured(served, before.captured + 5))
        assert served.stream.counts().captioned == before.captioned
        assert (await post(session, {"paused": False}))[1]["paused"] is False
        await until(lambda: _captioned(served, before.captioned + 2))

    served.visit(check)


async def _has(session: Any, check: Callable[[dict[str, Any]], bool]) -> bool:
    return check(await caption_of(session))


async def _captured(served: Served, count: int) -> bool:
    return served.stream.counts().captured >= count


async def _captioned(served: Served, count: int) -> bool:
    return served.stream.counts().captioned >= count


def test_an_image_is_captioned_as_by_the_library(serve: Serve, toy_captioner: Captioner) -> None:
    image = png()
    expected = toy_captioner.caption(Image.open(io.BytesIO(image)), beams=4, nbest=2).to_dict()
    wanted = ("word4", "word5|word6")
    guided = toy_captioner.caption(
        Image.open(io.BytesIO(image)), contain=wanted, no_repeat=1, nbest=2, length_rule="gnmt"
    ).to_dict()

    async def check(session: Any) -> None:
        form = aiohttp.FormData({"note": "a field before it"})
        form.add_field("image", image, filename="a.png")
        for body in ({"data": image}, {"data": form}, {"data": image, "headers": {"Content-Type": "image/png"}}):
            async with session.post("/caption?beams=4&nbest=2", **body) as answer:
                found = await answer.json()
                assert answer.status == 200, found
            assert found["hypotheses"] == json.loads(json.dumps(expected["hypotheses"]))
            assert found["bundle"] == "toy"
        async with session.post("/caption?ban=word4&ban=word5&attention=1&min_words=2", data=image) as answer:
            found = await answer.json()
            assert not {"word4", "word5"} & set(found["words"])
            assert len(found["words"]) >= 2
            assert len(found["attention"]) == len(found["words"])
        query = "contain=word4&contain=word5|word6&no_repeat=1&no_bad_endings=0&nbest=2&length_rule=gnmt"
        async with session.post(f"/caption?{query}", data=image) as answer:
            found = await answer.json()
            assert found["hypotheses"] == json.loads(json.dumps(guided["hypotheses"]))

    serve().visit(check)


def bomb() -> bytes:
    """A PNG of a few kilobytes that claims 60000 x 60000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60000, 60000, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9999))) + chunk(b"IEND", b"")
    )


def test_what_cannot_be_captioned_is_refused_in_one_line(serve: Serve) -> None:
    image = png()

    async def check(session: Any) -> None:
        for query, body, message in (
            ("", b"", "upload: is empty"),
            ("", b"GIF89a", "upload: is a damaged"),
            ("", b"#!/bin/sh", "upload: is not an image"),
            ("", image[:300], "damaged or truncated"),
            ("", bomb(), "has 60000 x 60000 pixels"),
            ("?beams=0", image, "beams is 0"),
            ("?beams=many", image, "beams is 'many'; expected an integer"),
            ("?length_penalty=x", image, "expected a number"),
            ("?length_penalty=nan", image, "length_penalty is nan"),
            ("?beem=3", image, "'beem' is not an option"),
            ("?ban=zebra", image, "ban has 'zebra'"),
            ("?attention=yes", image, "attention is 'yes'; expected 0 or 1"),
            ("?sample=2", image, "sample is '2'; expected 0 or 1"),
            ("?contain=zebra", image, "contain has 'zebra'"),
            ("?temperature=2", image, "temperature without sample"),
        ):
            async with session.post(f"/caption{query}", data=body) as answer:
                found = await answer.json()
                assert (answer.status, message in found["error"]) == (400, True), found
                assert "\n" not in found["error"]

    serve().visit(check)


def test_large_slow_and_odd_uploads_are_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "MAX_BYTES", 100_000)
    monkeypatch.setattr(upload, "MAX_S", 1.0)
    served = serve()

    async def parts() -> Any:
        for _ in range(40):
            yield bytes(10_000)
            await asyncio.sleep(0)

    async def drip() -> Any:
        while True:
            yield b"x"
            await asyncio.sleep(0.1)

    async def refused(session: Any, status: int, **how: Any) -> None:
        try:
            async with session.post("/caption", **how) as answer:
                assert answer.status == status, await answer.text()
        except aiohttp.ClientConnectionError:
            pass  # the answer came while the rest was being sent, and the connection was cut

    async def check(session: Any) -> None:
        form = aiohttp.FormData()
        form.add_field("image", bytes(200_000), filename="a.png")
        await refused(session, 413, data=bytes(200_000))
        await refused(session, 413, data=parts())
        await refused(session, 413, data=form)
        await refused(session, 408, data=drip())
        await refused(session, 415, data=zlib.compress(bytes(1000)), headers={"Content-Encoding": "deflate"})
        await refused(session, 400, data=aiohttp.FormData({"photo": "x"}, default_to_multipart=True))
        await refused(session, 400, data=b"--x\r\nno form", headers={"Content-Type": "multipart/form-data; boundary=x"})
        await refused(session, 400, data=b"", headers={"Content-Type": "multipart/form-data"})
        async with session.post("/caption", data=png()) as answer:
            assert answer.status == 200
        async with session.get("/metrics") as answer:
            text = await answer.text()
        samples = [s for f in text_string_to_metric_families(text) for s in f.samples if "uploads" in s.name]
        counted = {sample.labels["status"]: sample.value for sample in samples}
        assert counted == {"200": 1, "400": 3, "408": 1, "413": 3, "415": 1}

    served.visit(check)


def test_more_uploads_than_may_wait_are_told_to_come_again(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "MAX_WAITING", 1)
    going = asyncio.Event()

    async def slow() -> Any:
        yield png()
        await going.wait()

    async def check(session: Any) -> None:
        async def one_is_refused() -> Any:
            first = asyncio.create_task(session.post("/caption", data=slow()))
            await asyncio.sleep(0.2)
            async with session.post("/caption", data=png()) as answer:
                if answer.status == 503:
                    assert answer.headers["Retry-After"] == "1"
                    return first
            (await first).close()  # it came second
            return None

        first = await until(one_is_refused)
        going.set()
        async with await first as answer:
            assert answer.status == 200

    serve().visit(check)


def test_metrics_and_health_of_a_running_stream(serve: Serve) -> None:
    async def check(session: Any) -> None:
        await caption_of(session)
        async with session.get("/healthz") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok"})
        async with session.get("/metrics") as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            families = {family.name: family for family in text_string_to_metric_families(await answer.text())}
        assert families["camscribe_frames_captured"].samples[0].value > 0
        assert families["camscribe_frame_age_seconds"].samples[-1].value > 0
        # Nobody looked, so no picture was made.
        assert families["camscribe_web_pictures_encoded"].samples[0].value == 0

    serve().visit(check)


def test_only_so_many_may_look(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_VIEWERS", 2)

    async def check(session: Any) -> None:
        async with session.get("/stream.mjpg"), session.ws_connect("/live"), session.get("/stream.mjpg") as answer:
            assert answer.status == 503
        # Who leaves makes room.
        await until(lambda: _may_look(session))

    serve().visit(check)


async def _may_look(session: Any) -> bool:
    async with session.get("/stream.mjpg") as answer:
        return bool(answer.status == 200)
