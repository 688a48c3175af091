"""What the robot's sources and sinks share: optional libraries, topics that are not there, errors with their place."""

from __future__ import annotations

import difflib
import importlib
import platform
from collections.abc import Iterable
from types import ModuleType

from camscribe.runtime.errors import EngineError, SourceError


def need(module: str, what: str, extra: str) -> ModuleType:
    """Imports an optional library.

    Args:
        module: its dotted name.
        what: what cannot be done without it: a URI or an option.
        extra: what ``pip install "camscribe[...]"`` must have brought.

    Raises:
        EngineError: it is not installed, or does not load.
    """
    try:
        return importlib.import_module(module)
    except ImportError as reason:
        package = module.partition(".")[0]
        hint = f'pip install "camscribe[{extra}]"'
        if package == "cyclonedds" and platform.machine() == "aarch64":
            hint = (
                "there is no package of it for ARM; use the node camscribe-ros2 where ROS 2 is installed, "
                "else zenoh:// through zenoh-bridge-ros2dds"
            )
        raise EngineError(f"{what} needs {package}, which cannot be imported ({reason}): {hint}") from reason


def not_among(name: str, topics: Iterable[str]) -> str:
    """The end of a message about a topic that is not there: which one may have been meant, and which there are."""
    names = sorted(set(topics))
    if not names:
        return "; there is no topic of images here"
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return (f"; did you mean {close[0]}?" if close else "") + f"; topics of images here: {', '.join(names)}"


def located(error: SourceError, where: object) -> SourceError:
    """The same error with the place where it happened before it."""
    return type(error)(f"{where}: {error}")
