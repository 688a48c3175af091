"""8-bit graphs for CPUs: static scales only, so that no image's caption depends on the others of its batch.

Activations are unsigned 8-bit numbers of one scale a tensor, weights signed ones of one scale an output channel. Where
a processor has no VNNI instructions, ONNX Runtime adds the products of two neighbours in 16 bits, which would overflow
for two large weights: so scales are such that no two neighbours do, which costs a good quarter of the steps instead of
the half that 7 bits would (larger kernels, whose neighbours depend on the layout, do have 7; depthwise convolutions are
computed in 32 bits everywhere).
Written as QuantizeLinear and DequantizeLinear pairs, which ONNX Runtime fuses into integer kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from camscribe.export.calibration import Observation, Range
from camscribe.export.weights import insert_nodes

Floats = npt.NDArray[np.float32]

LARGE = 1 << 14
"""Matrices of at least this many numbers are quantised; smaller products cost less than quantising their input."""
_PAIR = 127
"""Most that two neighbouring weights of one sign may come to: rounded they are at most 128, and 128 x 255 < 2^15."""
_MOVES = ("Reshape", "Transpose", "MaxPool")
"""Operators that pass 8-bit numbers on as they are."""
_JOINS = ("Add", "Concat")
"""Operators that take several 8-bit tensors and make one of another scale."""


class QuantizedWeight(NamedTuple):
    """Numbers and, for each output channel, the step between them."""

    value: npt.NDArray[np.int8]
    scale: Floats
    error: Floats
    """What rounding took from the weight."""


def quantize_weight(weight: Floats, axis: int, bits: int = 8, along: int | None = None) -> QuantizedWeight:
    """Symmetric signed numbers, one scale for each index of an axis.

    Args:
        weight: any shape.
        axis: of the output channels.
        bits: of the numbers.
        along: the axis of the sum; neighbours on it stay within ``_PAIR``. None where they need not.
    """
    others = tuple(index for index in range(weight.ndim) if index != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    scale = largest / (2 ** (bits - 1) - 1)
    if along is not None and weight.shape[along] > 1:
        for signed in (np.maximum(weight, 0), np.maximum(-weight, 0)):
            before, after = (np.take(signed, rows, along) for rows in _neighbours(weight.shape[along]))
            scale = np.maximum(scale, (before + after).max(axis=others, keepdims=True) / _PAIR)
    scale = np.maximum(scale, 1e-8).astype(np.float32)
    value = np.rint(weight / scale).astype(np.int8)
    return QuantizedWeight(value, scale.ravel(), weight - value * scale)


def _neighbours(count: int) -> tuple[range, range]:
    return range(count - 1), range(1, count)


class Plan:
    """Which nodes of a float32 graph become integer ones, and of which tensors that needs the ranges.

    These are convolutions, products with large constant matrices, sums and concatenations of their outputs, and what
    only moves numbers between them. All else stays in float32.

    Args:
        model: weights inside.
        skip: names of weights whose products stay in float32.
    """

    def __init__(self, model: onnx.ModelProto, skip: tuple[str, ...] = ()) -> None:
        graph = model.graph
        self.weights = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
        self._outputs = {value.name for value in graph.output}
        self._skip = skip
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self.products: list[onnx.NodeProto] = []
        """Convolutions and matrix products."""
        self.joins: list[onnx.NodeProto] = []
        """Sums and concatenations."""
        self.before_relu: dict[str, str] = {}
        """Activation -> the output it is a ReLU of, where that is quantised in one with it."""
        self.same: dict[str, str] = {}
        """Activation -> the one whose numbers it holds, moved."""
        self.tensors: list[str] = []
        """Activations to quantise."""
        integer: set[str] = set()
        for node in graph.node:
            inputs = [node.input[0]]
            if self._is_product(node):
                self.products.append(node)
            elif node.op_type in _JOINS and integer.issuperset(node.input):
                inputs = list(node.input)
                self.joins.append(node)
            elif node.op_type not in _MOVES or node.input[0] not in integer:
                continue
            if node.op_type in _MOVES:
                self.same[node.output[0]] = inputs[0]
            self.tensors += inputs
            # A matrix product hands on float32: the norms and logits after it want that.
            if node.op_type != "MatMul":
                output = self._through_relu(node.output[0])
                self.tensors.append(output)
                integer.add(output)
        self.tensors = list(dict.fromkeys(self.tensors))

    def _is_product(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in ("Conv", "MatMul") or node.input[1] not in self.weights or node.input[1] in self._skip:
            return False
        if len(self._readers.get(node.input[1], [])) > 1:  # as those of a pyramid's levels, each with its own range
            return False
        return node.op_type == "Conv" or self.weights[node.input[1]].size >= LARGE

    def _through_relu(self, name: str) -> str:
        """The tensor that is quantised where ``name`` is computed: that after its ReLU, if one is all that reads it."""
        readers = self._readers.get(name, [])
        if len(readers) != 1 or name in self._outputs or readers[0].output[0] in self._outputs:
            return name
        node = readers[0]
        low = self.weights.get(node.input[1]) if node.op_type == "Clip" else None
        if node.op_type != "Relu" and (low is None or low.item() != 0):
            return name
        self.before_relu[node.output[0]] = name
        after: str = node.output[0]
        return after


def quantize(model: onnx.ModelProto, plan: Plan, seen: Mapping[str, Observation]) -> None:
    """Rewrites a float32 graph in place.

    Args:
        model: the graph ``plan`` is of.
        plan: what to quantise.
        seen: what calibration saw of ``plan.tensors``.
    """
    ranges: dict[str, Range] = {}
    for name in plan.tensors:
        ranges[name] = ranges[plan.same[name]] if name in plan.same else seen[name].best_range()
    writer = _Writer(model.graph)
    for node in plan.products:
        _quantize_product(node, plan, ranges[node.input[0]], seen[node.input[0]].mean, writer)
    for node in model.graph.node:
        if node.output[0] in plan.before_relu:
            # ONNX Runtime drops it, as unsigned numbers end at 0 anyway; TensorRT, which makes them signed, needs it.
            # The upper bound is where the numbers end.
            node.op_type = "Relu"
            del node.input[1:], node.attribute[:]
        node.input[:] = [f"{name}.restored" if name in ranges else name for name in node.input]
    for name, limits in ranges.items():
        steps = [
            writer.constant(f"{name}.scale", np.array(limits.scale)),
            writer.constant(f"{name}.zero", np.array(limits.zero_point)),
        ]
        writer.node("QuantizeLinear", [name, *steps], f"{name}.quantized")
        writer.node("DequantizeLinear", [f"{name}.quantized", *steps], f"{name}.restored")
    writer.finish()


def _quantize_product(
    node: onnx.NodeProto, plan: Plan, limits: Range, mean: npt.NDArray[np.float64], writer: _Writer
) -> None:
    """Quantises the weight of a convolution or matrix product, and a convolution's bias with it."""
    name = node.input[1]
    weight = plan.weights[name]
    is_conv = node.op_type == "Conv"
    axis = 0 if is_conv else weight.ndim - 1
    if is_conv and weight.shape[1] == 1:
        made = quantize_weight(weight, axis)
    elif is_conv and weight[0, 0].size > 1:
        made = quantize_weight(weight, axis, bits=7)
    else:
        made = quantize_weight(weight, axis, along=1 if is_conv else weight.ndim - 2)
    steps = [
        writer.constant(f"{name}.scale", made.scale),
        writer.constant(f"{name}.zero", np.zeros(len(made.scale), np.int8)),
    ]
    value = writer.constant(f"{name}.quantized", made.value)
    node.input[1] = writer.node("DequantizeLinear", [value, *steps], f"{name}.restored", axis=axis)
    if not is_conv:
        return
    bias = plan.weights[node.input[2]].astype(np.float64) if len(node.input) > 2 else np.zeros(len(made.scale))
    # What rounding takes from the weights shifts the output by their product with the input's mean: given back here
    # (Nagel et al. 2019, section 4.2). The border's zeros are overlooked.
    groups = len(mean) // weight.shape[1]
    per_group = mean.reshape(groups, weight.shape[1]).repeat(weight.shape[0] // groups, axis=0)
    bias += (made.error.reshape(*weight.shape[:2], -1).sum(axis=2) * per_group).sum(axis=1)
    scale = limits.scale * made.scale
    whole = np.clip(np.rint(bias / scale), -(2**31) + 1, 2**31 - 1).astype(np.int32)
    steps = [
        writer.constant(f"{name}.bias.scale", scale),
        writer.constant(f"{name}.bias.zero", np.zeros(len(scale), np.int32)),
    ]
    value = writer.constant(f"{name}.bias.quantized", whole)
    del node.input[2:]
    node.input.append(writer.node("DequantizeLinear", [value, *steps], f"{name}.bias.restored", axis=0))


def fold_transposes(model: onnx.ModelProto) -> None:
    """Computes the transposes of constants, so that the matrices of all products are constants."""
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] in weights:
            value = numpy_helper.to_array(weights[node.input[0]])
            order = helper.get_node_attr_value(node, "perm") if node.attribute else None
            graph.initializer.append(
                numpy_helper.from_array(np.ascontiguousarray(value.transpose(order)), node.output[0])
            )
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    _Writer(graph).finish()


