"""The page in a real browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

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
        self.problems: list[str] = []
        self.hosts: set[str] = set()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: message.type in ("error", "warning") and self.problems.append(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc or urlsplit(request.url).scheme))
        page.on("websocket", lambda socket: self.hosts.add(urlsplit(socket.url).netloc))
        page.goto(url)

    def wait(self, script: str, argument: Any = None) -> None:
        """Waits until a script gives something true."""
        self.page.wait_for_function(script, arg=argument)

    def picture(self) -> list[int]:
        """Every 997th value of the pixels that show."""
        return self.page.evaluate(
            """() => { const c = document.getElementById("picture");
            const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
            return Array.from({length: Math.floor(d.length / 997)}, (_, i) => d[i * 997]) }"""
        )  # type: ignore[no-any-return]

    def saturation(self) -> float:
        """How far the channels of the pixels differ, on average."""
        return self.page.evaluate(
            """() => { const c = document.getElementById("picture");
            const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
            let sum = 0; for (let i = 0; i < d.length; i += 4)
              sum += Math.max(d[i], d[i+1], d[i+2]) - Math.min(d[i], d[i+1], d[i+2]);
            return sum / (d.length / 4) }"""
        )  # type: ignore[no-any-return]


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


@pytest.fixture
def stream(captioner: Captioner) -> Iterator[CaptionStream]:
    sink = WebSink("0")
    with CaptionStream(captioner, "test://?size=320x240&rate=10", [sink], rate=5) as opened:
        opened.start()
        yield opened


@pytest.fixture
def visit(stream: CaptionStream, browser: Any) -> Iterator[Callable[..., Visit]]:
    """``visit(**context)`` opens the page in a fresh profile; at the end nothing may have gone wrong in it."""
    visits: list[Visit] = []

    def open_page(**how: Any) -> Visit:
        (delivery,) = stream._deliveries
        visits.append(Visit(browser.new_context(**how).new_page(), delivery.sink.url))  # type: ignore[attr-defined]
        return visits[-1]

    yield open_page
    for each in visits:
        assert each.problems == []
        assert each.hosts <= {urlsplit(each.url).netloc, "blob"}
        each.page.context.close()


HAS_WORDS = "() => document.querySelectorAll('.word').length > 1"


def test_picture_moves_caption_comes_and_figures_show(visit: Callable[..., Visit]) -> None:
    page = visit().page
    page.wait_for_selector(".word")
    visited = visit()
    visited.wait(HAS_WORDS)
    visited.wait("() => document.getElementById('picture').width === 320")
    before = visited.picture()
    visited.page.wait_for_timeout(700)
    assert visited.picture() != before
    assert max(before) > 50
    visited.wait("() => document.getElementById('status').textContent === 'live'")
    visited.wait("() => /^[0-9]+ ms$/.test(document.getElementById('age-now').textContent)")
    visited.wait("() => document.querySelector('#latency .line').getAttribute('d').length > 20")
    visited.wait("() => document.getElementById('captured').textContent.includes('/s')")
    visited.wait("() => document.getElementById('viewers').textContent === '2'")
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
    visited.page.wait_for_timeout(500)
    captioned, picture = stream.counts().captioned, visited.picture()
    visited.page.wait_for_timeout(1000)
    assert stream.counts().captioned == captioned
    assert visited.picture() != picture
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


def test_a_word_that_is_pointed_at_shows_where_the_model_looked(visit: Callable[..., Visit]) -> None:
    visited = visit()
    visited.wait(HAS_WORDS)
    plain = visited.saturation()
    visited.page.click("#attention")
    visited.page.wait_for_timeout(500)
    assert abs(visited.saturation() - plain) > 3
    visited.page.click("#attention")
    visited.page.hover(".word >> nth=1")
    visited.wait("() => document.getElementById('status').textContent === 'held'")
    visited.page.wait_for_timeout(500)
    words, first = visited.page.locator(".word").all_text_contents(), visited.picture()
    visited.page.wait_for_timeout(1000)
    assert visited.picture() == first  # it stays, and so do the words
    assert visited.page.locator(".word").all_text_contents() == words
    visited.page.hover(".word >> nth=0")
    visited.wait("() => document.querySelector('.word').getAttribute('aria-pressed') === 'true'")
    assert visited.picture() != first
    visited.page.mouse.move(2, 2)
    visited.wait("() => document.getElementById('status').textContent === 'live'")
    visited.page.keyboard.press("Tab")
    while visited.page.evaluate("() => !document.activeElement.matches('.word')"):
        visited.page.keyboard.press("Tab")
    visited.wait("() => document.getElementById('status').textContent === 'held'")
    visited.page.keyboard.press("Escape")
    visited.wait("() => document.getElementById('status').textContent === 'live'")


def test_it_fits_a_telephone_and_words_are_tapped(visit: Callable[..., Visit]) -> None:
    for width, height in ((320, 568), (390, 844), (844, 390)):
        visited = visit(viewport={"width": width, "height": height}, has_touch=True, is_mobile=True)
        visited.wait(HAS_WORDS)
        visited.wait("() => document.documentElement.scrollWidth <= innerWidth")
        assert visited.page.locator("button:visible").evaluate_all(
            "(all) => all.filter((b) => !b.matches('.word') && b.getBoundingClientRect().height < 32).length"
        ) == 0
    visited.page.tap(".word >> nth=1")
    visited.wait("() => document.getElementById('status').textContent === 'held'")
    assert visited.page.get_attribute(".word >> nth=1", "aria-pressed") == "true"
    visited.page.tap("#frame")
    visited.wait("() => document.getElementById('status').textContent === 'live'")


def test_light_and_dark_and_the_wall(visit: Callable[..., Visit]) -> None:
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


def test_a_photograph_of_ones_own_is_captioned(visit: Callable[..., Visit], repository: Path) -> None:
    visited = visit()
    visited.page.set_input_files("#photo-file", repository / "examples" / "two_dogs.jpg")
    visited.wait("() => document.getElementById('photo-caption').textContent.includes('dog')")
    assert visited.page.locator("#photo-sentences li").count() == 3
    visited.page.click("#photo-close")
    visited.page.set_input_files("#photo-file", repository / "examples" / "README.md")
    visited.wait("() => document.getElementById('toast').textContent.includes('is not an image')")
    # Chromium notes every answer that is an error; that is no error of the page.
    visited.problems = [text for text in visited.problems if "status of 400" not in text]


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
        page.goto(sink.url)
        page.fill("#token", "correct-horse")
        page.click("button")
        page.wait_for_selector(".word")
        assert page.url == sink.url
        page.context.close()
