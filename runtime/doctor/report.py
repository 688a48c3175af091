"""The report: what was found, as lines for people and as JSON for bug reports."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from camscribe.runtime.doctor.known import Support
from camscribe.runtime.doctor.private import Scrubber

SCHEMA = 1
"""Version of the JSON, raised when a field changes its meaning or goes. docs/doctor.md describes it."""

Status = Literal["ok", "warning", "broken", "absent"]
"""``ok``: works. ``warning``: works, but not as well as it could. ``broken``: is there and does not work.
``absent``: is not there; ``mend`` says how to get it, where this machine has a use for it."""


@dataclass(frozen=True)
class Item:
    """One thing that was looked at."""

    name: str
    """For programs: ``onnxruntime``."""
    title: str
    """For people: ``ONNX Runtime``."""
    status: Status
    detail: str
    """One line: what was found, and what is wrong with it."""
    version: str | None = None
    support: Support | None = None
    """What was done with this version of it; None where it has none."""
    mend: str | None = None
    """The one command that mends it, None where nothing needs mending or no command does."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """More for a bug report; what is in there may change without notice."""

    @property
    def works(self) -> bool:
        """Whether it can be used."""
        return self.status in ("ok", "warning")


@dataclass(frozen=True)
class Report:
    """Everything that was found."""

    camscribe: str
    """Version of camscribe."""
    system: str
    """``Linux aarch64``."""
    items: tuple[Item, ...]
    backends: tuple[Item, ...]
    """Named as for ``--backend``; judged by captioning the bundle's own test images."""

    @property
    def captions(self) -> bool:
        """Whether captioning works with at least one backend."""
        return any(item.works for item in self.backends)

    def as_json(self, scrubber: Scrubber) -> dict[str, Any]:
        """What ``--json`` prints: names of users and of the machine, and paths of homes, are taken out."""
        whole = {
            "schema": SCHEMA,
            "camscribe": self.camscribe,
            "system": self.system,
            "captions": self.captions,
            "items": [_as_json(item) for item in self.items],
            "backends": [_as_json(item) for item in self.backends],
        }
        cleaned: dict[str, Any] = scrubber.clean(whole)
        return cleaned

    def lines(self) -> Iterator[str]:
        """The report for people."""
        yield f"camscribe {self.camscribe}, {self.system}"
        yield ""
        for item in self.items:
            yield from _lines(item)
        yield ""
        yield "backends"
        for item in self.backends:
            yield from _lines(item)
        yield ""
        working = [item.name for item in self.backends if item.works]
        yield f"captioning works: --backend {' or '.join(working)}" if working else "captioning does not work here"


def _as_json(item: Item) -> dict[str, Any]:
    return {
        "name": item.name,
        "status": item.status,
        "version": item.version,
        "support": item.support,
        "detail": item.detail,
        "mend": item.mend,
        "facts": dict(item.facts),
    }


def _lines(item: Item) -> Iterator[str]:
    remark = f" ({item.support})" if item.support not in (None, "run") else ""
    yield f"{item.status:8} {item.title:16} {item.detail}{remark}"
    if item.mend is not None:
        yield f"{'':8} {'':16} mend: {item.mend}"


def pip_install(*requirements: str) -> str:
    """The command that installs some requirements."""
    return f"pip install {' '.join(_quoted(item) for item in requirements)}"


def _quoted(requirement: str) -> str:
    return requirement if shlex.quote(requirement) == requirement else f'"{requirement}"'
