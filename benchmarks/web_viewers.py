"""What viewers of the web page cost the captioner: with nobody, with readers, with readers and as many that stall.

    python -m camscribe.benchmarks.web_viewers --out benchmarks/results/web_viewers.json

One stream captions ``test://`` at 30 Hz all the while; viewers come and go in turn, so that what disturbs the machine
disturbs all alike. They are on this machine, in a process of the lowest priority, and only on its loopback; what
remains of their own work is in the figures. A stalled viewer asks for ``/stream.mjpg`` and reads nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    parser.add_argument("--visit", nargs=3, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.visit:
        asyncio.run(_visit(*options.visit))
        return 0
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
        with stream:
            stream.start(lately.append)
            port = int(sink.url.rstrip("/").rpartition(":")[2])
            time.sleep(2 * _SETTLE_S)
            for _ in range(rounds):
                for name, (reading, stalled) in visitors.items():
                    with _visitors(port, reading, stalled):
                        time.sleep(_SETTLE_S)
                        before, began = _metrics(port), time.monotonic()
                        lately.clear()
                        time.sleep(seconds)
                        items, took = list(lately), time.monotonic() - began
                        after = _metrics(port)
                    if not items:
                        raise OptionError(f"no caption in {seconds} s: give --seconds more")
                    intervals[name].append(took / len(items))
                    ages[name].append(float(np.percentile([item.age_ms for item in items], 95)))
                    encoded[name] += after["encoded"] - before["encoded"]
                    sent[name] += after["sent"] - before["sent"]
            with _visitors(port, half, half):
                time.sleep(_SETTLE_S)
                began = time.monotonic()
                stream.close()
                close_s = time.monotonic() - began
            if any(thread.name.startswith("camscribe-web") for thread in threading.enumerate()):
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


@contextlib.contextmanager
def _visitors(port: int, reading: int, stalled: int) -> Iterator[None]:
    """So many viewers in a process of their own, of the lowest priority."""
    if not reading + stalled:
        yield
        return
    command = [
        sys.executable,
        "-m",
        "camscribe.benchmarks.web_viewers",
        "--visit",
        str(port),
        str(reading),
        str(stalled),
    ]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=lambda: os.nice(19))
    try:
        if child.stdout is None or child.stdout.readline() != b"all are there\n":
            raise OptionError("the viewers did not get to the page")
        yield
    finally:
        child.communicate()  # the end of its input sends them away


async def _visit(port: int, reading: int, stalled: int) -> None:
    """Keeps so many connections until the standard input ends."""
    tasks = [asyncio.create_task(_view(port, reads=index < reading)) for index in range(reading + stalled)]
    arrived = [await each for each in tasks]
    readers = [asyncio.create_task(_read(reader)) for reader, _, reads in arrived if reads]
    print("all are there", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in readers:
        task.cancel()
    for _, writer, _ in arrived:
        writer.transport.abort()


async def _view(port: int, *, reads: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bool]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
    if not (await reader.readline()).startswith(b"HTTP/1.1 200"):
        raise OptionError("/stream.mjpg was refused")
    if not reads:
        transport: Any = writer.transport
        transport.pause_reading()
    return reader, writer, reads


async def _read(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 20):
        pass


def _metrics(port: int) -> dict[str, float]:
    """Pictures that were encoded and sent so far."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
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
