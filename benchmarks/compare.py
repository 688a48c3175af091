"""``camscribe bench --compare OLD NEW``: what got slower or worse between two reports, the noise considered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from camscribe.benchmarks.pages import AnyReport
from camscribe.benchmarks.schema import Memory, Missing, Quality, Report, Spread, Variant
from camscribe.benchmarks.statistics import ratio_interval

THRESHOLD = 0.05
"""A change of less is not worth a failed build."""


@dataclass(frozen=True)
class Change:
    """How much one figure of a variant changed."""

    variant: str
    figure: str
    old: float
    new: float
    ratio: float
    """New over old; above 1 is worse, for quality as well, whose ratio is turned."""
    low: float
    high: float
    """95 % interval of ``ratio``; ``ratio`` itself where the figure has no noise."""
    verdict: Literal["slower", "faster", "worse", "better", "same", "noise"]
    """``noise``: the interval holds 1."""
    fails: bool
    """Whether it passes the threshold beyond the noise."""


@dataclass(frozen=True)
class Comparison:
    """All changes, and what to know of the two reports."""

    changes: tuple[Change, ...]
    remarks: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Whether any change passes the threshold."""
        return any(change.fails for change in self.changes)


def _other_software(old: AnyReport, new: AnyReport) -> Iterator[str]:
    """Bundles, versions, drivers and beams that are not the same in both."""
    before, after = ({each.name: each.manifest_sha256 for each in report.bundles} for report in (old, new))
    yield from (
        f"{name}: another bundle of that name ({before[name][:12]}, now {after[name][:12]})"
        for name in before
        if name in after and before[name] != after[name]
    )
    if isinstance(old, Report) and isinstance(new, Report) and old.protocol.beams != new.protocol.beams:
        yield f"measured with {old.protocol.beams} and {new.protocol.beams} beams"
    for name in ("onnxruntime", "onnxruntime-gpu", "tensorrt"):
        one, other = (_versions(report).get(name) for report in (old, new))
        if one != other:
            yield f"measured with {name} {one or 'none'} and {other or 'none'}"
    one, other = (_gpus(report) for report in (old, new))
    if one != other:
        yield f"measured on different GPUs: {one or 'none'}, now {other or 'none'}"


def _versions(report: AnyReport) -> dict[str, Any]:
    where = report.environment
    return {**where.get("packages", {}), **where.get("libraries", {})}


def _gpus(report: AnyReport) -> str:
    """Names and drivers; clocks and temperatures are another matter."""
    found = report.environment.get("gpu", ())
    return ", ".join(f"{item.get('name')} {item.get('driver_version')}" for item in found if isinstance(item, dict))


class Row(Protocol):
    """What rows of all reports have."""

    name: str
    latency_ms: Spread
    samples_ms: Sequence[float]
    size_bytes: int
    memory: Memory | Missing


def compare(old: AnyReport, new: AnyReport, threshold: float = THRESHOLD) -> Comparison:
    """Compares the variants that both reports have.

    Args:
        old, new: the reports, of one kind.
        threshold: 0.05 fails what is more than 5 % worse.
    """
    theirs = {variant.name: variant for variant in old.variants}
    ours = {variant.name: variant for variant in new.variants}
    remarks = [f"{name}: only in the old report{_why(new, name)}" for name in theirs if name not in ours]
    remarks += [f"{name}: only in the new report{_why(old, name)}" for name in ours if name not in theirs]
    remarks += [f"the {age} report is partial" for age, report in (("old", old), ("new", new)) if report.partial]
    for key in ("cpu", "device", "cores", "power_mode", "governor"):
        before, after = old.environment.get(key), new.environment.get(key)
        if before != after:
            remarks.append(f"measured on different machines: {key} was {before!r}, is {after!r}")
    remarks += _other_software(old, new)
    if old.protocol.images != new.protocol.images:
        remarks.append("measured on different photographs")
    if old.protocol.threads != new.protocol.threads:
        remarks.append(f"measured with {old.protocol.threads} and {new.protocol.threads} threads")
    changes = [change for name in theirs if name in ours for change in _changes(theirs[name], ours[name], threshold)]
    return Comparison(tuple(changes), tuple(remarks))


