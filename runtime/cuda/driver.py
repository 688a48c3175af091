"""PyCUDA, held so that a host program with a CUDA context of its own does not notice.

Everything happens in the *primary* context of the GPU, the one that PyTorch, TensorRT and all users of the CUDA runtime
share. It is made current for the length of a call and taken off again, in whichever thread the call comes from.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from camscribe.runtime.errors import EngineError

Bytes = npt.NDArray[np.uint8]

_OLDEST_CUDA = 11040
"""What the driver must support: CUDA 11.4, that of JetPack 5 and TensorRT 8.5."""
_STREAM_NON_BLOCKING = 1
_EVENT_DISABLE_TIMING = 2


@dataclass(frozen=True)
class DeviceInfo:
    """A GPU, as far as it decides which engines run on it."""

    name: str
    compute_capability: tuple[int, int]
    total_bytes: int
    integrated: bool
    """True on a Jetson, where CPU and GPU share their memory."""


class Gpu:
    """A GPU's primary context. Made once a process by ``open_gpu``, and kept until it ends, as PyTorch keeps it too."""

    def __init__(self, cuda: ModuleType, index: int) -> None:
        self.cuda = cuda
        """The ``pycuda.driver`` module."""
        device = cuda.Device(index)
        attributes = cuda.device_attribute
        self.info = DeviceInfo(
            str(device.name()),
            cast(tuple[int, int], tuple(map(int, device.compute_capability()))),
            int(device.total_memory()),
            bool(device.get_attribute(attributes.INTEGRATED)),
        )
        self._context = device.retain_primary_context()
        self.handle = int(self._context.handle)
        """The CUcontext."""

    @contextlib.contextmanager
    def current(self, doing: str = "") -> Iterator[ModuleType]:
        """Makes the context current in this thread for the length of a block, which gets ``pycuda.driver``.

        Args:
            doing: what the block does, for messages.

        Raises:
            EngineError: CUDA failed in the block.
        """
        with _as_engine_error(self.cuda, doing):
            self._context.push()
            try:
                yield self.cuda
            finally:
                # PyCUDA makes current again what was so before, its own or another library's.
                self.cuda.Context.pop()

    def stream(self) -> Any:
        """A stream that does not wait for the default stream, where other libraries work. Call within ``current``."""
        return self.cuda.Stream(_STREAM_NON_BLOCKING)

    def wait(self, stream: Any, other: int) -> None:
        """Lets a stream wait for what another library has enqueued so far. Call within ``current``.

        Args:
            stream: one of ``stream``.
            other: the other one's CUstream; 1 for the default stream, 2 for the one of this thread.
        """
        # PyCUDA knows no streams but its own, and hides the handles of its events.
        library = ctypes.CDLL("libcuda.so.1")
        event = ctypes.c_void_p()
        codes = [library.cuEventCreate(ctypes.byref(event), _EVENT_DISABLE_TIMING)]
        codes.append(library.cuEventRecord(event, ctypes.c_void_p(other)))
        codes.append(library.cuStreamWaitEvent(ctypes.c_void_p(int(stream.handle)), event, 0))
        codes.append(library.cuEventDestroy_v2(event))
        if any(codes):
            raise EngineError(f"CUDA cannot wait for the stream {other:#x} of a device array (error {max(codes)})")

    def free_bytes(self) -> int:
        """Device memory that nobody uses."""
        with self.current("asking for free memory") as cuda:
            return int(cuda.mem_get_info()[0])


@dataclass(frozen=True)
class Shared:
    """Memory that host and GPU both see: mapped on a Jetson, elsewhere pinned host memory with its image on the GPU."""

    host: Bytes
    """uint8 [bytes], for the host to read and write."""
    address: int
    """Where the GPU reads and writes it."""
    mapped: bool
    """True where the two are the same memory, so that nothing need be copied."""


