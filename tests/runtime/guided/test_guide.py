"""Guided searches as a whole: against enumeration of every sentence, and through real graphs."""

from __future__ import annotations

import collections
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.caption import Caption
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import BundleError, EngineError, OptionError
from camscribe.runtime.executor import Choice
from camscribe.runtime.fallback import FallbackExecutor
from camscribe.runtime.guided.ensemble import EnsembleExecutor
from camscribe.runtime.guided.guide import Guide
from camscribe.runtime.guided.options import GuidedOptions
from camscribe.runtime.onnxruntime_executor import OnnxRuntimeExecutor
from camscribe.runtime.pixels import reduce
from camscribe.runtime.search import DEAD, Hypothesis, SearchOptions, Trace
from camscribe.runtime.vocab import SPECIAL_TOKENS, Vocabulary

Prefix = tuple[int, ...]
VOCABULARY = Vocabulary([*SPECIAL_TOKENS, "dog", "a", "runs"])
END, DOG, A, RUNS = 2, 4, 5, 6


@dataclass(frozen=True)
class Table:
    """Log-probabilities of the next word after any prefix, drawn from a seed."""

    seed: int
    end_shift: float = 0.0

    @functools.lru_cache(maxsize=10_000)  # noqa: B019 - tables live as long as the test
    def after(self, prefix: Prefix) -> np.ndarray:
        logits = np.random.default_rng([self.seed, *prefix]).normal(0, 2, len(VOCABULARY))
        logits[END] += self.end_shift
        return (logits - np.log(np.exp(logits).sum())).astype(np.float32)


def search(tables: list[Table], options: GuidedOptions) -> list[list[Hypothesis]]:
    """What ``camscribe.runtime.executor.search`` does with a guide, on tables in place of graphs."""
    guide = Guide(options, VOCABULARY, len(tables))
    beams = guide.executor_options.beams
    prefixes: list[list[Prefix]] = [[()] * beams for _ in tables]
    rows = []
    for _ in range(options.max_words):
        log_prob = np.stack([[table.after(p) for p in row] for table, row in zip(tables, prefixes, strict=True)])
        chosen = guide.select(log_prob)
        prefixes = [
            [(*row[parent], int(token)) for parent, token in zip(parents, tokens, strict=True)]
            for row, parents, tokens in zip(prefixes, chosen.next_parent, chosen.next_token, strict=True)
        ]
        rows.append(chosen)
        trace = Trace(*(np.stack(column) for column in zip(*rows, strict=True)))
        if guide.finished(trace):
            break
    return guide.hypotheses(trace)


def everything(table: Table, options: GuidedOptions, allowed: Callable[[Prefix], bool]) -> list[tuple[float, Prefix]]:
    """All ended sentences that are allowed, with their scores, best first."""
    found = []
    for length in range(options.max_words):
        for words in itertools.product((DOG, A, RUNS), repeat=length):
            if allowed(words) and length >= options.min_words:
                total = np.float32(0)
                for place, token in enumerate((*words, END)):
                    total += table.after(words[:place])[token]
                found.append((float(total) / options.penalty(length + 1), words))
    return sorted(found, key=lambda item: -item[0])


def repeats(words: Prefix, size: int) -> bool:
    grams = [words[start : start + size] for start in range(len(words) - size + 1)]
    return len(set(grams)) < len(grams)


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"no_repeat": 1}, lambda words: not repeats(words, 1)),
        ({"no_repeat": 2}, lambda words: not repeats(words, 2)),
        ({"no_bad_endings": True}, lambda words: not words or words[-1] != A),
        (
            {"no_bad_endings": True, "no_repeat": 1},
            lambda words: not repeats(words, 1) and words[-1:] != (A,),
        ),
        ({"length_rule": "gnmt", "length_penalty": 0.8}, lambda words: True),
        ({"contain": ("dog",), "beams": 32, "max_words": 3}, lambda words: DOG in words),
        ({"contain": ("dog|a",), "beams": 32, "max_words": 3}, lambda words: DOG in words or A in words),
        ({"contain": ("dog", "a"), "beams": 16, "max_words": 3}, lambda words: DOG in words and A in words),
        (
            {"contain": ("dog",), "no_repeat": 1, "beams": 32, "max_words": 3},
            lambda words: DOG in words and not repeats(words, 1),
        ),
    ],
)
@pytest.mark.parametrize("end_shift", [0.0, -3.0])
def test_wide_enough_a_search_finds_the_best_of_all_allowed_sentences(
    changes: dict[str, Any], allowed: Callable[[Prefix], bool], end_shift: float
) -> None:
    options = GuidedOptions(**{"beams": 64, "max_words": 4, "ban": ("<unk>",), **changes})
    tables = [Table(seed, end_shift) for seed in range(12)]
    for table, found in zip(tables, search(tables, options), strict=True):
        score, words = everything(table, options, allowed)[0]
        assert found[0].tokens == words
        assert found[0].score == pytest.approx(score, rel=1e-5)
        assert not found[0].truncated


