"""Beam search on the host over the log-probabilities of all words, in NumPy: what people write by hand.

So that it is no slower than it must be: the first step runs one beam alone, all continuations are ranked by one
``argpartition``, nothing loops over words in Python, and no attention is fetched.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from camscribe.benchmarks.peers.plain import banned_ids
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import SearchOptions

Arrays = dict[str, npt.NDArray[Any]]
_IMPOSSIBLE = -5e8
"""Scores below this are of words that may not be said."""


class Network(Protocol):
    """An encoder and a decoder step, which hold the states of the live beams."""

    def start(self, pixels: Pixels) -> None:
        """Encodes reduced pixels uint8 [H, W, 3]; one beam lives."""

    def step(self, words: list[int]) -> npt.NDArray[np.float32]:
        """Last words of the k live beams -> log-probabilities [k, V], which the caller may overwrite."""

    def keep(self, parents: list[int]) -> None:
        """Goes on with the states of these beams."""


class HostSearch:
    """A beam search over a network, one image at a time.

    Args:
        network: without selection.
        bundle: whose words it says.
        options: ``nbest`` and ``poll`` are ignored.
        no_repeat: the rule of this name, where the network does not see to it itself; 0 is none.
    """

    def __init__(self, network: Network, bundle: Bundle, options: SearchOptions, no_repeat: int = 0) -> None:
        self._network, self._options, self._no_repeat = network, options, no_repeat
        self._start, self._end = bundle.manifest.special_tokens.start, bundle.manifest.special_tokens.end
        self._banned = banned_ids(bundle, options)
        self.steps = 0
        """Decoder steps of the last caption."""

    def __call__(self, pixels: Pixels) -> list[int]:
        """Reduced pixels uint8 [H, W, 3] -> ids of the words."""
        options, beams, alpha = self._options, self._options.beams, self._options.length_penalty
        self._network.start(pixels)
        sequences: list[list[int]] = [[]]
        scores = np.zeros(1, np.float32)
        complete: list[tuple[float, list[int]]] = []
        last = [self._start]
        for step in range(1, options.max_words + 1):
            self.steps = step
            log_prob = self._network.step(last)
            if self._no_repeat:
                for row, sequence in zip(log_prob, sequences, strict=True):
                    row[_repeats(sequence, self._no_repeat)] = -np.inf
            best, parents, words = self._rank(log_prob, scores, step, 2 * beams)
            ended = [rank for rank in range(min(beams, len(words))) if words[rank] == self._end]
            complete += [(best[rank] / float(step) ** alpha, sequences[parents[rank]]) for rank in ended]
            going = [rank for rank in range(len(words)) if words[rank] != self._end][:beams]
            if not going:
                break
            sequences = [[*sequences[parents[rank]], words[rank]] for rank in going]
            scores = np.array([best[rank] for rank in going], np.float32)
            if options.stop == "first_k":
                if len(complete) >= beams:
                    break
            elif complete:
                bound = best[going[0]] / float(options.max_words) ** alpha
                if max(score for score, _ in complete) >= bound:
                    break
            self._network.keep([parents[rank] for rank in going])
            last = [words[rank] for rank in going]
        return max(complete, key=lambda item: item[0])[1] if complete else sequences[0]

    def _rank(
        self, log_prob: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], step: int, width: int
    ) -> tuple[list[float], list[int], list[int]]:
        """The best continuations of log-probabilities [k, V]: their sums, parents and words, best first."""
        log_prob[:, self._banned] = -np.inf
        if step <= self._options.min_words:
            log_prob[:, self._end] = -np.inf
        sums = (log_prob + scores[:, None]).ravel()
        width = min(width, len(sums))
        chosen = np.argpartition(sums, len(sums) - width)[len(sums) - width :]
        chosen = chosen[np.argsort(-sums[chosen], kind="stable")]
        best = sums[chosen]
        chosen, best = chosen[best > _IMPOSSIBLE], best[best > _IMPOSSIBLE]
        parents, words = np.divmod(chosen, log_prob.shape[1])
        return best.tolist(), parents.tolist(), words.tolist()


def _repeats(sequence: list[int], size: int) -> list[int]:
    """Ids that may not follow a sequence: the last word, and what would say ``size`` words in a row again."""
    runs = len(sequence) - size + 1
    tail = sequence[runs:] if runs > 0 else sequence
    return sequence[-1:] + [sequence[at + size - 1] for at in range(runs) if sequence[at : at + size - 1] == tail]
