"""Captions that stop before they are done ("... is playing in a blue"), told by how other captions end.

A list of words such as "a" or "in" does not see those: "dressed in blue" is a good ending. And CIDEr pays for one: its
n-grams without the noun score more than a caption whose noun is the wrong one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise

_LIMIT = 0.005
"""Of Flickr8k's development captions 1 in 200 counts as unfinished at this limit, against the training captions; read
by eye, most of those are."""
_PRIOR = 10.0  # so many sightings weigh as much as what is known without them


class Endings:
    """How often captions end behind their last two words.

    The share is estimated from the captions with those two words, backed off to the last word alone and then to any
    word, each counting as ``_PRIOR`` sightings (a Dirichlet prior: MacKay and Peto 1995), so that rare words are
    not judged.

    Args:
        captions: finished ones, as words or token ids, without ``</s>``.
    """

    def __init__(self, captions: Iterable[Sequence[Hashable]]) -> None:
        self._seen: Counter[tuple[Hashable, ...]] = Counter()
        self._ends: Counter[tuple[Hashable, ...]] = Counter()
        for caption in captions:
            tokens = tuple(caption)
            if not tokens:
                continue
            self._seen[()] += len(tokens)
            self._seen.update((token,) for token in tokens)
            self._seen.update(pairwise(tokens))
            self._ends.update([(), *_last(tokens)])

    def share(self, caption: Sequence[Hashable]) -> float:
        """Estimated share, of the captions with this one's last two words, of those that end there; 0 for no word."""
        if not caption:
            return 0.0
        share = self._ends[()] / self._seen[()] if self._seen[()] else 1.0  # nothing to tell by: all are finished
        for last in _last(tuple(caption)):
            share = (self._ends[last] + _PRIOR * share) / (self._seen[last] + _PRIOR)
        return share

    def unfinished(self, caption: Sequence[Hashable]) -> bool:
        """Whether the caption ends where captions as good as never do."""
        return self.share(caption) < _LIMIT


def _last(tokens: tuple[Hashable, ...]) -> list[tuple[Hashable, ...]]:
    """A caption's last token and, where it has two, its last two."""
    return [tokens[-1:], tokens[-2:]][: len(tokens)]
