"""Training of a detector with attributes: its stages, and validation by mean average precision."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from camscribe.runtime.errors import DataError
from camscribe.runtime.pixels import PixelSpec
from camscribe.runtime.progress import ProgressBar
from camscribe.train import figures
from camscribe.train.batches import Order, epoch_order, steps_of
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.detection import pictures
from camscribe.train.detection.annotations import attribute_names, check_splits, read_annotations
from camscribe.train.detection.config import Config, StageConfig, from_dict
from camscribe.train.detection.network import Batch, DetectionLoss, build_detector, train_backbone
from camscribe.train.detection.scenes import Names, Scenes, Targets
from camscribe.train.detection.scores import Detections, mean_average_precision, right_attributes
from camscribe.train.run import Interval, Run, adamw, learning_rate

_SETTLING = 16
"""Training images from which the statistics of random batch norms are taken."""


class Trainer(Run):
    """Trains a detector.

    Beside what every run leaves, the folder holds ``curves.png`` and ``samples.png``. The checkpoints hold the weights
    in torchvision's names and say the names of classes and attributes.

    Args:
        config: the whole run.
        folder: the run's folder; continued when it holds a checkpoint of the same configuration.
        fabric: launched by the caller.

    Raises:
        DataError: annotations, images or weights are not to be had or do not fit.
    """

    model: FasterRCNN

    def __init__(self, config: Config, folder: Path, fabric: lightning_fabric.Fabric) -> None:
        super().__init__(config, folder, fabric)
        self._check_batches()
        train, tune = (read_annotations(config.data, split) for split in (config.data.train, config.data.tune))
        check_splits(train, tune)
        self.names = Names(train.classes, attribute_names(train, config.data.min_count))
        self.reports = {"train": train.report(), "tune": tune.report()}
        self._say(f"training: {self.reports['train']}")
        self._say(f"tuning: {self.reports['tune']}")
        self._say(f"{len(self.names.classes)} classes, {len(self.names.attributes)} attributes")
        spec = PixelSpec(config.model.image_height, config.model.image_width, config.model.fit)
        self.train, self.tune = (Scenes(data.images, self.names, spec) for data in (train, tune))
        start = None if self._resumed or not config.start else Checkpoint.load(Path(config.start))
        if self._resumed:
            check_same(self._resumed, config, self.names, f"{folder}: the run so far")
        torch.manual_seed(config.seed)
        if start:
            check_same(start, config, self.names, config.start)
            self.model = build_detector(config.model, self.names, "none")
            self.model.load_state_dict(start.weights)
        elif self._resumed:
            self.model = build_detector(config.model, self.names, "none")
        else:
            some = range(min(_SETTLING, len(self.train.data))) if config.model.weights == "none" else ()
            images, _ = self.train.batch(some, [0] * len(some))
            self.model = build_detector(config.model, self.names, config.model.weights, images)
        self.model.to(fabric.device)

    @staticmethod
    def _config_of(checkpoint: Checkpoint) -> Config:
        return config_of(checkpoint)

    # -- one stage ----------------------------------------------------------------------------------------------------

    def _run_stage(self, stage: StageConfig, index: int) -> None:
        resumed = self._begin_stage(index)
        train_backbone(self.model, stage.trained_backbone_stages)
        self.model.roi_heads.fg_bg_sampler.batch_size_per_image = stage.samples
        self._start_average()
        optimizer: Any = adamw(self._trained_tensors(), stage, "backbone.body.")
        loss, optimizer = self.fabric.setup(DetectionLoss(self.model), optimizer)
        if resumed:
            self._restore(resumed, {"optimizer": optimizer})
        saver = self._saver()
        for epoch in range(self.position.epoch, stage.epochs):
            if self._is_over(stage, "mean average precision"):
                break
            self.position.epoch = epoch
            self._run_epoch(stage, index, loss, optimizer, saver)
            self._validate(stage, index)
            self.position.epoch, self.position.step = epoch + 1, 0
            self._save({"optimizer": optimizer})
        self.fabric.barrier()

    def _run_epoch(self, stage: StageConfig, index: int, loss: Any, optimizer: Any, saver: Interval) -> None:
        fabric, position = self.fabric, self.position
        images = len(self.train.data)
        total = steps_of(images, stage.batch, fabric.world_size)
        seed = [self.config.seed, index, position.epoch]
        order = epoch_order(
            images, stage.batch, stage.variants, seed, position.step, fabric.global_rank, fabric.world_size
        )
        logged: list[dict[str, float]] = []
        began, label = time.monotonic(), f"{stage.name} {position.epoch + 1}/{stage.epochs}"
        self.model.train()
        with ProgressBar(label, total, position.step, show=fabric.is_global_zero) as bar:
            for item in order:
                done = position.epoch * total + item.step
                rate = learning_rate(
                    done, done / (stage.epochs * total), stage.warm_up_steps, stage.final_learning_rate
                )
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * rate
                logged.append(self._step(stage, loss, optimizer, item))
                self._update_average(stage.average_decay, done)
                position.step = item.step + 1
                bar.update(position.step, f"loss {logged[-1]['loss']:.3f}")
                if saver.due():
                    self._log(stage.name, logged, began, stage.batch, stage.learning_rate * rate)
                    self._save({"optimizer": optimizer})
                    logged, began = [], time.monotonic()
        if logged:
            self._log(stage.name, logged, began, stage.batch, stage.learning_rate * rate)

    def _step(self, stage: StageConfig, loss: Any, optimizer: Any, item: Order) -> dict[str, float]:
        losses: dict[str, Tensor] = loss(Batch(*self._on_device(*self.train.batch(item.indices, item.variants))))
        weights = {"loss_attributes": stage.attribute_weight}
        total = torch.stack([weights.get(name, 1.0) * value for name, value in losses.items()]).sum()
        if not torch.isfinite(total):
            raise DataError(f"stage {stage.name}: the loss is {float(total.detach())}; lower its learning_rate")
        self.fabric.backward(total)
        self._clip(stage, loss, optimizer)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {name: float(value.detach()) for name, value in {"loss": total, **losses}.items()}

    def _on_device(self, images: list[Tensor], targets: list[Targets]) -> tuple[list[Tensor], list[Targets]]:
        device = self.fabric.device
        moved = [{name: value.to(device) for name, value in each.items()} for each in targets]
        return [image.to(device) for image in images], moved

    # -- validation ---------------------------------------------------------------------------------------------------

    def _validate(self, stage: StageConfig, index: int) -> None:
        if not self.fabric.is_global_zero:
            return
        weights = {name: value.detach().clone() for name, value in self._trained_tensors()}
        self._put(self.average)
        truth, found, right = self._detect(stage.batch)
        score = mean_average_precision(truth, found, len(self.names.classes))
        named = float(np.mean(right)) if right else None
        scores = {"tune_map50": score, **({} if named is None else {"tune_attributes": named})}
        self._record({"stage": stage.name, "epoch": self.position.epoch + 1, **scores})
        attributes = "" if named is None else f", {100 * named:.1f} % of attributes right"
        self._say(
            f"{stage.name} {self.position.epoch + 1}/{stage.epochs}: mean average precision {score:.4f} at IoU 0.5"
            f"{attributes}"
        )
        if self._judge(index, "tune_map50", score):
            pictures.sheet(self.tune, truth, found, self.folder / "samples.png")
        self._put(weights)
        figures.curves(self.folder / "metrics.jsonl", self.folder / "curves.png")

    @torch.no_grad()
    def _detect(self, batch: int) -> tuple[list[Targets], list[Detections], list[bool]]:
        """What is in the tuning images, what the network finds there, and which attributes of true boxes it has right.
        Of attributes no more is kept: there may be hundreds for each box."""
        self.model.eval()
        truth: list[Targets] = []
        found: list[Detections] = []
        right: list[bool] = []
        for first in range(0, len(self.tune.data), batch):
            rows = range(first, min(first + batch, len(self.tune.data)))
            images, targets = self._on_device(*self.tune.batch(rows, [0] * len(rows), crowds=True))
            for made, target in zip(self.model(images, targets), targets, strict=True):
                if self.names.attributes:
                    right += right_attributes(target, made.pop("true_attributes"))
                    made["attributes"] = made["attributes"].argmax(dim=1)
                found.append({name: value.cpu() for name, value in made.items()})
                truth.append({name: target[name].cpu() for name in ("boxes", "labels", "crowd")})
        return truth, found, right

    def _meta(self) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            "classes": list(self.names.classes),
            "attributes": list(self.names.attributes),
            "progress": vars(self.position),
            "history": self.history,
            "data": self.reports,
            "versions": {"torch": torch.__version__},
        }


def config_of(checkpoint: Checkpoint, where: str = "checkpoint") -> Config:
    """The configuration that a detector's run was started with.

    Raises:
        DataError: the checkpoint is of another task.
    """
    if checkpoint.task != "detection":
        raise DataError(f"{where}: is of task {checkpoint.task}; expected a detector's, of task detection")
    return from_dict(checkpoint.meta["config"], where=f"{where}: its configuration")


def check_same(checkpoint: Checkpoint, config: Config, names: Names, where: str) -> None:
    """Refuses a checkpoint whose network is not the one to train.

    Raises:
        DataError: it has another detector, other classes or other attributes.
    """
    model = config_of(checkpoint, where).model
    for key in ("detector", "embedding_width", "attribute_width"):
        found, wanted = (getattr(each, key) for each in (model, config.model))
        if found != wanted:
            raise DataError(f"{where}: is of another detector: {key} is {found}; expected {wanted}")
    for what, wanted in names._asdict().items():
        found = tuple(checkpoint.meta[what])
        if found != wanted:
            other = sorted(set(found) ^ set(wanted))
            raise DataError(
                f"{where}: knows {len(found)} {what}, the annotations have {len(wanted)} (different: "
                f"{', '.join(other[:5]) or 'their order'}); expected the same, or name it as weights instead of start"
            )
