"""The tutorial's loop, with the same weights as ours: same greedy captions, and same beams with the same stop rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from camscribe.benchmarks.peers.tutorial import LAST_STEP, Found, Tutorial
from camscribe.benchmarks.peers.tutorial_weights import Weights, merge, random_weights, split
from camscribe.export.graphs import rounded
from camscribe.runtime.errors import DataError
from camscribe.runtime.search import Hypothesis, SearchOptions
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.executor import TorchExecutor

MODELS = [
    ("plain", 0, 0),
    ("plain", 1, 5),
    ("deep", 0, 0),
    ("deep without stutter", 1, 0),
    ("deep without repeats", 1, 0),
]
MakeCheckpoint = Callable[..., Path]
MakeExecutor = Callable[[Path], TorchExecutor]


def assert_same(peer: Found, ours: Hypothesis) -> None:
    assert peer.tokens == ours.tokens
    assert peer.truncated == ours.truncated
    assert peer.log_prob == pytest.approx(ours.log_prob, abs=1e-3)
    assert ours.attention is not None
    np.testing.assert_allclose(peer.attention.reshape(ours.attention.shape), ours.attention, atol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_greedy_captions_equal_the_tutorials_algorithm(
    make_checkpoint: MakeCheckpoint, make_executor: MakeExecutor, photos: np.ndarray, model: tuple[str, int, int]
) -> None:
    checkpoint = make_checkpoint(*model)
    peer, executor = Weights.read(checkpoint).tutorial(), make_executor(checkpoint)
    options = SearchOptions(beams=1, max_words=LAST_STEP + 1, stop="first_k")
    found = [hypotheses[0] for hypotheses in executor.caption(photos, options)]
    for image, ours in zip(photos, found, strict=True):
        assert_same(peer.caption(image, beams=1), ours)
    assert len({ours.tokens for ours in found}) > 1, "the images should differ in their captions"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "options",
    [
        SearchOptions(beams=1, length_penalty=0.0),
        SearchOptions(beams=3),
        SearchOptions(beams=3, stop="first_k", length_penalty=0.7),
        SearchOptions(beams=5, min_words=4, max_words=12),
        SearchOptions(beams=4, max_words=3, min_words=2),
    ],
    ids=["beam 1", "beam 3", "beam 3, first k", "beam 5, at least 4 words", "beam 4, 3 words"],
)
def test_beams_equal_ours_with_our_stop_rule(
    make_checkpoint: MakeCheckpoint,
    make_executor: MakeExecutor,
    photos: np.ndarray,
    model: tuple[str, int, int],
    options: SearchOptions,
) -> None:
    checkpoint = make_checkpoint(*model)
    weights, executor = Weights.read(checkpoint), make_executor(checkpoint)
    peer, vocabulary = weights.tutorial(), weights.vocabulary
    banned = [vocabulary.pad_id, vocabulary.start_id, vocabulary.unknown_id, vocabulary.id_of("word7")]
    ours = executor.caption(photos, SearchOptions(**{**vars(options), "ban": ("<unk>", "word7")}))
    for image, hypotheses in zip(photos, ours, strict=True):
        assert_same(peer.caption_as(image, options, banned), hypotheses[0])


def test_a_caption_that_never_ends_is_truncated_as_ours_is(
    make_checkpoint: MakeCheckpoint, make_executor: MakeExecutor, photos: np.ndarray
) -> None:
    checkpoint = make_checkpoint("deep", 2)
    weights = Weights.read(checkpoint)
    weights.tensors["decoder.word_bias"][weights.vocabulary.end_id] = -1e4
    peer, executor = weights.tutorial(), make_executor(checkpoint)
    with torch.no_grad():
        executor.model.decoder.word_bias[weights.vocabulary.end_id] = -1e4
    for beams in (1, 3):
        options = SearchOptions(beams=beams, max_words=6)
        ours = executor.caption(photos[:2], options)
        for image, hypotheses in zip(photos[:2], ours, strict=True):
            found = peer.caption_as(image, options)
            assert found.truncated
            assert found.steps == 6
            assert_same(found, hypotheses[0])
    own = peer.caption(photos[0], beams=2)
    assert own.truncated
    assert own.steps == len(own.tokens) == LAST_STEP + 1


@torch.no_grad()
def rescore(peer: Tutorial, image: np.ndarray, tokens: tuple[int, ...]) -> float:
    """Summed log-probability of a complete caption, step by step."""
    cells = peer.encode(image).flatten(1, 2)
    hidden, cell = peer.decoder.init_hidden_state(cells)
    total, word = 0.0, peer.start_id
    for following in (*tokens, peer.end_id):
        log_prob, _, hidden, cell = peer.decoder(torch.tensor([[word]]), cells, hidden, cell)
        total, word = total + float(log_prob[0, following]), following
    return total


@pytest.mark.parametrize("beams", [1, 2, 5])
def test_the_tutorials_own_search_scores_what_it_finds_and_wider_is_no_worse_here(
    make_checkpoint: MakeCheckpoint, photos: np.ndarray, beams: int
) -> None:
    peer = Weights.read(make_checkpoint("plain", 0, 0)).tutorial()
    for image in photos:
        found = peer.caption(image, beams)
        assert not found.truncated
        assert found.log_prob == pytest.approx(rescore(peer, image, found.tokens), abs=1e-3)
        assert len(found.tokens) < found.steps <= LAST_STEP + 1
        assert found.attention.shape[0] == len(found.tokens)
        np.testing.assert_allclose(found.attention.sum(axis=(1, 2)), 1, atol=1e-5)


def test_the_tutorials_beams_are_spent_as_sequences_end() -> None:
    """With </s> certain after the first word, k beams end in the second step, and nothing is left to search."""
    weights = random_weights("mobilenet_v2", side=32, grid=0, words=40, width=16, length=8)
    weights.tensors["decoder.words.bias"][weights.vocabulary.end_id] = 1e3
    peer = weights.tutorial()
    image = np.zeros((32, 32, 3), np.uint8)
    assert (peer.caption(image, 1).steps, peer.caption(image, 1).tokens) == (1, ())
    assert peer.caption(image, 4).steps == 2
    assert peer.caption(image, 4).tokens == ()


def test_decoder_weights_survive_the_way_to_the_tutorial_and_back() -> None:
    weights = random_weights("mobilenet_v2", side=64, grid=0, words=40, width=16)
    tensors = weights.of("decoder.")
    again = merge(split(tensors))
    assert again.keys() == tensors.keys()
    for name, value in tensors.items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)


def test_random_weights_are_a_checkpoint_that_training_reads(
    make_checkpoint: MakeCheckpoint, make_executor: MakeExecutor
) -> None:
    model = make_executor(make_checkpoint("plain", 1, 5)).model
    assert model.backbone(torch.zeros(1, 64, 64, 3, dtype=torch.uint8)).shape[2:] == (5, 5)


def test_a_backbone_of_timms_sees_in_the_tutorial_what_it_sees_in_ours(
    tmp_path: Path, make_executor: MakeExecutor, photos: np.ndarray
) -> None:
    pytest.importorskip("timm")
    weights = random_weights("timm/tf_efficientnet_lite0", side=64, grid=0, words=40, width=16)
    weights.write(tmp_path / "lite.safetensors")
    model = make_executor(tmp_path / "lite.safetensors").model
    with torch.no_grad():
        found = weights.tutorial().encode(photos[0]).permute(0, 3, 1, 2)
        expected = model.backbone(torch.from_numpy(photos[:1]))
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_rounding_is_that_of_the_export(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint("deep", 0)
    weights = Weights.read(checkpoint)
    exported = rounded(Checkpoint.load(checkpoint).model()).state_dict()
    mine = weights.rounded().tensors
    assert mine.keys() == exported.keys()
    assert all(torch.equal(mine[name], value) for name, value in exported.items())
    assert any(not torch.equal(value, weights.tensors[name]) for name, value in mine.items())


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(DataError, match=r"x\.safetensors: cannot be read as a checkpoint"):
        Weights.read(path)