@pytest.mark.parametrize("mode", [{}, {"groups": 2}, {"contain": ("dog",)}, {"sample": True}, {"no_repeat": 1}])
def test_a_caption_that_is_cut_has_no_bad_ending_either(mode: dict[str, Any]) -> None:
    tables = [Table(seed, -9.0) for seed in range(20)]
    options = {"beams": 4, "nbest": 4, "max_words": 3, "ban": ("<unk>",), **mode}
    plain = search(tables, GuidedOptions(no_bad_endings=False, **options))
    assert any(item.truncated and item.tokens[-1] == A for image in plain for item in image), "else this proves nothing"
    for image in search(tables, GuidedOptions(no_bad_endings=True, **options)):
        assert image
        assert all(item.tokens[-1:] != (A,) for item in image)


def test_options_that_never_bite_change_nothing() -> None:
    tables = [Table(seed, -1.0) for seed in range(6)]
    plain = search(tables, GuidedOptions(beams=4, nbest=4, max_words=8))
    assert search(tables, GuidedOptions(beams=4, nbest=4, max_words=8, no_repeat=9)) == plain
    groups = search(tables, GuidedOptions(beams=8, nbest=8, max_words=8, groups=2, diversity=0.0))
    for wanted, found in zip(plain, groups, strict=True):
        # Without diversity both groups search what one beam search of their width searches.
        assert found[::2] == found[1::2] == wanted


def test_groups_say_different_things() -> None:
    tables = [Table(seed, -1.0) for seed in range(20)]
    found = search(tables, GuidedOptions(beams=3, nbest=3, max_words=6, groups=3, diversity=5.0))
    assert np.mean([len({item.tokens for item in image}) for image in found]) > 2.7


@pytest.mark.parametrize("mode", [{"sample": True}, {"groups": 2}, {"contain": ("dog",)}, {"no_repeat": 1}])
def test_an_image_alone_has_the_captions_it_has_in_a_batch(mode: dict[str, Any]) -> None:
    tables = [Table(seed, -1.0) for seed in range(5)]
    options = GuidedOptions(beams=4, nbest=4, max_words=6, **mode)
    assert search(tables, options) == [search([table], options)[0] for table in tables]


