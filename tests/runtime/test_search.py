"""Beam search equals exhaustive search where it is wide enough, and its rule taken literally where it is not."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camscribe.runtime.errors import OptionError
from camscribe.runtime.search import DEAD, Progress, SearchOptions, Trace, hypotheses, initial_score, select

Prefix = tuple[int, ...]
Result = list[tuple[Prefix, float, float, bool]]
"""(tokens, log-probability, score, truncated), best first."""


@dataclass(frozen=True)
class Table:
    """Log-probabilities of the next word after any prefix, drawn from a seed."""

    seed: int
    words: int
    end: int
    end_shift: float = 0.0
    """Added to the logit of </s>: -4 makes it rare, 100 certain, -1e4 impossible in practice."""
    ties: bool = False
    """Log-probabilities are small whole numbers, so that most candidates tie."""

    @functools.lru_cache(maxsize=10_000)  # noqa: B019 - tables live as long as the test
    def after(self, prefix: Prefix) -> np.ndarray:
        """float32 [V]"""
        generator = np.random.default_rng([self.seed, *prefix])
        if self.ties:
            return -generator.integers(1, 4, self.words).astype(np.float32)
        logits = generator.normal(0, 2, self.words)
        logits[self.end] += self.end_shift
        return (logits - np.log(np.exp(logits).sum())).astype(np.float32)


def code(prefix: Prefix) -> float:
    """A number that tells prefixes apart, small enough for float32."""
    value = 1
    for token in prefix:
        value = value * 7 + token
    return float(value % 16_000_057)


def beam_search(tables: list[Table], options: SearchOptions, bias: np.ndarray) -> list[Result]:
    """The search as executors do it: ``select`` step by step, states in the order of the input beams."""
    images, beams = len(tables), options.beams
    prefixes: list[list[Prefix]] = [[()] * beams for _ in tables]
    score, progress, rows = initial_score(images, beams), Progress(images, options), []
    for step in range(options.max_words):
        log_prob = np.stack([[table.after(p) for p in row] for table, row in zip(tables, prefixes, strict=True)])
        attention = np.array([[[code(p)] for p in row] for row in prefixes], np.float32)
        chosen = select(log_prob, score, step, options.min_words, bias, tables[0].end)
        score = chosen.next_score
        prefixes = [
            [(*row[parent], int(token)) for parent, token in zip(parents, tokens, strict=True)]
            for row, parents, tokens in zip(prefixes, chosen.next_parent, chosen.next_token, strict=True)
        ]
        rows.append((*chosen, attention))
        trace = Trace(*(np.stack(column) for column in zip(*rows, strict=True)))
        if (step + 1) % options.poll == 0 and progress.finished(trace):
            break
    results = []
    for image in hypotheses(trace, options, progress):
        for item in image:
            assert item.attention is not None
            assert item.attention[:, 0].tolist() == [code(item.tokens[:n]) for n in range(len(item.tokens))]
        results.append([(item.tokens, item.log_prob, item.score, item.truncated) for item in image])
    return results


def log_prob_of(table: Table, sequence: Prefix, bias: np.ndarray) -> float:
    total = np.float32(0)
    for index, token in enumerate(sequence):
        total = total + (table.after(sequence[:index])[token] + bias[token])
    return float(total)


def exhaustive(table: Table, options: SearchOptions, bias: np.ndarray) -> Result:
    """Every sentence there is, the best first."""
    words = [word for word in range(table.words) if word != table.end and bias[word] > DEAD]
    ended: Result = []
    for length in range(options.min_words, options.max_words):
        for sentence in itertools.product(words, repeat=length):
            log_prob = log_prob_of(table, (*sentence, table.end), bias)
            if bias[table.end] > DEAD:
                ended.append((sentence, log_prob, log_prob / float(length + 1) ** options.length_penalty, False))
    cut: Result = []
    for sentence in itertools.product(words, repeat=options.max_words):
        log_prob = log_prob_of(table, sentence, bias)
        cut.append((sentence, log_prob, log_prob / float(options.max_words) ** options.length_penalty, True))
    ended.sort(key=lambda item: -item[2])
    cut.sort(key=lambda item: -item[1])
    return [*ended, *cut]


def literal(table: Table, options: SearchOptions, bias: np.ndarray) -> Result:
    """The rule word by word, in lists: of the best 2K continuations of the K live beams, those that are ``</s>`` and
    rank among the first K end there; the best K others live on."""
    live: list[tuple[float, Prefix]] = [(0.0, ())]
    ended: Result = []
    longest = float(options.max_words) ** options.length_penalty
    for step in range(options.max_words):
        candidates = []
        for beam, (score, prefix) in enumerate(live):
            for token, log_prob in enumerate(table.after(prefix) + bias):
                if bias[token] <= DEAD or (token == table.end and step < options.min_words):
                    continue
                candidates.append((float(np.float32(score) + log_prob), beam, token))
        candidates.sort(key=lambda item: (-item[0], item[1], item[2]))
        following: list[tuple[float, Prefix]] = []
        for rank, (score, beam, token) in enumerate(candidates[: 2 * options.beams]):
            prefix = live[beam][1]
            if token != table.end:
                if len(following) < options.beams:
                    following.append((score, (*prefix, token)))
            elif rank < options.beams:
                ended.append((prefix, score, score / float(step + 1) ** options.length_penalty, False))
        live = following
        if not live:
            break
        if options.stop == "first_k":
            if len(ended) >= options.beams:
                break
        else:
            best = sorted((item[2] for item in ended), reverse=True)[: options.nbest]
            if len(best) == options.nbest and best[-1] >= live[0][0] / longest:
                break
    else:
        step = options.max_words
    result = sorted(ended, key=lambda item: -item[2])[: options.nbest]
    if step == options.max_words:
        cut = [(prefix, score, score / longest, True) for score, prefix in live]
        result += cut[: options.nbest - len(result)]
    return result


SHIFTS = st.one_of(st.just(-4.0), st.sampled_from([0.0, 2.0, 100.0, -1e4]))


def same(found: Result, expected: Result) -> None:
    assert [item[0] for item in found] == [item[0] for item in expected]
    assert [item[3] for item in found] == [item[3] for item in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine[1:3] == pytest.approx(theirs[1:3], rel=1e-5)


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([(2, 5), (3, 3), (3, 4), (4, 3)]),
    shift=SHIFTS,
    alpha=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    nbest=st.integers(1, 5),
    min_words=st.integers(0, 2),
    banned=st.booleans(),
)
def test_a_wide_enough_beam_finds_what_exhaustive_search_finds(
    seed: int, size: tuple[int, int], shift: float, alpha: float, nbest: int, min_words: int, banned: bool
) -> None:
    words, steps = size
    table = Table(seed, words, end=seed % words, end_shift=shift)
    bias = np.zeros(words, np.float32)
    if banned and words > 2:
        bias[(table.end + 1) % words] = DEAD
    options = SearchOptions(
        beams=max(nbest, words * (words - 1) ** (steps - 1)),
        max_words=steps,
        min_words=min_words,
        length_penalty=alpha,
        nbest=nbest,
        stop="optimal",
    )
    found, every = beam_search([table], options, bias)[0], exhaustive(table, options, bias)
    assert [item[2:] for item in found] == [item[2:] for item in every[:nbest]]
    # Of sentences with the same score any may come first: the search knows no alphabet.
    assert all(item in every for item in found)
    assert len({item[0] for item in found}) == len(found)


OPTIONS = {
    "seed": st.integers(0, 10**6),
    "words": st.integers(2, 9),
    "beams": st.integers(1, 7),
    "steps": st.integers(1, 6),
    "shift": SHIFTS,
    "ties": st.booleans(),
    "alpha": st.sampled_from([0.0, 0.7, 1.0]),
    "stop": st.sampled_from(["optimal", "first_k"]),
    "data": st.data(),
}


def draw_options(data: st.DataObject, beams: int, steps: int, alpha: float, stop: str) -> SearchOptions:
    return SearchOptions(
        beams=beams,
        max_words=steps,
        min_words=data.draw(st.integers(0, steps - 1)),
        length_penalty=alpha,
        nbest=data.draw(st.integers(1, beams)),
        stop=stop,  # type: ignore[arg-type]
        poll=data.draw(st.integers(1, steps)),
    )


@settings(deadline=None, max_examples=150)
@given(**OPTIONS)
def test_any_beam_equals_the_rule_taken_literally(
    seed: int,
    words: int,
    beams: int,
    steps: int,
    shift: float,
    ties: bool,
    alpha: float,
    stop: str,
    data: st.DataObject,
) -> None:
    table = Table(seed, words, end=seed % words, end_shift=shift, ties=ties)
    options = draw_options(data, beams, steps, alpha, stop)
    bias = np.array([data.draw(st.sampled_from([0.0, 0.0, 0.0, -1.0, DEAD])) for _ in range(words)], np.float32)
    same(beam_search([table], options, bias)[0], literal(table, options, bias))


@settings(deadline=None, max_examples=60)
@given(**OPTIONS)
def test_no_result_depends_on_the_other_images_or_on_how_often_the_host_looked(
    seed: int,
    words: int,
    beams: int,
    steps: int,
    shift: float,
    ties: bool,
    alpha: float,
    stop: str,
    data: st.DataObject,
) -> None:
    end = seed % words
    tables = [
        Table(seed, words, end, shift, ties),
        Table(seed + 1, words, end, 100.0),
        Table(seed + 2, words, end, -1e4),
    ]
    options = draw_options(data, beams, steps, alpha, stop)
    bias = np.zeros(words, np.float32)
    together = beam_search(tables, options, bias)
    for table, result in zip(tables, together, strict=True):
        for poll in {1, steps, options.poll}:
            assert beam_search([table], options.override(poll=poll), bias)[0] == result


def test_a_negative_length_penalty_prefers_short_captions() -> None:
    table = Table(3, 5, end=0)
    bias = np.zeros(5, np.float32)
    options = SearchOptions(beams=4, max_words=6, length_penalty=-1.0, stop="first_k", nbest=4)
    same(beam_search([table], options, bias)[0], literal(table, options, bias))


def test_beams_that_never_end_are_truncated_and_rank_after_ended_ones() -> None:
    bias = np.zeros(5, np.float32)
    bias[0] = DEAD
    options = SearchOptions(beams=3, max_words=4, nbest=3)
    found = beam_search([Table(1, 5, end=0)], options, bias)[0]
    assert [item[3] for item in found] == [True] * 3
    assert all(len(item[0]) == 4 for item in found)


def test_a_search_where_all_is_banned_finds_nothing() -> None:
    bias = np.full(4, DEAD, np.float32)
    assert beam_search([Table(1, 4, end=0)], SearchOptions(beams=2, max_words=3), bias) == [[]]


def test_ties_go_to_the_lower_beam_then_to_the_lower_token() -> None:
    log_prob = np.full((1, 2, 4), -1, np.float32)
    chosen = select(log_prob, np.zeros((1, 2), np.float32), 0, 0, np.zeros(4, np.float32), end_id=1)
    assert chosen.next_parent.tolist() == [[0, 0]]
    assert chosen.next_token.tolist() == [[0, 2]]
    assert chosen.ended_score.tolist() == [[DEAD, -1]]
    assert chosen.ended_parent[0, 1] == 0


def test_dead_beams_never_end_nor_live() -> None:
    log_prob = np.zeros((1, 3, 2), np.float32)
    chosen = select(log_prob, initial_score(1, 3), 0, 0, np.zeros(2, np.float32), end_id=0)
    assert chosen.ended_score.tolist() == [[0, DEAD, DEAD]]
    assert chosen.next_score.tolist() == [[0, DEAD, DEAD]]


def test_select_does_not_change_its_inputs() -> None:
    log_prob, bias = np.zeros((1, 2, 3), np.float32), np.zeros(3, np.float32)
    score = initial_score(1, 2)
    select(log_prob, score, 0, 2, bias, end_id=0)
    assert not log_prob.any()
    assert not bias.any()
    assert (score == initial_score(1, 2)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beams": 0}, "beams is 0; expected 1 to 64"),
        ({"beams": True}, "beams is True; expected an integer"),
        ({"max_words": 0}, "max_words is 0"),
        ({"min_words": 20}, "min_words is 20; expected 0 to max_words - 1 = 19"),
        ({"nbest": 4}, "nbest is 4; expected 1 to beams = 3"),
        ({"length_penalty": float("inf")}, "length_penalty is inf"),
        ({"length_penalty": -1.0}, "needs length_penalty >= 0"),
        ({"stop": "never"}, "expected 'optimal' or 'first_k'"),
        ({"poll": 21}, "poll is 21"),
        ({"beems": 2}, "beems is not a search option"),
    ],
)
def test_options_without_meaning_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        SearchOptions().override(**changes)
