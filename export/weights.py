"""One file of weights in half precision, shared by all graphs of a bundle that can.

A float32 graph casts them when it is opened: ONNX Runtime and TensorRT both compute such constants once, at load. A
half-precision graph reads them as they are.
Only weights that half precision holds exactly are stored so (``graphs.rounded`` makes them), so nothing is lost here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from camscribe.export.graphs import HALF_FROM

WEIGHTS = "weights.bin"
_ALIGNMENT = 64
"""Bytes; weights are used from the mapped file where they lie."""


class Inline:
    """Keeps the weights inside the graph."""

    def add(self, name: str, value: npt.NDArray[np.float16]) -> onnx.TensorProto:
        """The tensor itself."""
        return numpy_helper.from_array(np.ascontiguousarray(value), name)


class WeightFile:
    """Collects tensors of several graphs; equal ones are stored once."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._known: dict[bytes, int] = {}

    def add(self, name: str, value: npt.NDArray[np.float16]) -> onnx.TensorProto:
        """Stores ``value``; returns the tensor that refers to it."""
        data = np.ascontiguousarray(value).tobytes()
        key = hashlib.sha256(data).digest()
        if key not in self._known:
            padding = -self._size % _ALIGNMENT
            self._known[key] = self._size + padding
            self._parts += [bytes(padding), data]
            self._size += padding + len(data)
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT16, dims=value.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for field, text in (("location", WEIGHTS), ("offset", self._known[key]), ("length", len(data))):
            tensor.external_data.add(key=field, value=str(text))
        return tensor

    def write(self, folder: Path) -> None:
        """Writes the file beside the graphs that refer to it."""
        (folder / WEIGHTS).write_bytes(b"".join(self._parts))


class StoredWeights:
    """The file of weights that a bundle's graphs share already: only looked up, never changed.

    Args:
        graphs: files that refer to it.
    """

    def __init__(self, graphs: Sequence[Path]) -> None:
        self._known: dict[bytes, onnx.TensorProto] = {}
        for path in graphs:
            for tensor in onnx.load(path, load_external_data=False).graph.initializer:
                if tensor.data_location == TensorProto.EXTERNAL:
                    stored = onnx.TensorProto()
                    stored.CopyFrom(tensor)
                    onnx.external_data_helper.load_external_data_for_tensor(stored, str(path.parent))
                    self._known[hashlib.sha256(stored.raw_data).digest()] = tensor

    def add(self, name: str, value: npt.NDArray[np.float16]) -> onnx.TensorProto:
        """A tensor that refers to ``value`` where it is stored, or holds it where it is not."""
        data = np.ascontiguousarray(value)
        known = self._known.get(hashlib.sha256(data.tobytes()).digest())
        if known is None or known.data_type != TensorProto.FLOAT16:
            return Inline().add(name, data)
        tensor = onnx.TensorProto()
        tensor.CopyFrom(known)
        tensor.name, tensor.dims[:] = name, value.shape
        return tensor


def store_half(model: onnx.ModelProto, store: StoredWeights) -> None:
    """Stores the large weights of a half-precision graph."""
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT16 and _is_large(weight):
            weight.CopyFrom(store.add(weight.name, numpy_helper.to_array(weight)))


def share_weights(model: onnx.ModelProto, store: WeightFile | StoredWeights | Inline) -> None:
    """Stores the large float32 weights of a graph in half precision, and casts them back where they are used.

    A table of which only rows are read (``Gather``) stays as it is stored; the rows are cast.
    """
    graph = model.graph
    kept: list[onnx.TensorProto] = []
    casts: list[onnx.NodeProto] = []
    for weight in graph.initializer:
        half = _as_half(weight)
        if half is None:
            kept.append(weight)
            continue
        stored = store.add(f"{weight.name}.half", half)
        kept.append(stored)
        for node in _row_readers(graph, weight.name):
            node.input[0], rows = stored.name, node.output[0]
            node.output[0] = f"{rows}.half"
            casts.append(_cast(node.output[0], rows))
        if any(weight.name in node.input for node in graph.node):
            casts.append(_cast(stored.name, weight.name))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    insert_nodes(graph, casts)


def _as_half(weight: onnx.TensorProto) -> npt.NDArray[np.float16] | None:
    """The weight in half precision, None where it is small or would change."""
    if weight.data_type != TensorProto.FLOAT or not _is_large(weight):
        return None
    value = numpy_helper.to_array(weight)
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), value) else None


def _is_large(weight: onnx.TensorProto) -> bool:
    return len(weight.dims) > 1 and bool(np.prod(weight.dims) >= HALF_FROM)


def _row_readers(graph: onnx.GraphProto, name: str) -> Iterator[onnx.NodeProto]:
    return (node for node in graph.node if node.op_type == "Gather" and node.input[0] == name)


def _cast(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}.cast", to=TensorProto.FLOAT)


def insert_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Adds nodes to a graph and sorts all, since a graph's nodes must stand in an order of computation."""
    waiting = [*nodes, *graph.node]
    known = {value.name for value in (*graph.input, *graph.initializer)} | {""}
    ordered: list[onnx.NodeProto] = []
    while waiting:
        later = []
        for node in waiting:
            if all(name in known for name in node.input):
                ordered.append(node)
                known.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise ValueError(f"{graph.name}: nodes wait for each other: {[node.name for node in later][:5]}")
        waiting = later
    del graph.node[:]
    graph.node.extend(ordered)
