"""The form of ``results/caption_speed.json``, and what its like share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camscribe.benchmarks import scripts
from camscribe.benchmarks.measure import Environment, Ratio
from camscribe.runtime import typed_json
from camscribe.runtime.bundle import Bundle, content_sha256
from camscribe.runtime.errors import DataError

SCHEMA = 1


@dataclass(frozen=True)
class BundleId:
    """Which bundle was measured."""

    name: str
    manifest_sha256: str
    """Of its bundle.json without measured quality (``bundle.content_sha256``), which holds the sha256 of every file."""
    precision: str
    """Taken on a CPU when none is named, or the one that was asked for."""


def identify(bundle: Bundle, precision: str) -> BundleId:
    """Which bundle is measured, in which precision."""
    return BundleId(bundle.manifest.name, content_sha256(bundle.path), precision)


@dataclass(frozen=True)
class SectionResult:
    """One question and its ratios."""

    question: str
    ratios: tuple[Ratio, ...]
    details: dict[str, Any]


@dataclass(frozen=True)
class Report:
    """All that one run of ``caption_speed`` measured."""

    schema: int
    environment: Environment
    bundle: BundleId
    sections: dict[str, SectionResult]
    left_out: dict[str, str]
    """Sections that were not measured, and why."""


def read_report(text: str) -> Report:
    """Reads a report and checks its form.

    Raises:
        DataError: it is not one, everything wrong listed.
    """
    problems: list[str] = []
    try:
        report: Report = typed_json.decode(Report, typed_json.parse(text), "report", problems)
    except ValueError as error:
        raise DataError(f"report: is not JSON ({error})") from error
    if not problems and report.schema != SCHEMA:
        problems.append(f"schema is {report.schema}; expected {SCHEMA}")
    if not problems:
        problems += [
            f"{name}: {item.name}: median {item.median} lies outside p10 {item.p10} to p90 {item.p90}"
            for name, section in report.sections.items()
            for item in section.ratios
            if not item.p10 <= item.median <= item.p90
        ]
        problems += [
            f"{name}: {item.name}: says met {item.met}, but the median {item.median} is asked to be "
            f"{item.bound} {item.limit}"
            for name, section in report.sections.items()
            for item in section.ratios
            if item.met != _met(item)
        ]
    if problems:
        raise DataError("; ".join(problems))
    return report


def _met(item: Ratio) -> bool | None:
    if item.limit is None:
        return None
    return item.median <= item.limit if item.bound == "at most" else item.median >= item.limit


def summary(report: Report) -> str:
    """One line for each ratio."""
    lines = []
    for name, section in report.sections.items():
        lines.append(f"{name}: {section.question}")
        for item in section.ratios:
            verdict = {True: "met", False: "MISSED", None: ""}[item.met]
            bound = f"{item.bound} {item.limit:g}" if item.limit is not None else ""
            lines.append(
                f"  {item.name:52} {item.median:7.3f}  ({item.p10:.3f} to {item.p90:.3f})  {bound:12} {verdict}"
                f"   {item.numerator_ms:.2f} ms / {item.denominator_ms:.2f} ms"
            )
    lines += [f"left out: {name}: {why}" for name, why in report.left_out.items()]
    return "\n".join(lines)


def write_report(report: Report, path: Path) -> None:
    """Writes a report whole or not at all, after reading it back as a reader would."""
    read_report(json.dumps(typed_json.encode(report), ensure_ascii=False))
    scripts.prepare(path)
    scripts.write(report, path)
