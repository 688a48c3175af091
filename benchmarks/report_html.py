"""A report as one HTML file: no script, no foreign host; pictures are inline SVG made here."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape

from camscribe.benchmarks.report_markdown import plain
from camscribe.benchmarks.report_tables import PARTIAL, protocol, remarks, tables
from camscribe.benchmarks.schema import Missing, Report

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#7F7F7F", "#8C564B")
"""Of Okabe and Ito, which colour-blind people can tell apart, and two more: a caption has nine stages."""
_STYLE = """:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:80rem;margin:auto;
padding:1rem}
.wide{overflow-x:auto}table{border-collapse:collapse}td,th{padding:.2rem .6rem;text-align:right;white-space:nowrap;
border-bottom:1px solid #8886}td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto}
svg text{fill:currentColor;font-size:13px}.env td{text-align:left;white-space:normal;overflow-wrap:anywhere}"""


def render(report: Report) -> str:
    """The whole report as HTML."""
    body = ["<h1>camscribe bench</h1>"]
    if report.partial:
        body.append(f"<p><strong>{PARTIAL}</strong></p>")
    body.append(f"<p>{escape(protocol(report))}</p>")
    first, *others = tables(report)
    body += [f"<h2>{first.title}</h2>", _table(first.head, first.rows)]
    latencies = {variant.name: variant.samples_ms for variant in report.variants}
    latencies |= {f"peer {peer.name}": peer.samples_ms for peer in report.peers}
    body += ["<h2>Latency, ms</h2>", distribution({k: v for k, v in latencies.items() if v})]
    stacks = {
        v.name: {name: stage.time_ms.mean * stage.per_caption for name, stage in v.stages.items()}
        for v in report.variants
        if not isinstance(v.stages, Missing)
    }
    if stacks:
        body += ["<h2>Stages of a caption, ms</h2>", stack(stacks)]
    for each in others:
        body += [f"<h2>{escape(each.title)}</h2>", _table(each.head, each.rows)]
    notes = remarks(report)
    body += ["<h2>Notes</h2><ul>", *(f"<li>{escape(note)}</li>" for note in notes), "</ul>"] if notes else []
    facts = [(name, plain(value)) for name, value in report.environment.items()]
    body += ["<h2>Environment</h2><div class=env>", _table(("what", "value"), facts), "</div>"]
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>camscribe bench</title>'
    head += f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style>'
    return f"{head}<body>{''.join(body)}</body></html>\n"


def distribution(samples: dict[str, Sequence[float]]) -> str:
    """A line of ticks for each variant, one for each caption; the thick one is the median."""
    top = max((max(values) for values in samples.values()), default=1.0) or 1.0
    parts = []
    for index, (name, values) in enumerate(samples.items()):
        y, colour = 44 * index, COLOURS[index % len(COLOURS)]
        middle = statistics.median(values)
        parts.append(f'<text x="0" y="{y + 14}">{escape(name)}: median {middle:.2f}</text>')
        parts += [_bar(value / top * 690, y + 20, 1, 16, colour, 0.35) for value in values]
        parts.append(_bar(middle / top * 690 - 2, y + 18, 4, 20, colour, 1))
    return _svg("Latency of every caption, from 0 to " + f"{top:.1f} ms", 44 * len(samples), parts)


def stack(stacks: dict[str, dict[str, float]]) -> str:
    """A bar for each variant, divided by stages, and each stage's number below it."""
    top = max(sum(stages.values()) for stages in stacks.values()) or 1.0
    parts, y = [], 0
    for variant, stages in stacks.items():
        parts.append(f'<text x="0" y="{y + 14}">{escape(variant)}</text>')
        x = 0.0
        for index, (stage, value) in enumerate(stages.items()):
            colour, below = COLOURS[index % len(COLOURS)], y + 46 + 18 * (index // 4)
            parts.append(_bar(x, y + 20, value / top * 690, 18, colour, 1))
            parts.append(_bar(175 * (index % 4), below, 10, 10, colour, 1))
            parts.append(f'<text x="{175 * (index % 4) + 15}" y="{below + 10}">{escape(stage)} {value:.2f}</text>')
            x += value / top * 690
        y += 60 + 18 * ((len(stages) + 3) // 4)
    return _svg("Mean time of each stage in a caption", y, parts)


def _bar(x: float, y: float, width: float, height: float, colour: str, opacity: float) -> str:
    size = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}"'
    return f'<rect {size} fill="{colour}" opacity="{opacity}"/>'


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    inside = f"<title>{escape(title)}</title>{''.join(parts)}"
    return f'<svg role="img" viewBox="0 0 700 {height}" xmlns="http://www.w3.org/2000/svg">{inside}</svg>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(item)}</th>' for item in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(item)}</td>' for item in line)}</tr>" for line in rows)
    return f'<div class=wide tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'
