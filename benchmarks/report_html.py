"""A report as one HTML file: no script, no foreign host; pictures are inline SVG (report_plots.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from camscribe.benchmarks import report_plots as plots
from camscribe.benchmarks.report_markdown import plain
from camscribe.benchmarks.report_tables import PARTIAL, protocol, remarks, short_names, tables
from camscribe.benchmarks.schema import Missing, Quality, Report

_STYLE = """
:root{color-scheme:light dark;--line:#8885}
body{font:16px/1.5 system-ui,sans-serif;max-width:84rem;margin:auto;padding:.75rem}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin:2rem 0 .5rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1.5rem}
figure{margin:0;max-width:34rem}figcaption{font-weight:600;margin-bottom:.4rem}
svg{display:block;width:100%;height:auto}svg text{fill:currentColor;font-size:13px}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1rem;list-style:none;padding:0;margin:.5rem 0;font-size:.9rem}
.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.4em;border-radius:2px}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
td:first-child,th:first-child{text-align:left;position:sticky;left:0;background:Canvas}
.env td,.env td:first-child{text-align:left;white-space:normal;overflow-wrap:anywhere;vertical-align:top}
li{overflow-wrap:anywhere}.partial{border:2px solid #D55E00;padding:.5rem}
@media(max-width:40rem){td:first-child,th:first-child{white-space:normal;min-width:7rem;max-width:9rem}}
@media print{.wide{overflow:visible}}
"""


def render(report: Report) -> str:
    """The whole report as HTML."""
    body = ["<h1>camscribe bench</h1>"]
    if report.partial:
        body.append(f"<p class=partial><strong>{PARTIAL}</strong></p>")
    body.append(f"<p>{escape(protocol(report))}</p>")
    first, *others = tables(report)
    body += [f"<h2>{first.title}</h2>", _table(first.head, first.rows)]
    body += ["<h2>Pictures</h2><div class=plots>", *_figures(report), "</div>"]
    for each in others:
        body += [f"<h2>{escape(each.title)}</h2>", _table(each.head, each.rows)]
    notes = remarks(report)
    body += ["<h2>Notes</h2><ul>", *(f"<li>{escape(note)}</li>" for note in notes), "</ul>"] if notes else []
    facts = [(name, plain(value)) for name, value in report.environment.items()]
    body += ["<h2>Environment</h2><div class=env>", _table(("what", "value"), facts), "</div>"]
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>camscribe bench</title>'
    head += f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style>'
    return f"{head}<body>{''.join(body)}</body></html>\n"


def _figures(report: Report) -> Iterator[str]:
    names = short_names(report)
    latencies = {names[row.name]: row.samples_ms for row in report.variants}
    latencies |= {f"peer {peer.name}": peer.samples_ms for peer in report.peers}
    measured = {name: values for name, values in latencies.items() if values}
    if measured:
        yield _figure("Latency of every caption, ms (bar: median to 90th percentile)", plots.distribution(measured))
    stacks = {
        names[row.name]: {name: stage.time_ms.mean * stage.per_caption for name, stage in row.stages.items()}
        for row in report.variants
        if not isinstance(row.stages, Missing)
    }
    if stacks:
        stages = list(dict.fromkeys(name for each in stacks.values() for name in each))
        yield _figure("Stages of a caption, mean, ms", plots.stack(stacks, stages), stages)
    points, what = _qualities(report, names)
    if points:
        form = ".3g" if what == "CIDEr" else ".0%"
        title = f"{what} against median latency, ms"
        numbered = [f"{index}: {name}" for index, name in enumerate(points, 1)]
        yield _figure(title, plots.scatter(points, title, form), numbered)
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
            yield _figure(title, plots.lines(curves, title), list(curves))


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


def _figure(caption: str, picture: str, legend: Sequence[str] = ()) -> str:
    items = "".join(
        f'<li><i style="background:{plots.colour(index)}"></i>{escape(name)}</li>' for index, name in enumerate(legend)
    )
    below = f"<ul class=legend>{items}</ul>" if items else ""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{picture}{below}</figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(item)}</th>' for item in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(item)}</td>' for item in line)}</tr>" for line in rows)
    return f'<div class=wide tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'
