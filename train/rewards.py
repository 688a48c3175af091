"""The reward of self-critical training: CIDEr-D, and BLEU-4 where it is given a weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from camscribe.train.bleu import BleuReward
from camscribe.train.cider import CiderReward


class CaptionReward:
    """CIDEr-D + ``bleu4_weight`` x BLEU-4 of sampled captions; see ``CiderReward`` and ``BleuReward``.

    CIDEr-D goes to 10 and BLEU-4 to 1, so that a weight of 1 leaves CIDEr-D nearly alone.

    Args:
        references: for every image its captions as token ids, without ``</s>``.
        end_id: id of ``</s>``.
        size: number of tokens in the vocabulary.
        bleu4_weight: 0 leaves BLEU-4 out.

    Raises:
        DataError: there are fewer than two images, or one has no reference.
    """

    def __init__(
        self, references: Sequence[Sequence[Sequence[int]]], end_id: int, size: int, bleu4_weight: float = 0.0
    ) -> None:
        self._cider = CiderReward(references, end_id, size)
        self._bleu = BleuReward(references, end_id, size)
        self.bleu4_weight = bleu4_weight

    def __call__(self, images: Sequence[int], samples: Sequence[Sequence[Sequence[int]]]) -> npt.NDArray[np.float32]:
        """Rewards [B, S] of the samples [B][S] of the images [B]."""
        rewards = self._cider.reward(images, samples)
        if self.bleu4_weight:
            rewards = rewards + np.float32(self.bleu4_weight) * self._bleu.reward(images, samples)
        return rewards
