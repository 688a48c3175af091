"""What must be measured in a fresh process: a variant's peak memory, and how long its engines take to build.

    python -m camscribe.benchmarks.child memory BACKEND PRECISION BUNDLE THREADS IMAGE...
    python -m camscribe.benchmarks.child build PRECISION BUNDLE BEAMS
    python -m camscribe.benchmarks.child enhancer-memory BACKEND PRECISION BUNDLE THREADS VARIANT SIZE
    python -m camscribe.benchmarks.child enhancer-build PRECISION BUNDLE VARIANT SIZE

Prints a JSON object as its last line. The functions of these names below start it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from camscribe.benchmarks.enhancers import OpenedEnhancer
from camscribe.benchmarks.schema import Build, Memory, Missing
from camscribe.benchmarks.variants import Opened
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.enhancer import Enhancer
from camscribe.runtime.enhancer_bundle import EnhancerBundle
from camscribe.runtime.errors import CamscribeError, EngineError
from camscribe.runtime.executor import Backend


def memory(variant: Opened, images: Sequence[Path], threads: int | None) -> Memory | Missing:
    """Peak memory of a process that opens the variant and captions the images."""
    words = ["memory", variant.backend, variant.precision, str(variant.bundle.path), str(threads or 0)]
    return _memory_of(_ask([*words, *map(str, images)]))


def enhancer_memory(variant: OpenedEnhancer, size: str, threads: int | None) -> Memory | Missing:
    """Peak memory of a process that opens the enhancer and enhances an image of ``WIDTHxHEIGHT`` pixels."""
    words = ["enhancer-memory", variant.backend, variant.precision, str(variant.bundle.path), str(threads or 0)]
    return _memory_of(_ask([*words, variant.enhancer.variant, size]))


def _memory_of(answer: dict[str, Any] | Missing) -> Memory | Missing:
    if isinstance(answer, Missing):
        return answer
    device: int | Missing = answer["device_bytes"]
    if device is None:
        device = Missing(answer["device_missing"])
    return Memory(answer["host_bytes"], device)


def build(variant: Opened) -> Build | Missing:
    """Builds the variant's engines from nothing, and again with what TensorRT noted the first time."""
    if variant.backend == "ort-tensorrt":
        return Missing("ONNX Runtime builds its engines unasked, and does not say how long it took")
    if variant.backend != "tensorrt":
        return Missing("has no engines")
    with tempfile.TemporaryDirectory() as folder:
        # The copy has no engines beside it.
        copy = Path(folder) / variant.bundle.path.name
        shutil.copytree(variant.bundle.path, copy)
        answer = _ask(["build", variant.precision, str(copy), str(variant.bundle.manifest.search.beams)])
    return answer if isinstance(answer, Missing) else Build(answer["cold_s"], answer["timing_cache_s"])


def enhancer_build(variant: OpenedEnhancer, size: str) -> Build | Missing:
    """Builds an enhancer's engine for a size from nothing, and again with what TensorRT noted the first time."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / variant.bundle.path.name
        shutil.copytree(variant.bundle.path, copy)
        answer = _ask(["enhancer-build", variant.precision, str(copy), variant.enhancer.variant, size])
    return answer if isinstance(answer, Missing) else Build(answer["cold_s"], answer["timing_cache_s"])


def _ask(words: Sequence[str]) -> dict[str, Any] | Missing:
    command = [sys.executable, "-m", "camscribe.benchmarks.child", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        error = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return Missing(f"the process that measures it failed: {error:.200}")
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def main(words: Sequence[str]) -> int:
    """Runs one of the measurements in this process."""
    if words[0] in ("memory", "enhancer-memory"):
        backend, precision, bundle, threads, *rest = words[1:]
        work = _caption if words[0] == "memory" else _enhance
        answer = _memory(backend, partial(work, backend, precision, Path(bundle), int(threads) or None, rest))
    elif words[0] == "build":
        answer = _build(words[1], Path(words[2]), int(words[3]))
    else:
        answer = _enhancer_build(words[1], Path(words[2]), words[3], words[4])
    print(json.dumps(answer))
    return 0


def _memory(backend: str, work: Callable[[], AbstractContextManager[object]]) -> dict[str, Any]:
    """Peak memory after ``work``, whose context holds what it opened."""
    free = None if backend == "cpu" else _free_device_bytes()
    with work():
        now = None if backend == "cpu" else _free_device_bytes()
        taken = None if isinstance(free, str) or isinstance(now, str) or free is None or now is None else free - now
    why = "runs on the CPU" if backend == "cpu" else now if isinstance(now, str) else "unknown"
    return {"host_bytes": _peak_bytes(), "device_bytes": taken, "device_missing": why}


def _caption(backend: str, precision: str, bundle: Path, threads: int | None, images: Sequence[str]) -> Captioner:
    captioner = Captioner.load(bundle, cast(Backend, backend), precision, threads)
    for image in images:
        captioner.caption(image)
    return captioner


def _enhance(backend: str, precision: str, bundle: Path, threads: int | None, rest: Sequence[str]) -> Enhancer:
    variant, size = rest
    enhancer = Enhancer.load(bundle, cast(Any, backend), precision, threads, variant=variant)
    enhancer.enlarge(np.zeros((*_rows_columns(size), 3), np.uint8))
    return enhancer


def _rows_columns(size: str) -> tuple[int, int]:
    width, _, height = size.partition("x")
    return int(height), int(width)


def _peak_bytes() -> int:
    """The most memory this process ever held. Not ``ru_maxrss``, which on Linux begins with that of the parent."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _free_device_bytes() -> int | str:
    """Free memory of the GPU, or why it is not known. A difference is this process's own where it is alone there."""
    from camscribe.runtime.cuda.driver import open_gpu

    try:
        gpu = open_gpu()
        with gpu.current("asking for free memory"):
            return int(gpu.cuda.mem_get_info()[0])
    except EngineError as error:
        return str(error)


def _build(precision: str, path: Path, beams: int) -> dict[str, Any]:
    from camscribe.runtime.cuda.driver import device_info
    from camscribe.runtime.tensorrt.engines import build_engines

    bundle, device = Bundle.load(path, "cuda", precision), device_info()
    return _twice(lambda: build_engines(bundle, precision, 1, beams, device, rebuild=True))


def _enhancer_build(precision: str, path: Path, variant: str, size: str) -> dict[str, Any]:
    from camscribe.runtime.cuda.driver import device_info
    from camscribe.runtime.tensorrt.enhancer_engines import build_engine

    bundle, device = EnhancerBundle.load(path, "cuda", variant, precision), device_info()
    return _twice(lambda: build_engine(bundle, variant, precision, *_rows_columns(size), device, rebuild=True))


def _twice(build: Callable[[], object]) -> dict[str, Any]:
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        build()
        seconds.append(time.perf_counter() - began)
    return {"cold_s": seconds[0], "timing_cache_s": seconds[1]}


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except CamscribeError as failure:
        print(failure, file=sys.stderr)
        sys.exit(2)
