"""What viewers of the web page cost the captioner: with nobody, with readers, with readers and as many that stall.

    python -m camscribe.benchmarks.web_viewers --out benchmarks/results/web_viewers.json

One stream captions ``test://`` at 30 Hz all the while; viewers come and go in turn, so that what disturbs the machine
disturbs all alike. They are on this machine, in a process of lower priority, and only on its loopback; what they take
of its cores is in the figures. A stalled viewer asks for ``/stream.mjpg`` and reads nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from camscribe.benchmarks.measure import Environment, Ratio, Seconds, environment, ratio
from camscribe.runtime import typed_json
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import CamscribeError, OptionError
from camscribe.runtime.files import write_atomically
from camscribe.runtime.stream.frame import Captioned
from camscribe.runtime.stream.stream import CaptionStream
from camscribe.runtime.stream.web.sink import WebSink

SCHEMA = 1
_MOST_VIEWERS, _MOST_SECONDS = 100, 3600
_SETTLE_S = 1.0
"""Viewers have come, or gone, before it is measured."""


@dataclass(frozen=True)
class Phase:
    """What was seen with some viewers, over all rounds."""

    reading: int
    stalled: int
    captions_per_s: tuple[float, ...]
    """Of each round."""
    age_p95_ms: tuple[float, ...]
    """Of the frames that were captioned, in each round."""
    pictures_encoded_per_s: float
    pictures_read_per_s: float
    """By all readers together."""


@dataclass(frozen=True)
class Report:
    """The form of ``results/web_viewers.json``."""

    schema: int
    environment: Environment
    source: str
    seconds: float
    """Of each phase in each round."""
    ratios: tuple[Ratio, ...]
    """Of the time from caption to caption."""
    phases: dict[str, Phase]
    close_s: float
    """What closing the stream took with all viewers there."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--viewers", type=int, default=50, help="half of them stall (default: 50)")
    parser.add_argument("--rounds", type=int, default=8, help="of nobody, readers, all (default: 8)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each phase (default: 5)")
    parser.add_argument("--threads", type=int, help="of the captioner (default: one per physical core)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    if not 2 <= options.viewers <= _MOST_VIEWERS or options.viewers % 2:
        raise OptionError(f"--viewers is {options.viewers}; expected an even number from 2 to {_MOST_VIEWERS}")
    if not 1 <= options.rounds * options.seconds * 3 <= _MOST_SECONDS or options.rounds < 1:
        raise OptionError(f"--rounds {options.rounds} of {options.seconds} s: expected 1 to {_MOST_SECONDS} s in all")
    report = measure(options.viewers // 2, options.rounds, options.seconds, options.threads)
    for item in report.ratios:
        print(f"{item.name:44} {item.median:6.3f} ({item.p10:.3f} to {item.p90:.3f})")
    if options.out:
        text = json.dumps(typed_json.encode(report), indent=1, ensure_ascii=False)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.out, f"{text}\n".encode())
    return 0


def measure(half: int, rounds: int, seconds: float, threads: int | None = None) -> Report:
    """Measures nobody, ``half`` readers, and these with as many that stall, in turn."""
    where = environment()
    source, sink = "test://?rate=30", WebSink("0")
    visitors = {"nobody": (0, 0), "readers": (half, 0), "readers and stalled": (half, half)}
    intervals: Seconds = {name: [] for name in visitors}
    ages: dict[str, list[float]] = {name: [] for name in visitors}
    encoded, sent = dict.fromkeys(visitors, 0.0), dict.fromkeys(visitors, 0.0)
    lately: list[Captioned] = []
    with Captioner.load(backend="cpu", threads=threads) as captioner:
        stream = CaptionStream(captioner, source, [sink])
        with stream, _Viewers(urlsplit(_start(stream, sink, lately)).port or 0) as viewers:
            for _ in range(rounds):
                for name, (reading, stalled) in visitors.items():
                    viewers.be(reading, stalled)
                    time.sleep(_SETTLE_S)
                    before, began = _metrics(sink.url), time.monotonic()
                    lately.clear()
                    time.sleep(seconds)
                    items, took = list(lately), time.monotonic() - began
                    after = _metrics(sink.url)
                    if not items:
                        raise OptionError(f"no caption in {seconds} s: give --seconds more")
                    intervals[name].append(took / len(items))
                    ages[name].append(float(np.percentile([item.age_ms for item in items], 95)))
                    encoded[name] += after["encoded"] - before["encoded"]
                    sent[name] += after["sent"] - before["sent"]
            began = time.monotonic()
            stream.close()
            close_s = time.monotonic() - began
            if any(thread.name == "camscribe-web" for thread in threading.enumerate()):
                raise OptionError("the page's thread outlives its stream")
    per_s = 1 / (rounds * seconds)
    return Report(
        SCHEMA,
        where,
        source,
        seconds,
        (
            ratio("readers and stalled / nobody", intervals, "readers and stalled", "nobody"),
            ratio("readers / nobody", intervals, "readers", "nobody"),
            ratio("readers and stalled / readers", intervals, "readers and stalled", "readers"),
        ),
        {
            name: Phase(
                *visitors[name],
                tuple(round(1 / value, 2) for value in intervals[name]),
                tuple(round(value, 1) for value in ages[name]),
                round(encoded[name] * per_s, 2),
                round(sent[name] * per_s, 2),
            )
            for name in visitors
        },
        round(close_s, 3),
    )


class _Viewers:
    """The process of ``benchmarks/viewers.py``."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, "-m", "camscribe.benchmarks.viewers", str(port)]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def be(self, reading: int, stalled: int) -> None:
        """Replaces whoever is there by so many."""
        child = self._child
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("no pipe to the process")
        child.stdin.write(f"{reading} {stalled}\n")
        child.stdin.flush()
        if child.stdout.readline() != "there\n":
            raise OptionError("the viewers did not get to the page")

    def __enter__(self) -> _Viewers:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.communicate()  # the end of its input sends them away


def _start(stream: CaptionStream, sink: WebSink, lately: list[Captioned]) -> str:
    """Starts the stream, whose captions go into a list; returns where its page is."""
    stream.start(lately.append)
    time.sleep(2 * _SETTLE_S)
    return sink.url


def _metrics(url: str) -> dict[str, float]:
    """Pictures that were encoded and sent so far."""
    with urllib.request.urlopen(f"{url}metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {
        "encoded": float(values["camscribe_web_pictures_encoded_total"]),
        "sent": float(values['camscribe_web_pictures_sent_total{kind="mjpeg"}']),
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CamscribeError as error:
        print(f"web_viewers: {error}", file=sys.stderr)
        sys.exit(2)
