"""The one home of everything that differs between TensorRT's versions, from 8.5 to 11.

Everything else in this folder calls only what every one of these versions has. Members of enums stand in ``MEMBERS``
with the versions that have them, and are taken by name, as their numbers change; a test compares the table and every
other name our code touches with the real modules of both ends of the range and of versions between.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import platform
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from camscribe.runtime.errors import EngineError
from camscribe.runtime.extras import install_for_gpu
from camscribe.runtime.tensorrt.messages import messages, why_refused

Version = tuple[int, int, int]
Typing = Literal["flags", "either", "strong"]
"""How the precision of a network is said: by flags and constraints, by the graph alone, or in either way."""

OLDEST: Version = (8, 5, 0)
_TEN: Version = (10, 0, 0)
_TYPED: Version = (10, 12, 0)
"""From here on strongly typed networks are complete, and weakly typed ones deprecated."""
_ELEVEN: Version = (11, 0, 0)
NOT_ON_A_JETSON = (_ELEVEN, (11, 4, 1))
"""From, and before: JetPack 7.2.2 is the first that has TensorRT 11, with 11.4.1."""
_NEVER: Version = (99, 0, 0)
MEMBERS: dict[str, tuple[Version, Version]] = {
    "BuilderFlag.FP16": (OLDEST, _ELEVEN),
    "BuilderFlag.INT8": (OLDEST, _ELEVEN),
    "BuilderFlag.OBEY_PRECISION_CONSTRAINTS": (OLDEST, _ELEVEN),
    "BuilderFlag.TF32": (OLDEST, _NEVER),
    "DataType.FLOAT": (OLDEST, _NEVER),
    "DataType.HALF": (OLDEST, _NEVER),
    "LayerInformationFormat.JSON": (OLDEST, _NEVER),
    "LayerType.CAST": ((8, 6, 0), _NEVER),
    "LayerType.CONSTANT": (OLDEST, _NEVER),
    "LayerType.DEQUANTIZE": (OLDEST, _NEVER),
    "LayerType.IDENTITY": (OLDEST, _NEVER),
    "LayerType.QUANTIZE": (OLDEST, _NEVER),
    "LayerType.SHAPE": (OLDEST, _NEVER),
    "MemoryPoolType.WORKSPACE": (OLDEST, _NEVER),
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": (OLDEST, _ELEVEN),
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": (_TEN, _NEVER),
    "ProfilingVerbosity.DETAILED": (OLDEST, _NEVER),
    "TacticSource.CUBLAS": (OLDEST, _ELEVEN),
    "TacticSource.CUBLAS_LT": (OLDEST, _ELEVEN),
    "TacticSource.CUDNN": (OLDEST, _ELEVEN),
    "TensorFormat.LINEAR": (OLDEST, _NEVER),
}
"""From the first version on that has a member, until the first that does not."""
ONLY_IN: dict[str, tuple[Version, Version]] = {
    "IBuilderConfig.progress_monitor": (_TEN, _NEVER),
    "ILayer.precision": (OLDEST, _ELEVEN),
    "ILayer.set_output_type": (OLDEST, _ELEVEN),
    "IProgressMonitor": (_TEN, _NEVER),
    "IProgressMonitor.__init__": (_TEN, _NEVER),
}
"""Other names that not all versions have; only this module touches them."""

_INSTALL = (
    f"on a Jetson it comes with JetPack (sudo apt install nvidia-jetpack), elsewhere: {install_for_gpu('tensorrt')}"
)
_UNTOUCHED_LAYERS = ("CAST", "CONSTANT", "DEQUANTIZE", "IDENTITY", "QUANTIZE", "SHAPE")
"""Their types are fixed by what they are; TensorRT complains of constraints on them."""


def load(*, building: bool = False) -> ModuleType:
    """The ``tensorrt`` module, imported on first use; ``tensorrt_lean`` or ``tensorrt_dispatch`` where it is missing.

    Args:
        building: only the full module will do, as the others cannot build.

    Raises:
        EngineError: it is missing, does not load, or is a version that is not supported, with the remedy.
    """
    names = ("tensorrt",) if building else ("tensorrt", "tensorrt_lean", "tensorrt_dispatch")
    problems: list[str] = []
    for name in names:
        module = _import(name)
        if isinstance(module, ModuleType):
            check_supported(version(module), jetson=is_jetson())
            return module
        problems.append(module)
    # The first is the one to install; why its stand-ins are missing as well helps nobody.
    raise EngineError(f"TensorRT cannot be imported ({problems[0]}): {_INSTALL}")


def _import(name: str) -> ModuleType | str:
    """A module, or why there is none."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # its own loader raises more than ImportError when a library is missing
        return f"{' '.join(str(error).split()):.200}"


