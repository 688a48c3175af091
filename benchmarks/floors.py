"""The floor of a variant, timed in turn with it: its graphs alone, without our loop, selection and pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from camscribe.benchmarks.schema import Missing
from camscribe.benchmarks.variants import Opened
from camscribe.runtime.errors import CamscribeError
from camscribe.runtime.pixels import Pixels, reduce
from camscribe.runtime.tensorrt.executor import EngineExecutor

RAW = "reducing pixels, gathering states by beam, selection, stop rule, ranking, words; same threads and options"
ENGINES = (
    "reducing pixels, looks at the trace, stop rule, ranking, words; the engines' own selection is in the floor, "
    "because it cannot be cut out of an engine"
)
Run = Callable[[int], Any]
"""Runs the encoder and so many steps."""


def open_floor(variant: Opened, image: Pixels, folder: Path, threads: int | None) -> tuple[Run, str] | Missing:
    """What runs the floor of a variant, and what it leaves out.

    Args:
        variant: opened.
        image: a photograph, from which the graphs' inputs are made. What time they take does not depend on it.
        folder: for the cut graphs.
        threads: of a CPU.
    """
    pixels = reduce(image, variant.bundle.manifest.pixels)
    options = variant.bundle.manifest.search
    if isinstance(variant.executor, EngineExecutor):
        executor, bias = variant.executor, variant.bundle.vocabulary.bias(options.ban)

        def engines(steps: int) -> None:
            executor.encode(pixels[None], options, bias)
            for _ in range(steps):
                executor.step()
            executor.trace()

        return engines, ENGINES
    if variant.backend != "cpu":
        return Missing(f"the graphs alone are not run on {variant.backend}")
    try:
        from camscribe.benchmarks.raw import RawGraphs
    except ModuleNotFoundError as error:
        return Missing(f"the package {error.name} is not installed, which cuts the selection out of the graph")
    own = folder / variant.name.replace("/", "_").replace(" ", "_")
    try:
        own.mkdir(parents=True, exist_ok=True)
        raw = RawGraphs(variant.bundle, variant.precision, options.beams, own, threads)
    except (CamscribeError, KeyError, ValueError) as error:
        return Missing(f"the selection cannot be cut out of the graph: {error}")
    raw.set_image(pixels)
    return raw.run, RAW
