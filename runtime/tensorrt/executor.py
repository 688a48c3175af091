"""TensorRT as an executor: both engines on one stream, the search's loop without a copy or a wait."""

from __future__ import annotations

import collections
import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.cuda import graphs
from camscribe.runtime.cuda.arrays import DeviceImage
from camscribe.runtime.cuda.driver import Gpu, open_gpu
from camscribe.runtime.cuda.preprocess import Preprocessor
from camscribe.runtime.errors import EngineError
from camscribe.runtime.manifest import Graph, GraphPair
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import Floats, SearchOptions, Trace
from camscribe.runtime.tensorrt import versions
from camscribe.runtime.tensorrt.batch import Batch
from camscribe.runtime.tensorrt.device import CudaDevice, Engine
from camscribe.runtime.tensorrt.engines import EnginePair

More = Callable[[int, int], EnginePair]
"""Finds or builds the engines for B images and K beams; raises EngineError where there are none."""

_BATCHES_KEPT = 16
"""Batches whose memory is kept: one for each size, number of beams and number of steps, and for each part of a batch."""
_POLL, _POLL_INTEGRATED = 4, 2
"""Steps between two looks: a look costs about a step on a card; on a Jetson a step costs more than a look."""


class NoEngineError(EngineError):
    """Raised when no engine was built for this number of beams, so that another backend may take the search."""


class TensorRTExecutor:
    """Runs a bundle's engines. See ``camscribe.runtime.executor.Executor``.

    An engine is frozen for B images and K beams. Fewer images leave a part of it idle; more are searched side by side,
    B at a time in each step. Memory and CUDA graphs are made once for each size.

    Args:
        bundle: a loaded bundle.
        precision: that of the engines.
        engines: the first engines.
        more: asked when another size comes; None where these are all.

    Raises:
        EngineError: PyCUDA, TensorRT or the GPU is missing, or an engine does not load.
    """

    device_images = True

    def __init__(self, bundle: Bundle, precision: str, engines: EnginePair, more: More | None = None) -> None:
        self._trt = versions.load()
        self._gpu = open_gpu()
        self._manifest = bundle.manifest
        self._pair = bundle.manifest.precisions[precision]
        self._more = more
        self._refused: set[tuple[int, int]] = set()
        self.poll = _POLL_INTEGRATED if self._gpu.info.integrated else _POLL
        recorder = graphs.bindings()
        self.notes = (
            ()
            if recorder is not None
            else (f"steps are enqueued one by one, as cuda-python is not installed: {graphs.INSTALL}",)
        )
        """What a user may want to know of how it runs."""
        self._batches: list[Batch] = []
        self._step = self._enqueued = self._steps = 0
        self._interval = 1
        with self._gpu.current("opening the engines"):
            self._held = _Held(self._gpu, recorder)
            self._finalizer = weakref.finalize(self, _release, self._held)
        try:
            with self._gpu.current("opening the engines"):
                self._held.open(self._trt, engines, self._pair, self._sizes(engines))
        except BaseException:
            self.close()
            raise

    def encode(self, images: Pixels | Sequence[Pixels | DeviceImage], options: SearchOptions, bias: Floats) -> None:
        """See ``Executor``. Images on the GPU are reduced there, and read where they lie if they need no reduction.

        Raises:
            NoEngineError: there are no engines for so many beams.
            EngineError: the device failed, or the executor is closed.
        """
        self._check_open()
        self._batches = []
        size = self._size_for(len(images), options.beams)
        steps = options.max_words
        with self._on_gpu("encoding"):
            self._held.synchronize()  # a search that was given up may still read what is written now
            made = []
            for index, first in enumerate(range(0, len(images), size)):
                batch = self._batch((size, options.beams, steps, index))
                batch.start(images[first : first + size], options.min_words, bias)
                made.append(batch)
            self._batches, self._steps = made, steps
        self._step = self._enqueued = 0
        self._interval = max(self.poll, options.poll)

    def step(self) -> None:
        """See ``Executor``. A whole interval between two looks is enqueued at its first step."""
        self._check_open()
        if not self._batches or self._step >= self._steps:
            raise EngineError("step was called without encode, or more than max_words times after it")
        if self._step == self._enqueued:
            last = min(self._enqueued + self._interval, self._steps)
            with self._on_gpu("decoding"):
                for batch in self._batches:
                    batch.step(self._enqueued, last)
            self._enqueued = last
        self._step += 1

    def trace(self, *, attention: bool = False) -> Trace:
        """See ``Executor``. The result is a copy."""
        self._check_open()
        if not self._batches:
            raise EngineError("trace was called without encode")
        with self._on_gpu("reading the trace"):
            for batch in self._batches:
                batch.fetch(self._step, attention=attention)
            self._held.synchronize()
        parts = [batch.trace(self._step, attention=attention) for batch in self._batches]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def close(self) -> None:
        """Frees everything on the GPU. Closing again does nothing; other calls are errors from then on."""
        self._batches = []
        self._finalizer()

    @contextlib.contextmanager
    def _on_gpu(self, doing: str) -> Iterator[None]:
        """The context for a block; a search that fails in it is given up."""
        try:
            with self._gpu.current(doing):
                yield
        except BaseException:
            self._batches = []
            raise

    def _check_open(self) -> None:
        if not self._finalizer.alive:
            raise EngineError("this executor is closed; open it again")

    def _size_for(self, images: int, beams: int) -> int:
        """B of the opened engines that suit best."""

        def opened() -> list[int]:
            return sorted(size for size, width in self._held.engines if width == beams)

        for wanted in dict.fromkeys((images, 1)):
            if any(size >= images for size in opened()) or (wanted == 1 and opened()):
                break
            if (wanted, beams) not in self._refused and self._more is not None:
                try:
                    pair = self._more(wanted, beams)
                except EngineError as error:
                    self._refused.add((wanted, beams))
                    if wanted == 1:
                        raise NoEngineError(str(error)) from error
                else:
                    with self._gpu.current("opening an engine"):
                        self._held.open(self._trt, pair, self._pair, self._sizes(pair))
        sizes = opened()
        if not sizes:
            raise NoEngineError(f"there is no engine for {beams} beams: camscribe build --beams {beams}")
        return next((size for size in sizes if size >= images), sizes[-1])

    def _sizes(self, engines: EnginePair) -> dict[str, int]:
        rows, columns = self._manifest.attention_grid
        return {"B": engines.images, "K": engines.beams, "P": rows * columns, "V": self._manifest.vocabulary_size}

    def _batch(self, key: tuple[int, int, int, int]) -> Batch:
        batches = self._held.batches
        if key in batches:
            batches.move_to_end(key)
            return batches[key]
        # The parts of one batch are needed together, however many there are.
        if len(batches) >= max(_BATCHES_KEPT, key[3] + 1):
            self._held.synchronize()
            batches.popitem(last=False)[1].close()
        device = self._held.device(key[0], key[1])
        try:
            batches[key] = Batch(device, self._manifest, self._pair, *key[:3])
        except BaseException:
            device.close()
            raise
        return batches[key]


