"""The loop: the newest frame, options, sinks of their own pace, and the end of everything."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import EngineError, OptionError, SinkError, SourceError
from camscribe.runtime.stream.counters import Counts
from camscribe.runtime.stream.frame import Captioned, Frame
from camscribe.runtime.stream.sink import Control
from camscribe.runtime.stream.stream import CaptionStream
from camscribe.runtime.stream.terminal import TerminalSink


class Keeper:
    """A user's sink that keeps what it gets."""

    wants_frames = True

    def __init__(self, name: str = "keeper", *, delay_s: float = 0.0, fail_at: int = -1, error: Any = None) -> None:
        self.name, self._delay_s, self._fail_at = name, delay_s, fail_at
        self._error = error or SinkError(f"{name}: full")
        self.items: list[Frame | Captioned] = []
        self.last_counts: Counts | None = None
        self.calls: list[str] = []
        self.threads: set[int] = set()
        self.control: Control | None = None

    def open(self, control: Control) -> None:
        self._note("open")
        self.control = control
        if self._fail_at == 0:
            raise self._error

    def frame(self, frame: Frame) -> None:
        self._note("frame")
        self.items.append(frame)

    def caption(self, item: Captioned) -> None:
        self._note("caption")
        time.sleep(self._delay_s)
        if len(self.captions) + 1 == self._fail_at:
            raise self._error
        self.items.append(item)

    def counts(self, counts: Counts) -> None:
        self._note("counts")
        self.last_counts = counts

    def close(self) -> None:
        self._note("close")

    @property
    def captions(self) -> list[Captioned]:
        return [item for item in self.items if isinstance(item, Captioned)]

    @property
    def frames(self) -> list[Frame]:
        return [item for item in self.items if isinstance(item, Frame)]

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self.threads.add(threading.get_ident())


def until(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


def test_every_file_of_a_folder_is_captioned_in_order(captioner: Captioner, photos: Path) -> None:
    keeper = Keeper()
    stream = CaptionStream(captioner, str(photos), [keeper])
    items = list(stream)
    assert [Path(item.frame.name).name for item in items] == [f"p{index}.png" for index in range(5)]
    assert [item.caption.text for item in items] == [captioner.caption(item.frame.name).text for item in items]
    assert [item.frame.sequence for item in items] == list(range(5))
    assert keeper.captions == items
    # Of files each frame comes after its own caption, so that a recording shows both together.
    kinds = [type(item) for item in keeper.items]
    assert kinds == [Captioned, Frame] * 5
    assert len(keeper.threads) == 1
    assert threading.get_ident() not in keeper.threads
    assert (keeper.calls[0], keeper.calls[-2:]) == ("open", ["counts", "close"])
    counts = stream.counts()
    assert keeper.last_counts is not None
    assert (counts.captured, counts.captioned, counts.dropped, keeper.last_counts.captioned) == (5, 5, 0, 5)
    assert list(stream) == []


def test_the_newest_frame_is_captioned_and_nothing_queues(captioner: Captioner, ticker: Any) -> None:
    """A consumer that takes its time gets a frame of that moment next, not one that waited."""
    with CaptionStream(captioner, ticker(rate=200)) as stream:
        items = []
        for item in stream:
            items.append(item)
            if len(items) == 6:
                break
            time.sleep(0.1)
    steps = np.diff([item.frame.sequence for item in items])
    assert (steps >= 5).all()  # twenty on an idle machine
    counts = stream.counts()
    assert counts.captured == counts.captioned + counts.dropped
    assert counts.age_p95_ms >= counts.age_p50_ms > 0
    # The frame was younger than the consumer's pause, which it would have spent in a queue.
    assert np.median([item.age_ms - item.caption.timings.total_ms for item in items]) < 90


def test_a_live_source_that_ends_ends_the_stream(captioner: Captioner, ticker: Any) -> None:
    source = ticker(rate=300, frames=8)
    items = list(CaptionStream(captioner, source))
    assert 1 <= len(items) <= 8
    assert items[-1].frame.sequence == 7  # the last frame waits in the slot
    assert source.closed


def test_callbacks_in_this_thread_and_in_another(captioner: Captioner, photos: Path) -> None:
    texts: list[str] = []
    CaptionStream(captioner, str(photos)).run(lambda item: texts.append(item.caption.text))
    again: list[str] = []
    with CaptionStream(captioner, str(photos)) as stream:
        stream.start(lambda item: again.append(item.caption.text))
        assert stream.wait(30)
    assert texts == again
    assert len(texts) == 5


def test_an_error_of_a_callback_reaches_who_waits(captioner: Captioner, photos: Path) -> None:
    def fail(item: Captioned) -> None:
        raise ZeroDivisionError("mine")

    with CaptionStream(captioner, str(photos)) as stream:
        stream.start(fail)
        with pytest.raises(ZeroDivisionError, match="mine"):
            stream.wait(30)


def test_asyncio_goes_on_while_captions_are_made(captioner: Captioner, photos: Path) -> None:
    async def main() -> tuple[list[Captioned], int]:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.005)

        task = asyncio.create_task(beat())
        async with CaptionStream(captioner, str(photos), rate=40) as stream:
            items = [item async for item in stream]
        task.cancel()
        return items, beats

    items, beats = asyncio.run(main())
    assert len(items) == 5
    assert beats > 5


