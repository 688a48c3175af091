"""A report as text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from camscribe.benchmarks.report_tables import PARTIAL, Table, protocol, remarks, tables
from camscribe.benchmarks.schema import Report


def table(report: Report) -> Iterator[str]:
    """The lines of the tables, and what must be known with them."""
    if report.partial:
        yield PARTIAL
    yield protocol(report)
    for each in tables(report):
        yield ""
        yield from _grid(each)
    lines = remarks(report)
    if lines:
        yield ""
        yield from lines


def _grid(table: Table) -> Iterator[str]:
    lines = (table.head, *table.rows)
    widths = [max(len(line[index]) for line in lines) for index in range(len(table.head))]
    for line in lines:
        first = line[0].ljust(widths[0])
        yield "  ".join((first, *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))))
