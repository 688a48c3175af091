"""The whole examination: asks the probes, hands their answers to the judges, and collects the report."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from camscribe.runtime.doctor.backends import ask_backend, judge_backend, judge_bundle, judge_tensorrt_backend
from camscribe.runtime.doctor.gpu import judge_gpu, judge_toolkit, read_gpu
from camscribe.runtime.doctor.jetson import judge_board, judge_power, read_board
from camscribe.runtime.doctor.machine import Machine
from camscribe.runtime.doctor.packages import judge_onnxruntime, judge_opencv
from camscribe.runtime.doctor.report import Item, Report, pip_install
from camscribe.runtime.doctor.system import judge_cameras, judge_java, judge_python
from camscribe.runtime.doctor.tensorrt import judge_cuda_python, judge_nvrtc, judge_pycuda, judge_tensorrt

_LIBRARIES = ("onnxruntime", "opencv", "tensorrt", "pycuda", "cuda_python", "nvrtc")
_SECONDS = 60
"""For an import. On a memory card TensorRT takes several seconds."""


def examine(
    machine: Machine, camscribe: str, bundle: str = "", looking: Callable[[str], None] = lambda what: None
) -> Report:
    """Examines a machine.

    Args:
        machine: it.
        camscribe: version of camscribe.
        bundle: folder of the bundle to caption with; empty for the default one.
        looking: is told what is looked at next, for a progress line.
    """
    looking("libraries")
    board = read_board(machine)
    jetson = board is not None
    # Two at a time: importing is work for a core, and on a small machine for the disk.
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(read_gpu, machine, jetson=jetson)
        asked = {name: pool.submit(machine.ask, [name], _SECONDS) for name in _LIBRARIES}
        gpu, answers = reading.result(), {name: future.result() for name, future in asked.items()}
    gpu_item = judge_gpu(gpu)
    toolkit = judge_toolkit(machine, gpu)
    onnxruntime = judge_onnxruntime(machine, answers["onnxruntime"], gpu=gpu.present, cuda=gpu.cuda)
    opencv = judge_opencv(machine, answers["opencv"], jetson=jetson)
    tensorrt = judge_tensorrt(machine, answers["tensorrt"], gpu)
    pycuda = judge_pycuda(answers["pycuda"], gpu, toolkit)
    cuda_python = judge_cuda_python(answers["cuda_python"], gpu)
    nvrtc = judge_nvrtc(answers["nvrtc"], gpu)
    looking("captions on the CPU")
    on_cpu = ask_backend(machine, bundle, "cpu")
    backends = [judge_backend("cpu", on_cpu, (onnxruntime, opencv))]
    looking("captions on the GPU")
    backends.append(_cuda(machine, bundle, gpu_item, onnxruntime, opencv))
    automatic = ask_backend(machine, bundle, "auto") if gpu.works and tensorrt.works and pycuda.works else {}
    needs = (gpu_item, tensorrt, pycuda, onnxruntime, opencv)
    backends.append(judge_tensorrt_backend(automatic, gpu, needs))
    items: list[Item] = [
        judge_python(machine),
        *([judge_board(board), judge_power(machine)] if board is not None else []),
        gpu_item,
        toolkit,
        onnxruntime,
        tensorrt,
        pycuda,
        cuda_python,
        nvrtc,
        opencv,
        judge_cameras(machine, answers["opencv"], jetson=jetson),
        judge_java(machine),
        judge_bundle(on_cpu, bundle or "default"),
    ]
    return Report(camscribe, f"{machine.system} {machine.architecture}", tuple(items), tuple(backends))


def _cuda(machine: Machine, bundle: str, gpu: Item, onnxruntime: Item, opencv: Item) -> Item:
    """The backend cuda, tried only where a GPU and a build for it are there."""
    if gpu.status == "absent":
        return Item("cuda", "cuda", "absent", "needs an NVIDIA GPU")
    providers = onnxruntime.facts.get("providers", ())
    if onnxruntime.works and "CUDA" not in providers:
        # On an ARM board the package index has a GPU build for few of the versions that there are.
        swap = f"pip uninstall --yes onnxruntime && {pip_install('onnxruntime-gpu[cuda,cudnn]')}"
        mend = onnxruntime.mend or (swap if machine.architecture == "x86_64" else None)
        return Item("cuda", "cuda", "absent", "this ONNX Runtime is built without CUDA", mend=mend)
    return judge_backend("cuda", ask_backend(machine, bundle, "cuda"), (gpu, onnxruntime, opencv))
