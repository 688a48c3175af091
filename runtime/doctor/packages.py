"""Packages that break each other, because several of them install one and the same module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from camscribe.runtime.doctor.known import support
from camscribe.runtime.doctor.machine import Machine, Package
from camscribe.runtime.doctor.report import Item, pip_install

ONNXRUNTIME = ("onnxruntime", "onnxruntime-gpu")
"""Ours first; the others are further builds that install the same module."""
_ONNXRUNTIME_OTHERS = (
    "onnxruntime-azure",
    "onnxruntime-cann",
    "onnxruntime-directml",
    "onnxruntime-migraphx",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-silicon",
    "onnxruntime-training",
    "onnxruntime-trt-rtx",
    "onnxruntime-webgpu",
)
_OPENCV = ("opencv-python", "opencv-contrib-python", "opencv-python-headless", "opencv-contrib-python-headless")


def judge_onnxruntime(machine: Machine, answer: Mapping[str, Any], *, gpu: bool, cuda: str | None) -> Item:
    """ONNX Runtime, its providers and what they need.

    Args:
        machine: this machine.
        answer: of the probe ``onnxruntime``.
        gpu: whether this machine has an NVIDIA GPU.
        cuda: newest CUDA that the driver runs, None where it runs none.
    """

    def item(status: Any, detail: str, mend: str | None = None) -> Item:
        return Item("onnxruntime", "ONNX Runtime", status, detail, version, known, mend, facts)

    providers = [str(name).removesuffix("ExecutionProvider") for name in answer.get("providers", ())]
    version = answer.get("version")
    what = "ONNX Runtime on CUDA" if "CUDA" in providers else "ONNX Runtime on a CPU"
    known = support(what, version) if version else None
    installed = [item for item in machine.packages if item.name in ONNXRUNTIME + _ONNXRUNTIME_OTHERS]
    facts = {"packages": _listed(installed), "providers": providers}
    twice = _overlapping(installed)
    if twice:
        keep = "onnxruntime-gpu" if gpu and "onnxruntime-gpu" in twice else "onnxruntime"
        detail = f"{' and '.join(twice)} are both installed; they are one module and break each other"
        return item("broken" if "error" in answer else "warning", detail, _replace(twice, keep))
    wanted = "camscribe[cuda]" if gpu and machine.architecture == "x86_64" else "camscribe[cpu]"
    if "error" in answer:
        if answer.get("missing") == "onnxruntime":
            return item("absent", "not installed", pip_install(wanted))
        broken = installed[0].name if installed else "onnxruntime"
        return item(
            "broken", f"cannot be imported: {answer['error']}", f"pip install --force-reinstall --no-deps {broken}"
        )
    detail = f"{version}, providers: {', '.join(providers)}"
    if "CUDA" in providers and cuda is not None:
        needs = _cuda_of(machine.package("onnxruntime-gpu"))
        if needs is not None and int(cuda.partition(".")[0]) < needs:
            detail += f"; it is built for CUDA {needs}, the driver runs up to {cuda}"
            return item("broken", detail, pip_install("onnxruntime-gpu[cuda,cudnn]<1.27"))
    return item("ok", detail)


def judge_opencv(machine: Machine, answer: Mapping[str, Any], *, jetson: bool) -> Item:
    """OpenCV: several packages at once, a NumPy that it was not built for, and GStreamer."""

    def item(status: Any, detail: str, mend: str | None = None) -> Item:
        return Item("opencv", "OpenCV", status, detail, answer.get("version"), None, mend, facts)

    installed = [item for item in machine.packages if item.name in _OPENCV]
    facts = {"packages": _listed(installed), "gstreamer": answer.get("gstreamer"), "numpy": answer.get("numpy")}
    system = any(
        machine.names(f"/usr/lib/{folder}/dist-packages", "cv2*") for folder in machine.names("/usr/lib", "python3*")
    )
    if "error" in answer:
        error = str(answer["error"])
        if answer.get("missing") == "cv2":
            mend = "sudo apt install nvidia-opencv" if jetson else pip_install("opencv-python-headless")
            return item("absent", "not installed", mend)
        if "numpy" in error.lower():
            return item("broken", f"was built for another NumPy: {error}", pip_install("numpy<2"))
        if "libGL" in error:
            return item("broken", f"{error}", _replace([package.name for package in installed], _OPENCV[2]))
        return item(
            "broken", f"cannot be imported: {error}", "pip install --force-reinstall --no-deps opencv-python-headless"
        )
    gstreamer = not str(answer.get("gstreamer", "NO")).upper().startswith("NO")
    detail = f"{answer.get('version')}, {'with' if gstreamer else 'without'} GStreamer"
    twice = _overlapping(installed)
    if twice:
        detail += f"; {', '.join(twice)} are all installed, and overwrite each other"
        return item("warning", detail, _replace(twice, "opencv-python-headless"))
    if jetson and installed and system and not gstreamer:
        detail += "; it hides JetPack's OpenCV, which has GStreamer"
        return item("warning", detail, f"pip uninstall --yes {installed[0].name}")
    return item("ok", detail)


def _overlapping(installed: list[Package]) -> list[str]:
    """Names of packages that lie in one folder, where they overwrite each other's files."""
    folders = [package.folder for package in installed]
    return list(dict.fromkeys(package.name for package in installed if folders.count(package.folder) > 1))


def _replace(names: list[str], keep: str) -> str:
    """The command that leaves one of several packages. It must be installed anew: the others took its files along."""
    uninstall = f"pip uninstall --yes {' '.join(names)} && " if names else ""
    return f"{uninstall}pip install {keep}"


def _listed(installed: list[Package]) -> list[str]:
    return [f"{package.name}=={package.version}" for package in installed]


def _cuda_of(package: Package | None) -> int | None:
    """The first number of the CUDA that an ``onnxruntime-gpu`` is built for, by what its extras require."""
    for requirement in package.requires if package is not None else ():
        if requirement.startswith("nvidia-cuda-runtime"):
            return 12 if requirement.startswith("nvidia-cuda-runtime-cu12") else 13
    return None