def describe(comparison: Comparison, threshold: float) -> Iterator[str]:
    """The comparison as lines of text."""
    yield from comparison.remarks
    if comparison.changes:
        width = max(len(change.variant) for change in comparison.changes)
        yield f"{'':{width}}  {'figure':14} {'old':>10} {'new':>10}  new/old (95 % interval)"
    for change in comparison.changes:
        interval = "" if change.low == change.high else f" ({change.low:.3f} to {change.high:.3f})"
        mark = f"  WORSE BY MORE THAN {threshold:.1%}" if change.fails else ""
        yield (
            f"{change.variant:{width}}  {change.figure:14} {change.old:10.4g} {change.new:10.4g}  "
            f"{change.ratio:.3f}{interval} {change.verdict}{mark}"
        )
    if not comparison.changes:
        yield "nothing to compare: the reports have no variant in common"


def _changes(old: Row, new: Row, threshold: float) -> Iterator[Change]:
    if old.samples_ms and new.samples_ms:
        ratio, low, high = ratio_interval(old.samples_ms, new.samples_ms)
        before, after = old.latency_ms.median, new.latency_ms.median
        yield _change(new.name, "latency ms", before, after, (ratio, low, high), threshold, ("slower", "faster"))
    captioners = isinstance(old, Variant) and isinstance(new, Variant)
    if captioners and not isinstance(old.floor, Missing) and not isinstance(new.floor, Missing):
        # What disturbs the machine disturbs the floor alike, so this one can be told from a slower machine.
        one, other = old.floor.ratio, new.floor.ratio
        yield _change(
            new.name, "latency/floor", one, other, (other / one,) * 3, threshold, ("worse", "better"), may_fail=False
        )
    yield _plain(new.name, "size bytes", old.size_bytes, new.size_bytes, threshold)
    if isinstance(old.memory, Memory) and isinstance(new.memory, Memory):
        yield _plain(new.name, "peak memory", old.memory.host_bytes, new.memory.host_bytes, threshold)
    if not captioners:
        return
    if isinstance(old.quality, Quality) and isinstance(new.quality, Quality) and old.quality.data == new.quality.data:
        for figure in ("cider", "bleu4", "same_as_float32"):
            one, other = getattr(old.quality, figure), getattr(new.quality, figure)
            if not isinstance(one, Missing) and not isinstance(other, Missing):
                ratio = one / other if other else float("inf") if one else 1.0
                yield _change(new.name, figure, one, other, (ratio,) * 3, threshold, ("worse", "better"))


def _plain(name: str, figure: str, old: float, new: float, threshold: float) -> Change:
    ratio = new / old if old else float("inf") if new else 1.0
    return _change(name, figure, old, new, (ratio,) * 3, threshold, ("worse", "better"))


def _change(
    name: str,
    figure: str,
    old: float,
    new: float,
    ratios: tuple[float, float, float],
    threshold: float,
    words: tuple[Literal["slower", "worse"], Literal["faster", "better"]],
    *,
    may_fail: bool = True,
) -> Change:
    ratio, low, high = ratios
    verdict: Literal["slower", "faster", "worse", "better", "same", "noise"]
    if low == high == 1.0:
        verdict = "same"
    elif low <= 1.0 <= high:
        verdict = "noise"
    else:
        verdict = words[0] if ratio > 1 else words[1]
    return Change(name, figure, old, new, ratio, low, high, verdict, may_fail and ratio > 1 + threshold and low > 1)


def _why(report: AnyReport, name: str) -> str:
    return f" ({report.left_out[name]})" if name in report.left_out else ""
