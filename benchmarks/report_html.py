"""A report as one HTML file: no script, no foreign host; pictures are inline SVG (report_plots.py)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from camscribe.benchmarks import report_plots as plots
from camscribe.benchmarks.pages import AnyReport, page_of
from camscribe.benchmarks.report_markdown import plain
from camscribe.benchmarks.report_tables import PARTIAL

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


def render(report: AnyReport) -> str:
    """The whole report as HTML."""
    page = page_of(report)
    body = [f"<h1>{escape(page.title)}</h1>"]
    if page.partial:
        body.append(f"<p class=partial><strong>{PARTIAL}</strong></p>")
    body.append(f"<p>{escape(page.protocol)}</p>")
    first, *others = page.tables
    body += [f"<h2>{escape(first.title)}</h2>", _table(first.head, first.rows)]
    body += ["<h2>Pictures</h2><div class=plots>", *map(_figure, page.figures), "</div>"]
    for each in others:
        body += [f"<h2>{escape(each.title)}</h2>", _table(each.head, each.rows)]
    notes = page.remarks
    body += ["<h2>Notes</h2><ul>", *(f"<li>{escape(note)}</li>" for note in notes), "</ul>"] if notes else []
    facts = [(name, plain(value)) for name, value in page.environment.items()]
    body += ["<h2>Environment</h2><div class=env>", _table(("what", "value"), facts), "</div>"]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(page.title)}</title>'
    head += f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style>'
    return f"{head}<body>{''.join(body)}</body></html>\n"


def _figure(figure: plots.Figure) -> str:
    items = "".join(
        f'<li><i style="background:{plots.colour(index)}"></i>{escape(name)}</li>'
        for index, name in enumerate(figure.legend)
    )
    below = f"<ul class=legend>{items}</ul>" if items else ""
    return f"<figure><figcaption>{escape(figure.caption)}</figcaption>{figure.picture}{below}</figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(item)}</th>' for item in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(item)}</td>' for item in line)}</tr>" for line in rows)
    return f'<div class=wide tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'
