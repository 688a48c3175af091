"""The projection: its arithmetic, its counts, and that docs/scaling.md calls it what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from camscribe.benchmarks import projection
from camscribe.benchmarks.projection import MACHINES, Cost, Machine, bound, costs, count
from camscribe.runtime.bundle import Bundle
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


def test_a_step_of_the_shipped_model_is_counted_as_by_hand() -> None:
    """1,900 words, widths of 192 (attention), 256 (embedding, features) and 384 (state), a grid of 8 x 8, 3 beams."""
    bundle = Bundle.load(None)
    graphs = count(bundle, beams=3)
    encoder, step = costs(graphs)
    weights = 384 * (192 + 256 + 4 * 384) + 192 + 512 * 1536 + 640 * 256 + 256 * 1900
    attention = 64 * (256 + 192)
    assert step.operations == 2 * 3 * (weights - 192 + attention)
    assert step.bytes == 2 * (weights + 64 * 256)
    # EfficientNet-Lite2 at 256 x 256 has 751 million (575 at 224 x 224), and the projections.
    assert 2 * 751e6 < encoder.operations < 2 * 785e6
    assert 5e6 < encoder.bytes / 2 < 5.5e6
    assert encoder.passed_bytes > encoder.bytes
    assert (graphs["encoder"].nodes, graphs["decoder"].nodes) == (145, 98)
    more = costs(count(bundle, beams=6))[1]
    assert more.operations == 2 * step.operations
    assert more.bytes == step.bytes


def test_the_document_calls_it_a_projection(repository: Path) -> None:
    text = (repository / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert "None of these numbers was measured" in text
    for machine in MACHINES:
        assert f"| {machine.name} | {machine.bandwidth_gb_per_s:g} | {machine.fp16_tflops:g} |" in text
        assert machine.source


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert projection.main(["--steps", "5", "--beams", "2"]) == 0
    assert capsys.readouterr().out.count("\n| Jetson") == len(MACHINES)
    with pytest.raises(OptionError, match="--steps is 0; expected 1 or more"):
        projection.main(["--steps", "0"])
