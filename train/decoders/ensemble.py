"""Several decoders as one: the mean of their probabilities decides each word. See ``base`` for letters in shapes."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from camscribe.train.config import ModelConfig
from camscribe.train.decoders.base import Advance, Decoder, Memory, State, Unrolled, masked


class EnsembleDecoder(Decoder):
    """Decoders that read the features of one encoder, whose pass is the dearest part of a caption.

    Ensembles as in Rennie et al. 2017 (arXiv 1612.00563) are whole models side by side, and so ``camscribe caption
    --ensemble`` runs them; on one encoder they say the same words, and pay for the encoder once.

    A memory or state ``h`` of member 1 is called ``h.1``; the memory ``mask`` is one for all. The attention is the mean
    of the members', who all see the same positions. That no word follows itself, or nothing is said twice, is the
    ensemble's rule, no member's.

    Args:
        config: the model's table; ``members`` are those of the decoders.
        members: two or more, made of ``config.of_members()``.
    """

    def __init__(self, config: ModelConfig, members: Sequence[Decoder]) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(members)
        self.dropout = nn.Dropout(config.dropout)
        for member in members:
            member.dropout = self.dropout  # one, so that a stage changes that of all
        self.parts = sum(member.parts for member in members)
        self.resamples = any(member.resamples for member in members)

    def memory(self, found: Tensor, hidden: Tensor | None = None) -> tuple[Memory, State]:
        """See ``Decoder``: memories and states of all members, each with its member's number behind its name."""
        memory: Memory = {}
        first: State = {}
        for index, member in enumerate(self.members):
            own, state = member.memory(found, hidden)
            own.pop("mask", None)
            memory |= _numbered(own, index)
            first |= _numbered(state, index)
        return masked(memory, hidden), first

    def embed(self, token: Tensor) -> Tensor:
        """Token ids [...] -> the members' embedded words one behind the other, [..., sum of E]."""
        return torch.cat([member.embed(token) for member in self.members], dim=-1)

    def advance(self, word: Tensor, state: State, memory: Memory) -> Advance:
        """One step from words of ``embed`` [B, K, sum of E] and states [B, K, ...]."""
        widths = [member.config.embedding_width for member in self.members]
        return self._advance(word.split(widths, dim=-1), state, memory)

    def _advance(self, words: Sequence[Tensor], state: State, memory: Memory) -> Advance:
        made = [
            member.advance(word, _of(state, index), _of(memory, index))
            for index, (member, word) in enumerate(zip(self.members, words, strict=True))
        ]
        after: State = {}
        for index, each in enumerate(made):
            after |= _numbered(each.state, index)
        parts = tuple(part for each in made for part in each.parts)
        return Advance(parts, after, _mean([each.attention for each in made]))

    def follow(self, token: Tensor, state: State, memory: Memory) -> Advance:
        """See ``Decoder``; this is what is exported, so words are not put together to be taken apart again."""
        return self._advance([member.embed(token) for member in self.members], state, memory)

    def logits(self, word: Tensor, hidden: Tensor, *context: Tensor) -> Tensor:
        """The parts of all members -> log of the mean of their probabilities [..., V], whose softmax these are."""
        parts, each = [word, hidden, *context], []
        for member in self.members:
            own, parts = parts[: member.parts], parts[member.parts :]
            each.append(torch.log_softmax(member.logits(*own).float(), dim=-1))
        return log_mean(each)

    def log_prob(self, parts: tuple[Tensor, ...]) -> Tensor:
        """See ``Decoder``."""
        return self.logits(*parts)

    def unroll(self, memory: Memory, state: State, inputs: Tensor, sampling: float = 0.0) -> Unrolled:
        """See ``Decoder``. Scheduled sampling draws from the ensemble, so that all members read the same words."""
        if sampling:
            return super().unroll(memory, state, inputs, sampling)
        made = [
            member.unroll(_of(memory, index), _of(state, index), inputs) for index, member in enumerate(self.members)
        ]
        return Unrolled(tuple(part for each in made for part in each.parts), _mean([each.attention for each in made]))


def log_mean(log_probs: Sequence[Tensor]) -> Tensor:
    """Log of the mean of probabilities, of which there are the logarithms, [..., V] each.

    Relative to the largest, so that of the exponentials one is 1 and the sum is from 1 to their number: however small
    all are, the result is finite, and it is at most 0, on which beam search relies.
    """
    largest = functools.reduce(torch.maximum, log_probs)
    total = functools.reduce(torch.add, [torch.exp(each - largest) for each in log_probs])
    return largest + torch.log(total / len(log_probs))


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, tensors) / len(tensors)


def _numbered(tensors: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    return {f"{name}.{index}": value for name, value in tensors.items()}


def _of(tensors: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """A member's own under the names that it knows, and the mask of all."""
    end = f".{index}"
    own = {name.removesuffix(end): value for name, value in tensors.items() if name.endswith(end)}
    return {**own, "mask": tensors["mask"]} if "mask" in tensors else own
