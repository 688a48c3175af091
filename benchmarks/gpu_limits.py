"""What a GPU can do at most, measured: bytes a second of its memory, multiply-adds a second of its products.

Bytes are those of copies from device memory to device memory, timed by CUDA events. Products are run by what captions
are run by, ONNX Runtime's CUDA provider and TensorRT, whichever is here; the faster one counts. Both run as in the
executors, float32 without TensorFloat-32.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from camscribe.benchmarks import products
from camscribe.benchmarks.graph_count import RATES
from camscribe.runtime.cuda.driver import Gpu, Memory, open_gpu
from camscribe.runtime.errors import EngineError
from camscribe.runtime.manifest import Device, GraphSpec, TensorSpec
from camscribe.runtime.onnxruntime_executor import onnxruntime, preload_libraries, providers_for, why_not_cuda

SIZES_MB = (1, 4, 16, 64, 256, 1024)
"""Of the blocks that are copied; the last is beyond the cache of every GPU."""
SIDE = 4096
"""Of the matrices: enough for the largest GPU to be busy, and 0.1 s in float32 on the smallest Jetson."""
_CHAIN = 8
"""Products in 8 bits whose ends alone are float32."""
_RUNS = 7
_LEAST_S = 0.01
"""A timing repeats its work for so long, so that neither its start nor the clock's grain counts."""
_TYPES: dict[str, Any] = {"float32": "float32", "fp16": "float16", "int8": "int8"}
_HOW = (
    f"copies from device memory to device memory between CUDA events; products of {SIDE} x {SIDE} by ONNX Runtime and "
    f"TensorRT, the faster counts; float32 without TF32; best of {_RUNS}"
)


def limits() -> dict[str, Any]:
    """Limits of the first GPU, in the form of ``roofline.limits``.

    Returns:
        ``device``, ``compute_capability``, ``bytes_per_s`` (read and written, by the size of the block in MB),
        ``macs_per_s`` (by rate: the best), ``macs_per_s_by`` (by rate and tool: all), ``not_measured`` (reasons) and
        ``how``.

    Raises:
        EngineError: PyCUDA, the driver or the GPU is missing.
    """
    gpu = open_gpu()
    reasons: dict[str, str] = {}
    bandwidth = _bandwidths(gpu, reasons)
    found: dict[str, dict[str, float]] = {rate: {} for rate in RATES}
    for rate, by_tool in found.items():
        for tool, measure in (
            ("ONNX Runtime", partial(onnxruntime_rate, rate, "cuda")),
            ("TensorRT", partial(_by_tensorrt, gpu, rate)),
        ):
            answer = _tried(measure)
            if isinstance(answer, str):
                reasons[f"{rate} by {tool}"] = answer
            else:
                by_tool[tool] = answer
    return {
        "device": gpu.info.name,
        "compute_capability": ".".join(map(str, gpu.info.compute_capability)),
        "bytes_per_s": bandwidth,
        "macs_per_s": {rate: max(by_tool.values()) for rate, by_tool in found.items() if by_tool},
        "macs_per_s_by": found,
        "not_measured": reasons,
        "how": _HOW,
    }


def _tried(measure: Callable[[], float]) -> float | str:
    """What it measures, or why it cannot."""
    try:
        return measure()
    except EngineError as error:
        return str(error)


