"""Packages that break each other, and libraries of every sorry kind, from described machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from camscribe.runtime.doctor.gpu import GpuFacts
from camscribe.runtime.doctor.machine import Machine, Package
from camscribe.runtime.doctor.packages import judge_onnxruntime, judge_opencv
from camscribe.runtime.doctor.report import Item
from camscribe.runtime.doctor.tensorrt import (
    judge_cuda_python,
    judge_nvrtc,
    judge_pycuda,
    judge_tensorrt,
    where_from,
)

Describe = Callable[..., Machine]

SITE, SYSTEM = "/venv/lib/python3.11/site-packages", "/usr/lib/python3/dist-packages"
CPU = {"version": "1.32.0", "providers": ["AzureExecutionProvider", "CPUExecutionProvider"]}
CUDA = {"version": "1.31.1", "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
DESKTOP = GpuFacts(True, True, "580.95", {"cuda": "13.0", "gpus": [{}]})
OLD_DRIVER = GpuFacts(True, True, "535.183", {"cuda": "12.2", "gpus": [{}]})
JETSON = GpuFacts(True, True, None, {"cuda": "12.6", "gpus": [{}]}, jetson=True)
NO_GPU = GpuFacts(False, False, None, {"error": "libcuda.so.1: cannot open shared object file"})
TOOLKIT = Item("cuda_toolkit", "CUDA toolkit", "ok", "13.0")


def missing(module: str) -> dict[str, Any]:
    return {"error": f"No module named {module!r}", "kind": "ModuleNotFoundError", "missing": module}


@pytest.mark.parametrize("gpu", [False, True])
def test_both_onnx_runtimes_in_one_folder_break_each_other(describe: Describe, gpu: bool) -> None:
    machine = describe(packages=[Package("onnxruntime", "1.32.0", SITE), Package("onnxruntime-gpu", "1.31.1", SITE)])
    # The one that was installed last may work, until an upgrade of the other.
    item = judge_onnxruntime(machine, CPU, gpu=gpu, cuda=None)
    assert item.status == "warning"
    assert judge_onnxruntime(machine, {"error": "no InferenceSession"}, gpu=gpu, cuda=None).status == "broken"
    assert "onnxruntime and onnxruntime-gpu are both installed" in item.detail
    kept = "onnxruntime-gpu" if gpu else "onnxruntime"
    # Removing one takes files of the other along, so both go before one comes back.
    assert item.mend == f"pip uninstall --yes onnxruntime onnxruntime-gpu && pip install {kept}"


def test_two_onnx_runtimes_in_two_folders_do_not(describe: Describe) -> None:
    machine = describe(packages=[Package("onnxruntime", "1.32.0", SITE), Package("onnxruntime-gpu", "1.19", SYSTEM)])
    assert judge_onnxruntime(machine, CPU, gpu=False, cuda=None).status == "ok"


@pytest.mark.parametrize(
    ("answer", "gpu", "status", "mend"),
    [
        (CPU, False, "ok", None),
        (missing("onnxruntime"), False, "absent", 'pip install "camscribe[cpu]"'),
        (missing("onnxruntime"), True, "absent", 'pip install "camscribe[cuda]"'),
        ({"error": "crashed (SIGILL)"}, False, "broken", "pip install --force-reinstall --no-deps onnxruntime"),
        (
            {"error": "did not finish within 60 seconds"},
            False,
            "broken",
            "pip install --force-reinstall --no-deps onnxruntime",
        ),
    ],
)
def test_onnx_runtime(describe: Describe, answer: dict[str, Any], gpu: bool, status: str, mend: str | None) -> None:
    item = judge_onnxruntime(describe(), answer, gpu=gpu, cuda=None)
    assert (item.status, item.mend) == (status, mend)


@pytest.mark.parametrize(
    ("requirement", "driver", "status"),
    [
        ('nvidia-cuda-runtime~=13.0; extra == "cuda"', "13.0", "ok"),
        ('nvidia-cuda-runtime~=13.0; extra == "cuda"', "12.2", "broken"),
        ('nvidia-cuda-runtime-cu13~=13.0; extra == "cuda"', "12.2", "broken"),
        ('nvidia-cuda-runtime-cu12~=12.0; extra == "cuda"', "12.2", "ok"),
        ("numpy>=1.21.6", "12.2", "ok"),
    ],
)
def test_an_onnx_runtime_for_a_newer_cuda_than_the_driver_s(
    describe: Describe, requirement: str, driver: str, status: str
) -> None:
    machine = describe(packages=[Package("onnxruntime-gpu", "1.31.1", SITE, (requirement,))])
    item = judge_onnxruntime(machine, CUDA, gpu=True, cuda=driver)
    assert (item.status, item.support) == (status, "never run")
    assert item.mend == (None if status == "ok" else 'pip install "onnxruntime-gpu[cuda,cudnn]<1.27"')


OPENCV = {"version": "4.11.0", "gstreamer": "NO", "numpy": "2.1.0"}


def test_several_opencvs_overwrite_each_other(describe: Describe) -> None:
    names = ("opencv-python", "opencv-contrib-python", "opencv-python-headless")
    machine = describe(packages=[Package(name, "4.11.0", SITE) for name in names])
    item = judge_opencv(machine, OPENCV, jetson=False)
    assert item.status == "warning"
    assert item.mend == f"pip uninstall --yes {' '.join(names)} && pip install opencv-python-headless"


@pytest.mark.parametrize(
    ("answer", "jetson", "status", "detail", "mend"),
    [
        (OPENCV, False, "ok", "4.11.0, without GStreamer", None),
        ({**OPENCV, "gstreamer": "YES (1.20.3)"}, True, "ok", "4.11.0, with GStreamer", None),
        (missing("cv2"), False, "absent", "not installed", "pip install opencv-python-headless"),
        (missing("cv2"), True, "absent", "not installed", "sudo apt install nvidia-opencv"),
        ({"error": "numpy.core.multiarray failed to import"}, True, "broken", "another NumPy", 'pip install "numpy<2"'),
        ({"error": "libGL.so.1: cannot open shared object file"}, False, "broken", "libGL",
         "pip install opencv-python-headless"),
        ({"error": "crashed (SIGSEGV)"}, False, "broken", "crashed",
         "pip install --force-reinstall --no-deps opencv-python-headless"),
    ],
)  # fmt: skip
def test_opencv(
    describe: Describe, answer: dict[str, Any], jetson: bool, status: str, detail: str, mend: str | None
) -> None:
    item = judge_opencv(describe(), answer, jetson=jetson)
    assert (item.status, item.mend) == (status, mend)
    assert detail in item.detail


def test_pip_s_opencv_hides_jetpack_s(describe: Describe) -> None:
    files = {"/usr/lib/python3.10/dist-packages/cv2/__init__.py": ""}
    machine = describe(files, packages=[Package("opencv-python", "4.11.0", SITE)])
    item = judge_opencv(machine, OPENCV, jetson=True)
    assert (item.status, item.mend) == ("warning", "pip uninstall --yes opencv-python")


JETPACK_FILE = "/usr/lib/python3.10/dist-packages/tensorrt/__init__.py"
PIP_FILE = f"{SITE}/tensorrt/__init__.py"


def test_where_tensorrt_comes_from() -> None:
    assert where_from(JETPACK_FILE, jetson=True) == "JetPack"
    assert where_from(JETPACK_FILE, jetson=False) == "the system"
    assert where_from(PIP_FILE, jetson=True) == "pip"
    assert where_from("/usr/local/lib/python3.10/dist-packages/tensorrt/__init__.py", jetson=True) == "pip"


def engine(version: str, file: str = PIP_FILE, **more: Any) -> dict[str, Any]:
    return {"version": version, "module": "tensorrt", "builds": True, "file": file, **more}


@pytest.mark.parametrize(
    ("answer", "gpu", "packages", "status", "detail", "mend"),
    [
        (engine("8.6.0"), DESKTOP, (), "ok", "8.6.0, from pip", None),
        (engine("10.3.0", JETPACK_FILE), JETSON, (), "ok", "10.3.0, from JetPack", None),
        (engine("11.4.1.7", JETPACK_FILE), JETSON, (), "ok", "from JetPack", None),
        (engine("8.4.1"), DESKTOP, (), "broken", "8.5 or newer", 'pip install "camscribe[tensorrt]"'),
        (engine("11.4.0.106"), JETSON, ("tensorrt",), "broken", "not run on a Jetson", "pip uninstall --yes tensorrt"),
        (engine("11.3.0.99"), JETSON, ("tensorrt",), "broken", "not run on a Jetson", "pip uninstall --yes tensorrt"),
        (engine("10.16.1", PIP_FILE), JETSON, ("tensorrt",), "warning", "use JetPack's",
         "pip uninstall --yes tensorrt"),
        (engine("11.4.0"), OLD_DRIVER, ("tensorrt", "tensorrt-cu13"), "broken", "driver runs up to 12.2",
         "pip uninstall --yes tensorrt tensorrt-cu13 && pip install tensorrt-cu12"),
        (engine("11.4.0"), OLD_DRIVER, ("tensorrt-cu12",), "ok", "11.4.0", None),
        (engine("11.4.0", module="tensorrt_lean", builds=False), DESKTOP, (), "warning", "cannot build",
         'pip install "camscribe[tensorrt]"'),
        (engine("11.4.0"), NO_GPU, (), "warning", "no GPU", None),
        (engine("12.0.1"), DESKTOP, (), "ok", "beyond the versions we looked at", None),
        (missing("tensorrt"), DESKTOP, (), "absent", "not installed", 'pip install "camscribe[tensorrt]"'),
        (missing("tensorrt"), DESKTOP, ("onnxruntime",), "absent", "not installed",
         'pip uninstall --yes onnxruntime && pip install "camscribe[tensorrt]"'),
        (missing("tensorrt"), DESKTOP, ("onnxruntime-gpu",), "absent", "not installed",
         'pip install "camscribe[tensorrt]"'),
        (missing("tensorrt"), JETSON, ("onnxruntime",), "absent", "not installed", "sudo apt install nvidia-jetpack"),
        (missing("tensorrt"), NO_GPU, (), "absent", "not installed", None),
        ({"error": "libnvinfer.so.10: cannot open shared object file"}, DESKTOP, (), "broken", "libnvinfer",
         "pip install --force-reinstall --no-deps tensorrt"),
    ],
)  # fmt: skip
def test_tensorrt(
    describe: Describe, answer: dict[str, Any], gpu: GpuFacts, packages: tuple[str, ...], status: str, detail: str,
    mend: str | None,
) -> None:  # fmt: skip
    machine = describe(packages=[Package(name, "11.4.0", SITE) for name in packages])
    item = judge_tensorrt(machine, answer, gpu)
    assert (item.status, item.mend) == (status, mend)
    assert detail in item.detail
    if item.version:
        assert item.support == ("never run" if item.version in ("8.4.1", "12.0.1") else "API-checked only")


def test_pycuda() -> None:
    works = {"version": "2026.1", "built_for_cuda": "12.6.0"}
    assert judge_pycuda(works, DESKTOP, TOOLKIT).status == "ok"
    assert judge_pycuda(missing("pycuda"), DESKTOP, TOOLKIT).mend == "pip install pycuda"
    assert judge_pycuda(missing("pycuda"), NO_GPU, TOOLKIT).mend is None
    off_path = Item("cuda_toolkit", "CUDA toolkit", "warning", "", mend="export PATH=/usr/local/cuda/bin:$PATH")
    assert judge_pycuda(missing("pycuda"), JETSON, off_path).mend == off_path.mend
    other = {"version": "2026.1", "driver_error": "libcurand.so.10: cannot open shared object file"}
    item = judge_pycuda(other, DESKTOP, TOOLKIT)
    assert item.status == "broken"
    assert item.mend is not None
    assert "--no-binary pycuda" in item.mend
    assert judge_pycuda(other, NO_GPU, TOOLKIT).status == "warning"
    # A module of the name that lacks another one is there and broken, not absent.
    assert judge_pycuda(missing("mako"), DESKTOP, TOOLKIT).status == "broken"


@pytest.mark.parametrize(
    ("gpu", "requirement"), [(OLD_DRIVER, ">=12.6,<13"), (DESKTOP, ">=13"), (JETSON, ">=12.6,<13")]
)
def test_cuda_python_follows_the_driver(gpu: GpuFacts, requirement: str) -> None:
    item = judge_cuda_python(missing("cuda.bindings"), gpu)
    assert (item.status, item.mend) == ("absent", f'pip install "cuda-python{requirement}"')
    assert judge_cuda_python({"version": "13.5.0"}, gpu).status == "ok"


@pytest.mark.parametrize(
    ("gpu", "mend"),
    [
        (DESKTOP, "pip install nvidia-cuda-nvrtc"),
        (OLD_DRIVER, "pip install nvidia-cuda-nvrtc-cu12"),
        (JETSON, "sudo apt install nvidia-jetpack"),
        (NO_GPU, None),
    ],
)
def test_nvrtc(gpu: GpuFacts, mend: str | None) -> None:
    item = judge_nvrtc({"error": "libnvrtc.so is not found", "kind": "FileNotFoundError"}, gpu)
    assert (item.status, item.mend) == ("absent", mend)
    assert judge_nvrtc({"version": "13.2"}, gpu).status == "ok"
    broken = judge_nvrtc({"error": "nvrtcCompileProgram says error 6", "kind": "RuntimeError"}, gpu)
    assert (broken.status, broken.mend) == ("broken", mend)
