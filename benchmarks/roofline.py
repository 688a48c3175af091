"""What a machine can do at most, measured, and how far a variant is from that.

A graph takes at least its operations over the rate of matrix products, and at least its bytes over the bandwidth. The
bandwidth is that of a block as large as the graph's own bytes: what fits the cache is read from there. The bytes are
those that must be moved once, so that a bound is a floor and not a forecast.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from camscribe.benchmarks.graph_cost import GraphCost, cost
from camscribe.benchmarks.schema import Missing
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.tensorrt.onnx_file import constant
from camscribe.runtime.threads import physical_cores

SIZES_MB = (1, 4, 16, 64, 256)
"""Of the blocks that are copied; the last is well beyond the cache of the processors this is meant for."""
_SIDE = 1024


def limits(threads: int | None = None) -> dict[str, Any]:
    """Bandwidth (bytes a second, read and written, by the size of the block in MB) and multiply-adds a second."""
    count = threads or physical_cores()
    return {
        "device": "cpu",
        "threads": count,
        "bytes_per_s": {str(size): _bandwidth(size * 1_000_000, count) for size in SIZES_MB},
        "macs_per_s": {"float32": _rate("float32", count), "int8": _rate("int8", count)},
        "how": f"copies of NumPy arrays in as many threads; products of {_SIDE} x {_SIDE} by ONNX Runtime; best of 7",
    }


def bound(
    bundle: Bundle, precision: str, backend: str, machine: dict[str, Any], *, steps: float, measured_ms: float
) -> dict[str, Any] | Missing:
    """Bounds of encoder, decoder step and whole caption in ms, the share reached, and what loses the rest.

    Args:
        bundle: whose graphs are counted.
        precision: of the graphs.
        backend: ``cpu``; the limits of a GPU are not measured.
        machine: of ``limits``.
        steps: of a caption, on average.
        measured_ms: a whole caption.
    """
    if backend != "cpu":
        return Missing(f"limits are measured on the CPU only, not on {backend}")
    sizes = {"B": 1, "K": bundle.manifest.search.beams}
    costs = {name: cost(bundle.graph(precision, name), sizes, machine["threads"]) for name in ("encoder", "decoder")}
    encoder, step = (part(costs[name], machine) for name in ("encoder", "decoder"))
    least = encoder["bound_ms"] + steps * step["bound_ms"]
    graphs = encoder["measured_ms"] + steps * step["measured_ms"]
    losses = {
        "encoder, above its bound": encoder["measured_ms"] - encoder["bound_ms"],
        "decoder steps, above their bound": steps * (step["measured_ms"] - step["bound_ms"]),
        "around the graphs": measured_ms - graphs,
    }
    return {
        "steps": steps,
        "encoder": encoder,
        "decoder_step": step,
        "caption": {
            "bound_ms": least,
            "measured_ms": measured_ms,
            "share": least / measured_ms,
            "losses_ms": losses,
            "largest_loss": max(losses, key=lambda name: losses[name]),
        },
    }


def part(graph: GraphCost, machine: dict[str, Any]) -> dict[str, Any]:
    """Bound of one run of a graph, and how far its measured time is from it."""
    compute = sum(macs / machine["macs_per_s"][rate] for rate, macs in graph.macs.items()) * 1e3
    size = graph.weight_bytes + graph.activation_bytes
    memory = size / bandwidth_of(size, machine["bytes_per_s"]) * 1e3
    least = max(compute, memory)
    return {
        "macs": graph.macs,
        "weight_bytes": graph.weight_bytes,
        "activation_bytes": graph.activation_bytes,
        "compute_ms": compute,
        "memory_ms": memory,
        "bound_ms": least,
        "bound_by": "compute" if compute >= memory else "memory",
        "measured_ms": graph.time_ms,
        "share": least / graph.time_ms,
        "products_ms": graph.products_ms,
        "other_operators_ms": graph.others_ms,
        # Less than half of either limit: what is lost is neither, but many small operators and their starts.
        "limited_by": ("compute" if compute >= memory else "memory") if least > graph.time_ms / 2 else "overhead",
    }


def bandwidth_of(size: int, measured: dict[str, float]) -> float:
    """Bytes a second of a block of ``size`` bytes, interpolated between the blocks that were measured."""
    known = sorted((int(name) * 1e6, value) for name, value in measured.items())
    return float(np.interp(np.log(max(size, 1)), np.log([item[0] for item in known]), [item[1] for item in known]))


def _bandwidth(size: int, threads: int) -> float:
    """Bytes a second of copying: a block of ``size`` holds source and target, a slice of each for every thread."""
    slices = [
        (np.ones(size // 2 // threads, np.uint8), np.zeros(size // 2 // threads, np.uint8)) for _ in range(threads)
    ]
    repeat = max(1, 64_000_000 // size)

    def copy(pair: tuple[Any, Any]) -> None:
        for _ in range(repeat):
            np.copyto(pair[1], pair[0])

    with ThreadPoolExecutor(threads) as pool:
        return size * repeat / _best(lambda: list(pool.map(copy, slices)))


def _rate(precision: str, threads: int) -> float:
    """Multiply-adds a second of one large product by constant weights, as in the decoder."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(_product(precision), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    left = rng.integers(0, 128, (_SIDE, _SIDE)).astype(np.float32 if precision == "float32" else np.uint8)
    return _SIDE**3 / _best(lambda: session.run(None, {"left": left}))


def _best(work: Any, runs: int = 7) -> float:
    """The fewest seconds of some runs: a limit is what the machine can do, not what it does on average."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _product(precision: str) -> bytes:
    """An ONNX file with one matrix product, written by hand, because a device has no onnx package."""
    quantised = precision == "int8"
    weights = np.random.default_rng(1).integers(-64, 64, (_SIDE, _SIDE)).astype(np.int8 if quantised else np.float32)
    node = _field(1, b"left") + _field(1, b"right") + _field(2, b"out")
    node += _field(4, b"MatMulInteger" if quantised else b"MatMul")

    def value(name: bytes, dtype: int) -> bytes:
        size = _field(1, _number(1, _SIDE))
        shape = _field(2, size + size)
        return _field(1, name) + _field(2, _field(1, _number(1, dtype) + shape))

    graph = _field(1, node) + _field(2, b"product") + _field(5, constant("right", weights))
    graph += _field(11, value(b"left", 2 if quantised else 1)) + _field(12, value(b"out", 6 if quantised else 1))
    return _number(1, 8) + _field(7, graph) + _field(8, _number(2, 17))


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content
