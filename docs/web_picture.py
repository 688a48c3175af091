"""Takes the pictures of the web page: the page in Chromium, fed by a camera that pans over photographs.

    python docs/web_picture.py --photographs examples/shepherd.jpg --out docs/images/web.jpg

Needs ``camscribe[dev]`` and Chromium (``--chromium``). With ``--all FOLDER`` also phone and desktop, light and dark.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import Page, sync_playwright

from camscribe.runtime.captioner import Captioner
from camscribe.runtime.images import expand, read
from camscribe.runtime.stream.frame import Frame
from camscribe.runtime.stream.stream import CaptionStream
from camscribe.runtime.stream.web.sink import WebSink

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


class Panorama:
    """A live source: each photograph for some seconds, with a slow pan."""

    live = True

    def __init__(self, files: list[Path], seconds: float, rate: float = 15.0) -> None:
        self._photos = [read(path) for path in files]
        self._seconds, self._interval = seconds, 1 / rate
        self._began, self._sequence = time.monotonic(), 0
        self._stop = threading.Event()

    def read(self) -> Frame | None:
        """The next frame when it is due."""
        due = self._began + self._sequence * self._interval
        if self._stop.wait(max(0.0, due - time.monotonic())):
            return None
        at = time.monotonic() - self._began
        photo = self._photos[int(at / self._seconds) % len(self._photos)]
        height, width = photo.shape[:2]
        rows, columns = round(height * 0.94), round(width * 0.94)
        top = round((height - rows) * (0.5 + 0.5 * math.sin(at * 0.8)))
        left = round((width - columns) * (0.5 + 0.5 * math.cos(at * 0.6)))
        pixels = np.ascontiguousarray(photo[top : top + rows, left : left + columns])
        scale = 960 / max(rows, columns)
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        self._sequence += 1
        return Frame(pixels, "rgb", self._sequence, time.monotonic(), time.time_ns())

    def close(self) -> None:
        """Ends it."""
        self._stop.set()


def main() -> int:
    """Takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", nargs="+", default=["examples"])
    parser.add_argument("--out", type=Path, help="the picture of docs/web.md, a JPEG")
    parser.add_argument("--all", type=Path, help="folder for one of each kind")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--word", default="dog", help="pointed at in the picture (default: dog)")
    parser.add_argument("--seconds", type=float, default=1e9, help="of each photograph (default: only the first)")
    options = parser.parse_args()
    files, _ = expand(options.photographs)
    sink = WebSink("0")
    with Captioner.load(threads=1) as captioner, sync_playwright() as playwright:
        search = captioner.options(beams=5, nbest=4)
        stream = CaptionStream(captioner, Panorama(files, options.seconds), [sink], search=search, rate=8)
        browser = playwright.chromium.launch(executable_path=options.chromium, args=FLAGS.split())
        with stream:
            stream.start()
            time.sleep(8)
            if options.out:
                desktop = browser.new_page(viewport={"width": 1360, "height": 800}, color_scheme="dark")
                shoot(desktop, sink.url, options.out, word=options.word, quality=82)
            for scheme in ("light", "dark") if options.all else ():
                options.all.mkdir(parents=True, exist_ok=True)
                page = browser.new_page(viewport={"width": 1360, "height": 800}, color_scheme=scheme)
                shoot(page, sink.url, options.all / f"desktop-{scheme}.png")
                shoot(page, sink.url, options.all / f"desktop-{scheme}-word.png", word="")
                page.keyboard.press("f")
                page.wait_for_timeout(1000)
                page.screenshot(path=options.all / f"wall-{scheme}.png")
                phone = browser.new_context(**playwright.devices["iPhone 13"], color_scheme=scheme).new_page()
                shoot(phone, sink.url, options.all / f"phone-{scheme}.png", full_page=True)
                phone.tap("#attention")
                phone.wait_for_timeout(700)
                phone.screenshot(path=options.all / f"phone-{scheme}-attention.png")
        browser.close()
    return 0


def shoot(page: Page, url: str, path: Path, word: str | None = None, **how: object) -> None:
    """Takes a picture of the page; ``word`` is pointed at, an empty one stands for the middle one."""
    page.goto(url)
    page.wait_for_selector(".word")
    page.wait_for_timeout(4000)
    if word is not None:
        words = page.locator(".word")
        found = page.locator(f'.word:text-is("{word}")')
        (found.first if word and found.count() else words.nth(words.count() // 2)).hover()
        page.wait_for_timeout(1000)
    page.screenshot(path=path, **how)  # type: ignore[arg-type]
    page.mouse.move(2, 2)


if __name__ == "__main__":
    sys.exit(main())
