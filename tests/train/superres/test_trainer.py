"""Super-resolution runs: they beat the bicubic enlargement, resume exactly, and train against a discriminator."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from camscribe.runtime.errors import DataError, OptionError
from camscribe.train.backbone import Backbone
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.superres.config import Config, FeaturesConfig, from_dict, load_config
from camscribe.train.superres.discriminator import Discriminator
from camscribe.train.superres.metrics import psnr_y
from camscribe.train.superres.perceptual import PerceptualLoss
from camscribe.train.superres.resize import resize
from camscribe.train.superres.trainer import Trainer

MODEL = {"width": 8, "depth": 2, "branches": [4, 8, 4], "scale": 2}
PIXEL = {"name": "psnr", "steps": 6, "batch": 2, "patch": 8, "validate_every": 4, "warm_up_steps": 2}
GAN = {**PIXEL, "name": "gan", "objective": "gan", "discriminator_width": 4, "perceptual_weight": 0.0, "keep": "last"}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of bars at every angle, which bicubic enlargement blurs and a network learns to sharpen."""
    folder = tmp_path_factory.mktemp("bars")
    rows, columns = np.mgrid[:64, :64]
    for index in range(8):
        angle = np.pi * index / 8
        bars = np.sin((rows * np.sin(angle) + columns * np.cos(angle)) * 0.5) > 0
        picture = np.where(bars[..., None], (230, 200, 40), (20, 60, 120)).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{index}.png")
    return folder


def _config(photographs: Path, stages: list[dict[str, Any]], **rest: Any) -> Config:
    data = {"root": str(photographs), "tune": 2}
    return from_dict({"task": "super_resolution", "data": data, "model": MODEL, "stage": stages, **rest})


def _trainer(config: Config, folder: Path) -> Trainer:
    folder.mkdir(exist_ok=True)
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return Trainer(config, folder, fabric)


def test_a_small_generator_beats_bicubic(photographs: Path, tmp_path: Path) -> None:
    stage = {**PIXEL, "steps": 150, "batch": 4, "learning_rate": 4e-3, "average_decay": 0.9, "validate_every": 75}
    trainer = _trainer(_config(photographs, [stage]), tmp_path)
    best = trainer.run()
    bicubic = np.mean([psnr_y(resize(p.small, 2.0), p.large, 2) for p in trainer.photographs.tune])
    assert Checkpoint.load(best).meta["progress"]["best"] > bicubic + 0.1
    assert all((tmp_path / name).stat().st_size for name in ("curves.png", "samples.png", "metrics.jsonl"))
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum("tune_psnr_y" in entry for entry in logged) == 2


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("kill_at", [3, 11])
def test_a_killed_run_resumes_exactly(
    photographs: Path, tmp_path: Path, kill_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(photographs, [PIXEL, GAN], checkpoint_seconds=0)
    _trainer(config, tmp_path / "whole").run()
    steps = 0
    original = Trainer._update_average

    def killed(self: Trainer, decay: float, done: int) -> None:
        nonlocal steps
        steps += 1
        if steps == kill_at:
            raise _Killed
        original(self, decay, done)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update_average", killed)
        trainer = _trainer(config, tmp_path / "parts")
        with pytest.raises(_Killed):
            trainer.run()
    _trainer(config, tmp_path / "parts").run()
    whole, parts = (Checkpoint.load(tmp_path / name / "last.safetensors").tensors for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert any(name.startswith("discriminator.") for name in whole)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_the_clock_ends_a_stage(photographs: Path, tmp_path: Path) -> None:
    stage = {**PIXEL, "steps": 1_000_000, "minutes": 0.02, "validate_every": 2}
    trainer = _trainer(_config(photographs, [stage]), tmp_path)
    validated: list[int] = []
    validate = trainer._validate

    def slowly(*given: Any) -> None:
        time.sleep(0.7)  # which is no training
        validated.append(trainer.position.step)
        validate(*given)

    trainer._validate = slowly  # type: ignore[method-assign]
    began = time.monotonic()
    trainer.run()
    done = trainer.position.epoch * 2
    assert 0 < done < 1_000_000
    assert all(validated), "a validation follows steps"
    assert 1.2 <= trainer.position.seconds <= time.monotonic() - began - 0.7 * len(validated)
    assert Checkpoint.load(tmp_path / "last.safetensors").meta["progress"]["seconds"] >= 1.2


def test_another_configuration_or_generator_is_refused(photographs: Path, tmp_path: Path) -> None:
    best = _trainer(_config(photographs, [PIXEL]), tmp_path / "run").run()
    with pytest.raises(DataError, match="another configuration"):
        _trainer(_config(photographs, [PIXEL], seed=9), tmp_path / "run")
    wide = from_dict({**_config(photographs, [PIXEL]).to_dict(), "model": {**MODEL, "width": 12}, "start": str(best)})
    with pytest.raises(DataError, match=r"another generator: \[model\] differs in width \(\d+, expected 12\); start"):
        _trainer(wide, tmp_path / "wide")
    _trainer(_config(photographs, [GAN], start=str(best)), tmp_path / "gan").run()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": []}, "no \\[\\[stage\\]\\]"),
        ({"stage": [{"name": "a", "steps": 0}]}, "steps is 0"),
        ({"model": {"branches": [1, 2]}}, "three branches"),
        ({"model": {"scale": 3}}, "expected one of 2, 4"),
        ({"model": {"generater": "rrdb"}}, "did you mean 'generator'"),
        ({"data": {"root": "x", "sizes": [2.0]}}, "expected shares"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    table = {"task": "super_resolution", "data": {"root": "x"}, "stage": [PIXEL]}
    with pytest.raises(DataError, match=message):
        from_dict({**table, **change})


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    text = 'task = "super_resolution"\nstart = "a.safetensors"\n[data]\nroot = "pictures"\n[features]\nweights = "w"\n'
    (tmp_path / "a.toml").write_text(text + '[[stage]]\nname = "psnr"\nsteps = 1\n')
    config = load_config(tmp_path / "a.toml")
    assert (config.data.root, config.start, config.features.weights) == tuple(
        str(tmp_path / name) for name in ("pictures", "a.safetensors", "w")
    )


def test_the_discriminator_halves_four_times() -> None:
    network = Discriminator(32, 2)
    assert network(torch.rand(3, 3, 32, 32)).shape == (3, 1)
    with pytest.raises(OptionError, match="multiple of 16"):
        Discriminator(40, 2)


@pytest.mark.parametrize("network", ["vgg19", "mobilenet_v2"])
def test_features_before_activation_from_a_local_file(network: Any, tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.get_model(network, weights=None)
    save_file(model.features.state_dict(), tmp_path / "weights.safetensors")
    loss = PerceptualLoss(FeaturesConfig(network, str(tmp_path / "weights.safetensors")))
    truth, made = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32, requires_grad=True)
    levels = loss.features(truth)
    assert all((level < 0).any() for level in levels), "an activation came before the comparison"
    if network == "vgg19":
        assert [tuple(level.shape[1:]) for level in levels] == [(512, 2, 2)]
        assert isinstance(Backbone(network).stages[34], torch.nn.Conv2d)
    else:
        assert [tuple(level.shape[1:]) for level in levels] == [(24, 8, 8), (32, 4, 4)]
    loss(made, truth).backward()
    assert made.grad is not None
    assert made.grad.abs().sum() > 0
    assert not any(value.requires_grad for value in loss.parameters())
    assert loss(truth, truth) == 0
