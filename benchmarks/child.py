"""What must be measured in a fresh process: a variant's peak memory, and how long its engines take to build.

    python -m camscribe.benchmarks.child memory BACKEND PRECISION BUNDLE THREADS IMAGE...
    python -m camscribe.benchmarks.child build PRECISION BUNDLE BEAMS

Prints a JSON object as its last line. ``memory`` and ``build`` below start it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from camscribe.benchmarks.schema import Build, Memory, Missing
from camscribe.benchmarks.variants import Opened
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import CamscribeError, EngineError
from camscribe.runtime.executor import Backend


def memory(variant: Opened, images: Sequence[Path], threads: int | None) -> Memory | Missing:
    """Peak memory of a process that opens the variant and captions the images."""
    words = ["memory", variant.backend, variant.precision, str(variant.bundle.path), str(threads or 0)]
    answer = _ask([*words, *map(str, images)])
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
    """Runs one of the two measurements in this process."""
    if words[0] == "memory":
        backend, precision, bundle, threads, *images = words[1:]
        answer = _memory(backend, precision, Path(bundle), int(threads) or None, images)
    else:
        answer = _build(words[1], Path(words[2]), int(words[3]))
    print(json.dumps(answer))
    return 0


def _memory(backend: str, precision: str, bundle: Path, threads: int | None, images: Sequence[str]) -> dict[str, Any]:
    free = None if backend == "cpu" else _free_device_bytes()
    with Captioner.load(bundle, cast(Backend, backend), precision, threads) as captioner:
        for image in images:
            captioner.caption(image)
        now = None if backend == "cpu" else _free_device_bytes()
        taken = None if isinstance(free, str) or isinstance(now, str) or free is None or now is None else free - now
    why = "runs on the CPU" if backend == "cpu" else now if isinstance(now, str) else "unknown"
    return {"host_bytes": _peak_bytes(), "device_bytes": taken, "device_missing": why}


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
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        build_engines(bundle, precision, 1, beams, device, rebuild=True)
        seconds.append(time.perf_counter() - began)
    return {"cold_s": seconds[0], "timing_cache_s": seconds[1]}


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except CamscribeError as failure:
        print(failure, file=sys.stderr)
        sys.exit(2)
