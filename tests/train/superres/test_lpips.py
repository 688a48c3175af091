"""LPIPS in ``camscribe evaluate``: the published formula where its weights are there, and one line where they are not.

AlexNet's weights are random here. The weights of the levels are those that the package ``lpips`` brings.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision import models

from camscribe.runtime.cli import main
from camscribe.train.superres.perceptual import LPIPS_SMALLEST, lpips_metric

needs_lpips = pytest.mark.skipif(importlib.util.find_spec("lpips") is None, reason="the package lpips is not installed")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torchvision's; the file it would keep AlexNet in."""
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    file = models.AlexNet_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    path = tmp_path / "torch" / "hub" / "checkpoints" / file
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def alexnet(hub: Path) -> models.AlexNet:
    """Random weights in the place of the trained ones."""
    torch.manual_seed(3)
    network = models.alexnet().eval()
    torch.save(network.state_dict(), hub)
    return network


def pictures() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    truth = np.asarray(Image.fromarray(small).resize((96, 72), Image.Resampling.BICUBIC))
    return np.asarray(Image.fromarray(truth).resize((24, 18)).resize((96, 72), Image.Resampling.BICUBIC)), truth


def published(network: models.AlexNet, one: np.ndarray, other: np.ndarray) -> float:
    """Eq. 1 of the paper: unit-normalised features, squared differences weighted by channel, means over positions."""
    import lpips

    weights = torch.load(
        Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth", map_location="cpu", weights_only=True
    )
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    total = 0.0
    images = torch.tensor(np.stack([one, other])).float() / 127.5 - 1
    features = ((images - shift) / scale).permute(0, 3, 1, 2)
    level = 0
    with torch.no_grad():
        for layer in network.features[:12]:
            features = layer(features)
            if isinstance(layer, torch.nn.ReLU):
                first, second = F.normalize(features, dim=1)
                apart = (first - second) ** 2 * weights[f"lin{level}.model.1.weight"].reshape(-1, 1, 1)
                total += float(apart.sum(0).mean())
                level += 1
    assert level == 5
    return total


@needs_lpips
def test_it_is_the_published_distance(alexnet: models.AlexNet) -> None:
    distance, why_not = lpips_metric()
    assert distance is not None
    assert why_not == ""
    made, truth = pictures()
    assert distance(made, truth) == pytest.approx(published(alexnet, made, truth), rel=1e-4)
    assert distance(truth, truth) == 0
    assert distance(made[:LPIPS_SMALLEST, :LPIPS_SMALLEST], truth[:LPIPS_SMALLEST, :LPIPS_SMALLEST]) > 0
    with pytest.raises(RuntimeError):
        distance(made[: LPIPS_SMALLEST - 1, : LPIPS_SMALLEST - 1], truth[: LPIPS_SMALLEST - 1, : LPIPS_SMALLEST - 1])


@needs_lpips
def test_evaluate_reports_it_within_the_border(alexnet: models.AlexNet, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    _, truth = pictures()
    Image.fromarray(truth).save(folder / "a.png")
    Image.fromarray(truth[::-1]).save(folder / "b.png")
    report = tmp_path / "report.json"
    assert main(["evaluate", "--bicubic", "4", "--data", str(folder), "--out", str(report)]) == 0
    assert "LPIPS (AlexNet)" in capsys.readouterr().out
    found = json.loads(report.read_text())
    from camscribe.train.superres.resize import resize

    made = resize(resize(truth, 1 / 4), 4.0)
    wanted = published(alexnet, made[4:-4, 4:-4], truth[4:-4, 4:-4])
    assert found["each"]["a.png"]["lpips"] == pytest.approx(wanted, rel=1e-4)
    assert found["scores"]["lpips"] == pytest.approx(np.mean([row["lpips"] for row in found["each"].values()]))
    assert found["versions"]["lpips"]
    Image.fromarray(truth[:36, :36]).save(folder / "c.png")
    assert main(["evaluate", "--bicubic", "4", "--data", str(folder), "--out", str(report)]) == 0
    assert "  no LPIPS: c.png has fewer than 31x31 pixels without its border\n" in capsys.readouterr().out
    assert "lpips" not in json.loads(report.read_text())["scores"]


@needs_lpips
def test_without_alexnet_s_weights_or_with_damaged_ones_one_line_says_so(hub: Path) -> None:
    distance, why_not = lpips_metric()
    assert distance is None
    assert why_not == (
        f"AlexNet's weights are not there: put {models.AlexNet_Weights.IMAGENET1K_V1.url} into {hub.parent}"
    )
    torch.save({"features.0.weight": torch.zeros(3)}, hub)
    for damage in (None, b"PK\x03\x04", b""):
        if damage is not None:
            hub.write_bytes(damage)
        distance, why_not = lpips_metric()
        assert distance is None
        assert f"{hub}: is not AlexNet's weights (" in why_not
        assert "download it again: https://" in why_not
        assert "\n" not in why_not


def test_without_the_package_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert lpips_metric() == (None, "the package lpips is not installed: pip install lpips")
