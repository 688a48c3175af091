"""The pictures of a report as inline SVG: no script, no foreign host, readable on a phone and in the dark.

Every picture is ``WIDTH`` units wide, about the pixels of a phone, so that its text has the size of the page's there;
wider screens put pictures side by side. Text and axes take the page's colour. A variant has one colour in all pictures,
which the legends of the page name.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8E6BC8", "#7F7F7F", "#8C564B")
"""Of Okabe and Ito, which colour-blind people can tell apart, without the yellow that white swallows, and three more: a
caption has nine stages. All are seen on white and on black."""
WIDTH = 360
_DASHES = ("", "6 3", "2 3", "8 3 2 3")


def colour(index: int) -> str:
    """The colour of the n-th of what is shown."""
    return COLOURS[index % len(COLOURS)]


@dataclass(frozen=True)
class Figure:
    """A picture of a page."""

    caption: str
    picture: str
    """SVG."""
    legend: tuple[str, ...] = ()
    """What the colours stand for, in their order."""


@dataclass(frozen=True)
class Axis:
    """Where a value lies between two units of the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values: 1, 2 and 5 of each decade, or some five that are equally far apart."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            found = [step * 10.0**power for power in range(first, last + 1) for step in (1, 2, 5)]
        else:
            rough = (self.high - self.low) / 4
            power = 10.0 ** math.floor(math.log10(rough))
            step = next(unit * power for unit in (1, 2, 5, 10) if unit * power >= rough * 0.999)
            found = [step * count for count in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [value for value in found if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]


def axis(values: Sequence[float], start: float, end: float, *, log: bool = False, zero: bool = True) -> Axis:
    """An axis that holds all values.

    Args:
        values: above 0.
        start, end: units of the picture.
        log: logarithmic, where the values are above 0.
        zero: begin a linear one at 0.
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    if log and low > 0:
        return Axis(low / 1.1, high * 1.1, start, end, True)
    if zero:
        return Axis(0.0, 1.05 * high or 1.0, start, end)
    # Half a hundredth more CIDEr is no difference, and shall not look like one.
    spread = max(high - low, 0.1 * abs(high)) or 1.0
    middle = (low + high) / 2
    return Axis(middle - 0.7 * spread, middle + 0.7 * spread, start, end)


def distribution(samples: Mapping[str, Sequence[float]], what: str = "caption") -> str:
    """A row for each variant: a tick for every sample, a band to the 90th percentile, and the median as a number.

    Args:
        samples: by variant.
        what: one of them is.
    """
    everything = [value for values in samples.values() for value in values]
    wide = max(everything, default=1.0) > 6 * max(min(everything, default=1.0), 1e-9)
    x = axis(everything, 4, WIDTH - 8, log=wide and min(everything, default=0.0) > 0)
    bottom = 46 * len(samples)
    parts = _x_axis(x, bottom, 0)
    for index, (name, values) in enumerate(samples.items()):
        top, each = 46 * index, colour(index)
        middle, ordered = statistics.median(values), sorted(values)
        ninth = ordered[min(len(ordered) - 1, math.ceil(0.9 * len(ordered)) - 1)]
        parts.append(_text(2, top + 14, f"{name}: median {middle:.2f}"))
        parts += [_rect(x(value) - 0.5, top + 20, 1, 16, each, 0.35) for value in values]
        parts.append(_rect(x(middle), top + 34, max(1.0, x(ninth) - x(middle)), 4, each, 1))
        parts.append(_rect(x(middle) - 2, top + 18, 4, 20, each, 1))
    title = f"Latency of every {what} in ms{', logarithmic' if x.log else ''}"
    return _svg(title, bottom + 22, parts)


def stack(stacks: Mapping[str, Mapping[str, float]], names: Sequence[str], what: str = "caption") -> str:
    """A bar for each variant, divided by stages.

    Args:
        stacks: by variant, the time of each stage.
        names: of all stages, in the order of their colours.
        what: a whole bar is.
    """
    totals = {variant: sum(stages.values()) for variant, stages in stacks.items()}
    x = axis(list(totals.values()), 4, WIDTH - 8)
    bottom = 46 * len(stacks)
    parts = _x_axis(x, bottom, 0)
    for row, (variant, stages) in enumerate(stacks.items()):
        parts.append(_text(2, 46 * row + 14, f"{variant}: {totals[variant]:.2f}"))
        at = 0.0
        for name, value in stages.items():
            parts.append(_rect(x(at), 46 * row + 20, x(at + value) - x(at), 18, colour(names.index(name)), 1))
            at += value
    return _svg(f"Mean time of each stage in a {what}, ms", bottom + 22, parts)


def scatter(points: Mapping[str, tuple[float, float]], title: str, form: str) -> str:
    """Latency against quality: a numbered dot for each variant, which the legend names.

    Args:
        points: by variant, latency in ms and quality.
        title: what both are.
        form: of the quality's numbers.
    """
    x = axis([point[0] for point in points.values()], 50, WIDTH - 14)
    y = axis([point[1] for point in points.values()], 190, 12, zero=False)
    parts = [*_x_axis(x, 190, 12), *_y_axis(y, form)]
    placed: list[tuple[float, float]] = []
    for index, (latency, quality) in enumerate(points.values()):
        left, top = x(latency), y(quality)
        parts.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="6" fill="{colour(index)}"/>')
        label = (left + (9 if left < WIDTH - 40 else -17), top + 4)
        while any(abs(label[0] - a) < 16 and abs(label[1] - b) < 13 for a, b in placed):
            label = (label[0], label[1] - 13)
        placed.append(label)
        parts.append(_text(*label, str(index + 1)))
    return _svg(title, 212, parts)


def lines(curves: Mapping[str, Sequence[tuple[float, float]]], title: str) -> str:
    """A sweep: a line for each variant, through its values.

    Args:
        curves: by variant, what was varied and what it gave.
        title: what both are.
    """
    every = [point for curve in curves.values() for point in curve]
    x = axis([point[0] for point in every], 50, WIDTH - 14, log=min((p[0] for p in every), default=0) > 0)
    y = axis([point[1] for point in every], 190, 12)
    values = sorted({point[0] for point in every})
    parts = _y_axis(y, "g")
    for value in values:
        parts += [_line(x(value), 12, x(value), 190, 0.15), _text(x(value), 207, f"{value:g}", "middle")]
    for index, curve in enumerate(curves.values()):
        way = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in curve)
        pen = f'stroke="{colour(index)}" stroke-width="2" stroke-dasharray="{_DASHES[index % len(_DASHES)]}"'
        parts.append(f'<polyline points="{way}" fill="none" {pen}/>')
        parts += [f'<circle cx="{x(a):.1f}" cy="{y(v):.1f}" r="3.5" fill="{colour(index)}"/>' for a, v in curve]
    return _svg(title, 212, parts)


def _x_axis(x: Axis, bottom: float, top: float) -> list[str]:
    parts = [_line(x.start, bottom, x.end, bottom, 0.6)]
    for value in x.ticks():
        parts += [_line(x(value), top, x(value), bottom, 0.15), _text(x(value), bottom + 17, f"{value:g}", "middle")]
    return parts


def _y_axis(y: Axis, form: str) -> list[str]:
    parts = [_line(50, 190, 50, 12, 0.6), _line(50, 190, WIDTH - 14, 190, 0.6)]
    for value in y.ticks():
        parts += [_line(50, y(value), WIDTH - 14, y(value), 0.15), _text(45, y(value) + 4, format(value, form), "end")]
    return parts


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x: float, y: float, to_x: float, to_y: float, opacity: float) -> str:
    ends = f'x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
    return f'<line {ends} stroke="currentColor" opacity="{opacity}"/>'


def _rect(x: float, y: float, width: float, height: float, fill: str, opacity: float) -> str:
    size = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}"'
    return f'<rect {size} fill="{fill}" opacity="{opacity}"/>'


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    inside = f"<title>{escape(title)}</title>{''.join(parts)}"
    return f'<svg role="img" viewBox="0 0 {WIDTH} {height:g}" xmlns="http://www.w3.org/2000/svg">{inside}</svg>'