def version(trt: ModuleType | None = None) -> Version:
    """Version of a TensorRT module, None for the one that ``load`` gives.

    Raises:
        EngineError: see ``load``; or the module has no version that can be read.
    """
    written = str(getattr(load() if trt is None else trt, "__version__", ""))
    parts = [part for part in written.split(".")[:3] if part.isdigit()]
    if len(parts) < 2:
        raise EngineError(f"TensorRT calls its version {written!r}; expected numbers such as 10.3.0: {_INSTALL}")
    major, minor, patch = (*map(int, parts), 0)[:3]
    return major, minor, patch


def text(number: Version) -> str:
    """``10.3.0``."""
    return ".".join(map(str, number))


def is_jetson() -> bool:
    """Whether this machine is an NVIDIA Jetson."""
    if platform.machine() != "aarch64":
        return False
    try:
        compatible = Path("/proc/device-tree/compatible").read_bytes()
    except OSError:
        compatible = b""
    return b"nvidia,tegra" in compatible or Path("/etc/nv_tegra_release").exists()


def check_supported(number: Version, *, jetson: bool) -> None:
    """Refuses versions that this code, or the machine, does not support.

    Raises:
        EngineError: with the remedy.
    """
    if number < OLDEST:
        remedy = "use JetPack 6 or later" if jetson else _INSTALL
        raise EngineError(f"TensorRT {text(number)} is too old; expected 8.5 or later: {remedy}")
    if jetson and NOT_ON_A_JETSON[0] <= number < NOT_ON_A_JETSON[1]:
        raise EngineError(
            f"TensorRT {text(number)} does not support Jetson; expected the one that JetPack brings: {_INSTALL}"
        )


def require_driver() -> None:
    """Makes sure that the NVIDIA driver starts.

    Where it does not, TensorRT's ``Runtime`` crashes the process; seen with 8.6.0 and 11.4.0.

    Raises:
        EngineError: there is no driver, or no GPU.
    """
    try:
        status = ctypes.CDLL("libcuda.so.1").cuInit(0)
    except OSError as error:
        raise EngineError(
            "TensorRT needs an NVIDIA GPU with its driver, and libcuda.so.1 is not here; install the driver, "
            "or use --backend cpu"
        ) from error
    if status != 0:
        raise EngineError(
            f"TensorRT needs an NVIDIA GPU, and the driver does not start (CUDA error {status}); try nvidia-smi, "
            "or use --backend cpu"
        )


def member(trt: ModuleType, name: str) -> Any:
    """A member of one of TensorRT's enums, such as ``BuilderFlag.FP16``; None in versions that have it not."""
    since, until = MEMBERS[name]
    if not since <= version(trt) < until:
        return None
    enum, _, own = name.partition(".")
    return getattr(trt, enum).__members__[own]


def dtype_name(dtype: Any) -> str:
    """NumPy's name of a ``tensorrt.DataType``. TensorRT's own ``nptype`` fails in 8.6 with today's NumPy."""
    name = str(dtype.name)
    return {"FLOAT": "float32", "HALF": "float16"}.get(name, name.lower())


@functools.lru_cache(maxsize=4)
def logger(trt: ModuleType) -> Any:
    """The logger of this process: keeps warnings and errors for ``messages`` and prints nothing."""
    heard = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING)

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in heard:
                messages().add(msg)

    return Logger()


@functools.lru_cache(maxsize=4)
def register_plugins(trt: ModuleType) -> None:
    """Makes the layers known that TensorRT keeps in a library of its own: RoiAlign is one of them, in every version.

    Both the parser and engines that have such a layer need it. ``tensorrt_lean`` and ``tensorrt_dispatch`` have no such
    library; there, as where it fails, whoever needs it says so.
    """
    register = getattr(trt, "init_libnvinfer_plugins", None)
    if register is not None:
        register(logger(trt), "")


