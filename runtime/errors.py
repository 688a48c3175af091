"""The errors a user can meet. The command line prints one as a single line and exits 2."""

from __future__ import annotations

import re
from collections.abc import Iterable


class CamscribeError(Exception):
    """Base of all errors caused by input or environment.

    The message says what is wrong, where, what was expected and what to do, in one line.
    """


class BundleError(CamscribeError):
    """Raised when a bundle is missing, altered, incomplete or of another schema."""


class EngineError(CamscribeError):
    """Raised when a graph cannot be compiled, loaded or run on the chosen device."""


class NoEngineError(EngineError):
    """Raised when nothing but a built engine is missing: another backend can do the work, or ``camscribe build``."""


class OptionError(CamscribeError):
    """Raised when an option, or a combination of options, has no meaning."""


class SourceError(CamscribeError):
    """Raised when an image, a folder, a camera or another source of frames cannot be read."""


class DataError(CamscribeError):
    """Raised when training data, a configuration or a checkpoint cannot be used."""


class SinkError(CamscribeError):
    """Raised when captions cannot be delivered to a file, a page or a topic."""


def one_line(text: str) -> str:
    """``text`` with its control characters escaped: file names may hold such, and a terminal would obey them."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: repr(match[0])[1:-1], text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a complaint about ``word``: what of ``known`` is like it, or nothing."""
    import difflib

    close = difflib.get_close_matches(word.lower(), list(known), n=3, cutoff=0.7)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
