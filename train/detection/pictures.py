"""A sheet of sample detections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from camscribe.train import figures
from camscribe.train.detection.scenes import Names, Scenes, Targets
from camscribe.train.detection.scores import Detections

_IMAGES, _COLUMNS = 12, 4
_LEAST, _MOST = 0.3, 8
"""Detections that are drawn: the best, with at least this score."""
_COLOURS = ("#e6454b", "#2f8fe0", "#36b35f", "#f2a516", "#a05bd6", "#18b5b0", "#e85fae", "#8f7a55")


def sheet(scenes: Scenes, truth: list[Targets], found: list[Detections], out: Path) -> None:
    """Draws a dozen images with their best detections, each with its likeliest attribute, class and score; what is
    true is dotted.

    Args:
        scenes: the images.
        truth: what is in them.
        found: what was found there.
        out: the PNG file to write.

    Raises:
        DataError: ``out`` cannot be written.
    """
    chosen = sorted({round(row) for row in np.linspace(0, len(found) - 1, min(_IMAGES, len(found)))})
    columns = min(_COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    pixels, _ = scenes.batch(chosen, [0] * len(chosen))
    ratio = scenes.spec.height / scenes.spec.width
    figure = Figure(figsize=(3.4 * columns, 3.4 * ratio * rows), dpi=110, layout="constrained", facecolor="white")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel in panels:
        panel.set_axis_off()
    for panel, row, image in zip(figure.axes, chosen, pixels, strict=False):
        panel.imshow(image.permute(1, 2, 0).numpy())
        for corners in truth[row]["boxes"].tolist():
            _outline(panel, corners, "white", 1.0, "dotted")
        _detections(panel, found[row], scenes.names, scenes.spec.width)
    figures.save(figure, out)


def _detections(panel: Axes, found: Detections, names: Names, width: int) -> None:
    shown = [index for index, score in enumerate(found["scores"].tolist()) if score >= _LEAST][:_MOST]
    for index in shown:
        label = int(found["labels"][index])
        colour = _COLOURS[(label - 1) % len(_COLOURS)]
        corners = found["boxes"][index].tolist()
        _outline(panel, corners, colour, 1.8, "solid")
        # Words of a box on the right begin at its right corner, so that they stay in the picture.
        right = corners[0] > 0.6 * width
        panel.annotate(
            _words(found, index, names),
            (corners[2 if right else 0] - 0.5, corners[1] - 0.5),
            xytext=(-1.5 if right else 1.5, -1.5),
            textcoords="offset points",
            ha="right" if right else "left",
            va="top",
            fontsize=7,
            color="white",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.2, "alpha": 0.85},
            parse_math=False,
        )


def _words(found: Detections, index: int, names: Names) -> str:
    words = [names.classes[int(found["labels"][index]) - 1], f"{float(found['scores'][index]):.2f}"]
    if "attributes" in found and int(found["attributes"][index]) < len(names.attributes):
        words.insert(0, names.attributes[int(found["attributes"][index])])
    return " ".join(words)


def _outline(panel: Axes, corners: list[float], colour: str, width: float, style: str) -> None:
    left, top, right, bottom = corners
    place = (left - 0.5, top - 0.5)  # a pixel's middle is a whole number there
    panel.add_patch(
        Rectangle(
            place,
            right - left,
            bottom - top,
            fill=False,
            edgecolor=colour,
            linewidth=width,
            linestyle=style,  # type: ignore[arg-type]
        )
    )
