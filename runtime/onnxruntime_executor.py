"""ONNX Runtime as an executor, on a CPU and on an NVIDIA GPU."""

from __future__ import annotations

import collections
import contextlib
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import BundleError, EngineError
from camscribe.runtime.extras import install_for_gpu
from camscribe.runtime.manifest import Device, TensorSpec
from camscribe.runtime.onnxruntime_plan import Plan
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import Floats, SearchOptions, Selection, Trace
from camscribe.runtime.threads import both, nothing, physical_cores

if TYPE_CHECKING:
    from camscribe.runtime.cuda.arrays import DeviceImage

_PLANS_KEPT = 4
"""Sizes of batch whose memory is kept: full batches and the rest of the last one, with a few to spare."""
# TensorFloat-32 would round the float32 reference to 10 bits; an exhaustive search for the fastest convolution takes
# longer than a caption.
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
_SPIN_US = "50"
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}


class OnnxRuntimeExecutor:
    """Runs a bundle with ONNX Runtime. See ``camscribe.runtime.executor.Executor``.

    Args:
        bundle: a loaded bundle.
        precision: one of its precisions.
        device: ``cpu`` or ``cuda``.
        threads: threads of a CPU, None for one per physical core.
        tensorrt: on a GPU, use ONNX Runtime's TensorRT provider. It builds engines of its own for every size it meets,
            minutes the first time, and keeps them in the user's cache folder.
        graphs: on a GPU, record each step as a CUDA graph. Where a graph cannot be recorded it runs as ever, see
            ``notes``.
        meanwhile: called while the graphs are opened, which leaves the interpreter free.

    Raises:
        EngineError: ONNX Runtime is missing, does not load a graph, or has no such device.
        BundleError: a graph has other tensors than the manifest says.
    """

    poll = 1

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        device: Device,
        threads: int | None = None,
        *,
        tensorrt: bool = False,
        graphs: bool = False,
        meanwhile: Callable[[], object] = nothing,
    ) -> None:
        self._runtime = onnxruntime()
        self._manifest = bundle.manifest
        self._pair = bundle.manifest.precisions[precision]
        self._device = device
        providers = providers_for(device, tensorrt=tensorrt)
        # Opening takes most of the time until the first caption, and ONNX Runtime uses one core for it.
        # The threads that open them come first to the interpreter, which they leave at once.
        _, sessions = both(
            meanwhile,
            lambda: both(
                lambda: open_session(bundle.graph(precision, "encoder"), device, threads, providers),
                lambda: open_session(bundle.graph(precision, "decoder"), device, threads, providers, steps=True),
            ),
        )
        self.notes: tuple[str, ...] = ()
        """What a user may want to know of how it runs."""
        self._graphs = False
        if graphs and device == "cuda":
            # Only the decoder, whose steps are short; and only if all its nodes run on the GPU, which opening it tells.
            try:
                recorded = open_session(
                    bundle.graph(precision, "decoder"), device, threads, providers_for(device, graphs=True), steps=True
                )
            except EngineError as error:
                self.notes = (f"steps run without CUDA graphs: {error}",)
            else:
                sessions, self._graphs = (sessions[0], recorded), True
        problems = [
            problem
            for session, spec in zip(sessions, (self._pair.encoder, self._pair.decoder), strict=True)
            for problem in spec.differences(tensor_specs(session.get_inputs()), tensor_specs(session.get_outputs()))
        ]
        if problems:
            raise BundleError(f"{bundle.path}: {'; '.join(problems)}: export the bundle again")
        self._encoder, self._decoder = sessions
        self._plans: collections.OrderedDict[tuple[int, int, int], Plan] = collections.OrderedDict()
        self._plan: Plan | None = None
        self._step = self._recorded = 0

    def encode(self, images: Pixels | Sequence[Pixels | DeviceImage], options: SearchOptions, bias: Floats) -> None:
        """See ``Executor``. Images on the GPU come by way of the host."""
        if self._encoder is None:
            raise EngineError("this executor is closed; open it again")
        if not isinstance(images, np.ndarray):
            from camscribe.runtime.cuda.arrays import on_host

            images = np.stack([on_host(image, self._manifest.pixels) for image in images])
        plan = self._plan_for(len(images), options.beams, options.max_words)
        self._plan, self._step = plan, 0
        plan.start(images, options.min_words, bias)
        self._run(self._encoder, plan.encoder_binding)
        plan.spread_states()

    def step(self) -> None:
        """See ``Executor``."""
        plan = self._next()
        self._run(self._decoder, plan.bindings[self._step], plan.options[self._step])
        self._step += 1

    def propose(self) -> Floats:
        """See ``Executor``."""
        plan = self._next()
        binding, options = plan.proposal(self._runtime, self._decoder, self._step)
        self._run(self._decoder, binding, options)
        self._step += 1
        return plan.log_prob()

    def choose(self, selection: Selection) -> None:
        """See ``Executor``."""
        if self._plan is None or not self._step:
            raise EngineError("choose was called without a step")
        self._plan.choose(self._step, selection)

    def trace(self, *, attention: bool = False) -> Trace:
        """See ``Executor``."""
        if self._plan is None:
            raise EngineError("trace was called without encode")
        return self._plan.read(self._step, attention=attention)

    def boxes(self) -> Floats | None:
        """See ``Executor``."""
        if self._plan is None:
            raise EngineError("boxes was called without encode")
        return self._plan.boxes()

    def close(self) -> None:
        """See ``Executor``."""
        self._plan = None
        self._plans.clear()
        self._encoder = self._decoder = None

    def _next(self) -> Plan:
        if self._plan is None or self._step >= len(self._plan.bindings):
            raise EngineError("step was called without encode, or more than max_words times after it")
        return self._plan

    def _plan_for(self, images: int, beams: int, steps: int) -> Plan:
        key = (images, beams, steps)
        if key in self._plans:
            self._plans.move_to_end(key)
            return self._plans[key]
        if len(self._plans) >= _PLANS_KEPT:
            self._plans.popitem(last=False)
        try:
            plan = Plan(self._runtime, self._device, self._encoder, self._decoder, self._manifest, self._pair, *key)
        except MemoryError as error:
            raise EngineError(f"a batch of {images} images does not fit into memory; choose a smaller one") from error
        if self._graphs:
            plan.record_steps(self._runtime, self._recorded)
            self._recorded += steps
        self._plans[key] = plan
        return plan

    def _run(self, session: Any, binding: Any, options: Any = None) -> None:
        try:
            session.run_with_iobinding(binding, options)
        except Exception as error:  # the errors of ONNX Runtime have no base of their own
            raise EngineError(f"ONNX Runtime failed on {self._device}: {_line(error)}") from error


