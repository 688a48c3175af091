"""The parity gate between real executors: what is the same passes, what is damaged does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camscribe.runtime.bundle import DEFAULT_BUNDLE, Bundle
from camscribe.runtime.errors import EngineError
from camscribe.runtime.executor import search
from camscribe.runtime.search import DEAD, Floats, SearchOptions, Trace
from camscribe.runtime.tensorrt import gate

needs_default = pytest.mark.skipif(not DEFAULT_BUNDLE.exists(), reason="this checkout has no bundled model")


@pytest.fixture(scope="module")
def shipped() -> Iterator[tuple[Bundle, gate.Side]]:
    bundle = Bundle.load()
    side = gate.onnxruntime_side(bundle)
    yield bundle, side
    side.executor.close()


@pytest.fixture
def toy_side(toy_bundle: Bundle) -> Iterator[gate.Side]:
    side = gate.onnxruntime_side(toy_bundle)
    yield side
    side.executor.close()


@pytest.mark.parametrize(("images", "beams"), [(1, 1), (3, 2), (8, 4)])
def test_the_same_graphs_pass_in_every_size(toy_bundle: Bundle, toy_side: gate.Side, images: int, beams: int) -> None:
    verdict = gate.compare(toy_bundle, toy_side, toy_side, images, beams, gate.LIMITS["float32"])
    assert verdict.problems == []
    assert (verdict.images, verdict.same_captions, verdict.log_prob) == (8, 8, 0.0)
    assert set(verdict.relative) == {
        *("memory.features", "memory.keys", "state.h", "state.last"),
        *("attention", "next_state.h", "next_state.last"),
    }
    gate.check(verdict, "toy")


@needs_default
@pytest.mark.slow
def test_the_bundled_int8_graphs_pass_as_int8_and_not_as_float32(shipped: tuple[Bundle, gate.Side]) -> None:
    bundle, reference = shipped
    candidate = gate.onnxruntime_side(bundle, "int8")
    verdict = gate.compare(bundle, reference, candidate, 8, 3, gate.LIMITS["int8"])
    assert verdict.problems == []
    assert 0 < verdict.log_prob < gate.LIMITS["int8"].log_prob
    strict = gate.compare(bundle, reference, candidate, 8, 3, gate.LIMITS["float32"])
    with pytest.raises(EngineError, match=r"the engines differ from ONNX Runtime and are not used: .*is off by"):
        gate.check(strict, "int8")


@needs_default
@pytest.mark.slow
def test_a_damaged_decoder_does_not_pass(
    shipped: tuple[Bundle, gate.Side], tmp_path: Path, add_precision: Callable[..., Bundle], scaled: Any
) -> None:
    bundle, reference = shipped
    damaged = add_precision(bundle, tmp_path / "damaged", "fp16", lambda model: None, scaled(1.2))
    candidate = gate.onnxruntime_side(damaged, "fp16")
    verdict = gate.compare(bundle, reference, candidate, 8, 3, gate.LIMITS["fp16"])
    with pytest.raises(EngineError, match="attention is off by") as caught:
        gate.check(verdict, "damaged")
    assert "\n" not in str(caught.value)


def test_small_noise_passes_as_fp16_and_not_as_float32(
    toy_bundle: Bundle, toy_side: gate.Side, tmp_path: Path, add_precision: Callable[..., Bundle], scaled: Any
) -> None:
    noisy = add_precision(toy_bundle, tmp_path / "noisy", "fp16", scaled(1.001), lambda model: None)
    candidate = gate.onnxruntime_side(noisy, "fp16")
    assert gate.compare(toy_bundle, toy_side, candidate, 8, 3, gate.LIMITS["fp16"]).problems == []
    assert gate.compare(toy_bundle, toy_side, candidate, 8, 3, gate.LIMITS["float32"]).problems != []


class Changed:
    """A real side whose outputs are changed on the way: what a wrong kernel would do."""

    def __init__(self, side: gate.Side, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._side, self._change = side, change

    def decoder(self, feeds: Any) -> dict[str, Any]:
        return self._change(self._side.decoder(feeds))

    def side(self) -> gate.Side:
        return gate.Side(self._side.encoder, self.decoder, self._side.executor)


@pytest.mark.parametrize(
    ("name", "value"), [("log_prob", np.nan), ("attention", np.nan), ("next_state.h", np.inf), ("next_state.last", 9)]
)
def test_what_is_not_a_number_or_wildly_wrong_does_not_pass(
    toy_bundle: Bundle, toy_side: gate.Side, name: str, value: float
) -> None:
    def change(made: dict[str, Any]) -> dict[str, Any]:
        return {**made, name: np.full_like(made[name], value)}

    verdict = gate.compare(toy_bundle, toy_side, Changed(toy_side, change).side(), 8, 2, gate.LIMITS["int8"])
    assert any(problem.startswith(name) for problem in verdict.problems)


def test_a_tensor_of_another_shape_does_not_pass(toy_bundle: Bundle, toy_side: gate.Side) -> None:
    def change(made: dict[str, Any]) -> dict[str, Any]:
        return {**made, "attention": made["attention"][..., :-1]}

    verdict = gate.compare(toy_bundle, toy_side, Changed(toy_side, change).side(), 8, 2, gate.LIMITS["int8"])
    assert any(problem.startswith("attention") for problem in verdict.problems)


def test_a_word_that_one_decoder_alone_rules_out_does_not_pass(toy_bundle: Bundle, toy_side: gate.Side) -> None:
    def banning(made: dict[str, Any]) -> dict[str, Any]:
        log_prob = made["log_prob"].copy()
        log_prob[0, 0, int(log_prob[0, 0].argsort()[-2])] = DEAD
        return {**made, "log_prob": log_prob}

    changed = Changed(toy_side, banning).side()
    for reference, candidate in ((toy_side, changed), (changed, toy_side)):
        verdict = gate.compare(toy_bundle, reference, candidate, 8, 2, gate.LIMITS["int8"])
        assert any(problem.startswith("log_prob") for problem in verdict.problems)


def test_one_other_integer_does_not_pass(toy_bundle: Bundle, toy_side: gate.Side) -> None:
    def change(made: dict[str, Any]) -> dict[str, Any]:
        last = made["next_state.last"].copy()
        last.flat[0] += 1
        return {**made, "next_state.last": last}

    verdict = gate.compare(toy_bundle, toy_side, Changed(toy_side, change).side(), 8, 2, gate.LIMITS["int8"])
    assert any(problem.startswith("next_state.last") for problem in verdict.problems)


class Misled:
    """The real executor, which captions other images than it is given: right tensors, wrong loop."""

    poll = 1

    def __init__(self, executor: Any, shift: int) -> None:
        self._executor, self._shift = executor, shift

    def encode(self, images: Any, options: SearchOptions, bias: Floats) -> None:
        self._executor.encode(np.roll(images, self._shift, axis=0), options, bias)

    def step(self) -> None:
        self._executor.step()

    def trace(self, *, attention: bool = False) -> Trace:
        return self._executor.trace(attention=attention)

    def close(self) -> None:
        self._executor.close()


def test_right_tensors_with_wrong_captions_do_not_pass(toy_bundle: Bundle, toy_side: gate.Side) -> None:
    candidate = toy_side._replace(executor=Misled(toy_side.executor, 1))
    verdict = gate.compare(toy_bundle, toy_side, candidate, 8, 3, gate.LIMITS["float32"])
    assert verdict.log_prob == 0
    assert verdict.same_captions < 8
    assert max(verdict.gaps) >= gate.LIMITS["float32"].score
    with pytest.raises(EngineError, match=r"parity image \d has caption .*, expected .*, which float32 scores"):
        gate.check(verdict, "toy")


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("max_words", [3, 8])
def test_a_captions_score_is_the_one_the_search_gave_it(
    toy_bundle: Bundle, toy_side: gate.Side, penalty: float, max_words: int
) -> None:
    """The independent oracle: the search of the reference itself, also for captions that were cut."""
    options = toy_bundle.manifest.search.override(length_penalty=penalty, max_words=max_words, beams=3)
    bias = toy_bundle.vocabulary.bias(options.ban)
    images = np.stack(toy_bundle.parity_images())
    toy_side.executor.encode(images, options, bias)
    for image, (best, *_) in zip(images, search(toy_side.executor, options), strict=True):
        score = gate.score_of(toy_bundle.manifest, toy_side, image, best, options, bias)
        assert score == pytest.approx(best.score, abs=1e-4)


def test_a_banned_word_scores_nothing(toy_bundle: Bundle, toy_side: gate.Side) -> None:
    options = toy_bundle.manifest.search
    bias = toy_bundle.vocabulary.bias(options.ban)
    image = toy_bundle.parity_images()[0]
    toy_side.executor.encode(image[None], options, bias)
    best = search(toy_side.executor, options)[0][0]
    banned = replace(best, tokens=(toy_bundle.manifest.special_tokens.unknown, *best.tokens[1:]))
    assert gate.score_of(toy_bundle.manifest, toy_side, image, banned, options, bias) < -1e6


def test_every_precision_has_limits() -> None:
    assert {"float32", "fp16", "int8"} == set(gate.LIMITS)
    assert gate.LIMITS["float32"] < gate.LIMITS["fp16"] < gate.LIMITS["int8"]
