"""Channels of one tensor brought to one range, so that a single 8-bit scale fits them all.

Of two layers that follow each other, the first may divide its output channel c by any s[c] > 0 and the second multiply
its weights for that channel by s[c]: nothing but rounding changes, since ReLUs and sums commute with it (Nagel et al.
2019, section 4.1). Here s[c] is the square root of the channel's own best range, as calibration saw it: half of the
unevenness is then left to the weights of the second layer, which have a scale for each output. A ReLU6's upper bound
becomes the 8-bit range's.

Measured on MobileNetV2 (ImageNet weights, 30 photographs, signal to noise of the projected features): 11.0 dB without,
12.7, 13.2, 12.0 and 8.7 dB with the power 1/4, 1/2, 3/4 and 1 of the range.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx

from camscribe.export.calibration import Observation
from camscribe.export.quantize import Plan

_POWER = 0.5
_NARROWEST = 1e-3
"""Share of the widest channel's range that a channel counts as having at least; dead ones have none."""


def equalize(model: onnx.ModelProto, plan: Plan, seen: dict[str, Observation]) -> None:
    """Changes the weights of ``model`` and ``plan``, and what was ``seen`` of the tensors, in place."""
    for group in _groups(model.graph, plan):
        limits = np.max([seen[name].best_limits() for name in group if name in seen], axis=0)
        divisor = np.maximum(limits, limits.max() * _NARROWEST) if limits.max() > 0 else np.ones_like(limits)
        divisor = (divisor**_POWER).astype(np.float32).astype(np.float64)
        for node in plan.products:
            weight = plan.weights[node.input[1]]
            if node.output[0] in group:
                plan.weights[node.input[1]] = (weight / divisor[:, None, None, None]).astype(np.float32)
                if len(node.input) > 2:
                    plan.weights[node.input[2]] = (plan.weights[node.input[2]] / divisor).astype(np.float32)
        for node in plan.products:
            weight = plan.weights[node.input[1]]
            if node.input[0] in group:
                groups = len(divisor) // weight.shape[1]
                factor = divisor.reshape(groups, 1, weight.shape[1], 1, 1)
                parts = weight.reshape(groups, -1, *weight.shape[1:]) * factor
                plan.weights[node.input[1]] = parts.reshape(weight.shape).astype(np.float32)
        for name in group:
            if name in seen:
                seen[name] = seen[name].divided(divisor)


def _groups(graph: onnx.GraphProto, plan: Plan) -> list[set[str]]:
    """Sets of tensors that must be divided alike, each one wholly between convolutions."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        leader.setdefault(name, name)
        while leader[name] != name:
            name = leader[name]
        return name

    def join(names: Iterable[str]) -> None:
        first, *others = map(find, names)
        for other in others:
            leader[other] = first

    convolutions = [node for node in plan.products if node.op_type == "Conv"]
    sums = [node for node in plan.joins if node.op_type == "Add"]
    for node in convolutions:
        find(node.output[0])
    for node in sums:
        join([*node.input, node.output[0]])
    for after, before in plan.before_relu.items():
        join([before, after])
    free = {id(node) for node in (*convolutions, *sums)}
    closed = {value.name for value in (*graph.output, *graph.input)}
    for node in graph.node:
        if node.output[0] in plan.before_relu:
            continue
        if id(node) not in free:
            closed.update((*node.input, *node.output))
    groups: dict[str, set[str]] = {}
    for name in leader:
        groups.setdefault(find(name), set()).add(name)
    return [group for group in groups.values() if not group & closed]
