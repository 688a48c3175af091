"""What beam search adds to a decoder's step, written in ONNX: gathering the states, and the selection.

The step is exported from PyTorch; these few nodes are not, because an exporter makes twice as many of them (on a CPU,
a tenth of a float32 step's time). They equal ``camscribe.runtime.search.select`` exactly, ties
included, where TopK gives the lower index first (ONNX Runtime's does; TensorRT promises no order).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from camscribe.runtime.search import DEAD

SELECTED = ("next_token", "next_parent", "next_score", "ended_score", "ended_parent")
"""The outputs of the selection; all else that it makes is called ``select.*``."""

# GatherND with one leading batch axis takes whole rows and needs no index as wide as the state, unlike GatherElements.
_GATHER = """
    gather.beam64 = Cast <to = 7> (parent)
    gather.index = Unsqueeze (gather.beam64, select.last)
"""

# Why this equals the definition, which it departs from in form:
# - A banned </s> gets DEAD on top of its bias instead of the log-probability DEAD. No score, bias or log-probability is
#   above 0, so both sums are at most DEAD, and become DEAD by the Clip. Where nothing is banned, 0 is added.
# - An ended score needs no test for "above DEAD": below that nothing is left after the Clip.
# - The continuations keep their order when they are ranked by score again, with those that end put below all others,
#   since the first TopK left them in that order and the second prefers the lower index among equals.
_SUMS = """
    select.too_early = Less (step, min_words)
    select.banned = Cast <to = 1> (select.too_early)
    select.end_bias = Mul (select.banned, select.dead_end)
    select.bias = Add (bias, select.end_bias)
    select.biased = Add (log_prob, select.bias)
    select.score = Unsqueeze (score, select.last)
    select.sums = Add (select.score, select.biased)
    select.floored = Clip (select.sums, select.dead)
    select.beams = Shape <start = 1, end = 2> (score)
    select.width = Mul (select.beams, select.two)
"""
_RANK_ALL = """
    select.candidates = Reshape (select.floored, select.flat)
    select.best, select.rank64 = TopK <axis = 1> (select.candidates, select.width)
"""
_PAD = """
    select.padded = Pad (select.floored, select.pads, select.below)
"""
# TopK compares number by number; a maximum is vectorised. So the words are cut into groups, and only the 2K groups with
# the largest maxima are ranked word by word. They hold the best 2K: 2K maxima are at least as good as anything else.
# Among equals that is so because both TopK prefer what comes first; for that the groups are put back into their order
# (as float32, which TensorRT can rank; K * V / size is far below 2**24).
_RANK_GROUPS = """
    select.groups = Reshape (GROUPED, select.by_group)
    select.largest = ReduceMax <axes = [2], keepdims = 0> (select.groups)
    select.largest_first, select.found = TopK <axis = 1> (select.largest, select.width)
    select.unsorted = Cast <to = 1> (select.found)
    select.sorted, select.sorted_from = TopK <axis = 1, largest = 0> (select.unsorted, select.width)
    select.group = Cast <to = 7> (select.sorted)
    select.group_index = Unsqueeze (select.group, select.last)
    select.picked = GatherND <batch_dims = 1> (select.groups, select.group_index)
    select.candidates = Reshape (select.picked, select.flat)
    select.best, select.place = TopK <axis = 1> (select.candidates, select.width)
    select.first_rank = Mul (select.group_index, select.group_size)
    select.ranks_by_group = Add (select.first_rank, select.within_group)
    select.ranks = Reshape (select.ranks_by_group, select.flat)
    select.rank64 = GatherElements <axis = 1> (select.ranks, select.place)
"""
_CHOOSE = """
    select.rank = Cast <to = 6> (select.rank64)
    select.parents = Div (select.rank, select.row)
    select.tokens = Mod (select.rank, select.row)
    select.is_end = Equal (select.tokens, select.end)
    select.ended = Where (select.is_end, select.best, select.dead)
    ended_score = Slice (select.ended, select.zero, select.beams, select.one)
    ended_parent = Slice (select.parents, select.zero, select.beams, select.one)
    select.lives = Where (select.is_end, select.below, select.best)
    next_score, select.live = TopK <axis = 1> (select.lives, select.beams)
    next_token = GatherElements <axis = 1> (select.tokens, select.live)
    next_parent = GatherElements <axis = 1> (select.parents, select.live)
"""
_GROUPED_FROM = 1024
"""Words; for fewer, the nodes around the groups cost as much as they save."""


def group_size(words: int) -> int | None:
    """Words of a group, None where all are ranked at once: near the root of ``words``, filling the last group best."""
    if words < _GROUPED_FROM:
        return None
    best = math.sqrt(words)
    return min(range(round(best / 1.5), round(best * 1.5)), key=lambda size: (-words % size, abs(size - best)))


def gather_nodes(states: Sequence[str]) -> list[onnx.NodeProto]:
    """Nodes that bring ``state.<name>`` [B, K, ...] into the order of ``parent``, as ``gathered.<name>``."""
    nodes = nodes_of(_GATHER)
    for name in states:
        nodes.append(
            helper.make_node("GatherND", [f"state.{name}", "gather.index"], [f"gathered.{name}"], batch_dims=1)
        )
    return nodes


def select_nodes(words: int) -> list[onnx.NodeProto]:
    """Nodes of the selection, from ``log_prob``, ``score``, ``step``, ``min_words`` and ``bias``."""
    size = group_size(words)
    if size is None:
        return nodes_of(_SUMS + _RANK_ALL + _CHOOSE)
    padding = _PAD if words % size else ""
    grouped = _RANK_GROUPS.replace("GROUPED", "select.padded" if padding else "select.floored")
    return nodes_of(_SUMS + padding + grouped + _CHOOSE)


def constants(words: int, end_id: int) -> list[onnx.TensorProto]:
    """The constants of both; one that this size of vocabulary does not need is among them."""
    size = group_size(words) or 1
    values = {
        "last": np.array([-1]),
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "flat": np.array([0, -1]),
        "by_group": np.array([0, -1, size]),
        "group_size": np.array(size),
        "within_group": np.arange(size),
        "pads": np.array([0, 0, 0, 0, 0, -words % size]),
        "dead_end": np.where(np.arange(words) == end_id, DEAD, np.float32(0)),
        "dead": np.array(DEAD, np.float32),
        "below": np.array(2 * DEAD, np.float32),
        "row": np.array(words + -words % size, np.int32),
        "end": np.array(end_id, np.int32),
    }
    return [numpy_helper.from_array(value, f"select.{name}") for name, value in values.items()]


def nodes_of(text: str) -> list[onnx.NodeProto]:
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
