"""ONNX Runtime as people use it by hand: ``session.run`` with NumPy arrays, and beam search on the host.

The decoder is an ordinary one: tokens, states and memory in, log-probabilities of all words out. It is made from the
bundle's own float32 graph by taking selection and gathering out, so weights and kernels are the same. The search then
fetches all log-probabilities of a step, ranks them in NumPy, gathers the states, and feeds them again.

So that it is no slower than it must be: sessions have the options and threads of our own executor, the first step runs
one beam alone, all continuations are ranked by ``argpartition``, and no attention is fetched.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from camscribe.benchmarks.peers import Run, missing
from camscribe.benchmarks.peers.plain import banned_ids
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.onnxruntime_executor import open_session
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import SearchOptions

Arrays = dict[str, npt.NDArray[Any]]
_IMPOSSIBLE = -5e8
"""Scores below this are of words that may not be said."""


def why_not(bundle: Bundle, checkpoint: Path | None) -> str | None:
    """See ``Peer``. It needs no checkpoint, but onnx to take the selection out of the graph."""
    return missing("onnxruntime", "onnx")


def open_peer(
    bundle: Bundle, checkpoint: Path | None, options: SearchOptions, threads: int, precision: str = "float32"
) -> Run:
    """See ``Peer``.

    Args:
        bundle, checkpoint, options, threads: see ``Peer``.
        precision: one of the bundle's; by hand one has what was exported, which is float32.
    """
    from camscribe.benchmarks.raw import cut_decoder

    with tempfile.TemporaryDirectory() as folder:
        cut = Path(folder) / "decoder.onnx"
        cut_decoder(bundle.graph(precision, "decoder"), cut)
        decoder = open_session(cut, "cpu", threads)
    return HostSearch(open_session(bundle.graph(precision, "encoder"), "cpu", threads), decoder, bundle, options)


class HostSearch:
    """A beam search over two sessions, one image at a time.

    Args:
        encoder, decoder: sessions; the decoder without selection.
        bundle: whose words they say.
        options: ``nbest`` and ``poll`` are ignored.
    """

    def __init__(self, encoder: Any, decoder: Any, bundle: Bundle, options: SearchOptions) -> None:
        self._encoder, self._decoder, self._options = encoder, decoder, options
        self._encoded = [item.name for item in encoder.get_outputs()]
        states = [item.name for item in decoder.get_inputs() if item.name.startswith("state.")]
        self._states, self._wanted = states, ["log_prob", *(f"next_{name}" for name in states)]
        self._start, self._end = bundle.manifest.special_tokens.start, bundle.manifest.special_tokens.end
        self._banned = banned_ids(bundle, options)
        self.steps = 0
        """Decoder steps of the last caption."""

    def __call__(self, pixels: Pixels) -> list[int]:
        """Reduced pixels uint8 [H, W, 3] -> ids of the words."""
        options, beams, alpha = self._options, self._options.beams, self._options.length_penalty
        made: Arrays = dict(zip(self._encoded, self._encoder.run(self._encoded, {"image": pixels[None]}), strict=True))
        feeds = {name: value for name, value in made.items() if name.startswith("memory.")}
        feeds |= {name: made[name][:, None] for name in self._states}
        feeds["token"] = np.array([[self._start]], np.int32)
        sequences: list[list[int]] = [[]]
        scores = np.zeros(1, np.float32)
        complete: list[tuple[float, list[int]]] = []
        for step in range(1, options.max_words + 1):
            self.steps = step
            log_prob, *states = self._decoder.run(self._wanted, feeds)
            best, parents, words = self._rank(log_prob[0], scores, step, 2 * beams)
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
            rows = [parents[rank] for rank in going]
            feeds |= {name: state[:, rows] for name, state in zip(self._states, states, strict=True)}
            feeds["token"] = np.array([[words[rank] for rank in going]], np.int32)
        return max(complete, key=lambda item: item[0])[1] if complete else sequences[0]

    def _rank(
        self, log_prob: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], step: int, width: int
    ) -> tuple[list[float], list[int], list[int]]:
        """The best continuations of log-probabilities [K, V]: their sums, parents and words, best first."""
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