def test_a_cancelled_task_leaves_nothing_behind(captioner: Captioner, ticker: Any) -> None:
    source = ticker(rate=0.01)

    async def main() -> None:
        async with CaptionStream(captioner, source) as stream:
            async for _ in stream:
                pass

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(main(), 0.2))
    assert source.closed


@pytest.mark.parametrize("way", ["iterating", "started", "idle", "unopened"])
def test_close_from_any_thread_ends_all_of_it_within_a_second(captioner: Captioner, ticker: Any, way: str) -> None:
    keeper = Keeper()
    stream = CaptionStream(captioner, ticker(rate=0.01 if way == "iterating" else 50), [keeper])
    waiting = threading.Thread(target=lambda: list(stream))
    if way == "iterating":
        waiting.start()
        until(lambda: "open" in keeper.calls, "the sink opens")
    elif way == "started":
        stream.start()
        until(lambda: bool(keeper.captions), "a caption comes")
    elif way == "idle":
        stream.open()
    began = time.monotonic()
    stream.close()
    took_s = time.monotonic() - began
    stream.close()
    if way == "iterating":
        waiting.join(5)
    assert took_s < 2  # one on a machine that is not busy
    assert ("close" in keeper.calls) == (way != "unopened")
    assert list(stream) == []
    assert stream.wait(1)


def test_pause_and_search_options_from_a_sink(captioner: Captioner, ticker: Any) -> None:
    keeper = Keeper()
    with CaptionStream(captioner, ticker(rate=100), [keeper]) as stream:
        stream.start()
        until(lambda: len(keeper.captions) > 2, "captions come")
        control = keeper.control
        assert control is not None
        assert (control.paused, control.source, control.captioner) == (False, "Ticker", captioner)
        control.pause(True)
        assert control.paused
        time.sleep(0.3)  # the one that is being made comes still
        before, captured = len(keeper.captions), control.counts().captured
        until(lambda: control.counts().captured > captured + 5, "frames are captured all the same")
        assert len(keeper.captions) == before
        control.change(beams=2, nbest=2)
        with pytest.raises(OptionError, match="beams is 0"):
            control.change(beams=0)
        control.pause(False)
        until(lambda: len(keeper.captions) > before + 1, "captions come again")
        assert control.options.beams == 2
        assert len(keeper.captions[-1].caption.hypotheses) == 2


def test_a_change_that_leaves_no_caption_is_said_once_and_ends_nothing(captioner: Captioner, ticker: Any) -> None:
    said: list[str] = []
    nothing = captioner.options(ban=[word for word in captioner.bundle.vocabulary.tokens if word != "</s>"], beams=1)
    keeper = Keeper()
    with CaptionStream(captioner, ticker(rate=100), [keeper], search=nothing, report=said.append) as stream:
        stream.start()
        until(lambda: bool(keeper.captions), "an empty caption comes")
        stream.change(min_words=1)
        until(lambda: stream.counts().failed > 3, "frames fail")
        stream.change(min_words=0)
        before = len(keeper.captions)
        until(lambda: len(keeper.captions) > before + 1, "captions come again")
    assert len(said) == 1
    assert "no caption is possible: min_words 1" in said[0]
    # What it began with can only be a mistake, and is an error.
    with pytest.raises(OptionError, match="no caption is possible"):
        list(CaptionStream(captioner, ticker(rate=100), search=nothing.override(min_words=1)))