def onnxruntime() -> ModuleType:
    """The ``onnxruntime`` module, imported on first use.

    Raises:
        EngineError: it is not installed, or does not load.
    """
    try:
        import onnxruntime as module
    except ImportError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, KeyboardInterrupt):  # Ctrl-C, which NumPy's C code makes an ImportError of
                raise KeyboardInterrupt from error
            cause = cause.__cause__ or cause.__context__
        raise EngineError(f'ONNX Runtime cannot be imported ({error}): pip install "camscribe[cpu]"') from error
    return cast(ModuleType, module)


def why_not_cuda() -> str | None:
    """Why ONNX Runtime cannot use a GPU here, as far as can be told without trying; None where it may."""
    if "CUDAExecutionProvider" not in onnxruntime().get_available_providers():
        return f"this ONNX Runtime is built without CUDA ({install_for_gpu('cuda')} for one with it)"
    return None


def why_not_tensorrt() -> str | None:
    """Why ONNX Runtime cannot use its TensorRT provider here, as far as can be told; None where it may."""
    if "TensorrtExecutionProvider" not in onnxruntime().get_available_providers():
        return f"this ONNX Runtime is built without TensorRT ({install_for_gpu('cuda')} for one with it)"
    return None


def providers_for(device: Device, *, tensorrt: bool = False, graphs: bool = False) -> list[Any]:
    """What ONNX Runtime is to run a graph with, best first.

    Raises:
        EngineError: there is no place for the engines of its TensorRT provider.
    """
    if device == "cpu":
        return ["CPUExecutionProvider"]
    cuda = ("CUDAExecutionProvider", _CUDA_OPTIONS | ({"enable_cuda_graph": "1"} if graphs else {}))
    if not tensorrt:
        return [cuda, "CPUExecutionProvider"]
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "camscribe" / "onnxruntime"
    except RuntimeError as error:  # a user without a home, as in some containers
        raise EngineError("there is no home folder to keep engines in; set XDG_CACHE_HOME to a folder") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(
            f"{folder}: engines cannot be kept there ({error.strerror}); set XDG_CACHE_HOME to another folder"
        ) from error
    kept = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }
    return [("TensorrtExecutionProvider", kept), cuda, "CPUExecutionProvider"]


