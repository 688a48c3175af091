"""Executors: what runs a bundle on a device, and how one is chosen."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.cuda.nodes import GPU_NODES
from camscribe.runtime.errors import EngineError, NoEngineError, OptionError
from camscribe.runtime.fallback import FallbackExecutor
from camscribe.runtime.manifest import Device
from camscribe.runtime.onnxruntime_executor import OnnxRuntimeExecutor, onnxruntime, why_not_cuda, why_not_tensorrt
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import Floats, Hypothesis, Progress, SearchOptions, Selection, Trace, hypotheses
from camscribe.runtime.threads import both, check_threads, nothing

if TYPE_CHECKING:
    from camscribe.runtime.cuda.arrays import DeviceImage
    from camscribe.runtime.guided.guide import Guide
    from camscribe.runtime.tensorrt.executor import TensorRTExecutor

Backend = Literal["auto", "cpu", "cuda", "cuda-graph", "tensorrt", "ort-tensorrt"]
"""``cuda`` is ONNX Runtime on a GPU, ``cuda-graph`` the same with each step recorded as a CUDA graph, ``ort-tensorrt``
ONNX Runtime with its own TensorRT provider, ``tensorrt`` our executor on engines made by ``camscribe build``."""

_LOG = logging.getLogger(__name__)


class Executor(Protocol):
    """Both graphs of a bundle on one device, buffers included. For one thread at a time.

    ``encode`` begins a search, each ``step`` continues it, ``trace`` shows what was selected so far.
    """

    @property
    def poll(self) -> int:
        """Steps to run between two looks at the trace: 1 where a look costs nothing."""

    def encode(self, images: Pixels | Sequence[Pixels | DeviceImage], options: SearchOptions, bias: Floats) -> None:
        """Encodes images and sets the beams to their start.

        Args:
            images: uint8 [B, H, W, 3], RGB, reduced; or a sequence of such [H, W, 3] and of images of any size on the
                GPU, which one that runs there reads where they lie.
            options: ``beams``, ``max_words`` and ``min_words`` are used.
            bias: float32 [V], added to the log-probabilities.

        Raises:
            EngineError: the device failed, for want of memory as a rule.
        """

    def step(self) -> None:
        """Runs one decoder step; at most ``max_words`` after an ``encode``."""

    def propose(self) -> Floats:
        """Runs one decoder step for a host that selects by itself; ``choose`` must follow.

        Returns:
            float32 [B, K, V], log-probabilities of what comes next, without ``bias``; a view that the next one
            overwrites.
        """

    def choose(self, selection: Selection) -> None:
        """Puts the host's selection in place of the one that the graph made in the last step."""

    def trace(self, *, attention: bool = False) -> Trace:
        """The steps so far, in views of buffers that the next ``encode`` overwrites."""

    def boxes(self) -> Floats | None:
        """Where the positions of the attention lie in the images encoded last, where the encoder finds boxes.

        Returns:
            float32 [B, P, 4]: left, top, right and bottom as fractions of what the model sees, zeros where an image has
            fewer; a view of a buffer that the next ``encode`` overwrites. None where the positions are cells of a grid.
        """

    def close(self) -> None:
        """Gives memory and threads back."""


@dataclass(frozen=True)
class Choice:
    """Which backend was taken, and why."""

    backend: Backend
    precision: str
    reasons: tuple[str, ...]
    """Why this one, and why not each of the others."""
    surprising: bool
    """True when something that should have worked did not, so that a user wants to know."""


def search(executor: Executor, options: SearchOptions, guide: Guide | None = None) -> list[list[Hypothesis]]:
    """Searches captions of the images that ``executor`` has just encoded: n best for each image, best first.

    Args:
        executor: its ``encode`` was told ``guide.executor_options``, or ``options``.
        options: of the search.
        guide: selects on the host, for what the decoder graph cannot select.
    """
    if guide is not None:
        for _ in range(options.max_words):
            executor.choose(guide.select(executor.propose()))
            if guide.finished(executor.trace()):
                break
        return guide.hypotheses(executor.trace(attention=True))
    progress = None
    poll = max(options.poll, executor.poll)
    for step in range(options.max_words):
        executor.step()
        if (step + 1) % poll == 0:
            trace = executor.trace()
            progress = progress or Progress(trace.token.shape[1], options)
            if progress.finished(trace):
                break
    return hypotheses(executor.trace(attention=True), options, progress)


