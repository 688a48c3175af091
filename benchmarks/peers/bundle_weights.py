"""The weights of a bundle, read back from its float32 graphs, so that a peer needs no checkpoint.

Exporting keeps the names of biases, kernels and of the embedding; matrices lose theirs when they are transposed for a
product. Such a matrix is named after the bias that is added to its product; two have none: the energy of the attention,
whose product has one column, and the LSTM's of its input.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from camscribe.benchmarks.peers.tutorial_weights import Weights
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import BundleError, DataError

_HALF = ".half"
_NORMALISATION = ("backbone.mean", "backbone.std")
_TIED = "decoder.word_bias"
"""Of the product by the embedding, transposed."""
Array = npt.NDArray[Any]


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
    return weights.rounded()


def read(bundle: Bundle) -> Weights:
    """Reads the weights out of the float32 graphs.

    Raises:
        BundleError: they are not those of ``camscribe export``.
    """
    import torch

    found: dict[str, Array] = {}
    for name in ("encoder", "decoder"):
        for key, array in _named(bundle.graph("float32", name)):
            found[key.removeprefix("model.")] = array
    architecture = dict(bundle.manifest.architecture)
    decoder = architecture.pop("decoder", None)  # a title
    if "members" in architecture:
        raise BundleError(f"{bundle.path}: is an ensemble ({decoder}); the tutorial's decoder is soft attention alone")
    architecture.pop("parameters", None)  # a count
    needed = ("decoder.keys.weight", "decoder.from_state.weight", "decoder.from_input.weight", "decoder.energy.weight")
    absent = [name for name in needed if name not in found]
    if absent or "backbone" not in architecture:
        raise BundleError(f"{bundle.path}: its graphs hold no {', '.join(absent) or 'backbone'}; name the --checkpoint")
    tensors = {
        name: torch.from_numpy(array.astype(np.float32)) for name, array in found.items() if name not in _NORMALISATION
    }
    return Weights({**architecture, "weights": "none"}, bundle.vocabulary, tensors)


def _named(path: Path) -> Iterator[tuple[str, Array]]:
    """The weights of one graph under the checkpoint's names."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    held = {item.name.removesuffix(_HALF): numpy_helper.to_array(item) for item in model.graph.initializer if item.dims}
    for name, array in held.items():
        if name.startswith(("model.", "decoder.")):
            yield name, array
    added = {name: node.input for node in model.graph.node if node.op_type == "Add" for name in node.input}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[0] in held:
            yield "decoder.energy.weight", held[node.input[0]]  # a row, see ``export/columns.py``
        if node.op_type != "MatMul" or node.input[1] not in held:
            continue
        matrix = held[node.input[1]].T
        biases = [name for name in added.get(node.output[0], ()) if name in held]
        if not biases:
            yield "decoder.energy.weight" if len(matrix) == 1 else "decoder.from_input.weight", matrix
        elif biases[0] != _TIED:
            yield f"{biases[0].removesuffix('bias')}weight", matrix
