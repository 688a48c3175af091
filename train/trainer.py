"""Training of a captioner: its stages, and validation with beam search."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import torch

from camscribe.runtime.errors import DataError
from camscribe.runtime.pixels import PixelSpec
from camscribe.runtime.progress import ProgressBar
from camscribe.runtime.search import SearchOptions
from camscribe.train import figures, metrics
from camscribe.train.batches import Captions, Order, epoch_order, steps_of
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.config import Config, DataConfig, StageConfig
from camscribe.train.executor import TorchExecutor
from camscribe.train.features import FeatureCache, FeatureSource, PixelSource, RegionCache, Source, is_flipped
from camscribe.train.losses import CaptionLoss, Loss, Reward
from camscribe.train.model import Captioner
from camscribe.train.readers import Dataset, leave_out, read_dataset, unreadable
from camscribe.train.rewards import CaptionReward
from camscribe.train.run import Interval, Run, adamw, learning_rate
from camscribe.train.start import load_start, started
from camscribe.train.stored_regions import StoredRegions
from camscribe.train.text import build_vocabulary, words

FROZEN = ("faster_rcnn", "features")
"""Encoders without a backbone that training changes."""


def read_split(config: DataConfig, split: str) -> Dataset:
    """One split of the configured data set. Where features are precomputed, its images need not be there."""
    return read_dataset(
        config.format,
        Path(config.root),
        split=split,
        captions=Path(config.captions) if config.captions else None,
        images=Path(config.images) if config.images else None,
        skip_bad=config.skip_bad,
        with_images=config.features is None,
    )


class Trainer(Run):
    """Trains a captioner.

    Beside what every run leaves, the folder holds ``curves.png`` and ``samples.png``.

    Args:
        config: the whole run.
        folder: the run's folder; continued when it holds a checkpoint of the same configuration.
        fabric: launched by the caller.
        cache: folder of cached features, shared between runs.
    """

    def __init__(self, config: Config, folder: Path, fabric: lightning_fabric.Fabric, cache: Path) -> None:
        super().__init__(config, folder, fabric)
        self.cache = cache
        _check(config)
        self.train, self.tune = read_split(config.data, config.data.train), read_split(config.data, config.data.tune)
        self.stored = self._read_features(Path(config.data.features)) if config.data.features else None
        if self.stored is None:
            self.train, self.tune = self._readable(self.train), self._readable(self.tune)
        self.origin: dict[str, Any] | None = None
        """What the checkpoint says of itself that this run started from."""
        start = None if self._resumed or not config.start else load_start(config.start, config)
        self._say(f"training: {self.train.report()}")
        self._say(f"tuning: {self.tune.report()}")
        both = len({image.path for image in self.train} & {image.path for image in self.tune})
        if both:
            self._say(f"note: {both} of {len(self.tune)} tuning images are trained on too, so their CIDEr flatters")
        if self._resumed:
            self.vocabulary = self._resumed.vocabulary
            self.origin = self._resumed.meta.get("start")
        elif start:
            self.vocabulary = start.vocabulary
            self.origin = {key: value for key, value in start.meta.items() if key not in ("schema", "vocabulary")}
        else:
            texts = (words(caption) for image in self.train for caption in image.captions)
            self.vocabulary = build_vocabulary(texts, config.data.min_count)
        torch.manual_seed(config.seed)
        weights = "none" if self._resumed else None
        self.model = started(start, config) if start else Captioner(len(self.vocabulary), config.model, weights)
        _check_stages(config, self.model)
        self.model.to(fabric.device, memory_format=torch.channels_last)
        self.captions = Captions(self.train.images, self.vocabulary, config.data.max_words)
        self._rewards: CaptionReward | None = None

    def _readable(self, data: Dataset) -> Dataset:
        """A split whose images can be decoded: one that cannot would end the run in its middle."""
        bad = unreadable(data, show=self.fabric.is_global_zero)
        return leave_out(data, bad, Path(self.config.data.root), self.config.data.skip_bad)

    def _read_features(self, path: Path) -> StoredRegions:
        """Precomputed regions of both splits, which keep the images that have some."""
        images = (*self.train.images, *self.tune.images)
        if self.fabric.is_global_zero:  # The others wait, then map the finished file.
            StoredRegions(path, images, self.config.model, self.cache)
        self.fabric.barrier()
        stored = StoredRegions(path, images, self.config.model, self.cache, show=False)
        skip_bad = self.config.data.skip_bad
        self.train = leave_out(self.train, stored.problems, path, skip_bad)
        self.tune = leave_out(self.tune, stored.problems, path, skip_bad)
        return stored

    @staticmethod
    def _config_of(checkpoint: Checkpoint) -> Config:
        return checkpoint.config

    # -- one stage ----------------------------------------------------------------------------------------------------

    def _run_stage(self, stage: StageConfig, index: int) -> None:
        trained = stage.trained_backbone_stages
        resumed = self._begin_stage(index)
        self._freeze(trained)
        self.model.decoder.dropout.p = self.config.model.dropout if stage.dropout is None else stage.dropout
        self._start_average()
        loss = CaptionLoss(self.model, trained, self.vocabulary)
        optimizer = adamw(self._trained_tensors(), stage, "backbone.")
        wrapped, optimizer = self.fabric.setup(loss, optimizer)
        train, tune = self._sources(stage, trained)
        if resumed:
            self._restore(resumed, {"optimizer": optimizer})
        saver = self._saver()
        for epoch in range(self.position.epoch, stage.epochs):
            if self._is_over(stage, "CIDEr"):
                break
            self.position.epoch = epoch
            self._run_epoch(
                stage, index, wrapped, optimizer, train, lambda: self._save({"optimizer": optimizer}), saver
            )
            self._validate(stage, index, loss, tune)
            self.position.epoch, self.position.step = epoch + 1, 0
            self._save({"optimizer": optimizer})
        self.fabric.barrier()

    def _run_epoch(
        self,
        stage: StageConfig,
        index: int,
        loss: Any,
        optimizer: Any,
        source: Source,
        save: Callable[[], None],
        saver: Interval,
    ) -> None:
        fabric, position = self.fabric, self.position
        total = steps_of(len(self.train), stage.batch, fabric.world_size)
        reward = self._reward(stage) if stage.objective == "self_critical" else None
        seed = [self.config.seed, index, position.epoch]
        order = epoch_order(
            len(self.train), stage.batch, stage.variants, seed, position.step, fabric.global_rank, fabric.world_size
        )
        logged: list[dict[str, float]] = []
        began, label = time.monotonic(), f"{stage.name} {position.epoch + 1}/{stage.epochs}"
        self.model.train()
        if self.model.backbone is not None:
            self.model.backbone.eval()
        with ProgressBar(label, total, position.step, show=fabric.is_global_zero) as bar:
            for item in order:
                done = position.epoch * total + item.step
                share = done / (stage.epochs * total)
                rate = learning_rate(done, share, stage.warm_up_steps, stage.final_learning_rate)
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * rate
                made = self._loss(stage, loss, source, item, reward, share)
                fabric.backward(made.loss)
                self._clip(stage, loss, optimizer)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                self._update_average(stage.average_decay, done)
                logged.append(made.logged)
                position.step = item.step + 1
                bar.update(position.step, " ".join(f"{name} {value:.3f}" for name, value in made.logged.items()))
                if saver.due():
                    self._log(stage.name, logged, began, stage.batch, stage.learning_rate * rate)
                    save()
                    logged, began = [], time.monotonic()
        if logged:
            self._log(stage.name, logged, began, stage.batch, stage.learning_rate * rate)

    def _loss(
        self, stage: StageConfig, loss: Any, source: Source, item: Order, reward: Reward | None, progress: float
    ) -> Loss:
        seen = source.batch(item.indices, item.variants).to(self.fabric.device)
        if reward is not None:
            flipped = [is_flipped(variant) for variant in item.variants]
            rows = [2 * index + flip for index, flip in zip(item.indices, flipped, strict=True)]
            made: Loss = loss(
                seen,
                "self_critical",
                reward=reward,
                indices=rows,
                samples=stage.captions_per_image,
                max_words=self.config.data.max_words,
                temperature=stage.sample_temperature,
                baseline=stage.baseline,
            )
            return made
        inputs, targets = self.captions.arrays(item.indices, item.variants, stage.captions_per_image, item.generator)
        made = loss(
            seen,
            "cross_entropy",
            inputs=inputs.to(self.fabric.device),
            targets=targets.to(self.fabric.device),
            smoothing=stage.label_smoothing,
            sampling=stage.scheduled_sampling * progress,
            doubly=stage.attention_regularisation,
        )
        return made

    def _reward(self, stage: StageConfig) -> Reward:
        """That of samples against the training captions; image i plain is row 2 i, mirrored 2 i + 1."""
        if self._rewards is None:
            references = self.captions.references()
            self._rewards = CaptionReward(references, self.vocabulary.end_id, len(self.vocabulary))
        self._rewards.bleu4_weight, self._rewards.ending_penalty = stage.bleu4_weight, stage.ending_penalty
        return self._rewards

    def _freeze(self, trained: int) -> None:
        self.model.requires_grad_(False)
        self.model.decoder.requires_grad_(True)
        if self.model.backbone is not None:
            for parameter in self.model.backbone.trunk_parameters(trained):
                parameter.requires_grad_(True)

    def _sources(self, stage: StageConfig, trained: int) -> tuple[Source, Source]:
        if self.stored:
            train, tune = (Source(None, self.stored.of(data.images)) for data in (self.train, self.tune))
            return train, tune
        model = self.config.model
        spec = PixelSpec(model.image_height, model.image_width, model.fit)
        made: list[Source] = []
        for data, variants in ((self.train, stage.variants), (self.tune, 1)):
            pixels = PixelSource(data.images, spec, variants, self.config.seed)
            if self.fabric.is_global_zero:  # The others wait, then map the finished files.
                self._source(pixels, trained, show=True)
            self.fabric.barrier()
            made.append(self._source(pixels, trained, show=False))
        return made[0], made[1]

    def _source(self, pixels: PixelSource, trained: int, show: bool) -> Source:
        backbone, regions = self.model.backbone, self.model.regions
        features: FeatureSource | None = None
        if backbone is not None:
            frozen = trained < len(backbone.stages)
            features = FeatureCache(backbone, trained, pixels, self.cache, show) if frozen else pixels
        finds = regions is not None and regions.detector is not None
        return Source(features, RegionCache(regions.detector, pixels, self.cache, show) if finds else None)

    # -- validation ---------------------------------------------------------------------------------------------------

    def _validate(self, stage: StageConfig, index: int, loss: CaptionLoss, source: Source) -> None:
        if not self.fabric.is_global_zero:
            return
        weights = {name: value.detach().clone() for name, value in self._trained_tensors()}
        self._put(self.average)
        captions = self._caption(loss, source)
        references = {image.image_id: list(image.captions) for image in self.tune}
        cider = metrics.cider(captions, references)
        counts = metrics.quality(captions.values(), self.vocabulary)
        self._record({"stage": stage.name, "epoch": self.position.epoch + 1, "tune_cider": cider, **asdict(counts)})
        self._say(
            f"{stage.name} {self.position.epoch + 1}/{stage.epochs}: CIDEr {cider:.4f}, {counts.different} different, "
            f"{counts.bad_endings} bad endings, {counts.stuttered} stuttered, {counts.mean_words:.1f} words"
        )
        if self._judge(index, "tune_cider", cider):
            self._sheet(captions)
        self._put(weights)
        figures.curves(self.folder / "metrics.jsonl", self.folder / "curves.png")

    @torch.no_grad()
    def _caption(self, loss: CaptionLoss, source: Source) -> dict[str, str]:
        options = SearchOptions(
            beams=self.config.validation.beams,
            length_penalty=self.config.validation.length_penalty,
            max_words=self.config.validation.max_words,
            ban=("<unk>",),
        )
        self.model.eval()
        executor = TorchExecutor(self.model, self.vocabulary)
        captions: dict[str, str] = {}
        for start in range(0, len(self.tune), self.config.validation.batch):
            rows = range(start, min(start + self.config.validation.batch, len(self.tune)))
            seen = source.batch(rows, [0] * len(rows)).to(self.fabric.device)
            for row, found in zip(rows, executor.search(*loss.encode(seen), options), strict=True):
                captions[self.tune[row].image_id] = " ".join(self.vocabulary.decode(found[0].tokens))
        return captions

    def _sheet(self, captions: dict[str, str]) -> None:
        here = [image for image in self.tune if image.path.is_file()] if self.stored else self.tune.images
        if not here:
            return
        images = [here[round(row)] for row in np.linspace(0, len(here) - 1, min(12, len(here)))]
        figures.sheet(
            [(image.path, captions[image.image_id], image.captions[0]) for image in images], self.folder / "samples.png"
        )

    def _meta(self) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            "vocabulary": list(self.vocabulary.tokens),
            "progress": vars(self.position),
            "history": self.history,
            "data": {"train": self.train.report(), "tune": self.tune.report()},
            "versions": {"torch": torch.__version__},
            "start": self.origin,
        }


def _check(config: Config) -> None:
    """Refuses what an encoder cannot do.

    Raises:
        DataError: the configuration asks for it.
    """
    encoder = config.model.encoder
    if (encoder == "features") != (config.data.features is not None):
        raise DataError('encoder = "features" and data.features, the files of precomputed features, need each other')
    for stage in config.stage:
        if encoder == "features" and stage.variants != 1:
            raise DataError(
                f"stage {stage.name}: variants is {stage.variants}; precomputed features are of images as they are: "
                "expected variants = 1"
            )
        if encoder in FROZEN and stage.trained_backbone_stages:
            raise DataError(
                f"stage {stage.name}: trained_backbone_stages is {stage.trained_backbone_stages}; encoder {encoder} "
                "has no backbone to train: expected 0"
            )


def _check_stages(config: Config, model: Captioner) -> None:
    """Refuses stages that train more of the backbone than there is.

    Raises:
        DataError: one does.
    """
    most = 0 if model.backbone is None else len(model.backbone.stages)
    for stage in config.stage:
        if stage.trained_backbone_stages > most:
            raise DataError(
                f"stage {stage.name}: trained_backbone_stages is {stage.trained_backbone_stages}; backbone "
                f"{config.model.backbone} has {most}"
            )
