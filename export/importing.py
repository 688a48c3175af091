"""Checkpoints of sgrvinod's tutorial (a-PyTorch-Tutorial-to-Image-Captioning) as checkpoints of camscribe.

The tutorial pickles whole modules, so its files run code when they are loaded. Files that hold tensors only
(``state_dict``) are read without that; others only when the caller trusts them. The tutorial's source is not needed.
"""

from __future__ import annotations

import json
import pickle
import tempfile
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from camscribe.runtime.errors import DataError
from camscribe.runtime.vocab import END, PAD, START, UNKNOWN
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.config import from_dict
from camscribe.train.model import Captioner

_SPECIAL = {"<pad>": PAD, "<start>": START, "<end>": END, "<unk>": UNKNOWN}
_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
"""A ResNet's children in the order in which the tutorial's ``nn.Sequential`` numbers them."""
_IMAGE_SIDE, _GRID, _MAX_WORDS = 256, 14, 50
"""The tutorial's."""
_KNOWN_MODULES = ("torch", "collections", "numpy", "_codecs", "builtins", "__builtin__", "copyreg", "copy_reg")
"""Whose classes are what they say; old pickles have Python 2's names."""


def import_tutorial(path: Path, word_map: Path, *, trust_pickle: bool = False) -> Checkpoint:
    """Reads a checkpoint of the tutorial.

    Args:
        path: its ``BEST_checkpoint_*.pth.tar``, or a file with the ``state_dict`` of encoder and decoder under these
            names.
        word_map: its ``WORDMAP_*.json``.
        trust_pickle: unpickle whole modules, which can run any code that whoever made the file put into it.

    Raises:
        DataError: a file cannot be read, holds something else, or needs trust.
    """
    content = _load(path, trust_pickle)
    parts = {name: _tensors(content.get(name), path, name) for name in ("encoder", "decoder")}
    vocabulary = _vocabulary(word_map)
    backbone, weights = _backbone(parts["encoder"], path)
    decoder = parts["decoder"]
    try:
        attention = decoder["attention.encoder_att.weight"].shape[0]
        words, embedding = decoder["embedding.weight"].shape
        state = decoder["decode_step.weight_hh"].shape[1]
        tensors = _decoder(decoder)
    except KeyError as error:
        raise DataError(f"{path}: its decoder has no {error}; expected the tutorial's DecoderWithAttention") from error
    if words != len(vocabulary):
        raise DataError(f"{word_map}: has {len(vocabulary)} words, but {path} has {words}; they belong to other models")
    model = {
        "backbone": backbone,
        "weights": "none",
        "image_height": _IMAGE_SIDE,
        "image_width": _IMAGE_SIDE,
        "grid": _GRID,
        "memory_width": 0,
        "attention_width": attention,
        "state_width": state,
        "embedding_width": embedding,
        "deep_output": False,
    }
    # The tutorial compares sums of log-probabilities: no length penalty.
    validation = {"beams": 5, "length_penalty": 0.0, "max_words": _MAX_WORDS}
    stage = {"name": "imported", "epochs": 0}
    config = from_dict({"data": {"root": "none"}, "model": model, "validation": validation, "stage": [stage]})
    with tempfile.TemporaryDirectory() as folder:
        # The backbone's own reader checks names and shapes, and folds the batch norms.
        file = Path(folder) / "backbone.safetensors"
        save_file(weights, file)
        captioner = Captioner(words, config.model, weights=str(file))
    try:
        captioner.decoder.load_state_dict(tensors)
    except RuntimeError as error:
        raise DataError(f"{path}: its decoder does not fit: {' '.join(str(error).split())}") from error
    meta = {
        "config": config.to_dict(),
        "vocabulary": vocabulary,
        "progress": {},
        "history": [],
        "imported": {"from": "sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning", "file": path.name},
    }
    return Checkpoint({f"model.{name}": value for name, value in captioner.state_dict().items()}, meta)


