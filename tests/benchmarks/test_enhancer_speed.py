"""The enhancer's speed is measured beside a network that makes the same picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from camscribe.benchmarks import enhancer_speed
from camscribe.runtime.errors import OptionError

pytest.importorskip("torch")
pytest.importorskip("onnx")


def test_both_sides_make_one_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(enhancer_speed, "SIZES", ((24, 20),))
    examples = Path(__file__).parents[2] / "examples"
    out = tmp_path / "speed.json"
    arguments = ["--image", str(examples / "car.jpg"), "--rounds", "2", "--threads", "1", "--out", str(out)]
    assert enhancer_speed.main(arguments) == 0
    assert "24x20 int8: PyTorch takes" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert [row["name"] for row in report["ratios"]] == ["24x20 float32", "24x20 int8"]
    assert all(row["median"] > 0 for row in report["ratios"])
    monkeypatch.setattr(enhancer_speed, "SIZES", ((4000, 20),))
    with pytest.raises(OptionError, match="smaller than 4000x20"):
        enhancer_speed.main(arguments)
