"""CIDEr-D of sampled captions, fast enough to be the reward of self-critical training.

The same numbers as ``cider_scorer.py`` of coco-caption (Vedantam et al. 2015, the variant with clipped counts and a
length penalty), on token ids instead of text. ``</s>`` counts as a token of every caption (Luo 2018): without it a
model learns to stop in the middle ("a dog on a"), because n-grams alone do not miss the end.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from camscribe.runtime.errors import DataError
from camscribe.train.ngrams import ORDERS, ngrams, until_end

_SIGMA = 6.0  # of the Gaussian over the difference in length, words

_Weights = list[dict[int, float]]  # by order: n-gram -> tf-idf


class CiderReward:
    """Scores captions against the references of their images.

    Args:
        references: for every image its captions as token ids, without ``</s>``. They are also the corpus of the
            document frequencies.
        end_id: id of ``</s>``.
        size: number of tokens in the vocabulary; every id is below it.

    Raises:
        DataError: there are fewer than two images, or one has no reference. (The inverse document frequency of a
            single image is 0, and so would be every score.)
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]], end_id: int, size: int) -> None:
        if len(references) < 2:
            raise DataError(f"CIDEr needs the references of 2 images or more, got {len(references)}")
        for image, captions in enumerate(references):
            if not captions:
                raise DataError(f"image {image} of {len(references)} has no reference caption")
        self.end_id = end_id
        self._base = size + 1
        self._references = [[(*caption, end_id) for caption in captions] for captions in references]
        frequency: Counter[int] = Counter()
        for captions in self._references:
            frequency.update(
                {ngram for caption in captions for order in ngrams(caption, self._base) for ngram in order}
            )
        most = math.log(len(references))
        self._unseen = most
        # Only n-grams of two images or more are kept: log(1) is what an unseen one gets too.
        self._idf = {ngram: most - math.log(count) for ngram, count in frequency.items() if count > 1}

    def reward(self, images: Sequence[int], samples: Sequence[Sequence[Sequence[int]]]) -> npt.NDArray[np.float32]:
        """CIDEr-D of each sample, between 0 and 10.

        Args:
            images: [B] numbers of the images in ``references``.
            samples: [B][S] captions as token ids. A caption that ended holds ``</s>``, and anything behind it is
                ignored; a truncated one holds none and scores less.

        Returns:
            [B, S] scores.
        """
        return np.array(
            [self._scores(self._references[image], captions) for image, captions in zip(images, samples, strict=True)],
            dtype=np.float32,
        )

    def _scores(self, references: Iterable[Sequence[int]], samples: Sequence[Sequence[int]]) -> list[float]:
        cooked = [(len(caption), *self._weigh(caption)) for caption in references]
        scores = []
        for sample in samples:
            ids = until_end(sample, self.end_id)
            weights, norms = self._weigh(ids)
            score = 0.0
            for length, reference, reference_norms in cooked:
                # coco-caption measures length in bigrams, so nothing and one word are equally long.
                difference = max(len(ids) - 1, 0) - (length - 1)
                cosines = 0.0
                for order in range(ORDERS):
                    scale = norms[order] * reference_norms[order]
                    if scale:
                        other = reference[order]
                        product = 0.0
                        for ngram, weight in weights[order].items():
                            if ngram in other:
                                product += min(weight, other[ngram]) * other[ngram]
                        cosines += product / scale
                score += cosines * math.exp(-(difference**2) / (2 * _SIGMA**2))
            scores.append(10.0 * score / ORDERS / len(cooked))
        return scores

    def _weigh(self, caption: Sequence[int]) -> tuple[_Weights, list[float]]:
        """The tf-idf of the caption's n-grams and their Euclidean norm, by order."""
        idf, unseen = self._idf, self._unseen
        weights: _Weights = []
        for order in ngrams(caption, self._base):
            counts: dict[int, float] = {}
            for ngram in order:
                counts[ngram] = counts.get(ngram, 0.0) + idf.get(ngram, unseen)
            weights.append(counts)
        return weights, [math.sqrt(sum(weight * weight for weight in counts.values())) for counts in weights]
