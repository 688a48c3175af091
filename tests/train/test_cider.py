"""CIDEr-D as a reward equals coco-caption's scorer, and punishes a caption that did not end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camscribe.runtime.errors import DataError
from camscribe.train.cider import CiderReward
from camscribe.train.readers import read_dataset
from camscribe.train.text import build_vocabulary, words

cider_scorer = pytest.importorskip("pycocoevalcap.cider.cider_scorer", reason="pycocoevalcap is not installed")

END = 2
SIZE = 12
captions = st.lists(st.integers(3, SIZE - 1), max_size=9).map(tuple)


def text(tokens: tuple[int, ...]) -> str:
    return " ".join(map(str, tokens))


def coco_caption(
    references: list[list[tuple[int, ...]]], samples: list[tuple[int, ...]]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Scores by coco-caption itself, with ``</s>`` spelt out as a word."""
    scorer = cider_scorer.CiderScorer()
    for image, sample in enumerate(samples):
        scorer += (text(sample), [text((*caption, END)) for caption in references[image]])
    return np.asarray(scorer.compute_score()[1])


@settings(deadline=None)
@given(st.lists(st.tuples(st.lists(captions, min_size=1, max_size=5), captions, st.booleans()), min_size=2, max_size=8))
def test_scores_equal_coco_captions_scorer(images: list[tuple[list[tuple[int, ...]], tuple[int, ...], bool]]) -> None:
    references = [captions for captions, _, _ in images]
    samples = [(*sample, END) if ended else sample for _, sample, ended in images]
    scores = CiderReward(references, END, SIZE).reward(range(len(images)), [[sample] for sample in samples])
    assert scores.shape == (len(images), 1)
    np.testing.assert_allclose(scores[:, 0], coco_caption(references, samples), rtol=1e-5, atol=1e-6)


REFERENCES = [[(3, 4, 5, 6), (3, 4, 7)], [(8, 9, 10)], [(3, 9, 11, 5)]]


def test_a_copy_of_the_only_reference_scores_ten() -> None:
    reward = CiderReward([[(3, 4, 5, 6)], [(8, 9, 10, 7)]], END, SIZE)
    np.testing.assert_allclose(reward.reward([1], [[(8, 9, 10, 7, END)]]), [[10.0]], rtol=1e-6)


def test_a_truncated_caption_scores_less_than_the_same_caption_ended() -> None:
    ended, truncated = CiderReward(REFERENCES, END, SIZE).reward([0], [[(3, 4, 5, 6, END), (3, 4, 5, 6)]])[0]
    assert truncated < ended


def test_anything_behind_the_end_is_ignored_and_arrays_will_do() -> None:
    reward = CiderReward(REFERENCES, END, SIZE)
    padded = np.array([[3, 4, END, 0, 0], [3, 4, END, 9, END]], dtype=np.int32)
    plain = reward.reward([0], [[(3, 4, END), (3, 4, END)]])
    assert np.array_equal(reward.reward([0], [padded]), plain)
    assert plain[0, 0] > 0


def test_an_image_is_scored_against_its_own_references() -> None:
    scores = CiderReward(REFERENCES, END, SIZE).reward([1, 0], [[(8, 9, 10, END)], [(8, 9, 10, END)]])
    assert scores[0, 0] > 9 > 1 > scores[1, 0]


def test_an_empty_sample_scores_nothing() -> None:
    assert CiderReward(REFERENCES, END, SIZE).reward([0], [[()]])[0, 0] == 0


def test_ids_as_large_as_real_vocabularies_do_not_collide() -> None:
    size = 50_000
    references = [[(size - 1, size - 2, 3, 4)], [(3, 4, size - 1, size - 2)], [(0, 1, 0, 1, 3)]]
    samples = [(size - 1, size - 2, 3, END), (0, 0, 3, END), (0, 1, 0, END)]
    scores = CiderReward(references, END, size).reward(range(3), [[sample] for sample in samples])
    np.testing.assert_allclose(scores[:, 0], coco_caption(references, samples), rtol=1e-5)


@pytest.mark.parametrize("references", [[], [[(3,)]], [[(3,)], []]])
def test_references_that_make_no_corpus_are_refused(references: list[list[tuple[int, ...]]]) -> None:
    with pytest.raises(DataError, match="reference"):
        CiderReward(references, END, SIZE)


@pytest.mark.data
def test_real_captions_score_as_in_coco_caption(data_dir: Path) -> None:
    root = data_dir / "flickr8k"
    dataset = read_dataset("flickr8k", root, split="dev")
    cut = [[words(caption) for caption in image.captions] for image in dataset]
    vocabulary = build_vocabulary((caption for captions in cut for caption in captions), min_count=5)
    references = [[tuple(vocabulary.encode(caption)) for caption in captions] for captions in cut]
    reward = CiderReward(references, vocabulary.end_id, len(vocabulary))
    # The captions of the next image as samples: real sentences, some words in common.
    samples = [[(*caption, vocabulary.end_id) for caption in captions] for captions in references[1:] + references[:1]]
    scores = reward.reward(range(len(references)), samples)
    for sample in range(5):
        end = vocabulary.end_id
        scorer = cider_scorer.CiderScorer()
        for image, captions in enumerate(references):
            scorer += (text(samples[image][sample]), [text((*caption, end)) for caption in captions])
        np.testing.assert_allclose(scores[:, sample], scorer.compute_score()[1], rtol=1e-4, atol=1e-6)
