"""Pictures of a run: its curves, and a sheet of sample captions."""

from __future__ import annotations

import json
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from camscribe.runtime import images
from camscribe.runtime.errors import DataError

_INK, _FAINT = "#222222", "#6b717b"
_LOSS, _SCORE, _RATE = "#c44e52", "#2f6db3", "#4c9a63"
_TITLES = {
    "cross_entropy": "cross entropy, nats a word",
    "reward": "reward of the samples (CIDEr-D, BLEU-4 where weighted)",
    "pixel": "pixel-wise loss",
    "perceptual": "perceptual loss",
    "adversarial": "adversarial loss of the generator",
    "discriminator": "loss of the discriminator",
    "tune_cider": "CIDEr of beam-searched captions, tuning split",
    "tune_psnr_y": "PSNR of luma, dB, tuning photographs",
    "loss": "loss of the detector, attributes with their weight",
    "loss_attributes": "cross entropy of attributes, nats a region",
    "tune_map50": "mean average precision at IoU 0.5, tuning split",
    "tune_attributes": "share of boxes whose attribute is right, tuning split",
    "learning_rate": "learning rate",
}
_SCORES = ("tune_cider", "tune_psnr_y", "tune_map50", "tune_attributes")
_BANDS = ("#f4f6f9", "#ffffff")


@dataclass(frozen=True)
class _Line:
    """One quantity over the run."""

    epochs: list[float]
    values: list[float]


@dataclass(frozen=True)
class _Stage:
    name: str
    start: float
    stop: float


def curves(metrics: Path, out: Path) -> None:
    """Draws losses (or reward), the tuning split's score and learning rate over the epochs of all stages.

    Args:
        metrics: the run's ``metrics.jsonl``.
        out: the PNG file to write.

    Raises:
        DataError: ``metrics`` cannot be read, or ``out`` cannot be written.
    """
    stages, lines = _read(metrics)
    shown = [name for name in _TITLES if name in lines] or ["cross_entropy"]
    figure = Figure(figsize=(9, 2.3 * len(shown) + 0.4), dpi=110, layout="constrained", facecolor="white")
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for panel, name in zip(panels, shown, strict=True):
        _panel(panel, name, lines.get(name, _Line([], [])), stages)
    for stage in stages:
        panels[0].annotate(
            stage.name,
            ((stage.start + stage.stop) / 2, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, -11),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=_FAINT,
            parse_math=False,
        )
    panels[-1].set_xlabel("epochs", color=_INK)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    save(figure, out)


def sheet(samples: Sequence[tuple[Path, str, str]], out: Path, columns: int = 4) -> None:
    """Draws photographs in a grid, each with its generated caption and what a person wrote.

    Args:
        samples: (image, generated caption, reference) each.
        out: the PNG file to write.
        columns: pictures a row.

    Raises:
        DataError: ``samples`` is empty, or ``out`` cannot be written.
        SourceError: an image cannot be read.
    """
    if not samples:
        raise DataError(f"{out}: no captions to show")
    columns = min(columns, len(samples))
    rows = -(-len(samples) // columns)
    figure = Figure(figsize=(3.1 * columns, 3.95 * rows), dpi=100, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.1)  # type: ignore[union-attr]
    for panel in figure.subplots(rows, columns, squeeze=False).flat:
        panel.set_axis_off()
    for panel, (path, caption, reference) in zip(figure.axes, samples, strict=False):
        panel.set_anchor("S")
        panel.imshow(_thumbnail(path))
        for text, up, size, color, weight in (
            (_wrap(caption or "(no words)", 31, 3), -5, 10, _INK, "bold"),
            (_wrap(reference, 42, 2), -52, 8, _FAINT, "normal"),
        ):
            panel.annotate(
                text,
                (0, 0),
                xycoords="axes fraction",
                xytext=(0, up),
                textcoords="offset points",
                va="top",
                fontsize=size,
                color=color,
                weight=weight,
                parse_math=False,
            )
    save(figure, out)


def _read(path: Path) -> tuple[list[_Stage], dict[str, _Line]]:
    """The stages of a run and its quantities, both over epochs counted through all stages."""
    try:
        entries: list[dict[str, Any]] = [
            json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON lines ({error})") from error
    names = list(dict.fromkeys(entry["stage"] for entry in entries))
    stages: list[_Stage] = []
    lines: dict[str, _Line] = {}
    for name in names:
        own = [entry for entry in entries if entry["stage"] == name]
        start = stages[-1].stop if stages else 0.0
        steps = max((entry["step"] for entry in own if "step" in entry), default=1)
        last = start
        for entry in own:
            # A validation belongs to the end of its epoch; it has no step.
            epoch = start + entry["epoch"] - 1 + entry.get("step", steps) / steps
            last = max(last, epoch)
            for quantity in _TITLES.keys() & entry.keys():
                line = lines.setdefault(quantity, _Line([], []))
                line.epochs.append(epoch)
                line.values.append(entry[quantity])
        stages.append(_Stage(name, start, last))
    return stages, lines


def _panel(panel: Axes, name: str, line: _Line, stages: Sequence[_Stage]) -> None:
    for index, stage in enumerate(stages):
        panel.axvspan(stage.start, stage.stop, color=_BANDS[index % 2], zorder=0)
    color = _SCORE if name in _SCORES else _RATE if name == "learning_rate" else _LOSS
    marker = "o" if name in _SCORES or len(line.values) < 3 else ""
    panel.plot(line.epochs, line.values, color=color, linewidth=1.6, marker=marker, markersize=4)
    if name in _SCORES and line.values:
        best = max(range(len(line.values)), key=line.values.__getitem__)
        panel.plot(line.epochs[best], line.values[best], "o", color=color, markersize=7)
        panel.annotate(
            f"{line.values[best]:.3f}",
            (line.epochs[best], line.values[best]),
            xytext=(0, 6),  # nothing is drawn above the highest point
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=color,
        )
        panel.margins(y=0.2)
    panel.set_title(_TITLES[name], loc="left", fontsize=10, color=_INK)
    panel.grid(axis="y", color="#dfe3e8", linewidth=0.8)
    panel.tick_params(colors=_FAINT, labelsize=8, length=0)
    panel.set_axisbelow(True)
    for spine in panel.spines.values():
        spine.set_visible(False)
    if name == "learning_rate":
        panel.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))


def _thumbnail(path: Path) -> Any:
    """The middle of a photograph, as a square of 300 pixels."""
    from camscribe.runtime.pixels import PixelSpec, reduce

    return reduce(images.read(path), PixelSpec(300, 300, fit="crop"))


def _wrap(text: str, width: int, lines: int) -> str:
    """At most so many lines; what does not fit ends in an ellipsis."""
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))


def save(figure: Figure, out: Path) -> None:
    """Writes the whole PNG or leaves the old one."""
    part = out.with_name(f"{out.name}.part")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # a word the font has no letters for
            figure.savefig(part, format="png")
        part.replace(out)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DataError(f"{out}: cannot be written ({error.strerror})") from error
