"""Checkpoints of ruotianluo's repository (ImageCaptioning.pytorch, self-critical.pytorch) as checkpoints of camscribe.

Its ``model*.pth`` holds the tensors of a decoder alone: features were computed beforehand, by a ResNet with the strides
of Caffe's. That network's weights are a file of their own, and both together make a captioner. Its words lie in
``infos_*.pkl`` (a pickle, beside its options) and in the ``cocotalk.json`` that its preprocessing wrote.

Token 0 is its begin, its end and its padding. Here it is ``</s>``; ``<s>`` and ``<pad>`` are new rows behind its words,
of which the first has the embedding of token 0, and neither can be said.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from camscribe.export.foreign import (
    Foreign,
    load_pickle,
    load_tensors,
    make_checkpoint,
    read_json,
    tensors_of,
    which_resnet,
)
from camscribe.runtime.errors import DataError
from camscribe.runtime.vocab import END, PAD, START, UNKNOWN
from camscribe.train.backbone import CAFFE
from camscribe.train.checkpoint import Checkpoint

_SIDE, _GRID, _MAX_WORDS, _MOST_WORDS = 448, 14, 20, 200
"""A side of 448 gives the grid of 14 x 14 without averaging; its own features are of photographs in their own size."""
_NEVER = -1e3
"""Logit of a word that is never said: its probability is 0 in float32, and half precision holds it."""
_BATCH_NORM = 1e-5
"""PyTorch's epsilon."""
_INSTEAD = "give its cocotalk.json, the JSON with ix_to_word"
_HELP = "import a checkpoint of ResNet features, or train encoder = 'regions', decoder = 'updown' with camscribe train"

Tensors = Mapping[str, Tensor]


class _Words(NamedTuple):
    """Words by number, from 1, and the options of the training run where they are known."""

    words: list[str]
    options: Mapping[str, Any]


class _Affine(NamedTuple):
    """A batch norm in evaluation: scale x values + shift."""

    scale: Tensor
    shift: Tensor


def read(
    content: Mapping[str, Any],
    path: Path,
    word_map: Path,
    encoder: Path | None,
    side: int | None = None,
    *,
    trust_pickle: bool = False,
) -> Checkpoint:
    """Makes a checkpoint of one of the repository.

    Args:
        content: of its ``model*.pth``: the ``state_dict`` of an ``updown``, ``att2in2`` or ``show_attend_tell``.
        path: of that file.
        word_map: its ``infos_*.pkl``, or a JSON object that holds ``ix_to_word`` or is that.
        encoder: weights of the ResNet that made its features, by torchvision's names.
        side: rows and columns of the encoder's input; None for 448.
        trust_pickle: open ``infos_*.pkl``, and an encoder that is a pickled module.

    Raises:
        DataError: a file cannot be read, holds something else, or needs trust.
    """
    tensors = tensors_of(content, str(path))
    kind, convert = _kind(tensors, path)
    known = _read_words(word_map, trust_pickle)
    _check_options(known.options, path)
    try:
        decoder = convert(tensors)
        embedded, logits = decoder["embedding.weight"], decoder["words.weight"]
        features = decoder["project.weight" if "project.weight" in decoder else "keys.weight"].shape[1]
    except KeyError as error:
        raise DataError(f"{path}: its {kind} has no {error}; expected that of ruotianluo's repository") from error
    if len(logits) != len(known.words) + 1:
        raise DataError(
            f"{word_map}: has {len(known.words)} words, but {path} has {len(logits) - 1}; they belong to other models"
        )
    if encoder is None:
        raise DataError(
            f"{path}: has no image encoder, as it was trained on features that were computed beforehand; add --encoder "
            f"resnet101.pth, the network that computed them. For bottom-up features there is none: {_HELP}"
        )
    backbone, weights = _backbone(encoder, trust_pickle)
    width = 512 if backbone in ("resnet18", "resnet34") else 2048
    if features != width:
        raise DataError(
            f"{path}: was trained on features of width {features}, but those of {backbone} in {encoder} have {width}; "
            "expected the network that computed them"
        )
    names, new = _vocabulary(known.words)
    model = {
        "decoder": kind,
        "memory_width": decoder["project.weight"].shape[0] if "project.weight" in decoder else 0,
        "attention_width": decoder["energy.weight"].shape[1],
        "state_width": logits.shape[1],
        "embedding_width": embedded.shape[1],
    }
    silent = torch.zeros(new, embedded.shape[1])
    silent[0] = embedded[0]
    decoder |= {
        "embedding.weight": torch.cat([embedded, silent]),
        "words.weight": torch.cat([logits, torch.zeros(new, logits.shape[1])]),
        "words.bias": torch.cat([decoder["words.bias"], torch.full((new,), _NEVER)]),
    }
    most = known.options.get("max_length") or known.options.get("seq_length") or _MAX_WORDS
    if type(most) is not int or not 1 <= most <= _MOST_WORDS:
        raise DataError(f"{word_map}: has captions of {most!r} words; expected 1 to {_MOST_WORDS}")
    project, side = "ruotianluo/ImageCaptioning.pytorch", side or _SIDE
    foreign = Foreign(project, names, CAFFE + backbone, weights, decoder, model, most)
    return make_checkpoint(foreign, path, side, 0 if side == _SIDE else _GRID)


