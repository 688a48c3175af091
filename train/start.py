"""What a training run starts from: a checkpoint, or a bundle, whose weights are read back from its graphs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from camscribe.runtime.bundle import Bundle, content_sha256
from camscribe.runtime.bundle_weights import read_weights
from camscribe.runtime.errors import DataError
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.config import SHIPPED, Config, ModelConfig, differences
from camscribe.train.detector import REGION_SETTINGS, Detector
from camscribe.train.model import Captioner

_PROJECTION = "decoder.project.0.weight"


def load_start(start: str, config: Config) -> Checkpoint:
    """The checkpoint that ``config.start`` names, or one made of the bundle that it names.

    Raises:
        DataError: it cannot be read, or is of another model than the configuration's.
        BundleError: the same of a bundle.
    """
    if start == SHIPPED:
        checkpoint = bundle_checkpoint(None)
    else:
        checkpoint = bundle_checkpoint(Path(start)) if Path(start).is_dir() else Checkpoint.load(Path(start))
    ours, theirs = config.model, checkpoint.config.model
    if (theirs.encoder, ours.encoder) == ("grid", "regions") and f"model.{_PROJECTION}" in checkpoint.tensors:
        theirs = replace(theirs, **{name: getattr(ours, name) for name in ("encoder", "cells", *REGION_SETTINGS)})
    # Where its pretrained weights and its detector lay, and its dropout, are no property of the model; nor is the size
    # of its images, on which no weight hangs.
    same: dict[str, Any] = {"weights": "none", "dropout": 0.0, "image_height": 0, "image_width": 0}
    if ours.encoder != "faster_rcnn":
        same["detector"] = ""
    theirs, ours = (replace(model, **same) for model in (theirs, ours))
    apart = differences(vars(ours), vars(theirs))
    if apart:
        raise DataError(f"{start}: is of another model: [model] differs in {apart}; start needs the same")
    return checkpoint


def started(checkpoint: Checkpoint, config: Config) -> Captioner:
    """The checkpoint's model. One that sees a grid becomes one that sees regions: what these have beside the grid's
    features (classes and box) counts nothing until training finds that it pays."""
    if checkpoint.config.model.encoder == config.model.encoder:
        return checkpoint.model()
    model = Captioner(len(checkpoint.vocabulary), config.model, weights="none")
    detector: Detector = model.regions.detector  # type: ignore[union-attr,assignment]
    detector.read()
    tensors = checkpoint.weights
    narrow = tensors[_PROJECTION]
    wider = model.decoder.project[0].in_features - narrow.shape[1]  # type: ignore[index,union-attr,operator]
    tensors[_PROJECTION] = functional.pad(narrow, (0, wider))
    model.load_state_dict({**tensors, "regions.detector.model": detector.model})
    return model


def bundle_checkpoint(path: Path | None) -> Checkpoint:
    """A bundle as a checkpoint, its matrices rounded to half precision as bundles hold them.

    Args:
        path: its folder; None for the one that comes with camscribe.

    Raises:
        BundleError: it is damaged, or no captioner of soft attention over a grid.
        OptionError: onnx is not installed.
    """
    bundle = Bundle.load(path)
    manifest = bundle.manifest
    tensors = {f"model.{name}": torch.from_numpy(array) for name, array in read_weights(bundle).items()}
    known = {name: value for name, value in manifest.architecture.items() if name in ModelConfig.__dataclass_fields__}
    model = ModelConfig(**{**known, "decoder": "soft_attention", "weights": "none"})  # its decoder is a title there
    config = {"data": {"root": "none"}, "stage": [{"name": "bundle", "epochs": 0}], "model": vars(model)}
    made_of = {"name": manifest.name, "sha256": content_sha256(bundle.path), **manifest.provenance}
    meta = {"config": config, "vocabulary": list(bundle.vocabulary.tokens), "history": [], "bundle": made_of}
    return Checkpoint(tensors, meta)