def deserialize(trt: ModuleType, data: bytes) -> Any:
    """An engine, ready to run.

    Raises:
        EngineError: the data is truncated, or was built for another version or another GPU; there is no GPU, or no
            memory left on it.
    """
    require_driver()
    messages().clear()
    try:
        register_plugins(trt)
        runtime = trt.Runtime(logger(trt))
        engine = runtime.deserialize_cuda_engine(data)
    except (TypeError, RuntimeError) as error:  # a constructor that failed in C++, or no runtime
        raise EngineError(f"TensorRT does not start ({messages().last(str(error))}); check the driver") from error
    if engine is None:
        raise EngineError(why_refused(list(messages().lines), text(version(trt))))
    return engine


def typing_of(number: Version) -> Typing:
    """How this version is told the precision of a network."""
    if number < _TEN:
        return "flags"
    return "either" if number < _TYPED else "strong"


def create_network(trt: ModuleType, builder: Any, *, strong: bool) -> Any:
    """An empty network: strongly typed, or with the flags that this version needs. None when TensorRT made none."""
    flags = 0
    if strong:
        flags |= 1 << int(member(trt, "NetworkDefinitionCreationFlag.STRONGLY_TYPED"))
    if version(trt) < _TEN:  # later it is always so, and the flag is ignored, then gone
        flags |= 1 << int(member(trt, "NetworkDefinitionCreationFlag.EXPLICIT_BATCH"))
    return builder.create_network(flags)


def constrain_precision(trt: ModuleType, network: Any, config: Any, *, quantized: bool) -> None:
    """Makes a weakly typed network keep the types that stand in its graph, as a strongly typed one does.

    With the FP16 flag alone TensorRT computes any layer in half precision that gets faster by it; the float32 islands
    are what the constraints keep. Half-typed graphs need the flag even so.
    """
    half, single = member(trt, "DataType.HALF"), member(trt, "DataType.FLOAT")
    untouched = {
        member(trt, f"LayerType.{name}") for name in _UNTOUCHED_LAYERS if member(trt, f"LayerType.{name}") is not None
    }
    any_half = False
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(at) for at in range(layer.num_outputs)]
        inputs = [layer.get_input(at) for at in range(layer.num_inputs)]
        dtypes = [tensor.dtype for tensor in (*outputs, *inputs) if tensor is not None]
        any_half = any_half or half in dtypes
        # Of a layer that compares or selects, the inputs say in which precision it works.
        own = next((dtype for dtype in dtypes if dtype in (half, single)), None)
        if layer.type in untouched or own is None:
            continue
        layer.precision = own
        for at, tensor in enumerate(outputs):
            if tensor is not None and tensor.dtype in (half, single):
                layer.set_output_type(at, tensor.dtype)
    if any_half:
        config.set_flag(member(trt, "BuilderFlag.FP16"))
    if quantized:
        config.set_flag(member(trt, "BuilderFlag.INT8"))
    config.set_flag(member(trt, "BuilderFlag.OBEY_PRECISION_CONSTRAINTS"))


def disable_libraries(trt: ModuleType, config: Any) -> None:
    """Keeps cuBLAS and cuDNN out of the engine: not every device has them, and TensorRT's own kernels suffice."""
    sources = config.get_tactic_sources()
    for name in ("CUBLAS", "CUBLAS_LT", "CUDNN"):
        source = member(trt, f"TacticSource.{name}")
        if source is not None:
            sources &= ~(1 << int(source))
    config.set_tactic_sources(sources)


def watch(trt: ModuleType, config: Any, report: Callable[[str, float], None], cancelled: Callable[[], bool]) -> Any:
    """Reports a build's progress where this version can tell it, and lets it be cancelled.

    Args:
        trt: the module.
        config: of the build.
        report: told the phase in words, and its share that is done.
        cancelled: asked after each step; True ends the build.

    Returns:
        The monitor, which must live as long as the build; None in versions that have none.
    """
    if version(trt) < ONLY_IN["IProgressMonitor"][0]:
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        # These are called from C++, where an exception would end the process.
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                report(phase_name, (step + 1) / max(self._steps.get(phase_name, 1), 1))
                return not cancelled()
            except Exception:
                return False

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    monitor = Monitor()
    config.progress_monitor = monitor
    return monitor
