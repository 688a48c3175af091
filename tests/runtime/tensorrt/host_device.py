"""A device for plans of TensorRT's executors on host memory. Loaded by the tests that use it."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np

from camscribe.runtime.cuda.arrays import DeviceImage
from camscribe.runtime.cuda.driver import Shared
from camscribe.runtime.manifest import GraphSpec
from camscribe.runtime.pixels import PixelSpec, reduce
from camscribe.runtime.tensorrt.plan import ALIGNMENT


def aligned_bytes(size: int) -> np.ndarray:
    """uint8 [size] at an address that is a multiple of 256, filled with what makes NaN of every float."""
    whole = np.full(size + ALIGNMENT, 0xFF, np.uint8)
    begin = -whole.ctypes.data % ALIGNMENT
    return whole[begin : begin + size]


class HostDevice:
    """``Device`` on host memory; ONNX Runtime reads and writes at the addresses of the plan.

    Args:
        specs: tensors by graph.
        sessions: of ONNX Runtime, by graph.
        sizes: the free ones of the tensors.
        mapped: host and device memory are one, as on a Jetson.
        recorded: ``repeat`` replays, as CUDA graphs do.
    """

    def __init__(
        self,
        specs: Mapping[str, GraphSpec],
        sessions: Mapping[str, Any],
        sizes: Mapping[str, int],
        *,
        mapped: bool = False,
        recorded: bool = False,
    ) -> None:
        self.specs, self.sessions = specs, sessions
        self.sizes, self.mapped, self.recorded = sizes, mapped, recorded
        self.blocks: list[np.ndarray] = []
        self.calls: Counter[str] = Counter()
        self.queue: list[Callable[[], None]] = []
        self.graphs: dict[Hashable, list[Callable[[], None]]] = {}

    def _block(self, size: int) -> np.ndarray:
        self.blocks.append(aligned_bytes(size))
        return self.blocks[-1]

    def _enqueue(self, name: str, work: Callable[[], None]) -> None:
        """Nothing runs before somebody waits, so that a read without waiting shows."""
        self.calls[name] += 1
        self.queue.append(work)

    def private(self, size: int) -> int:
        return int(self._block(size).ctypes.data)

    def shared(self, size: int) -> Shared:
        host = self._block(size)
        host[:] = 0
        return Shared(host, host.ctypes.data if self.mapped else self.private(size), self.mapped)

    def upload(self, memory: Shared, begin: int, end: int) -> None:
        if not memory.mapped:
            content = memory.host[begin:end].tobytes()
            self._enqueue("upload", lambda: ctypes.memmove(memory.address + begin, content, end - begin) and None)

    def download(self, memory: Shared, begin: int, end: int) -> None:
        if not memory.mapped:
            target = memory.host[begin:end].ctypes.data
            self._enqueue("download", lambda: ctypes.memmove(target, memory.address + begin, end - begin) and None)

    def copy(self, target: int, source: int, size: int) -> None:
        self._enqueue("copy", lambda: ctypes.memmove(target, source, size) and None)

    def reduce(self, image: DeviceImage, spec: PixelSpec, target: int) -> None:
        pixels = reduce(image.owner, spec)  # type: ignore[arg-type]
        self._enqueue("reduce", lambda: ctypes.memmove(target, pixels.ctypes.data, pixels.nbytes) and None)

    def wait_for(self, image: DeviceImage) -> None:
        self.calls["wait_for"] += 1

    def run(self, graph: str, addresses: Mapping[str, int]) -> None:
        addresses = dict(addresses)

        def work() -> None:
            session = self.sessions[graph]
            spec = self.specs[graph]
            binding = session.io_binding()
            for bind, tensors in ((binding.bind_input, spec.inputs), (binding.bind_output, spec.outputs)):
                for tensor in tensors:
                    assert addresses[tensor.name] % ALIGNMENT == 0, tensor.name
                    shape = [self.sizes[size] if isinstance(size, str) else size for size in tensor.shape]
                    bind(tensor.name, "cpu", 0, np.dtype(tensor.dtype), shape, addresses[tensor.name])
            assert set(addresses) == {tensor.name for tensor in (*spec.inputs, *spec.outputs)}
            session.run_with_iobinding(binding)

        self._enqueue(graph, work)

    def repeat(self, key: Hashable, work: Callable[[], None]) -> None:
        """Replays what was recorded, addresses and all, as a CUDA graph does."""
        if not self.recorded or key not in self.graphs:
            before = len(self.queue)
            work()
            self.graphs[key] = self.queue[before:]
        else:
            self.calls["replay"] += 1
            self.queue += self.graphs[key]

    def synchronize(self) -> None:
        self.calls["synchronize"] += 1
        for work in self.queue:
            work()
        self.queue.clear()

    def close(self) -> None:
        self.blocks.clear()
