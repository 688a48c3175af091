"""The scaling study: its lines, and a whole run on a small bundle. No time is judged here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from camscribe.benchmarks import scaling
from camscribe.benchmarks.scaling import Times, fit, measure, study, with_errors
from camscribe.benchmarks.scaling_results import read_scaling
from camscribe.runtime.errors import DataError


def test_a_line_is_found_again() -> None:
    line = fit([1, 2, 5, 9], [3.0 + 0.5 * x for x in (1, 2, 5, 9)])
    assert line.fixed_ms == pytest.approx(3.0)
    assert line.slope_ms == pytest.approx(0.5)
    assert line.r2 == pytest.approx(1.0)
    assert line.doubles_at == pytest.approx(6.0)
    threads = fit([1, 2, 4], [2 + 8 / n for n in (1, 2, 4)], "1 / value")
    assert (threads.fixed_ms, threads.slope_ms) == (pytest.approx(2.0), pytest.approx(8.0))
    assert threads.doubles_at is None


def test_a_cost_that_does_not_move_has_no_share_to_explain() -> None:
    line = fit([1, 2, 3], [4.0, 4.0, 4.0])
    assert line.fixed_ms == pytest.approx(4.0)
    assert line.slope_ms == pytest.approx(0.0, abs=1e-9)
    assert line.r2 is None


@pytest.mark.parametrize("values", [[], [3], [3, 3]])
def test_a_line_through_one_value_is_refused(values: list[int]) -> None:
    with pytest.raises(DataError, match="needs two values"):
        fit(values, [1.0] * len(values))


def test_values_are_timed_in_turn_and_the_warm_up_is_not_counted() -> None:
    calls: list[int] = []

    def search(value: int) -> Times:
        calls.append(value)
        return 0.001 * len(calls), 0.002

    times = measure({1: lambda: search(1), 7: lambda: search(7)}, rounds=3, warm_up=1)
    assert calls == [1, 7] * 4
    assert [encode for encode, _ in times[1]] == pytest.approx([0.003, 0.005, 0.007])


def test_a_study_costs_a_step_or_the_whole() -> None:
    times = {value: [(0.01, 0.004 * value)] * 3 for value in (1, 2, 4)}
    whole, step = study("beams", {"steps": 4}, times), study("beams", {"steps": 4}, times, steps=4)
    assert [point.median_ms for point in whole.points] == pytest.approx([14, 18, 26])
    assert [point.median_ms for point in step.points] == pytest.approx([1, 2, 4])
    assert (whole.cost, step.cost) == ("encoder and all steps", "one decoder step")


def test_the_error_of_a_line_is_that_of_its_rounds() -> None:
    generator = np.random.default_rng(3)
    values = (1, 2, 4, 8)
    costs = {value: (5 + 2 * value + generator.normal(0, 0.5, 40)).tolist() for value in values}
    line = with_errors(fit(values, [float(np.median(each)) for each in costs.values()]), costs)
    assert line.slope_95 is not None
    assert line.fixed_95 is not None
    assert line.slope_95[0] < line.slope_ms < line.slope_95[1]
    assert line.slope_95[0] < 2 < line.slope_95[1]
    assert line.fixed_95[0] < 5 < line.fixed_95[1]
    steady = with_errors(line, {value: [5.0 + 2 * value] * 5 for value in values})
    assert steady.slope_95 == pytest.approx((2.0, 2.0))
    assert with_errors(fit(values, [1.0, 2.0, 3.0, 4.0]), {value: [1.0, 2.0] for value in values}).slope_95 is None


def test_without_rounds_graphs_are_counted_and_nothing_is_timed(repository: Path, tmp_path: Path) -> None:
    out, photo = tmp_path / "scaling.json", repository / "examples" / "dune.jpg"
    assert scaling.main(["--image", str(photo), "--rounds", "0", "--out", str(out)]) == 0
    made = read_scaling(out.read_text(encoding="utf-8"))
    assert made.studies == {}
    assert set(made.left_out.values()) == {"nothing was timed (--rounds 0)"}
    assert made.graphs["decoder"].weight_bytes > 8e6


@pytest.mark.slow
def test_a_whole_run_without_models(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, values in (("BEAMS", (1, 3)), ("STEPS", (2, 4)), ("BATCH", (1, 2))):
        monkeypatch.setattr(scaling, name, values)
    out = tmp_path / "scaling.json"
    photo = repository / "examples" / "dune.jpg"
    assert scaling.main(["--image", str(photo), "--rounds", "2", "--out", str(out)]) == 0
    made = read_scaling(out.read_text(encoding="utf-8"))
    assert {"beams", "steps", "images"} <= set(made.studies)
    assert made.left_out["vocabulary"] == made.left_out["positions"] == "no --models was given"
    assert [point.value for point in made.studies["steps"].points] == [2, 4]
    assert all(point.median_ms > 0 and point.runs == 2 for item in made.studies.values() for point in item.points)
    assert "encoder and all steps" in capsys.readouterr().out
    assert made.graphs["encoder"].macs > made.graphs["decoder"].macs > 0
    changed = json.loads(out.read_text(encoding="utf-8"))
    changed["studies"]["beams"]["points"][0]["median_ms"] = "fast"
    with pytest.raises(DataError, match="median_ms"):
        read_scaling(json.dumps(changed))
    with pytest.raises(DataError, match="schema 9"):
        read_scaling(json.dumps({**changed, "schema": 9}))


@pytest.mark.slow
def test_models_of_other_sizes_are_made_and_measured(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study's own export, of the smallest sizes."""
    from camscribe.benchmarks.random_models import make_random_bundle

    photo = repository / "examples" / "dune.jpg"
    _, bundle = make_random_bundle(
        tmp_path, photo, "mobilenet_v2", side=64, grid=3, words=60, width=16, calibration=photo.parent
    )
    search = scaling.Search(bundle, "int8", photo, images=2, beams=2, steps=3, threads=1)
    encode, steps = search()
    assert np.isfinite([encode, steps]).all()
    assert encode > 0 < steps
    search.close()
