"""The page in a real browser."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pytest

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.stream.stream import CaptionStream
from camscribe.runtime.stream.web.sink import WebSink

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = os.environ.get("CAMSCRIBE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium, or set CAMSCRIBE_CHROMIUM"),
]
PATIENCE_MS = 60_000


class Visit:
    """A page, and what went wrong in it."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.pictures = 0
        """How many pictures the page got."""
        self.problems: list[str] = []
        self.forgiven: tuple[str, ...] = ()
        """What a problem may say that is none."""
        self.hosts: set[str] = set()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc or urlsplit(request.url).scheme))
        page.on("websocket", self._listen)
        page.goto(url)

    def _note(self, message: Any) -> None:
        # On a machine this slow a frame may be gone before the page asks for it; it then holds the one that it shows.
        late = "status of 404" in message.text and "/frame.jpg?sequence=" in message.location["url"]
        if message.type in ("error", "warning") and not late:
            self.problems.append(message.text)

    def _listen(self, socket: Any) -> None:
        self.hosts.add(urlsplit(socket.url).netloc)
        socket.on("framereceived", self._count)

    def _count(self, message: bytes | str) -> None:
        self.pictures += isinstance(message, bytes)

    def wait(self, script: str, argument: Any = None) -> None:
        """Waits until a script gives something true."""
        self.page.wait_for_function(script, arg=argument)

    def pixels(self) -> npt.NDArray[np.int64]:
        """What the canvas shows, [pixels, 4], every 7th pixel."""
        found = self.page.evaluate(
            """() => { const shown = document.getElementById("picture");
            const copy = new OffscreenCanvas(shown.width, shown.height);
            const context = copy.getContext("2d", { willReadFrequently: true });
            context.drawImage(shown, 0, 0);
            const data = new Uint32Array(context.getImageData(0, 0, copy.width, copy.height).data.buffer);
            return Array.from(data.filter((_, i) => i % 7 === 0)) }"""
        )
        return np.array(found, dtype=np.uint32).view(np.uint8).reshape(-1, 4).astype(np.int64)

    def frames(self, count: int) -> None:
        """Waits until the page has shown so many further pictures."""
        # It asks for another one when it has shown one.
        self.until(lambda wanted=self.pictures + count + 1: self.pictures >= wanted)

    def moves(self) -> bool:
        """Whether the picture is another after five more."""
        before = self.pixels()
        self.frames(5)
        return not np.array_equal(self.pixels(), before)

    def until(self, check: Callable[[], bool]) -> None:
        """Waits until something is so."""
        until_s = time.monotonic() + PATIENCE_MS / 1e3
        while not check():
            assert time.monotonic() < until_s, f"was not so within {PATIENCE_MS} ms"
            self.page.wait_for_timeout(50)

    def held(self) -> None:
        """Waits until a frame is held. The page says so before it has that frame."""
        self.wait("() => document.getElementById('status').textContent === 'held'")
        self.until(lambda: not self.moves())

    def beside_the_words(self) -> tuple[float, float]:
        """A place that belongs to the caption, but to none of its words."""
        x, y = self.page.evaluate(
            """() => { const said = document.getElementById("caption"), box = said.getBoundingClientRect();
            for (let y = box.top + 1; y < box.bottom; y += 2) for (let x = box.right - 2; x > box.left; x -= 2)
              if (document.elementFromPoint(x, y) === said) return [x, y] }"""
        )
        return x, y