class Memory:
    """All memory of one owner, given back by ``close``. Call within ``Gpu.current``."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self._held: list[Any] = []

    @functools.cached_property
    def stream(self) -> Any:
        """A stream for this memory, where its owner has no other."""
        return self.gpu.stream()

    def device(self, size: int) -> int:
        """Allocates device memory, aligned for any tensor; returns its address.

        Raises:
            EngineError: there is not enough.
        """
        try:
            allocation = self.gpu.cuda.mem_alloc(max(size, 1))
        except self.gpu.cuda.MemoryError as error:
            raise self._too_little(size, "GPU") from error
        self._held.append(allocation)
        return int(allocation)

    def shared(self, size: int) -> Shared:
        """Allocates memory for host and GPU, zeroed on the host.

        Raises:
            EngineError: there is not enough.
        """
        cuda, mapped = self.gpu.cuda, self.gpu.info.integrated
        flags = cuda.host_alloc_flags.DEVICEMAP if mapped else 0
        try:
            host = cuda.pagelocked_empty((max(size, 1),), np.uint8, mem_flags=flags)
        except cuda.MemoryError as error:
            raise self._too_little(size, "pinned host") from error
        self._held.append(host.base)
        host[:] = 0
        return Shared(host, int(host.base.get_device_pointer()) if mapped else self.device(size), mapped)

    def close(self) -> None:
        """Frees everything; nothing on the GPU may still use it. After an error that broke the context, it is free."""
        self.__dict__.pop("stream", None)
        while self._held:
            with contextlib.suppress(self.gpu.cuda.Error):
                self._held.pop().free()

    def _too_little(self, size: int, kind: str) -> EngineError:
        free, total = self.gpu.cuda.mem_get_info()
        return EngineError(
            f"{self.gpu.info.name} has no room for {size:,} bytes of {kind} memory ({free:,} of {total:,} bytes of GPU "
            "memory are free); close other programs on it, or lower the batch or the beams"
        )


def open_gpu(index: int = 0) -> Gpu:
    """The GPU of that number, with its primary context.

    Raises:
        EngineError: PyCUDA, the driver or the GPU is missing or too old.
    """
    with _lock:
        if index not in _gpus:
            cuda = _start()
            with _as_engine_error(cuda, "opening the GPU"):
                if index >= cuda.Device.count():
                    raise EngineError(f"there is no GPU number {index}; this machine has {cuda.Device.count()}")
                _gpus[index] = Gpu(cuda, index)
        return _gpus[index]


def device_info(index: int = 0) -> DeviceInfo:
    """What the GPU of that number is.

    Raises:
        EngineError: PyCUDA, the driver or the GPU is missing or too old.
    """
    return open_gpu(index).info


_lock = threading.Lock()
_gpus: dict[int, Gpu] = {}


def _start() -> ModuleType:
    """``pycuda.driver``, with the driver started."""
    try:
        cuda = importlib.import_module("pycuda.driver")
    except ImportError as error:
        raise EngineError(_import_problem(error)) from error
    try:
        cuda.init()
    except cuda.Error as error:
        raise EngineError(_start_problem(str(error))) from error
    version = int(cuda.get_driver_version())
    if version < _OLDEST_CUDA:
        raise EngineError(
            f"the NVIDIA driver is too old: it supports CUDA {_dotted(version)}, expected {_dotted(_OLDEST_CUDA)} or "
            "newer; update the driver (on a Jetson: JetPack)"
        )
    if cuda.Device.count() < 1:
        raise EngineError(_start_problem("no CUDA-capable device"))
    return cuda


def _import_problem(error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "pycuda":
        return "PyCUDA is not installed: pip install pycuda (it is compiled, and needs the CUDA toolkit's nvcc)"
    text = str(error)
    if "libcuda.so" in text:
        return f"no NVIDIA driver ({_line(text)}); install the driver, or use --backend cpu"
    if "undefined symbol" in text:
        return (
            f"PyCUDA does not fit this driver ({_line(text)}): update the NVIDIA driver, or compile PyCUDA against its "
            "CUDA: pip install --force-reinstall --no-cache-dir pycuda"
        )
    return f"PyCUDA cannot be imported ({_line(text)}): pip install --force-reinstall --no-cache-dir pycuda"


def _start_problem(text: str) -> str:
    text = _line(text)
    if "no CUDA-capable device" in text:
        return (
            "there is no NVIDIA GPU, or it is hidden from this process (CUDA_VISIBLE_DEVICES, container without --gpus)"
        )
    if "insufficient" in text or "unsupported" in text or "stub" in text or "mismatch" in text:
        return f"the NVIDIA driver does not fit ({text}); update it and restart the machine"
    return f"the NVIDIA driver does not start ({text}); nvidia-smi says more"


@contextlib.contextmanager
def _as_engine_error(cuda: ModuleType, doing: str) -> Iterator[None]:
    try:
        yield
    except cuda.MemoryError as error:
        raise EngineError(
            f"GPU memory ran out{' ' if doing else ''}{doing} ({_line(str(error))}); close other programs on the GPU, "
            "or lower the batch or the beams"
        ) from error
    except cuda.Error as error:
        raise EngineError(
            f"CUDA failed{' ' if doing else ''}{doing} ({_line(str(error))}); if it goes on, restart this program"
        ) from error


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
