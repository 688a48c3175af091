"""Which nodes of a float32 graph may compute in half precision, and which stay in float32: its islands.

Products (convolutions, matrix products) run in half: they are where time and memory go. These stay in float32, because
half's 10 bits or its range (65504) do not suffice:

- softmax and log-softmax, with the product whose results they take: logits and energies;
- norms, sums and means over many numbers, powers, roots, logarithms and quotients;
- the ranking of candidates, and all that comes of it: the whole selection;
- all that non-maximum suppression gets its boxes and scores from: which boxes are left hangs by their last bits;
- what a float32 number is added to or multiplied with, as in PyTorch: the cell state, the pixels' normalisation;
- what only float32 nodes read, back to the product it comes from: gates, biases;
- any node with a constant that half does not hold, such as a mask of -1e9 or an epsilon of 1e-12.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from camscribe.runtime.errors import EngineError

HALF, FLOAT = int(TensorProto.FLOAT16), int(TensorProto.FLOAT)
HALF_MAX = 65504.0
_PRODUCTS = ("Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul")
_SOFTMAX = ("LogSoftmax", "Softmax")
_WIDE = (
    *_SOFTMAX,
    *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization", "LRN"),
    *("MeanVarianceNormalization", "GlobalAveragePool", "GlobalLpPool", "LpPool", "CumSum", "TopK"),
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum"),
    *("ReduceSumSquare", "Exp", "Log", "Pow", "Reciprocal", "Softplus", "Sqrt"),
)
"""Operators that need float32."""
_MOVES = (
    *("Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "MaxPool"),
    *("Pad", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
)
"""Operators that make no new numbers, so that rounding before them is rounding after them."""
_PICKS = ("Gather", "GatherElements", "GatherND", "Slice")
_BLIND = ("Cast", "Shape", "Size")
"""Operators that read either precision as it comes."""
_BOTH = {"tensor(float)", "tensor(float16)"}


class Plan:
    """The precision of every node, and of every number that passes between them.

    Args:
        graph: float32, without casts between precisions, nodes in order of computation.
        kinds: ONNX's element type of every tensor.
        constants: the values of the initialisers.
        interface: HALF or FLOAT for each input and output of the graph that is float.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        kinds: Mapping[str, int],
        constants: Mapping[str, npt.NDArray[Any]],
        interface: Mapping[str, int],
    ) -> None:
        self._nodes = list(graph.node)
        self._kinds = kinds
        self._constants = constants
        self._interface = interface
        self._outputs = {value.name for value in graph.output}
        self._maker = {name: index for index, node in enumerate(self._nodes) for name in node.output}
        self._readers: dict[str, list[int]] = {}
        for index, node in enumerate(self._nodes):
            for name in set(node.input):
                self._readers.setdefault(name, []).append(index)
        self._slots = [(_flexible(node, "inputs"), _flexible(node, "outputs")) for node in self._nodes]
        fixed = [self._fixed(index) for index in range(len(self._nodes))]
        for index in (*self._products_of_softmax(), *self._before_suppression()):
            fixed[index] = FLOAT
        self.precision = self._settle(fixed)
        """HALF or FLOAT of each node; None where it touches no float."""

    def reads(self, index: int) -> list[tuple[int, int]]:
        """Inputs of a node that must have a certain precision: place and precision."""
        node, wanted = self._nodes[index], self.precision[index]
        if node.op_type in _BLIND or wanted is None:
            return []
        flexible = self._slots[index][0]
        return [
            (place, wanted if flexible[place] else FLOAT)
            for place, name in enumerate(node.input)
            if self._kinds.get(name) == FLOAT
        ]

    def kind(self, name: str) -> int:
        """The precision that a tensor is made in."""
        index = self._maker.get(name)
        if index is None:
            return self._interface.get(name, FLOAT)
        made = self.precision[index]
        place = list(self._nodes[index].output).index(name)
        return made if made is not None and self._slots[index][1][place] else FLOAT

    def _fixed(self, index: int) -> int | None:
        """FLOAT or HALF where the node itself decides."""
        node = self._nodes[index]
        inputs, outputs = self._slots[index]
        if node.op_type in _BLIND:
            return None
        floats = [place for place, name in enumerate(node.input) if self._kinds.get(name) == FLOAT]
        made = [place for place, name in enumerate(node.output) if self._kinds.get(name) == FLOAT]
        if node.op_type in _WIDE or not all(outputs[place] for place in made):
            return FLOAT
        if floats and not any(inputs[place] for place in floats):
            return FLOAT
        if node.op_type == "Div" and node.input[1] not in self._constants:
            return FLOAT
        if not all(fits(self._constants[node.input[p]]) for p in floats if node.input[p] in self._constants):
            return FLOAT
        return HALF if node.op_type in _PRODUCTS else None

    def _products_of_softmax(self) -> Iterable[int]:
        waiting = [node.input[0] for node in self._nodes if node.op_type in _SOFTMAX]
        seen = set(waiting)
        while waiting:
            index = self._maker.get(waiting.pop())
            if index is None or self._kinds.get(self._nodes[index].output[0]) != FLOAT:
                continue
            node = self._nodes[index]
            if node.op_type in _PRODUCTS:
                yield index
            elif node.op_type not in _WIDE:
                waiting += [name for name in node.input if name not in seen]
                seen.update(node.input)

    def _before_suppression(self) -> Iterable[int]:
        waiting = [name for node in self._nodes if node.op_type == "NonMaxSuppression" for name in node.input]
        seen = set(waiting)
        while waiting:
            index = self._maker.get(waiting.pop())
            if index is not None:
                if self._nodes[index].op_type not in _BLIND:
                    yield index
                waiting += [name for name in self._nodes[index].input if name not in seen]
                seen.update(self._nodes[index].input)

    def _settle(self, fixed: list[int | None]) -> list[int | None]:
        """Gives all others a precision: repeated, as one float32 node may draw the next to it."""
        while True:
            found = list(fixed)
            for index in reversed(range(len(found))):
                if found[index] is None:
                    found[index] = self._wish(index, found)
            for index in range(len(found)):
                if found[index] is None:
                    found[index] = self._follow(index, found)
            # Numbers that only move keep the freedom to be rounded early.
            drawn = [
                index
                for index, node in enumerate(self._nodes)
                if fixed[index] is None and found[index] == FLOAT and node.op_type not in (*_MOVES, *_BLIND)
            ]
            if not drawn:
                return found
            for index in drawn:
                fixed[index] = FLOAT

    def _wish(self, index: int, wanted: list[int | None]) -> int | None:
        """What those that read a node's numbers agree on."""
        node = self._nodes[index]
        wishes: set[int | None] = set()
        for name in node.output:
            if self._kinds.get(name) != FLOAT:
                continue
            if name in self._outputs:
                wishes.add(self._interface[name])
            wishes.update(
                wanted[reader] for reader in self._readers.get(name, []) if self._nodes[reader].op_type not in _BLIND
            )
        if wishes == {FLOAT}:
            # Of a table of constants, the rows that are read are cast, not the whole.
            return None if node.op_type in _PICKS and node.input[0] in self._constants else FLOAT
        early = node.op_type in _MOVES or node.op_type == "Cast"
        return HALF if wishes == {HALF} and early else None

    def _follow(self, index: int, found: list[int | None]) -> int | None:
        """The precision that a node's inputs give it."""
        node = self._nodes[index]
        kinds = set()
        for name in node.input:
            if self._kinds.get(name) != FLOAT or name in self._constants:
                continue
            maker = self._maker.get(name)
            kinds.add(self._interface.get(name, FLOAT) if maker is None else (found[maker] or FLOAT))
        if kinds:
            return FLOAT if FLOAT in kinds else HALF
        if any(name in self._constants for name in node.input if self._kinds.get(name) == FLOAT):
            return HALF
        return FLOAT if any(self._kinds.get(name) == FLOAT for name in node.output) else None


