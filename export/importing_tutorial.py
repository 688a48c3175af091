"""Checkpoints of sgrvinod's tutorial (a-PyTorch-Tutorial-to-Image-Captioning) as checkpoints of camscribe.

The tutorial pickles whole modules, so its files run code when they are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, cat

from camscribe.export.foreign import Foreign, make_checkpoint, read_json, tensors_of, which_resnet
from camscribe.runtime.errors import DataError
from camscribe.runtime.vocab import END, PAD, START, UNKNOWN
from camscribe.train.checkpoint import Checkpoint

_SPECIAL = {"<pad>": PAD, "<start>": START, "<end>": END, "<unk>": UNKNOWN}
_CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
"""A ResNet's children in the order in which the tutorial's ``nn.Sequential`` numbers them."""
_SIDE, _GRID, _MAX_WORDS = 256, 14, 50
"""The tutorial's."""


def read(content: Mapping[str, Any], path: Path, word_map: Path, side: int | None = None) -> Checkpoint:
    """Makes a checkpoint of one of the tutorial.

    Args:
        content: of its ``BEST_checkpoint_*.pth.tar``, or the ``state_dict`` of encoder and decoder under these names.
        path: of that file.
        word_map: its ``WORDMAP_*.json``.
        side: rows and columns of the encoder's input; None for the tutorial's.

    Raises:
        DataError: a file cannot be read or holds something else.
    """
    if not {"encoder", "decoder"} <= set(content):
        raise DataError(f"{path}: expected 'encoder' and 'decoder' in it, as the tutorial saves them")
    parts = {name: tensors_of(content[name], f"{path}: {name!r}") for name in ("encoder", "decoder")}
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
        "memory_width": 0,
        "attention_width": attention,
        "state_width": state,
        "embedding_width": embedding,
    }
    project = "sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning"
    foreign = Foreign(project, vocabulary, backbone, weights, tensors, model, _MAX_WORDS)
    return make_checkpoint(foreign, path, side or _SIDE, _GRID)


def _vocabulary(path: Path) -> list[str]:
    ids = read_json(path, "a word map, a JSON object of words and numbers")
    try:
        tokens = {int(index): _SPECIAL.get(word, word) for word, index in ids.items()}
    except (ValueError, AttributeError, TypeError) as error:
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
    return which_resnet(named, path)


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
        tensors[f"from_state.{kind}"] = cat([-query, gate, recurrent[kind]])
        tensors[f"initial.{kind}"] = cat([parts[f"init_h.{kind}"], parts[f"init_c.{kind}"]])
        tensors[f"keys.{kind}"] = parts[f"attention.encoder_att.{kind}"]
        tensors[f"words.{kind}"] = parts[f"fc.{kind}"]
    return tensors
