"""A report as Markdown, for a paper's appendix or an issue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from camscribe.benchmarks.report_tables import PARTIAL, protocol, remarks, tables
from camscribe.benchmarks.schema import Report


def render(report: Report) -> str:
    """The whole report as Markdown."""
    lines = ["# camscribe bench", ""]
    if report.partial:
        lines += [f"**{PARTIAL}**", ""]
    lines += [f"{protocol(report)}.", ""]
    for each in tables(report):
        lines += [f"## {each.title}", "", *table(each.head, each.rows), ""]
    notes = remarks(report)
    lines += ["## Notes", "", *(f"- {cell(note)}" for note in notes), ""] if notes else []
    lines += ["## Environment", "", *table(("", ""), [(k, plain(v)) for k, v in report.environment.items()]), ""]
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
