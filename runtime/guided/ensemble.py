"""Several bundles that caption together: the mean of their probabilities decides each word."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import BundleError, EngineError
from camscribe.runtime.fallback import FallbackExecutor
from camscribe.runtime.guided.selection import select_beams
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import DEAD, Floats, SearchOptions, Selection, Trace, initial_score

if TYPE_CHECKING:
    from camscribe.runtime.cuda.arrays import DeviceImage
    from camscribe.runtime.executor import Executor


class EnsembleExecutor:
    """Runs executors side by side. See ``camscribe.runtime.executor.Executor``; the attention, with the boxes it is on,
    is the first one's.

    Args:
        executors: owned from now on.
        end_id: id of ``</s>``.
    """

    poll = 1

    def __init__(self, executors: Sequence[Executor], end_id: int) -> None:
        self._executors = list(executors)
        self._end_id = end_id
        self._bias: Floats | None = None
        self._min_words = 0
        self.seconds = 0.0
        """What the host took, since ``encode``, for the means and the selection."""

    def encode(self, images: Pixels | Sequence[Pixels | DeviceImage], options: SearchOptions, bias: Floats) -> None:
        """See ``Executor``."""
        self.encode_each([images] * len(self._executors), options, bias)

    def encode_each(
        self,
        images: Sequence[Pixels | Sequence[Pixels | DeviceImage]],
        options: SearchOptions,
        bias: Floats,
    ) -> None:
        """``encode`` of the same images in the size that each executor wants."""
        for executor, own in zip(self._executors, images, strict=True):
            executor.encode(own, options, bias)
        self._bias, self._min_words, self.seconds = bias, options.min_words, 0.0

    def step(self) -> None:
        """See ``Executor``."""
        if self._bias is None:
            raise EngineError("step was called without encode, or more than max_words times after it")
        log_prob = self.propose()
        began = perf_counter()
        trace = self._executors[0].trace()
        step = trace.steps - 1
        # The first row's beams are those of the start: one that lives, and the others dead.
        score = trace.score[step - 1] if step else initial_score(*log_prob.shape[:2])
        allowed = log_prob + self._bias
        if step < self._min_words:
            allowed[:, :, self._end_id] = DEAD
        # As ``search.select`` does, without sorting all words: that took as long as a step of the graph.
        sums = np.maximum(score[:, :, None] + allowed, DEAD)
        rows = [select_beams(each, self._end_id, sums.shape[1]) for each in sums]
        selection = Selection(*(np.stack(column) for column in zip(*rows, strict=True)))
        self.seconds += perf_counter() - began
        self.choose(selection)

    def propose(self) -> Floats:
        """See ``Executor``."""
        each = [executor.propose() for executor in self._executors]
        began = perf_counter()
        mean: Floats = functools.reduce(np.logaddexp, each) - np.float32(np.log(len(each)))
        # What one decoder rules out, as a repeated word, is no matter of probability.
        mean[functools.reduce(np.minimum, each) <= DEAD] = DEAD
        self.seconds += perf_counter() - began
        return mean

    def choose(self, selection: Selection) -> None:
        """See ``Executor``."""
        for executor in self._executors:
            executor.choose(selection)

    def trace(self, *, attention: bool = False) -> Trace:
        """See ``Executor``."""
        return self._executors[0].trace(attention=attention)

    def boxes(self) -> Floats | None:
        """See ``Executor``."""
        return self._executors[0].boxes()

    def give_up(self, error: EngineError) -> bool:
        """See ``camscribe.runtime.fallback.Fallback``: all leave the device, as an error does not say whose it was."""
        left = [executor.give_up(error) for executor in self._executors if isinstance(executor, FallbackExecutor)]
        return any(left)

    def close(self) -> None:
        """See ``Executor``."""
        for executor in self._executors:
            executor.close()


def check_alike(bundles: Sequence[Bundle]) -> None:
    """Refuses bundles that cannot caption together.

    Raises:
        BundleError: they have other words.
    """
    first = bundles[0]
    for other in bundles[1:]:
        if other.vocabulary.tokens != first.vocabulary.tokens:
            raise BundleError(f"{other.path}: has other words than {first.path}; an ensemble needs one vocabulary")
