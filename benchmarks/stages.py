"""Where the time of a caption goes, stage by stage, measured where the stage runs.

| stage | what |
|---|---|
| decode | file to pixels |
| preprocess | pixels to the encoder's input |
| h2d | inputs to where the graphs read them; on a CPU a copy in its memory |
| encoder | the encoder's graph |
| spread | the encoder's states, given to all beams |
| decoder step | one step of the decoder's graph, selection included |
| d2h | the trace, back to the host |
| search | stop rule, ranking, what else is around the steps |
| words | ids to words |

ONNX Runtime's calls return when the work is done, so the host's clock sees them whole. TensorRT's calls only enqueue:
their stages are times between events on the stream, taken without CUDA graphs, which would hide the steps.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from camscribe.benchmarks.schema import Missing, Stage
from camscribe.benchmarks.statistics import spread
from camscribe.benchmarks.variants import Opened
from camscribe.runtime.executor import search
from camscribe.runtime.images import as_rgb
from camscribe.runtime.onnxruntime_executor import OnnxRuntimeExecutor
from camscribe.runtime.pixels import reduce
from camscribe.runtime.tensorrt.executor import EngineExecutor

ORDER = ("decode", "preprocess", "h2d", "encoder", "spread", "decoder step", "d2h", "search", "words")


class Recorder:
    """Samples of stages, in milliseconds."""

    def __init__(self) -> None:
        self.samples: dict[str, list[float]] = {}
        self.captions = 0
        self.device: set[str] = set()
        """Stages on the device's clock."""
        self.enqueue_ms: list[float] = []
        """Of each caption: host time that went into enqueueing; empty where nothing is enqueued."""

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a block on the host's clock."""
        start = time.perf_counter()
        yield
        self.add(name, (time.perf_counter() - start) * 1e3)

    def add(self, name: str, milliseconds: float) -> None:
        """Adds a sample."""
        self.samples.setdefault(name, []).append(milliseconds)

    def clear(self) -> None:
        """Forgets what was only warming up."""
        self.samples.clear()
        self.enqueue_ms.clear()
        self.captions = 0

    def total(self, *names: str) -> float:
        """Sum of all samples of some stages."""
        return sum(sum(self.samples.get(name, ())) for name in names)

    def stages(self) -> dict[str, Stage] | Missing:
        """The stages in the order of a caption."""
        if not self.captions:
            return Missing("interrupted before it was measured")
        result = {}
        for name in ORDER:
            if each := self.samples.get(name):
                where: Literal["host", "device"] = "device" if name in self.device else "host"
                result[name] = Stage(spread(each), len(each) / self.captions, where)
        return result

    def steps(self) -> float:
        """Mean number of decoder steps of a caption."""
        return len(self.samples.get("decoder step", ())) / max(1, self.captions)


_WITHIN_SEARCH = ("decoder step", "d2h")


def record(variant: Opened, path: Path, recorder: Recorder) -> None:
    """Captions a file with ``variant``, which ``instrumented`` has in hand, stage by stage."""
    bundle, executor = variant.bundle, variant.executor
    spec, options = bundle.manifest.pixels, bundle.manifest.search
    with recorder.stage("decode"):
        image = as_rgb(path, None, at_least=2 * max(spec.height, spec.width))
    with recorder.stage("preprocess"):
        pixels = reduce(image, spec)
    bias = bundle.vocabulary.bias(options.ban)
    executor.encode(pixels[None], options, bias)
    before = recorder.total(*_WITHIN_SEARCH) if not recorder.device else 0.0
    start = time.perf_counter()
    found = search(executor, options)
    elapsed = (time.perf_counter() - start) * 1e3
    if not recorder.device:  # else host and device overlap, and what is left over is no stage
        recorder.add("search", elapsed - (recorder.total(*_WITHIN_SEARCH) - before))
    with recorder.stage("words"):
        for hypothesis in found[0]:
            bundle.vocabulary.decode(hypothesis.tokens)
    recorder.captions += 1


@contextlib.contextmanager
def instrumented(variant: Opened, recorder: Recorder, stamps: Callable[[Any], Any] | None = None) -> Iterator[None]:
    """Puts clocks into a variant's executor for a block.

    Args:
        variant: runs as ever afterwards.
        recorder: gets the samples.
        stamps: for engines: makes what marks a moment on a device, ``cuda_stamps`` by default.
    """
    executor = variant.executor
    if isinstance(executor, OnnxRuntimeExecutor):
        with _onnxruntime(executor, recorder):
            yield
    elif isinstance(executor, EngineExecutor):
        with _engines(executor, recorder, stamps or cuda_stamps):
            yield
    else:
        yield


@contextlib.contextmanager
def _onnxruntime(executor: OnnxRuntimeExecutor, recorder: Recorder) -> Iterator[None]:
    inner: Any = executor
    run, plan_for, seen = inner._run, inner._plan_for, set()

    def timed_run(session: Any, *arguments: Any) -> None:
        with recorder.stage("encoder" if session is inner._encoder else "decoder step"):
            run(session, *arguments)

    def timed_plan_for(*key: int) -> Any:
        plan = plan_for(*key)
        if id(plan) not in seen:
            seen.add(id(plan))
            for name, stage in (("start", "h2d"), ("spread_states", "spread"), ("read", "d2h")):
                setattr(plan, name, _timed(getattr(plan, name), recorder, stage))
        return plan

    inner._run, inner._plan_for = timed_run, timed_plan_for
    try:
        yield
    finally:
        del inner._run, inner._plan_for  # those of the class again
        inner._plan = None
        inner._plans.clear()