def _bandwidths(gpu: Gpu, reasons: dict[str, str]) -> dict[str, float]:
    """Bytes a second by the size of a block, which holds source and target; sizes that do not fit are left out."""
    found = {}
    for size_mb in SIZES_MB:
        answer = _tried(partial(_bandwidth, gpu, size_mb * 1_000_000 // 2))
        if isinstance(answer, str):
            reasons[f"copies of {size_mb} MB"] = answer
        else:
            found[str(size_mb)] = answer
    return found


def _bandwidth(gpu: Gpu, size: int) -> float:
    with gpu.current("measuring the memory") as cuda:
        memory = Memory(gpu)
        try:
            source, target, stream = memory.device(size), memory.device(size), memory.stream
            return 2 * size / _seconds(cuda, stream, lambda: cuda.memcpy_dtod_async(target, source, size, stream))
        finally:
            memory.close()


def _seconds(cuda: Any, stream: Any, work: Callable[[], object]) -> float:
    """The fewest seconds that enqueued work takes on the device. Call within ``Gpu.current``."""
    begin, end = cuda.Event(), cuda.Event()

    def timed(times: int) -> float:
        begin.record(stream)
        for _ in range(times):
            work()
        end.record(stream)
        end.synchronize()
        return float(begin.time_till(end)) / 1e3 / times

    return _fewest(timed)


def _fewest(timed: Callable[[int], float]) -> float:
    """The fewest seconds of some timings, each of which repeats the work often enough.

    Args:
        timed: repeats the work so many times; returns the seconds of one.
    """
    timed(1)  # libraries set themselves up
    times = max(1, min(1000, math.ceil(_LEAST_S / max(timed(1), 1e-9))))
    return min(timed(times) for _ in range(_RUNS))


def onnxruntime_rate(rate: str, device: Device, side: int = SIDE) -> float:
    """Multiply-adds a second of ONNX Runtime on a device. Runs are enqueued one by one; the last is waited for.

    Args:
        rate: ``float32``, ``fp16`` or ``int8``.
        device: ``cuda``, where a product that only the CPU can do is refused; ``cpu`` serves to try this without a GPU.
        side: of the matrices.

    Raises:
        EngineError: ONNX Runtime does not run such a product there.
    """
    why_not = why_not_cuda() if device == "cuda" else None
    if why_not is not None:
        raise EngineError(why_not)
    runtime, kind = onnxruntime(), _TYPES[rate]
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, and said in one line
    provider = providers_for(device)[0]
    if device == "cuda":
        preload_libraries(runtime)
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    later = runtime.RunOptions()
    later.add_run_config_entry("disable_synchronize_execution_providers", "1")
    try:
        # Its own fallback would go on with the CPU and print so.
        session = runtime.InferenceSession(products.product(kind, side), options, [provider], enable_fallback=0)
        binding = session.io_binding()
        left = runtime.OrtValue.ortvalue_from_numpy(products.left(kind, side), device, 0)
        out_type = np.int32 if kind == "int8" else np.dtype(kind).type
        out = runtime.OrtValue.ortvalue_from_shape_and_type([side, side], out_type, device, 0)
        binding.bind_ortvalue_input("left", left)
        binding.bind_ortvalue_output("out", out)

        def timed(times: int) -> float:
            start = time.perf_counter()
            for _ in range(times - 1):
                session.run_with_iobinding(binding, later)
            session.run_with_iobinding(binding)
            return (time.perf_counter() - start) / times

        if session.get_providers()[0] != (provider if isinstance(provider, str) else provider[0]):
            raise EngineError(f"ONNX Runtime does not start on {device}; check driver and libraries")
        return side**3 / _fewest(timed)
    except EngineError:
        raise
    except Exception as error:  # the errors of ONNX Runtime have no base of their own
        raise EngineError(
            f"ONNX Runtime {runtime.__version__} runs no product in {rate} on {device}: "
            f"{' '.join(str(error).split()):.300}"
        ) from error


def _by_tensorrt(gpu: Gpu, rate: str) -> float:
    """Multiply-adds a second of an engine that TensorRT builds for it, which takes seconds to a minute."""
    from camscribe.runtime.tensorrt import audit, engines
    from camscribe.runtime.tensorrt.builder import Recipe
    from camscribe.runtime.tensorrt.device import Engine
    from camscribe.runtime.tensorrt.toolchain import TensorRT
    from camscribe.runtime.tensorrt.versions import load

    tools, name, count = TensorRT(), f"a product in {rate}", _CHAIN if rate == "int8" else 1
    onnx = products.quantised(SIDE, count) if rate == "int8" else products.product(_TYPES[rate], SIDE)

    def attempt(strong: bool) -> bytes:
        data = tools.compile(onnx, name, Recipe(strong, quantized=rate == "int8"), lambda phase, share: None).engine
        audit.check(tools.audit(data), rate, name)
        return data

    _, data = engines.first_that_works(tools.typings(rate), attempt, lambda phase, share: None)
    kind: Any = "float32" if rate == "int8" else _TYPES[rate]
    spec = GraphSpec(name, (), (TensorSpec("left", kind, (SIDE, SIDE)),), (TensorSpec("out", kind, (SIDE, SIDE)),))
    with gpu.current("measuring products") as cuda:
        memory, values = Memory(gpu), products.left(kind, SIDE)
        engine = Engine(load(), data, spec, {})
        try:
            addresses = {"left": memory.device(values.nbytes), "out": memory.device(values.nbytes)}
            cuda.memcpy_htod(addresses["left"], values)
            stream = memory.stream
            handle = int(stream.handle)
            return count * SIDE**3 / _seconds(cuda, stream, lambda: engine.run(addresses, handle))
        finally:
            memory.close()
