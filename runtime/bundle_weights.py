"""The weights of a bundle, read back from its float32 graphs, so that no checkpoint is needed to go on from it.

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

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import BundleError, OptionError

_HALF = ".half"
_NORMALISATION = ("backbone.mean", "backbone.std")
_TIED = "decoder.word_bias"
"""Of the product by the embedding, transposed."""
_NEEDED = ("decoder.keys.weight", "decoder.from_state.weight", "decoder.from_input.weight", "decoder.energy.weight")
Array = npt.NDArray[Any]


def read_weights(bundle: Bundle) -> dict[str, npt.NDArray[np.float32]]:
    """Weights under the names that they have in a checkpoint (``decoder.keys.weight``), rounded as bundles hold them.

    Raises:
        BundleError: the bundle is no captioner of soft attention over a grid that ``camscribe export`` made.
        OptionError: onnx is not installed.
    """
    found: dict[str, Array] = {}
    for name in ("encoder", "decoder"):
        for key, array in _named(bundle.graph("float32", name)):
            found[key.removeprefix("model.")] = array
    absent = [name for name in _NEEDED if name not in found]
    if absent or "backbone" not in bundle.manifest.architecture:
        raise BundleError(
            f"{bundle.path}: its graphs hold no {', '.join(absent) or 'backbone'}; weights can be read back from "
            "captioners of soft attention over a grid alone: name the checkpoint that it was made of"
        )
    return {name: array.astype(np.float32) for name, array in found.items() if name not in _NORMALISATION}


def _named(path: Path) -> Iterator[tuple[str, Array]]:
    """The weights of one graph under the checkpoint's names."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise OptionError(f'{path}: reading weights needs onnx ({error}): pip install "camscribe[export]"') from error
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
