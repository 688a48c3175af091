"""Training captions as token arrays, and the order in which a stage sees the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from camscribe.runtime.vocab import Vocabulary
from camscribe.train.features import is_flipped
from camscribe.train.readers import CaptionedImage
from camscribe.train.text import swap_sides, words


class Captions:
    """The captions of a split as token ids, for images as they are and mirrored."""

    def __init__(self, images: Sequence[CaptionedImage], vocabulary: Vocabulary, max_words: int) -> None:
        self.vocabulary = vocabulary
        cut = [[words(caption)[:max_words] for caption in image.captions] for image in images]
        self._plain = [[vocabulary.encode(caption) for caption in captions] for captions in cut]
        self._flipped = [[vocabulary.encode(swap_sides(caption)) for caption in captions] for captions in cut]

    def references(self) -> list[list[list[int]]]:
        """All captions without ``</s>``: row 2 i is image i as it is, row 2 i + 1 mirrored."""
        return [captions for pair in zip(self._plain, self._flipped, strict=True) for captions in pair]

    def arrays(
        self, indices: Sequence[int], variants: Sequence[int], count: int, generator: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Inputs (``<s>`` first) and targets (``</s>`` last, then ``<pad>``), int64 [B, count, T].

        An image with another number of captions gives as many by drawing: without repetition when it has enough.
        """
        chosen = []
        for index, variant in zip(indices, variants, strict=True):
            own = (self._flipped if is_flipped(variant) else self._plain)[index]
            if len(own) >= count:
                picks = generator.permutation(len(own))[:count]
            else:
                picks = np.concatenate([np.arange(len(own)), generator.integers(0, len(own), count - len(own))])
            chosen.append([own[pick] for pick in picks])
        length = 1 + max(len(caption) for captions in chosen for caption in captions)
        inputs = np.full((len(chosen), count, length), self.vocabulary.pad_id, dtype=np.int64)
        targets = inputs.copy()
        inputs[:, :, 0] = self.vocabulary.start_id
        for row, captions in enumerate(chosen):
            for column, caption in enumerate(captions):
                inputs[row, column, 1 : len(caption) + 1] = caption
                targets[row, column, : len(caption)] = caption
                targets[row, column, len(caption)] = self.vocabulary.end_id
        return torch.from_numpy(inputs), torch.from_numpy(targets)


class Order(NamedTuple):
    """One step's images."""

    step: int
    indices: list[int]
    variants: list[int]
    generator: np.random.Generator
    """For all that this step draws, so that a resumed run draws the same."""


def epoch_order(
    images: int, batch: int, variants: int, seed: Sequence[int], start: int = 0, rank: int = 0, processes: int = 1
) -> Iterator[Order]:
    """The steps of one epoch from step ``start``: every image once, in an order fixed by ``seed``.

    Of several processes each takes its share of every batch; a last batch too small to share is left out.
    """
    generator = np.random.default_rng(list(seed))
    order = generator.permutation(images)
    drawn = generator.integers(0, variants, images)
    for step in range(start, steps_of(images, batch, processes)):
        rows = order[step * batch : (step + 1) * batch]
        share = rows[: len(rows) - len(rows) % processes][rank::processes]
        yield Order(step, share.tolist(), drawn[share].tolist(), np.random.default_rng([*seed, step, rank]))


def steps_of(images: int, batch: int, processes: int = 1) -> int:
    """Steps of one epoch."""
    full, rest = divmod(images, batch)
    return full + (rest >= processes)
