"""BLEU-4 as a reward equals coco-caption's scores of single sentences, and mixes into CIDEr-D by its weight."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camscribe.train.bleu import BleuReward
from camscribe.train.cider import CiderReward
from camscribe.train.rewards import CaptionReward

bleu = pytest.importorskip("pycocoevalcap.bleu.bleu", reason="pycocoevalcap is not installed")

END = 2
SIZE = 7
# Few words, so that many n-grams match and some are said twice.
captions = st.lists(st.integers(3, SIZE - 1), max_size=12).map(tuple)


def text(tokens: tuple[int, ...]) -> str:
    return " ".join(map(str, tokens))


@settings(deadline=None)
@given(st.lists(st.tuples(st.lists(captions, min_size=1, max_size=5), captions, st.booleans()), min_size=1, max_size=8))
def test_scores_equal_coco_captions_scorer(images: list[tuple[list[tuple[int, ...]], tuple[int, ...], bool]]) -> None:
    references = [captions for captions, _, _ in images]
    samples = [(*sample, END) if ended else sample for _, sample, ended in images]
    scores = BleuReward(references, END, SIZE).reward(range(len(images)), [[sample] for sample in samples])
    assert scores.shape == (len(images), 1)
    targets = {image: [text((*caption, END)) for caption in own] for image, own in enumerate(references)}
    _, theirs = bleu.Bleu(4).compute_score(targets, {i: [text(s)] for i, s in enumerate(samples)}, verbose=0)
    np.testing.assert_allclose(scores[:, 0], theirs[3], rtol=1e-5, atol=1e-9)


def test_the_end_counts_as_a_word() -> None:
    reward = BleuReward([[(3, 4, 5, 6)]], END, SIZE)
    whole, truncated, padded = reward.reward([0], [[(3, 4, 5, 6, END), (3, 4, 5, 6), (3, 4, 5, 6, END, 0, 0)]])[0]
    assert whole == padded == pytest.approx(1)
    # All four n-grams match, but of five words there are four.
    assert truncated == pytest.approx(np.exp(1 - 5 / 4))


def test_the_closest_reference_s_length_counts_and_of_two_the_shorter() -> None:
    reward = BleuReward([[(3, 4, 5), (3, 4, 5, 6, 3)]], END, SIZE)
    # Five tokens with </s> lie between references of four and six: no penalty, all words but the end match.
    (found,) = reward.reward([0], [[(3, 4, 5, 6, END)]])[0]
    assert found == pytest.approx((5 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


def test_the_mix_is_the_sum_by_weight() -> None:
    references, images = [[(3, 4, 5, 6)], [(4, 4, 3)]], [1, 0]
    samples = [[(4, 4, 3, END), (3, END)], [(3, 4, 5), (6, 5, END)]]
    cider, alone = (kind(references, END, SIZE).reward(images, samples) for kind in (CiderReward, BleuReward))
    mixed = CaptionReward(references, END, SIZE, bleu4_weight=2.5)(images, samples)
    np.testing.assert_allclose(mixed, cider + 2.5 * alone, rtol=1e-6)
    np.testing.assert_array_equal(CaptionReward(references, END, SIZE)(images, samples), cider)
    fined = CaptionReward(references, END, SIZE, ending_penalty=0.75)(images, samples)
    np.testing.assert_allclose(fined, cider - [[0, 0], [0.75, 0]], rtol=1e-6)  # of these one has no </s>
