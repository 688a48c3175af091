"""Takes out of a report what says whose machine it is about."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_GENERIC = frozenset(("root", "user", "admin", "nvidia", "jetson", "ubuntu", "debian", "localhost", "tegra-ubuntu"))
"""Names that many have; taking them out would spoil paths such as /proc/driver/nvidia."""
_HOMES = re.compile(r"(?<![\w.-])/(?:home|Users|media|run/media)/[^/\s:;,'\"()\]]+")


@dataclass(frozen=True)
class Scrubber:
    """Replaces paths of homes, and names of the user and of the machine."""

    folders: tuple[tuple[str, str], ...] = ()
    """Folder and what is written for it; a folder inside another one must come before it."""
    user: str = ""
    host: str = ""

    @classmethod
    def here(cls) -> Scrubber:
        """For this machine, this user and this installation."""
        import getpass
        import platform
        import sys
        from pathlib import Path

        def or_nothing(read: Any) -> str:
            try:
                return str(read())
            except (OSError, KeyError, RuntimeError, ImportError):  # a container's user need not have a name
                return ""

        folders = {
            str(Path(__file__).resolve().parents[2]): "<camscribe>",
            sys.prefix: "<python>",
            sys.base_prefix: "<python>",
            or_nothing(Path.cwd): ".",
            or_nothing(Path.home): "~",
        }
        plain = {folder: sign for folder, sign in folders.items() if folder not in ("", "/", "/usr", "/usr/local")}
        ordered = sorted(plain.items(), key=lambda pair: -len(pair[0]))
        return cls(tuple(ordered), or_nothing(getpass.getuser), or_nothing(platform.node))

    def clean(self, value: Any) -> Any:
        """The same JSON with every text cleaned."""
        if isinstance(value, str):
            return self._clean(value)
        if isinstance(value, Mapping):
            return {self._clean(key): self.clean(item) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self.clean(item) for item in value]
        return value

    def _clean(self, text: str) -> str:
        for folder, sign in self.folders:
            text = re.sub(rf"{re.escape(folder)}(?![\w.-])", lambda _, sign=sign: sign, text)  # type: ignore[misc]
        text = _HOMES.sub("~", text)
        for name, sign in ((self.user, "<user>"), (self.host, "<host>")):
            if len(name) > 1 and name.lower() not in _GENERIC:
                text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", sign, text)
        return text