def open_executor(
    path: Path | None,
    backend: Backend = "auto",
    precision: str | None = None,
    threads: int | None = None,
    *,
    meanwhile: Callable[[], object] = nothing,
) -> tuple[Bundle, Executor, Choice]:
    """Opens a bundle on the fastest backend that works here, or on the one that is asked for.

    Args:
        path: the bundle's folder, None for the default one.
        backend: ``auto`` tries the fastest first and says why not.
        precision: None for the device's default.
        threads: of a CPU; None for one per physical core.
        meanwhile: called while ONNX Runtime opens the graphs, which leaves the interpreter free: a place for imports.

    Raises:
        BundleError: the bundle cannot be used.
        EngineError: the backend does not work here.
        OptionError: the backend, the precision or the number of threads has no meaning.
    """
    if backend not in get_args(Backend):
        raise OptionError(f"backend is {backend!r}; expected {', '.join(get_args(Backend))}")
    check_threads(threads)
    if backend == "auto":
        return _open_fastest(path, precision, threads, meanwhile)
    reasons: tuple[str, ...] = (f"{backend}: asked for",)
    if backend == "tensorrt":
        missing = why_not(backend)
        if missing is not None:
            raise EngineError(f"backend {backend} cannot be used: {missing}")
        bundle, tensorrt, taken = _open_tensorrt(path, precision, build=True)
        reasons += tuple(f"tensorrt: {note}" for note in tensorrt.notes)
        return bundle, tensorrt, Choice(backend, taken, reasons, surprising=False)
    device: Device = "cpu" if backend == "cpu" else "cuda"
    # Hashing the graphs takes about as long as importing ONNX Runtime.
    bundle, missing = both(lambda: Bundle.load(path, device, precision), lambda: why_not(backend))
    if missing is not None:
        raise EngineError(f"backend {backend} cannot be used: {missing}")
    executor, taken = _open(bundle, backend, precision, threads, meanwhile)
    reasons += tuple(f"{backend}: {note}" for note in executor.notes)
    return bundle, executor, Choice(backend, taken, reasons, surprising=False)


def _open_fastest(
    path: Path | None, precision: str | None, threads: int | None, meanwhile: Callable[[], object]
) -> tuple[Bundle, Executor, Choice]:
    """Tries one backend after the other, the fastest first."""
    bundle, missing = both(lambda: Bundle.load(path, "cpu", precision), lambda: why_not("cuda"))
    without = why_not("tensorrt")
    surprising = False
    if without is None:
        try:
            other, tensorrt, taken = _open_tensorrt(path, precision, build=False)
        except EngineError as error:
            # All that TensorRT needs is here, so it is worth a word that a build is missing or does not load.
            without, surprising = str(error), True
        else:
            notes = (f"tensorrt: {note}" for note in ("taken, the fastest that works here", *tensorrt.notes))
            fallback = FallbackExecutor(tensorrt, lambda: _next_fastest(bundle, path, precision, threads)[1])
            return other, fallback, Choice("tensorrt", taken, tuple(notes), surprising=False)
    elif not has_nvidia_gpu():
        without = "there is no NVIDIA GPU here"
    # A GPU that stays idle is worth a word, a machine without one is not.
    surprising = surprising or (missing is not None and has_nvidia_gpu())
    found, executor, choice = _next_fastest(bundle, path, precision, threads, missing, meanwhile)
    reasons = (f"tensorrt: {without}", *choice.reasons)
    return found, executor, replace(choice, reasons=reasons, surprising=surprising or choice.surprising)


