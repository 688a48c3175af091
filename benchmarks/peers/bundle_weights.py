"""A bundle's own weights for a peer, so that it needs no checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from camscribe.benchmarks.peers.tutorial_weights import Weights
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.bundle_weights import read_weights
from camscribe.runtime.errors import DataError


def weights_for(bundle: Bundle, checkpoint: Path | None) -> Weights:
    """What a peer with the bundle's weights is made of.

    Args:
        bundle: that it is measured beside.
        checkpoint: what the bundle was exported from, rounded here as bundles are; None for the bundle's own weights.

    Raises:
        DataError: the checkpoint cannot be read, or is of another vocabulary.
        BundleError: the bundle's graphs are not those of ``camscribe export``.
    """
    if checkpoint is None:
        return read(bundle)
    weights = Weights.read(checkpoint)
    if weights.vocabulary.tokens != bundle.vocabulary.tokens:
        raise DataError(f"{checkpoint}: has another vocabulary than the bundle; expected what it was exported from")
    decoder = weights.model.get("decoder", "soft_attention")
    if decoder != "soft_attention":
        raise DataError(f"{checkpoint}: its decoder is {decoder}; the tutorial's has weights of soft attention only")
    # A rule of the bundle's own decoder, given to it when it was exported.
    model = {**weights.model, "no_repeat": bundle.manifest.architecture.get("no_repeat", 0)}
    return replace(weights.rounded(), model=model)


def read(bundle: Bundle) -> Weights:
    """See ``read_weights``."""
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in read_weights(bundle).items()}
    # The manifest's decoder is a title.
    model = {key: value for key, value in bundle.manifest.architecture.items() if key not in ("decoder", "parameters")}
    return Weights({**model, "weights": "none"}, bundle.vocabulary, tensors)
