"""The self-critical loss: a transcription of its formula word by word, and the exact gradient by enumeration."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from camscribe.runtime.vocab import SPECIAL_TOKENS, Vocabulary
from camscribe.train.config import MemberConfig, ModelConfig
from camscribe.train.decoders.base import spread
from camscribe.train.features import Seen
from camscribe.train.losses import CaptionLoss
from camscribe.train.model import Captioner

VOCABULARY = Vocabulary([*SPECIAL_TOKENS, "dog", "runs", "fast"])
START, END = VOCABULARY.start_id, VOCABULARY.end_id
SAID = [END, 4, 5, 6]
CONFIG = ModelConfig(
    backbone="shufflenet_v2_x0_5",
    weights="none",
    memory_width=8,
    attention_width=6,
    state_width=12,
    embedding_width=10,
    layers=1,
    heads=2,
    window=8,
)
Kind = Literal["soft_attention", "transformer", "ensemble"]
MEMBERS = (MemberConfig("updown"), MemberConfig("transformer", state_width=8))
Caption = tuple[int, ...]
Baseline = Literal["samples", "greedy"]


def _loss(decoder: Kind, dropout: float = 0.0) -> tuple[CaptionLoss, Seen]:
    """A loss over a small model that prefers some words, and the features of two images."""
    torch.manual_seed(3)
    members = MEMBERS if decoder == "ensemble" else ()
    captioner = Captioner(len(VOCABULARY), replace(CONFIG, decoder=decoder, members=members, dropout=dropout))
    for module in captioner.decoder.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.3)
    captioner.train()
    return CaptionLoss(captioner, 0, VOCABULARY), Seen(torch.randn(2, captioner.backbone.width, 2, 3), None)


def _log_prob(loss: CaptionLoss, seen: Seen, image: int, caption: Caption, temperature: float) -> Tensor:
    """Of one caption of one image, one word after the other."""
    decoder = loss.captioner.decoder
    memory, state = loss.encode(Seen(seen.features[image : image + 1], None))
    state, token, total = spread(state, 1), torch.tensor([[START]]), torch.zeros(())
    for word in caption:
        log_prob, state, _ = decoder.step(token, state, memory)
        chances = torch.softmax(log_prob[0, 0, SAID] / temperature, dim=0)
        total = total + chances[SAID.index(word)].log()
        token = torch.tensor([[word]])
    return total


@functools.cache
def _value(image: int, caption: Caption) -> float:
    """A reward with no pattern."""
    return float(np.random.default_rng([image, *caption]).uniform(0, 5))


class _Recorder:
    """Rewards captions, and keeps what it was asked."""

    def __call__(self, images: Sequence[int], samples: list[list[Caption]]) -> npt.NDArray[np.float32]:
        self.images, self.samples = list(images), samples
        pairs = zip(images, samples, strict=True)
        return np.array([[_value(image, caption) for caption in own] for image, own in pairs], np.float32)


def _gradients(loss: Tensor, model: CaptionLoss) -> Tensor:
    decoder = model.captioner.decoder
    found = torch.autograd.grad(loss, list(decoder.parameters()), allow_unused=True)
    return torch.cat([value.flatten() for value in found if value is not None])


@pytest.mark.parametrize("baseline", ["samples", "greedy"])
@pytest.mark.parametrize("decoder", ["soft_attention", "transformer", "ensemble"])
def test_the_loss_is_its_formula(decoder: Kind, baseline: Baseline) -> None:
    loss, seen = _loss(decoder)
    reward = _Recorder()
    made = loss(
        seen,
        "self_critical",
        reward=reward,
        indices=[7, 9],
        samples=4,
        max_words=3,
        temperature=1.4,
        baseline=baseline,
    )
    assert reward.images == [7, 9]
    assert all(len(set(own[:4])) > 1 for own in reward.samples), "else nothing would be compared"
    sums, words = torch.zeros(()), 0
    for image, (name, captions) in enumerate(zip(reward.images, reward.samples, strict=True)):
        drawn, values = captions[:4], [_value(name, caption) for caption in captions]
        for number, caption in enumerate(drawn):
            others = [value for other, value in enumerate(values[:4]) if other != number]
            least = values[4] if baseline == "greedy" else sum(others) / 3
            sums = sums - (values[number] - least) * _log_prob(loss, seen, image, caption, 1.4)
            words += len(caption)
            assert END not in caption[:-1]
            assert len(caption) == 4 or caption[-1] == END
    wanted = sums / words
    torch.testing.assert_close(made.loss, wanted, rtol=1e-4, atol=1e-5)
    ours, theirs = _gradients(made.loss, loss), _gradients(wanted, loss)
    assert theirs.norm() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert made.logged["reward"] == pytest.approx(
        np.mean([_value(n, c) for n, own in zip(reward.images, reward.samples, strict=True) for c in own[:4]])
    )
    assert ("greedy_reward" in made.logged) == (baseline == "greedy")


def test_the_greedy_caption_has_the_likeliest_words_without_dropout() -> None:
    loss, seen = _loss("soft_attention", dropout=0.9)
    reward, found = _Recorder(), []
    rest = {"samples": 2, "max_words": 3, "temperature": 1.0, "baseline": "greedy"}
    for _ in range(3):
        loss(seen, "self_critical", reward=reward, indices=[0, 1], **rest)
        found.append([own[-1] for own in reward.samples])
    assert found[0] == found[1] == found[2], "nothing is drawn"
    assert loss.captioner.decoder.training
    loss.captioner.decoder.eval()
    for image, caption in enumerate(found[0]):
        for length in range(len(caption)):
            chances = {
                word: float(_log_prob(loss, seen, image, (*caption[:length], word), 1.0).detach()) for word in SAID
            }
            assert max(chances, key=lambda word: chances[word]) == caption[length]


@pytest.mark.parametrize("baseline", ["samples", "greedy"])
def test_the_gradient_is_that_of_the_expected_reward(baseline: Baseline) -> None:
    """All 1 + 3 + 9 + 27 captions of at most three words by enumeration, beside the mean of very many draws."""
    loss, seen = _loss("soft_attention")
    seen = Seen(seen.features[:1], None)
    words = [word for word in SAID if word != END]
    ended: list[Caption] = [(*said, END) for length in range(3) for said in itertools.product(words, repeat=length)]
    whole = ended + [(*said, last) for said in itertools.product(words, repeat=2) for last in words]
    chances = torch.stack([_log_prob(loss, seen, 0, caption, 1.0) for caption in whole]).exp()
    assert float(chances.detach().sum()) == pytest.approx(1, abs=1e-5), "these are all captions"
    expected = (chances * torch.tensor([_value(0, caption) for caption in whole])).sum()
    length = float((chances * torch.tensor([float(len(caption)) for caption in whole])).sum().detach())
    exact = _gradients(-expected, loss)
    draws = 40_000
    rest = {"samples": draws, "max_words": 2, "temperature": 1.0, "baseline": baseline}
    made = loss(seen, "self_critical", reward=_Recorder(), indices=[0], **rest)
    # The loss is a mean over words, the expectation one over captions.
    found = _gradients(made.loss, loss) * length
    assert made.logged["sample_words"] == pytest.approx(length, rel=0.02)
    assert float((found - exact).norm() / exact.norm()) < 0.1
