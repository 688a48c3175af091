"""Detection runs: they learn boxes, classes and attributes, resume exactly, and leave what a captioner takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import pytest
import torch
from PIL import Image

from camscribe.runtime.errors import DataError
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.commands.train import main
from camscribe.train.config import ModelConfig as CaptionerConfig
from camscribe.train.detection.config import Config, from_dict
from camscribe.train.detection.scenes import Scenes
from camscribe.train.detection.trainer import Trainer
from camscribe.train.faster_rcnn import FasterRcnn

SIDE, TINY = 96, "fasterrcnn_tiny"
MODEL = {"detector": TINY, "weights": "none", "image_height": SIDE, "image_width": SIDE}
WIDTHS = {"embedding_width": 8, "attribute_width": 32}
STAGE = {"name": "only", "epochs": 2, "batch": 8, "samples": 32, "warm_up_steps": 2, "trained_backbone_stages": 3}
LEARNING = """
task = "detection"

[data]
root = "{root}"

[model]
detector = "fasterrcnn_tiny"
weights = "none"
image_height = 96
image_width = 96
embedding_width = 8
attribute_width = 32

[[stage]]
name = "heads"
epochs = 5
batch = 2
samples = 64
trained_backbone_stages = 2
learning_rate = 4e-3
backbone_learning_rate = 4e-3
warm_up_steps = 10
average_decay = 0.9
attribute_weight = 1.0
"""


def _config(scenes: Path, *stages: dict[str, Any], model: dict[str, Any] | None = None, **rest: Any) -> Config:
    return from_dict(
        {
            "task": "detection",
            "data": {"root": str(scenes), "train": "train[:24]"},
            "model": {**MODEL, **WIDTHS, **(model or {})},
            "stage": list(stages) or [STAGE],
            **rest,
        }
    )


def _trainer(config: Config, folder: Path) -> Trainer:
    folder.mkdir(exist_ok=True, parents=True)
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1, precision=config.precision)
    fabric.launch()
    return Trainer(config, folder, fabric)


@pytest.fixture(scope="module")
def learnt(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that the command made."""
    folder = tmp_path_factory.mktemp("learnt")
    (folder / "shapes.toml").write_text(LEARNING.format(root=scenes), encoding="utf-8")
    arguments = [str(folder / "shapes.toml"), "--out", str(folder / "run"), "--accelerator", "cpu"]
    assert main([*arguments, "--set", "seed=3"]) == 0
    return folder / "run"


def _history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_small_set_is_learnt(learnt: Path) -> None:
    steps = [entry for entry in _history(learnt) if "loss" in entry]
    names = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg", "loss_attributes")
    assert all(name in steps[0] for name in names)
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    assert steps[-1]["loss_attributes"] < 0.5 * steps[0]["loss_attributes"]
    best = max((entry for entry in _history(learnt) if "tune_map50" in entry), key=lambda entry: entry["tune_map50"])
    assert best["tune_map50"] > 0.7
    assert best["tune_attributes"] > 0.8
    for name in ("curves.png", "samples.png"):
        with Image.open(learnt / name) as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50
    kept = Checkpoint.load(learnt / "best.safetensors")
    assert kept.task == "detection"
    assert kept.meta["classes"] == ["square", "ring"]
    assert kept.meta["attributes"] == ["blue", "green", "red"]
    assert kept.meta["config"]["seed"] == 3


def _trained(learnt: Path, scenes: Path) -> tuple[Trainer, Any]:
    """The run's detector, in evaluation mode, and its tuning images."""
    table = Checkpoint.load(learnt / "best.safetensors").meta["config"]
    trainer = _trainer(from_dict({**table, "start": str(learnt / "best.safetensors")}), learnt.parent / "again")
    return trainer, trainer.model.eval()