def test_samples_come_from_the_seed_and_greedy_ones_are_the_greedy_search() -> None:
    tables = [Table(3, -1.0), Table(4, -1.0)]
    first, again, other = (
        search(tables, GuidedOptions(beams=6, nbest=6, max_words=8, sample=True, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    greedy = search(tables, GuidedOptions(beams=1, max_words=8, stop="first_k"))
    for options in ({"top_k": 1}, {"top_p": 0.001}, {"temperature": 0.01}):
        sampled = search(tables, GuidedOptions(beams=3, max_words=8, sample=True, **options))
        assert [image[0].tokens for image in sampled] == [image[0].tokens for image in greedy]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"no_repeat": -1}, "no_repeat is -1; expected an integer from 0"),
        ({"groups": 2}, "groups is 2; expected a divisor of beams = 3"),
        ({"groups": 4}, "groups is 4; expected an integer from 1 to 3"),
        ({"top_p": 0.0}, "top_p is 0.0; expected a number from 0.001 to 1"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"seed": -1}, "seed is -1"),
        ({"length_rule": "mean"}, "length_rule is 'mean'; expected 'power' or 'gnmt'"),
        ({"contain": "dog"}, "expected a list of words"),
        ({"contain": ("a", "b", "c", "d", "e")}, "contain has 5 words, which takes 96 beams; expected at most 64"),
        ({"contain": ("a", "b"), "max_words": 1}, "contain has 2 words, max_words is 1; raise it"),
        ({"sample": True, "groups": 3}, "sample and groups do not go together"),
        ({"contain": (1,)}, r"contain is \(1,\); expected a list of words"),
        ({"sample": "yes"}, "sample is 'yes'; expected True or False"),
        ({"no_bad_endings": 1}, "no_bad_endings is 1; expected True or False"),
        ({"temperature": 2.0}, "temperature without sample would do nothing; ask for sample too"),
        ({"top_k": 3, "top_p": 0.5, "seed": 1}, "top_k and top_p and seed without sample would do nothing"),
        ({"sample": True, "diversity": 2.0}, "diversity without groups would do nothing"),
        *(({"sample": True, "temperature": value}, "temperature is") for value in (0, -1, math.nan, 1e9)),
        *(({"sample": True, "top_p": value}, "top_p is") for value in (0, -1, math.nan, 1.5)),
        *(({"sample": True, "top_k": value}, "top_k is") for value in (-1, math.nan, 1 << 30)),
        *(({"groups": value}, "groups is") for value in (0, -1, math.nan, 64)),
        *(({"groups": 3, "diversity": value}, "diversity is") for value in (-1, math.nan, 1e9)),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        GuidedOptions(**options)


Sum = tuple[np.float32, Prefix]


def may_follow(table: Table, words: Prefix, options: GuidedOptions) -> np.ndarray:
    """Log-probabilities after these words, ``DEAD`` for what the options do not allow, word by word."""
    after, size, last = table.after(words).copy(), options.no_repeat, len(words) + 1 == options.max_words
    said = {words[start : start + size] for start in range(len(words) - size + 1)}
    for token in range(len(VOCABULARY)):
        ends = token == END
        bad = options.no_bad_endings and (words[-1:] == (A,) if ends else last and token == A)
        again = size > 0 and not ends and (*words, token)[-size:] in said
        if token in (0, 1, 3) or bad or again or (ends and len(words) < options.min_words):
            after[token] = DEAD
    return after


