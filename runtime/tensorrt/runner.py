"""One engine, run with everything copied in and out: slow, simple, and independent of the executor's buffers.

The parity gate compares with it tensors that the executor never brings to the host.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from camscribe.runtime.errors import EngineError
from camscribe.runtime.manifest import TensorSpec
from camscribe.runtime.tensorrt import versions
from camscribe.runtime.tensorrt.messages import messages


class EngineRunner:
    """A ``gate.Runner`` of a serialized engine. ``close`` it.

    Args:
        trt: a ``tensorrt`` module.
        data: the engine.
        specs: all inputs and outputs of its graph.
        sizes: numbers for the free sizes of ``specs``.

    Raises:
        EngineError: the engine is not for this device or version, or has other tensors, or does not fit.
    """

    def __init__(self, trt: ModuleType, data: bytes, specs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> None:
        from camscribe.runtime.cuda.driver import Memory, open_gpu

        self._gpu = open_gpu()
        with self._gpu.current("opening an engine"):
            self._engine = versions.deserialize(trt, data)
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise EngineError(f"TensorRT cannot run the engine: {messages().last()}")
            self._memory = Memory(self._gpu)
            self._arrays: dict[str, npt.NDArray[Any]] = {}
            self._addresses: dict[str, int] = {}
            names = {self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)}
            if names != {spec.name for spec in specs}:
                raise EngineError(f"the engine has the tensors {', '.join(sorted(names))}; build it again")
            for spec in specs:
                shape = tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape)
                found = tuple(self._engine.get_tensor_shape(spec.name))
                dtype = versions.dtype_name(self._engine.get_tensor_dtype(spec.name))
                if (found, dtype) != (shape, spec.dtype):
                    raise EngineError(
                        f"the engine has {spec.name} as {dtype} {found}, expected {spec.dtype} {shape}; "
                        "report this with the versions that camscribe doctor shows"
                    )
                self._arrays[spec.name] = np.zeros(shape, spec.dtype)
                self._addresses[spec.name] = self._memory.device(math.prod(shape) * np.dtype(spec.dtype).itemsize)
                if not self._context.set_tensor_address(spec.name, self._addresses[spec.name]):
                    raise EngineError(f"TensorRT refuses a buffer for {spec.name}: {messages().last()}")

    def __call__(self, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        with self._gpu.current("running an engine") as cuda:
            for name, value in feeds.items():
                array = self._arrays[name]
                array[...] = value
                cuda.memcpy_htod(self._addresses[name], array)
            # From pageable memory a copy may still be on its way, and the engine's stream would not wait for it.
            cuda.Context.synchronize()
            if not self._context.execute_async_v3(self._memory.stream.handle):
                raise EngineError(f"TensorRT cannot run the engine: {messages().last()}")
            self._memory.stream.synchronize()
            outputs = {name: array for name, array in self._arrays.items() if name not in feeds}
            for name, array in outputs.items():
                cuda.memcpy_dtoh(array, self._addresses[name])
        return {name: array.copy() for name, array in outputs.items()}

    def close(self) -> None:
        """Gives the device memory back."""
        with self._gpu.current("closing an engine"):
            self._context = self._engine = None
            self._memory.close()
