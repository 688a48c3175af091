"""What the sub-commands' arguments have in common."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, get_args

from camscribe.runtime.errors import OptionError

if TYPE_CHECKING:
    from camscribe.runtime.captioner import Captioner
    from camscribe.runtime.executor import Choice
    from camscribe.runtime.guided.options import OwnChanges
    from camscribe.runtime.search import SearchChanges, SearchOptions


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, like all others of this program."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message}; see {self.prog} --help")


def folder(text: str) -> Path:
    """A ``type`` of arguments that name a folder to write into."""
    if not text:  # a variable of a shell that is not set; as a path it would be the current folder
        raise argparse.ArgumentTypeError("an empty name is no folder; expected the folder to write into")
    return Path(text)


def named_bundle(path: Path | None) -> Path | None:
    """A bundle's folder; the word ``enhancer`` stands for the one that comes with camscribe, unless a folder has it."""
    if path != Path("enhancer") or path.exists():
        return path
    from camscribe.runtime.enhancer_bundle import DEFAULT_ENHANCER

    return DEFAULT_ENHANCER


def add_ensemble_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--ensemble``, see ``ensemble_of``."""
    parser.add_argument(
        "--ensemble",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="another bundle with the same words, of any image size, whose probabilities are averaged in (Rennie et "
        "al. 2017); may be given many times",
    )


def ensemble_of(bundle: Path | None, others: Sequence[Path]) -> Path | list[Path] | None:
    """What ``Captioner.load`` takes: a bundle (None for the one that comes with camscribe), alone or with others."""
    from camscribe.runtime.bundle import DEFAULT_BUNDLE

    return [bundle or DEFAULT_BUNDLE, *others] if others else bundle


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


def add_enhance_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--enhance`` and ``--enhancer``, which ``open_enhancer`` reads."""
    group = parser.add_argument_group("small images")
    group.add_argument(
        "--enhance",
        type=int,
        metavar="PIXELS",
        help="enlarge and sharpen images whose shorter side is below this before they are captioned (default: none; "
        "docs/enhance.md says what it does to captions)",
    )
    group.add_argument(
        "--enhancer", type=Path, metavar="FOLDER", help="what enhances (default: the one that comes with camscribe)"
    )


def open_enhancer(captioner: Captioner, options: argparse.Namespace) -> contextlib.AbstractContextManager[object]:
    """Lets a captioner enhance as ``--enhance`` asks; the enhancer lives until the returned context is left.

    Raises:
        BundleError: the enhancer cannot be used.
        OptionError: the size has no meaning, or an enhancer is named that nothing asks for.
    """
    if options.enhance is None:
        if options.enhancer is not None:
            raise OptionError("--enhancer is given without --enhance PIXELS")
        return contextlib.nullcontext()
    from camscribe.runtime.enhancer import Enhancer

    backend: Literal["auto", "cpu"] = "cpu" if options.backend == "cpu" else "auto"
    # Its default variant, of least error, is what the shipped captioner gains from: see docs/enhance.md.
    enhancer = Enhancer.load(named_bundle(options.enhancer), backend, threads=options.threads)
    captioner.enhance_below(options.enhance, enhancer)
    return enhancer


def add_bundle_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--bundle``."""
    parser.add_argument(
        "--bundle", type=Path, metavar="FOLDER", help="the captioner (default: the one that comes with camscribe)"
    )


def add_search_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds ``--beams``, ``--length-penalty``, ``--max-words``, ``--min-words``, ``--ban``, ``--nbest`` and ``--stop``.

    Returns:
        Their group, for more of the kind.
    """
    from camscribe.runtime.search import StopRule

    group = parser.add_argument_group("search", "The defaults are the bundle's; camscribe info shows them.")
    group.add_argument("--beams", type=int, metavar="K", help="sentences followed at a time; 1 is greedy search")
    group.add_argument("--length-penalty", type=float, metavar="A", help="score = log-probability / words**A")
    group.add_argument("--max-words", type=int, metavar="N", help="a caption is cut there")
    group.add_argument("--min-words", type=int, metavar="N", help="a caption does not end before")
    group.add_argument(
        "--ban",
        action="append",
        default=[],
        metavar="WORD",
        help="a word that may not appear; may be given many times. Bundles ban <unk>, the unknown word, by themselves",
    )
    group.add_argument("--nbest", type=int, metavar="N", help="sentences shown for an image, best first")
    group.add_argument(
        "--stop",
        choices=get_args(StopRule),
        help="end when no sentence can still become one of the best (optimal), or when K have ended (first_k, which a "
        "length penalty below 0 needs)",
    )
    return group


def search_changes(options: argparse.Namespace) -> SearchChanges:
    """What the arguments of ``add_search_arguments`` change in the bundle's search, besides ``ban``."""
    return {
        "beams": options.beams,
        "length_penalty": options.length_penalty,
        "max_words": options.max_words,
        "min_words": options.min_words,
        "nbest": options.nbest,
        "stop": options.stop,
    }


def search_options(captioner: Captioner, options: argparse.Namespace, guided: OwnChanges) -> SearchOptions:
    """What ``add_search_arguments`` was given.

    Args:
        captioner: whose defaults these options change.
        options: of the command line.
        guided: see ``camscribe.runtime.guided.arguments.guided_changes``.

    Raises:
        OptionError: it has no meaning, or names a word that the model does not have.
    """
    return captioner.options(options.ban, **search_changes(options), **guided)


def print_choice(choice: Choice, *, verbose: bool) -> None:
    """Says which backend was taken and why, where that was asked for or is not what one would think."""
    if verbose or choice.surprising:
        for reason in choice.reasons:
            print(f"camscribe: backend {reason}", file=sys.stderr)
