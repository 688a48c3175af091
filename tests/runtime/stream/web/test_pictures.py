"""Frames as JPEGs."""

from __future__ import annotations

import asyncio
import io
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camscribe.runtime.errors import SourceError
from camscribe.runtime.stream.frame import Frame
from camscribe.runtime.stream.web import pictures as module
from camscribe.runtime.stream.web.latest import Latest
from camscribe.runtime.stream.web.pictures import LONGEST, Pictures, encode_picture


def frame(pixels: Any, color: Any = "rgb", sequence: int = 0) -> Frame:
    return Frame(np.asarray(pixels, dtype=np.uint8), color, sequence, time.monotonic(), 0)


def decoded(jpeg: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def test_all_colours_of_a_camera_show_as_they_are() -> None:
    orange = np.full((48, 64, 3), (240, 120, 20), np.uint8)
    nv12 = np.full((72, 64), 144, np.uint8)  # BT.601 of that orange
    nv12[48:, 0::2], nv12[48:, 1::2] = 60, 186
    for each in (frame(orange), frame(orange[:, :, ::-1], "bgr"), frame(nv12, "nv12")):
        picture = decoded(encode_picture(each).jpeg)
        assert picture.shape == (48, 64, 3)
        assert np.abs(picture.reshape(-1, 3).mean(0) - (240, 120, 20)).max() < 12
    grey = decoded(encode_picture(frame(np.full((20, 30), 77), None)).jpeg)
    assert grey.shape == (20, 30, 3)
    assert np.abs(grey.astype(int) - 77).max() <= 2


def test_large_frames_are_reduced_and_small_ones_left() -> None:
    assert decoded(encode_picture(frame(np.zeros((1080, 1920, 3)))).jpeg).shape == (720, LONGEST, 3)
    assert decoded(encode_picture(frame(np.zeros((4000, 2, 3)))).jpeg).shape == (LONGEST, 1, 3)


@pytest.mark.parametrize("shape", [(4, 4, 2), (3, 4, 4, 3), (0, 4, 3), (5,)])
def test_what_is_no_picture_is_a_source_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(SourceError, match="frame 0: cannot be shown"):
        encode_picture(frame(np.zeros(shape)))


def test_each_frame_is_encoded_once_for_all_and_only_when_asked() -> None:
    async def check() -> None:
        frames: Latest[Frame] = Latest()
        pictures = Pictures(frames)

        async def watch() -> list[int]:
            seen = []
            async for picture in pictures.stream():
                seen.append(picture.frame.sequence)
                if seen[-1] == 9:
                    break
            return seen

        frames.put(frame(np.zeros((8, 8, 3)), sequence=100))
        assert pictures.encoded == 0
        viewers = [asyncio.create_task(watch()) for _ in range(20)]
        for sequence in range(10):
            frames.put(frame(np.full((8, 8, 3), sequence), sequence=sequence))
            await asyncio.sleep(0.05)
        seen = await asyncio.gather(*viewers)
        assert all(each[-1] == 9 for each in seen)
        assert all(each == sorted(set(each)) for each in (numbers[1:] for numbers in seen))
        assert pictures.encoded <= 11
        before = pictures.encoded
        again = frame(np.full((8, 8, 3), 200), sequence=9)  # a source that counts from 0 anew
        assert decoded((await pictures.of(again)).jpeg).mean() > 190
        assert pictures.encoded == before + 1
        pictures.close()

    asyncio.run(check())


def test_many_viewers_share_what_there_is_and_stalled_ones_have_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUDGET_HZ", 20.0)

    async def check() -> None:
        frames: Latest[Frame] = Latest()
        pictures = Pictures(frames)
        stalled = [pictures.stream() for _ in range(30)]
        frames.put(frame(np.zeros((8, 8, 3))))
        await asyncio.gather(*(each.__anext__() for each in stalled))
        assert pictures._interval_s() == pytest.approx(30 / 20)
        await asyncio.sleep(1.1)
        assert pictures._interval_s() == pytest.approx(1 / 30)
        reading = [pictures.stream() for _ in range(4)]
        await asyncio.gather(*(each.__anext__() for each in reading))
        assert pictures._interval_s() == pytest.approx(4 / 20)
        for each in stalled + reading:
            await each.aclose()
        assert pictures._interval_s() == pytest.approx(1 / 30)
        pictures.close()

    asyncio.run(check())


def test_pictures_of_captions_outlive_those_that_were_only_shown() -> None:
    async def check() -> None:
        pictures = Pictures(Latest())
        await pictures.keep(frame(np.zeros((8, 8, 3)), sequence=0))
        for sequence in range(1, 40):
            await pictures.of(frame(np.zeros((8, 8, 3)), sequence=sequence))
        assert await pictures.kept(0) is not None
        assert await pictures.kept(39) is not None
        assert await pictures.kept(1) is None
        pictures.close()

    asyncio.run(check())


def test_a_frame_that_cannot_be_shown_ends_no_viewer() -> None:
    async def check() -> None:
        frames: Latest[Frame] = Latest()
        pictures = Pictures(frames)
        stream = pictures.stream()
        frames.put(frame(np.zeros((4, 4, 2)), sequence=0))
        waiting = asyncio.ensure_future(stream.__anext__())
        await asyncio.sleep(0.1)
        frames.put(frame(np.zeros((4, 4, 3)), sequence=1))
        assert (await asyncio.wait_for(waiting, 20)).frame.sequence == 1
        pictures.close()

    asyncio.run(check())