def literal(table: Table, options: GuidedOptions) -> list[tuple[Prefix, bool]]:
    """The n best sentences, and whether each was cut, by the rules in words: lists of sentences, no arrays of beams.

    A pool of live sentences for each group, or for each set of wanted words said so far; of the second sort one group.
    """
    wanted = [{VOCABULARY.id_of(form) for form in word.split("|")} for word in options.contain]
    groups, whole = options.groups, (1 << len(wanted)) - 1
    width, nbest = options.beams // groups, -(-options.nbest // groups)
    pools: list[list[Sum]] = [[] for _ in range(groups * (whole + 1))]
    for pool in pools[:groups]:
        pool.append((np.float32(0), ()))
    ended: list[list[tuple[float, Prefix, bool]]] = [[] for _ in range(groups)]
    over = [False] * groups
    for step in range(options.max_words):
        offers: list[list[tuple[np.float32, int, int, Prefix]]] = [[] for _ in pools]
        for number, pool in enumerate(pools):
            for beam, (total, words) in enumerate(pool):
                for token, value in enumerate(may_follow(table, words, options)):
                    has = sum(1 << bit for bit, forms in enumerate(wanted) if forms & {*words, token})
                    if value > DEAD and (token != END or has == whole):
                        target = has if wanted else number
                        order = number * 1000 + beam
                        offers[target].append((np.float32(total + value), order, token, words))
        said: collections.Counter[int] = collections.Counter()
        for number, offered in enumerate(offers):
            group = 0 if wanted else number
            cost = np.float32(options.diversity if groups > 1 else 0)
            offered.sort(key=lambda each: (-(each[0] - cost * np.float32(said[each[2]])), each[1], each[2]))
            best = offered[: 2 * width]
            if not over[group]:
                penalty = options.penalty(step + 1)
                ended[group] += [(float(each[0]) / penalty, each[3], False) for each in best[:width] if each[2] == END]
            live = [each for each in best if each[2] != END][:width]
            said.update(each[2] for each in live)
            cut_useless = step + 1 == options.max_words and number != whole and bool(wanted)
            pools[number] = [] if cut_useless else [(each[0], (*each[3], each[2])) for each in live]
        for group in range(groups):
            mine = [each for pool in pools for each in pool] if wanted else pools[group]
            if over[group]:
                continue
            top = sorted((score for score, _, _ in ended[group]), reverse=True)[:nbest]
            most = max((float(total) for total, _ in mine), default=-math.inf) / options.penalty(options.max_words)
            over[group] = not mine or (len(top) == nbest and top[-1] >= most)
            ended[group].sort(key=lambda each: -each[0])
            if step + 1 == options.max_words:
                cut = [(float(total) / options.penalty(step + 1), words, True) for total, words in mine]
                ended[group] = (ended[group][:nbest] + cut)[:nbest]
    ranked = [(place, cut, -score, words) for group in ended for place, (score, words, cut) in enumerate(group[:nbest])]
    if groups > 1:
        ranked.sort(key=lambda each: each[:3])
    return [(words, cut) for _, cut, _, words in ranked[: options.nbest]]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_options_together_give_what_the_rules_in_words_give(data: st.DataObject) -> None:
    draw = data.draw
    beams, words = draw(st.sampled_from([1, 2, 3, 4, 6])), draw(st.sampled_from([1, 2, 3, 5, 7]))
    divisors = [count for count in range(2, beams + 1) if beams % count == 0]
    groups = [{"groups": count, "diversity": cost} for count in divisors for cost in (0.0, 0.3, 2.0)]
    contain = [{"contain": ("dog|a",)}, *([{"contain": ("dog", "runs")}] if words > 1 else [])]
    options = GuidedOptions(
        beams=beams,
        max_words=words,
        nbest=draw(st.integers(1, beams)),
        min_words=draw(st.integers(0, words - 1)),
        length_penalty=draw(st.sampled_from([0, 0.5, 1.0, 2.0])),
        length_rule=draw(st.sampled_from(["power", "gnmt"])),
        no_repeat=draw(st.integers(0, 3)),
        no_bad_endings=draw(st.booleans()),
        ban=("<unk>",),
        **draw(st.sampled_from([{}, *contain, *groups])),
    )
    table = Table(draw(st.integers(0, 10**6)), draw(st.sampled_from([0.0, -2.0, -6.0])))
    assert [(item.tokens, item.truncated) for item in search([table], options)[0]] == literal(table, options)


# -- through real graphs ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captioner(toy_bundle: Bundle) -> Iterator[Captioner]:
    with Captioner.load(toy_bundle.path, backend="cpu", threads=1) as loaded:
        yield loaded


def key(caption: Caption) -> list[tuple[Any, ...]]:
    return [(item.words, item.log_prob, item.score, item.truncated) for item in caption.hypotheses]


def test_the_host_selects_what_the_graph_selects(captioner: Captioner, toy: Any) -> None:
    images = list(toy.images(6))
    plain = captioner.caption(images, color="rgb", beams=4, nbest=4)
    guided = captioner.caption(images, color="rgb", beams=4, nbest=4, no_repeat=20)
    assert [key(caption) for caption in guided] == [key(caption) for caption in plain]
    for mine, theirs in zip(guided, plain, strict=True):
        for one, other in zip(mine.hypotheses, theirs.hypotheses, strict=True):
            np.testing.assert_array_equal(one.attention, other.attention)


def test_what_the_host_took_to_select_is_a_part_of_decoding(captioner: Captioner, toy: Any) -> None:
    images = list(toy.images(3))
    for caption in captioner.caption(images, color="rgb", no_repeat=20):
        assert 0 < caption.timings.select_ms < caption.timings.decode_ms < caption.timings.total_ms
        assert caption.to_dict()["timings_ms"]["select"] > 0
    for changes in ({}, {"length_rule": "gnmt"}):
        assert captioner.caption(images[0], color="rgb", **changes).timings.select_ms == 0


