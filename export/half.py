"""From float32 graphs to typed half precision with float32 islands: what TensorRT builds FP16 engines from.

The types stand in the graph, as TensorRT 11 takes a graph's precision from there alone; older versions read the same
graph. Which nodes are islands is decided in ``half_plan``. A cast stands wherever a number passes between the two, and
nowhere else. Weights stay as the bundle stores them, in half; only those an island reads are cast.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from camscribe.export.beam_graph import value_info
from camscribe.export.graphs import HALF_FROM
from camscribe.export.half_plan import FLOAT, HALF, Plan, only_products_read
from camscribe.export.onnx_export import cast_pixels_first, new_model
from camscribe.export.plain import element_types, plain_batch_norms, without_casts
from camscribe.export.weights import insert_nodes
from camscribe.runtime.errors import EngineError
from camscribe.runtime.manifest import GraphPair, GraphSpec, TensorSpec
from camscribe.runtime.search import DEAD

_SUFFIX = {HALF: "half", FLOAT: "float"}


def half_specs(pair: GraphPair, decoder: onnx.ModelProto) -> GraphPair:
    """The tensors of the half-precision graphs: those of float32 under the same names, some of them float16.

    These are the memories, rounded once, and the states that only products read. A state that is added to from step
    to step, such as an LSTM's cell, would gather rounding errors.
    """
    half = {spec.name for spec in pair.decoder.inputs if spec.name.startswith("memory.") and spec.dtype == "float32"}
    half |= {
        spec.name
        for spec in pair.decoder.inputs
        if spec.name.startswith("state.")
        and spec.dtype == "float32"
        and only_products_read(without_casts(decoder).graph, spec.name)
    }

    def typed(specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(replace(s, dtype="float16") if s.name.removeprefix("next_") in half else s for s in specs)

    def graph(spec: GraphSpec) -> GraphSpec:
        return replace(spec, inputs=typed(spec.inputs), outputs=typed(spec.outputs))

    return GraphPair(graph(pair.encoder), graph(pair.decoder))


def to_half(model: onnx.ModelProto, spec: GraphSpec) -> onnx.ModelProto:
    """A half-precision graph.

    Args:
        model: float32, weights inside (stored in half precision or not).
        spec: the tensors it shall have, of ``half_specs``.

    Returns:
        A new graph, weights inside, checked: every tensor has one type.

    Raises:
        EngineError: the graph has something that cannot be written so.
    """
    plain = without_casts(model)
    cast_pixels_first(plain.graph)
    plain_batch_norms(plain)
    graph = plain.graph
    constants = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    sides = (*spec.inputs, *spec.outputs)
    interface = {item.name: HALF if item.dtype == "float16" else FLOAT for item in sides if "float" in item.dtype}
    plan = Plan(graph, element_types(plain), constants, interface)
    made = _Rewriter(graph, plan, constants, interface).graph(spec)
    result = new_model(made)
    _check(result)
    return result


class _Rewriter:
    """Writes a graph anew as a plan has it."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        plan: Plan,
        constants: dict[str, npt.NDArray[Any]],
        interface: dict[str, int],
    ) -> None:
        self._graph = graph
        self._plan = plan
        self._constants = constants
        self._weights: dict[str, onnx.TensorProto] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._names: dict[tuple[str, int], str] = {}
        """(tensor, precision) -> what it is called there."""
        for name in (value.name for value in graph.output if value.name in interface):
            kind, wanted = plan.kind(name), interface[name]
            if kind != wanted:
                self._names[name, kind] = f"{name}.{_SUFFIX[kind]}"
                self._names[name, wanted] = name
                self._cast(self._names[name, kind], name, wanted)

    def graph(self, spec: GraphSpec) -> onnx.GraphProto:
        """The finished graph."""
        for index, node in enumerate(self._graph.node):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            wanted = dict(self._plan.reads(index))
            for place, name in enumerate(node.input):
                if name in self._constants:
                    copy.input[place] = self._constant(name, wanted.get(place))
                elif place in wanted:
                    copy.input[place] = self._named(name, wanted[place])
                else:
                    copy.input[place] = self._names.get((name, self._plan.kind(name)), name)
            for place, name in enumerate(node.output):
                copy.output[place] = self._names.get((name, self._plan.kind(name)), name)
            if node.op_type == "Cast" and helper.get_node_attr_value(node, "to") == FLOAT:
                del copy.attribute[:]
                copy.attribute.append(helper.make_attribute("to", self._plan.kind(node.output[0])))
            self._nodes.append(copy)
        graph = helper.make_graph(
            [],
            self._graph.name,
            [value_info(item.name, item.dtype, item.shape) for item in spec.inputs],
            [value_info(item.name, item.dtype, item.shape) for item in spec.outputs],
            initializer=list(self._weights.values()),
        )
        insert_nodes(graph, self._nodes)
        return graph

    def _named(self, name: str, kind: int) -> str:
        """The name of a tensor in a precision; a cast is made where it has none yet."""
        own = self._plan.kind(name)
        source = self._names.get((name, own), name)
        if kind == own:
            return source
        if (name, kind) not in self._names:
            self._names[name, kind] = f"{name}.{_SUFFIX[kind]}"
            self._cast(source, self._names[name, kind], kind)
        return self._names[name, kind]

    def _cast(self, source: str, target: str, kind: int) -> None:
        self._nodes.append(helper.make_node("Cast", [source], [target], name=f"{target}.cast", to=kind))

    def _constant(self, name: str, kind: int | None) -> str:
        value = self._constants[name]
        if kind is None or value.dtype != np.float32:
            self._weights[name] = numpy_helper.from_array(value, name)
            return name
        # Finite, so that no mask is infinity less infinity.
        value = np.nan_to_num(value, nan=np.nan, posinf=-float(DEAD), neginf=float(DEAD))
        with np.errstate(over="ignore"):
            half = value.astype(np.float16)
        stored = f"{name}.half"
        large = value.ndim > 1 and value.size >= HALF_FROM and np.array_equal(half.astype(np.float32), value)
        if kind == HALF or large:
            self._weights[stored] = numpy_helper.from_array(half, stored)
        if kind == HALF:
            return stored
        if not large:
            self._weights[name] = numpy_helper.from_array(value, name)
        elif (name, FLOAT) not in self._names:
            self._names[name, FLOAT] = name
            self._cast(stored, name, FLOAT)
        return name


def _check(model: onnx.ModelProto) -> None:
    """That every tensor has one type, and pixels are 8-bit only as the network's input and output."""
    kinds = element_types(model)
    made = {name for node in model.graph.node for name in node.output if name}
    made -= {value.name for value in model.graph.output if value.type.tensor_type.elem_type == TensorProto.UINT8}
    wrong = sorted(name for name in made if kinds.get(name, 0) in (0, TensorProto.UINT8, TensorProto.DOUBLE))
    if wrong:
        raise EngineError(f"graph {model.graph.name}: no type, or one that TensorRT has not: {', '.join(wrong[:5])}")
    onnx.checker.check_model(model, full_check=True)
