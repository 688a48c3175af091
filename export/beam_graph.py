"""What beam search adds to a decoder's step, written in ONNX: gathering the states, and the selection.

The step is exported from PyTorch; these few nodes are not, because an exporter makes twice as many of them (on a CPU,
a tenth of a float32 step's time). They equal ``camscribe.runtime.search.select`` exactly, ties
included, where TopK gives the lower index first (ONNX Runtime's does; TensorRT promises no order).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from camscribe.runtime.search import DEAD

# GatherND with one leading batch axis takes whole rows and needs no index as wide as the state, unlike GatherElements.
_GATHER = """
    gather.beam64 = Cast <to = 7> (parent)
    gather.index = Unsqueeze (gather.beam64, select.last)
"""

# Why this equals the definition, which it departs from in form:
# - A banned </s> gets bias DEAD instead of the log-probability DEAD. No score and no log-probability is above 0, so
#   both sums are at most DEAD, and become DEAD by the Max.
# - An ended score needs no test for "above DEAD": below that nothing is left after the Max.
# - The continuations keep their order when they are ranked by score again, with those that end put below all others,
#   since the first TopK left them in that order and the second prefers the lower index among equals.
_SELECT = """
    select.too_early = Less (step, min_words)
    select.banned = And (select.too_early, select.is_end_word)
    select.bias = Where (select.banned, select.dead, bias)
    select.biased = Add (log_prob, select.bias)
    select.score = Unsqueeze (score, select.last)
    select.sums = Add (select.score, select.biased)
    select.floored = Max (select.sums, select.dead)
    select.candidates = Reshape (select.floored, select.flat)
    select.beams = Shape <start = 1, end = 2> (score)
    select.width = Mul (select.beams, select.two)
    select.best, select.rank64 = TopK <axis = 1> (select.candidates, select.width)
    select.rank = Cast <to = 6> (select.rank64)
    select.parents = Div (select.rank, select.words)
    select.tokens = Mod (select.rank, select.words)
    select.is_end = Equal (select.tokens, select.end)
    select.ended = Where (select.is_end, select.best, select.dead)
    ended_score = Slice (select.ended, select.zero, select.beams, select.one)
    ended_parent = Slice (select.parents, select.zero, select.beams, select.one)
    select.lives = Where (select.is_end, select.below, select.best)
    next_score, select.live = TopK <axis = 1> (select.lives, select.beams)
    next_token = GatherElements <axis = 1> (select.tokens, select.live)
    next_parent = GatherElements <axis = 1> (select.parents, select.live)
"""


def gather_nodes(states: Sequence[str]) -> list[onnx.NodeProto]:
    """Nodes that bring ``state.<name>`` [B, K, ...] into the order of ``parent``, as ``gathered.<name>``."""
    nodes = _nodes(_GATHER)
    for name in states:
        nodes.append(
            helper.make_node("GatherND", [f"state.{name}", "gather.index"], [f"gathered.{name}"], batch_dims=1)
        )
    return nodes


def select_nodes() -> list[onnx.NodeProto]:
    """Nodes of the selection, from ``log_prob``, ``score``, ``step``, ``min_words`` and ``bias``."""
    return _nodes(_SELECT)


def constants(words: int, end_id: int) -> list[onnx.TensorProto]:
    """The constants of both."""
    values = {
        "last": np.array([-1]),
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "flat": np.array([0, -1]),
        "is_end_word": np.arange(words) == end_id,
        "dead": np.array(DEAD, np.float32),
        "below": np.array(2 * DEAD, np.float32),
        "words": np.array(words, np.int32),
        "end": np.array(end_id, np.int32),
    }
    return [numpy_helper.from_array(value, f"select.{name}") for name, value in values.items()]


def _nodes(text: str) -> list[onnx.NodeProto]:
    """Nodes of ONNX's own text form. Its parser takes no dots in names, which keep ours apart from the exporter's."""
    graph = onnx.parser.parse_graph(f"g (float x) => (float y) {{ {text.replace('.', '__')} }}")
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [name.replace("__", ".") for name in names]
    return list(graph.node)


_ONNX_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
}


def value_info(name: str, dtype: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """The declaration of a graph's input or output."""
    return helper.make_tensor_value_info(name, _ONNX_TYPES[dtype], list(shape))
