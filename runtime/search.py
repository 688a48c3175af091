"""Beam search: the definition in NumPy, and the host's half of it.

The decoder graph selects (see ``select`` for the definition it must equal) and leaves a *trace*; the host reads
hypotheses back from that trace. Selection is the rule of fairseq and Hugging Face: of the best 2K continuations of the
K live beams, those that are ``</s>`` and rank among the first K end there; the best K others live on.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from camscribe.runtime.errors import OptionError

if TYPE_CHECKING:
    from typing_extensions import Self

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
StopRule = Literal["optimal", "first_k"]

DEAD = np.float32(-1e9)
"""The score of a dead beam and of a banned word. Finite, so that arithmetic on it never makes NaN."""
_ALIVE = -5e8
"""Scores above this are real: a caption's log-probability never comes near it. No NumPy number: comparing with those is
slow, and a search does it between all steps."""


@dataclass(frozen=True)
class SearchOptions:
    """How captions are searched for. Every field has a value that switches it off."""

    beams: int = 3
    """Live hypotheses K; 1 is greedy search."""
    max_words: int = 20
    """Steps of the decoder; a caption not ended by then is marked truncated."""
    min_words: int = 0
    """``</s>`` is banned before this many words; 0 bans nothing."""
    length_penalty: float = 1.0
    """alpha in score / length**alpha, ``</s>`` counted (Wu et al. 2016 without its offset); 0 switches it off."""
    nbest: int = 1
    """Hypotheses returned for an image, best first; at most ``beams``."""
    ban: tuple[str, ...] = ()
    """Words that may not appear."""
    stop: StopRule = "optimal"
    """``optimal``: stop when no live beam can still enter the n best; ``first_k``: when K hypotheses have ended."""
    poll: int = 1
    """Steps between two looks at the trace. Costs or saves time, never changes a result."""

    def __post_init__(self) -> None:
        for name in ("beams", "max_words", "min_words", "nbest", "poll"):
            if type(getattr(self, name)) is not int:
                raise OptionError(f"{name} is {getattr(self, name)!r}; expected an integer")
        if not 1 <= self.beams <= 64:
            raise OptionError(f"beams is {self.beams}; expected 1 to 64")
        if not 1 <= self.max_words <= 200:
            raise OptionError(f"max_words is {self.max_words}; expected 1 to 200")
        if not 0 <= self.min_words < self.max_words:
            raise OptionError(f"min_words is {self.min_words}; expected 0 to max_words - 1 = {self.max_words - 1}")
        if not 1 <= self.nbest <= self.beams:
            raise OptionError(f"nbest is {self.nbest}; expected 1 to beams = {self.beams}: raise beams or lower nbest")
        if not isinstance(self.length_penalty, int | float) or not -10 <= self.length_penalty <= 10:
            raise OptionError(f"length_penalty is {self.length_penalty}; expected a number from -10 to 10")
        if self.stop not in ("optimal", "first_k"):
            raise OptionError(f"stop is {self.stop!r}; expected 'optimal' or 'first_k'")
        if self.stop == "optimal" and self.length_penalty < 0:
            raise OptionError("stop 'optimal' needs length_penalty >= 0; use stop 'first_k' for a negative one")
        if not 1 <= self.poll <= self.max_words:
            raise OptionError(f"poll is {self.poll}; expected 1 to max_words = {self.max_words}")

    def penalty(self, length: int) -> float:
        """What a log-probability is divided by to become a score, for so many words, ``</s>`` counted."""
        return float(float(length) ** self.length_penalty)

    def override(self, **changes: object) -> Self:
        """A copy with the fields in ``changes`` that are not None replaced.

        Raises:
            OptionError: a change has no meaning, or is of a field that does not exist.
        """
        names = [field.name for field in fields(self)]
        for name in changes:
            if name not in names:
                raise OptionError(f"{name} is not a search option; expected {', '.join(names)}")
        return replace(self, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]


class SearchChanges(TypedDict, total=False):
    """Fields of ``SearchOptions`` that a caller may change; None changes nothing."""

    beams: int | None
    max_words: int | None
    min_words: int | None
    length_penalty: float | None
    nbest: int | None
    stop: StopRule | None
    poll: int | None


class Selection(NamedTuple):
    """What one step decides. All arrays have shape [B, K]."""

    next_token: Ints
    next_parent: Ints
    next_score: Floats
    ended_score: Floats
    ended_parent: Ints


def select(log_prob: Floats, score: Floats, step: int, min_words: int, bias: Floats, end_id: int) -> Selection:
    """The definition of one selection, which the decoder graph must equal exactly.

    Args:
        log_prob: [B, K, V] log-probabilities of the next token of each live beam.
        score: [B, K] summed log-probabilities of the live beams, ``DEAD`` for a dead one.
        step: number of words the live beams have.
        min_words: ``</s>`` is banned while ``step < min_words``.
        bias: [V], at most 0, added to the log-probabilities; ``DEAD`` bans a word.
        end_id: id of ``</s>``.

    Returns:
        The beams that live on, best first, and by rank those that ended (``DEAD`` where that rank did not).
        Ties go to the lower beam, then to the lower token id.
    """
    images, beams, words = log_prob.shape
    biased = log_prob + bias
    if step < min_words:
        biased[:, :, end_id] = DEAD
    candidates = np.maximum(score[:, :, None] + biased, DEAD).reshape(images, beams * words)
    width = min(2 * beams, beams * words)
    rank = np.argsort(-candidates, axis=1, kind="stable")[:, :width]
    best = np.take_along_axis(candidates, rank, axis=1)
    parent, token = np.divmod(rank, words)
    is_end = token == end_id
    ends = is_end[:, :beams] & (best[:, :beams] > DEAD)
    live = np.argsort(np.where(is_end, 1, 0), axis=1, kind="stable")[:, :beams]
    return Selection(
        next_token=np.take_along_axis(token, live, axis=1).astype(np.int32),
        next_parent=np.take_along_axis(parent, live, axis=1).astype(np.int32),
        next_score=np.take_along_axis(best, live, axis=1),
        ended_score=np.where(ends, best[:, :beams], DEAD),
        ended_parent=parent[:, :beams].astype(np.int32),
    )


def initial_score(images: int, beams: int) -> Floats:
    """[B, K] scores before the first step: one live beam an image, the others dead."""
    score = np.full((images, beams), DEAD, dtype=np.float32)
    score[:, 0] = 0
    return score


@dataclass
class Trace:
    """The recorded selections of a search; row t is what step t decided. T steps, B images, K beams, P positions.

    Executors hand out views of buffers that the next ``encode`` overwrites.
    """

    token: Ints
    """[T, B, K]"""
    parent: Ints
    """[T, B, K]"""
    score: Floats
    """[T, B, K]"""
    ended_score: Floats
    """[T, B, K]"""
    ended_parent: Ints
    """[T, B, K]"""
    attention: Floats | None = None
    """[T, B, K, P], of the beams that step t continued."""

    @property
    def steps(self) -> int:
        """Number of recorded steps T."""
        return int(self.token.shape[0])


@dataclass(frozen=True)
class Hypothesis:
    """One caption of one image."""

    tokens: tuple[int, ...]
    """Word ids, without ``<s>`` and ``</s>``."""
    log_prob: float
    """Summed log-probability, ``</s>`` included unless truncated."""
    score: float
    """``log_prob / length**alpha``; hypotheses are ranked by it."""
    truncated: bool
    """True when ``max_words`` came before ``</s>``."""
    attention: Floats | None
    """[words, P] weights each word was drawn with."""


class StopState:
    """The stop rule of one image, fed step by step.

    It ignores everything after the step that satisfied it, so no result depends on how often the host looked.
    """

    # Looked at between all steps, each of which drives what it does not use out of the processor's caches: so few
    # operations on few objects.
    __slots__ = ("_best", "_final_penalty", "_options", "done", "ended", "steps")

    def __init__(self, options: SearchOptions) -> None:
        self._options = options
        self._final_penalty = options.penalty(options.max_words)
        self._best: list[float] = []
        self.ended: list[tuple[float, float, int, int]] = []
        """(score, log-probability, step, beam that ended) in the order of their ending."""
        self.steps = 0
        """Steps looked at."""
        self.done = False
        """True once later steps cannot matter."""

    def end(self, step: int, scores: list[float], parents: list[int]) -> None:
        """Takes the hypotheses that step ``step`` ended, by rank; to be called before ``live`` of that step."""
        penalty = self._options.penalty(step + 1)
        for log_prob, parent in zip(scores, parents, strict=True):
            if log_prob > _ALIVE:
                self.ended.append((log_prob / penalty, log_prob, step, parent))
                self._best.append(log_prob / penalty)
        self._best.sort(reverse=True)
        del self._best[self._options.nbest :]

    def live(self, step: int, best: float) -> None:
        """Takes the best sum of the beams that live on after step ``step``, which follows those taken before."""
        options = self._options
        self.steps = step + 1
        if best <= _ALIVE or self.steps >= options.max_words:
            self.done = True
        elif self.ended:
            if options.stop == "first_k":
                self.done = len(self.ended) >= options.beams
            elif len(self._best) >= options.nbest:
                self.done = self._best[-1] >= best / self._final_penalty


class Progress:
    """The stop rules of all images of a batch, over a trace that grows."""

    def __init__(self, images: int, options: SearchOptions) -> None:
        self.states = [StopState(options) for _ in range(images)]
        self._steps = 0

    def finished(self, trace: Trace) -> bool:
        """Feeds the steps recorded since the last call; True when no image needs another."""
        done = False
        for step in range(self._steps, len(trace.token)):
            done = True
            ended, live = trace.ended_score[step].tolist(), trace.score[step].tolist()
            for image, state in enumerate(self.states):
                if state.done:
                    continue
                if max(ended[image]) > _ALIVE:
                    state.end(step, ended[image], trace.ended_parent[step, image].tolist())
                state.live(step, max(live[image]))
                done = done and state.done
            if done:
                break
            self._steps = step + 1
        return done


def hypotheses(trace: Trace, options: SearchOptions, progress: Progress | None = None) -> list[list[Hypothesis]]:
    """Reads the n best hypotheses of every image back from a trace, best first.

    Ended hypotheses come before truncated ones; among equals the one that ended first wins.

    Args:
        trace: every step of the search.
        options: those of the search.
        progress: what followed this trace with the same options, if anything did; it is brought up to date.
    """
    if progress is None:
        progress = Progress(trace.token.shape[1], options)
    progress.finished(trace)
    return [_rank(trace, image, state, options) for image, state in enumerate(progress.states)]


def _rank(trace: Trace, image: int, state: StopState, options: SearchOptions) -> list[Hypothesis]:
    found = sorted(state.ended, key=lambda item: -item[0])[: options.nbest]
    result = [
        _read_back(trace, image, step, beam, log_prob, score, truncated=False) for score, log_prob, step, beam in found
    ]
    if len(result) < options.nbest and state.steps >= options.max_words:
        last = state.steps - 1
        penalty = options.penalty(state.steps)
        for beam, log_prob in enumerate(trace.score[last, image].tolist()):
            if log_prob > _ALIVE and len(result) < options.nbest:
                # The live beam of row `last` is read as if a next step had ended it.
                result.append(_read_back(trace, image, last + 1, beam, log_prob, log_prob / penalty, truncated=True))
    return result


def _read_back(
    trace: Trace, image: int, step: int, beam: int, log_prob: float, score: float, *, truncated: bool
) -> Hypothesis:
    """Follows the parents from the beam that step ``step`` continued back to the start."""
    all_tokens, all_parents = trace.token[:step, image].tolist(), trace.parent[:step, image].tolist()
    tokens, parents = [0] * step, [0] * step
    for row in range(step - 1, -1, -1):
        tokens[row] = all_tokens[row][beam]
        # Row t holds the attention of the beams before its selection, so a word's is found at its parent.
        beam = parents[row] = all_parents[row][beam]
    attention = None if trace.attention is None else trace.attention[np.arange(step), image, parents]
    return Hypothesis(tuple(tokens), log_prob, score, truncated, attention)
