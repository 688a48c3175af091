"""``camscribe doctor``: what of this machine works, what does not, and the command that mends it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from camscribe.runtime.commands.arguments import Parser, add_bundle_argument
from camscribe.runtime.doctor.examine import examine
from camscribe.runtime.doctor.machine import Machine
from camscribe.runtime.doctor.private import Scrubber


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns 0 where captioning works with at least one backend, else 1."""
    parser = Parser(
        prog="camscribe doctor",
        description="Shows what of this machine works, what does not, and the command that mends it. Changes nothing. "
        "Exit status 0 where captioning works with at least one backend, else 1.",
    )
    add_bundle_argument(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object for a bug report, without names")
    options = parser.parse_args(argv)
    from camscribe import __version__

    bundle = "" if options.bundle is None else str(Path(options.bundle).absolute())
    report = examine(Machine.here(), __version__, bundle, _looking)
    _looking("")
    if options.json:
        print(json.dumps(report.as_json(Scrubber.here()), indent=1))
    else:
        print("\n".join(report.lines()))
    return 0 if report.captions else 1


def _looking(what: str) -> None:
    """Shows on a terminal what is looked at, in a line that the next one replaces."""
    if sys.stderr.isatty():
        print(f"\r\033[K{f'looking at {what} ...' if what else ''}", end="", file=sys.stderr, flush=True)
