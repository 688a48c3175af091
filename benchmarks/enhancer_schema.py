"""The form of the ``report.json`` that ``camscribe bench`` writes of an enhancer; see ``schema.py`` for the rules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from camscribe.benchmarks import schema
from camscribe.benchmarks.schema import Build, Memory, Missing, Spread, Stage

KIND: Literal["camscribe bench of an enhancer"] = "camscribe bench of an enhancer"


@dataclass(frozen=True)
class Fidelity:
    """How near the picture is to the one of float32 on the CPU."""

    psnr: float | None
    """dB, of RGB; None where both are the same."""
    largest: int
    """Levels of 255."""


@dataclass(frozen=True)
class EnhancerVariant:
    """One row: an enhancer on a backend in a precision, for one size of image."""

    name: str
    """``BUNDLE VARIANT BACKEND PRECISION WIDTHxHEIGHT``."""
    bundle: str
    variant: str
    backend: str
    precision: str
    size: str
    """Columns x rows of the small image."""
    notes: tuple[str, ...]
    """What a reader should know of how it runs."""
    size_bytes: int
    """Of the files that it reads, weights included."""
    latency_ms: Spread
    """Single stream: ``Enhancer.enhance`` of an array in memory."""
    samples_ms: tuple[float, ...]
    """What ``latency_ms`` is made of, in the order of time."""
    images_per_s: float
    """By the median."""
    stages: Missing | dict[str, Stage]
    """``tiling``, ``graph`` (copies to and from a device included) and ``stitching``, as far as there are several
    tiles; ``per_caption`` is the number of tiles."""
    fidelity: Fidelity
    memory: Memory | Missing
    build: Build | Missing
    energy: Missing | dict[str, Any]
    """Joules per picture and their source, see ``energy.py``."""
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class EnhancerPeer:
    """Something else that runs the same network with the same weights, timed in turn with the variants."""

    name: str
    """``pytorch WIDTHxHEIGHT``."""
    size: str
    description: str
    latency_ms: Spread
    samples_ms: tuple[float, ...]
    ratios: dict[str, float]
    """By the name of a variant: median of peer / variant, of pairs timed one after the other."""
    fidelity: Fidelity


@dataclass(frozen=True)
class EnhancerProtocol:
    """How the single stream was measured."""

    images: tuple[str, ...]
    """What was enhanced: middles of a photograph, ``examples/horses.jpg 320x180``."""
    warm_up: int
    """Runs of each variant before the first that counts."""
    rounds: int
    """Times that each variant enhanced each image, as far as ``seconds`` allowed."""
    seconds: float | None
    seed: int
    """Of the order of sizes and variants within a round."""
    threads: int
    """CPU threads of every variant and peer."""


@dataclass(frozen=True)
class EnhancerFacts:
    """The bundle that was measured."""

    name: str
    manifest_sha256: str
    """Of its bundle.json without measured quality."""
    variant: str
    scale: int
    architecture: dict[str, Any]


@dataclass(frozen=True)
class EnhancerReport:
    """The whole of ``report.json``."""

    schema: int
    kind: Literal["camscribe bench of an enhancer"]
    command: tuple[str, ...]
    partial: bool
    """True where the run was interrupted: what stands here was measured, the rest is missing."""
    environment: dict[str, Any]
    """See ``machine.py``."""
    protocol: EnhancerProtocol
    bundles: tuple[EnhancerFacts, ...]
    variants: tuple[EnhancerVariant, ...]
    left_out: dict[str, str]
    """Variants and peers that were not measured, and why."""
    peers: tuple[EnhancerPeer, ...]
    warnings: tuple[str, ...]


def parse(text: str, where: str = "report.json") -> EnhancerReport:
    """Reads a report's text.

    Raises:
        DataError: it is of another kind or version, or damaged.
    """
    report: EnhancerReport = schema.parse_as(EnhancerReport, KIND, text, where)
    return report


def read(path: Path) -> EnhancerReport:
    """Reads a report; see ``parse``."""
    return parse(schema.read_text(path), str(path))
