"""A report as text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from camscribe.benchmarks.pages import AnyReport, page_of
from camscribe.benchmarks.report_tables import PARTIAL, Table


def table(report: AnyReport) -> Iterator[str]:
    """The lines of the tables, and what must be known with them."""
    page = page_of(report)
    if page.partial:
        yield PARTIAL
    yield page.protocol
    for each in page.tables:
        yield ""
        yield from _grid(each)
    if page.remarks:
        yield ""
        yield from page.remarks


def _grid(table: Table) -> Iterator[str]:
    lines = (table.head, *table.rows)
    widths = [max(len(line[index]) for line in lines) for index in range(len(table.head))]
    for line in lines:
        first = line[0].ljust(widths[0])
        yield "  ".join((first, *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))))
