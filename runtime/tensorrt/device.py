"""The thin part: what a batch asks of a device, done with PyCUDA and TensorRT."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Hashable, Mapping
from types import ModuleType
from typing import Any

from camscribe.runtime.cuda import graphs
from camscribe.runtime.cuda.arrays import DeviceImage
from camscribe.runtime.cuda.driver import Gpu, Memory, Shared, open_gpu
from camscribe.runtime.cuda.preprocess import Preprocessor
from camscribe.runtime.errors import EngineError
from camscribe.runtime.manifest import GraphSpec, TensorSpec
from camscribe.runtime.pixels import PixelSpec
from camscribe.runtime.tensorrt import versions
from camscribe.runtime.tensorrt.messages import messages
from camscribe.runtime.tensorrt.plan import fixed_shape
from camscribe.runtime.tensorrt.toolchain import EnginePair, TileEngine

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "UINT8": "uint8"}


class Engine:
    """An engine with one execution context. Call within ``Gpu.current``.

    Args:
        trt: the TensorRT module.
        data: the serialized engine.
        graph: the tensors it must have; outputs that nobody reads may be missing.
        sizes: what the free sizes are.

    Raises:
        EngineError: it does not load, has other tensors, or needs more memory than there is.
    """

    def __init__(self, trt: ModuleType, data: bytes, graph: GraphSpec, sizes: Mapping[str, int]) -> None:
        self._engine = versions.deserialize(trt, data)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            size = getattr(self._engine, "device_memory_size", None)
            raise EngineError(
                f"the engine of {graph.file} has no room to work{f' ({size:,} bytes)' if size else ''}: "
                f"{messages().last()}; close other programs on the GPU, or take engines for less (batch, beams, tile)"
            )
        self._file = graph.file
        self.names = frozenset(self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors))
        problems = self._problems(graph, sizes)
        if problems:
            raise EngineError(f"the engine of {graph.file} does not fit: {'; '.join(problems)}: build it again")
        self._set: dict[str, int] = {}

    def run(self, addresses: Mapping[str, int], stream: int) -> None:
        """Enqueues the engine with its tensors at these addresses."""
        for name, address in addresses.items():
            if name in self.names and self._set.get(name) != address:
                if not self._context.set_tensor_address(name, address):
                    raise EngineError(f"TensorRT refuses an address of {name} of {self._file}: {messages().last()}")
                self._set[name] = address
        if not self._context.execute_async_v3(stream):
            raise EngineError(
                f"TensorRT failed to run {self._file}: {messages().last()}; if it goes on, restart the program"
            )

    def _problems(self, graph: GraphSpec, sizes: Mapping[str, int]) -> list[str]:
        expected = {spec.name: spec for spec in (*graph.inputs, *graph.outputs)}
        problems = [f"{name} is unknown" for name in sorted(self.names - set(expected))]
        for name, spec in expected.items():
            if name in self.names:
                dtype = self._engine.get_tensor_dtype(name).name
                found = TensorSpec(name, _DTYPES.get(dtype, dtype), tuple(self._engine.get_tensor_shape(name)))
                if (found.dtype, found.shape) != (spec.dtype, fixed_shape(spec, sizes)):
                    problems.append(f"has {found}; expected {TensorSpec(name, spec.dtype, fixed_shape(spec, sizes))}")
                if self._engine.get_tensor_location(name).name != "DEVICE":
                    problems.append(f"{name} lies on the host")
            elif name != "log_prob":
                problems.append(f"{name} is missing")
        return problems


class CudaDevice:
    """``camscribe.runtime.tensorrt.batch.Device`` on an NVIDIA GPU. Call within ``Gpu.current``.

    Args:
        gpu: the GPU.
        stream: PyCUDA's stream for everything.
        engines: by graph; shared with other batches of this stream.
        preprocessor: gives the kernel for images on the GPU, when it is first needed.
        recorder: the driver module of cuda-python, None for none.
    """

    def __init__(
        self,
        gpu: Gpu,
        stream: Any,
        engines: Mapping[str, Engine],
        preprocessor: Callable[[], Preprocessor],
        recorder: ModuleType | None,
    ) -> None:
        self._gpu, self._cuda, self._stream = gpu, gpu.cuda, stream
        self._handle = int(stream.handle)
        self.closed = False
        self._engines, self._preprocessor = engines, preprocessor
        self._memory = Memory(gpu)
        self._graphs = graphs.Graphs(recorder, self._handle)

    def private(self, size: int) -> int:
        """See ``Device``."""
        return self._memory.device(size)

    def shared(self, size: int) -> Shared:
        """See ``Device``."""
        return self._memory.shared(size)

    def upload(self, memory: Shared, begin: int, end: int) -> None:
        """See ``Device``."""
        if not memory.mapped:
            self._cuda.memcpy_htod_async(memory.address + begin, memory.host[begin:end], self._stream)

    def download(self, memory: Shared, begin: int, end: int) -> None:
        """See ``Device``."""
        if not memory.mapped:
            self._cuda.memcpy_dtoh_async(memory.host[begin:end], memory.address + begin, self._stream)

    def copy(self, target: int, source: int, size: int) -> None:
        """See ``Device``."""
        self._cuda.memcpy_dtod_async(target, source, size, self._stream)

    def reduce(self, image: DeviceImage, spec: PixelSpec, target: int) -> None:
        """See ``Device``."""
        self._preprocessor().reduce(image, spec, target, self._stream)

    def wait_for(self, image: DeviceImage) -> None:
        """See ``Device``."""
        if image.stream is not None:
            self._gpu.wait(self._stream, image.stream)

    def run(self, graph: str, addresses: Mapping[str, int]) -> None:
        """See ``Device``."""
        self._engines[graph].run(addresses, self._handle)

    def repeat(self, key: Hashable, work: Callable[[], None]) -> None:
        """See ``Device``."""
        self._graphs.repeat(key, work)

    def synchronize(self) -> None:
        """See ``Device``."""
        self._stream.synchronize()

    def close(self) -> None:
        """See ``Device``."""
        self._graphs.close()
        self._memory.close()
        self.closed, self._stream, self._engines = True, None, {}


class CudaMachine:
    """``camscribe.runtime.tensorrt.executor.Machine`` on an NVIDIA GPU: its stream, engines and kernel.

    What is not closed is freed when it is forgotten, in whichever thread that happens.

    Args:
        specs: the tensors of the engines, by graph.

    Raises:
        EngineError: TensorRT, PyCUDA or the GPU is missing.
    """

    def __init__(self, specs: Mapping[str, GraphSpec]) -> None:
        self._trt = versions.load()
        self._gpu = open_gpu()
        self._specs = specs
        self._recorder = graphs.bindings()
        self.integrated = self._gpu.info.integrated
        self.notes: tuple[str, ...] = ()
        if self._recorder is None:
            self.notes = (f"steps are enqueued one by one, as cuda-python is not installed: {graphs.INSTALL}",)
        with self.current("making a stream"):
            self._held = _Held(self._gpu)
        self._finalizer = weakref.finalize(self, self._held.release)

    def current(self, doing: str) -> contextlib.AbstractContextManager[Any]:
        """See ``Machine``."""
        return self._gpu.current(doing)

    def open(self, engines: EnginePair | TileEngine, sizes: Mapping[str, int]) -> None:
        """See ``Machine``."""
        self._held.engines[engines.key] = {
            graph: Engine(self._trt, data, self._specs[graph], sizes) for graph, data in engines.parts.items()
        }

    def device(self, *key: int) -> CudaDevice:
        """See ``Machine``."""
        engines = self._held.engines[key]
        device = CudaDevice(self._gpu, self._held.stream, engines, self._held.kernel, self._recorder)
        self._held.devices = [*(other for other in self._held.devices if not other.closed), device]
        return device

    def synchronize(self) -> None:
        """See ``Machine``."""
        self._held.stream.synchronize()

    def close(self) -> None:
        """See ``Machine``."""
        self._finalizer()


class _Held:
    """All that lies on the GPU."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.stream: Any = gpu.stream()
        self.engines: dict[tuple[int, ...], dict[str, Engine]] = {}
        self.devices: list[CudaDevice] = []
        self.preprocessor: Preprocessor | None = None

    def kernel(self) -> Preprocessor:
        if self.preprocessor is None:
            self.preprocessor = Preprocessor(self.gpu)
        return self.preprocessor

    def release(self) -> None:
        """A broken context has freed everything already, so its errors are no news."""
        with contextlib.suppress(EngineError), self.gpu.current("freeing memory"):
            with contextlib.suppress(self.gpu.cuda.Error):
                self.stream.synchronize()
            while self.devices:
                self.devices.pop().close()
            if self.preprocessor is not None:
                self.preprocessor.close()
            self.preprocessor = None
            # Contexts and engines are freed by forgetting them, and the stream last, while the context is current.
            self.engines.clear()
            self.stream = None