def test_rate_limits_captions(captioner: Captioner, ticker: Any) -> None:
    source = ticker(rate=200)
    began = time.monotonic()
    with CaptionStream(captioner, source, rate=20) as stream:
        for count, _ in enumerate(stream):
            if count == 5:
                break
    assert time.monotonic() - began > 5 / 20 - 0.01


def test_on_change_captions_only_another_scene(captioner: Captioner, ticker: Any) -> None:
    source = ticker(rate=100, frames=60, levels=lambda at: 40 if at < 20 else 43 if at < 40 else 200)
    items = list(CaptionStream(captioner, source, on_change=10))
    levels = [int(item.frame.pixels[0, 0, 0]) for item in items]
    assert len(levels) <= 2
    assert levels[-1] == 200
    assert levels[0] in (40, 43)


def test_old_frames_are_dropped(captioner: Captioner, ticker: Any) -> None:
    class Late(ticker):  # type: ignore[misc]
        def read(self) -> Frame | None:
            frame = super().read()
            if frame is None or frame.sequence >= 20:
                return frame
            return Frame(frame.pixels, "rgb", frame.sequence, frame.captured_s - 60, frame.stamp_ns)

    stream = CaptionStream(captioner, Late(rate=200, frames=30), max_age_ms=30_000)
    items = list(stream)
    assert all(item.frame.sequence >= 20 for item in items)
    assert stream.counts().dropped >= 20 - stream.counts().captioned


def test_enhance_is_given_each_frame_before_it_is_captioned(captioner: Captioner, photos: Path) -> None:
    from dataclasses import replace

    def mirror(frame: Frame) -> Frame:
        return replace(frame, pixels=np.ascontiguousarray(frame.pixels[:, ::-1]))

    items = list(CaptionStream(captioner, str(photos), enhance=mirror))
    for item in items:
        with Image.open(item.frame.name) as image:
            expected = np.asarray(image)[:, ::-1]
        assert item.caption.text == captioner.caption(np.ascontiguousarray(expected), "rgb").text


