"""What all imports of other projects' checkpoints share: opening files of strangers, ResNets, and the new checkpoint.

Files that hold tensors only are read without running code of theirs; others only when the caller trusts them. The
sources that wrote them are not needed.
"""

from __future__ import annotations

import json
import pickle
import tempfile
import types
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from camscribe.runtime.errors import BundleError, DataError, OptionError
from camscribe.runtime.vocab import Vocabulary
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.config import from_dict
from camscribe.train.model import Captioner

_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_KNOWN_MODULES = (
    *("torch", "collections", "numpy", "_codecs", "builtins", "__builtin__", "copyreg", "copy_reg", "argparse"),
)
"""Whose classes are what they say; old pickles have Python 2's names."""
_ZIP, _PICKLE, _TAR = b"PK", b"\x80", b"ustar"
"""How files of ``torch.save`` begin: of today, from before PyTorch 1.6, and (from byte 257 on) from before 0.1.10."""
_HINT = "can run any code when they are loaded; add --trust-pickle if you trust who made it"


@dataclass(frozen=True)
class Foreign:
    """What was made of another project's checkpoint."""

    project: str
    """Its repository."""
    words: Sequence[str]
    """By our ids."""
    backbone: str
    backbone_weights: Mapping[str, Tensor]
    """By torchvision's names."""
    decoder: Mapping[str, Tensor]
    """By ours."""
    model: Mapping[str, Any]
    """Keys of the configuration's ``[model]``, without the backbone and its input."""
    max_words: int


def load_tensors(path: Path, trust_pickle: bool, instead: str) -> Any:
    """What ``torch.save`` wrote.

    Args:
        path: the file.
        trust_pickle: unpickle more than tensors, which can run any code that whoever made the file put into it.
        instead: what can be done without trust, for the message.

    Raises:
        DataError: the file cannot be read, or needs trust.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(512)
        # Else a damaged download would be said to need trust, which helps nobody.
        if not begin.startswith((_ZIP, _PICKLE)) and begin[257:262] != _TAR:
            raise DataError(f"{path}: is not a checkpoint of PyTorch, of which it has no mark at its beginning")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old protocols, which is nothing to do about
            return torch.load(path, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a checkpoint of PyTorch") from error
    except pickle.UnpicklingError as error:
        if not trust_pickle:
            raise DataError(f"{path}: holds pickled modules, which {_HINT}, or {instead}") from error
        return _stubbed(path, lambda module: torch.load(path, "cpu", module, weights_only=False))
    except Exception as error:  # torch has errors of many kinds for damaged files
        raise DataError(f"{path}: is not a checkpoint of PyTorch ({' '.join(str(error).split())[:200]})") from error


def load_pickle(path: Path, trust_pickle: bool, instead: str) -> Any:
    """What ``pickle`` wrote; see ``load_tensors``.

    Raises:
        DataError: the file cannot be read, or needs trust, as any pickle does.
    """
    if not trust_pickle:
        raise DataError(f"{path}: holds pickled objects, which {_HINT}, or {instead}")

    def load(module: Any) -> Any:
        with path.open("rb") as file:
            return module.Unpickler(file, encoding="latin-1").load()

    return _stubbed(path, load)


def _stubbed(path: Path, load: Any) -> Any:
    """Unpickles without the source that defined the classes: an empty one takes the place of each."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if module.partition(".")[0] in _KNOWN_MODULES:
                return super().find_class(module, name)
            return type(name, (nn.Module,), {})

    stand_in: Any = types.ModuleType("pickle_with_stubs")
    stand_in.Unpickler, stand_in.load = Unpickler, pickle.load
    try:
        return load(stand_in)
    except Exception as error:
        raise DataError(f"{path}: cannot be unpickled ({' '.join(str(error).split())[:200]})") from error