def _kind(tensors: Tensors, path: Path) -> tuple[str, Callable[[Tensors], dict[str, Tensor]]]:
    """What a checkpoint is by our names, and what converts its tensors."""
    for name, kind, convert in (
        ("core.att_lstm.weight_ih", "topdown", _topdown),
        ("core.a2c.weight", "att2in2", _att2in2),
        ("core.rnn.weight_ih_l0", "show_attend_tell", _show_attend_tell),
    ):
        if name in tensors:
            return kind, convert
    own = sorted({".".join(key.split(".")[:2]) for key in tensors if key.startswith("core.")})
    raise DataError(
        f"{path}: is none of updown (topdown), att2in2 and show_attend_tell; it has {', '.join(own[:6]) or 'no core'}"
    )


def _read_words(path: Path, trust_pickle: bool) -> _Words:
    try:
        with path.open("rb") as file:
            begin = file.read(64).removeprefix(codecs.BOM_UTF8).lstrip()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected infos_*.pkl or cocotalk.json") from error
    if begin.startswith((b"{", b"[", b"<")) or not begin:  # none of which begins a pickle
        content = read_json(path, "a word map, a JSON object of numbers and words")
        content = {"vocab": content.get("ix_to_word", content) if isinstance(content, Mapping) else None}
    else:
        content = load_pickle(path, trust_pickle, _INSTEAD)
    words = content.get("vocab") if isinstance(content, Mapping) else None
    try:
        numbered = {int(index): str(word) for index, word in words.items()}  # type: ignore[union-attr]
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{path}: has no word map; expected infos_*.pkl with vocab, or {_INSTEAD}") from error
    if sorted(numbered) != list(range(1, len(numbered) + 1)):
        raise DataError(f"{path}: the numbers of its words are not 1 to {len(numbered)}, each once")
    options = content.get("opt", {})
    options = options if isinstance(options, Mapping) else getattr(options, "__dict__", {})
    return _Words([numbered[number] for number in sorted(numbered)], options)


def _check_options(options: Mapping[str, Any], path: Path) -> None:
    """Refuses training runs whose features or words no bundle can make."""
    folder = str(options.get("input_att_dir", ""))
    if options.get("use_box") or re.search(r"bu(?![a-z])|bottom.?up", Path(folder).name.lower()):
        raise DataError(
            f"{path}: was trained on bottom-up features ({Path(folder).name}) and has no image encoder, nor can their "
            f"detector be bundled; {_HELP}"
        )
    wanted = {"norm_att_feat": 0, "bos_idx": 0, "eos_idx": 0, "pad_idx": 0}
    for name, value in wanted.items():
        if (options.get(name) or 0) != value:
            raise DataError(f"{path}: was trained with {name} {options[name]}; only {value} can be imported")


def _vocabulary(words: list[str]) -> tuple[list[str], int]:
    """Our tokens, and how many of them are new behind the repository's."""
    cut = [word for word in words if word.endswith("@@")]
    if cut:
        raise DataError(f"the words are pieces of words, such as {cut[0]!r}; only whole words can be imported")
    tokens = [END, *(UNKNOWN if word == "UNK" else word for word in words), START, PAD]
    if UNKNOWN not in tokens:
        tokens.append(UNKNOWN)
    return tokens, len(tokens) - len(words) - 1


def _backbone(path: Path, trust_pickle: bool) -> tuple[str, dict[str, Tensor]]:
    content = load_tensors(path, trust_pickle, "save its state_dict()")
    return which_resnet(tensors_of(content, str(path)), path)


