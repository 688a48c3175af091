"""What a machine can do at most, measured, and how far a variant is from that.

A graph takes at least its operations over the rate of matrix products, and at least its bytes over the bandwidth. The
bandwidth is that of a block as large as the graph's own bytes: what fits the cache is read from there. The bytes are
those that must be moved once, so that a bound is a floor and not a forecast (Williams et al. 2009).

On a CPU both are counted from what ONNX Runtime runs there, on a GPU by the types in the files (``graph_count``). Times
are those of the stages of a caption.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from camscribe.benchmarks import gpu_limits, products
from camscribe.benchmarks.graph_cost import GraphCost, cost
from camscribe.benchmarks.graph_count import RATES, Work, work
from camscribe.benchmarks.schema import Missing, Stage
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import EngineError
from camscribe.runtime.threads import physical_cores

SIZES_MB = (1, 4, 16, 64, 256)
"""Of the blocks that are copied; the last is well beyond the cache of the processors this is meant for."""
_SIDE = 1024
_SECONDS = 1.0
"""How long each limit is tried for: a machine that others share has bad moments, and a limit must not come from one."""
_AROUND = {
    "reading and reducing the photograph": ("decode", "preprocess"),
    "copies to, on and from the device": ("h2d", "spread", "d2h"),
    "search and words": ("search", "words"),
}
"""What is no graph, and the stages that it consists of."""
_NOT_APART = Missing("the operators of a graph are not timed one by one on a GPU")


def limits(threads: int | None = None, *, gpu: bool = False) -> dict[str, Any]:
    """Bandwidth (bytes a second, read and written, by the size of the block in MB) and multiply-adds a second.

    Args:
        threads: of the CPU; None for one per physical core.
        gpu: measure the first GPU too.

    Returns:
        Those of the CPU, and under ``gpu`` those of the GPU (see ``gpu_limits.limits``), or why there are none.
    """
    count = threads or physical_cores()
    return {
        "device": "cpu",
        "threads": count,
        "bytes_per_s": {str(size): _bandwidth(size * 1_000_000, count) for size in SIZES_MB},
        "macs_per_s": {"float32": _rate("float32", count), "int8": _rate("int8", count)},
        "how": f"copies of NumPy arrays in as many threads; products of {_SIDE} x {_SIDE} by ONNX Runtime; "
        f"best of {_SECONDS:g} s each",
        "gpu": _gpu_limits() if gpu else Missing("no variant of this run is on a GPU"),
    }


def _gpu_limits() -> dict[str, Any] | Missing:
    try:
        return gpu_limits.limits()
    except EngineError as error:
        return Missing(str(error))


def bound(
    bundle: Bundle,
    precision: str,
    backend: str,
    machine: Mapping[str, Any],
    *,
    steps: float,
    measured_ms: float,
    stages: Mapping[str, Stage] | Missing,
) -> dict[str, Any] | Missing:
    """Bounds of encoder, decoder step and whole caption in ms, the share reached, and what loses the rest.

    Args:
        bundle: whose graphs are counted.
        precision: of the graphs.
        backend: ``cpu``; every other one is a GPU's.
        machine: of ``limits``.
        steps: of a caption, on average.
        measured_ms: a whole caption.
        stages: of a caption.
    """
    if isinstance(stages, Missing):
        return stages
    sizes = {"B": 1, "K": bundle.manifest.search.beams}
    # Not those of the graphs run alone, some minutes later: a machine that drifts would put the drift down to a part.
    measured = {"encoder": stages["encoder"].time_ms.median, "decoder": stages["decoder step"].time_ms.median}
    if backend == "cpu":
        costs = {name: cost(bundle.graph(precision, name), sizes, machine["threads"]) for name in measured}
        encoder, step = (
            part(each, machine, measured[name], products_ms=each.products_ms, other_operators_ms=each.others_ms)
            for name, each in costs.items()
        )
    else:
        counted = _counted(bundle, precision, sizes)
        gpu = gpu_machine(machine.get("gpu", {"missing": "the GPU's limits were not measured"}), counted.values())
        if isinstance(gpu, Missing):
            return gpu
        encoder, step = (part(counted[name], gpu, time_ms) for name, time_ms in measured.items())
    least = encoder["bound_ms"] + steps * step["bound_ms"]
    losses = {
        "encoder, above its bound": encoder["measured_ms"] - encoder["bound_ms"],
        "decoder steps, above their bound": steps * (step["measured_ms"] - step["bound_ms"]),
        **{
            what: sum(stages[name].time_ms.median * stages[name].per_caption for name in names if name in stages)
            for what, names in _AROUND.items()
        },
    }
    losses["what lies between"] = measured_ms - least - sum(losses.values())
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


def _counted(bundle: Bundle, precision: str, sizes: Mapping[str, int]) -> dict[str, Work]:
    pair = bundle.manifest.precisions[precision]
    return {
        "encoder": work(bundle.graph(precision, "encoder"), pair.encoder.external, sizes),
        "decoder": work(bundle.graph(precision, "decoder"), pair.decoder.external, sizes),
    }


def gpu_machine(gpu: Mapping[str, Any], graphs: Iterable[Work]) -> dict[str, Any] | Missing:
    """A GPU's limits as ``part`` takes them, or which of those that the graphs need was not measured.

    A bound must not be above what the device can do. What is measured of a small block is the start of each copy as
    well, so that it never counts as slower than a larger one; nor do narrower numbers count as slower than wider ones,
    which could take their place.

    Args:
        gpu: ``gpu`` of ``limits``, as it stands in a report.
        graphs: that are to be bounded.
    """
    if "missing" in gpu:
        return Missing(gpu["missing"])
    reasons = "; ".join(f"{what}: {why}" for what, why in gpu["not_measured"].items())
    if not gpu["bytes_per_s"]:
        return Missing(f"the bandwidth of the GPU's memory was not measured ({reasons})")
    needed = [rate for rate in RATES if any(each.macs[rate] for each in graphs)]
    lacking = [rate for rate in needed if rate not in gpu["macs_per_s"]]
    if lacking:
        return Missing(f"the GPU's rate of products in {lacking[0]} was not measured ({reasons})")
    fastest, bandwidth = 0.0, {}
    for size in sorted(gpu["bytes_per_s"], key=int, reverse=True):
        fastest = bandwidth[size] = max(fastest, gpu["bytes_per_s"][size])
    rates, best = {}, 0.0
    for rate in RATES:
        if rate in gpu["macs_per_s"]:
            rates[rate] = best = max(best, gpu["macs_per_s"][rate])
    return {"bytes_per_s": bandwidth, "macs_per_s": rates}


def part(
    graph: Work | GraphCost,
    machine: Mapping[str, Any],
    measured_ms: float,
    *,
    products_ms: float | Missing = _NOT_APART,
    other_operators_ms: float | Missing = _NOT_APART,
) -> dict[str, Any]:
    """Bound of one run of a graph, and how far its measured time is from it."""
    compute = sum(macs / machine["macs_per_s"][rate] for rate, macs in graph.macs.items() if macs) * 1e3
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
        "measured_ms": measured_ms,
        "share": least / measured_ms,
        "products_ms": products_ms,
        "other_operators_ms": other_operators_ms,
        # Less than half of either limit: what is lost is neither, but many small operators and their starts.
        "limited_by": ("compute" if compute >= memory else "memory") if least > measured_ms / 2 else "overhead",
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

    kind = "uint8" if precision == "int8" else "float32"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(
        products.product(kind, _SIDE, "int8" if precision == "int8" else None),
        options,
        providers=["CPUExecutionProvider"],
    )
    left = products.left(kind, _SIDE)
    return _SIDE**3 / _best(lambda: session.run(None, {"left": left}))


def _best(work: Any) -> float:
    """The fewest seconds of all runs in a time: a limit is what the machine can do, not what it does on average."""
    times: list[float] = []
    began = time.perf_counter()
    while not times or time.perf_counter() - began < _SECONDS:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