def store_as_integers(model: onnx.ModelProto) -> None:
    """Stores the matrices of the products that stay in float32, and the tables that rows are read from, as integers.

    They are scaled when the graph is opened: with Cast and Mul, as ONNX Runtime computes those of constants once, but
    not DequantizeLinear.
    """
    writer = _Writer(model.graph)
    weights = {weight.name: weight for weight in model.graph.initializer}
    for node in list(model.graph.node):
        index = {"MatMul": 1, "Gemm": 1, "Gather": 0}.get(node.op_type)
        weight = None if index is None else weights.get(node.input[index])
        if weight is None or weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < LARGE:
            continue
        by_rows = node.op_type == "Gather" or any(item.name == "transB" and item.i for item in node.attribute)
        made = quantize_weight(numpy_helper.to_array(weight), 0 if by_rows else 1, 8)
        name = f"{weight.name}.rows" if node.op_type == "Gather" else weight.name
        value = writer.constant(f"{name}.stored", made.value)
        scale = writer.constant(f"{name}.scale", made.scale[:, None] if by_rows else made.scale)
        numbers = writer.node("Cast", [value], f"{name}.numbers", to=TensorProto.FLOAT)
        node.input[index] = writer.node("Mul", [numbers, scale], f"{name}.restored")
    writer.finish()


class _Writer:
    """Collects what is added to a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._nodes: list[onnx.NodeProto] = []

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def finish(self) -> None:
        """Puts the nodes in, and drops constants that nothing reads any more."""
        insert_nodes(self._graph, self._nodes)
        used = {name for node in self._graph.node for name in node.input}
        kept = [weight for weight in self._graph.initializer if weight.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)
