"""Products with a matrix of one column, turned round: as a row, ONNX Runtime multiplies it several times as fast."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper


def turn_columns(model: onnx.ModelProto) -> None:
    """Writes ``Squeeze(x @ w)``, where ``w`` [A, 1] is constant, as ``Squeeze(w.T @ x.T)``, in place.

    ONNX Runtime packs constant matrices on the right in tiles of 16 columns, so a product with one column costs as much
    as one with 16. A constant row on the left is not packed, and the transpose is fused into the product. The
    attention's energies are such a product: 9 us of a step before, 4 after (49 positions, width 256, 3 beams).
    """
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    nodes = []
    for node in graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "MatMul" else None
        following = readers.get(node.output[0], [])
        if (
            weight is not None
            and list(weight.dims[1:]) == [1]
            and len(following) == 1
            and node.output[0] not in outputs
            and _squeezes_last(following[0], weights, ranks.get(node.output[0], 0))
        ):
            rank = ranks[node.output[0]]
            row, turned, axis = f"{weight.name}.row", f"{node.input[0]}.turned", f"{following[0].output[0]}.axis"
            if row not in weights:
                weights[row] = numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(weight).T), row)
                graph.initializer.append(weights[row])
            graph.initializer.append(numpy_helper.from_array(np.array([rank - 2]), axis))
            order = [*range(rank - 2), rank - 1, rank - 2]
            nodes.append(helper.make_node("Transpose", [node.input[0]], [turned], name=turned, perm=order))
            node.input[:] = [row, turned]
            following[0].input[1] = axis
        nodes.append(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)


def _squeezes_last(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto], rank: int) -> bool:
    if node.op_type != "Squeeze" or len(node.input) < 2 or node.input[1] not in weights or rank < 2:
        return False
    axes: list[int] = numpy_helper.to_array(weights[node.input[1]]).tolist()
    return axes in ([-1], [rank - 1])
