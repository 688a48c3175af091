"""CUDA graphs through cuda-python: work that is always the same is recorded once and replayed by one call.

PyCUDA cannot record. Without cuda-python everything is enqueued anew each time, which gives the same results.
"""

from __future__ import annotations

import collections
import importlib
import logging
from collections.abc import Callable, Hashable
from types import ModuleType
from typing import Any

from camscribe.runtime.errors import EngineError

_LOG = logging.getLogger(__name__)
_GRAPHS_KEPT = 64
INSTALL = "pip install cuda-python (of the driver's CUDA version)"


def bindings() -> ModuleType | None:
    """The driver module of cuda-python, under its new name or its old one; None where there is none."""
    for name in ("cuda.bindings.driver", "cuda.cuda"):
        try:
            module = importlib.import_module(name)
        except Exception:  # some versions look for the driver when they are imported
            continue
        if hasattr(module, "cuStreamBeginCapture"):
            return module
    return None


class Graphs:
    """Recorded work of one stream. Call within ``Gpu.current``.

    Work is enqueued plainly the first time, since libraries set themselves up then, which cannot be recorded; it is
    recorded the second time, and replayed from then on. If recording fails, all work is enqueued plainly from then on.

    Args:
        cuda: the driver module of cuda-python; None to enqueue everything plainly.
        stream: the CUstream that all work goes to.
    """

    def __init__(self, cuda: ModuleType | None, stream: int) -> None:
        self._cuda = cuda
        self._stream = None if cuda is None else cuda.CUstream(stream)
        self._failed = False
        self._made: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
        """By key: the graph, or None for work that was seen once."""

    def repeat(self, key: Hashable, work: Callable[[], None]) -> None:
        """Enqueues work, or replays what it enqueued under this key.

        Raises:
            EngineError: the work failed, or the graph did.
        """
        cuda = self._cuda
        if cuda is None or self._failed:
            work()
        elif key not in self._made:
            work()
            self._made[key] = None
            if len(self._made) > _GRAPHS_KEPT:
                self._check(cuda.cuStreamSynchronize(self._stream), "wait for")
                self._destroy(self._made.popitem(last=False)[1])
        else:
            self._made.move_to_end(key)
            if self._made[key] is None:
                try:
                    self._made[key] = self._record(cuda, work)
                except Exception as error:  # PyCUDA, TensorRT and cuda-python each have their own
                    # What was recorded has not run, so it is enqueued now; if the work itself is at fault, it says so.
                    _LOG.warning(
                        "camscribe: CUDA graphs are not used, which makes captions slower but no other: %s", error
                    )
                    self._failed = True
                    work()
                    return
            self._check(cuda.cuGraphLaunch(self._made[key], self._stream), "start")

    def close(self) -> None:
        """Destroys all graphs; none may be running."""
        while self._made:
            self._destroy(self._made.popitem()[1])

    def _record(self, cuda: ModuleType, work: Callable[[], None]) -> Any:
        """What work enqueues, as a graph that can be launched."""
        # Other threads may go on allocating memory meanwhile.
        mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._check(cuda.cuStreamBeginCapture(self._stream, mode), "begin to record")
        try:
            work()
        except BaseException:
            # Ends the recording, and with it the stream's special state; the graph is incomplete or none.
            _, *graph = cuda.cuStreamEndCapture(self._stream)
            if graph and graph[0] is not None and int(graph[0]):
                cuda.cuGraphDestroy(graph[0])
            raise
        graph = self._check(cuda.cuStreamEndCapture(self._stream), "end to record")
        try:
            return self._check(cuda.cuGraphInstantiate(graph, 0), "prepare")
        finally:
            cuda.cuGraphDestroy(graph)

    def _destroy(self, graph: Any) -> None:
        if graph is not None and self._cuda is not None:
            self._cuda.cuGraphExecDestroy(graph)

    def _check(self, result: tuple[Any, ...], doing: str) -> Any:
        """The value of a call of cuda-python, which returns (status, value)."""
        status, *values = result
        if int(status):
            raise EngineError(f"CUDA cannot {doing} a graph ({getattr(status, 'name', status)})")
        return values[0] if values else None