def test_captions_keep_what_is_asked_of_them(captioner: Captioner, toy: Any) -> None:
    images = list(toy.images(6))
    plain = captioner.caption(images, color="rgb")
    assert any(repeats(caption.words, 1) for caption in plain), "else the next line proves nothing"  # type: ignore[arg-type]
    for caption in captioner.caption(images, color="rgb", no_repeat=1):
        assert not repeats(caption.words, 1)  # type: ignore[arg-type]
    for caption in captioner.caption(images, color="rgb", contain=("word7", "word9|word10")):
        assert "word7" in caption.words
        assert {"word9", "word10"} & set(caption.words)
    with pytest.raises(OptionError, match="'cat', which is not a word that this model may say"):
        captioner.caption(images[0], color="rgb", contain=("cat",))
    with pytest.raises(OptionError, match="'word7', which is not a word that this model may say"):
        captioner.caption(images[0], color="rgb", contain=("word7",), ban=("word7",))
    with pytest.raises(OptionError, match=r"'word7', .*, as it is banned"):
        captioner.options(("word7",), contain=("word7",))  # before anything is captioned
    for token in ("</s>", "<s>", "", "|"):
        with pytest.raises(OptionError, match="which is not a word that this model may say"):
            captioner.options(contain=(token,))
    with pytest.raises(OptionError, match=r"contain has 'wrod7', .*; did you mean 'word7'"):
        captioner.options(contain=("word7|wrod7",))
    with pytest.raises(OptionError, match="no caption is possible: contain has 2 words, max_words is 1; raise it"):
        captioner.options(contain=("word7", "word9"), max_words=1)
    banned = [word for word in captioner.bundle.vocabulary.tokens if word not in ("word7", "</s>", "<unk>")]
    message = f"contain word7, max_words 3, no_repeat 1, min_words 2, {len(banned)} banned words leave no word over"
    with pytest.raises(OptionError, match=message):
        captioner.caption(images[0], color="rgb", ban=banned, contain=("word7",), max_words=3, min_words=2, no_repeat=1)


def test_a_length_rule_alone_leaves_the_selection_to_the_graph(captioner: Captioner, toy: Any) -> None:
    caption = captioner.caption(toy.images(1)[0], color="rgb", length_rule="gnmt", length_penalty=0.6)
    length = len(caption.words) + (not caption.truncated)
    assert caption.score == pytest.approx(caption.log_prob / ((5 + length) / 6) ** 0.6)


def test_an_ensemble_of_a_bundle_with_itself_is_the_bundle(captioner: Captioner, toy_bundle: Bundle, toy: Any) -> None:
    images = list(toy.images(5))
    with Captioner.load([toy_bundle.path] * 3, backend="cpu", threads=1) as together:
        for changes in ({}, {"nbest": 3}, {"no_repeat": 2}):
            mine = together.caption(images, color="rgb", **changes)
            theirs = captioner.caption(images, color="rgb", **changes)
            assert [caption.words for caption in mine] == [caption.words for caption in theirs]
            assert [caption.log_prob for caption in mine] == pytest.approx([caption.log_prob for caption in theirs])


@pytest.mark.parametrize("sides", [(16, 16), (16, 32)])
def test_an_ensemble_decides_by_the_mean_of_probabilities(
    make_toy: Any, toy: Any, tmp_path: Any, sides: tuple[int, int]
) -> None:
    """Greedy, against a run of the two graphs by hand, each with the image in the size that it wants."""
    folders = [make_toy(tmp_path / str(seed), type(toy)(seed=seed, side=side)) for seed, side in enumerate(sides)]
    image = type(toy)(side=48).images(1, seed=5)[0]
    from camscribe.runtime.onnxruntime_executor import OnnxRuntimeExecutor
    from camscribe.runtime.search import SearchOptions, Selection

    bundles = [Bundle.load(folder) for folder in folders]
    executors = [OnnxRuntimeExecutor(bundle, "float32", "cpu", 1) for bundle in bundles]
    bias = bundles[0].vocabulary.bias(("<unk>",))
    for bundle, executor in zip(bundles, executors, strict=True):
        own = reduce(image, bundle.manifest.pixels)
        executor.encode(own[None], SearchOptions(beams=1, max_words=8), bias)
    words: list[int] = []
    while len(words) < 8:
        mean = np.log(np.mean([np.exp(executor.propose()[0, 0]) for executor in executors], axis=0)) + bias
        word = int(mean.argmax())
        if word == END:
            break
        words.append(word)
        one, score = np.array([[word]], np.int32), np.zeros((1, 1), np.float32)
        for executor in executors:
            executor.choose(Selection(one, one * 0, score, score, one * 0))
    with Captioner.load(folders, backend="cpu", threads=1) as together:
        expected = tuple(bundles[0].vocabulary.decode(words))
        assert together.caption(image, color="rgb", beams=1).words == expected
        batch = together.caption([image[::-1], image, image[:, ::-1]], color="rgb", beams=1)
        assert batch[1].words == expected
    singles = [
        Captioner.load(folder, backend="cpu", threads=1).caption(image, color="rgb", beams=1) for folder in folders
    ]
    assert singles[0].words != singles[1].words, "else a mean would prove nothing"


