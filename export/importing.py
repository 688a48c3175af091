"""Checkpoints of other projects as checkpoints of camscribe: which project's a file is, and who reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from camscribe.export import importing_luo, importing_tutorial
from camscribe.export.foreign import check_side, load_tensors
from camscribe.runtime.errors import DataError, OptionError
from camscribe.train.checkpoint import Checkpoint


def import_checkpoint(
    path: Path,
    word_map: Path,
    *,
    encoder: Path | None = None,
    side: int | None = None,
    trust_pickle: bool = False,
) -> Checkpoint:
    """Reads a checkpoint of sgrvinod's tutorial or of ruotianluo's repository.

    Args:
        path: the checkpoint; see ``importing_tutorial`` and ``importing_luo`` for what they hold.
        word_map: the tutorial's ``WORDMAP_*.json``; ruotianluo's ``infos_*.pkl`` or ``cocotalk.json``.
        encoder: weights of the ResNet that made the features of a checkpoint of ruotianluo's; the tutorial's has its
            own.
        side: rows and columns of the encoder's input; None for the project's.
        trust_pickle: unpickle more than tensors, which can run any code that whoever made the file put into it.

    Raises:
        DataError: a file cannot be read, holds something else, or needs trust.
        OptionError: an option has no meaning for this file.
    """
    if side is not None:
        check_side(side)
    content = load_tensors(path, trust_pickle, "save the state_dict() of its encoder and decoder")
    if isinstance(content, Mapping) and {"encoder", "decoder"} & set(content):
        if encoder is not None:
            raise OptionError(
                f"--encoder is {encoder}; {path} is of the tutorial and has its own encoder: leave it out"
            )
        return importing_tutorial.read(content, path, word_map, side)
    if isinstance(content, Mapping) and any(str(key).endswith("logit.weight") for key in content):
        return importing_luo.read(content, path, word_map, encoder, side, trust_pickle=trust_pickle)
    raise DataError(
        f"{path}: expected 'encoder' and 'decoder' in it, as sgrvinod's tutorial saves them, or 'logit.weight', as "
        "ruotianluo's repository does"
    )