def _timed(function: Callable[..., Any], recorder: Recorder, stage: str) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        with recorder.stage(stage):
            return function(*arguments, **options)

    return timed


@contextlib.contextmanager
def _engines(executor: EngineExecutor, recorder: Recorder, stamps: Callable[[Any], Any]) -> Iterator[None]:
    inner: Any = executor
    machine = inner._machine

    def forget() -> None:
        with machine.current("measuring stages"):
            machine.synchronize()
            for batch in inner._kept.values():
                batch.close()
            inner._kept.clear()
            inner._batches = []

    forget()
    recorder.device |= {"h2d", "encoder", "spread", "decoder step", "d2h"}
    inner._machine = _StampedMachine(machine, recorder, stamps)
    try:
        yield
    finally:
        forget()
        inner._machine = machine


class Stamps:
    """Moments on a CUDA stream."""

    def __init__(self, device: Any) -> None:
        self._cuda, self._stream = device._cuda, device._stream

    def now(self) -> Any:
        """Enqueues an event."""
        event = self._cuda.Event()
        event.record(self._stream)
        return event

    def between(self, start: Any, end: Any) -> float:
        """Milliseconds from one to the other; both must have passed."""
        return float(start.time_till(end))


def cuda_stamps(device: Any) -> Stamps:
    """Those of a ``camscribe.runtime.tensorrt.device.CudaDevice``."""
    return Stamps(device)


class _StampedMachine:
    """A machine whose devices note when their work begins and ends. See ``EngineExecutor``'s ``Machine``."""

    def __init__(self, machine: Any, recorder: Recorder, stamps: Callable[[Any], Any]) -> None:
        self._machine, self._recorder, self._stamps = machine, recorder, stamps
        self._devices: list[_StampedDevice] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)

    def device(self, images: int, beams: int) -> Any:
        device = self._machine.device(images, beams)
        self._devices.append(_StampedDevice(device, self._stamps(device)))
        return self._devices[-1]

    def synchronize(self) -> None:
        self._machine.synchronize()
        for device in self._devices:
            device.collect(self._recorder)


class _StampedDevice:
    """A device of a batch with stamps around each piece of work. See ``camscribe.runtime.tensorrt.batch.Device``."""

    def __init__(self, device: Any, stamps: Any) -> None:
        self._device, self._at = device, stamps
        self._marks: list[tuple[str, Any, Any]] = []
        self._enqueue_ms = 0.0
        self._ready = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def _stamped(self, stage: str, function: Callable[..., None], *arguments: Any) -> None:
        before = self._at.now()
        start = time.perf_counter()
        function(*arguments)
        self._enqueue_ms += (time.perf_counter() - start) * 1e3
        self._marks.append((stage, before, self._at.now()))

    def upload(self, memory: Any, begin: int, end: int) -> None:
        self._stamped("h2d", self._device.upload, memory, begin, end)

    def download(self, memory: Any, begin: int, end: int) -> None:
        self._stamped("d2h", self._device.download, memory, begin, end)

    def copy(self, target: int, source: int, size: int) -> None:
        self._stamped("spread", self._device.copy, target, source, size)

    def run(self, graph: str, addresses: Mapping[str, int]) -> None:
        self._stamped("encoder" if graph == "encoder" else "decoder step", self._device.run, graph, addresses)

    def repeat(self, key: Hashable, work: Callable[[], None]) -> None:
        work()  # not recorded: a graph would be one piece

    def collect(self, recorder: Recorder) -> None:
        """After a ``synchronize``: turns the marks into samples. Those of making the batch are left out."""
        marks, self._marks = self._marks, []
        if not any(stage != "h2d" for stage, _, _ in marks) and not self._ready:
            return
        self._ready = True
        for stage, before, after in marks:
            recorder.add(stage, self._at.between(before, after))
        if self._enqueue_ms:
            recorder.enqueue_ms.append(self._enqueue_ms)
        self._enqueue_ms = 0.0


def measure(opened: Sequence[Opened], files: Sequence[Path], rounds: int, recorders: Mapping[str, Recorder]) -> None:
    """Stages of all variants, in turn.

    Args:
        opened: the variants.
        files: photographs.
        rounds: over all files.
        recorders: by variant; they get the samples, which an interruption leaves there.
    """
    with contextlib.ExitStack() as stack:
        for variant in opened:
            stack.enter_context(instrumented(variant, recorders[variant.name]))
        for _ in range(2):
            for variant in opened:  # memory and bindings are made here
                record(variant, files[0], recorders[variant.name])
        for recorder in recorders.values():
            recorder.clear()
        for _ in range(rounds):
            for file in files:
                for variant in opened:
                    record(variant, file, recorders[variant.name])
