"""Curves and sample sheets are whole PNG files that show what they were given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from camscribe.runtime import draw
from camscribe.runtime.errors import DataError, SourceError
from camscribe.train import figures
from camscribe.train.figures import curves, sheet


def log(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


def training(stage: str, epoch: int, step: int, **values: float) -> dict[str, Any]:
    return {"stage": stage, "epoch": epoch, "step": step, "learning_rate": 1e-3 / epoch, **values}


def pixels(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(path).convert("RGB"))


def has_color(image: np.ndarray[Any, np.dtype[np.uint8]], color: str) -> bool:
    wanted = [int(color[start : start + 2], 16) for start in (0, 2, 4)]
    return bool((np.abs(image.astype(int) - wanted).max(axis=2) <= 2).any())


def test_curves_show_every_quantity_of_all_stages(tmp_path: Path) -> None:
    out = tmp_path / "curves.png"
    both = log(
        tmp_path / "metrics.jsonl",
        training("decoder", 1, 50, cross_entropy=5.0),
        training("decoder", 1, 100, cross_entropy=4.0),
        {"stage": "decoder", "epoch": 1, "tune_cider": 0.3},
        training("cider", 1, 100, reward=0.5),
        {"stage": "cider", "epoch": 1, "tune_cider": 0.5},
    )
    curves(both, out)
    image = pixels(out)
    assert all(has_color(image, color) for color in ("c44e52", "2f6db3", "4c9a63"))
    curves(log(tmp_path / "short.jsonl", training("decoder", 1, 3, cross_entropy=5.0)), out)
    assert pixels(out).shape[0] < image.shape[0]  # two panels, not four
    assert not has_color(pixels(out), "2f6db3")


def test_the_best_score_is_written_where_no_line_is(tmp_path: Path) -> None:
    scored = [{"stage": "a", "epoch": epoch, "tune_cider": score} for epoch, score in ((1, 0.5), (2, 0.1), (3, 0.1))]
    curves(log(tmp_path / "metrics.jsonl", *scored), tmp_path / "curves.png")
    image = pixels(tmp_path / "curves.png").astype(int)
    drawn = (np.abs(image - (0x2F, 0x6D, 0xB3)).max(axis=2) <= 40).any(axis=1)
    rows = np.flatnonzero(drawn)
    assert not drawn[rows[0] : rows[-1]].all(), "from its highest point on the line goes down without a gap"


@pytest.mark.parametrize(
    ("ink", "paper"), [(figures._FAINT, "#ffffff"), (figures._INK, "#ffffff"), (draw._PALE, draw._PAPER)]
)
def test_small_text_can_be_read(ink: Any, paper: Any) -> None:
    """Contrast of at least 4.5, WCAG 2.1's level AA."""

    def luminance(color: Any) -> float:
        values = [int(color[start : start + 2], 16) for start in (1, 3, 5)] if isinstance(color, str) else color
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in np.divide(values, 255)
        ]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    assert (luminance(paper) + 0.05) / (luminance(ink) + 0.05) >= 4.5


def test_curves_of_a_run_that_has_just_begun_are_drawn(tmp_path: Path) -> None:
    curves(log(tmp_path / "metrics.jsonl"), tmp_path / "curves.png")
    assert pixels(tmp_path / "curves.png").size


def test_broken_metrics_are_refused_and_the_old_picture_stays(tmp_path: Path) -> None:
    out = tmp_path / "curves.png"
    out.write_bytes(b"old")
    broken = tmp_path / "metrics.jsonl"
    broken.write_text('{"stage": ', encoding="utf-8")
    with pytest.raises(DataError, match=r"metrics\.jsonl: cannot be read"):
        curves(broken, out)
    with pytest.raises(DataError, match=r"missing\.jsonl: cannot be read"):
        curves(tmp_path / "missing.jsonl", out)
    assert out.read_bytes() == b"old"


def photograph(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (320, 200)) -> Path:
    Image.new("RGB", size, color).save(path)
    return path


def test_a_sheet_shows_every_photograph(tmp_path: Path) -> None:
    colors = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    samples = [
        (photograph(tmp_path / f"{name}.png", color), f"a {name} wall", f"A {name} wall .")
        for name, color in colors.items()
    ]
    sheet(samples, tmp_path / "samples.png", columns=2)
    image = pixels(tmp_path / "samples.png")
    assert all(has_color(image, color) for color in ("ff0000", "00ff00", "0000ff"))
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("text", ["", "a $ 5 $ sign _x^", "一只狗在跑", "word " * 60, "x" * 200])
def test_captions_of_any_kind_can_be_shown(tmp_path: Path, text: str) -> None:
    photo = photograph(tmp_path / "photo.png", (9, 9, 9), size=(1, 1))
    sheet([(photo, text, text)], tmp_path / "samples.png")
    assert pixels(tmp_path / "samples.png").size


def test_a_sheet_of_nothing_or_of_a_broken_image_or_into_nowhere_is_refused(tmp_path: Path) -> None:
    photo = photograph(tmp_path / "photo.png", (9, 9, 9))
    with pytest.raises(DataError, match="no captions to show"):
        sheet([], tmp_path / "samples.png")
    with pytest.raises(SourceError, match=r"missing\.png"):
        sheet([(tmp_path / "missing.png", "a", "b")], tmp_path / "samples.png")
    with pytest.raises(DataError, match=r"samples\.png: cannot be written"):
        sheet([(photo, "a", "b")], tmp_path / "nowhere" / "samples.png")