def tensors_of(value: Any, what: str) -> dict[str, Tensor]:
    """Tensors of a module or of its ``state_dict``, float32; ``module.`` of ``DataParallel`` taken off.

    Raises:
        DataError: it is neither.
    """
    if isinstance(value, nn.Module):
        value = dict(_walk(value, ""))
    if not isinstance(value, Mapping) or not all(isinstance(item, Tensor) for item in value.values()):
        raise DataError(f"{what} is {type(value).__name__}; expected a module or its state_dict")
    return {
        str(key).removeprefix("module."): item.float() if item.is_floating_point() else item
        for key, item in value.items()
    }


def _walk(module: nn.Module, prefix: str) -> list[tuple[str, Tensor]]:
    """Names and tensors; by hand, because modules of old versions of PyTorch lack what ``state_dict`` asks for."""
    found = []
    for kind in ("_parameters", "_buffers"):
        for name, value in module.__dict__.get(kind, {}).items():
            if value is not None:
                found.append((prefix + name, value.detach()))
    for name, child in module.__dict__.get("_modules", {}).items():
        if child is not None:
            found += _walk(child, f"{prefix}{name}.")
    return found


def read_json(path: Path, what: str) -> Any:
    """A JSON file.

    Raises:
        DataError: it is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not {what} ({error!r:.100})") from error


def which_resnet(named: Mapping[str, Tensor], path: Path) -> tuple[str, dict[str, Tensor]]:
    """Which of torchvision's ResNets tensors are, and these with nothing missing.

    Raises:
        DataError: none.
    """
    own = {key: value for key, value in named.items() if not key.startswith("fc.")}
    for name in _RESNETS:
        with torch.device("meta"):
            model = torchvision.models.get_model(name, weights=None)
        expected = {key for key in model.state_dict() if not key.startswith("fc.")}
        without_counts = {key for key in expected if not key.endswith("num_batches_tracked")}
        if without_counts <= set(own) <= expected:
            # Files from before PyTorch 0.4.1 have no counts; nothing reads them.
            counts = {key: torch.zeros((), dtype=torch.int64) for key in expected - without_counts}
            return name, {**counts, **{key: value.contiguous() for key, value in own.items()}}
    raise DataError(f"{path}: its encoder is none of {', '.join(_RESNETS)}")


def check_side(side: int) -> int:
    """Rows and columns of a ResNet's input.

    Raises:
        OptionError: no ResNet takes it whole.
    """
    if side % 32 or not 64 <= side <= 1024:
        raise OptionError(f"--side is {side}; expected a multiple of 32 from 64 to 1024")
    return side


def make_checkpoint(foreign: Foreign, path: Path, side: int, grid: int) -> Checkpoint:
    """A checkpoint of ours.

    Args:
        foreign: all that it holds.
        path: where it comes from, which is written down, and named in errors.
        side: rows and columns of the encoder's input.
        grid: rows and columns of the features; 0 for the backbone's own.

    Raises:
        DataError: the parts do not fit together.
    """
    model = {
        **foreign.model,
        "backbone": foreign.backbone,
        "weights": "none",
        "image_height": side,
        "image_width": side,
        "grid": grid,
        "deep_output": False,
    }
    # Both projects compare sums of log-probabilities: no length penalty.
    validation = {"beams": 5, "length_penalty": 0.0, "max_words": foreign.max_words}
    stage = {"name": "imported", "epochs": 0}
    config = from_dict({"data": {"root": "none"}, "model": model, "validation": validation, "stage": [stage]})
    try:
        Vocabulary(foreign.words)
    except BundleError as error:
        raise DataError(f"{path}: its words cannot be used: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        # The backbone's own reader checks names and shapes, and folds the batch norms.
        file = Path(folder) / "backbone.safetensors"
        save_file(dict(foreign.backbone_weights), file)
        captioner = Captioner(len(foreign.words), config.model, weights=str(file))
    try:
        captioner.decoder.load_state_dict(dict(foreign.decoder))
    except RuntimeError as error:
        raise DataError(f"{path}: its decoder does not fit: {' '.join(str(error).split())}") from error
    meta = {
        "config": config.to_dict(),
        "vocabulary": list(foreign.words),
        "progress": {},
        "history": [],
        "imported": {"from": foreign.project, "file": path.name},
    }
    return Checkpoint({f"model.{name}": value for name, value in captioner.state_dict().items()}, meta)