def test_a_failing_sink_is_told_once_and_the_others_go_on(
    captioner: Captioner, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, full = Keeper("good"), Keeper("full", fail_at=2)
    bug = Keeper("bug", fail_at=3, error=ZeroDivisionError("a bug"))
    said: list[str] = []
    with caplog.at_level(logging.ERROR):
        stream = CaptionStream(captioner, str(photos), [full, good, bug], report=said.append)
        stream.run()
    assert said == ["full: full; the stream goes on without it"]
    assert "a bug" in caplog.text  # a bug keeps its traceback
    assert "Traceback" in caplog.text
    assert (len(full.captions), len(good.captions), len(bug.captions)) == (1, 5, 2)
    assert [keeper.calls.count("close") for keeper in (full, good, bug)] == [1, 1, 1]
    assert stream.failed_sinks == ["full", "bug"]


def test_sinks_of_which_none_can_open_stop_the_start(captioner: Captioner, ticker: Any) -> None:
    source, sinks = ticker(), [TerminalSink(), Keeper("port", fail_at=0), Keeper("file", fail_at=0)]
    stream = CaptionStream(captioner, source, sinks)
    with pytest.raises(SinkError, match="port: full"):
        next(stream)
    assert source.closed
    assert [sink.calls for sink in sinks[1:]] == [["open", "close"], ["open", "close"]]


def test_a_sink_that_cannot_open_costs_no_other_one(captioner: Captioner, photos: Path) -> None:
    port, good, said = Keeper("port", fail_at=0), Keeper("good"), list[str]()
    stream = CaptionStream(captioner, str(photos), [port, good], report=said.append)
    stream.run()
    assert said == ["port: full; the stream goes on without it"]
    assert (port.calls, len(good.captions)) == (["open", "close"], 5)
    assert stream.failed_sinks == ["port"]


def test_a_library_that_a_sink_lacks_stops_the_start(captioner: Captioner, ticker: Any) -> None:
    source, first = ticker(), Keeper("first")
    missing = Keeper("web", fail_at=0, error=EngineError("--web needs aiohttp"))
    stream = CaptionStream(captioner, source, [first, missing])
    with pytest.raises(EngineError, match="needs aiohttp"):
        next(stream)
    assert source.closed
    assert first.calls[-1] == "close"


def test_a_slow_sink_slows_neither_captions_nor_others(captioner: Captioner, ticker: Any) -> None:
    slow, fast, said = Keeper("slow", delay_s=0.3), Keeper("fast"), []
    with CaptionStream(captioner, ticker(rate=200), [slow, fast], report=said.append) as stream:
        for count, _ in enumerate(stream):
            if count == 60:
                break
        until(lambda: len(fast.captions) == 61, "the fast one has all")
        assert len(slow.captions) < 40
    assert said
    assert "slow: was too slow for" in said[-1]
    assert "close" in slow.calls


def test_a_slow_sink_gets_all_of_a_source_that_waits(captioner: Captioner, photos: Path, tmp_path: Path) -> None:
    slow = Keeper("slow", delay_s=0.02)
    source = f"{photos}/*.png?loop=1"
    with CaptionStream(captioner, source, [slow]) as stream:
        for count, _ in enumerate(stream):
            if count == 30:
                break
        until(lambda: len(slow.captions) == 31, "it gets all of them")
    assert [item.frame.sequence for item in slow.captions] == list(range(31))


class Flaky:
    """A camera that is lost after five frames, and cannot be opened at first when it should be."""

    def __init__(self, ticker: Any) -> None:
        self._ticker = ticker
        self.opened = 0

    def __call__(self) -> Any:
        self.opened += 1
        if self.opened in (2, 3):
            raise SourceError("camera: cannot be opened")
        source = self._ticker(rate=200)
        read = source.read

        def lose() -> Frame | None:
            frame = read()
            if frame is not None and frame.sequence == 5:
                raise SourceError("camera: was unplugged")
            return frame

        source.read = lose
        return source


def test_a_lost_camera_is_opened_again(captioner: Captioner, ticker: Any) -> None:
    said: list[str] = []
    opened = Flaky(ticker)
    with CaptionStream(captioner, opened, report=said.append) as stream:
        sequences = []
        for item in stream:
            sequences.append(item.frame.sequence)
            if stream.counts().reopened == 2:
                break
    assert opened.opened == 5
    assert said[0] == "camera: was unplugged; opening it again until it is back"
    assert said[1].startswith("back after ")
    assert len(said) == 4
    assert sequences == sorted(set(sequences))


def test_a_source_that_never_gave_a_frame_is_an_error(captioner: Captioner, ticker: Any) -> None:
    class Dead(ticker):  # type: ignore[misc]
        def read(self) -> Frame | None:
            raise SourceError("camera: is in use")

    stream = CaptionStream(captioner, lambda: Dead())
    with pytest.raises(SourceError, match="camera: is in use"):
        next(stream)


def test_a_source_handed_over_open_cannot_be_opened_again(captioner: Captioner, ticker: Any) -> None:
    source = Flaky(ticker)()
    with pytest.raises(SourceError, match="unplugged"):
        list(CaptionStream(captioner, source))


def test_a_frame_of_a_wrong_form_is_counted_and_the_stream_goes_on(captioner: Captioner, ticker: Any) -> None:
    class Odd(ticker):  # type: ignore[misc]
        def read(self) -> Frame | None:
            frame = super().read()
            if frame is not None and frame.sequence < 4:
                return Frame(np.zeros((3, 4, 2), np.uint8), "rgb", frame.sequence, frame.captured_s, frame.stamp_ns)
            return frame

    said: list[str] = []
    stream = CaptionStream(captioner, Odd(rate=50, frames=8), report=said.append)
    assert list(stream)
    assert stream.counts().failed == len(said) >= 1
    assert "expected height x width x 3" in said[0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"rate": 0}, "rate is 0"), ({"rate": float("nan")}, "rate is nan"), ({"on_change": 300}, "on_change is 300"),
     ({"max_age_ms": -1}, "max_age_ms is -1")],
)  # fmt: skip
def test_options_without_meaning(captioner: Captioner, options: dict[str, float], expected: str) -> None:
    with pytest.raises(OptionError, match=expected):
        CaptionStream(captioner, "test://", **options)  # type: ignore[arg-type]
