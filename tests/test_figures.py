"""The figures in README and model card are those of the kept results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
PERCENT = ("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l")


def load(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def cells(document: str, first: str, second: str = "") -> list[str]:
    """The cells behind the first (or the first two) of the one row of a table that begins with them."""
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    start = f"| {first} | {second}" if second else f"| {first} |"
    (row,) = [line for line in text.splitlines() if line.startswith(start)]
    return [cell.strip() for cell in row.strip("|").split("|")][2 if second else 1 :]


def scores(report: Any, names: tuple[str, ...]) -> list[str]:
    return [f"{100 * report['scores'][name]:.1f}" for name in names] + [f"{report['scores']['cider']:.3f}"]


@pytest.mark.parametrize(("row", "precision"), [("camscribe, int8 decoder", "int8"), ("camscribe, float32", "float32")])
def test_the_readme_s_quality_is_measured(row: str, precision: str) -> None:
    assert cells("README.md", row) == scores(load(f"quality-{precision}-test"), ("bleu1", "bleu4", "meteor"))


@pytest.mark.parametrize("precision", ["float32", "int8", "fp16"])
@pytest.mark.parametrize(("part", "split"), [("test", "dev[500:]"), ("all", "dev (")])
def test_the_model_card_s_quality_is_measured(precision: str, part: str, split: str) -> None:
    report = load(f"quality-{precision}-{part}")
    counts = report["quality"]
    expected = [f"{counts['different']} of {counts['captions']}", str(counts["bad_endings"]), str(counts["stuttered"])]
    assert cells("docs/model_card.md", precision, split) == [*scores(report, PERCENT), *expected]


@pytest.mark.parametrize(
    ("row", "section", "name", "digits"),
    [
        ("a caption, against the tutorial's loop", "tutorial", "tutorial's loop / caption", 1),
        ("a caption, against its encoder run", "overhead", "caption / raw graphs", 2),
        ("a step with 5 beams, against one with 1", "beams", "step of beam 5 / step of beam 1", 2),
    ],
)
def test_the_readme_s_speed_is_measured(row: str, section: str, name: str, digits: int) -> None:
    ratios = {ratio["name"]: ratio["median"] for ratio in load("caption_speed")["sections"][section]["ratios"]}
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {row}")]
    found = [float(number) for number in re.findall(r"([\d.]+) times", line)]
    # Half a unit of the last digit, and a little for what lies on the border.
    assert found == pytest.approx([ratios[f"{name}, float32"], ratios[f"{name}, int8"]], abs=0.51 * 10**-digits)


def test_the_robot_guide_s_times_are_measured() -> None:
    times = load("cdr_decode")["sizes"]["640x480 bgr8"]["ms"]
    text = (REPOSITORY / "docs" / "robots.md").read_text(encoding="utf-8")
    (ours, stock) = re.findall(
        r"VGA message took ([\d.]+) ms here, the stock coding of Cyclone's Python package (\d+) ms", text
    )[0]
    assert ours == f"{times['camscribe']['median']:.2f}"
    assert stock == f"{times['cyclonedds']['median']:.0f}"