@torch.no_grad()
def test_the_captioners_encoder_finds_the_same(learnt: Path, scenes: Path) -> None:
    trainer, theirs = _trained(learnt, scenes)
    config = CaptionerConfig(
        encoder="faster_rcnn",
        detector=TINY,
        weights=str(learnt / "best.safetensors"),
        image_height=SIDE,
        image_width=SIDE,
        regions=6,
        min_regions=1,
        region_threshold=0.6,
        region_overlap=0.5,
    )
    mine = FasterRcnn(config)
    mine.read()
    assert mine.network.roi_heads.box_predictor.cls_score.out_features == 3
    images, _ = trainer.tune.batch(range(8), [0] * 8)
    regions = mine((torch.stack(images) * 255).round().byte().permute(0, 2, 3, 1))
    count = 0
    for row, found in enumerate(theirs(images)):
        boxes = regions.boxes[row][regions.shown[row] > 0] * SIDE
        torch.testing.assert_close(boxes[0], found["boxes"][0], rtol=1e-3, atol=2e-2)
        sure = found["boxes"][found["scores"] > 0.6]
        # Each of its regions is a detection: one suppression for all classes leaves out some, but makes none.
        apart = (boxes.unsqueeze(1) - sure.unsqueeze(0)).abs().amax(dim=2).amin(dim=1)
        assert (apart < 0.05).all()
        count += len(boxes)
    assert count >= 8


def test_the_file_that_resumes_is_taken_too_with_its_average(learnt: Path) -> None:
    last = Checkpoint.load(learnt / "last.safetensors")
    mine = FasterRcnn(
        CaptionerConfig(
            encoder="faster_rcnn",
            detector=TINY,
            weights=str(learnt / "last.safetensors"),
            image_height=SIDE,
            image_width=SIDE,
        )
    )
    mine.read()
    name = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(mine.network.state_dict()[name], last.tensors[f"average.{name}"])
    assert not torch.equal(last.tensors[f"model.{name}"], last.tensors[f"average.{name}"])


