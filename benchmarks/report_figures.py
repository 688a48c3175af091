"""The pictures of a captioner's report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from camscribe.benchmarks import report_plots as plots
from camscribe.benchmarks.report_plots import Figure
from camscribe.benchmarks.report_tables import short_names
from camscribe.benchmarks.schema import Missing, Quality, Report


def figures(report: Report) -> Iterator[Figure]:
    """All pictures that there are numbers for."""
    names = short_names(report)
    latencies = {names[row.name]: row.samples_ms for row in report.variants}
    latencies |= {f"peer {peer.name}": peer.samples_ms for peer in report.peers}
    measured = {name: values for name, values in latencies.items() if values}
    if measured:
        yield Figure("Latency of every caption, ms (bar: median to 90th percentile)", plots.distribution(measured))
    stacks = {
        names[row.name]: {name: stage.time_ms.mean * stage.per_caption for name, stage in row.stages.items()}
        for row in report.variants
        if not isinstance(row.stages, Missing)
    }
    if stacks:
        stages = list(dict.fromkeys(name for each in stacks.values() for name in each))
        yield Figure("Stages of a caption, mean, ms", plots.stack(stacks, stages), tuple(stages))
    points, what = _qualities(report, names)
    if points:
        form = ".3g" if what == "CIDEr" else ".0%"
        title = f"{what} against median latency, ms"
        numbered = [f"{index}: {name}" for index, name in enumerate(points, 1)]
        yield Figure(title, plots.scatter(points, title, form), tuple(numbered))
    for title, attribute, unit in (
        ("Batch: images a second against images in a batch", "batch_sweep", "images_per_s"),
        ("Beams: median ms of a caption against beams", "beam_sweep", "ms"),
    ):
        curves = {
            names[row.name]: [
                (float(point.value), point.images_per_s if unit == "images_per_s" else point.time_ms.median)
                for point in getattr(row, attribute)
            ]
            for row in report.variants
            if not isinstance(getattr(row, attribute), Missing)
        }
        if any(len(curve) > 1 for curve in curves.values()):
            yield Figure(title, plots.lines(curves, title), tuple(curves))


def _qualities(report: Report, names: Mapping[str, str]) -> tuple[dict[str, tuple[float, float]], str]:
    """Median latency and CIDEr of each variant; without a split, the share of captions equal to float32's."""
    for attribute, what in (("cider", "CIDEr"), ("same_as_float32", "Captions equal to float32")):
        points = {}
        for row in report.variants:
            value = getattr(row.quality, attribute) if isinstance(row.quality, Quality) else None
            if isinstance(value, int | float):
                points[names[row.name]] = (row.latency_ms.median, float(value))
        if points:
            return points, what
    return {}, ""
