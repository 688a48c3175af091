"""Selection on the host: exact against stable sorts and literal transcriptions of the papers' rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camscribe.runtime.guided.selection import best, draw, select_beams, select_containing, select_groups
from camscribe.runtime.search import DEAD, select

END = 2


def scores(seed: int, beams: int, words: int, *, ties: bool = False) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if ties:
        return -generator.integers(1, 4, (beams, words)).astype(np.float32)
    return -generator.exponential(3, (beams, words)).astype(np.float32)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=60), st.integers(1, 12))
def test_the_best_are_those_of_a_stable_sort(values: list[int], count: int) -> None:
    array = np.array(values, np.float32)
    count = min(count, len(values))
    assert best(array, count).tolist() == np.argsort(-array, kind="stable")[:count].tolist()


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(3, 9), st.booleans())
def test_beams_are_selected_by_the_definition(seed: int, beams: int, words: int, ties: bool) -> None:
    log_prob = scores(seed, beams, words, ties=ties)
    score = np.zeros(beams, np.float32)
    wanted = select(log_prob[None], score[None], 0, 0, np.zeros(words, np.float32), END)
    found = select_beams(score[:, None] + log_prob, END, beams)
    for name, mine, theirs in zip(found._fields, found, wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs[0], err_msg=name)


@given(st.integers(0, 10**6), st.sampled_from([(2, 2), (4, 2), (6, 3), (3, 3)]), st.floats(0, 3), st.booleans())
def test_groups_are_selected_by_vijayakumars_rule(
    seed: int, sizes: tuple[int, int], diversity: float, ties: bool
) -> None:
    """A transcription word by word: Python's sort of all candidates of a group, a penalty for each earlier choice."""
    beams, groups = sizes
    sums = scores(seed, beams, 7, ties=ties)
    count, said = beams // groups, [0] * 7
    tokens, parents, kept, ended = [], [], [], []
    for group in range(groups):
        candidates = [
            (-np.float32(sums[beam, word] - np.float32(np.float32(diversity) * np.float32(said[word]))), beam, word)
            for beam in range(group * count, (group + 1) * count)
            for word in range(7)
        ]
        candidates.sort()
        ranked = candidates[: 2 * count]
        ended += [float(sums[b, w]) if w == END else float(DEAD) for _, b, w in ranked[:count]]
        live = [(b, w) for _, b, w in ranked if w != END]
        live = (live + [(b, w) for _, b, w in ranked if w == END])[:count]
        tokens += [w for _, w in live]
        parents += [b for b, _ in live]
        kept += [float(sums[b, w]) for b, w in live]
        for _, w in live:
            said[w] += w != END
    found = select_groups(sums, END, groups, diversity)
    assert found.next_token.tolist() == tokens
    assert found.next_parent.tolist() == parents
    assert found.next_score.tolist() == kept
    assert found.ended_score.tolist() == ended


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 3), st.booleans())
def test_beams_with_wanted_words_are_selected_by_their_sets(seed: int, count: int, last: bool) -> None:
    """A transcription with a Python list for each set of words said so far."""
    wanted, words = [[3], [4, 5]], 8
    sums = scores(seed, 4 * count, words)
    lists: dict[int, list[tuple[float, int, int]]] = {state: [] for state in range(4)}
    for beam in range(4 * count):
        for word in range(words):
            state = (beam // count) | (word == 3) | (2 * (word in (4, 5)))
            if word != END or state == 3:
                lists[state].append((-float(sums[beam, word]), beam, word))
    found = select_containing(sums, END, wanted, last=last)
    for state in range(4):
        ranked = sorted(lists[state])[: 2 * count]
        live = ([item for item in ranked if item[2] != END] + [item for item in ranked if item[2] == END])[:count]
        rows = slice(state * count, (state + 1) * count)
        assert found.next_token[rows].tolist() == [word for _, _, word in live]
        assert found.next_parent[rows].tolist() == [beam for _, beam, _ in live]
        alive = [float(DEAD)] * count if last and state < 3 else [-score for score, _, _ in live]
        assert found.next_score[rows].tolist() == alive
        ends = [-score if word == END else float(DEAD) for score, _, word in ranked[:count]]
        assert found.ended_score[rows].tolist() == ends


def drawn(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, count: int = 4000) -> np.ndarray:
    """How often each of 4 words is drawn, as a share."""
    log_prob = np.log(np.array([[0.5, 0.1, 0.1, 0.3]], np.float32)).repeat(count, axis=0)
    score = np.zeros(count, np.float32)
    found = draw(log_prob, score, END, np.random.default_rng(0), temperature, top_k, top_p)
    np.testing.assert_allclose(
        np.where(found.next_token == END, found.ended_score, found.next_score), log_prob[0][found.next_token]
    )
    return np.bincount(found.next_token, minlength=4) / count


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [0.5, 0.1, 0.1, 0.3]),
        ({"temperature": 0.5}, np.array([0.25, 0.01, 0.01, 0.09]) / 0.36),
        ({"top_k": 2}, [0.625, 0, 0, 0.375]),
        ({"top_p": 0.8}, [0.625, 0, 0, 0.375]),
        ({"top_p": 0.5}, [1, 0, 0, 0]),
        ({"top_p": 0.81}, [0.5 / 0.9, 0.1 / 0.9, 0, 0.3 / 0.9]),
        ({"top_k": 1}, [1, 0, 0, 0]),
    ],
)
def test_words_are_drawn_as_often_as_they_should(options: dict[str, float], wanted: list[float]) -> None:
    np.testing.assert_allclose(drawn(**options), wanted, atol=0.03)  # 4 standard deviations of 4,000 draws


def test_banned_words_are_never_drawn_and_dead_beams_stay_dead() -> None:
    log_prob = np.array([[-0.1, DEAD, DEAD, -3.0]] * 3, np.float32)
    score = np.array([0, DEAD, 0], np.float32)
    for seed in range(50):
        found = draw(log_prob, score, END, np.random.default_rng(seed), 50.0, 0, 1.0)
        assert set(found.next_token[[0, 2]].tolist()) <= {0, 3}
        assert found.next_score[1] == found.ended_score[1] == DEAD
    nothing = np.full((1, 4), DEAD)
    found = draw(nothing, np.zeros(1, np.float32), END, np.random.default_rng(0), 1.0, 0, 1.0)
    assert found.next_score[0] == found.ended_score[0] == DEAD