def test_frozen_is_what_the_configuration_freezes(learnt: Path, scenes: Path, tmp_path: Path) -> None:
    before = _trainer(_config(scenes, seed=3), tmp_path).model.state_dict()
    after = Checkpoint.load(learnt / "best.safetensors").of("model.")
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert after.keys() == before.keys()
    assert "backbone.body.0.0.weight" not in moved
    assert {"backbone.body.1.0.weight", "backbone.body.2.0.weight", "roi_heads.attributes.output.bias"} <= moved
    norms = {f"backbone.body.{layer}.1.{kind}" for layer in range(3) for kind in ("weight", "bias", "running_mean")}
    assert norms <= after.keys()
    assert not moved & norms


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("kill_at", [2, 8])
def test_a_killed_run_resumes_exactly(
    scenes: Path, tmp_path: Path, kill_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = {**STAGE, "name": "second", "epochs": 1, "trained_backbone_stages": 1}
    config = _config(scenes, STAGE, second, checkpoint_seconds=0)
    for drawn in ("figures.curves", "pictures.sheet"):  # what takes the most time here, and is no part of it
        monkeypatch.setattr(f"camscribe.train.detection.trainer.{drawn}", lambda *_: None)
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
    for file in ("last.safetensors", "best.safetensors"):
        whole, parts = (Checkpoint.load(tmp_path / name / file).tensors for name in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_classes_without_attributes_are_trained_alone_and_mixed_precision_leaves_boxes_whole(
    scenes: Path, tmp_path: Path
) -> None:
    config = _config(scenes, {**STAGE, "epochs": 1}, precision="bf16-mixed")
    config = replace(config, data=replace(config.data, min_count=1000))
    trainer = _trainer(config, tmp_path)
    kept = Checkpoint.load(trainer.run())
    assert kept.meta["attributes"] == []
    assert not any("attributes" in name for name in kept.tensors)
    assert all("loss_attributes" not in entry and "tune_attributes" not in entry for entry in _history(tmp_path))


def _without(scenes: Path, root: Path, name: str) -> Path:
    """The same scenes with another name of a class."""
    for split in ("train", "val"):
        content = json.loads((scenes / f"instances_{split}.json").read_text(encoding="utf-8"))
        content["categories"][0]["name"] = name
        content["categories"].append({"id": 99, "name": "bar"})
        root.mkdir(exist_ok=True)
        (root / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
        (root / split).symlink_to(scenes / split)
    return root


def test_a_checkpoint_of_other_classes_is_weights_but_no_start(learnt: Path, scenes: Path, tmp_path: Path) -> None:
    other = _without(scenes, tmp_path / "other", "box")
    best = str(learnt / "best.safetensors")
    with pytest.raises(DataError, match=r"knows 2 classes, the annotations have 3 \(different: bar, box, square\)"):
        _trainer(_config(other, start=best), tmp_path / "start")
    with pytest.raises(DataError, match="attribute_width is 32; expected 16"):
        _trainer(_config(scenes, start=best, model={"attribute_width": 16}), tmp_path / "start")
    trainer = _trainer(_config(other, model={"weights": best}), tmp_path / "weights")
    assert trainer.model.roi_heads.box_predictor.cls_score.out_features == 4
    kept, name = Checkpoint.load(learnt / "best.safetensors"), "roi_heads.box_head.fc6.weight"
    assert torch.equal(trainer.model.state_dict()[name], kept.tensors[f"model.{name}"])


def test_other_checkpoints_are_refused(learnt: Path, scenes: Path, tmp_path: Path) -> None:
    config = CaptionerConfig(encoder="faster_rcnn", detector="fasterrcnn_mobilenet_v3_large_320_fpn")
    config = replace(config, weights=str(learnt / "best.safetensors"))
    with pytest.raises(DataError, match="is a checkpoint of detector fasterrcnn_tiny; expected one of task detection"):
        FasterRcnn(config).read()
    captioner = tmp_path / "captioner.safetensors"
    Checkpoint({"model.x": torch.zeros(1)}, {"config": {"task": "captioning"}}).save(captioner)
    with pytest.raises(DataError, match="is a checkpoint of task captioning; expected one of task detection"):
        FasterRcnn(replace(config, weights=str(captioner))).read()
    with pytest.raises(DataError, match="is of task captioning; expected a detector's"):
        _trainer(_config(scenes, start=str(captioner)), tmp_path)
    with pytest.raises(DataError, match=r"best\.safetensors: is of task detection; expected a captioner's"):
        _ = Checkpoint.load(learnt / "best.safetensors").config


def test_a_folder_of_another_run_is_refused(scenes: Path, tmp_path: Path) -> None:
    data = _without(scenes, tmp_path / "data", "square")
    stage = {**STAGE, "epochs": 1}
    _trainer(_config(data, stage), tmp_path / "run").run()
    with pytest.raises(DataError, match="another configuration"):
        _trainer(_config(data, stage, seed=9), tmp_path / "run")
    content = json.loads((data / "instances_train.json").read_text(encoding="utf-8"))
    content["categories"].append({"id": 100, "name": "star"})
    (data / "instances_train.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=r"the run so far: knows 3 classes, the annotations have 4 \(different: star\)"):
        _trainer(_config(data, stage), tmp_path / "run")


def test_a_loss_that_is_no_number_ends_the_run(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Scenes.batch

    def broken(self: Scenes, *arguments: Any) -> Any:
        images, targets = original(self, *arguments)
        return [image * 1e38 for image in images], targets

    monkeypatch.setattr(Scenes, "batch", broken)
    with pytest.raises(DataError, match="stage only: the loss is nan; lower its learning_rate"):
        _trainer(_config(scenes), tmp_path).run()


def test_more_stages_than_the_backbone_has_are_refused(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="trained_backbone_stages is 4; the detector's backbone has 3"):
        _trainer(_config(scenes, {**STAGE, "trained_backbone_stages": 4}), tmp_path).run()


def test_an_unknown_task_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('task = "detekt"\n', encoding="utf-8")
    with pytest.raises(DataError, match="task is 'detekt'; expected one of captioning, super_resolution, detection"):
        main([str(tmp_path / "a.toml")])