def _load(path: Path, trust_pickle: bool) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a checkpoint of the tutorial") from error
    except pickle.UnpicklingError as error:
        if not trust_pickle:
            raise DataError(
                f"{path}: holds pickled modules, which can run any code when they are loaded; add --trust-pickle if "
                "you trust who made it, or save the state_dict() of its encoder and decoder"
            ) from error
        content = _load_stubbed(path)
    except Exception as error:  # torch has errors of many kinds for damaged files
        raise DataError(f"{path}: is not a checkpoint of PyTorch ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(content, Mapping) or not {"encoder", "decoder"} <= set(content):
        raise DataError(f"{path}: expected 'encoder' and 'decoder' in it, as the tutorial saves them")
    return content


def _load_stubbed(path: Path) -> Any:
    """Unpickles modules without the source that defined them: an empty class takes the place of each."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if module.partition(".")[0] in _KNOWN_MODULES:
                return super().find_class(module, name)
            return type(name, (nn.Module,), {})

    stand_in: Any = types.ModuleType("pickle_with_stubs")
    stand_in.Unpickler, stand_in.load = Unpickler, pickle.load
    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=stand_in)
    except Exception as error:
        raise DataError(f"{path}: cannot be unpickled ({' '.join(str(error).split())[:200]})") from error


def _tensors(value: Any, path: Path, name: str) -> dict[str, Tensor]:
    """Tensors of a module or of its ``state_dict``, float32; ``module.`` of ``DataParallel`` taken off."""
    if isinstance(value, nn.Module):
        value = dict(_walk(value, ""))
    if not isinstance(value, Mapping) or not all(isinstance(item, Tensor) for item in value.values()):
        raise DataError(f"{path}: {name!r} is {type(value).__name__}; expected a module or its state_dict")
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


def _vocabulary(path: Path) -> list[str]:
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
        tokens = {int(index): _SPECIAL.get(word, word) for word, index in ids.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path}: is not a word map, a JSON object of words and numbers ({error!r:.100})") from error
    if sorted(tokens) != list(range(len(ids))):
        raise DataError(f"{path}: its numbers are not 0 to {len(ids) - 1}, each once")
    missing = [word for word, ours in _SPECIAL.items() if ours not in tokens.values()]
    if missing:
        raise DataError(f"{path}: has no {', '.join(missing)}; expected the tutorial's WORDMAP_*.json")
    return [tokens[index] for index in range(len(tokens))]


def _backbone(tensors: Mapping[str, Tensor], path: Path) -> tuple[str, dict[str, Tensor]]:
    """Which ResNet an encoder is, and its tensors by torchvision's names."""
    named = {}
    for key, value in tensors.items():
        _, _, rest = key.partition("resnet.")
        number, _, name = rest.partition(".")
        if not number.isdigit() or int(number) >= len(_CHILDREN):
            raise DataError(f"{path}: its encoder has {key}; expected the tutorial's Encoder, a ResNet named resnet")
        named[f"{_CHILDREN[int(number)]}.{name}"] = value
    for name in _RESNETS:
        with torch.device("meta"):
            model = torchvision.models.get_model(name, weights=None)
        expected = {key for key in model.state_dict() if not key.startswith("fc.")}
        without_counts = {key for key in expected if not key.endswith("num_batches_tracked")}
        if without_counts <= set(named) <= expected:
            # Files from before PyTorch 0.4.1 have no counts; nothing reads them.
            counts = {key: torch.zeros((), dtype=torch.int64) for key in expected - without_counts}
            return name, {**counts, **{key: value.contiguous() for key, value in named.items()}}
    raise DataError(f"{path}: its encoder is none of {', '.join(_RESNETS)}")


def _decoder(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tutorial's decoder tensors by the names of ``SoftAttentionDecoder``, which merges what has one input.

    The attention query's sign is turned, and its energy has no bias, see there; the LSTM's two biases are one.
    """
    tensors = {
        "from_input.weight": parts["decode_step.weight_ih"],
        "energy.weight": parts["attention.full_att.weight"],
        "embedding.weight": parts["embedding.weight"],
    }
    recurrent = {
        "weight": parts["decode_step.weight_hh"],
        "bias": parts["decode_step.bias_ih"] + parts["decode_step.bias_hh"],
    }
    for kind in ("weight", "bias"):
        query, gate = parts[f"attention.decoder_att.{kind}"], parts[f"f_beta.{kind}"]
        tensors[f"from_state.{kind}"] = torch.cat([-query, gate, recurrent[kind]])
        tensors[f"initial.{kind}"] = torch.cat([parts[f"init_h.{kind}"], parts[f"init_c.{kind}"]])
        tensors[f"keys.{kind}"] = parts[f"attention.encoder_att.{kind}"]
        tensors[f"words.{kind}"] = parts[f"fc.{kind}"]
    return tensors
