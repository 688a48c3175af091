"""What the stages minimise: cross-entropy with doubly stochastic attention, and the self-critical policy gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camscribe.runtime.search import DEAD
from camscribe.runtime.vocab import Vocabulary
from camscribe.train.decoders.base import Memory, State, spread
from camscribe.train.features import Seen
from camscribe.train.model import Captioner
from camscribe.train.ngrams import until_end

Reward = Callable[[Sequence[int], list[list[tuple[int, ...]]]], npt.NDArray[np.float32]]
"""(image indices [B], K token tuples an image, ``</s>`` included where it was drawn) -> rewards [B, K]."""


class Loss(NamedTuple):
    """A loss and what is logged beside it."""

    loss: Tensor
    logged: dict[str, float]


class CaptionLoss(nn.Module):
    """Both objectives, as one module whose ``forward`` Lightning Fabric can wrap for several processes."""

    def __init__(self, captioner: Captioner, trained: int, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.captioner = captioner
        self.trained = trained
        self.pad_id, self.start_id, self.end_id = vocabulary.pad_id, vocabulary.start_id, vocabulary.end_id
        self._unsaid = [vocabulary.pad_id, vocabulary.start_id, vocabulary.unknown_id]

    def encode(self, seen: Seen) -> tuple[Memory, State]:
        """A batch of images -> memory and initial states."""
        backbone, features = self.captioner.backbone, seen.features
        if backbone is not None and features is not None:
            if features.dtype == torch.uint8:
                features = backbone.stem(features, self.trained)
            features = backbone.trunk(features, self.trained)
        return self.captioner.read(features, seen.regions)

    def forward(self, seen: Seen, objective: str, **rest: object) -> Loss:
        """The loss of a batch; see the two methods for what each objective takes."""
        return getattr(self, objective)(seen, **rest)  # type: ignore[no-any-return]

    def cross_entropy(
        self,
        seen: Seen,
        inputs: Tensor,
        targets: Tensor,
        smoothing: float,
        sampling: float,
        doubly: float,
    ) -> Loss:
        """Cross-entropy of the words [B, K, T] plus ``doubly`` x mean (1 - sum of attention over time)^2."""
        decoder = self.captioner.decoder
        parts, attention = decoder.unroll(*self.encode(seen), inputs, sampling)
        mask = targets != self.pad_id
        logits = decoder.logits(*(part[mask] for part in parts)).float()
        words = F.cross_entropy(logits, targets[mask], label_smoothing=smoothing)
        looked = (attention * mask.unsqueeze(3)).sum(dim=2)
        regular = ((1 - looked) ** 2).mean()
        hits = (logits.detach().argmax(dim=1) == targets[mask]).float().mean()
        return Loss(words + doubly * regular, {"cross_entropy": float(words.detach()), "word_accuracy": float(hits)})

    def self_critical(
        self,
        seen: Seen,
        reward: Reward,
        indices: Sequence[int],
        samples: int,
        max_words: int,
        temperature: float,
        baseline: Literal["samples", "greedy"],
    ) -> Loss:
        """Policy gradient on sampled captions (Rennie et al. 2017).

        What is taken off the reward of a sample is the mean reward of the image's other samples (``samples``, Luo
        2020) or that of its caption of likeliest words (``greedy``, Rennie et al. 2017).
        """
        greedy = self._greedy(seen, max_words) if baseline == "greedy" else None
        memory, state = self.encode(seen)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.captioner.decoder.resamples):
            tokens, log_prob = self._sample(memory, state, samples, max_words, temperature)
        if self.captioner.decoder.resamples:
            log_prob = self._log_prob_of(memory, state, tokens, temperature)
        captions = self._captions(tokens)
        if greedy is not None:
            captions = [own + likeliest for own, likeliest in zip(captions, greedy, strict=True)]
        scored = torch.from_numpy(np.asarray(reward(indices, captions), dtype=np.float32)).to(log_prob.device)
        rewards, rest = scored[:, :samples], scored[:, samples:]
        if greedy is None:
            rest = (rewards.sum(dim=1, keepdim=True) - rewards) / max(samples - 1, 1)
        ended = torch.cumsum((tokens == self.end_id).int(), dim=2) - (tokens == self.end_id).int()
        mask = (ended == 0).float()
        advantage = (rewards - rest).unsqueeze(2)
        loss = -(advantage * log_prob * mask).sum() / mask.sum()
        logged = {"reward": float(rewards.mean()), "sample_words": float(mask.sum(dim=2).mean())}
        return Loss(loss, logged if greedy is None else {**logged, "greedy_reward": float(rest.mean())})

    @torch.no_grad()
    def _greedy(self, seen: Seen, max_words: int) -> list[list[tuple[int, ...]]]:
        """The caption of likeliest words of each image, without dropout: what a user would get from one beam."""
        decoder = self.captioner.decoder
        training = decoder.training
        decoder.eval()
        try:
            tokens, _ = self._sample(*self.encode(seen), 1, max_words, 0.0)
        finally:
            decoder.train(training)
        return self._captions(tokens)

    def _captions(self, tokens: Tensor) -> list[list[tuple[int, ...]]]:
        """Drawn tokens [B, K, T] as captions that end with ``</s>`` where it was drawn."""
        return [[tuple(until_end(row, self.end_id)) for row in image] for image in tokens.tolist()]

    def _sample(
        self, memory: Memory, state: State, samples: int, max_words: int, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Draws captions: tokens and their log-probabilities at that temperature, [B, K, T]; 0 takes the likeliest."""
        decoder = self.captioner.decoder
        images = next(iter(state.values())).shape[0]
        state = spread(state, samples)
        token = torch.full((images, samples), self.start_id, device=next(iter(state.values())).device)
        tokens: list[Tensor] = []
        log_probs: list[Tensor] = []
        live = torch.ones_like(token, dtype=torch.bool)
        unsaid = torch.tensor(self._unsaid, device=token.device)
        for _ in range(max_words + 1):
            log_prob, state, _ = decoder.step(token, state, memory)
            log_prob = self._tempered(log_prob, unsaid, temperature or 1.0)
            if temperature:
                token = torch.multinomial(log_prob.detach().exp().flatten(0, 1), 1).view(images, samples)
            else:
                token = log_prob.argmax(dim=2)
            tokens.append(token)
            log_probs.append(log_prob.gather(2, token.unsqueeze(2)).squeeze(2))
            live = live & (token != self.end_id)
            if not live.any():
                break
        return torch.stack(tokens, dim=2), torch.stack(log_probs, dim=2)

    def _log_prob_of(self, memory: Memory, state: State, tokens: Tensor, temperature: float) -> Tensor:
        """What ``_sample`` says of the tokens [B, K, T] that it drew, from one run over all of them."""
        decoder = self.captioner.decoder
        inputs = torch.cat([torch.full_like(tokens[:, :, :1], self.start_id), tokens[:, :, :-1]], dim=2)
        log_prob = decoder.steps(inputs, state, memory)
        tempered = self._tempered(log_prob, torch.tensor(self._unsaid, device=tokens.device), temperature)
        return tempered.gather(3, tokens.unsqueeze(3)).squeeze(3)

    @staticmethod
    def _tempered(log_prob: Tensor, unsaid: Tensor, temperature: float) -> Tensor:
        """Log-probabilities [..., V] at a temperature, without the words that no search says either."""
        return torch.log_softmax(log_prob.index_fill(-1, unsaid, float(DEAD)) / temperature, dim=-1)
