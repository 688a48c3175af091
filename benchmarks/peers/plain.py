"""The tutorial as a peer: its loop with the bundle's weights and camscribe's stop rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from camscribe.benchmarks.peers import Run, missing
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import SearchOptions


def why_not(bundle: Bundle, checkpoint: Path | None) -> str | None:
    """See ``Peer``."""
    return missing("torch", "torchvision", "safetensors", "onnx")


def open_peer(
    bundle: Bundle,
    checkpoint: Path | None,
    options: SearchOptions,
    threads: int,
    *,
    compiled: bool = False,
    device: str = "cpu",
) -> Run:
    """See ``Peer``.

    Args:
        bundle, checkpoint, options, threads: see ``Peer``.
        compiled: put encoder and decoder step under ``torch.compile``.
        device: PyTorch's name of it.
    """
    import torch

    from camscribe.benchmarks.peers.bundle_weights import weights_for

    torch.set_num_threads(threads)
    peer = weights_for(bundle, checkpoint).tutorial().to(device)
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