class _Held:
    """All that lies on the GPU, so that it can be freed when its executor is closed or forgotten."""

    def __init__(self, gpu: Gpu, recorder: ModuleType | None) -> None:
        self.gpu, self.recorder = gpu, recorder
        self.stream: Any = gpu.stream()
        self.engines: dict[tuple[int, int], dict[Graph, Engine]] = {}
        self.batches: collections.OrderedDict[tuple[int, int, int, int], Batch] = collections.OrderedDict()
        self.preprocessor: Preprocessor | None = None

    def open(self, trt: ModuleType, pair: EnginePair, graphs_of: GraphPair, sizes: dict[str, int]) -> None:
        self.engines[pair.images, pair.beams] = {
            "encoder": Engine(trt, pair.encoder, graphs_of.encoder, sizes),
            "decoder": Engine(trt, pair.decoder, graphs_of.decoder, sizes),
        }

    def device(self, images: int, beams: int) -> CudaDevice:
        return CudaDevice(self.gpu, self.stream, self.engines[images, beams], self.kernel, self.recorder)

    def kernel(self) -> Preprocessor:
        if self.preprocessor is None:
            self.preprocessor = Preprocessor(self.gpu)
        return self.preprocessor

    def synchronize(self) -> None:
        self.stream.synchronize()


def _release(held: _Held) -> None:
    """Frees everything, from whichever thread. A broken context has freed it already, so its errors are no news."""
    with contextlib.suppress(EngineError), held.gpu.current("freeing memory"):
        with contextlib.suppress(held.gpu.cuda.Error):
            held.synchronize()
        while held.batches:
            held.batches.popitem()[1].close()
        if held.preprocessor is not None:
            held.preprocessor.close()
        held.preprocessor = None
        # Contexts and engines are freed by forgetting them, and the stream last, while the context is current.
        held.engines.clear()
        held.stream = None


def _joined(parts: Sequence[Trace]) -> Trace:
    """Traces of parts of a batch as one."""

    def join(name: str) -> Any:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays, axis=1)

    return Trace(*(join(name) for name in ("token", "parent", "score", "ended_score", "ended_parent", "attention")))
