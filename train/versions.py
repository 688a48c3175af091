"""The versions that a report was made with."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata

from camscribe import __version__


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of camscribe, of Python, and of those of ``packages`` that are installed."""
    installed = {found.name: found.version for found in metadata.distributions() if found.name in packages}
    return {"camscribe": __version__, "python": platform.python_version(), **dict(sorted(installed.items()))}
