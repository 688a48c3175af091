"""The tail of every benchmark's command line: its JSON written whole, its exit status, errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from camscribe.benchmarks.startup import command_line
from camscribe.runtime import typed_json
from camscribe.runtime.errors import CamscribeError, OptionError
from camscribe.runtime.files import make_folder, write_atomically


def prepare(out: Path | None) -> None:
    """Makes sure that ``--out FILE`` can be written, before minutes are spent on it.

    Raises:
        OptionError: its folder cannot be made or written into.
    """
    if out is not None:
        make_folder(out.parent, "--out")


def write(made: Any, out: Path) -> None:
    """Writes a dataclass as JSON, whole or not at all.

    Raises:
        SourceError: it cannot be written.
    """
    text = json.dumps(typed_json.encode(made), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(out, f"{text}\n".encode())


def camscribe(arguments: Sequence[str], *, show: bool = True) -> None:
    """Runs ``camscribe``, so that this folder needs nothing of the training side.

    Args:
        arguments: the command and its options.
        show: what it prints.

    Raises:
        OptionError: it failed, with its own last words.
    """
    output = None if show else subprocess.PIPE
    done = subprocess.run([*command_line(), *arguments], stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise OptionError(f"camscribe {arguments[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]:.300}")


def kept_scores(report: Path, source: Path, evaluate: Callable[[], object]) -> dict[str, Any]:
    """The scores in a report of ``camscribe evaluate``, which is made where none is younger than what it is of.

    Args:
        report: where it lies.
        source: the bundle's manifest or the checkpoint that is scored.
        evaluate: makes the report.

    Raises:
        OptionError: the report's folder cannot be made or written into.
    """
    if not report.exists() or report.stat().st_mtime < source.stat().st_mtime:
        make_folder(report.parent, "--runs")
        evaluate()
    return dict(json.loads(report.read_text(encoding="utf-8"))["scores"])


def end(main: Callable[[], int], name: str) -> NoReturn:
    """Runs a command and ends the process: 2 for what the user can mend, 130 for Ctrl-C."""
    try:
        status = main()
    except CamscribeError as error:
        print(f"{name}: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)
