"""The ablation of blocks: trained, scored, exported and measured in turn, and gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camscribe.benchmarks import enhancer_ablation
from camscribe.runtime.errors import OptionError

CONFIG = """
task = "super_resolution"
[data]
root = "."
tune = 1
[model]
generator = "{generator}"
width = 8
depth = 1
growth = 4
branches = [2, 4, 2]
[[stage]]
name = "psnr"
steps = 2
batch = 2
patch = 16
warm_up_steps = 1
validate_every = 1
"""


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder with photographs to train on, and pairs to score, all of noise."""
    data, rng = tmp_path / "sr", np.random.default_rng(0)
    for folder, names, side in (
        ("bsds400", ("0", "1", "2"), 256),
        ("set5_x4", ("img_001_SRF_4_HR", "img_002_SRF_4_HR"), 48),
        ("set5_x4", ("img_001_SRF_4_LR", "img_002_SRF_4_LR"), 12),
    ):
        (data / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(data / folder / f"{name}.png")
    return data


def test_blocks_are_trained_scored_and_measured_and_not_twice(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = {"inception-residual": "inception", enhancer_ablation.BESIDE: "rrdb"}
    for generator in kinds.values():
        (tmp_path / f"{generator}.toml").write_text(CONFIG.format(generator=generator), encoding="utf-8")
    monkeypatch.setattr(enhancer_ablation, "CONFIGS", tmp_path)
    monkeypatch.setattr(enhancer_ablation, "KINDS", kinds)
    runs, out = tmp_path / "runs", tmp_path / "ablation.json"
    arguments = ["--data", str(photographs), "--runs", str(runs), "--seeds", "2", "--rounds", "2", "--out", str(out)]
    assert enhancer_ablation.main(arguments) == 0
    networks = json.loads(out.read_text(encoding="utf-8"))["networks"]
    assert list(networks) == list(kinds)
    assert networks[enhancer_ablation.BESIDE]["to_rrdb"] == {"float32": 1, "int8": 1}
    for network in networks.values():
        assert [run["seed"] for run in network["runs"]] == [2]
        assert network["set5_psnr_y"] == pytest.approx(np.mean([run["set5_psnr_y"] for run in network["runs"]]))
        assert network["multiply_adds"] > 1000
        assert set(network["time_ms"]) == {"float32", "int8"}
    capsys.readouterr()
    kept = {path: path.stat().st_mtime_ns for path in runs.rglob("best.safetensors")}
    assert enhancer_ablation.main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("best.safetensors")} == kept


def test_seeds_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--seeds is 'one'; expected whole numbers such as 3,4,5"):
        enhancer_ablation.main(["--data", str(tmp_path), "--runs", str(tmp_path), "--seeds", "one"])
