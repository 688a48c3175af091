"""The configuration of a detection run: one TOML file with ``task = "detection"``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from camscribe.runtime.errors import DataError
from camscribe.train.config import build, read_table


@dataclass(frozen=True)
class DataConfig:
    """Where images and the annotations of their boxes come from."""

    root: str
    """Folder of the data set; relative to the configuration file."""
    train: str = "train"
    """Split to train on: ``instances_<split>*.json`` in the folder, or in its ``annotations``."""
    tune: str = "val"
    """Split that chooses the best checkpoint; a part is named like ``val[:500]``."""
    annotations: str | None = None
    """One file of annotations for both splits, which are parts of it then, such as ``all[500:]`` and ``all[:500]``;
    relative to the configuration file."""
    images: str | None = None
    """Image folder, where the layout does not fix it; relative to the configuration file."""
    skip_bad: bool = False
    """Skip (and count and name) missing images and bad boxes instead of refusing them."""
    min_count: int = 1
    """Attributes that fewer training boxes have are left out."""


@dataclass(frozen=True)
class ModelConfig:
    """The detector. A captioner that takes it has the same, and best of the same size and fit."""

    detector: str = "fasterrcnn_mobilenet_v3_large_320_fpn"
    """One of torchvision's ``fasterrcnn_*`` models."""
    weights: str = "torchvision"
    """To start from, but for the last layer, whose classes are the annotations': ``torchvision`` (downloads), ``none``
    (random, with batch norms from a few training images), a file in torchvision's names, or a checkpoint of camscribe's
    with the same detector."""
    image_height: int = 320
    """Rows of the detector's input, pixels; a multiple of 32."""
    image_width: int = 320
    """Columns of the detector's input, pixels; a multiple of 32."""
    fit: Literal["squash", "crop"] = "squash"
    """How an image of another shape is fitted: squashed, or its centre cropped."""
    embedding_width: int = 256
    """Width of a class's embedding, from which and from the region's feature its attributes are told."""
    attribute_width: int = 512
    """Width of the hidden layer between these and the attributes."""


@dataclass(frozen=True)
class StageConfig:
    """One stage of training; stages follow each other, each starting from the best weights of the one before."""

    name: str
    epochs: int
    """Passes over the training images."""
    trained_backbone_stages: int = 0
    """How many of the backbone's last stages are trained, of a ResNet four (``layer1`` to ``layer4``) and the stem's
    parts, of a MobileNetV3 17; what stands behind it always is. Batch norms never are."""
    batch: int = 8
    """Images a step, over all processes."""
    samples: int = 512
    """Most proposals of an image that the head learns from; fewer are quicker."""
    learning_rate: float = 1e-4
    """Peak, of everything but the backbone (AdamW; linear warm-up, then a cosine down to ``final_learning_rate``)."""
    backbone_learning_rate: float = 1e-5
    """Peak, of the backbone."""
    final_learning_rate: float = 0.1
    """Learning rate at the end of the stage, as a share of the peak."""
    warm_up_steps: int = 200
    """Steps over which the learning rate rises from 0."""
    weight_decay: float = 1e-4
    """AdamW's, of matrices only; 0 switches it off."""
    attribute_weight: float = 0.5
    """Weight of the attributes' loss beside torchvision's four, as in the paper's code; 0 switches it off."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient; 0 switches it off."""
    average_decay: float = 0.998
    """Decay of the exponential average of the weights that is validated and kept; 0 switches it off."""
    variants: int = 2
    """Versions of a training image: 1 plain, 2 adds the mirrored one (left and right change places in names too)."""
    patience: int = 0
    """Stop the stage after this many validations without a better mean average precision; 0 never."""


@dataclass(frozen=True)
class Config:
    """A whole detection run."""

    task: Literal["detection"]
    """Tells this configuration from a captioner's."""
    data: DataConfig
    stage: tuple[StageConfig, ...]
    model: ModelConfig = field(default_factory=ModelConfig)
    seed: int = 1
    start: str = ""
    """A checkpoint of the same detector, classes and attributes to start from; relative to the configuration file."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Lightning Fabric's; mixed precision pays on a GPU."""
    checkpoint_seconds: int = 120
    """A killed run loses at most this much."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dictionary; ``from_dict`` reads it back."""
        return asdict(self)


def load_config(path: Path, changes: Sequence[str] = ()) -> Config:
    """Reads a TOML configuration; relative paths in it become absolute.

    Raises:
        DataError: the file is missing or not TOML, or a key or value is not one of the configuration's.
    """
    table = read_table(path, changes)
    base = path.resolve().parent
    paths = {"data": ("root", "annotations", "images"), "model": ("weights",)}
    for section, keys in ((table, ("start",)), *((table.get(name), keys) for name, keys in paths.items())):
        for key in keys if isinstance(section, dict) else ():
            if isinstance(section.get(key), str) and section[key] not in ("", "none", "torchvision"):
                section[key] = str((base / section[key]).resolve())
    return from_dict(table, where=str(path))


def from_dict(table: dict[str, Any], where: str = "configuration") -> Config:
    """Builds a configuration from nested dictionaries.

    Raises:
        DataError: a key or value is not one of the configuration's, or has no meaning.
    """
    config: Config = build(Config, table, where)
    problems = [] if config.stage else ["no [[stage]]; expected at least one"]
    for name, least in (("embedding_width", 1), ("attribute_width", 1), ("image_height", 32), ("image_width", 32)):
        value = getattr(config.model, name)
        if value < least or value % least:
            expected = f"a multiple of {least}" if least > 1 else "1 or more"
            problems.append(f"model: {name} is {value}; expected {expected}")
    for stage in config.stage:
        for name, least in (("epochs", 1), ("batch", 1), ("samples", 1), ("variants", 1)):
            if getattr(stage, name) < least:
                problems.append(f"stage {stage.name}: {name} is {getattr(stage, name)}; expected {least} or more")
        if stage.variants > 2:
            problems.append(f"stage {stage.name}: variants is {stage.variants}; expected 1 (plain) or 2 (mirrored too)")
        if stage.attribute_weight < 0:
            problems.append(f"stage {stage.name}: attribute_weight is {stage.attribute_weight:g}; expected 0 or more")
    if problems:
        raise DataError(f"{where}: {'; '.join(problems)}")
    return config
