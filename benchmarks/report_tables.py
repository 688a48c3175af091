"""The tables of a report and what must be known with them, for terminal, Markdown and HTML alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from camscribe.benchmarks.schema import FixedRate, Floor, Memory, Missing, Quality, Report, SweepPoint, Variant

NONE = "-"
"""Where there is no number; ``remarks`` has the reasons."""
PARTIAL = "PARTIAL: interrupted; what stands here was measured, the rest is missing"


@dataclass(frozen=True)
class Table:
    """Cells as text."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


def protocol(report: Report) -> str:
    """How the single stream was measured, in one line."""
    protocol = report.protocol
    counted = report.variants[0].latency_ms.count if report.variants else 0
    return (
        f"single stream, {counted} captions of {len(protocol.images)} photographs each, in turn; "
        f"beam {protocol.beams}, {protocol.threads} threads, seed {protocol.seed}; "
        f"{', '.join(bundle.name for bundle in report.bundles)}"
    )


def short_names(report: Report) -> dict[str, str]:
    """Names of the variants without the bundle's, where all are of one bundle."""
    one = len({row.bundle for row in report.variants}) == 1 and len(report.bundles) == 1
    return {row.name: f"{row.backend} {row.precision}" if one else row.name for row in report.variants}


def tables(report: Report) -> Iterator[Table]:
    """All tables that have rows."""
    names = short_names(report)
    head = ("variant", "median ms", "p90", "p99", "cv", "/ floor", "of roofline", "CIDEr", "BLEU-4", "= float32")
    yield Table(
        "Variants",
        (*head, "MB", "peak MB", "J/caption"),
        [(names[row.name], *_latency(row)) for row in report.variants],
    )
    lost = limits(report)
    if lost.rows:
        yield lost
    if not isinstance(report.roofline, Missing):
        machines = [_device(each) for each in _devices(report.roofline)]
        yield Table("What the devices do at most", _DEVICE_HEAD, machines)
    stages = _stages(report.variants)
    if stages:
        yield Table("Stages", ("ms in a caption, mean", *names.values()), stages)
    for title, attribute in (("batch", "batch_sweep"), ("beams", "beam_sweep")):
        points = {names[row.name]: getattr(row, attribute) for row in report.variants}
        measured = {name: each for name, each in points.items() if not isinstance(each, Missing)}
        if measured:
            values = [point.value for point in next(iter(measured.values()))]
            rows = [(name, *(_point(title, point) for point in each)) for name, each in measured.items()]
            unit = "images/s" if title == "batch" else "median ms"
            yield Table(f"Sweep of {title}", (f"{title}, {unit}", *map(str, values)), rows)
    rates = [(names[row.name], row.fixed_rate) for row in report.variants if isinstance(row.fixed_rate, FixedRate)]
    if rates:
        head = (f"{rates[0][1].rate_hz:g} frames a second", "captions/s", "dropped", "age ms median", "p99")
        yield Table("Fixed rate", head, [_rate(name, rate) for name, rate in rates])
    if report.peers:
        rows = [
            (
                peer.name,
                NONE if isinstance(peer.latency_ms, Missing) else f"{peer.latency_ms.median:.2f}",
                *(f"{peer.ratios[name]:.2f}" if name in peer.ratios else NONE for name in names),
                _share(peer.same_as_float32),
            )
            for peer in report.peers
        ]
        yield Table("Peers", ("peer", "median ms", *(f"/ {name}" for name in names.values()), "= float32"), rows)


def limits(report: Report) -> Table:
    """How far each variant is from what its device can do, and what loses the rest."""
    names = short_names(report)
    rows = [
        (names[row.name], *_limit(row.roofline)) for row in report.variants if not isinstance(row.roofline, Missing)
    ]
    head = ("variant", "least ms", "measured ms", "most is lost in", "encoder limited by", "a step limited by")
    return Table("Limits", head, rows)


_DEVICE_HEAD = ("device", "GB/s, largest block", "fastest block", "float32 GMAC/s", "fp16 GMAC/s", "int8 GMAC/s")


def _devices(roofline: dict[str, Any]) -> list[dict[str, Any]]:
    """The limits of each device that was measured; reports of before the GPU's was measured have the CPU's only."""
    gpu = roofline.get("gpu", {"missing": ""})
    return [roofline] if "missing" in gpu else [roofline, gpu]


def _device(machine: dict[str, Any]) -> tuple[str, ...]:
    speeds = machine["bytes_per_s"]
    largest = NONE if not speeds else f"{speeds[max(speeds, key=int)] / 1e9:.1f}"
    rates = machine["macs_per_s"]
    return (
        machine["device"],
        largest,
        f"{max(speeds.values()) / 1e9:.1f}" if speeds else NONE,
        *(f"{rates[rate] / 1e9:.0f}" if rate in rates else NONE for rate in ("float32", "fp16", "int8")),
    )


