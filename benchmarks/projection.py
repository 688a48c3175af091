"""What a caption costs at least on machines that we do not have: a projection by the roofline, never a measurement.

    python -m camscribe.benchmarks.projection --checkpoint CHECKPOINT

A graph takes at least as long as moving its weights and memory through the device's memory once, and as long as its
products take at the published rate; the larger of both is its bound. docs/scaling.md holds the result and says what it
leaves out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from camscribe.runtime.errors import CamscribeError, OptionError

if TYPE_CHECKING:
    from camscribe.benchmarks.peers.tutorial_weights import Weights

_HALF = 2
"""Bytes of a number in fp16."""


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
    """Through the memory of the device: weights and inputs read once."""
    operations: int
    """Of its products, multiplication and addition counted apart."""
    passed_bytes: int = 0
    """What its layers hand to each other, written and read: through memory too, where it does not stay in a cache."""


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


def costs(weights: Weights, beams: int) -> tuple[Cost, Cost]:
    """Of the encoder, and of one decoder step, of a checkpoint in fp16."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    peer = weights.tutorial()
    model = weights.model
    passed = 0

    def count(module: torch.nn.Module, taken: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        nonlocal passed
        passed += _HALF * (taken[0].numel() + made.numel())

    for module in peer.encoder.modules():
        if isinstance(module, torch.nn.Conv2d):  # what stands between two is fused into one of them
            module.register_forward_hook(count)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        grid = peer.encoder(torch.zeros(1, 3, model["image_height"], model["image_width"]))
    positions, width = grid.shape[1] * grid.shape[2], grid.shape[3]
    made = {name: value for name, value in weights.tensors.items() if value.dim() > 1}
    in_encoder = ("backbone.", "decoder.project.", "decoder.keys.", "decoder.initial.")
    encoder_weights = sum(value.numel() for name, value in made.items() if name.startswith(in_encoder))
    keys, initial = made["decoder.keys.weight"].numel(), made["decoder.initial.weight"].numel()
    encoder = Cost(_HALF * encoder_weights, counter.get_total_flops() + 2 * (positions * keys + initial), passed)
    rest = {name: value for name, value in made.items() if not name.startswith(in_encoder)}
    attention = len(made["decoder.keys.weight"])
    step_weights = sum(value.numel() for value in rest.values())
    # An embedding is looked up; where it also makes the words, it is counted as that matrix.
    looked_up = 0 if "decoder.word_bias" in weights.tensors else rest["decoder.embedding.weight"].numel()
    products = step_weights - looked_up
    memory = positions * (width + attention)
    step = Cost(_HALF * (products + memory), 2 * beams * (products + memory))
    return encoder, step


def table(encoder: Cost, step: Cost, steps: int) -> str:
    """The projection as a table in Markdown."""
    rows = [
        "| machine | memory, GB/s | fp16, TFLOPS | encoder, ms | a step, ms | caption, ms | limited by |",
        "|---|---|---|---|---|---|---|",
    ]
    for machine in MACHINES:
        best, worst, each = bound(encoder, machine), bound(encoder, machine, cached=False), bound(step, machine)
        low, high = best.ms + steps * each.ms, worst.ms + steps * each.ms
        rows.append(
            f"| {machine.name} | {machine.bandwidth_gb_per_s:g} | {machine.fp16_tflops:g} | {best.ms:.2f} to "
            f"{worst.ms:.2f} | {each.ms:.3f} | {low:.2f} to {high:.2f} | encoder {worst.by}, steps {each.by} |"
        )
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the projection; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="of camscribe; needs PyTorch")
    parser.add_argument("--beams", type=int, default=3, help="K (default: 3)")
    parser.add_argument("--steps", type=int, default=11, help="of a caption (default: 11)")
    options = parser.parse_args(argv)
    if options.beams < 1 or options.steps < 1:
        raise OptionError(f"--beams {options.beams} --steps {options.steps}; expected 1 or more of each")
    from camscribe.benchmarks.peers.tutorial_weights import Weights

    encoder, step = costs(Weights.read(options.checkpoint), options.beams)
    for name, cost in (("encoder", encoder), ("step", step)):
        print(
            f"{name}: {cost.bytes / 1e6:.2f} MB, {cost.operations / 1e6:.0f} million operations, "
            f"{cost.passed_bytes / 1e6:.2f} MB between layers"
        )
    print(table(encoder, step, options.steps))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CamscribeError as error:
        print(f"projection: {error}", file=sys.stderr)
        sys.exit(2)
