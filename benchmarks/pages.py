"""A report of either kind as one page, for terminal, Markdown and HTML alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from camscribe.benchmarks import enhancer_tables, report_figures, report_tables
from camscribe.benchmarks.enhancer_schema import EnhancerReport
from camscribe.benchmarks.report_plots import Figure
from camscribe.benchmarks.report_tables import Table
from camscribe.benchmarks.schema import Report

AnyReport = Report | EnhancerReport


@dataclass(frozen=True)
class Page:
    """What is shown of a report."""

    title: str
    partial: bool
    protocol: str
    """How it was measured, in one line."""
    tables: tuple[Table, ...]
    """The main one first."""
    figures: tuple[Figure, ...]
    remarks: tuple[str, ...]
    environment: dict[str, Any]


def page_of(report: AnyReport) -> Page:
    """The page of a report."""
    if isinstance(report, EnhancerReport):
        line, tables = enhancer_tables.protocol(report), enhancer_tables.tables(report)
        figures, remarks = enhancer_tables.figures(report), enhancer_tables.remarks(report)
    else:
        line, tables = report_tables.protocol(report), report_tables.tables(report)
        figures, remarks = report_figures.figures(report), report_tables.remarks(report)
    return Page(report.kind, report.partial, line, tuple(tables), tuple(figures), tuple(remarks), report.environment)