def test_an_ensemble_says_what_the_host_took(toy_bundle: Bundle, toy: Any) -> None:
    with Captioner.load([toy_bundle.path] * 2, backend="cpu", threads=1) as together:
        for changes in ({}, {"no_repeat": 2}):
            timings = together.caption(toy.images(1)[0], color="rgb", **changes).timings
            assert 0 < timings.select_ms < timings.decode_ms


@pytest.mark.parametrize("changes", [{}, {"no_repeat": 2}])
def test_an_ensemble_goes_on_elsewhere_when_a_device_fails(
    changes: dict[str, Any], toy_bundle: Bundle, toy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaks(OnnxRuntimeExecutor):
        def propose(self) -> Any:
            raise EngineError("CUDA failed")

    def plain() -> OnnxRuntimeExecutor:
        return OnnxRuntimeExecutor(toy_bundle, "float32", "cpu", 1)

    def ensemble(first: type[OnnxRuntimeExecutor]) -> EnsembleExecutor:
        members = [
            FallbackExecutor(kind(toy_bundle, "float32", "cpu", 1), plain) for kind in (OnnxRuntimeExecutor, first)
        ]
        return EnsembleExecutor(members, toy_bundle.vocabulary.end_id)

    choice = Choice("cuda", "float32", (), surprising=False)
    image = toy.images(1)[0]
    with Captioner(toy_bundle, ensemble(OnnxRuntimeExecutor), choice) as whole:
        expected = whole.caption(image, "rgb", **changes)
    assert not caplog.records
    with Captioner(toy_bundle, ensemble(Breaks), choice) as broken:
        assert key(broken.caption(image, "rgb", **changes)) == key(expected)
    assert caplog.records[0].getMessage() == "camscribe: CUDA failed; the next fastest backend goes on"
    alone = EnsembleExecutor([Breaks(toy_bundle, "float32", "cpu", 1)], toy_bundle.vocabulary.end_id)
    with Captioner(toy_bundle, alone, choice) as lost, pytest.raises(EngineError, match="CUDA failed"):
        lost.caption(image, "rgb", **changes)


def test_what_one_decoder_rules_out_an_ensemble_does_not_say(toy_bundle: Bundle, toy: Any) -> None:
    class Forbids(OnnxRuntimeExecutor):
        def propose(self) -> Any:
            log_prob = super().propose().copy()
            log_prob[..., 5] = DEAD
            return log_prob

    members = [kind(toy_bundle, "float32", "cpu", 1) for kind in (OnnxRuntimeExecutor, Forbids)]
    ensemble = EnsembleExecutor(members, toy_bundle.vocabulary.end_id)
    ensemble.encode(toy.images(2), SearchOptions(), toy_bundle.vocabulary.bias(()))
    log_prob = ensemble.propose()
    assert (log_prob[..., 5] == DEAD).all()
    assert (np.delete(log_prob, 5, axis=2) > DEAD).all()
    ensemble.close()


def test_bundles_that_do_not_fit_together_are_refused(
    toy_bundle: Bundle, make_toy: Any, toy: Any, tmp_path: Any
) -> None:
    folder = make_toy(tmp_path / "other", type(toy)(words=13))
    with pytest.raises(BundleError, match="other words"):
        Captioner.load([toy_bundle.path, folder])
    with pytest.raises(OptionError, match="empty list"):
        Captioner.load([])


def test_the_gnmt_penalty_is_that_of_the_paper() -> None:
    assert GuidedOptions(length_rule="gnmt", length_penalty=0.7).penalty(9) == pytest.approx(math.pow(14 / 6, 0.7))
