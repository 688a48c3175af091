"""What is found out in a child process: imports that may crash or hang, and captions by each backend.

Each probe returns what becomes JSON. Raising is an answer too: ``main`` tells the parent why.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(question: Sequence[str]) -> None:
    """Answers a question, the name of a probe and its arguments, as a line of JSON; never returns."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is not the answer
    probe, *arguments = question
    try:
        answer = PROBES[probe](*arguments)
    except BaseException as error:  # SystemExit too: some modules leave when they find no device
        text = " ".join(str(error).split())[:500]
        answer = {"error": text or type(error).__name__, "kind": type(error).__name__}
        if isinstance(error, ModuleNotFoundError):
            answer["missing"] = error.name
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
    # Some drivers crash while the interpreter takes itself apart.
    os._exit(0)


def driver() -> dict[str, Any]:
    """The CUDA driver's library, asked without any package: its CUDA version and its GPUs."""
    import ctypes

    library = ctypes.CDLL("libcuda.so.1")

    def call(name: str, *arguments: Any) -> None:
        status = getattr(library, name)(*arguments)
        if status:
            text = ctypes.c_char_p()
            library.cuGetErrorName(status, ctypes.byref(text))
            raise RuntimeError(f"{name} says {(text.value or b'error').decode()} ({status})")

    version, count = ctypes.c_int(), ctypes.c_int()
    call("cuDriverGetVersion", ctypes.byref(version))
    call("cuInit", 0)
    call("cuDeviceGetCount", ctypes.byref(count))
    gpus = []
    for index in range(count.value):
        device, size, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
        call("cuDeviceGet", ctypes.byref(device), index)
        call("cuDeviceGetName", name, len(name), device)
        call("cuDeviceTotalMem_v2", ctypes.byref(size), device)
        attributes = []
        for attribute in (75, 76, 18):  # compute capability, major and minor; integrated
            value = ctypes.c_int()
            call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
            attributes.append(value.value)
        major, minor, integrated = attributes
        gpus.append(
            {
                "name": name.value.decode(errors="replace"),
                "compute_capability": f"{major}.{minor}",
                "total_bytes": size.value,
                "integrated": bool(integrated),
            }
        )
    return {"cuda": f"{version.value // 1000}.{version.value % 1000 // 10}", "gpus": gpus}


def onnxruntime() -> dict[str, Any]:
    """ONNX Runtime and what it can run on."""
    import onnxruntime as module

    # Where two packages overwrote each other and one was removed, an empty module is left.
    if not hasattr(module, "InferenceSession"):
        raise ImportError("the module is there, but without InferenceSession")
    return {"version": module.__version__, "providers": module.get_available_providers(), "file": module.__file__}


def tensorrt() -> dict[str, Any]:
    """TensorRT, or one of its smaller packages that run engines without building them."""
    # The first that is there, even where it does not load: that is what has to be mended.
    names = [name for name in ("tensorrt", "tensorrt_lean", "tensorrt_dispatch") if importlib.util.find_spec(name)]
    name = names[0] if names else "tensorrt"
    module = importlib.import_module(name)
    builds = hasattr(module, "Builder") and hasattr(module, "OnnxParser")
    return {"version": module.__version__, "module": name, "builds": builds, "file": module.__file__}


def pycuda() -> dict[str, Any]:
    """PyCUDA, and whether it gets along with the driver."""
    answer: dict[str, Any] = {"version": importlib.import_module("pycuda").VERSION_TEXT}
    try:
        cuda = importlib.import_module("pycuda.driver")
        cuda.init()
        answer["built_for_cuda"] = ".".join(map(str, cuda.get_version()))
    except Exception as error:  # its own errors, or the loader's
        answer["driver_error"] = " ".join(str(error).split())[:500]
    return answer


def cuda_python() -> dict[str, Any]:
    """cuda-python's bindings of the driver, which capture CUDA graphs."""
    import importlib.metadata

    bindings = importlib.import_module("cuda.bindings.driver")
    # The library of the driver is loaded by the first call only.
    if not hasattr(bindings, "cuStreamBeginCapture"):
        raise ImportError("cuda.bindings.driver has no cuStreamBeginCapture")
    return {"version": importlib.metadata.version("cuda-bindings")}


def nvrtc() -> dict[str, Any]:
    """NVRTC: compiles an empty kernel, as the preprocessing kernel would be. No GPU needed."""
    from camscribe.runtime.cuda.nvrtc import compile_cubin, installed

    version = installed()
    if version is None:
        raise FileNotFoundError("libnvrtc.so is not found")
    compile_cubin("__global__ void nothing() {}", "nothing.cu", (7, 5))
    return {"version": ".".join(map(str, version))}


def opencv() -> dict[str, Any]:
    """OpenCV, and whether it was built with GStreamer."""
    import cv2
    import numpy as np

    # Where a module without its library is left over, import alone succeeds.
    cv2.resize(np.zeros((4, 4, 3), np.uint8), (2, 2), interpolation=cv2.INTER_AREA)
    lines = [line.split(":", 1)[1].strip() for line in cv2.getBuildInformation().splitlines() if "GStreamer:" in line]
    gstreamer = lines[0] if lines else "NO"
    return {"version": cv2.__version__, "gstreamer": gstreamer, "file": cv2.__file__, "numpy": np.__version__}


def captions(bundle: str, backend: str) -> dict[str, Any]:
    """Captions the bundle's own test images and compares the words with those of the machine that exported it.

    Args:
        bundle: its folder, empty for the default one.
        backend: as for ``--backend``. ``cpu`` is checked in every precision with expected words, others in their own.
    """
    from camscribe.runtime.bundle import Bundle
    from camscribe.runtime.captioner import Captioner
    from camscribe.runtime.check import check_captions

    folder = Path(bundle) if bundle else None
    known = Bundle.load(folder).manifest
    precisions: list[Any] = list(known.parity.tokens) if backend == "cpu" else [None]
    checks = []
    for precision in precisions or [None]:
        with Captioner.load(folder, backend, precision) as captioner:  # type: ignore[arg-type]
            choice = captioner.choice
            checks.append({"backend": choice.backend, "reasons": choice.reasons, **check_captions(captioner)})
    return {"bundle": known.name, "checks": checks}


PROBES = {
    probe.__name__: probe for probe in (driver, onnxruntime, tensorrt, pycuda, cuda_python, nvrtc, opencv, captions)
}
