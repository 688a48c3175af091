"""Interleaved timing, ratios of what was timed side by side, and where it was timed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import numpy as np

from camscribe.runtime.threads import physical_cores

_PACKAGES = ("numpy", "onnxruntime", "opencv-python-headless", "pillow", "torch", "torchvision")
Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Ratio:
    """How long one thing takes beside another, from pairs timed one after the other."""

    name: str
    numerator: str
    denominator: str
    median: float
    """Of the paired ratios."""
    p10: float
    p90: float
    pairs: int
    numerator_ms: float
    """Median."""
    denominator_ms: float
    """Median."""
    bound: Literal["at most", "at least", "none"] = "none"
    limit: float | None = None
    """What the median is asked to be."""
    met: bool | None = None


@dataclass(frozen=True)
class Environment:
    """Where, when and with what something was measured."""

    date: str
    cpu: str
    cores: int
    """Physical cores this process may use; also the number of threads of everything that is measured."""
    system: str
    python: str
    packages: dict[str, str]
    load_average: float
    """Over the minute before; well below 1 on a machine that does nothing else."""
    commit: str
    command: str


def interleave(
    variants: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 3, pause_s: float = 0.0
) -> Seconds:
    """Times all variants in turn (A B C A B C ...), so that what disturbs the machine disturbs all alike.

    Args:
        variants: what to time, by name.
        rounds: how often each is timed.
        warm_up: how often each runs before.
        pause_s: rest before every timed run, for variants whose threads go on spinning after their work.

    Returns:
        By name, the seconds of each round.
    """
    for _ in range(warm_up):
        for run in variants.values():
            run()
    seconds: Seconds = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            if pause_s:
                time.sleep(pause_s)
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def merge(parts: Sequence[Seconds]) -> Seconds:
    """Puts several interleaved measurements of the same variants (of several images, say) into one."""
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}


def ratio(
    name: str,
    seconds: Seconds,
    numerator: str,
    denominator: str,
    bound: Literal["at most", "at least", "none"] = "none",
    limit: float | None = None,
) -> Ratio:
    """The ratio of two variants of an interleaved measurement."""
    over, under = np.array(seconds[numerator]), np.array(seconds[denominator])
    p10, median, p90 = (float(value) for value in np.percentile(over / under, [10, 50, 90]))
    met = None if limit is None else bool(median <= limit if bound == "at most" else median >= limit)
    return Ratio(
        name,
        numerator,
        denominator,
        round(median, 4),
        round(p10, 4),
        round(p90, 4),
        len(over),
        milliseconds(seconds[numerator]),
        milliseconds(seconds[denominator]),
        bound,
        limit,
        met,
    )


def milliseconds(seconds: Sequence[float]) -> float:
    """Median, in milliseconds."""
    return round(float(np.median(seconds)) * 1e3, 4)


def environment() -> Environment:
    """The present one."""
    return Environment(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        cpu=_cpu(),
        cores=physical_cores(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        packages={name: version for name in _PACKAGES if (version := package_version(name))},
        load_average=round(os.getloadavg()[0], 2),
        commit=_commit(),
        command=" ".join([*_program(), *map(portable, sys.argv[1:])]),
    )


def portable(argument: str) -> str:
    """A command-line argument without the machine's own folders: relative to here, or the file's name alone.

    The same of the path in a ``NAME=PATH``.
    """
    name, equals, value = argument.rpartition("=")
    if equals and Path(value).is_absolute():
        return f"{name}={portable(value)}"
    path = Path(argument)
    if not path.is_absolute():
        return argument
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else f".../{path.name}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()


def package_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    """The checkout's commit, with ``+`` where files that git knows were changed since."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], check=False).returncode != 0
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}{'+' if changed else ''}"


def _program() -> list[str]:
    """``python -m MODULE``, or the name of an installed command."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["python", "-m", spec.name] if spec else [Path(sys.argv[0]).name]
