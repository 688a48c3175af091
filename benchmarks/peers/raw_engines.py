"""The two TensorRT engines run bare, as ``trtexec`` would: no search, no copies, no host between the steps.

Everything is enqueued on one stream and timed by CUDA events: the encoder, then decoder steps on the same buffers over
and over. It is the floor under a caption of that many steps on this GPU, not a captioner. The engine's own selection is
part of a step; ``trtexec --loadEngine`` times the very same. Inputs are what the CPU's encoder made of a photograph,
not zeros, on which products can be faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from camscribe.benchmarks.peers import Run, missing, usual_steps
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import EngineError
from camscribe.runtime.executor import why_not as why_not_backend
from camscribe.runtime.manifest import GraphSpec, TensorSpec
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import SearchOptions, initial_score

Arrays = Mapping[str, npt.NDArray[Any]]
_WARM_UP_S = 0.2
"""Of trtexec."""


@dataclass(frozen=True)
class EngineTimes:
    """Times of one engine, one entry for each run, milliseconds. What trtexec prints."""

    h2d_ms: tuple[float, ...]
    """Copying all inputs in, from pageable memory."""
    compute_ms: tuple[float, ...]
    """On the GPU, between two events around the run."""
    d2h_ms: tuple[float, ...]
    """Copying all outputs out."""
    enqueue_ms: tuple[float, ...]
    """On the host, until the call came back; a run shorter than this waits for the host."""


class BareEngine:
    """One engine with memory for all its tensors, for repeated runs on one stream. Call within ``Gpu.current``.

    Args:
        trt: a ``tensorrt`` module.
        memory: a ``camscribe.runtime.cuda.driver.Memory``, owner of the stream and of what is allocated here.
        data: the serialized engine.
        graph: its tensors.
        sizes: numbers for their free sizes.

    Raises:
        EngineError: the engine does not load, or has other tensors.
    """

    def __init__(self, trt: Any, memory: Any, data: bytes, graph: GraphSpec, sizes: Mapping[str, int]) -> None:
        from camscribe.runtime.tensorrt import versions
        from camscribe.runtime.tensorrt.messages import messages

        self._messages = messages
        self._engine = versions.deserialize(trt, data)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"TensorRT cannot run the engine: {messages().last()}")
        self.stream = memory.stream
        self.inputs = {spec.name: empty(spec, sizes) for spec in graph.inputs}
        self.outputs = {spec.name: empty(spec, sizes) for spec in graph.outputs}
        self._addresses = {name: memory.device(array.nbytes) for name, array in {**self.inputs, **self.outputs}.items()}
        for name, address in self._addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise EngineError(f"TensorRT refuses a buffer for {name}: {messages().last()}")

    def enqueue(self) -> None:
        """Starts one run."""
        if not self._context.execute_async_v3(self.stream.handle):
            raise EngineError(f"TensorRT cannot run the engine: {self._messages().last()}")

    def upload(self, cuda: Any) -> None:
        """Copies all inputs in; returns when they are there."""
        for name, array in self.inputs.items():
            cuda.memcpy_htod(self._addresses[name], array)

    def download(self, cuda: Any) -> None:
        """Copies all outputs out."""
        for name, array in self.outputs.items():
            cuda.memcpy_dtoh(array, self._addresses[name])

    def close(self) -> None:
        """Lets the engine go; the memory is its owner's."""
        self._context = self._engine = None


def why_not(bundle: Bundle, checkpoint: Path | None) -> str | None:
    """See ``Peer``. It needs no checkpoint."""
    return why_not_backend("tensorrt") or missing("onnxruntime")


def open_peer(bundle: Bundle, checkpoint: Path | None, options: SearchOptions, threads: int) -> Run:
    """See ``Peer``. A call runs encoder and steps once and finds no words. Builds engines where there are none."""
    pair = open_pair(bundle, options.beams)
    steps = usual_steps(bundle)

    def run(pixels: Pixels) -> list[int]:
        pair.run(steps)
        return []

    return run


