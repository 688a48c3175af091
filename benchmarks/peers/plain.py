"""The tutorial as a peer: its loop with the weights of the bundle's checkpoint and camscribe's stop rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from camscribe.benchmarks.peers import Run, missing
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import DataError
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import SearchOptions


def why_not(bundle: Bundle, checkpoint: Path | None) -> str | None:
    """See ``Peer``."""
    if checkpoint is None:
        return "no checkpoint was named; it takes the one that the bundle was exported from"
    return missing("torch", "torchvision", "safetensors")


def open_peer(
    bundle: Bundle, checkpoint: Path | None, options: SearchOptions, threads: int, *, compiled: bool = False
) -> Run:
    """See ``Peer``.

    Args:
        bundle, checkpoint, options, threads: see ``Peer``.
        compiled: put encoder and decoder step under ``torch.compile``.
    """
    import torch

    from camscribe.benchmarks.peers.tutorial_weights import Weights

    if checkpoint is None:
        raise DataError("the tutorial's loop needs the checkpoint that the bundle was exported from")
    weights = Weights.read(checkpoint)
    if weights.vocabulary.tokens != bundle.vocabulary.tokens:
        raise DataError(f"{checkpoint}: has another vocabulary than the bundle; expected what it was exported from")
    torch.set_num_threads(threads)
    peer = weights.rounded().tutorial()
    if compiled:
        peer.encoder.compile()
        peer.decoder.compile()
    banned = banned_ids(bundle, options)

    def run(pixels: Pixels) -> list[int]:
        return list(peer.caption_as(pixels, options, banned).tokens)

    return run


def banned_ids(bundle: Bundle, options: SearchOptions) -> list[int]:
    """Ids of the words that a search with these options never says."""
    return [int(index) for index in np.flatnonzero(bundle.vocabulary.bias(options.ban))]
