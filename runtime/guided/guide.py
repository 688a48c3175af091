"""A guided search of one batch: what beams have said, what they may not say, and who selects."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

import numpy as np

from camscribe.runtime.errors import OptionError, did_you_mean
from camscribe.runtime.guided.options import GuidedOptions
from camscribe.runtime.guided.selection import (
    Selected,
    draw,
    select_beams,
    select_containing,
    select_groups,
)
from camscribe.runtime.search import (
    DEAD,
    Floats,
    Hypothesis,
    Progress,
    SearchOptions,
    Selection,
    Trace,
    hypotheses,
    initial_score,
)
from camscribe.runtime.vocab import END, Vocabulary

_BAD_ENDINGS = (
    "a an the this that his her their its in on upon of with at to for by from into near before after and or "
    "is are am was were as"
)
BAD_ENDINGS = frozenset(_BAD_ENDINGS.split())
"""Words a caption should not end with: the two lists of ruotianluo/self-critical.pytorch, and their like."""


class Guide:
    """Selects for a batch, step by step.

    Args:
        options: of the search.
        vocabulary: the model's.
        images: in the batch.

    Raises:
        OptionError: a word of ``contain`` is none of the model's, or is banned.
    """

    def __init__(self, options: GuidedOptions, vocabulary: Vocabulary, images: int) -> None:
        self._options = options
        self._end_id = vocabulary.end_id
        self._bias = vocabulary.bias(options.ban)
        self._wanted = [_forms(word, vocabulary, self._bias) for word in options.contain]
        self._endings = np.zeros(len(vocabulary), bool)
        self._endings[[vocabulary.id_of(word) for word in BAD_ENDINGS if word in vocabulary]] = options.no_bad_endings
        self._generators = [np.random.default_rng(options.seed) for _ in range(images)]
        beams = options.beams << len(self._wanted)
        alone = replace(options, groups=1, diversity=GuidedOptions.diversity, nbest=1)
        self.executor_options: SearchOptions = replace(alone, beams=beams, contain=())
        """What the executor is told: a search for given words takes more beams."""
        self._score = initial_score(images, beams)
        self._score[:, :: beams // options.groups if options.groups > 1 else beams] = 0
        if options.sample:
            self._score[:] = 0
        self._said = np.zeros((images, beams, 0), np.int32)
        read = replace(
            alone, contain=(), beams=options.beams // options.groups, nbest=-(-options.nbest // options.groups)
        )
        self._read: SearchOptions = read
        self._progress = Progress(images * options.groups, read)
        self.seconds = 0.0
        """What selecting took so far."""

    def select(self, log_prob: Floats) -> Selection:
        """Decides a step.

        Args:
            log_prob: [B, K, V] of the decoder graph.
        """
        began, step = perf_counter(), self._said.shape[2]
        allowed = np.maximum(log_prob + self._bias, DEAD)
        if step < self._options.min_words:
            allowed[:, :, self._end_id] = DEAD
        if step and self._options.no_bad_endings:
            allowed[self._endings[self._said[:, :, -1]], self._end_id] = DEAD
        if step + 1 == self._options.max_words:  # what is said now is where a caption is cut
            allowed[:, :, self._endings] = DEAD
        if self._options.no_repeat:
            self._ban_repeats(allowed, self._options.no_repeat)
        rows = [self._select_one(image, allowed[image], step) for image in range(len(allowed))]
        selection = Selection(*(np.stack(column) for column in zip(*rows, strict=True)))
        self._score = selection.next_score
        before = np.take_along_axis(self._said, selection.next_parent[:, :, None], axis=1)
        self._said = np.concatenate([before, selection.next_token[:, :, None]], axis=2)
        self.seconds += perf_counter() - began
        return selection

    def finished(self, trace: Trace) -> bool:
        """Whether no image needs another step."""
        return self._progress.finished(self._grouped(trace))

    def hypotheses(self, trace: Trace) -> list[list[Hypothesis]]:
        """The n best of every image, best first; of groups the best of each before the second of any."""
        found = hypotheses(self._grouped(trace), self._read, self._progress)
        groups, nbest = self._options.groups, self._options.nbest
        if groups == 1:
            return found
        result = []
        for first in range(0, len(found), groups):
            ranked = [(place, item) for group in found[first : first + groups] for place, item in enumerate(group)]
            ranked.sort(key=lambda entry: (entry[0], entry[1].truncated, -entry[1].score))
            result.append([item for _, item in ranked[:nbest]])
        return result

    def _select_one(self, image: int, allowed: Floats, step: int) -> Selected:
        options, score = self._options, self._score[image]
        if options.sample:
            generator = self._generators[image]
            return draw(allowed, score, self._end_id, generator, options.temperature, options.top_k, options.top_p)
        sums = np.maximum(score[:, None] + allowed, DEAD)
        if self._wanted:
            return select_containing(sums, self._end_id, self._wanted, last=step + 1 == options.max_words)
        if options.groups > 1:
            return select_groups(sums, self._end_id, options.groups, options.diversity)
        return select_beams(sums, self._end_id, options.beams)

    def _ban_repeats(self, allowed: Floats, size: int) -> None:
        """Bans the words that would complete ``size`` words in a row that were said before."""
        steps = self._said.shape[2]
        for image, beams in enumerate(self._said.tolist()):
            for beam, said in enumerate(beams):
                last = said[steps - size + 1 :]
                for begin in range(steps - size + 1):
                    if said[begin : begin + size - 1] == last:
                        allowed[image, beam, said[begin + size - 1]] = DEAD

    def _grouped(self, trace: Trace) -> Trace:
        """Groups of beams as images of their own."""
        groups = self._options.groups
        if groups == 1:
            return trace
        steps, images, beams = trace.token.shape
        count = beams // groups
        first = (np.arange(beams, dtype=np.int32) // count) * count

        def split(column: Floats) -> Floats:
            return column.reshape(steps, images * groups, count, *column.shape[3:])

        return Trace(
            split(trace.token),  # type: ignore[arg-type]
            split(trace.parent - first),  # type: ignore[arg-type]
            split(trace.score),
            split(trace.ended_score),
            split(trace.ended_parent - first),  # type: ignore[arg-type]
            None if trace.attention is None else split(trace.attention),
        )


def _forms(word: str, vocabulary: Vocabulary, bias: Floats) -> list[int]:
    """Ids of the forms of a wanted word, ``dog|dogs``, but for banned ones; ``</s>`` is no word."""
    complaint = "which is not a word that this model may say"
    forms = word.split("|")
    for form in forms:
        if form not in vocabulary or form == END:
            raise OptionError(f"contain has {form!r}, {complaint}{did_you_mean(form, vocabulary.tokens)}")
    allowed = [index for index in vocabulary.encode(forms) if bias[index] > DEAD]
    if not allowed:
        raise OptionError(f"contain has {word!r}, {complaint}, as it is banned")
    return allowed
