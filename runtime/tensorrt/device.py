"""The thin part: what a batch asks of a device, done with PyCUDA and TensorRT."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from types import ModuleType
from typing import Any

from camscribe.runtime.cuda.arrays import DeviceImage
from camscribe.runtime.cuda.driver import Gpu, Memory, Shared
from camscribe.runtime.cuda.graphs import Graphs
from camscribe.runtime.cuda.preprocess import Preprocessor
from camscribe.runtime.errors import EngineError
from camscribe.runtime.manifest import Graph, GraphSpec, TensorSpec
from camscribe.runtime.pixels import PixelSpec
from camscribe.runtime.tensorrt import versions
from camscribe.runtime.tensorrt.plan import fixed_shape

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
                f"the engine of {graph.file} has no room to work{f' ({size:,} bytes)' if size else ''}; close other "
                "programs on the GPU, or lower the batch or the beams"
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
                    raise EngineError(f"TensorRT refuses an address of {name} of {self._file}")
                self._set[name] = address
        if not self._context.execute_async_v3(stream):
            raise EngineError(f"TensorRT failed to run {self._file}; if it goes on, build the engines again")

    def _problems(self, graph: GraphSpec, sizes: Mapping[str, int]) -> list[str]:
        expected = {spec.name: spec for spec in (*graph.inputs, *graph.outputs)}
        problems = [f"{name} is unknown" for name in sorted(self.names - set(expected))]
        for name, spec in expected.items():
            if name in self.names:
                dtype = self._engine.get_tensor_dtype(name).name
                found = TensorSpec(name, _DTYPES.get(dtype, dtype), tuple(self._engine.get_tensor_shape(name)))  # type: ignore[arg-type]
                if (found.dtype, found.shape) != (spec.dtype, fixed_shape(spec, sizes)):
                    problems.append(f"has {found}; expected {TensorSpec(name, spec.dtype, fixed_shape(spec, sizes))}")
            elif name != "log_prob":
                problems.append(f"{name} is missing")
        return problems


class CudaDevice:
    """``camscribe.runtime.tensorrt.batch.Device`` on an NVIDIA GPU. Call within ``Gpu.current``.

    Args:
        gpu: the GPU.
        stream: PyCUDA's stream for everything.
        engines: of both graphs; shared with other batches of this stream.
        preprocessor: gives the kernel for images on the GPU, when it is first needed.
        recorder: the driver module of cuda-python, None for none.
    """

    def __init__(
        self,
        gpu: Gpu,
        stream: Any,
        engines: Mapping[Graph, Engine],
        preprocessor: Callable[[], Preprocessor],
        recorder: ModuleType | None,
    ) -> None:
        self._gpu, self._cuda, self._stream = gpu, gpu.cuda, stream
        self._handle = int(stream.handle)
        self._engines, self._preprocessor = engines, preprocessor
        self._memory = Memory(gpu)
        self._graphs = Graphs(recorder, self._handle)

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

    def run(self, graph: Graph, addresses: Mapping[str, int]) -> None:
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
