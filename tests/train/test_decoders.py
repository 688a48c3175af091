"""The decoders: they learn, one step at a time equals all at once, and they follow their papers' equations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from camscribe.runtime.errors import DataError
from camscribe.runtime.search import DEAD
from camscribe.train.config import MemberConfig, ModelConfig
from camscribe.train.decoders import DECODERS, make_decoder
from camscribe.train.decoders.base import Decoder, State, spread
from camscribe.train.decoders.ensemble import EnsembleDecoder
from camscribe.train.decoders.updown import UpDownDecoder

CONFIG = ModelConfig(
    memory_width=24, attention_width=20, state_width=32, embedding_width=16, dropout=0.0, layers=2, heads=4, window=8
)
WORDS, GRID = 50, 12
MEMBERS = (MemberConfig("soft_attention"), MemberConfig("updown", state_width=24), MemberConfig("transformer"))
ALL = [*DECODERS, "ensemble"]


def _decoder(name: str, **changes: object) -> Decoder:
    torch.manual_seed(5)
    members = MEMBERS if name == "ensemble" else ()
    decoder = make_decoder(WORDS, GRID, replace(CONFIG, decoder=name, members=members, **changes)).eval()
    for module in decoder.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
    return decoder


def _grid(images: int = 2) -> Tensor:
    return torch.randn(images, 12, GRID, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("deep_output", "no_repeat"), [(True, 0), (False, 0), (True, 2)])
@pytest.mark.parametrize("name", ALL)
def test_all_words_at_once_are_what_the_steps_give(name: str, deep_output: bool, no_repeat: int) -> None:
    decoder = _decoder(name, deep_output=deep_output, no_stutter=True, no_repeat=no_repeat)
    tokens = torch.randint(1, WORDS, (2, 3, 7))  # <pad> is never said
    if no_repeat:
        tokens[:, :, 4:] = tokens[:, :, :3]
    with torch.no_grad():
        memory, first = decoder.start(_grid())
        attention = decoder.unroll(memory, first, tokens).attention
        together = decoder.steps(tokens, first, memory)
        state = spread(first, 3)
        for position in range(7):
            log_prob, state, seen = decoder.step(tokens[:, :, position], state, memory)
            torch.testing.assert_close(log_prob, together[:, :, position], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(seen, attention[:, :, position], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(attention.sum(dim=3), torch.ones(2, 3, 7))
    assert together[:, :, -1].std(dim=1).max() > 1e-3, "what was said before matters, so that a test can tell"


def test_words_further_back_than_the_state_holds_may_be_said_again_in_both_ways() -> None:
    decoder = _decoder("soft_attention", no_repeat=2)
    tokens = torch.randint(1, WORDS, (2, 3, 45))
    with torch.no_grad():
        memory, state = decoder.start(_grid())
        together, state = decoder.steps(tokens, state, memory), spread(state, 3)
        for position in range(tokens.shape[2]):
            log_prob, state, _ = decoder.step(tokens[:, :, position], state, memory)
            assert torch.equal(log_prob == DEAD, together[:, :, position] == DEAD)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_what_would_be_said_twice_is_banned_and_nothing_else(size: int) -> None:
    decoder = _decoder("soft_attention", no_repeat=size)
    said = torch.randint(0, 4, (3, 5, 13), generator=torch.Generator().manual_seed(size))
    log_prob, following = decoder.without_repeats(said[..., :-1], said[..., -1], torch.zeros(3, 5, WORDS))
    banned = log_prob < 0
    assert torch.equal(following, said[..., 1:])
    for words, found in zip(said.flatten(0, 1).tolist(), banned.flatten(0, 1), strict=True):
        before = [words[at : at + size] for at in range(len(words) - size + 1)]
        twice = {word for word in range(WORDS) if [*words[len(words) - size + 1 :], word] in before}
        assert twice <= set(found.nonzero().flatten().tolist()) <= twice | {words[-1]}, "but for the last word"


def test_a_transformer_sees_its_window_of_words_and_no_more() -> None:
    decoder = _decoder("transformer", window=4)
    tokens = torch.randint(0, WORDS, (1, 1, 11))
    other = tokens.clone()
    other[:, :, 0] = (other[:, :, 0] + 1) % WORDS

    def steps(given: Tensor) -> list[Tensor]:
        memory, state = decoder.memory(_grid(1))
        state, found = spread(state, 1), []
        for position in range(given.shape[2]):
            log_prob, state, _ = decoder.step(given[:, :, position], state, memory)
            found.append(log_prob)
        return found

    with torch.no_grad():
        memory, state = decoder.memory(_grid(1))
        together = decoder.steps(tokens, state, memory)
        mine, theirs = steps(tokens), steps(other)
    for position, log_prob in enumerate(mine):
        torch.testing.assert_close(log_prob, together[:, :, position], rtol=1e-4, atol=1e-4)
    # Two layers of windows of 4 words reach 6 words back.
    differs = [not torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, theirs, strict=True)]
    assert differs[0]
    assert not any(differs[7:])


def test_updown_is_the_papers_equations() -> None:
    """A literal transcription of equations 2 to 7 with torch's own LSTM cells, and ReLU where the paper has tanh."""
    decoder = _decoder("updown", deep_output=False)
    assert isinstance(decoder, UpDownDecoder)
    width, hidden, embedding, inner = 24, 32, 16, 20
    attention_lstm = nn.LSTMCell(hidden + width + embedding, hidden)
    language_lstm = nn.LSTMCell(width + hidden, hidden)
    weights = decoder.state_dict()
    with torch.no_grad():
        look_word, look_said, look_own = weights["look.weight"].split([embedding, hidden, hidden], dim=1)
        attention_lstm.weight_ih.copy_(torch.cat([look_said, weights["from_mean.weight"], look_word], dim=1))
        attention_lstm.weight_hh.copy_(look_own)
        attention_lstm.bias_ih.copy_(weights["from_mean.bias"])
        attention_lstm.bias_hh.zero_()
        say_seen, say_own = weights["say.weight"].split([width, hidden], dim=1)
        query, say_look = weights["from_look.weight"].split([inner, 4 * hidden], dim=0)
        turned_bias, say_bias = weights["from_look.bias"].split([inner, 4 * hidden], dim=0)
        language_lstm.weight_ih.copy_(torch.cat([say_seen, say_look], dim=1))
        language_lstm.weight_hh.copy_(say_own)
        language_lstm.bias_ih.copy_(say_bias)
        language_lstm.bias_hh.zero_()

        memory, state = decoder.memory(_grid(1))
        features = memory["features"][0]
        h1, c1, h2, c2 = (state[name] for name in ("h1", "c1", "h2", "c2"))
        stepped: State = spread(state, 1)
        for token in (3, 17, 8):
            word = weights["embedding.weight"][token][None]
            h1, c1 = attention_lstm(torch.cat([h2, features.mean(dim=0)[None], word], dim=1), (h1, c1))
            inside = decoder.keys(features) + (-(h1 @ query.T + turned_bias))
            alpha = torch.softmax(torch.relu(inside) @ weights["energy.weight"][0], dim=0)
            h2, c2 = language_lstm(torch.cat([alpha[None] @ features, h1], dim=1), (h2, c2))
            wanted = torch.log_softmax(decoder.words(h2), dim=1)
            found, stepped, attention = decoder.step(torch.tensor([[token]]), stepped, memory)
            torch.testing.assert_close(found[0], wanted, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(attention[0, 0], alpha, rtol=1e-4, atol=1e-5)


SENTENCES = torch.tensor([[[1, 9, 4, 9, 7, 2]], [[1, 5, 5, 8, 3, 2]]])


def _learn(decoder: Decoder, sampling: float, steps: int, rate: float = 1e-2) -> list[float]:
    """Trains on ``SENTENCES``; returns the losses."""
    optimizer = torch.optim.Adam(decoder.parameters(), rate)
    losses = []
    for _ in range(steps):
        memory, state = decoder.memory(_grid())
        parts, _ = decoder.unroll(memory, state, SENTENCES[:, :, :-1], sampling)
        loss = nn.functional.cross_entropy(decoder.logits(*parts).flatten(0, 2), SENTENCES[:, :, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def _recited(decoder: Decoder) -> list[list[int]]:
    """What it says of both images, each word the likeliest after its own."""
    memory, state = decoder.memory(_grid())
    state, token = spread(state, 1), SENTENCES[:, :, 0]
    said = [token]
    for _ in range(5):
        log_prob, state, _ = decoder.step(token, state, memory)
        token = log_prob.argmax(dim=2)
        said.append(token)
    return torch.stack(said, dim=2)[:, 0].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("sampling", [0.0, 0.5])
@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_learns_a_sentence_by_heart(name: str, sampling: float) -> None:
    decoder = _decoder(name)
    _learn(decoder, sampling, 60)
    assert _recited(decoder) == SENTENCES[:, 0].tolist()


@pytest.mark.parametrize("sampling", [0.0, 0.5])
def test_an_ensemble_goes_on_where_its_members_stopped(sampling: float) -> None:
    """Members are trained before they are joined: of a mixture, only those that are right already learn much."""
    ensemble = _decoder("ensemble")
    assert isinstance(ensemble, EnsembleDecoder)
    own = [_learn(member, 0.0, 30)[-1] for member in ensemble.members]  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in ensemble.state_dict().items()}
    losses = _learn(ensemble, sampling, 30, rate=2e-3)
    assert losses[0] < max(own)
    assert losses[-1] < losses[0]
    assert _recited(ensemble) == SENTENCES[:, 0].tolist()
    changed = {name for name, value in ensemble.state_dict().items() if not torch.equal(value, before[name])}
    assert all(any(name.startswith(f"members.{number}.") for name in changed) for number in range(len(MEMBERS)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "even multiple of heads"),
        ({"layers": 0}, "expected at least"),
        ({"heads": 0}, "at least"),
        ({"window": 1}, "at least"),
    ],
)
def test_sizes_of_a_transformer_that_do_not_go_together_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _decoder("transformer", **changes)
