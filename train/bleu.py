"""BLEU-4 of single sampled captions, to be mixed into the reward of self-critical training.

The same numbers as ``bleu_scorer.py`` of coco-caption gives for each sentence (Papineni et al. 2002, with the closest
reference's length, and smoothed only so far that nothing is divided by 0), on token ids instead of text. ``</s>``
counts as a token of every caption, as in ``cider``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from camscribe.train.ngrams import ORDERS, ngrams, until_end

_TINY, _SMALL = 1e-15, 1e-9
"""What coco-caption adds to the matches and to the n-grams of a sentence. One without a match of four words in a row
has a BLEU-4 of about 0.001 at most, not 0."""


class BleuReward:
    """Scores captions against the references of their images.

    Args:
        references: for every image its captions as token ids, without ``</s>``.
        end_id: id of ``</s>``.
        size: number of tokens in the vocabulary; every id is below it.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]], end_id: int, size: int) -> None:
        self.end_id = end_id
        self._base = size + 1
        self._references = references

    def reward(self, images: Sequence[int], samples: Sequence[Sequence[Sequence[int]]]) -> npt.NDArray[np.float32]:
        """BLEU-4 of each sample, between 0 and 1.

        Args:
            images: [B] numbers of the images in ``references``.
            samples: [B][S] captions as token ids, see ``CiderReward.reward``.

        Returns:
            [B, S] scores.
        """
        return np.array(
            [self._scores(self._references[image], captions) for image, captions in zip(images, samples, strict=True)],
            dtype=np.float32,
        )

    def _scores(self, references: Sequence[Sequence[int]], samples: Sequence[Sequence[int]]) -> list[float]:
        lengths, most = [len(reference) + 1 for reference in references], Counter[int]()
        for reference in references:
            for order in ngrams([*reference, self.end_id], self._base):
                most |= Counter(order)  # the larger count of each
        return [self._score(until_end(sample, self.end_id), lengths, most) for sample in samples]

    def _score(self, sample: Sequence[int], lengths: Sequence[int], most: Counter[int]) -> float:
        product = 1.0
        for order in ngrams(sample, self._base):
            matches = sum(min(count, most[ngram]) for ngram, count in Counter(order).items())
            product *= (matches + _TINY) / (len(order) + _SMALL)
        closest = min(lengths, key=lambda length: (abs(length - len(sample)), length))
        ratio = (len(sample) + _TINY) / (closest + _SMALL)
        brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
        return float(product ** (1 / ORDERS) * brevity)
