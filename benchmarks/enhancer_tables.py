"""The tables and pictures of an enhancer's report; see ``report_tables.py`` and ``report_figures.py``."""

from __future__ import annotations

from collections.abc import Iterator

from camscribe.benchmarks import report_plots as plots
from camscribe.benchmarks.enhancer_schema import EnhancerReport, EnhancerVariant, Fidelity
from camscribe.benchmarks.report_plots import Figure
from camscribe.benchmarks.report_tables import NONE, Table, joules, not_measured, reasons_of
from camscribe.benchmarks.schema import Build, Memory, Missing


def protocol(report: EnhancerReport) -> str:
    """How the single stream was measured, in one line."""
    facts, made = report.bundles[0], report.protocol
    return (
        f"single stream, {made.rounds} pictures of each size, in turn; {made.threads} threads, seed {made.seed}; "
        f"{facts.name}, variant {facts.variant}, x{facts.scale}"
    )


def short_name(row: EnhancerVariant) -> str:
    """``cpu int8 320x180``: all rows are of one bundle and variant."""
    return f"{row.backend} {row.precision} {row.size}"


def tables(report: EnhancerReport) -> Iterator[Table]:
    """All tables that have rows."""
    head = ("variant", "median ms", "p90", "p99", "cv", "images/s", "PyTorch / it", "dB from float32", "levels")
    yield Table("Variants", (*head, "MB", "peak MB", "J/picture"), [_row(report, row) for row in report.variants])
    if report.peers:
        rows = [
            (
                peer.name,
                f"{peer.latency_ms.median:.2f}",
                f"{peer.latency_ms.p90:.2f}",
                f"{peer.latency_ms.p99:.2f}",
                *_fidelity(peer.fidelity),
            )
            for peer in report.peers
        ]
        yield Table("Peers", ("peer", "median ms", "p90", "p99", "dB from float32", "levels"), rows)
    measured = {short_name(row): row.stages for row in report.variants if not isinstance(row.stages, Missing)}
    if measured:
        stages = list(dict.fromkeys(name for each in measured.values() for name in each))
        lines = []
        for name, each in measured.items():
            cells = [
                f"{each[stage].time_ms.mean * each[stage].per_caption:.3f}" if stage in each else NONE
                for stage in stages
            ]
            lines.append((name, f"{each['graph'].per_caption:.0f}", *cells))
        yield Table("Stages", ("ms in a picture, mean", "tiles", *stages), lines)
    builds = [(short_name(row), row.build) for row in report.variants if isinstance(row.build, Build)]
    if builds:
        yield Table("Builds", ("engine", "from nothing, s", "with timing cache, s"), [_build(*row) for row in builds])


def remarks(report: EnhancerReport) -> list[str]:
    """Warnings, and why something was not measured, each reason once."""
    lines = [*report.warnings]
    for text in dict.fromkeys(text for row in report.variants for text in (*row.notes, *row.warnings)):
        names = [short_name(row) for row in report.variants if text in (*row.notes, *row.warnings)]
        lines.append(text if len(names) == len(report.variants) else f"{', '.join(names)}: {text}")
    lines += reasons_of({short_name(row): row for row in report.variants}, ("stages", "memory", "build", "energy"))
    return lines + not_measured(report.left_out)


def figures(report: EnhancerReport) -> Iterator[Figure]:
    """All pictures that there are numbers for."""
    latencies = {short_name(row): row.samples_ms for row in report.variants}
    latencies |= {peer.name: peer.samples_ms for peer in report.peers}
    if latencies:
        picture = plots.distribution(latencies, "picture")
        yield Figure("Latency of every picture, ms (bar: median to 90th percentile)", picture)
    stacks = {
        short_name(row): {name: stage.time_ms.mean * stage.per_caption for name, stage in row.stages.items()}
        for row in report.variants
        if not isinstance(row.stages, Missing)
    }
    if stacks:
        stages = list(dict.fromkeys(name for each in stacks.values() for name in each))
        yield Figure("Stages of a picture, mean, ms", plots.stack(stacks, stages, "picture"), tuple(stages))
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in (*report.variants, *report.peers):
        name = f"{row.backend} {row.precision}" if isinstance(row, EnhancerVariant) else row.name.split()[0]
        width, _, height = row.size.partition("x")
        curves.setdefault(name, []).append((int(width) * int(height) / 1e3, row.latency_ms.median))
    if any(len(curve) > 1 for curve in curves.values()):
        title = "Median ms of a picture against thousand pixels of the small image"
        yield Figure(title, plots.lines({name: sorted(curve) for name, curve in curves.items()}, title), tuple(curves))


def _row(report: EnhancerReport, row: EnhancerVariant) -> tuple[str, ...]:
    memory = row.memory
    ratios = [peer.ratios[row.name] for peer in report.peers if row.name in peer.ratios]
    return (
        short_name(row),
        f"{row.latency_ms.median:.2f}",
        f"{row.latency_ms.p90:.2f}",
        f"{row.latency_ms.p99:.2f}",
        NONE if row.latency_ms.variation is None else f"{row.latency_ms.variation:.1%}",
        f"{row.images_per_s:.1f}",
        f"{ratios[0]:.2f}" if ratios else NONE,
        *_fidelity(row.fidelity),
        f"{row.size_bytes / 1e6:.1f}",
        f"{memory.host_bytes / 1e6:.0f}" if isinstance(memory, Memory) else NONE,
        NONE if isinstance(row.energy, Missing) else joules(row.energy),
    )


def _fidelity(found: Fidelity) -> tuple[str, str]:
    return "the same" if found.psnr is None else f"{found.psnr:.1f}", str(found.largest)


def _build(name: str, build: Build) -> tuple[str, ...]:
    again = NONE if isinstance(build.timing_cache_s, Missing) else f"{build.timing_cache_s:.1f}"
    return (name, f"{build.cold_s:.1f}", again)