def remarks(report: Report) -> list[str]:
    """Warnings, and why something was not measured, each reason once."""
    lines = [*report.warnings, *(f"{row.name}: {text}" for row in report.variants for text in row.warnings)]
    rows = {row.name: row for row in report.variants}
    lines += reasons_of(rows, ("stages", "quality", "memory", "build", "energy", "floor", "roofline"))
    if not isinstance(report.roofline, Missing):
        for machine in _devices(report.roofline):
            reasons = machine.get("not_measured", {})
            lines += [f"limits of {machine['device']}: {what}: {why}" for what, why in reasons.items()]
    return lines + not_measured(report.left_out)


def reasons_of(rows: Mapping[str, Any], titles: Sequence[str]) -> list[str]:
    """Why fields of rows are missing, each reason once.

    Args:
        rows: by the name that is shown.
        titles: names of the fields.
    """
    reasons: dict[str, list[str]] = {}
    for name, row in rows.items():
        for title in titles:
            value = getattr(row, title)
            if isinstance(value, Missing) and value.missing != "has no engines":
                reasons.setdefault(f"no {title}: {value.missing}", []).append(name)
            if isinstance(value, Quality) and isinstance(value.cider, Missing):
                reasons.setdefault(f"no CIDEr, no BLEU-4: {value.cider.missing}", []).append(name)
    return [text if len(names) == len(rows) else f"{', '.join(names)}: {text}" for text, names in reasons.items()]


def not_measured(left_out: Mapping[str, str]) -> list[str]:
    """What was left out, each reason once."""
    grouped: dict[str, list[str]] = {}
    for name, why in left_out.items():
        grouped.setdefault(why, []).append(name)
    return [f"not measured: {', '.join(names)}: {why}" for why, names in grouped.items()]


def _latency(row: Variant) -> tuple[str, ...]:
    quality, memory = row.quality, row.memory
    scores = (NONE, NONE, NONE)
    if isinstance(quality, Quality):
        scores = (_number(quality.cider, ".3f"), _number(quality.bleu4, ".3f"), _share(quality.same_as_float32))
    roofline = row.roofline
    share = None if isinstance(roofline, Missing) else roofline.get("caption", {}).get("share")
    energy = NONE if isinstance(row.energy, Missing) else joules(row.energy)
    return (
        f"{row.latency_ms.median:.2f}",
        f"{row.latency_ms.p90:.2f}",
        f"{row.latency_ms.p99:.2f}",
        NONE if row.latency_ms.variation is None else f"{row.latency_ms.variation:.1%}",
        f"{row.floor.ratio:.3f}" if isinstance(row.floor, Floor) else NONE,
        NONE if share is None else f"{share:.0%}",
        *scores,
        f"{row.size_bytes / 1e6:.1f}",
        f"{memory.host_bytes / 1e6:.0f}" if isinstance(memory, Memory) else NONE,
        energy,
    )


def _limit(roofline: dict[str, Any]) -> tuple[str, ...]:
    caption = roofline["caption"]
    lost = caption["largest_loss"]
    parts = (roofline["encoder"], roofline["decoder_step"])
    return (
        f"{caption['bound_ms']:.2f}",
        f"{caption['measured_ms']:.2f}",
        f"{lost} ({caption['losses_ms'][lost]:.2f} ms)",
        *(f"{part['limited_by']} ({part['share']:.0%} of its limit reached)" for part in parts),
    )


def _stages(rows: Sequence[Variant]) -> list[tuple[str, ...]]:
    names = list(dict.fromkeys(name for row in rows if not isinstance(row.stages, Missing) for name in row.stages))
    lines = []
    for name in names:
        cells = []
        for row in rows:
            stage = None if isinstance(row.stages, Missing) else row.stages.get(name)
            if stage is None:
                cells.append(NONE)
                continue
            total, times = stage.time_ms.mean * stage.per_caption, stage.per_caption
            cells.append(f"{total:.3f}" if times == 1 else f"{total:.3f} ({times:.1f} x {stage.time_ms.mean:.3f})")
        lines.append((name, *cells))
    return lines


def _point(title: str, point: SweepPoint) -> str:
    return f"{point.images_per_s:.1f}" if title == "batch" else f"{point.time_ms.median:.2f}"


def _rate(name: str, rate: FixedRate) -> tuple[str, ...]:
    age = rate.age_ms
    ages = (NONE, NONE) if isinstance(age, Missing) else (f"{age.median:.1f}", f"{age.p99:.1f}")
    return (name, f"{rate.captions_per_s:.1f}", f"{rate.dropped} of {rate.frames}", *ages)


def _number(value: float | Missing, form: str) -> str:
    return NONE if isinstance(value, Missing) else format(value, form)


def _share(value: float | Missing) -> str:
    return NONE if isinstance(value, Missing) else f"{value:.1%}"


def joules(energy: dict[str, Any]) -> str:
    """Of each meter, in its order: a GPU's and a CPU's energy are not one sum that any of them saw."""
    values = [meter.get("joules_per_caption") for meter in energy.get("meters", ())]
    return " + ".join(f"{value:.3g}" for value in values if isinstance(value, int | float)) or NONE
