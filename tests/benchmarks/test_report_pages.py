"""The pages made of a report: nothing of it is lost, nothing foreign is fetched, and odd names do no harm."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from camscribe.benchmarks import report_html, report_markdown, schema, terminal
from camscribe.benchmarks.report_html import COLOURS, distribution, stack


def test_every_caption_is_a_tick_and_the_median_stands_in_the_text() -> None:
    drawing = distribution({"cpu int8": [1.0, 2.0, 9.0], "a <b> & c": [4.0]})
    root = ElementTree.fromstring(drawing)
    rows = root.findall("{*}rect")
    assert len(rows) == 4 + 2  # one a caption, and one a median
    assert [text.text for text in root.findall("{*}text")] == ["cpu int8: median 2.00", "a <b> & c: median 4.00"]
    assert not re.search(r"https?://(?!www\.w3\.org/)", drawing)


def test_a_stage_s_bar_is_as_long_as_its_share_and_no_two_look_alike() -> None:
    stages = {name: float(index + 1) for index, name in enumerate("abcdefghi")}
    root = ElementTree.fromstring(stack({"one": stages, "two": {"a": 22.5}}))
    bars = [bar for bar in root.findall("{*}rect") if bar.get("height") == "18"]
    widths = [float(bar.get("width") or 0) for bar in bars]
    assert abs(sum(widths[:9]) - 690) < 1  # the longer stack takes the whole width, rounded
    assert abs(widths[9] - 345) < 1
    assert len({bar.get("fill") for bar in bars[:9]}) == len(stages) == len(COLOURS)


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
