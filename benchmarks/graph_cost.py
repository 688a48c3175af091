"""Operations and bytes of a graph, counted from the sizes that ONNX Runtime reports of every operator it runs.

ONNX Runtime's profile holds type and shape of all inputs and outputs of each operator with the free sizes filled in, so
that no onnx package is needed and what is counted is what runs, after its fusions.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from camscribe.runtime.errors import BundleError
from camscribe.runtime.tensorrt.onnx_file import Graph

_BYTES = {"float": 4, "float16": 2, "double": 8, "int64": 8, "uint64": 8, "int32": 4, "uint32": 4}
Shape = tuple[str, tuple[int, ...]]
"""Type and sizes of a tensor."""


@dataclass(frozen=True)
class Node:
    """What one operator costs."""

    name: str
    kind: str
    macs: int
    """Multiply-adds; 0 of operators that are no product."""
    rate: str
    """``float32`` or ``int8``: which rate of the machine bounds it."""
    activation_bytes: int
    weight_bytes: int
    time_ms: float


@dataclass(frozen=True)
class GraphCost:
    """What one run of a graph costs."""

    macs: dict[str, int]
    """By rate."""
    weight_bytes: int
    """Of the weights of all products, each read once."""
    activation_bytes: int
    """Inputs and outputs of all products, each once; the other operators' are taken as fused, at no cost."""
    time_ms: float
    """Median of a run, without profiling."""
    products_ms: float
    others_ms: float
    """Time within products and within all other operators, by the profile; what is left lies between operators."""
    nodes: tuple[Node, ...]


def cost(path: Path, sizes: Mapping[str, int], threads: int, runs: int = 15) -> GraphCost:
    """Counts and times a graph on the CPU.

    Args:
        path: ONNX file.
        sizes: of the free sizes, by name.
        threads: of ONNX Runtime.
        runs: timed, after three that are not.

    Raises:
        BundleError: the graph does not run with these sizes.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = inputs(session, sizes)
    names = [item.name for item in session.get_outputs() if item.name != "log_prob"]
    try:
        times = _time(session, names, feeds, runs)
    except onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException as error:
        raise BundleError(f"{path}: does not run with {dict(sizes)} ({error})") from error
    # Layouts of single kernels (NCHWc) come with the last level of optimisation and would hide the sizes.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.enable_profiling = True
    timed = _profile(path, options, names, feeds)
    # Weights that a kernel packed for itself are no input any more.
    options.add_session_config_entry("session.disable_prepacking", "1")
    shapes = _profile(path, options, names, feeds)
    return summarise(timed, shapes, statistics.median(times))


def _profile(path: Path, options: Any, names: list[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[dict[str, Any]]:
    """The events of five runs."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(5):
            session.run(names, feeds)
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return events


def nodes(path: Path) -> int:
    """Operators of a graph as it is written, before any fusion."""
    return len(Graph(path.read_bytes()).nodes)


def inputs(session: Any, sizes: Mapping[str, int]) -> dict[str, npt.NDArray[Any]]:
    """Something to run a graph on: random pixels and floats, integers 0, live beams."""
    rng = np.random.default_rng(0)
    feeds: dict[str, npt.NDArray[Any]] = {}
    for item in session.get_inputs():
        shape = [sizes.get(size, 1) if isinstance(size, str) else size for size in item.shape]
        kind = item.type.removeprefix("tensor(").removesuffix(")")
        if kind == "uint8":
            feeds[item.name] = rng.integers(0, 256, shape, dtype=np.uint8)
        elif kind.startswith("int"):
            feeds[item.name] = np.zeros(shape, kind)
        else:
            dtype = np.float16 if kind == "float16" else np.float32
            plain = item.name in ("score", "bias")
            feeds[item.name] = (np.zeros(shape) if plain else rng.standard_normal(shape)).astype(dtype)
    return feeds


def summarise(timed: list[dict[str, Any]], shapes: list[dict[str, Any]], time_ms: float) -> GraphCost:
    """Adds up the operators of two profiles of the same graph: one tells times, the other one all sizes."""
    times: dict[str, list[float]] = {}
    for event in _kernels(timed):
        times.setdefault(event["name"], []).append(event["dur"] / 1e3)
    seen = {event["name"]: event["args"] for event in _kernels(shapes)}
    nodes = [
        count(name.removesuffix("_kernel_time"), seen.get(name, {}), statistics.median(values))
        for name, values in times.items()
    ]
    products = [node for node in nodes if node.macs]
    return GraphCost(
        macs={rate: sum(n.macs for n in products if n.rate == rate) for rate in ("float32", "int8")},
        weight_bytes=sum(node.weight_bytes for node in products),
        activation_bytes=sum(node.activation_bytes for node in products),
        time_ms=time_ms,
        products_ms=sum(node.time_ms for node in products),
        others_ms=sum(node.time_ms for node in nodes if not node.macs),
        nodes=tuple(nodes),
    )


def _kernels(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]


def count(name: str, arguments: Mapping[str, Any], time_ms: float) -> Node:
    """The cost of one operator of a profile."""
    kind = str(arguments.get("op_name", ""))
    tensors = [_shape(item) for item in arguments.get("input_type_shape", [])]
    results = [_shape(item) for item in arguments.get("output_type_shape", [])]
    matrices = [item for item in tensors if len(item[1]) >= 2]
    macs = 0
    if len(matrices) >= 2 and results:
        out, right = math.prod(results[0][1]), matrices[1][1]
        if "Conv" in kind:  # weights are [out, in / groups, height, width]
            macs = out * math.prod(right[1:])
        elif "MatMul" in kind or "Gemm" in kind:
            macs = out * _summed_over(matrices[0][1], right, results[0][1])
    if not macs:
        return Node(name, kind, 0, "float32", 0, 0, time_ms)
    # Of two factors the weight stands on the right, but for a row (``export/columns.py``), which has fewer axes.
    passed, weight = matrices[:2] if len(matrices[0][1]) >= len(matrices[1][1]) else matrices[1::-1]
    rate = "int8" if weight[0] in ("int8", "uint8") else "float32"
    return Node(name, kind, macs, rate, _size(passed) + _size(results[0]), _size(weight), time_ms)


def _summed_over(left: tuple[int, ...], right: tuple[int, ...], out: tuple[int, ...]) -> int:
    """The size that is summed over: the left matrix's last, or the one before where that is transposed."""
    if left[-1] in right[-2:] and left[-2] in out:
        return left[-1]
    return left[-2] if left[-2] in right[-2:] else left[-1]


def _shape(item: Mapping[str, list[int]]) -> Shape:
    ((kind, sizes),) = item.items()
    return kind, tuple(sizes)


def _size(tensor: Shape) -> int:
    return math.prod(tensor[1]) * _BYTES.get(tensor[0], 1)


def _time(session: Any, names: list[str], feeds: Mapping[str, npt.NDArray[Any]], runs: int) -> list[float]:
    times = []
    for turn in range(runs + 3):
        start = time.perf_counter()
        session.run(names, feeds)
        if turn >= 3:
            times.append((time.perf_counter() - start) * 1e3)
    return times
