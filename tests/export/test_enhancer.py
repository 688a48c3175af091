"""An enhancer's export: graphs that do what PyTorch does, in three precisions, in one small bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from PIL import Image

from camscribe.runtime.cli import main
from camscribe.runtime.enhancer import Enhancer
from camscribe.runtime.enhancer_bundle import EnhancerBundle
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.superres.config import ModelConfig, from_dict
from camscribe.train.superres.generator import Generator

MODEL = ModelConfig(width=16, depth=2, branches=(4, 8, 4))
KINDS = [MODEL, ModelConfig("srresnet", scale=2, width=8, depth=1, batch_norm=True, upsampler="steps")]


def _save(path: Path, config: ModelConfig, seed: int) -> Path:
    torch.manual_seed(seed)
    model: dict[str, Any] = dict(vars(config))
    table = {"task": "super_resolution", "data": {"root": "gone"}, "model": model, "stage": [{"name": "a", "steps": 1}]}
    generator = Generator(config)
    with torch.no_grad():
        for value in generator.parameters():
            value.mul_(1.5)  # so that details show beside the bicubic enlargement
    tensors = {f"model.{name}": value for name, value in generator.state_dict().items()}
    Checkpoint(tensors, {"config": from_dict(table).to_dict(), "history": [], "progress": {}}).save(path)
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("horses", "dune", "car"):
        image = Image.open(Path(__file__).parents[2] / "examples" / f"{name}.jpg").convert("RGB")
        image.crop((0, 0, 300, 280)).save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize("config", KINDS, ids=lambda config: f"{config.generator}-x{config.scale}")
def test_a_bundle_of_every_generator(config: ModelConfig, photographs: Path, tmp_path: Path) -> None:
    first, second = (_save(tmp_path / f"{seed}.safetensors", config, seed) for seed in (1, 2))
    arguments = ["--gan", str(second), "--blend", "0.5", "--calibration", str(photographs), "--cpu-precision", "int8"]
    assert main(["export", str(first), "--out", str(tmp_path / "bundle"), *arguments]) == 0
    bundle = EnhancerBundle.load(tmp_path / "bundle")
    figures = bundle.manifest.parity.figures
    for variant in ("psnr", "gan"):
        assert figures[variant]["float32"]["largest"] <= 1
        assert figures[variant]["fp16"]["largest"] <= 2
        assert figures[variant]["int8"]["mean"] < 2.5
    image = np.asarray(Image.open(photographs / "car.png"))[:33, :47]
    for precision in ("float32", "fp16", "int8"):
        with Enhancer.load(bundle.path, "cpu", precision, variant="gan") as enhancer:
            assert enhancer.enhance(image, "rgb").pixels.shape == (33 * config.scale, 47 * config.scale, 3)
    assert Enhancer.load(bundle.path, "cpu").choice.precision == "int8"
    half = onnx.load(bundle.path / "psnr.fp16.onnx")
    kinds = {weight.data_type for weight in half.graph.initializer if len(weight.dims) == 4}
    assert kinds == {TensorProto.FLOAT16}
    assert [op.version for op in half.opset_import] == [17]


def test_quality_is_recorded_and_wrong_options_are_refused(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = _save(tmp_path / "best.safetensors", MODEL, 1)
    bundle = str(tmp_path / "bundle")
    arguments = ["--calibration", str(photographs), "--no-int8", "--no-fp16"]
    assert main(["export", str(tmp_path), "--out", bundle, *arguments]) == 0
    report = tmp_path / "report.json"
    assert main(["evaluate", bundle, "--data", str(photographs), "--out", str(report), "--backend", "cpu"]) == 0
    assert main(["export", "--update", bundle, "--quality", f"psnr.float32={report}"]) == 0
    scores = EnhancerBundle.load(Path(bundle)).manifest.quality["psnr"]["float32"][photographs.name]
    assert scores["psnr_y"] == json.loads(report.read_text())["scores"]["psnr_y"]
    assert main(["evaluate", str(checkpoint), "--data", str(photographs), "--out", str(report)]) == 0
    assert json.loads(report.read_text())["scores"]["psnr_y"] == pytest.approx(scores["psnr_y"], abs=0.02)
    capsys.readouterr()
    for wrong, message in (
        (["export", "--update", bundle, "--quality", f"gan.float32={report}"], "variant is 'gan'"),
        (["export", "--update", bundle, "--quality", f"float32={report}"], "expected VARIANT.PRECISION"),
        (["export", "--update", bundle, "--renew"], "--renew is a captioner's"),
        (["export", "--update", bundle, "--gan", str(checkpoint)], "--gan is for a new bundle"),
        (["export", "--update", bundle, "--calibration", str(photographs)], "--update makes no graphs"),
        (["export", str(checkpoint), "--out", bundle, "--beams", "3"], "--beams is a captioner's"),
        (["export", str(checkpoint), "--out", bundle, "--no-repeat", "2"], "--no-repeat is a captioner's"),
        (["evaluate", bundle, "--data", str(photographs), "--beams", "3"], "--beams is a captioner's"),
        (["evaluate", bundle, "--data", str(photographs), "--split", "dev"], "--split is a captioner's"),
        (["evaluate", bundle, "--data", str(photographs), "--border", "-1"], "--border is -1; expected 0 or more"),
        (["export", str(checkpoint), "--out", bundle], "no such folder"),
        (["export", str(checkpoint), "--out", bundle, "--gan", str(tmp_path / "no")], "cannot be read as a checkpoint"),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err
    other = _save(tmp_path / "other.safetensors", replace(MODEL, width=8), 2)
    assert main(["export", str(checkpoint), "--out", bundle, *arguments, "--gan", str(other)]) == 2
    assert "of another generator" in capsys.readouterr().err
