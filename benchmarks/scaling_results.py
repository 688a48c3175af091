"""The form of ``results/scaling.json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from camscribe.benchmarks.measure import Environment
from camscribe.benchmarks.results import BundleId
from camscribe.runtime import typed_json
from camscribe.runtime.errors import DataError

SCHEMA = 2


@dataclass(frozen=True)
class Point:
    """One value of what is varied."""

    value: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int


@dataclass(frozen=True)
class Line:
    """Least squares through the medians: ``fixed_ms + slope_ms * x``."""

    x: Literal["value", "1 / value"]
    fixed_ms: float
    slope_ms: float
    r2: float | None
    """Share of the variance that the line explains; None where all medians are the same."""
    doubles_at: float | None
    """Where the slope's part has become as large as the fixed one; None where there is no such value above 0."""
    fixed_95: tuple[float, float] | None
    slope_95: tuple[float, float] | None
    """95 % intervals of both by the bootstrap over the rounds: the noise of the timing, not what bends the line. None
    of fewer than three rounds."""


@dataclass(frozen=True)
class Study:
    """Cost against one size."""

    varied: str
    cost: str
    """What is timed, in words."""
    held: dict[str, int]
    """The other sizes."""
    points: tuple[Point, ...]
    line: Line


@dataclass(frozen=True)
class Graph:
    """What one run of a graph must do, counted from its sizes (``graph_cost.py``) in float32; half of the bytes in half
    precision."""

    macs: int
    """Multiply-adds of its products."""
    weight_bytes: int
    """Of what its products take besides activations, each read once: weights, and the image's features."""
    activation_bytes: int
    """What its products read and write besides."""
    nodes: int
    """Operators of the half-precision graph, which TensorRT is given; of the float32 graph where there is none."""


@dataclass(frozen=True)
class Scaling:
    """The whole of ``scaling.json``."""

    schema: int
    environment: Environment
    bundle: BundleId
    precision: str
    graphs: dict[str, Graph]
    """``encoder`` of one image, and ``decoder``, one step of the bundle's beams."""
    beams: int
    steps: int
    """Of an ordinary caption, ``</s>`` counted."""
    studies: dict[str, Study]
    left_out: dict[str, str]
    """Studies that were not made, and why."""


def read_scaling(text: str) -> Scaling:
    """Reads ``scaling.json``.

    Raises:
        DataError: it is of another version or form; one line that lists everything wrong.
    """
    try:
        value: Any = typed_json.parse(text)
    except ValueError as error:
        raise DataError(f"the scaling study is not JSON ({error})") from error
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        found = value.get("schema") if isinstance(value, dict) else None
        raise DataError(f"the scaling study has schema {found}; this release reads schema {SCHEMA}: measure again")
    problems: list[str] = []
    result = typed_json.decode(Scaling, value, "scaling", problems)
    if problems:
        raise DataError(f"the scaling study: {'; '.join(problems)}")
    made: Scaling = result
    return made


def summary(made: Scaling) -> str:
    """The lines, for people."""
    rows = [f"{'varied':<12}{'values':<24}{'fixed ms':>10}{'slope ms':>10}{'r2':>8}  cost"]
    for name, item in made.studies.items():
        values = ", ".join(str(point.value) for point in item.points)
        r2 = "" if item.line.r2 is None else f"{item.line.r2:.3f}"
        rows.append(f"{name:<12}{values:<24}{item.line.fixed_ms:>10.3f}{item.line.slope_ms:>10.4f}{r2:>8}  {item.cost}")
    rows += [f"{name:<12}left out: {reason}" for name, reason in made.left_out.items()]
    return "\n".join(rows)
