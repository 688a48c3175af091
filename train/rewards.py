"""The reward of self-critical training: CIDEr-D, with BLEU-4 and a penalty for unfinished captions where asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from camscribe.train.bleu import BleuReward
from camscribe.train.cider import CiderReward
from camscribe.train.endings import Endings
from camscribe.train.ngrams import until_end


class CaptionReward:
    """CIDEr-D + ``bleu4_weight`` x BLEU-4 of sampled captions, less ``ending_penalty`` for those that stop before they
    are done; see ``CiderReward``, ``BleuReward`` and ``Endings``.

    CIDEr-D goes to 10 and BLEU-4 to 1, so that a weight of 1 leaves CIDEr-D nearly alone. A caption without ``</s>``,
    which was cut, counts as unfinished.

    Args:
        references: for every image its captions as token ids, without ``</s>``.
        end_id: id of ``</s>``.
        size: number of tokens in the vocabulary.
        bleu4_weight: 0 leaves BLEU-4 out.
        ending_penalty: 0 leaves endings to CIDEr-D.

    Raises:
        DataError: there are fewer than two images, or one has no reference.
    """

    def __init__(
        self,
        references: Sequence[Sequence[Sequence[int]]],
        end_id: int,
        size: int,
        bleu4_weight: float = 0.0,
        ending_penalty: float = 0.0,
    ) -> None:
        self._cider = CiderReward(references, end_id, size)
        self._bleu = BleuReward(references, end_id, size)
        self._endings = Endings(caption for captions in references for caption in captions)
        self._end_id = end_id
        self.bleu4_weight = bleu4_weight
        self.ending_penalty = ending_penalty

    def __call__(self, images: Sequence[int], samples: Sequence[Sequence[Sequence[int]]]) -> npt.NDArray[np.float32]:
        """Rewards [B, S] of the samples [B][S] of the images [B]."""
        rewards = self._cider.reward(images, samples)
        if self.bleu4_weight:
            rewards = rewards + np.float32(self.bleu4_weight) * self._bleu.reward(images, samples)
        if self.ending_penalty:
            unfinished = [[self._unfinished(sample) for sample in each] for each in samples]
            rewards = rewards - np.float32(self.ending_penalty) * np.array(unfinished, dtype=np.float32)
        return rewards

    def _unfinished(self, sample: Sequence[int]) -> bool:
        ids = until_end(sample, self._end_id)
        return not ids or ids[-1] != self._end_id or self._endings.unfinished(ids[:-1])