def only_products_read(graph: onnx.GraphProto, name: str) -> bool:
    """Whether nothing but products reads a tensor, moved or not: then half takes nothing that they would not take."""
    readers = [node for node in graph.node if name in node.input]
    return bool(readers) and all(
        node.op_type in _PRODUCTS
        or (node.op_type in _MOVES and all(only_products_read(graph, output) for output in node.output))
        for node in readers
    )


def fits(value: npt.NDArray[Any]) -> bool:
    """Whether half holds a constant: none of its numbers is too large, and a single one not too small either."""
    largest = np.abs(value).max(initial=0.0)
    if not largest <= HALF_MAX:
        return False
    return value.size > 1 or largest == 0 or bool(largest >= 2.0**-14)


def _flexible(node: onnx.NodeProto, side: str) -> list[bool]:
    """Which inputs or outputs of a node its operator takes in both precisions."""
    names = list(getattr(node, side[:-1]))
    if not names:
        return []
    try:
        schema = onnx.defs.get_schema(node.op_type, 17, node.domain)
    except onnx.defs.SchemaError as error:
        raise EngineError(f"operator {node.op_type} is unknown to ONNX, so fp16 graphs cannot be made of it") from error
    allowed = {item.type_param_str: set(item.allowed_type_strs) for item in schema.type_constraints}
    formal = list(getattr(schema, side))
    kinds = [formal[min(place, len(formal) - 1)].type_str for place in range(len(names))]
    return [allowed.get(kind, {kind}) >= _BOTH for kind in kinds]
