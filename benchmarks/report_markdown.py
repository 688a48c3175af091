"""A report as Markdown, for a paper's appendix or an issue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from camscribe.benchmarks.pages import AnyReport, page_of
from camscribe.benchmarks.report_tables import PARTIAL


def render(report: AnyReport) -> str:
    """The whole report as Markdown."""
    page = page_of(report)
    lines = [f"# {page.title}", ""]
    if page.partial:
        lines += [f"**{PARTIAL}**", ""]
    lines += [f"{page.protocol}.", ""]
    for each in page.tables:
        lines += [f"## {each.title}", "", *table(each.head, each.rows), ""]
    lines += ["## Notes", "", *(f"- {cell(note)}" for note in page.remarks), ""] if page.remarks else []
    lines += ["## Environment", "", *table(("", ""), [(k, plain(v)) for k, v in page.environment.items()]), ""]
    return "\n".join(lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(map(cell, line))} |" for line in (head, ["---"] * len(head), *rows)]


def cell(text: str) -> str:
    """A text that cannot break a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def plain(value: Any) -> str:
    """A value of the environment in one line."""
    if isinstance(value, dict):
        if set(value) == {"missing"}:
            return f"not known: {value['missing']}"
        return ", ".join(f"{name} {plain(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "none"
    return str(value)
