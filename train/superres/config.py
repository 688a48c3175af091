"""The configuration of a super-resolution run: one TOML file with ``task = "super_resolution"``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from camscribe.runtime.errors import DataError
from camscribe.train.config import build, read_table


@dataclass(frozen=True)
class DataConfig:
    """Where photographs come from, and how they are made small."""

    root: str
    """Folder of photographs in full resolution; relative to the configuration file."""
    tune: int = 8
    """How many of them, the last by name, choose the best weights instead of training."""
    sizes: tuple[float, ...] = (1.0,)
    """Each photograph is also trained on reduced to these shares of its size, which sharpens old JPEG files."""
    degradation: Literal["bicubic", "camera"] = "bicubic"
    """``bicubic``: MATLAB's ``imresize``, as in the benchmarks; ``camera``: blur, bicubic, noise, JPEG, drawn anew for
    every patch."""
    blur: float = 1.2
    """``camera``: largest standard deviation of the blur, in pixels of the small image."""
    noise: float = 8.0
    """``camera``: largest standard deviation of the noise, in levels of 255."""
    jpeg_quality: int = 40
    """``camera``: lowest JPEG quality; the highest is 95."""


@dataclass(frozen=True)
class ModelConfig:
    """The generator."""

    generator: Literal["srresnet", "rrdb", "inception"] = "inception"
    """Kind of its blocks: SRResNet's (Ledig et al. 2017), ESRGAN's residual-in-residual dense ones (Wang et al. 2018),
    or inception-residual ones."""
    scale: Literal[2, 4] = 4
    """Enlargement in each axis."""
    width: int = 64
    """Channels between the blocks."""
    depth: int = 8
    """Number of blocks."""
    branches: tuple[int, ...] = (16, 32, 16)
    """``inception``: channels of the 1x1, the 3x3 and the factorised 5x5 branch."""
    growth: int = 32
    """``rrdb``: channels that each convolution of a dense block adds."""
    residual_scale: float = 0.2
    """What a block adds is multiplied by this (Szegedy et al. 2016); 1 switches it off."""
    batch_norm: bool = False
    """``srresnet``: batch normalisation, as published; ESRGAN took it out."""
    upsampler: Literal["direct", "steps"] = "direct"
    """``direct``: one pixel shuffle (Shi et al. 2016), so that every convolution runs at the small size; ``steps``: x2
    at a time and a last convolution at the large size, as in SRResNet and ESRGAN."""


@dataclass(frozen=True)
class FeaturesConfig:
    """The pretrained network whose features the perceptual loss compares."""

    network: Literal["vgg19", "mobilenet_v2"] = "vgg19"
    """``vgg19``: conv5_4 before its activation, as ESRGAN. ``mobilenet_v2``: the stand-in where VGG19's weights are not
    to be had, the linear (never activated) outputs of the blocks at 1/4 and 1/8 of the size."""
    weights: str = "torchvision"
    """``torchvision`` (downloads), or a safetensors file in torchvision's names."""


@dataclass(frozen=True)
class StageConfig:
    """One stage of training; stages follow each other, each starting from the best weights of the one before."""

    name: str
    steps: int
    """Length, in steps of one batch."""
    objective: Literal["pixel", "gan"] = "pixel"
    """``pixel``: the pixel-wise loss alone; ``gan``: pixel-wise, perceptual and adversarial together."""
    minutes: float = 0.0
    """Ends the stage after this much training time, its learning rate following the clock where that is ahead of the
    steps; 0 counts steps alone, and only then do two runs give the same weights."""
    batch: int = 8
    """Patches a step."""
    patch: int = 24
    """Side of a patch, in pixels of the small image."""
    pixel_loss: Literal["l1", "l2"] = "l1"
    """Mean absolute or mean squared difference."""
    learning_rate: float = 5e-4
    """Peak (Adam; linear warm-up, then a cosine down to ``final_learning_rate``)."""
    discriminator_learning_rate: float = 1e-4
    """``gan``: peak, of the discriminator."""
    final_learning_rate: float = 0.01
    """Learning rate at the end of the stage, as a share of the peak."""
    warm_up_steps: int = 200
    """Steps over which the learning rate rises from 0."""
    gradient_clip: float = 0.0
    """Largest norm of the generator's gradient; 0 switches it off."""
    average_decay: float = 0.999
    """Decay of the exponential average of the weights that is validated and kept; 0 switches it off."""
    validate_every: int = 1000
    """Steps between two looks at the tuning photographs."""
    pixel_weight: float = 1.0
    """Weight of the pixel-wise loss; ESRGAN's is 1e-2 in its GAN stage."""
    perceptual_weight: float = 1.0
    """``gan``: weight of the features' mean absolute difference."""
    adversarial_weight: float = 5e-3
    """``gan``: weight of the relativistic average loss."""
    discriminator_width: int = 64
    """``gan``: channels of the discriminator's first convolution; SRGAN's is 64."""
    keep: Literal["best", "last"] = "best"
    """Weights the stage leaves: of the highest PSNR on the tuning photographs, or the last: a GAN lowers PSNR by
    design."""


@dataclass(frozen=True)
class Config:
    """A whole super-resolution run."""

    task: Literal["super_resolution"]
    """Tells this configuration from a captioner's."""
    data: DataConfig
    stage: tuple[StageConfig, ...]
    model: ModelConfig = field(default_factory=ModelConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    seed: int = 1
    start: str = ""
    """A checkpoint of the same generator to start from; relative to the configuration file."""
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
    for section, key in ((table.get("data"), "root"), (table, "start"), (table.get("features"), "weights")):
        if isinstance(section, dict) and isinstance(section.get(key), str) and section[key] not in ("", "torchvision"):
            section[key] = str((base / section[key]).resolve())
    return from_dict(table, where=str(path))


def from_dict(table: dict[str, Any], where: str = "configuration") -> Config:
    """Builds a configuration from nested dictionaries.

    Raises:
        DataError: a key or value is not one of the configuration's, or two do not fit each other.
    """
    config: Config = build(Config, table, where)
    problems = []
    if not config.stage:
        problems.append("no [[stage]]; expected at least one")
    if len(config.model.branches) != 3 or min(config.model.branches, default=0) < 1:
        problems.append(f"model: branches is {list(config.model.branches)}; expected the channels of three branches")
    problems += [
        f"model: {name} is {getattr(config.model, name)}; expected 1 or more"
        for name in ("width", "depth", "growth")
        if getattr(config.model, name) < 1
    ]
    if not config.data.sizes or not all(0.1 <= size <= 1 for size in config.data.sizes):
        problems.append(f"data: sizes is {list(config.data.sizes)}; expected shares from 0.1 to 1")
    for stage in config.stage:
        for name, least in (("steps", 1), ("batch", 1), ("patch", 4), ("validate_every", 1)):
            if getattr(stage, name) < least:
                problems.append(f"stage {stage.name}: {name} is {getattr(stage, name)}; expected {least} or more")
    if problems:
        raise DataError(f"{where}: {'; '.join(problems)}")
    return config