def differ(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> float:
    """How far the pixels of two pictures differ, in levels, on average."""
    return float(np.abs(one - other).mean())


@pytest.fixture(autouse=True)
def no_thread_is_left() -> None:
    """The stream serves all tests here; that one leaves no thread is shown in ``test_sink``."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def captioner() -> Iterator[Captioner]:
    """The bundled one: what is said of the scene is real."""
    with Captioner.load(backend="cpu", threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def running(captioner: Captioner) -> Iterator[tuple[CaptionStream, WebSink]]:
    sink = WebSink("0")
    with CaptionStream(captioner, "test://?size=320x240&rate=10", [sink], rate=4) as opened:
        opened.start()
        yield opened, sink


@pytest.fixture
def stream(running: tuple[CaptionStream, WebSink]) -> CaptionStream:
    """As it was at its beginning."""
    running[0].change(beams=3, nbest=1)
    running[0].pause(False)
    return running[0]


@pytest.fixture
def visit(running: tuple[CaptionStream, WebSink], browser: Any) -> Iterator[Callable[..., Visit]]:
    """``visit(**context)`` opens the page in a fresh profile; at the end nothing may have gone wrong in it."""
    visits: list[Visit] = []

    def open_page(**how: Any) -> Visit:
        visits.append(Visit(browser.new_context(**how).new_page(), running[1].url))
        return visits[-1]

    yield open_page
    for each in visits:
        assert [text for text in each.problems if not any(part in text for part in each.forgiven)] == []
        assert each.hosts <= {urlsplit(each.url).netloc, "blob"}
        each.page.context.close()


HAS_WORDS = "() => document.querySelectorAll('.word').length > 1"
POINTED_AT = '.word[aria-pressed="true"]'


def test_picture_moves_caption_comes_and_figures_show(visit: Callable[..., Visit], stream: CaptionStream) -> None:
    visited = visit()
    visited.wait(HAS_WORDS)
    visited.wait("() => document.getElementById('picture').width === 320")
    assert visited.moves()
    assert visited.pixels()[:, :3].std() > 10
    visited.wait("() => document.getElementById('status').textContent === 'live'")
    visited.wait("() => /^[0-9]+ ms$/.test(document.getElementById('age-now').textContent)")
    visited.wait("() => document.querySelector('#latency .line').getAttribute('d').length > 20")
    visited.wait("() => document.getElementById('captured').textContent.includes('/s')")
    visited.wait("() => document.getElementById('viewers').textContent === '1'")
    assert visited.page.text_content("#source") == "test://?size=320x240&rate=10"
    caption = " ".join(visited.page.locator(".word").all_text_contents())
    assert set(caption.split()) & {"a", "in", "is", "the"}, caption


def test_pause_stops_captions_but_not_the_picture(visit: Callable[..., Visit], stream: CaptionStream) -> None:
    visited = visit()
    other = visit()
    visited.wait(HAS_WORDS)
    visited.page.click("#pause")
    visited.wait("() => document.getElementById('status').textContent === 'paused'")
    other.wait("() => document.getElementById('pause').textContent === 'Go on'")
    assert stream.paused
    captioned = stream.counts().captioned
    visited.frames(20)  # two seconds: eight captions
    assert stream.counts().captioned <= captioned + 1  # one may have been under way
    assert visited.moves()
    other.page.keyboard.press("Space")
    visited.wait("() => document.getElementById('status').textContent === 'live'")
    assert not stream.paused


def test_beams_and_sentences_change_the_search(visit: Callable[..., Visit], stream: CaptionStream) -> None:
    visited = visit()
    visited.wait("() => !document.getElementById('beams').disabled")
    visited.page.locator("#beams").fill("6")
    visited.wait("() => document.getElementById('nbest').max === '6'")
    visited.page.locator("#nbest").fill("4")
    visited.wait("() => document.querySelectorAll('#sentences li').length === 4")
    assert (stream.options.beams, stream.options.nbest) == (6, 4)
    scores = [float(text) for text in visited.page.locator("#sentences .score").all_text_contents()]
    assert scores == sorted(scores, reverse=True)
    visited.page.locator("#beams").fill("2")  # fewer than sentences: these follow
    visited.wait("() => document.querySelectorAll('#sentences li').length === 2")
    assert (stream.options.beams, stream.options.nbest) == (2, 2)


def test_a_word_that_is_pointed_at_shows_where_the_model_looked(
    visit: Callable[..., Visit], stream: CaptionStream
) -> None:
    visited = visit()
    visited.wait(HAS_WORDS)
    visited.page.hover(".word >> nth=1")
    visited.held()
    words = visited.page.locator(".word").all_text_contents()
    visited.page.mouse.move(*visited.beside_the_words())
    visited.wait(f"() => !document.querySelector('{POINTED_AT}')")
    plain = visited.pixels()
    visited.page.keyboard.press("a")  # the mean of all words
    visited.wait("() => document.getElementById('attention').getAttribute('aria-pressed') === 'true'")
    mean = visited.pixels()
    assert differ(mean, plain) > 3
    shown = []
    for index in (0, 1):
        visited.page.hover(f".word >> nth={index}")
        visited.wait(f"() => document.querySelector('{POINTED_AT}')?.dataset.index === '{index}'")
        shown.append(visited.pixels())
        assert differ(shown[-1], plain) > 3
        assert differ(shown[-1], mean) > 0
    assert differ(*shown) > 0
    assert not visited.moves()  # and so the words stay
    assert visited.page.locator(".word").all_text_contents() == words
    visited.page.mouse.move(*visited.beside_the_words())
    visited.page.keyboard.press("a")
    visited.wait("() => document.getElementById('attention').getAttribute('aria-pressed') === 'false'")
    assert differ(visited.pixels(), plain) == 0
    visited.page.mouse.move(2, 2)
    visited.wait("() => document.getElementById('status').textContent === 'live'")
    visited.page.keyboard.press("Tab")
    while visited.page.evaluate("() => !document.activeElement.matches('.word')"):
        visited.page.keyboard.press("Tab")
    visited.wait("() => document.getElementById('status').textContent === 'held'")
    visited.page.keyboard.press("Escape")
    visited.wait("() => document.getElementById('status').textContent === 'live'")


def test_boxes_that_the_model_looked_at_are_drawn(default_with_boxes: Bundle, browser: Any) -> None:
    sink = WebSink("0")
    with (
        Captioner.load(default_with_boxes.path, backend="cpu", threads=1) as captioner,
        CaptionStream(captioner, "test://?size=320x240&rate=10", [sink], rate=4) as stream,
    ):
        stream.start()
        visited = Visit(browser.new_context().new_page(), sink.url)
        visited.wait(HAS_WORDS)
        visited.page.hover(".word >> nth=1")
        visited.held()
        visited.page.mouse.move(*visited.beside_the_words())
        visited.wait(f"() => !document.querySelector('{POINTED_AT}')")
        plain = visited.pixels()[:, :3]
        shown = []
        for index in (0, 1):
            visited.page.hover(f".word >> nth={index}")
            visited.wait(f"() => document.querySelector('{POINTED_AT}')?.dataset.index === '{index}'")
            shown.append(visited.pixels()[:, :3])
            grey = np.ptp(shown[-1], axis=1) <= 2
            assert 0.2 < grey.mean() < 0.99  # what was not looked at
            assert shown[-1][grey].mean() < plain[grey].mean()
            hot = (shown[-1] - plain)[:, 0] > 20  # outlines: nothing else becomes brighter
            assert 0.001 < hot.mean() < 0.3
        assert differ(*shown) > 0
        visited.page.keyboard.press("a")
        visited.page.mouse.move(*visited.beside_the_words())
        visited.wait(f"() => !document.querySelector('{POINTED_AT}')")
        assert differ(visited.pixels()[:, :3], plain) > 3  # the mean of all words
        assert visited.problems == []
        visited.page.context.close()


def test_it_fits_a_telephone_and_words_are_tapped(visit: Callable[..., Visit], stream: CaptionStream) -> None:
    for width, height in ((320, 568), (390, 844), (844, 390)):
        visited = visit(viewport={"width": width, "height": height}, has_touch=True, is_mobile=True)
        visited.wait(HAS_WORDS)
        visited.wait("() => document.documentElement.scrollWidth <= innerWidth")
        assert (
            visited.page.locator("button:visible").evaluate_all(
                "(all) => all.filter((b) => !b.matches('.word') && b.getBoundingClientRect().height < 32).length"
            )
            == 0
        )
    visited.page.tap(".word >> nth=1")
    visited.wait("() => document.getElementById('status').textContent === 'held'")
    visited.wait(f"() => document.querySelector('{POINTED_AT}')?.dataset.index === '1'")
    visited.page.tap("#frame")
    visited.wait("() => document.getElementById('status').textContent === 'live'")


def test_light_and_dark_and_the_wall(visit: Callable[..., Visit], stream: CaptionStream) -> None:
    colour = "() => getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).map(Number)"
    for scheme in ("light", "dark"):
        visited = visit(color_scheme=scheme)
        assert (sum(visited.page.evaluate(colour)) > 3 * 128) == (scheme == "light")
    visited.page.click("#theme")  # system, light, dark
    assert sum(visited.page.evaluate(colour)) > 3 * 128
    visited.page.reload()
    assert sum(visited.page.evaluate(colour)) > 3 * 128
    visited.wait(HAS_WORDS)
    visited.page.keyboard.press("f")
    visited.wait("() => document.body.classList.contains('wall')")
    assert not visited.page.is_visible("aside")
    visited.page.keyboard.press("f")
    visited.wait("() => !document.body.classList.contains('wall')")


def test_a_photograph_of_ones_own_is_captioned(
    visit: Callable[..., Visit], stream: CaptionStream, repository: Path
) -> None:
    visited = visit()
    visited.forgiven = ("status of 400",)  # Chromium notes every answer that is an error; that is no error of the page
    visited.page.set_input_files("#photo-file", repository / "examples" / "two_dogs.jpg")
    visited.wait("() => document.getElementById('photo-caption').textContent.includes('dog')")
    assert visited.page.locator("#photo-sentences li").count() == 3
    visited.page.click("#photo-close")
    visited.page.set_input_files("#photo-file", repository / "examples" / "README.md")
    visited.wait("() => document.getElementById('toast').textContent.includes('is not an image')")


def test_a_page_comes_back_when_the_stream_does(captioner: Captioner, browser: Any) -> None:
    first = WebSink("0")
    with CaptionStream(captioner, "test://?size=320x240&rate=10", [first], rate=5) as stream:
        stream.start()
        visited = Visit(browser.new_context().new_page(), first.url)
        visited.wait(HAS_WORDS)
    visited.wait("() => document.getElementById('status').textContent === 'reconnecting'")
    again = WebSink(str(urlsplit(first.url).port))
    with CaptionStream(captioner, "test://?size=160x120&rate=10", [again], rate=5) as stream:
        stream.start()
        visited.wait("() => document.getElementById('status').textContent === 'live'")
        visited.wait("() => document.getElementById('picture').width === 160")
        visited.page.context.close()


def test_the_door_opens_with_the_token(captioner: Captioner, browser: Any) -> None:
    sink = WebSink("0", "correct-horse")
    with CaptionStream(captioner, "test://?size=320x240&rate=10", [sink], rate=5) as stream:
        stream.start()
        page = browser.new_context().new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(sink.url)
        page.fill("#token", "correct-horse")
        page.click("button")
        page.wait_for_selector(".word")
        assert page.url == sink.url
        page.context.close()
