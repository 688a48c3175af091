"""Which versions this code was run on. The README repeats this table, and a test keeps the two equal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

Support = Literal["run", "API-checked only", "never run"]
"""``run``: our tests ran on this very version. ``API-checked only``: it lies between versions whose modules have every
name that our code uses, but nothing of ours was run on it. ``never run``: neither."""

RUN: dict[str, tuple[str, ...]] = {
    "Python": ("3.10", "3.11", "3.12", "3.13"),
    "ONNX Runtime on a CPU": ("1.23.2", "1.32.0"),
    "ONNX Runtime on CUDA": (),
    "TensorRT": (),
    "PyCUDA": (),
    "JetPack": (),
}
"""What, and the versions that were run; each stands for its later patches, as 3.11 does for 3.11.7."""
API_CHECKED: dict[str, tuple[str, str]] = {"TensorRT": ("8.6", "11.4")}
"""What, and the oldest and the newest version that was compared with the names our code uses."""


def support(what: str, version: str) -> Support:
    """What was done with a version of a key of ``RUN``."""
    parts = version.split(".")
    if any(parts[: len(known.split("."))] == known.split(".") for known in RUN[what]):
        return "run"
    if what in API_CHECKED:
        oldest, newest = (_numbers(end) for end in API_CHECKED[what])
        if oldest <= _numbers(version)[: len(newest)] <= newest:
            return "API-checked only"
    return "never run"


def table() -> Iterator[str]:
    """The table in Markdown."""
    yield "| | run | API-checked only |"
    yield "|---|---|---|"
    for what, versions in RUN.items():
        checked = " to ".join(API_CHECKED[what]) if what in API_CHECKED else ""
        yield f"| {what} | {', '.join(versions) or 'never'} | {checked} |".replace("  |", " |")


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, at least two: 10.3.0.30 is (10, 3, 0, 30), 11 is (11, 0)."""
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple([*numbers, 0, 0][: max(2, len(numbers))])
