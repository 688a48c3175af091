"""What other modules of this folder measure, taken where they are there: each gives a reason where it is not.

A module that is absent, a package that it lacks, or a machine that refuses, costs its own part of the report only.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from camscribe.benchmarks.schema import Missing, Stage
from camscribe.benchmarks.variants import Opened
from camscribe.runtime import typed_json
from camscribe.runtime.errors import CamscribeError

ENERGY_SECONDS = 5.0
"""How long a variant captions without a pause for its energy to be read."""


def module(name: str) -> ModuleType | Missing:
    """``camscribe.benchmarks.NAME``, or why it cannot be imported."""
    try:
        return importlib.import_module(f"camscribe.benchmarks.{name}")
    except ModuleNotFoundError as error:
        if error.name == f"camscribe.benchmarks.{name}":
            return Missing("this release has no " + name)
        return Missing(f"the package {error.name} is not installed")


def ask(name: str, function: str, *arguments: Any, **options: Any) -> Any:
    """What a function of another module answers, as plain values; ``Missing`` where there is none."""
    found = module(name)
    if isinstance(found, Missing):
        return found
    call: Callable[..., Any] | None = getattr(found, function, None)
    if call is None:
        return Missing("this release has no " + name)
    try:
        answer = call(*arguments, **options)
    except (CamscribeError, OSError) as error:
        return Missing(str(error))
    return answer if isinstance(answer, Missing) else typed_json.encode(answer)


def energy(work: Callable[[int], object], items: int) -> dict[str, Any] | Missing:
    """Joules per caption: ``energy.measure(work)``, where ``work()`` captions for some seconds and returns how many."""

    def captions() -> int:
        count, end = 0, time.perf_counter() + ENERGY_SECONDS
        while time.perf_counter() < end:
            work(count % items)
            count += 1
        return count

    answer: dict[str, Any] | Missing = ask("energy", "measure", captions)
    return answer


def limits(threads: int | None, *, gpu: bool) -> dict[str, Any] | Missing:
    """What the machine can do at most: ``roofline.limits()``."""
    answer: dict[str, Any] | Missing = ask("roofline", "limits", threads, gpu=gpu)
    return answer


def bound(
    variant: Opened,
    machine: dict[str, Any] | Missing,
    steps: float,
    median_ms: float,
    stages: dict[str, Stage] | Missing,
) -> dict[str, Any] | Missing:
    """How far a variant is from what the machine can do: ``roofline.bound(bundle, precision, backend, ...)``."""
    if isinstance(machine, Missing):
        return machine
    answer: dict[str, Any] | Missing = ask(
        "roofline",
        "bound",
        variant.bundle,
        variant.precision,
        variant.backend,
        machine,
        steps=steps,
        measured_ms=median_ms,
        stages=stages,
    )
    return answer
