"""Executors: what runs a bundle on a device, and how one is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import EngineError, OptionError
from camscribe.runtime.manifest import Device
from camscribe.runtime.onnxruntime_executor import OnnxRuntimeExecutor, why_not_cuda
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import Floats, Hypothesis, Progress, SearchOptions, Trace, hypotheses
from camscribe.runtime.threads import both

Backend = Literal["auto", "cpu", "cuda", "tensorrt"]


class Executor(Protocol):
    """Both graphs of a bundle on one device, buffers included. For one thread at a time.

    ``encode`` begins a search, each ``step`` continues it, ``trace`` shows what was selected so far.
    """

    def encode(self, images: Pixels, options: SearchOptions, bias: Floats) -> None:
        """Encodes images and sets the beams to their start.

        Args:
            images: uint8 [B, H, W, 3], RGB, reduced.
            options: ``beams``, ``max_words`` and ``min_words`` are used.
            bias: float32 [V], added to the log-probabilities.

        Raises:
            EngineError: the device failed, for want of memory as a rule.
        """

    def step(self) -> None:
        """Runs one decoder step; at most ``max_words`` after an ``encode``."""

    def trace(self, *, attention: bool = False) -> Trace:
        """The steps so far, in views of buffers that the next ``encode`` overwrites."""

    def close(self) -> None:
        """Gives memory and threads back."""


@dataclass(frozen=True)
class Choice:
    """Which backend was taken, and why."""

    backend: Device
    precision: str
    reasons: tuple[str, ...]
    """Why this one, and why not each of the others."""
    surprising: bool
    """True when something that should have worked did not, so that a user wants to know."""


def search(executor: Executor, options: SearchOptions) -> list[list[Hypothesis]]:
    """Searches captions of the images that ``executor`` has just encoded: n best for each image, best first."""
    progress = None
    for step in range(options.max_words):
        executor.step()
        if (step + 1) % options.poll == 0:
            trace = executor.trace()
            progress = progress or Progress(trace.token.shape[1], options)
            if progress.finished(trace):
                break
    return hypotheses(executor.trace(attention=True), options, progress)


def open_executor(
    path: Path | None, backend: Backend = "auto", precision: str | None = None, threads: int | None = None
) -> tuple[Bundle, Executor, Choice]:
    """Opens a bundle on the fastest backend that works here, or on the one that is asked for.

    Args:
        path: the bundle's folder, None for the default one.
        backend: ``auto`` tries the fastest first and says why not.
        precision: None for the device's default.
        threads: of a CPU; None for one per physical core.

    Raises:
        BundleError: the bundle cannot be used.
        EngineError: the backend does not work here.
        OptionError: the backend, the precision or the number of threads has no meaning.
    """
    if backend not in get_args(Backend):
        raise OptionError(f"backend is {backend!r}; expected {', '.join(get_args(Backend))}")
    if threads is not None and not 1 <= threads <= 1024:
        raise OptionError(f"threads is {threads}; expected 1 to 1024")
    if backend == "tensorrt":
        raise EngineError("this release has no TensorRT executor; use --backend auto, cpu or cuda")
    device: Device = "cuda" if backend == "cuda" else "cpu"
    # Hashing the graphs takes about as long as importing ONNX Runtime.
    bundle, missing = both(lambda: Bundle.load(path, device, precision), why_not_cuda)
    if backend == "cuda" and missing is not None:
        raise EngineError(f"backend cuda cannot be used: {missing}")
    if backend != "auto":
        executor, taken = _open(bundle, device, precision, threads)
        return bundle, executor, Choice(device, taken, (f"{backend}: asked for",), surprising=False)
    reasons = ["tensorrt: this release has no TensorRT executor"]
    # A GPU that stays idle is worth a word, a machine without one is not.
    surprising = missing is not None and has_nvidia_gpu()
    if missing is None:
        try:
            other = Bundle.load(path, "cuda", precision)
            executor, taken = _open(other, "cuda", precision, threads)
        except EngineError as error:
            missing, surprising = str(error), True
        else:
            reasons.append("cuda: taken, the fastest that works here")
            return other, executor, Choice("cuda", taken, tuple(reasons), surprising=False)
    executor, taken = _open(bundle, "cpu", precision, threads)
    reasons += [f"cuda: {missing}", "cpu: taken, it works everywhere"]
    return bundle, executor, Choice("cpu", taken, tuple(reasons), surprising)


def has_nvidia_gpu() -> bool:
    """Whether this machine shows an NVIDIA GPU, on a card or in a Jetson."""
    return any(Path(path).exists() for path in ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu"))


def _open(bundle: Bundle, device: Device, precision: str | None, threads: int | None) -> tuple[Executor, str]:
    taken = bundle.manifest.precision_for(device, precision)
    return OnnxRuntimeExecutor(bundle, taken, device, threads), taken
