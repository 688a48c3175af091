"""What a caption costs at least on machines that we do not have: a projection by the roofline, never a measurement.

    python -m camscribe.benchmarks.projection [BUNDLE]

A graph takes at least as long as moving its weights and memory through the device's memory once, and as long as its
products take at the published rate; the larger of both is its bound. Both are counted from the graphs (graph_cost.py).
docs/scaling.md holds the result and says what it leaves out.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from camscribe.benchmarks import graph_cost, scripts
from camscribe.benchmarks.peers import usual_steps
from camscribe.benchmarks.report_markdown import table
from camscribe.benchmarks.scaling_results import Graph
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import OptionError


@dataclass(frozen=True)
class Machine:
    """A machine as its maker publishes it."""

    name: str
    bandwidth_gb_per_s: float
    fp16_tflops: float
    """Dense products in half precision on the GPU's tensor cores."""
    source: str


MACHINES = (
    Machine("Jetson Orin Nano 8 GB", 68.0, 10.0, "NVIDIA, Jetson Orin Nano Super announcement (original mode, 15 W)"),
    Machine("Jetson Orin Nano 8 GB, Super mode", 102.0, 17.0, "NVIDIA, Jetson Orin Nano Super announcement (25 W)"),
    Machine("Jetson AGX Orin 64 GB", 204.8, 42.5, "NVIDIA, Jetson AGX Orin technical brief (170 sparse INT8 TOPS / 4)"),
    Machine("Jetson Thor T5000", 273.0, 258.5, "NVIDIA, Jetson Thor data sheet (1035 sparse FP8 TFLOPS / 4)"),
)
"""Tensor rates of sparse INT8 are halved for dense products and halved again for half precision."""


@dataclass(frozen=True)
class Cost:
    """What a graph must at least do for one image."""

    bytes: int
    """Through the memory of the device: weights, and the image's features, read once."""
    operations: int
    """Of its products, multiplication and addition counted apart."""
    passed_bytes: int = 0
    """What its products read and write besides: through memory too, where it does not stay in a cache."""


@dataclass(frozen=True)
class Bound:
    """The floor under a graph on a machine."""

    ms: float
    by: str
    """``memory`` or ``arithmetic``."""


def bound(cost: Cost, machine: Machine, *, cached: bool = True) -> Bound:
    """The larger of the two times.

    Args:
        cost: of a graph.
        machine: what it would run on.
        cached: whether what layers hand to each other stays in caches, as it does at best.
    """
    memory = (cost.bytes + (0 if cached else cost.passed_bytes)) / (machine.bandwidth_gb_per_s * 1e9) * 1e3
    arithmetic = cost.operations / (machine.fp16_tflops * 1e12) * 1e3
    return Bound(max(memory, arithmetic), "memory" if memory >= arithmetic else "arithmetic")


def count(bundle: Bundle, beams: int, threads: int = 1) -> dict[str, Graph]:
    """Operations and bytes of the encoder for one image, and of one decoder step.

    Args:
        bundle: whose float32 graphs are counted.
        beams: K.
        threads: of the CPU, which runs each graph some times to learn its sizes.

    Raises:
        BundleError: a graph does not run with so many beams.
    """
    counted = {}
    for name in ("encoder", "decoder"):
        cost = graph_cost.cost(bundle.graph("float32", name), {"B": 1, "K": beams}, threads, runs=1)
        half = "fp16" if "fp16" in bundle.manifest.precisions else "float32"
        counted[name] = Graph(
            macs=sum(cost.macs.values()),
            weight_bytes=cost.weight_bytes,
            activation_bytes=cost.activation_bytes,
            nodes=graph_cost.nodes(bundle.graph(half, name)),
        )
    return counted


def costs(graphs: Mapping[str, Graph]) -> tuple[Cost, Cost]:
    """Of the encoder, and of one decoder step, in half precision."""
    encoder, step = (
        Cost(graphs[name].weight_bytes // 2, 2 * graphs[name].macs, graphs[name].activation_bytes // 2)
        for name in ("encoder", "decoder")
    )
    return encoder, step


HEAD = ("machine", "memory, GB/s", "fp16, TFLOPS", "encoder, ms", "a step, ms", "caption, ms", "limited by")


def rows(encoder: Cost, step: Cost, steps: int) -> list[tuple[str, ...]]:
    """The projection, a row for each machine, under ``HEAD``."""
    made = []
    for machine in MACHINES:
        best, worst, each = bound(encoder, machine), bound(encoder, machine, cached=False), bound(step, machine)
        low, high = best.ms + steps * each.ms, worst.ms + steps * each.ms
        made.append(
            (
                machine.name,
                f"{machine.bandwidth_gb_per_s:g}",
                f"{machine.fp16_tflops:g}",
                f"{best.ms:.2f} to {worst.ms:.2f}",
                f"{each.ms:.3f}",
                f"{low:.2f} to {high:.2f}",
                f"encoder {worst.by}, steps {each.by}",
            )
        )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the projection; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, help="a folder (default: the bundle that comes with camscribe)")
    parser.add_argument("--beams", type=int, help="K (default: the bundle's)")
    parser.add_argument("--steps", type=int, help="of a caption (default: of an ordinary one of the bundle)")
    options = parser.parse_args(argv)
    for name in ("beams", "steps"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise OptionError(f"--{name} is {value}; expected 1 or more")
    bundle = Bundle.load(options.bundle)
    encoder, step = costs(count(bundle, options.beams or bundle.manifest.search.beams))
    for name, cost in (("encoder", encoder), ("step", step)):
        print(
            f"{name}: {cost.bytes / 1e6:.2f} MB, {cost.operations / 1e6:.0f} million operations, "
            f"{cost.passed_bytes / 1e6:.2f} MB between layers"
        )
    print("\n".join(table(HEAD, rows(encoder, step, options.steps or usual_steps(bundle)))))
    return 0


if __name__ == "__main__":
    scripts.end(main, "projection")
