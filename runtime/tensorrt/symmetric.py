"""8-bit graphs as TensorRT takes them: it knows symmetric scales only, while those for CPUs have unsigned activations.

An activation of 0 to 255 around a zero point becomes one of -127 to 127 around 0, over the larger of its two halves.
That costs little where the zero point lies near the middle, as after tanh, and half the steps after a ReLU. The parity
gate sees the result like any other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from camscribe.runtime.errors import BundleError
from camscribe.runtime.tensorrt.onnx_file import Graph, constant, numbers

_UNSIGNED, _WIDE = np.dtype(np.uint8), np.dtype(np.int32)


def make_symmetric(graph: Graph) -> None:
    """Rewrites the QuantizeLinear and DequantizeLinear of a graph in place.

    Raises:
        BundleError: it is quantised in a way that cannot be rewritten.
    """
    scales: dict[str, str] = {}
    biases: dict[str, bytes] = {}
    for node in graph.nodes:
        if node.kind not in ("QuantizeLinear", "DequantizeLinear") or len(node.inputs) < 3:
            continue
        data, scale, zero = node.inputs[:3]
        if scale not in graph.weights or zero not in graph.weights:
            raise BundleError(f"the scale of {data} is computed while the graph runs; TensorRT wants a constant")
        if scales.setdefault(scale, zero) != zero:
            raise BundleError(f"{scale} stands for two scales; export the bundle again")
        stored = numbers(graph.weights[data]) if data in graph.weights else None
        if stored is not None and stored.dtype == _WIDE:
            # TensorRT dequantises 8-bit numbers only, and wants a bias in float32.
            name = node.outputs[0]
            biases[name] = constant(name, (stored * numbers(graph.weights[scale])).astype(np.float32))
        elif stored is not None and stored.dtype == _UNSIGNED:
            raise BundleError(f"the weight {data} is unsigned; export the bundle again")
    for scale, zero in scales.items():
        middle: npt.NDArray[np.generic] = numbers(graph.weights[zero])
        if middle.dtype == _UNSIGNED:
            centre = middle.astype(np.float32)
            widened = numbers(graph.weights[scale]) * np.maximum(centre, 255 - centre) / 127
            graph.weights[scale] = constant(scale, widened.astype(np.float32))
            graph.weights[zero] = constant(zero, np.zeros(middle.shape, np.int8))
    graph.freeze({}, biases)
