"""A report as Markdown, for a paper's appendix or an issue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from camscribe.benchmarks.schema import Missing, Report, Variant

HEAD = (
    "variant",
    "median ms",
    "p90",
    "p99",
    "variation",
    "CIDEr",
    "BLEU-4",
    "= float32",
    "MB",
    "x floor",
    "of roofline",
)


def render(report: Report) -> str:
    """The whole report as Markdown."""
    lines = ["# camscribe bench", ""]
    if report.partial:
        lines += ["**Partial: the run was interrupted; what stands here was measured.**", ""]
    protocol = report.protocol
    lines += [
        f"Single stream, {len(protocol.images)} images, {protocol.rounds} rounds in turn, {protocol.threads} threads, "
        f"beam {protocol.beams}, seed {protocol.seed}.",
        "",
        *table(HEAD, [row(variant) for variant in report.variants]),
        "",
    ]
    for variant in report.variants:
        if not isinstance(variant.stages, Missing):
            rows = [
                (name, f"{s.time_ms.median:.3f}", f"{s.time_ms.p90:.3f}", f"{s.per_caption:.1f}", s.where)
                for name, s in variant.stages.items()
            ]
            lines += [f"## Stages: {variant.name}", ""]
            lines += [*table(("stage", "median ms", "p90", "a caption", "clock"), rows), ""]
    if report.peers:
        rows = [
            (peer.name, "-" if isinstance(peer.latency_ms, Missing) else f"{peer.latency_ms.median:.2f}",
             ", ".join(f"{name}: {value:.2f}" for name, value in peer.ratios.items()) or "-")
            for peer in report.peers
        ]  # fmt: skip
        lines += ["## Peers", "", *table(("peer", "median ms", "times as long as"), rows), ""]
    notes = [*report.warnings, *(f"{v.name}: {text}" for v in report.variants for text in v.warnings)]
    notes += [f"left out: {name}: {why}" for name, why in report.left_out.items()]
    lines += ["## Notes", "", *(f"- {cell(note)}" for note in notes), ""] if notes else []
    lines += ["## Environment", "", *table(("", ""), [(k, plain(v)) for k, v in report.environment.items()]), ""]
    return "\n".join(lines)


def row(variant: Variant) -> tuple[str, ...]:
    """A variant's cells, in the order of ``HEAD``; what was not measured is a dash."""
    latency, quality = variant.latency_ms, variant.quality
    scores: list[float | Missing] = [Missing("")] * 3
    if not isinstance(quality, Missing):
        scores = [quality.cider, quality.bleu4, quality.same_as_float32]
    roofline = variant.roofline
    share = None if isinstance(roofline, Missing) else roofline.get("caption", {}).get("share")
    return (
        variant.name,
        f"{latency.median:.2f}",
        f"{latency.p90:.2f}",
        f"{latency.p99:.2f}",
        "-" if latency.variation is None else f"{latency.variation:.1%}",
        *("-" if isinstance(score, Missing) else f"{score:.3f}" for score in scores),
        f"{variant.size_bytes / 1e6:.1f}",
        "-" if isinstance(variant.floor, Missing) else f"{variant.floor.ratio:.2f}",
        "-" if share is None else f"{share:.0%}",
    )


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
