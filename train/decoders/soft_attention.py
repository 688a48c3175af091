"""The decoder of Show, Attend and Tell (Xu et al. 2015). See ``base`` for the letters in shapes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from camscribe.train.config import ModelConfig
from camscribe.train.decoders.base import Advance, Decoder, Memory, State, lstm_cell, masked


class SoftAttentionDecoder(Decoder):
    """Attention with a sigmoid gate and an LSTM cell (Xu et al. 2015, as in sgrvinod's tutorial).

    The products with the state (attention query, gate, LSTM) are one matrix product, and so are those with the word and
    the context: few large products are what small machines run well.

    The attention's energies w . relu(k + q) are w . max(k, -q) + w . q, and a softmax ignores what all cells share. So
    ``from_state`` makes the query with its sign turned, and ``energy`` has no bias: one pass over [B, K, P, A], not 2.
    """

    def __init__(self, words: int, found_width: int, config: ModelConfig) -> None:
        super().__init__()
        self._make_memory(found_width, config)
        width = self.memory_width
        self.keys = nn.Linear(width, config.attention_width)
        self.initial = nn.Linear(width, 2 * config.state_width)
        self.embedding = nn.Embedding(words, config.embedding_width)
        self.from_state = nn.Linear(config.state_width, config.attention_width + width + 4 * config.state_width)
        self.from_input = nn.Linear(config.embedding_width + width, 4 * config.state_width, bias=False)
        self.energy = nn.Linear(config.attention_width, 1, bias=False)
        self._make_words(words, config, config.state_width + width)

    def memory(self, found: Tensor, hidden: Tensor | None = None) -> tuple[Memory, State]:
        """See ``Decoder``: memories ``features`` [B, P, D] and ``keys`` [B, P, A], states ``h`` and ``c`` [B, H]."""
        features = self.project(found)
        first, cell = self.initial(self.mean(features, hidden)).chunk(2, dim=-1)
        return masked({"features": features, "keys": self.keys(features)}, hidden), {"h": first, "c": cell}

    def advance(self, word: Tensor, state: State, memory: Memory) -> Advance:
        """One step from embedded words [B, K, E] and states [B, K, H]."""
        config = self.config
        turned_query, gate, from_state = self.from_state(state["h"]).split(
            [config.attention_width, self.memory_width, 4 * config.state_width], dim=-1
        )
        hidden = torch.maximum(memory["keys"].unsqueeze(1), turned_query.unsqueeze(2))
        attention = self.weigh(self.energy(hidden).squeeze(3), memory)
        context = torch.sigmoid(gate) * torch.matmul(attention, memory["features"])
        gates = from_state + self.from_input(torch.cat([word, context], dim=-1))
        hidden, cell = lstm_cell(gates, state["c"])
        return Advance((word, hidden, context), {"h": hidden, "c": cell}, attention)