def _embedded(parts: Tensors) -> tuple[dict[str, Tensor], _Affine]:
    """What ``topdown`` and ``att2in2`` share, and the batch norm behind the features (``use_bn`` 2).

    Batch norms are folded: the one before ``att_embed`` into its matrix, the one behind it into what reads features
    (attention weights sum to 1, so that a mean of shifted features is the shifted mean).
    """
    first = "att_embed.0.running_mean" in parts
    linear = f"att_embed.{int(first)}"
    weight, bias = parts[f"{linear}.weight"], parts[f"{linear}.bias"]
    if first:
        scale, shift = _norm(parts, "att_embed.0")
        weight, bias = weight * scale, bias + weight @ shift
    width = weight.shape[0]
    last = _norm(parts, "att_embed.4") if "att_embed.4.running_mean" in parts else None
    last = last or _Affine(torch.ones(width), torch.zeros(width))
    return {
        "project.weight": weight,
        "project.bias": bias,
        **_attention(parts, "ctx2att", "core.attention.alpha_net", last),
        "embedding.weight": parts["embed.0.weight"],
        "words.weight": parts["logit.weight"],
        "words.bias": parts["logit.bias"],
    }, last


def _norm(parts: Tensors, name: str) -> _Affine:
    scale = parts[f"{name}.weight"] / torch.sqrt(parts[f"{name}.running_var"] + _BATCH_NORM)
    return _Affine(scale, parts[f"{name}.bias"] - parts[f"{name}.running_mean"] * scale)


def _attention(parts: Tensors, keys: str, energy: str, norm: _Affine | None = None) -> dict[str, Tensor]:
    weight, bias = parts[f"{keys}.weight"], parts[f"{keys}.bias"]
    if norm is not None:
        weight, bias = weight * norm.scale, bias + weight @ norm.shift
    return {"keys.weight": weight, "keys.bias": bias, "energy.weight": parts[f"{energy}.weight"]}


def _topdown(parts: Tensors) -> dict[str, Tensor]:
    """By the names of ``TopDownDecoder``; its attention LSTM takes [h2, fc, word], its language LSTM [context, h1]."""
    tensors, norm = _embedded(parts)
    look, say = parts["core.att_lstm.weight_ih"], parts["core.lang_lstm.weight_ih"]
    look_own, say_own = parts["core.att_lstm.weight_hh"], parts["core.lang_lstm.weight_hh"]
    width = look_own.shape[1]
    from_said, from_whole, from_word = look[:, :width], look[:, width : 2 * width], look[:, 2 * width :]
    from_context, from_look = say[:, :width], say[:, width:]
    biases = {name: parts[f"core.{name}_lstm.bias_ih"] + parts[f"core.{name}_lstm.bias_hh"] for name in ("att", "lang")}
    query = "core.attention.h2att"
    return {
        **tensors,
        "whole.weight": parts["fc_embed.0.weight"],
        "whole.bias": parts["fc_embed.0.bias"],
        "from_whole.weight": from_whole,
        "from_whole.bias": biases["att"],
        "look.weight": torch.cat([from_word, from_said, look_own], dim=1),
        "from_look.weight": torch.cat([parts[f"{query}.weight"], from_look]),
        "from_look.bias": torch.cat([parts[f"{query}.bias"], biases["lang"] + from_context @ norm.shift]),
        "say.weight": torch.cat([from_context * norm.scale, say_own], dim=1),
    }


def _att2in2(parts: Tensors) -> dict[str, Tensor]:
    """By the names of ``Att2InDecoder``; its sums are gates i, f, o and two candidates, as there."""
    tensors, norm = _embedded(parts)
    context, query = parts["core.a2c.weight"], "core.attention.h2att"
    bias = parts["core.i2h.bias"] + parts["core.h2h.bias"]
    bias[-len(context) :] += parts["core.a2c.bias"] + context @ norm.shift
    return {
        **tensors,
        "from_state.weight": torch.cat([parts[f"{query}.weight"], parts["core.h2h.weight"]]),
        "from_state.bias": torch.cat([parts[f"{query}.bias"], bias]),
        "from_word.weight": parts["core.i2h.weight"],
        "from_context.weight": context * norm.scale,
    }


def _show_attend_tell(parts: Tensors) -> dict[str, Tensor]:
    """By the names of ``ShowAttendTellDecoder``; its LSTM has one layer and no biases."""
    own = parts["core.rnn.weight_hh_l0"]
    return {
        **_attention(parts, "core.ctx2att", "core.alpha_net"),
        "initial.weight": parts["linear.weight"],
        "initial.bias": parts["linear.bias"],
        "embedding.weight": parts["embed.weight"],
        "from_state.weight": torch.cat([parts["core.h2att.weight"], own]),
        "from_state.bias": torch.cat([parts["core.h2att.bias"], torch.zeros(len(own))]),
        "from_input.weight": parts["core.rnn.weight_ih_l0"],
        "words.weight": parts["logit.weight"],
        "words.bias": parts["logit.bias"],
    }
