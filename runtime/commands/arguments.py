"""What the sub-commands' arguments have in common."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, get_args

from camscribe.runtime.errors import OptionError

if TYPE_CHECKING:
    from camscribe.runtime.captioner import Captioner
    from camscribe.runtime.search import SearchOptions


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, like all others of this program."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message}; see {self.prog} --help")


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--backend``, ``--precision``, ``--threads`` and ``--verbose``."""
    from camscribe.runtime.executor import Backend

    group = parser.add_argument_group("device")
    group.add_argument(
        "--backend",
        choices=get_args(Backend),
        default="auto",
        help="where the graphs run; auto takes the fastest that works here (default: auto), tensorrt first builds the "
        "engines it lacks; cuda, cuda-graph and ort-tensorrt are ONNX Runtime's ways to use a GPU",
    )
    group.add_argument(
        "--precision", help="a precision of the bundle: float32, fp16, int8, ... (default: the bundle's)"
    )
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: one per physical core)")
    group.add_argument("--verbose", action="store_true", help="say which backend was taken, and why")


def add_bundle_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--bundle``."""
    parser.add_argument(
        "--bundle", type=Path, metavar="FOLDER", help="the captioner (default: the one that comes with camscribe)"
    )


def add_search_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds ``--beams``, ``--length-penalty``, ``--max-words``, ``--min-words``, ``--ban`` and ``--nbest``.

    Returns:
        Their group, for more of the kind.
    """
    group = parser.add_argument_group("search", "The defaults are the bundle's; camscribe info shows them.")
    group.add_argument("--beams", type=int, metavar="K", help="sentences followed at a time; 1 is greedy search")
    group.add_argument("--length-penalty", type=float, metavar="A", help="score = log-probability / words**A")
    group.add_argument("--max-words", type=int, metavar="N", help="a caption is cut there")
    group.add_argument("--min-words", type=int, metavar="N", help="a caption does not end before")
    group.add_argument(
        "--ban", action="append", default=[], metavar="WORD", help="a word that may not appear; may be given many times"
    )
    group.add_argument("--nbest", type=int, metavar="N", help="sentences shown for an image, best first")
    return group


def search_options(captioner: Captioner, options: argparse.Namespace) -> SearchOptions:
    """What ``add_search_arguments`` was given.

    Raises:
        OptionError: it has no meaning, or bans a word that the model does not have.
    """
    return captioner.options(
        options.ban,
        beams=options.beams,
        length_penalty=options.length_penalty,
        max_words=options.max_words,
        min_words=options.min_words,
        nbest=options.nbest,
    )


def print_choice(captioner: Captioner, *, verbose: bool) -> None:
    """Says which backend was taken and why, where that was asked for or is not what one would think."""
    choice = captioner.choice
    if verbose or choice.surprising:
        for reason in choice.reasons:
            print(f"camscribe: backend {reason}", file=sys.stderr)
