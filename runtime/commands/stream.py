"""``camscribe stream``: captions the frames of a camera, a file or a topic."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from camscribe.runtime.captioner import Captioner
from camscribe.runtime.commands.arguments import (
    Parser,
    add_bundle_argument,
    add_device_arguments,
    add_enhance_arguments,
    add_search_arguments,
    open_enhancer,
    print_choice,
    search_options,
)
from camscribe.runtime.errors import OptionError
from camscribe.runtime.guided.arguments import add_guided_arguments, guided_changes
from camscribe.runtime.stream import uri
from camscribe.runtime.stream.change import THRESHOLD
from camscribe.runtime.stream.frame import Captioned
from camscribe.runtime.stream.plugs import Plug
from camscribe.runtime.stream.sink import Sink
from camscribe.runtime.stream.stream import CaptionStream
from camscribe.runtime.stream.terminal import TerminalSink

SINKS = {
    "jsonl": Plug("camscribe.runtime.stream.jsonl:JsonlSink", "cpu"),
    "video": Plug("camscribe.runtime.stream.recorder:VideoSink", "cpu"),
    "web": Plug("camscribe.runtime.stream.web.sink:WebSink", "web"),
    "mcap": Plug("camscribe.runtime.stream.mcap:McapSink", "mcap"),
    "ros2": Plug("camscribe.runtime.stream.dds:RosSink", "ros2"),
    "zenoh": Plug("camscribe.runtime.stream.zenoh:ZenohSink", "zenoh"),
}
"""By option. Each is called with the option's value."""
_TWICE_S = 0.5
"""A signal that follows another so soon is the same one: GNU timeout sends each to the process and to its group."""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(argv)
    if options.limit is not None and options.limit < 1:
        raise OptionError(f"--limit is {options.limit}; expected a number of captions from 1 on")
    if not sys.warnoptions:
        # Pillow warns of oddities in files that it reads all the same.
        warnings.filterwarnings("ignore", module=r"PIL\.")
    uri.parse(options.source)  # before the model is loaded, which takes a while
    terminal = TerminalSink(as_json=options.json)
    sinks: list[Sink] = [terminal, *_sinks(options)]
    loaded = Captioner.load(options.bundle, options.backend, options.precision, options.threads)
    with loaded as captioner, open_enhancer(captioner, options):
        print_choice(captioner.choice, verbose=options.verbose)
        stream = CaptionStream(
            captioner,
            options.source,
            sinks,
            search=search_options(captioner, options, guided_changes(options)),
            rate=options.rate,
            on_change=options.change_threshold if options.on_change else None,
            max_age_ms=options.max_age,
            report=_report,
        )
        with stream, _signals() as received:
            _run(stream, options, lambda: bool(received or terminal.error))
        if terminal.error is not None:
            raise terminal.error
        return _end(stream, as_json=options.json)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="camscribe stream",
        description="Captions the newest frame of a source, again and again, until it ends or Ctrl-C.",
        epilog=f"sources:\n{uri.describe()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="a camera's number, a file, a folder, or a URI: see below")
    add_bundle_argument(parser)
    pace = parser.add_argument_group("pace")
    pace.add_argument("--rate", type=float, metavar="R", help="captions a second at most (default: as many as it can)")
    pace.add_argument("--on-change", action="store_true", help="caption only when the scene has changed")
    pace.add_argument(
        "--change-threshold",
        type=float,
        default=THRESHOLD,
        metavar="L",
        help=f"levels of 255 by which the tenth of it that changed most must differ (default: {THRESHOLD:g})",
    )
    pace.add_argument("--max-age", type=float, metavar="MS", help="drop frames that are older, in milliseconds")
    pace.add_argument("--limit", type=int, metavar="N", help="end after so many captions")
    add_search_arguments(parser)
    add_guided_arguments(parser)
    add_enhance_arguments(parser)
    output = parser.add_argument_group("output", "Any number of these, besides lines on the terminal.")
    output.add_argument("--json", action="store_true", help="print a JSON object for each caption, the counters last")
    output.add_argument("--jsonl", type=Path, action="append", metavar="FILE", help="append a line for each caption")
    output.add_argument(
        "--video",
        type=Path,
        action="append",
        metavar="FILE",
        help="record Motion JPEG (.avi) with the captions burnt in",
    )
    output.add_argument("--mcap", type=Path, action="append", metavar="FILE", help="record frames and captions")
    output.add_argument("--web", action="append", metavar="[HOST:]PORT", help="serve a page with the live picture")
    output.add_argument(
        "--web-token",
        default=os.environ.get("CAMSCRIBE_WEB_TOKEN"),
        metavar="TOKEN",
        help="what viewers must know (default: CAMSCRIBE_WEB_TOKEN of the environment)",
    )
    output.add_argument("--ros2", action="append", metavar="TOPIC", help="publish captions over DDS")
    output.add_argument("--zenoh", action="append", metavar="KEY", help="publish captions over Zenoh")
    add_device_arguments(parser)
    return parser


def _sinks(options: argparse.Namespace) -> list[Sink]:
    sinks: list[Sink] = []
    for name, plug in SINKS.items():
        more: dict[str, Any] = {"token": options.web_token} if name == "web" else {}
        sinks += [plug(f"--{name}", value, **more) for value in getattr(options, name) or ()]
    return sinks


def _run(stream: CaptionStream, options: argparse.Namespace, over: Callable[[], bool]) -> None:
    """Captions until the end of the source, ``--limit``, or until it is over."""
    left = options.limit or 0

    def count(_: Captioned) -> None:
        nonlocal left
        left -= 1
        if not left:
            stream.close()

    stream.start(count)
    while not stream.wait(0.1):
        if over():
            return


def _end(stream: CaptionStream, *, as_json: bool) -> int:
    """Says how it went; returns the exit status."""
    counts = stream.counts()
    if as_json:
        print(json.dumps({"counts": counts.to_dict()}), flush=True)
    else:
        print(f"camscribe: {counts.line()} in {counts.seconds:.1f} s", file=sys.stderr)
    return 1 if counts.failed or stream.failed_sinks else 0


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM end the stream as it should end; they are only noted, in a list. A later one interrupts."""
    received: list[int] = []
    first_s = 0.0

    def note(number: int, frame: object) -> None:
        nonlocal first_s
        if not received:
            first_s = time.monotonic()
            received.append(number)
        elif time.monotonic() - first_s > _TWICE_S:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(line: str) -> None:
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{clear}camscribe: {line}", file=sys.stderr, flush=True)