def open_session(
    path: Path,
    device: Device,
    threads: int | None = None,
    providers: list[Any] | None = None,
    *,
    steps: bool = False,
) -> Any:
    """Opens a graph with the options that all graphs of a bundle are run with.

    Args:
        path: the graph.
        device: ``cpu`` or ``cuda``.
        threads: of a CPU, None for one per physical core.
        providers: see ``providers_for``; None for those of the device.
        steps: the graph is run again right after each run, so its threads stay awake for a moment.

    Raises:
        EngineError: ONNX Runtime does not load it, or not on that device.
    """
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    # Named, because ONNX Runtime's own default counts the cores of the machine, not those of a container, and binds
    # threads to cores that other programs use.
    options.intra_op_num_threads = threads or physical_cores()
    options.inter_op_num_threads = 1
    # Waiting threads spin, so that a step of half a millisecond need not wake them; but no longer than single-threaded
    # stretches of a run last: where other programs are busy, a thread that spins has used up its share of a core when
    # it is needed. Between two steps the host looks at the trace, for less than that; after other runs the threads of
    # the other graph need the cores.
    options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_US)
    if not steps or not _limits_spinning(runtime):
        options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 4  # what goes wrong is raised, and said in one line
    wanted = providers or providers_for(device)
    if device == "cuda":
        preload_libraries(runtime)
    try:
        session = runtime.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:  # the errors of ONNX Runtime have no base of their own
        raise EngineError(
            f"{path}: ONNX Runtime {runtime.__version__} cannot open it on {device}: {_line(error)}"
        ) from error
    provider = wanted[0] if isinstance(wanted[0], str) else wanted[0][0]
    if session.get_providers()[0] != provider:
        raise EngineError(
            f"ONNX Runtime cannot use {device}: its {provider} does not start; check driver and libraries"
        )
    return session


def _limits_spinning(runtime: ModuleType) -> bool:
    """Whether ONNX Runtime knows how long its threads may spin; those before 1.26 spin for a millisecond or two."""
    major, minor = map(int, runtime.__version__.split(".")[:2])
    return (major, minor) >= (1, 26)


def preload_libraries(runtime: ModuleType) -> None:
    """Loads CUDA's libraries where pip put them, since ONNX Runtime's own do not look there."""
    preload = getattr(runtime, "preload_dlls", None)  # since 1.21; not in builds without CUDA
    if preload is not None:
        # It prints what it does not find, which may well lie where the system looks; a session that fails says more.
        with contextlib.redirect_stdout(io.StringIO()):
            preload()


def tensor_specs(arguments: Sequence[Any]) -> list[TensorSpec]:
    """Specs of a session's ``get_inputs()`` or ``get_outputs()``."""
    specs = []
    for argument in arguments:
        dtype = _DTYPES.get(argument.type, argument.type.removeprefix("tensor(").removesuffix(")"))
        shape = tuple(size if isinstance(size, int) else str(size or "?") for size in argument.shape)
        specs.append(TensorSpec(argument.name, cast(Any, dtype), shape))
    return specs


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
