"""``camscribe join CHECKPOINT CHECKPOINT... --out FILE``: captioners of one encoder as one, which is an ensemble.

The encoder runs once and feeds the decoders of all, and the mean of their probabilities decides each word, as in the
ensembles of Rennie et al. 2017 (arXiv 1612.00563). The decoders may differ in kind, size and seed; their encoder must
be the same to the last bit, as when all were trained on one that stayed frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from camscribe.runtime.commands.arguments import Parser
from camscribe.runtime.errors import DataError, OptionError
from camscribe.runtime.files import make_folder
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.config import MemberConfig, ModelConfig
from camscribe.train.detector import REGION_SETTINGS

_DECODER = "decoder."
_MEMBERS = "decoder.members."
_DECODERS_OWN = {item.name for item in fields(MemberConfig)} | {"members"}
_FREE = {"weights", "dropout", "detector"}
"""Keys that say where something lay or how it was trained; what they name is among the tensors."""
_OF_REGIONS = {*REGION_SETTINGS, "proposals", "cells"}


class _Member(NamedTuple):
    """A decoder on its way into the ensemble."""

    path: Path
    """Of its checkpoint."""
    config: MemberConfig
    tensors: dict[str, Tensor]
    """By the decoder's own names."""
    origin: dict[str, Any]
    """What is known of its training."""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = Parser(prog="camscribe join", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="two or more; joined ones, too")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the checkpoint to write")
    options = parser.parse_args(argv)
    make_folder(options.out.parent, "--out")
    joined = join(options.checkpoints)
    joined.save(options.out)
    for number, member in enumerate(joined.config.model.members):
        count = sum(value.numel() for value in joined.of(f"model.{_MEMBERS}{number}.").values())
        print(f"member {number}: {member.decoder}, {count:,} parameters")
    print(f"wrote {options.out}; next: camscribe export {options.out} --out BUNDLE")
    return 0


def join(paths: Sequence[Path]) -> Checkpoint:
    """An ensemble of the decoders of checkpoints, on the encoder that all have.

    Of a checkpoint that resumes, the running average of the weights is taken, as validation does. One that is an
    ensemble itself gives its members, each of which then counts as much as any other.

    Raises:
        OptionError: there is only one.
        DataError: a checkpoint cannot be read, or has other words, pixels or another encoder than the first.
    """
    if len(paths) < 2:
        raise OptionError(f"{paths[0]} alone is no ensemble; expected two or more checkpoints")
    checkpoints = [Checkpoint.load(path) for path in paths]
    weights = [checkpoint.weights for checkpoint in checkpoints]
    models = [checkpoint.config.model for checkpoint in checkpoints]
    for path, checkpoint, model, tensors in zip(paths[1:], checkpoints[1:], models[1:], weights[1:], strict=True):
        if checkpoint.meta["vocabulary"] != checkpoints[0].meta["vocabulary"]:
            raise DataError(f"{path}: has other words than {paths[0]}; an ensemble needs one vocabulary")
        other = _other_keys(models[0], model)
        if other:
            raise DataError(
                f"{path}: [model] differs from that of {paths[0]} in {', '.join(other)}; the members of an ensemble "
                "see one encoder's features of one image"
            )
        _check_encoder(path, tensors, paths[0], weights[0])
    members: list[_Member] = []
    for path, checkpoint, tensors in zip(paths, checkpoints, weights, strict=True):
        for member in _members_of(path, checkpoint, tensors):
            again = next((other for other in members if _equal(member.tensors, other.tensors)), None)
            if again is not None:
                raise DataError(f"{path}: has the decoder of {again.path} once more; a member counts once")
            members.append(member)
    tensors = {name: value for name, value in weights[0].items() if not name.startswith(_DECODER)}
    for number, member in enumerate(members):
        tensors |= {f"{_MEMBERS}{number}.{name}": value for name, value in member.tensors.items()}
    first = checkpoints[0]
    model = replace(models[0], decoder="ensemble", members=tuple(member.config for member in members))
    meta = {
        "config": replace(first.config, model=model, start="").to_dict(),
        "vocabulary": first.meta["vocabulary"],
        "progress": {"stage": 0, "epoch": 0, "step": 0},
        "history": [],
        "versions": {"torch": torch.__version__},
        "members": [member.origin for member in members],
    }
    return Checkpoint({f"model.{name}": value for name, value in tensors.items()}, meta)


def _other_keys(first: ModelConfig, second: ModelConfig) -> list[str]:
    """Keys of the encoder, and of what the whole ensemble does, that two models have otherwise."""
    unread = _FREE | _DECODERS_OWN
    if first.encoder == "faster_rcnn":
        unread = unread - {"detector"}
    if first.encoder == "grid":
        unread = unread | _OF_REGIONS
    if first.encoder != "features":
        unread = unread | {"feature_width"}
    return [name for name, value in vars(first).items() if name not in unread and vars(second)[name] != value]


def _check_encoder(path: Path, tensors: dict[str, Tensor], first: Path, expected: dict[str, Tensor]) -> None:
    mine, theirs = (
        {name: value for name, value in each.items() if not name.startswith(_DECODER)} for each in (tensors, expected)
    )
    for name in (*theirs, *mine):
        if name not in mine or name not in theirs or not torch.equal(mine[name], theirs[name]):
            raise DataError(
                f"{path}: its encoder is not that of {first}: {name} differs; train the decoder of one on the other's "
                f'encoder, with weights = "{first.name}" and trained_backbone_stages = 0'
            )


def _members_of(path: Path, checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> list[_Member]:
    """The decoders that a checkpoint brings in."""
    model = checkpoint.config.model
    if model.decoder == "ensemble":
        # One that was trained on after it was joined says of itself what was done to all of its members.
        origins = checkpoint.meta.get("members") or [_origin(path, checkpoint)] * len(model.members)
        return [
            _Member(path, member, _under(tensors, f"{_MEMBERS}{number}."), origin)
            for number, (member, origin) in enumerate(zip(model.members, origins, strict=True))
        ]
    config = MemberConfig(**{item.name: getattr(model, item.name) for item in fields(MemberConfig)})
    return [_Member(path, config, _under(tensors, _DECODER), _origin(path, checkpoint))]


def _origin(path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """What a checkpoint says of itself, under the name of its file; the words are those of all."""
    kept = {name: value for name, value in checkpoint.meta.items() if name not in ("schema", "vocabulary")}
    return {"checkpoint": f"{path.resolve().parent.name}/{path.name}", **kept}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
