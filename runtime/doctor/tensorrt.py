"""TensorRT, and what its executor needs beside it: PyCUDA, cuda-python and NVRTC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from camscribe.runtime.doctor.gpu import GpuFacts
from camscribe.runtime.doctor.known import API_CHECKED, support
from camscribe.runtime.doctor.machine import Machine
from camscribe.runtime.doctor.report import Item, pip_install
from camscribe.runtime.tensorrt.versions import NOT_ON_A_JETSON, OLDEST

_PIP_NAMES = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-cu11", "tensorrt-lean", "tensorrt-dispatch")


def judge_tensorrt(machine: Machine, answer: Mapping[str, Any], gpu: GpuFacts) -> Item:
    """TensorRT: from pip or from the system, whether the version is one we support, and whether the driver runs it."""

    def item(status: Any, detail: str, mend: str | None = None) -> Item:
        return Item("tensorrt", "TensorRT", status, detail, version, known, mend, facts)

    version = answer.get("version")
    known = support("TensorRT", version) if version else None
    packages = [package for package in machine.packages if package.name in _PIP_NAMES]
    origin = where_from(str(answer.get("file", "")), jetson=gpu.jetson)
    facts = {
        "origin": origin if version else None,
        "module": answer.get("module"),
        "packages": [f"{package.name}=={package.version}" for package in packages],
    }
    install = pip_install("camscribe[tensorrt]")
    if gpu.jetson:
        install = "sudo apt install nvidia-jetpack"
    elif machine.package("onnxruntime") is not None and machine.package("onnxruntime-gpu") is None:
        install = f"pip uninstall --yes onnxruntime && {install}"  # the extra brings onnxruntime-gpu, never both
    if "error" in answer:
        if answer.get("missing") == "tensorrt":
            return item("absent", "not installed", install if gpu.present else None)
        mend = install if gpu.jetson else "pip install --force-reinstall --no-deps tensorrt"
        return item("broken", f"cannot be imported: {answer['error']}", mend)
    numbers = tuple(int(part) for part in str(version).split(".")[:3] if part.isdigit())
    detail = f"{version}, from {origin}"
    if numbers < OLDEST[:2]:
        return item("broken", f"{detail}; 8.5 or newer is needed", install)
    if gpu.jetson and NOT_ON_A_JETSON[0] <= numbers < NOT_ON_A_JETSON[1]:
        return item("broken", f"{detail}; this version does not run on a Jetson", "pip uninstall --yes tensorrt")
    if gpu.jetson and origin == "pip":
        detail += "; on a Jetson use JetPack's"
        return item("warning", detail, f"pip uninstall --yes {' '.join(package.name for package in packages)}")
    for_cuda_13 = any(package.name.startswith("tensorrt-cu13") for package in machine.packages)
    if for_cuda_13 and gpu.cuda is not None and int(gpu.cuda.partition(".")[0]) < 13:
        detail += f"; it is built for CUDA 13, the driver runs up to {gpu.cuda}"
        return item("broken", detail, "pip uninstall --yes tensorrt tensorrt-cu13 && pip install tensorrt-cu12")
    if not answer.get("builds", True):
        return item("warning", f"{detail}; {answer.get('module')} runs engines but cannot build them", install)
    if not gpu.present:
        return item("warning", f"{detail}; there is no GPU to run it")
    if known == "never run":
        detail += f"; beyond the versions we looked at, {' to '.join(API_CHECKED['TensorRT'])}"
    return item("ok", detail)


def where_from(file: str, *, jetson: bool) -> str:
    """Who installed a module, by its file: ``pip``, ``JetPack`` or ``the system``."""
    if "/dist-packages/" in file and "/local/" not in file:  # Debian's and Ubuntu's own packages
        return "JetPack" if jetson else "the system"
    return "pip"


def judge_pycuda(answer: Mapping[str, Any], gpu: GpuFacts, toolkit: Item) -> Item:
    """PyCUDA, which is built on the machine: that takes nvcc."""

    def item(status: Any, detail: str, mend: str | None = None) -> Item:
        return Item("pycuda", "PyCUDA", status, detail, version, known, mend)

    version = answer.get("version")
    known = support("PyCUDA", version) if version else None
    if "error" in answer:
        if answer.get("missing") == "pycuda":
            # Building it fails where nvcc is not found; that comes first.
            mend = (toolkit.mend or pip_install("pycuda")) if gpu.present else None
            return item("absent", "not installed; only the TensorRT executor needs it", mend)
        return item(
            "broken", f"cannot be imported: {answer['error']}", "pip install --force-reinstall --no-deps pycuda"
        )
    if "driver_error" not in answer:
        return item("ok", f"{version}, built for CUDA {answer.get('built_for_cuda')}")
    detail = f"{version}, but cannot use the driver: {answer['driver_error']}"
    if not gpu.works:
        return item("broken" if gpu.present else "warning", detail)
    rebuild = "pip install --force-reinstall --no-deps --no-cache-dir --no-binary pycuda pycuda"
    return item("broken", detail, toolkit.mend or rebuild)


def judge_cuda_python(answer: Mapping[str, Any], gpu: GpuFacts) -> Item:
    """cuda-python, without which TensorRT's steps are launched one by one."""
    version = answer.get("version")
    if "error" not in answer:
        return Item("cuda_python", "cuda-python", "ok", str(version), version)
    major = int((gpu.cuda or "13").partition(".")[0])
    install = pip_install("cuda-python>=12.6,<13" if major < 13 else "cuda-python>=13")
    if str(answer.get("missing", "")).partition(".")[0] == "cuda":
        detail = "not installed; with it TensorRT's steps are captured as CUDA graphs"
        return Item("cuda_python", "cuda-python", "absent", detail, mend=install if gpu.present else None)
    return Item("cuda_python", "cuda-python", "broken", f"cannot be imported: {answer['error']}", mend=install)


def judge_nvrtc(answer: Mapping[str, Any], gpu: GpuFacts) -> Item:
    """NVRTC, which compiles the preprocessing kernel when it is first used."""
    if "error" not in answer:
        version = str(answer.get("version"))
        return Item("nvrtc", "NVRTC", "ok", f"{version}, compiles", version)
    if gpu.jetson:
        mend = "sudo apt install nvidia-jetpack"
    else:
        old = gpu.cuda is not None and gpu.cuda.startswith("12.")
        mend = pip_install("nvidia-cuda-nvrtc-cu12" if old else "nvidia-cuda-nvrtc")
    if answer.get("kind") == "FileNotFoundError":
        detail = "not installed; only images that lie on the GPU need it"
        return Item("nvrtc", "NVRTC", "absent", detail, mend=mend if gpu.present else None)
    return Item("nvrtc", "NVRTC", "broken", f"does not compile: {answer['error']}", mend=mend if gpu.present else None)
