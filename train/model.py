"""The captioner of Show, Attend and Tell (Xu et al. 2015); its decoder is the single step that is exported.

Shapes: B images, K hypotheses of an image (beams, or its captions in training), P grid cells, D memory width, A
attention width, H state width, E embedding width, V words.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camscribe.runtime.search import DEAD
from camscribe.train.backbone import Backbone
from camscribe.train.config import ModelConfig

Memory = dict[str, Tensor]
State = dict[str, Tensor]


class Advance(NamedTuple):
    """What one step of the decoder makes."""

    context: Tensor
    """[B, K, D], gated; ``SoftAttentionDecoder.logits`` makes words of it and the state."""
    state: State
    attention: Tensor
    """[B, K, P]"""


class SoftAttentionDecoder(nn.Module):
    """Attention with a sigmoid gate and an LSTM cell (Xu et al. 2015, as in sgrvinod's tutorial).

    The products with the state (attention query, gate, LSTM) are one matrix product, and so are those with the word and
    the context: few large products are what small machines run well.

    The attention's energies w . relu(k + q) are w . max(k, -q) + w . q, and a softmax ignores what all cells share. So
    ``from_state`` makes the query with its sign turned, and ``energy`` has no bias: one pass over [B, K, P, A], not 2.
    """

    def __init__(self, words: int, grid_width: int, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.memory_width or grid_width
        self.memory_width = width
        if config.memory_width:
            self.project = nn.Sequential(nn.Linear(grid_width, width), nn.LayerNorm(width))
        else:
            self.project = nn.Sequential()
        self.keys = nn.Linear(width, config.attention_width)
        self.initial = nn.Linear(width, 2 * config.state_width)
        self.embedding = nn.Embedding(words, config.embedding_width)
        self.from_state = nn.Linear(config.state_width, config.attention_width + width + 4 * config.state_width)
        self.from_input = nn.Linear(config.embedding_width + width, 4 * config.state_width, bias=False)
        self.energy = nn.Linear(config.attention_width, 1, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        if config.deep_output:
            self.output = nn.Linear(config.state_width + width, config.embedding_width)
            self.word_bias = nn.Parameter(torch.zeros(words))
        else:
            self.words = nn.Linear(config.state_width, words)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def memory(self, grid: Tensor) -> tuple[Memory, State]:
        """Features of the backbone [B, C, h, w] -> memory and initial state [B, H] of an image."""
        features = self.project(grid.flatten(2).transpose(1, 2))
        hidden, cell = self.initial(features.mean(dim=1)).chunk(2, dim=-1)
        return {"features": features, "keys": self.keys(features)}, {"h": hidden, "c": cell}

    def advance(self, word: Tensor, state: State, memory: Memory) -> Advance:
        """One step from embedded words [B, K, E] and states [B, K, H]."""
        config = self.config
        turned_query, gate, from_state = self.from_state(state["h"]).split(
            [config.attention_width, self.memory_width, 4 * config.state_width], dim=-1
        )
        hidden = torch.maximum(memory["keys"].unsqueeze(1), turned_query.unsqueeze(2))
        attention = torch.softmax(self.energy(hidden).squeeze(3), dim=-1)
        context = torch.sigmoid(gate) * torch.matmul(attention, memory["features"])
        gates = from_state + self.from_input(torch.cat([word, context], dim=-1))
        in_gate, forget_gate, candidate, out_gate = gates.chunk(4, dim=-1)
        cell = torch.sigmoid(forget_gate) * state["c"] + torch.sigmoid(in_gate) * torch.tanh(candidate)
        hidden = torch.sigmoid(out_gate) * torch.tanh(cell)
        return Advance(context, {"h": hidden, "c": cell}, attention)

    def embed(self, token: Tensor) -> Tensor:
        """Token ids [...] -> [..., E]."""
        return self.dropout(self.embedding(token))

    def logits(self, word: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        """Embedded words [..., E], the states after them [..., H] and contexts [..., D] -> logits [..., V]."""
        hidden = self.dropout(hidden)
        if not self.config.deep_output:
            return self.words(hidden)
        output = word + self.output(torch.cat([hidden, context], dim=-1))
        return F.linear(self.dropout(output), self.embedding.weight, self.word_bias)

    def step(self, token: Tensor, state: State, memory: Memory) -> tuple[Tensor, State, Tensor]:
        """One step from token ids [B, K]: log-probabilities [B, K, V], next states, attention [B, K, P]."""
        word = self.embed(token)
        made = self.advance(word, state, memory)
        logits = self.logits(word, made.state["h"], made.context)
        log_prob = torch.log_softmax(logits.float(), dim=-1)
        if self.config.no_stutter:
            log_prob = log_prob.scatter(2, token.unsqueeze(-1).long(), float(DEAD))
        return log_prob, made.state, made.attention


class Captioner(nn.Module):
    """Backbone and decoder.

    Args:
        words: size of the vocabulary V.
        config: the model's table of the configuration.
        weights: overrides ``config.weights``; a checkpoint is loaded into a model built with ``none``.
    """

    def __init__(self, words: int, config: ModelConfig, weights: str | None = None) -> None:
        super().__init__()
        self.backbone = Backbone(config.backbone, config.weights if weights is None else weights, config.grid)
        self.decoder = SoftAttentionDecoder(words, self.backbone.width, config)

    def encode(self, images: Tensor) -> tuple[Memory, State]:
        """uint8 [B, H, W, 3] RGB -> memory and initial states [B, H]."""
        return self.decoder.memory(self.backbone(images))


def spread(state: State, beams: int) -> State:
    """[B, ...] -> [B, K, ...], without copying."""
    return {name: value.unsqueeze(1).expand(-1, beams, *value.shape[1:]) for name, value in state.items()}


def gather_beams(state: State, parent: Tensor) -> State:
    """States [B, K, ...] in the order of ``parent`` [B, K]."""
    index = parent.long()
    return {
        name: torch.gather(value, 1, index.reshape(*index.shape, *[1] * (value.dim() - 2)).expand_as(value))
        for name, value in state.items()
    }
