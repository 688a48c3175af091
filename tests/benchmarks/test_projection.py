"""The projection: its arithmetic, its counts, and that docs/scaling.md calls it what it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from camscribe.benchmarks import projection
from camscribe.benchmarks.peers.tutorial_weights import Weights
from camscribe.benchmarks.projection import MACHINES, Cost, Machine, bound, costs
from camscribe.runtime.errors import OptionError

MACHINE = Machine("test", bandwidth_gb_per_s=100, fp16_tflops=10, source="none")


def test_the_larger_time_is_the_bound() -> None:
    slow_memory = bound(Cost(bytes=200_000_000, operations=10**10), MACHINE)
    assert (slow_memory.ms, slow_memory.by) == (pytest.approx(2.0), "memory")
    slow_products = bound(Cost(bytes=1000, operations=5 * 10**10), MACHINE)
    assert (slow_products.ms, slow_products.by) == (pytest.approx(5.0), "arithmetic")
    passing = Cost(bytes=100_000_000, operations=0, passed_bytes=300_000_000)
    assert bound(passing, MACHINE).ms == pytest.approx(1.0)
    assert bound(passing, MACHINE, cached=False).ms == pytest.approx(4.0)


def test_costs_are_those_of_the_model(make_checkpoint: Callable[..., Path]) -> None:
    """Counted by hand: 60 words, widths of 32, features of 1280 on a grid of 2 x 2."""
    weights = Weights.read(make_checkpoint("plain", 0))
    encoder, step = costs(weights, beams=3)
    products = (32 + 1280 + 4 * 32) * 32 + 4 * 32 * (32 + 1280) + 32 + 60 * 32
    memory = 4 * (1280 + 32)
    assert step.bytes == 2 * (products + memory)
    assert step.operations == 2 * 3 * (products + memory)
    matrices = sum(value.numel() for name, value in weights.tensors.items() if value.dim() > 1)
    assert encoder.bytes + 2 * products + 2 * 60 * 32 == 2 * matrices  # the embedding is looked up
    assert encoder.operations > 2 * encoder.passed_bytes > 0


def test_the_document_holds_every_machine_and_calls_it_a_projection(repository: Path) -> None:
    text = (repository / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert "None of these numbers was measured" in text
    for machine in MACHINES:
        assert f"| {machine.name} | {machine.bandwidth_gb_per_s:g} | {machine.fp16_tflops:g} |" in text
        assert machine.source


def test_the_command_prints_a_table(make_checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert projection.main(["--checkpoint", str(make_checkpoint("deep", 0)), "--steps", "5"]) == 0
    assert capsys.readouterr().out.count("\n| Jetson") == len(MACHINES)
    with pytest.raises(OptionError, match="expected 1 or more"):
        projection.main(["--checkpoint", "none", "--steps", "0"])
