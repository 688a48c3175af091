"""What the robot's sources and sinks share: their URIs, their optional libraries, and what to do about a damaged message."""

from __future__ import annotations

import difflib
import importlib
import platform
from collections.abc import Iterable, Mapping
from types import ModuleType
from urllib.parse import parse_qsl, unquote, urlsplit

from camscribe.runtime.errors import CamscribeError, SourceError

BAD_IN_A_ROW = 30
"""So many messages one behind the other that cannot be read are an error; a few among good ones are passed over."""


def split(uri: str, options: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Takes a URI apart: what stands between ``://`` and ``?``, and the options behind.

    Args:
        uri: such as ``ros2://camera/image_raw?domain=3``.
        options: the names that may be there.

    Raises:
        SourceError: an option is unknown, given twice, or the URI names nothing.
    """
    known = tuple(options)
    parts = urlsplit(uri)
    place = unquote(parts.netloc + parts.path)
    found: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            raise SourceError(f"{uri}: {name!r} is not an option of {parts.scheme}://{meant(name, known)}")
        if name in found:
            raise SourceError(f"{uri}: {name} is given twice")
        found[name] = value
    if not place.strip("/"):
        raise SourceError(f"{uri}: names nothing; expected {parts.scheme}://NAME")
    return place, found


def number(uri: str, options: Mapping[str, str], name: str, default: float, lowest: float, highest: float) -> float:
    """An option that is a number.

    Raises:
        SourceError: it is none, or out of bounds.
    """
    text = options.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not lowest <= value <= highest:
        raise SourceError(f"{uri}: {name} is {text!r}; expected a number from {lowest:g} to {highest:g}")
    return value


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: which one may have been meant, or which there are."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; expected {', '.join(names)}" if names else ""


def need(module: str, what: str, error: type[CamscribeError]) -> ModuleType:
    """Imports an optional library.

    Args:
        module: its dotted name.
        what: what cannot be done without it: a URI or an option.
        error: the error to raise.

    Raises:
        CamscribeError: of the class ``error``: the library is not installed, or does not load.
    """
    try:
        return importlib.import_module(module)
    except ImportError as reason:
        package = module.partition(".")[0]
        hint = 'pip install "camscribe[robot]"'
        if package == "cyclonedds" and platform.machine() == "aarch64":
            hint = (
                "there is no package of it for ARM; where ROS 2 is installed use the node camscribe-ros2, "
                "else zenoh:// with zenoh-bridge-ros2dds"
            )
        raise error(f"{what} needs {package}, which cannot be imported ({reason}): {hint}") from reason


class Patience:
    """Decides whether a message that cannot be read is passed over.

    A radio link now and then damages a JPEG, which must not end a stream. An encoding that nobody knows must: the
    first message says so.
    """

    def __init__(self) -> None:
        self._bad: int | None = None

    def good(self) -> None:
        """A message was read."""
        self._bad = 0

    def bad(self, error: SourceError, uri: str) -> None:
        """A message was not.

        Raises:
            SourceError: it was the first of all, or the last of too many.
        """
        if self._bad is None or self._bad + 1 >= BAD_IN_A_ROW:
            raise SourceError(f"{uri}: {error}") from error
        self._bad += 1
