"""8-bit graphs as TensorRT takes them: it knows symmetric scales only, while those for CPUs have unsigned activations.

An activation of 0 to 255 around a zero point becomes one of -127 to 127 around 0, over the larger of its two halves.
That costs little where the zero point lies near the middle, as after tanh, and half the steps after a ReLU. Where the
zero point is 0, the quantiser was the ReLU, since it cuts off what is negative; it gets one of its own. The parity gate
sees the result like any other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from camscribe.runtime.errors import BundleError
from camscribe.runtime.tensorrt.onnx_file import Graph, Node, constant, node, numbers, reading

_UNSIGNED, _WIDE = np.dtype(np.uint8), np.dtype(np.int32)


def make_symmetric(graph: Graph) -> None:
    """Rewrites the QuantizeLinear and DequantizeLinear of a graph in place.

    Raises:
        BundleError: it is quantised in a way that cannot be rewritten.
    """
    _rectify(graph)
    scales: dict[str, str] = {}
    biases: dict[str, bytes] = {}
    for each in graph.nodes:
        if not _has_zero(each):
            continue
        data, scale, zero = each.inputs[:3]
        if scale not in graph.weights or zero not in graph.weights:
            raise BundleError(f"the scale of {data} is computed while the graph runs; TensorRT wants a constant")
        if scales.setdefault(scale, zero) != zero:
            raise BundleError(f"{scale} stands for two scales; export the bundle again")
        stored = numbers(graph.weights[data]) if data in graph.weights else None
        if stored is not None and stored.dtype == _WIDE:
            # TensorRT dequantises 8-bit numbers only, and wants a bias in float32.
            name = each.outputs[0]
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


def _rectify(graph: Graph) -> None:
    """Puts a ReLU before each quantiser that cuts off negative numbers, where there may be some."""
    makers = {name: each for each in graph.nodes for name in each.outputs}
    rectified: set[str] = set()
    nodes: list[Node] = []
    for each in graph.nodes:
        data = each.inputs[0] if each.inputs else ""
        if each.kind != "QuantizeLinear" or not _begins_at_zero(graph, each) or _is_positive(graph, makers, data):
            nodes.append(each)
            continue
        name = f"{data}.rectified"
        if data not in rectified:
            rectified.add(data)
            nodes.append(node("Relu", [data], [name]))
        nodes.append(reading(each, data, name))
    graph.nodes = nodes


def _is_positive(graph: Graph, makers: dict[str, Node], name: str) -> bool:
    """Whether a tensor is known to hold nothing negative."""
    maker = makers.get(name)
    if maker is None:
        return False
    if maker.kind in ("Concat", "MaxPool"):
        return all(_is_positive(graph, makers, each) for each in maker.inputs)
    return maker.kind == "Relu" or (maker.kind == "DequantizeLinear" and _begins_at_zero(graph, maker))


def _begins_at_zero(graph: Graph, quantiser: Node) -> bool:
    """Whether 0 is the least number that it can say."""
    if not _has_zero(quantiser) or quantiser.inputs[2] not in graph.weights:
        return False
    zero = numbers(graph.weights[quantiser.inputs[2]])
    return bool(zero.dtype == _UNSIGNED and not zero.any())


def _has_zero(each: Node) -> bool:
    return each.kind in ("QuantizeLinear", "DequantizeLinear") and len(each.inputs) >= 3
