"""A stored float32 graph brought back to one precision: what the half-precision graphs are made of."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from camscribe.export.half_plan import FLOAT, HALF
from camscribe.runtime.errors import EngineError


def without_casts(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which all floats are float32: weights restored, casts between precisions gone, ``Constant`` nodes too.

    Raises:
        EngineError: the graph has branches or loops.
    """
    kinds = element_types(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    fixed = {value.name for value in (*graph.input, *graph.output)}
    same: dict[str, str] = {}

    def now(name: str) -> str:
        while name in same:
            name = same[name]
        return name

    kept = []
    for node in graph.node:
        if any(item.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for item in node.attribute):
            raise EngineError(f"graph {graph.name}: {node.op_type} has a graph of its own; fp16 cannot be made of it")
        if node.op_type == "Constant":
            weights[node.output[0]] = np.asarray(helper.get_node_attr_value(node, node.attribute[0].name))
            if node.attribute[0].name == "value":
                weights[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Cast" and {kinds[node.input[0]], kinds[node.output[0]]} <= {HALF, FLOAT}:
            before, after = now(node.input[0]), now(node.output[0])
            if before in fixed and after in fixed:
                raise EngineError(f"graph {graph.name}: {after} is {before} cast; fp16 cannot be made of it")
            # Of a stored weight, the name after the cast is its own.
            same.update({after: before} if before in fixed or before in same.values() else {before: after})
        else:
            kept.append(node)
    for node in kept:
        node.input[:] = [now(name) for name in node.input]
        node.output[:] = [now(name) for name in node.output]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept)
    for name, value in weights.items():
        value = value.astype(np.float32) if value.dtype == np.float16 else value
        # asarray, because ascontiguousarray makes a list of one number out of a number, which indices are not.
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), now(name)))
    return result


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """ONNX's element type of every tensor of a graph, by name.

    Raises:
        EngineError: they contradict each other.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except Exception as error:  # onnx raises errors of its own, and plain ones
        raise EngineError(f"graph {model.graph.name}: its types contradict each other ({error!s:.300})") from error
    graph = inferred.graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    return kinds | {weight.name: weight.data_type for weight in graph.initializer}


def plain_batch_norms(model: onnx.ModelProto) -> None:
    """Writes batch norms as a product and a sum, whose types leave no doubt."""
    graph = model.graph
    weights = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    nodes = []
    for node in graph.node:
        if node.op_type != "BatchNormalization" or not all(name in weights for name in node.input[1:]):
            nodes.append(node)
            continue
        scale, bias, mean, variance = (weights[name].astype(np.float64) for name in node.input[1:])
        factor = scale / np.sqrt(variance + next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5))
        shape = (-1, *[1] * (ranks[node.output[0]] - 2))
        product = f"{node.output[0]}.scaled"
        for kind, value in (("factor", factor), ("shift", bias - mean * factor)):
            name = f"{node.output[0]}.{kind}"
            graph.initializer.append(numpy_helper.from_array(value.astype(np.float32).reshape(shape), name))
        nodes += [
            helper.make_node("Mul", [node.input[0], f"{node.output[0]}.factor"], [product], name=f"{node.name}.Mul"),
            helper.make_node("Add", [product, f"{node.output[0]}.shift"], list(node.output[:1]), name=node.name),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