def _next_fastest(
    bundle: Bundle,
    path: Path | None,
    precision: str | None,
    threads: int | None,
    missing: str | None = None,
    meanwhile: Callable[[], object] = nothing,
) -> tuple[Bundle, Executor, Choice]:
    """ONNX Runtime on the GPU, else on the CPU.

    Args:
        bundle: as it is loaded for a CPU.
        path, precision, threads, meanwhile: see ``open_executor``.
        missing: why the GPU cannot be used, as far as it is known.
    """
    missing, surprising = missing or why_not("cuda"), False
    if missing is None:
        try:
            other = Bundle.load(path, "cuda", precision)
            executor, taken = _open(other, "cuda", precision, threads)
        except EngineError as error:
            missing, surprising = str(error), True
        else:
            reasons: tuple[str, ...] = ("cuda: taken, the fastest that works here",)
            fallback = FallbackExecutor(executor, lambda: _open(bundle, "cpu", precision, threads)[0])
            return other, fallback, Choice("cuda", taken, reasons, surprising=False)
    executor, taken = _open(bundle, "cpu", precision, threads, meanwhile)
    reasons = (f"cuda: {missing}", "cpu: taken, it works everywhere")
    return bundle, executor, Choice("cpu", taken, reasons, surprising)


def _open_tensorrt(path: Path | None, precision: str | None, *, build: bool) -> tuple[Bundle, TensorRTExecutor, str]:
    """Opens the engines for one image and the bundle's number of beams.

    Args:
        path, precision: see ``open_executor``.
        build: build what is missing, which takes minutes.

    Raises:
        NoEngineError: ``build`` is False, and only the engines are missing.
        EngineError: TensorRT, PyCUDA or the GPU is missing, or an engine cannot be built or loaded.
    """
    from camscribe.runtime.cuda.driver import device_info
    from camscribe.runtime.tensorrt.engines import open_engines
    from camscribe.runtime.tensorrt.executor import TensorRTExecutor
    from camscribe.runtime.tensorrt.toolchain import EnginePair

    info = device_info()
    manifest = Bundle.load(path, "cuda", precision).manifest
    taken = precision or ("fp16" if "fp16" in manifest.precisions else "float32")
    bundle = Bundle.load(path, "cuda", taken)

    def engines(images: int, beams: int) -> EnginePair:
        # Engines for larger batches save time but are not needed, so nobody waits minutes for them unasked.
        return open_engines(bundle, taken, images, beams, info, build=build and images == 1, progress=BuildTold())

    try:
        first = engines(1, manifest.search.beams)
    except EngineError as error:
        if build:
            raise
        raise NoEngineError(f"{error}, which makes captions faster") from error
    return bundle, TensorRTExecutor(bundle, taken, first, engines), taken


class BuildTold:
    """Tells what is being built, once for each thing: it takes minutes on a small device."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, doing: str, done: float) -> None:
        graph = doing.partition(":")[0]  # what follows are the dozens of phases that TensorRT names
        if graph != self._last:
            _LOG.warning("camscribe: %s", graph)
        self._last = graph


def has_nvidia_gpu() -> bool:
    """Whether this machine shows an NVIDIA GPU, on a card or in a Jetson."""
    return any(Path(path).exists() for path in GPU_NODES)


def why_not(backend: Backend) -> str | None:
    """Why a backend cannot be used here, as far as can be told without trying; None where it may."""
    if backend == "cpu":
        onnxruntime()
    if backend in ("cuda", "cuda-graph"):
        return why_not_cuda()
    if backend == "ort-tensorrt":
        return why_not_tensorrt()
    if backend == "tensorrt":
        # Asking the driver needs modules that a machine without a GPU need not wait for.
        if not has_nvidia_gpu() and importlib.util.find_spec("pycuda") is None:
            return "there is no NVIDIA GPU here, nor PyCUDA, which would know (pip install pycuda)"
        from camscribe.runtime.cuda import driver
        from camscribe.runtime.tensorrt import versions

        try:
            driver.open_gpu()
            versions.load()
        except EngineError as error:
            return str(error)
    return None


def _open(
    bundle: Bundle,
    backend: Backend,
    precision: str | None,
    threads: int | None,
    meanwhile: Callable[[], object] = nothing,
) -> tuple[OnnxRuntimeExecutor, str]:
    taken = bundle.manifest.precision_for("cpu" if backend == "cpu" else "cuda", precision)
    if backend == "cpu":
        return OnnxRuntimeExecutor(bundle, taken, "cpu", threads, meanwhile=meanwhile), taken
    executor = OnnxRuntimeExecutor(
        bundle,
        taken,
        "cuda",
        threads,
        tensorrt=backend == "ort-tensorrt",
        graphs=backend == "cuda-graph",
        meanwhile=meanwhile,
    )
    return executor, taken
