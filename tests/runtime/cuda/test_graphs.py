"""When work is recorded, replayed or enqueued plainly: the driver is played, the names of its calls are real."""

from __future__ import annotations

import enum
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from camscribe.runtime.cuda import graphs
from camscribe.runtime.cuda.graphs import Graphs
from camscribe.runtime.errors import EngineError


class Status(enum.IntEnum):
    OK = 0
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


class Driver:
    """The calls of cuda-python, on a stream that is a list of what runs."""

    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.ran: list[str] = []
        self.recording: list[str] | None = None
        self.alive: set[int] = set()
        self.graphs: dict[int, list[str]] = {}

    def CUstream(self, handle: int) -> int:  # noqa: N802
        return handle

    def enqueue(self, name: str) -> None:
        (self.ran if self.recording is None else self.recording).append(name)

    def _status(self, name: str, *values: Any) -> tuple[Any, ...]:
        if name == self.failing:
            return (Status.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, *(0 for _ in values))
        return (Status.OK, *values)

    def cuStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:  # noqa: N802
        if self.failing != "begin":
            self.recording = []
        return self._status("begin")

    def cuStreamEndCapture(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        assert self.recording is not None
        number = len(self.graphs) + 1
        self.graphs[number], self.recording = self.recording, None
        self.alive.add(number)
        return self._status("end", number)

    def cuGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:  # noqa: N802
        assert graph in self.alive
        self.alive.add(-graph)
        return self._status("instantiate", -graph)

    def cuStreamSynchronize(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        return (Status.OK,)

    def cuGraphLaunch(self, graph: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        assert graph in self.alive
        self.ran += self.graphs[-graph]
        return self._status("launch")

    def cuGraphDestroy(self, graph: int) -> tuple[Any, ...]:  # noqa: N802
        self.alive.discard(graph)
        return (Status.OK,)

    cuGraphExecDestroy = cuGraphDestroy  # noqa: N815


def work(driver: Driver, name: str) -> Callable[[], None]:
    return lambda: driver.enqueue(name)


def test_work_is_enqueued_then_recorded_then_replayed() -> None:
    driver = Driver()
    recorder = Graphs(driver, 5)  # type: ignore[arg-type]
    for expected in (1, 2, 3, 4):
        recorder.repeat("a", work(driver, "a"))
        assert driver.ran == ["a"] * expected
    assert driver.graphs == {1: ["a"]}
    recorder.repeat("b", work(driver, "b"))
    assert driver.ran[-1] == "b"
    assert driver.alive == {-1}
    recorder.close()
    assert not driver.alive


def test_without_cuda_python_everything_is_enqueued() -> None:
    driver = Driver()
    recorder = Graphs(None, 5)
    for _ in range(3):
        recorder.repeat("a", work(driver, "a"))
    assert driver.ran == ["a"] * 3
    recorder.close()


@pytest.mark.parametrize("failing", ["begin", "end", "instantiate"])
def test_what_cannot_be_recorded_is_enqueued_and_that_is_said_once(
    failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    driver = Driver(failing)
    recorder = Graphs(driver, 5)  # type: ignore[arg-type]
    for _ in range(4):
        recorder.repeat("a", work(driver, "a"))
        recorder.repeat("b", work(driver, "b"))
    assert driver.ran == ["a", "b"] * 4
    assert len(caplog.records) == 1
    assert "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" in caplog.text


def test_work_that_fails_while_it_is_recorded_is_tried_plainly_and_its_error_is_the_users() -> None:
    driver = Driver()
    recorder = Graphs(driver, 5)  # type: ignore[arg-type]

    def refuses_recording() -> None:
        if driver.recording is not None:
            raise RuntimeError("cuMemcpyDtoDAsync failed: operation not permitted when stream is capturing")
        driver.enqueue("a")

    for _ in range(3):
        recorder.repeat("a", refuses_recording)
    assert driver.ran == ["a"] * 3
    assert driver.recording is None
    assert not {graph for graph in driver.alive if graph > 0}

    def fails() -> None:
        raise EngineError("the kernel failed")

    with pytest.raises(EngineError, match="the kernel failed"):
        recorder.repeat("b", fails)


def test_a_graph_that_does_not_start_is_an_error() -> None:
    driver = Driver("launch")
    recorder = Graphs(driver, 5)  # type: ignore[arg-type]
    recorder.repeat("a", work(driver, "a"))
    with pytest.raises(EngineError, match="CUDA cannot start a graph"):
        recorder.repeat("a", work(driver, "a"))


def test_old_graphs_make_room() -> None:
    driver = Driver()
    recorder = Graphs(driver, 5)  # type: ignore[arg-type]
    for key in range(200):
        for _ in range(2):
            recorder.repeat(key, work(driver, str(key)))
    assert len(driver.alive) <= 64
    recorder.close()
    assert not driver.alive


def test_cuda_python_has_the_calls_that_are_made() -> None:
    module = graphs.bindings()
    if module is None:
        pytest.skip("no cuda-python")
    for name in (
        "CUstream", "cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphLaunch",
        "cuGraphDestroy", "cuGraphExecDestroy", "cuStreamSynchronize",
    ):  # fmt: skip
        assert hasattr(module, name)
    assert module.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL == 1
    assert int(module.CUstream(5)) == 5
