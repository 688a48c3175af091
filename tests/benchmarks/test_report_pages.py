"""The pages made of a report: nothing of it is lost, nothing foreign is fetched, and odd names do no harm."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from camscribe.benchmarks import report_html, report_markdown, report_plots, schema, terminal
from camscribe.benchmarks.report_plots import COLOURS, WIDTH, axis, distribution, lines, scatter, stack
from camscribe.benchmarks.schema import Missing, Quality


def marks(drawing: str, kind: str) -> list[ElementTree.Element]:
    return ElementTree.fromstring(drawing).findall(f"{{*}}{kind}")


def texts(drawing: str) -> list[str]:
    return [text.text or "" for text in marks(drawing, "text")]


@pytest.mark.parametrize("log", [False, True])
def test_an_axis_holds_its_values_and_has_round_ticks(log: bool) -> None:
    values = [3.0, 11.0, 47.0]
    made = axis(values, 10, 200, log=log)
    assert all(10 <= made(value) <= 200 for value in values)
    assert [made(value) for value in values] == sorted(made(value) for value in values)
    ticks = made.ticks()
    assert 3 <= len(ticks) <= 8
    assert ticks == ([5, 10, 20, 50] if log else [0, 20, 40])
    assert axis([0.0, 0.0], 0, 1).ticks()  # nothing but zeros is drawn, too


def test_every_caption_is_a_tick_and_the_median_stands_in_the_text() -> None:
    drawing = distribution({"cpu int8": [1.0, 2.0, 9.0], "a <b> & c": [4.0]})
    assert len(marks(drawing, "rect")) == 4 + 2 * 2  # one a caption; the median, and the band to the 90th percentile
    assert [text for text in texts(drawing) if "median" in text] == ["cpu int8: median 2.00", "a <b> & c: median 4.00"]
    assert not re.search(r"https?://(?!www\.w3\.org/)", drawing)


def test_a_stage_s_bar_is_as_long_as_its_share_and_no_two_look_alike() -> None:
    stages = {name: float(index + 1) for index, name in enumerate("abcdefghi")}
    drawing = stack({"one": stages, "two": {"a": 22.5}}, list(stages))
    bars = marks(drawing, "rect")
    widths = [float(bar.get("width") or 0) for bar in bars]
    assert widths[9] == pytest.approx(sum(widths[:9]) / 2, abs=1)
    assert widths[8] == pytest.approx(9 * widths[0], abs=1)
    assert len({bar.get("fill") for bar in bars[:9]}) == len(stages) == len(COLOURS)
    assert bars[9].get("fill") == bars[0].get("fill"), "a stage has one colour in all bars"


def test_quality_is_drawn_against_latency_and_numbers_do_not_cover_each_other() -> None:
    drawing = scatter({"fast": (5.0, 0.55), "good": (9.0, 0.60), "same": (9.01, 0.60)}, "CIDEr", ".3g")
    fast, good, same = marks(drawing, "circle")
    assert float(fast.get("cx") or 0) < float(good.get("cx") or 0)
    assert float(fast.get("cy") or 0) > float(good.get("cy") or 0), "better is higher"
    numbers = {text.text: float(text.get("y") or 0) for text in marks(drawing, "text")}
    assert abs(numbers["2"] - numbers["3"]) >= 13
    assert same.get("fill") != good.get("fill")


def test_a_hundredth_more_does_not_look_like_a_difference() -> None:
    one, other = marks(scatter({"a": (5.0, 0.571), "b": (6.0, 0.573)}, "CIDEr", ".3g"), "circle")
    assert abs(float(one.get("cy") or 0) - float(other.get("cy") or 0)) < 8


def test_a_sweep_is_a_line_through_its_values() -> None:
    drawing = lines({"a": [(1, 10.0), (2, 20.0), (16, 40.0)], "b": [(1, 5.0)]}, "batch")
    first, second = marks(drawing, "polyline")
    points = [tuple(map(float, point.split(","))) for point in (first.get("points") or "").split()]
    assert len(points) == 3
    assert points == sorted(points)
    assert points[0][1] > points[2][1], "more is higher"
    assert first.get("stroke") != second.get("stroke")
    assert {"1", "2", "16"} <= set(texts(drawing))


def test_everything_is_drawn_inside_the_picture(repository: Path) -> None:
    page = report_html.render(schema.read(repository / "benchmarks" / "results" / "bench-cpu.json"))
    drawings = re.findall(r"<svg.*?</svg>", page)
    assert len(drawings) == 5  # distribution, stages, quality against latency, two sweeps
    for drawing in drawings:
        assert f'viewBox="0 0 {WIDTH} ' in drawing
        for bar in marks(drawing, "rect"):
            assert -1 <= float(bar.get("x") or 0) <= WIDTH
            assert float(bar.get("x") or 0) + float(bar.get("width") or 0) <= WIDTH + 1
        for dot in marks(drawing, "circle"):
            assert 0 <= float(dot.get("cx") or 0) <= WIDTH


def test_without_a_split_equal_captions_stand_for_quality_and_without_any_there_is_no_picture(repository: Path) -> None:
    report = schema.read(repository / "benchmarks" / "results" / "bench-cpu.json")
    rows = [
        replace(row, quality=replace(row.quality, cider=Missing("no split"), bleu4=Missing("no split")))
        for row in report.variants
        if isinstance(row.quality, Quality)
    ]
    assert "Captions equal to float32 against median latency" in report_html.render(
        replace(report, variants=tuple(rows))
    )
    bare = [
        replace(row, quality=Missing("none"), batch_sweep=Missing("none"), beam_sweep=Missing("none")) for row in rows
    ]
    page = report_html.render(replace(report, variants=tuple(bare), partial=True))
    assert page.count("<svg") == 2
    assert "PARTIAL" in page
    assert report_plots.colour(len(COLOURS)) == COLOURS[0]


def test_the_kept_report_says_the_same_on_the_terminal_in_markdown_and_in_html(repository: Path) -> None:
    results = repository / "benchmarks" / "results"
    report = schema.read(results / "bench-cpu.json")
    text, markdown, page = "\n".join(terminal.table(report)), report_markdown.render(report), report_html.render(report)
    assert markdown == (results / "bench-cpu.md").read_text(encoding="utf-8")
    for variant in report.variants:
        for form in (text, markdown, page):
            assert f"{variant.latency_ms.median:.2f}" in form
    for peer in report.peers:
        assert all(peer.name in form for form in (text, markdown, page))
    assert "<script" not in page
    assert not re.search(r"https?://(?!www\.w3\.org/)", page)
