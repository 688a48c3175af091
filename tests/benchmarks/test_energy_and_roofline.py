"""Energy meters on a described machine; costs and bounds of graphs."""

from __future__ import annotations

from pathlib import Path

import pytest

from camscribe.benchmarks import energy
from camscribe.benchmarks.graph_cost import cost, count
from camscribe.benchmarks.schema import Missing
from camscribe.runtime.bundle import Bundle


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("energy_uj", "9000000"), ("max_energy_range_uj", "10000000")):
        (zone / name).write_text(text)

    def work() -> int:
        (zone / "energy_uj").write_text("3000000")
        return 2

    answer = energy.measure(work, tmp_path)
    assert isinstance(answer, dict)
    row = next(item for item in answer["meters"] if item["source"] == "RAPL package-0")
    assert row["joules_per_caption"] == pytest.approx(2.0)  # 9 to 10, then 0 to 3, by two captions


def test_a_machine_without_meters_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "_nvidia", lambda root: "there is no NVIDIA GPU")
    answer = energy.measure(lambda: 1, tmp_path)
    assert isinstance(answer, Missing)
    assert answer.missing.startswith("not measurable here: ")


@pytest.mark.parametrize(
    ("kind", "left", "right", "out", "macs"),
    [
        ("MatMul", [3, 5], [5, 7], [3, 7], 105),
        ("MatMul", [2, 3, 5], [2, 5, 7], [2, 3, 7], 210),
        ("Conv", [1, 8, 4, 4], [16, 8, 3, 3], [1, 16, 4, 4], 18432),
        ("Conv", [1, 8, 4, 4], [8, 1, 3, 3], [1, 8, 4, 4], 1152),
    ],
)
def test_multiply_adds(kind: str, left: list[int], right: list[int], out: list[int], macs: int) -> None:
    seen = {"op_name": kind, "input_type_shape": [{"float": left}, {"float": right}]}
    assert count("", {**seen, "output_type_shape": [{"float": out}]}, 0.0).macs == macs


def test_the_shipped_int8_decoder_has_fewer_bytes_and_the_same_operations() -> None:
    bundle = Bundle.load(None)
    full, quantised = (cost(bundle.graph(p, "decoder"), {"B": 1, "K": 3}, 1, 1) for p in ("float32", "int8"))
    assert sum(full.macs.values()) == sum(quantised.macs.values())
    assert quantised.macs["int8"] > 0.9 * full.macs["float32"]
    assert 3 < full.weight_bytes / quantised.weight_bytes < 4.1