class BarePair:
    """Both engines of a bundle for one image, with real inputs. ``close`` it.

    Args:
        bundle: a loaded bundle.
        precision: one of its precisions.
        engines: ``camscribe.runtime.tensorrt.toolchain.EnginePair`` for them.
    """

    def __init__(self, bundle: Bundle, precision: str, engines: Any) -> None:
        from camscribe.runtime.cuda.driver import Memory, open_gpu
        from camscribe.runtime.tensorrt import versions

        trt, pair = versions.load(), bundle.manifest.precisions[precision]
        rows, columns = bundle.manifest.attention_grid
        vocabulary = bundle.manifest.vocabulary_size
        sizes = {"B": engines.images, "K": engines.beams, "P": rows * columns, "V": vocabulary}
        self._gpu = open_gpu()
        feeds = real_inputs(bundle, engines.images, engines.beams)
        with self._gpu.current("opening the engines") as cuda:
            self._memory = Memory(self._gpu)
            self.encoder = BareEngine(trt, self._memory, engines.encoder, pair.encoder, sizes)
            self.decoder = BareEngine(trt, self._memory, engines.decoder, pair.decoder, sizes)
            for engine in (self.encoder, self.decoder):
                for name, array in engine.inputs.items():
                    array[...] = feeds[name]
                engine.upload(cuda)

    def run(self, steps: int) -> None:
        """Encoder and steps, one after the other on the stream; returns when they are done."""
        with self._gpu.current("running the engines"):
            self.encoder.enqueue()
            for _ in range(steps):
                self.decoder.enqueue()
            self._memory.stream.synchronize()

    def times(self, engine: BareEngine, runs: int) -> EngineTimes:
        """Times one engine as trtexec does: 0.2 s of warm-up, then ``runs`` runs, each waited for."""
        with self._gpu.current("timing an engine") as cuda:
            start, end = cuda.Event(), cuda.Event()
            rows: list[tuple[float, float, float, float]] = []

            def once() -> tuple[float, float, float, float]:
                h2d = _clock(lambda: engine.upload(cuda))
                start.record(engine.stream)
                enqueue = _clock(engine.enqueue)
                end.record(engine.stream)
                end.synchronize()
                d2h = _clock(lambda: engine.download(cuda))
                return h2d, float(end.time_since(start)), d2h, enqueue

            until = time.perf_counter() + _WARM_UP_S
            while time.perf_counter() < until:
                once()
            for _ in range(runs):
                rows.append(once())  # noqa: PERF401 (a comprehension would hide that this is the timed loop)
        return EngineTimes(*(tuple(column) for column in zip(*rows, strict=True)))

    def close(self) -> None:
        """Frees everything on the device."""
        with self._gpu.current("closing the engines"):
            self.encoder.close()
            self.decoder.close()
            self._memory.close()


def open_pair(bundle: Bundle, beams: int, precision: str | None = None) -> BarePair:
    """The engines of a bundle for one image, from the cache or built, which takes minutes.

    Args:
        bundle: a loaded bundle.
        beams: K.
        precision: None for fp16 where the bundle has it.

    Raises:
        EngineError: there is no TensorRT, no GPU, or no engine that works.
    """
    from camscribe.runtime.cuda.driver import device_info
    from camscribe.runtime.tensorrt.engines import open_engines

    taken = precision or ("fp16" if "fp16" in bundle.manifest.precisions else "float32")
    opened = Bundle.load(bundle.path, "cuda", taken)
    return BarePair(opened, taken, open_engines(opened, taken, 1, beams, device_info(), build=True))


def real_inputs(bundle: Bundle, images: int, beams: int) -> dict[str, npt.NDArray[Any]]:
    """Inputs of both graphs as a search's first step has them, of a parity image of the bundle.

    The tensors have the float32 graphs' dtypes; who feeds others casts them.
    """
    from camscribe.runtime.onnxruntime_executor import open_session

    pixels = bundle.parity_images()[0][None].repeat(images, axis=0)
    encoder = open_session(bundle.graph("float32", "encoder"), "cpu")
    names = [item.name for item in encoder.get_outputs()]
    made = dict(zip(names, encoder.run(names, {"image": pixels}), strict=True))
    feeds = {name: value for name, value in made.items() if name.startswith("memory.")}
    feeds |= {name: value[:, None].repeat(beams, axis=1) for name, value in made.items() if name.startswith("state.")}
    start = bundle.manifest.special_tokens.start
    return {
        **feeds,
        "image": pixels,
        "token": np.full((images, beams), start, np.int32),
        "parent": np.tile(np.arange(beams, dtype=np.int32), (images, 1)),
        "score": initial_score(images, beams),
        "step": np.zeros(1, np.int32),
        "min_words": np.zeros(1, np.int32),
        "bias": bundle.vocabulary.bias(bundle.manifest.search.ban),
    }


def empty(spec: TensorSpec, sizes: Mapping[str, int]) -> npt.NDArray[Any]:
    """Host memory for a tensor."""
    return np.zeros([sizes[size] if isinstance(size, str) else size for size in spec.shape], spec.dtype)


def _clock(work: Callable[[], object]) -> float:
    """How long ``work`` takes on the host, milliseconds."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3
