"""Training of a generator: pixel-wise stages, then adversarial ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning_fabric
import numpy as np
import torch
from torch import Tensor

from camscribe.runtime.errors import DataError
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.progress import ProgressBar
from camscribe.train import figures
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.config import differences
from camscribe.train.run import Run, learning_rate
from camscribe.train.superres import pictures
from camscribe.train.superres.adversary import Adversary
from camscribe.train.superres.config import Config, ModelConfig, StageConfig
from camscribe.train.superres.generator import Generator
from camscribe.train.superres.losses import pixel_loss
from camscribe.train.superres.metrics import psnr_y
from camscribe.train.superres.patches import Patches, read_photographs
from camscribe.train.superres.weights import config_of, load_generator

_BETAS = (0.9, 0.99)


class _Step(NamedTuple):
    """One step of a stage."""

    done: int
    """Steps of the stage before it."""
    rate: float
    """Share of the peak learning rate."""


class Trainer(Run):
    """Trains a generator.

    Beside what every run leaves, the folder holds ``curves.png`` and ``samples.png``. An epoch is what lies between two
    looks at the tuning photographs.

    Args:
        config: the whole run.
        folder: the run's folder; continued when it holds a checkpoint of the same configuration.
        fabric: launched by the caller.

    Raises:
        DataError: photographs or the checkpoint to start from are not to be had or do not fit.
    """

    def __init__(self, config: Config, folder: Path, fabric: lightning_fabric.Fabric) -> None:
        super().__init__(config, folder, fabric)
        self._check_batches()
        patch = max(stage.patch for stage in config.stage)
        self.photographs = read_photographs(config.data, config.model.scale, patch)
        self._say(self.photographs.report())
        torch.manual_seed(config.seed)
        start = None if self._resumed or not config.start else _load_start(Path(config.start), config.model)
        self.model: Generator = start or Generator(config.model)
        self.model.to(fabric.device, memory_format=torch.channels_last)
        self.patches = Patches(self.photographs.train, config.model.scale, config.data)

    @staticmethod
    def _config_of(checkpoint: Checkpoint) -> Config:
        return config_of(checkpoint)

    # -- one stage ----------------------------------------------------------------------------------------------------

    def _run_stage(self, stage: StageConfig, index: int) -> None:
        resumed = self._begin_stage(index)
        self._start_average()
        optimizer: Any = torch.optim.Adam(self.model.parameters(), stage.learning_rate, _BETAS, fused=True)
        generator, optimizer = self.fabric.setup(self.model, optimizer)
        adversary = Adversary(stage, self.config, self.fabric) if stage.objective == "gan" else None
        optimizers = {"optimizer": optimizer, **(adversary.optimizers if adversary else {})}
        others = adversary.modules if adversary else {}
        if resumed:
            for prefix, module in others.items():
                module.load_state_dict(resumed.of(f"{prefix}."))
            self._restore(resumed, optimizers)
        saver = self._saver()
        steps = self._steps(stage)
        while self._share(stage) < 1:
            logged: list[dict[str, float]] = []
            began, rate = time.monotonic(), 0.0
            total = min(stage.validate_every, stage.steps - self.position.epoch * stage.validate_every)
            label = f"{stage.name} {self.position.epoch + 1}/{-(-stage.steps // stage.validate_every)}"
            self.model.train()
            with ProgressBar(label, total, self.position.step, show=self.fabric.is_global_zero) as bar:
                while self.position.step < total and (step := next(steps, None)):
                    rate, start = step.rate, time.monotonic()
                    logged.append(self._step(stage, index, step, generator, optimizer, adversary))
                    self.position.step += 1
                    if stage.minutes:
                        self.position.seconds = self._agreed(self.position.seconds + time.monotonic() - start)
                    bar.update(
                        self.position.step, " ".join(f"{name} {value:.4f}" for name, value in logged[-1].items())
                    )
                    if saver.due():
                        self._log(stage.name, logged, began, stage.batch, stage.learning_rate * rate)
                        self._save(optimizers, others)
                        logged, began = [], time.monotonic()
            if logged:
                self._log(stage.name, logged, began, stage.batch, stage.learning_rate * rate)
            self._validate(stage, index)
            self.position.epoch, self.position.step = self.position.epoch + 1, 0
            self._save(optimizers, others)
        self.fabric.barrier()

    def _steps(self, stage: StageConfig) -> Iterator[_Step]:
        """The stage's steps that are left, until its steps or its time are over."""
        while (share := self._share(stage)) < 1:
            done = self.position.epoch * stage.validate_every + self.position.step
            yield _Step(done, learning_rate(done, share, stage.warm_up_steps, stage.final_learning_rate))

    def _share(self, stage: StageConfig) -> float:
        """How much of the stage is done."""
        share = (self.position.epoch * stage.validate_every + self.position.step) / stage.steps
        return max(share, self.position.seconds / (60 * stage.minutes)) if stage.minutes else share

    def _step(
        self, stage: StageConfig, index: int, step: _Step, generator: Any, optimizer: Any, adversary: Adversary | None
    ) -> dict[str, float]:
        fabric = self.fabric
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * step.rate
        # Its own generator a step, so that a resumed run draws the same patches.
        random = np.random.default_rng([self.config.seed, index, step.done, fabric.global_rank])
        drawn = self.patches.batch(stage.batch // fabric.world_size, stage.patch, random)
        small, large = (side.to(fabric.device) for side in drawn)
        made: Tensor = generator(small)
        pixel = pixel_loss(made, large, stage.pixel_loss)
        loss, logged = stage.pixel_weight * pixel, {"pixel": float(pixel.detach())}
        if adversary:
            added, more = adversary.judge(made, large)
            loss, logged = loss + added, {**logged, **more}
        fabric.backward(loss)
        self._clip(stage, generator, optimizer)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if adversary:
            logged |= adversary.learn(made.detach(), large, step.rate)
        self._update_average(stage.average_decay, step.done)
        return logged

    # -- validation ---------------------------------------------------------------------------------------------------

    def _validate(self, stage: StageConfig, index: int) -> None:
        if not self.fabric.is_global_zero:
            return
        weights = {name: value.detach().clone() for name, value in self._trained_tensors()}
        self._put(self.average)
        made = [self._enlarge(pair.small) for pair in self.photographs.tune]
        scores = [
            psnr_y(big, pair.large, self.model.scale) for big, pair in zip(made, self.photographs.tune, strict=True)
        ]
        score = float(np.mean(scores))
        self._record({"stage": stage.name, "epoch": self.position.epoch + 1, "tune_psnr_y": score})
        self._say(
            f"{stage.name} {self.position.epoch + 1}: PSNR {score:.3f} dB (luma, border {self.model.scale} cropped)"
        )
        if score > self.position.best or stage.keep == "last":
            self.position.best = max(score, self.position.best)
            self._save_stage(index, stage.keep == "last" or self._is_best("tune_psnr_y"))
            pictures.sheet(self.photographs.tune, made, self.folder / "samples.png")
        self._put(weights)
        figures.curves(self.folder / "metrics.jsonl", self.folder / "curves.png")

    @torch.no_grad()
    def _enlarge(self, small: Pixels) -> Pixels:
        self.model.eval()
        pixels = torch.tensor(small, device=self.fabric.device).permute(2, 0, 1)[None].float() / 255
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        made: Pixels = (self.model(pixels)[0] * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
        return made

    def _meta(self) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            "progress": vars(self.position),
            "history": self.history,
            "data": {"photographs": self.photographs.report()},
            "versions": {"torch": torch.__version__},
        }


def _load_start(path: Path, config: ModelConfig) -> Generator:
    generator = load_generator(Checkpoint.load(path), str(path))
    apart = differences(vars(generator.config), vars(config))
    if apart:
        raise DataError(f"{path}: is of another generator: [model] differs in {apart}; start needs the same")
    return generator
