"""TensorRT as an executor: both engines on one stream, the search's loop without a copy or a wait."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.cuda.arrays import DeviceImage
from camscribe.runtime.errors import EngineError, NoEngineError
from camscribe.runtime.manifest import GraphPair, Manifest
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import Floats, SearchOptions, Selection, Trace
from camscribe.runtime.tensorrt.batch import Batch, Device
from camscribe.runtime.tensorrt.device import CudaMachine
from camscribe.runtime.tensorrt.toolchain import EnginePair

More = Callable[[int, int], EnginePair]
"""Finds or builds the engines for B images and K beams; raises EngineError where there are none."""

_BATCHES_KEPT = 16
"""Batches whose memory is kept: one for each size, number of beams and steps, and part of a larger batch."""
_POLL, _POLL_INTEGRATED = 4, 2
"""Steps between two looks: a look costs about a step on a card; on a Jetson a step costs more than a look."""


class Machine(Protocol):
    """A device with engines, on which batches run."""

    integrated: bool
    """Whether host and device share their memory."""

    def current(self, doing: str) -> AbstractContextManager[Any]:
        """Within such a block everything else may be called."""

    def open(self, engines: EnginePair, sizes: Mapping[str, int]) -> None:
        """Loads engines, for the free sizes of their tensors as given."""

    def device(self, images: int, beams: int) -> Device:
        """A device for one batch on opened engines."""

    def synchronize(self) -> None:
        """Waits until all batches are done."""

    def close(self) -> None:
        """Frees everything; closing again does nothing."""


class EngineExecutor:
    """Runs engines on a machine. See ``camscribe.runtime.executor.Executor``.

    An engine is frozen for B images and K beams. Fewer images leave a part of it idle; more are searched side by side,
    B at a time in each step. Memory and CUDA graphs are made once for each size.

    Args:
        manifest: of the bundle.
        pair: the tensors of the engines.
        machine: owned from now on.
        engines: the first engines.
        more: asked when another size comes; None where these are all.

    Raises:
        EngineError: an engine does not load.
    """

    def __init__(
        self, manifest: Manifest, pair: GraphPair, machine: Machine, engines: EnginePair, more: More | None = None
    ) -> None:
        self._manifest, self._pair, self._more = manifest, pair, more
        self._machine: Machine | None = machine
        self.poll = _POLL_INTEGRATED if machine.integrated else _POLL
        self._opened: set[tuple[int, int]] = set()
        self._refused: dict[tuple[int, int], str] = {}
        self._kept: collections.OrderedDict[tuple[int, int, int, int], Batch] = collections.OrderedDict()
        self._batches: list[Batch] = []
        self._step = self._enqueued = self._steps = 0
        self._interval = 1
        try:
            self._open(machine, engines)
        except BaseException:
            self.close()
            raise

    def encode(self, images: Pixels | Sequence[Pixels | DeviceImage], options: SearchOptions, bias: Floats) -> None:
        """See ``Executor``. Images on the GPU are reduced there, and read where they lie if they need no reduction.

        Raises:
            NoEngineError: there are no engines for so many beams.
            EngineError: the device failed, or the executor is closed.
        """
        machine = self._running()
        self._batches = []
        size = self._size_for(machine, len(images), options.beams)
        with self._on(machine, "encoding"):
            machine.synchronize()  # a search that was given up may still read what is written now
            made = []
            for index, first in enumerate(range(0, len(images), size)):
                batch = self._batch(machine, (size, options.beams, options.max_words, index))
                batch.start(list(images[first : first + size]), options.min_words, bias)
                made.append(batch)
            self._batches, self._steps = made, options.max_words
        self._step = self._enqueued = 0
        self._interval = max(self.poll, options.poll)

    def step(self) -> None:
        """See ``Executor``. A whole interval between two looks is enqueued at its first step."""
        machine = self._next()
        if self._step == self._enqueued:
            last = min(self._enqueued + self._interval, self._steps)
            with self._on(machine, "decoding"):
                for batch in self._batches:
                    batch.step(self._enqueued, last)
            self._enqueued = last
        self._step += 1

    def propose(self) -> Floats:
        """See ``Executor``. The host waits for each step, and copies the log-probabilities."""
        machine = self._next()
        if self._step != self._enqueued:
            raise EngineError("propose was called between steps that are enqueued already")
        with self._on(machine, "decoding"):
            for batch in self._batches:
                batch.propose(self._step)
            machine.synchronize()
        self._step = self._enqueued = self._step + 1
        parts = [batch.log_prob() for batch in self._batches]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def choose(self, selection: Selection) -> None:
        """See ``Executor``."""
        machine = self._running()
        if not self._batches or not self._step:
            raise EngineError("choose was called without a step")
        first = 0
        with self._on(machine, "selecting"):
            for batch in self._batches:
                part = slice(first, first + batch.count)
                batch.choose(self._step - 1, Selection._make(column[part] for column in selection))
                first = part.stop

    def trace(self, *, attention: bool = False) -> Trace:
        """See ``Executor``. The result is a copy."""
        machine = self._running()
        if not self._batches:
            raise EngineError("trace was called without encode")
        with self._on(machine, "reading the trace"):
            for batch in self._batches:
                batch.fetch(self._step, attention=attention)
            machine.synchronize()
        parts = [batch.trace(self._step, attention=attention) for batch in self._batches]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def boxes(self) -> Floats | None:
        """See ``Executor``. The result is a copy."""
        machine = self._running()
        if not self._batches:
            raise EngineError("boxes was called without encode")
        if not self._pair.has_boxes:
            return None
        with self._on(machine, "reading the boxes"):
            for batch in self._batches:
                batch.fetch_boxes()
            machine.synchronize()
        return np.concatenate([boxes for batch in self._batches if (boxes := batch.boxes()) is not None])

    def close(self) -> None:
        """Frees everything on the device. Closing again does nothing; other calls are errors from then on."""
        machine, self._machine = self._machine, None
        self._batches = []
        self._kept.clear()
        if machine is not None:
            machine.close()

    @contextlib.contextmanager
    def _on(self, machine: Machine, doing: str) -> Iterator[None]:
        """The machine for a block; a search that fails in it is given up."""
        try:
            with machine.current(doing):
                yield
        except BaseException:
            self._batches = []
            raise

    def _running(self) -> Machine:
        if self._machine is None:
            raise EngineError("this executor is closed; open it again")
        return self._machine

    def _next(self) -> Machine:
        machine = self._running()
        if not self._batches or self._step >= self._steps:
            raise EngineError("step was called without encode, or more than max_words times after it")
        return machine

    def _open(self, machine: Machine, engines: EnginePair) -> None:
        rows, columns = self._manifest.attention_grid
        sizes = {"B": engines.images, "K": engines.beams, "P": rows * columns, "V": self._manifest.vocabulary_size}
        with machine.current("opening the engines"):
            machine.open(engines, sizes)
        self._opened.add((engines.images, engines.beams))

    def _size_for(self, machine: Machine, images: int, beams: int) -> int:
        """B of the engines that suit best: the smallest that holds all images, else the largest there is."""

        def sizes() -> list[int]:
            return sorted(size for size, width in self._opened if width == beams)

        if not any(size >= images for size in sizes()):
            self._open_more(machine, images, beams)
        if not sizes():
            self._open_more(machine, 1, beams)
        if not sizes():
            default = f"there is no engine for {beams} beams: camscribe build --beams {beams}"
            raise NoEngineError(self._refused.get((1, beams), default))
        return next((size for size in sizes() if size >= images), sizes()[-1])

    def _open_more(self, machine: Machine, images: int, beams: int) -> None:
        """Opens engines of that size, if there are any; asks once."""
        if self._more is None or (images, beams) in self._refused:
            return
        try:
            engines = self._more(images, beams)
        except EngineError as error:
            self._refused[images, beams] = str(error)
        else:
            self._open(machine, engines)

    def _batch(self, machine: Machine, key: tuple[int, int, int, int]) -> Batch:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        # The parts of one batch are needed together, however many there are.
        if len(self._kept) >= max(_BATCHES_KEPT, key[3] + 1):
            machine.synchronize()
            self._kept.popitem(last=False)[1].close()
        device = machine.device(key[0], key[1])
        try:
            self._kept[key] = Batch(device, self._manifest, self._pair, *key[:3])
        except BaseException:
            device.close()
            raise
        return self._kept[key]


class TensorRTExecutor(EngineExecutor):
    """Runs a bundle's engines with TensorRT. See ``EngineExecutor``.

    Args:
        bundle: a loaded bundle.
        precision: that of the engines.
        engines: the first engines.
        more: asked when another size comes; None where these are all.

    Raises:
        EngineError: PyCUDA, TensorRT or the GPU is missing, or an engine does not load.
    """

    def __init__(self, bundle: Bundle, precision: str, engines: EnginePair, more: More | None = None) -> None:
        pair = bundle.manifest.precisions[precision]
        machine = CudaMachine(pair)
        self.notes = machine.notes
        """What a user may want to know of how it runs."""
        super().__init__(bundle.manifest, pair, machine, engines, more)


def _joined(parts: Sequence[Trace]) -> Trace:
    """Traces of parts of a batch as one."""

    def join(name: str) -> Any:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays, axis=1)

    return Trace(*(join(name) for name in ("token", "parent", "score", "ended_score", "ended_parent", "attention")))
