"""The top-down decoder of Anderson et al. 2018 (arXiv 1707.07998). See ``base`` for the letters in shapes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from camscribe.train.config import ModelConfig
from camscribe.train.decoders.base import Advance, Decoder, Memory, State, lstm_cell, masked


class UpDownDecoder(Decoder):
    """An attention LSTM that decides where to look, and a language LSTM that says the word.

    With the paper's numbers of equations:

    - (2) the input of the attention LSTM is [h2 of the step before, mean feature, word];
    - (3) energies a_i = w . f(W_v v_i + W_h h1), (4) attention = softmax(a), (5) context = sum of attention_i v_i;
    - (6) the input of the language LSTM is [context, h1]; (7) its output gives the word.

    Here f is ReLU, not tanh: its energies are one maximum and one product, see ``SoftAttentionDecoder``. The mean
    feature's part of (2) does not depend on the step, so it is computed once an image. The products with h1 (query and
    language LSTM) are one. Both LSTMs start from the mean feature instead of zeros.
    """

    def __init__(self, words: int, found_width: int, config: ModelConfig) -> None:
        super().__init__()
        self._make_memory(found_width, config)
        width, state = self.memory_width, config.state_width
        self.keys = nn.Linear(width, config.attention_width)
        self.initial = nn.Linear(width, 4 * state)
        self.from_mean = nn.Linear(width, 4 * state)
        self.embedding = nn.Embedding(words, config.embedding_width)
        self.look = nn.Linear(config.embedding_width + 2 * state, 4 * state, bias=False)
        self.from_look = nn.Linear(state, config.attention_width + 4 * state)
        self.say = nn.Linear(width + state, 4 * state, bias=False)
        self.energy = nn.Linear(config.attention_width, 1, bias=False)
        self._make_words(words, config, state + width)

    def memory(self, found: Tensor, hidden: Tensor | None = None) -> tuple[Memory, State]:
        """See ``Decoder``: memories ``features`` [B, P, D], ``keys`` [B, P, A] and ``mean`` [B, 4 H]; states ``h1``,
        ``c1`` of the attention LSTM and ``h2``, ``c2`` of the language LSTM [B, H]."""
        features = self.project(found)
        mean = self.mean(features, hidden)
        parts = self.initial(mean).chunk(4, dim=-1)
        memory = {"features": features, "keys": self.keys(features), "mean": self.from_mean(mean)}
        return masked(memory, hidden), dict(zip(("h1", "c1", "h2", "c2"), parts, strict=True))

    def advance(self, word: Tensor, state: State, memory: Memory) -> Advance:
        """One step from embedded words [B, K, E] and states [B, K, H]."""
        config = self.config
        looked = self.look(torch.cat([word, state["h2"], state["h1"]], dim=-1)) + memory["mean"].unsqueeze(1)
        look, look_cell = lstm_cell(looked, state["c1"])
        turned_query, from_look = self.from_look(look).split([config.attention_width, 4 * config.state_width], dim=-1)
        hidden = torch.maximum(memory["keys"].unsqueeze(1), turned_query.unsqueeze(2))
        attention = self.weigh(self.energy(hidden).squeeze(3), memory)
        context = torch.matmul(attention, memory["features"])
        said = from_look + self.say(torch.cat([context, state["h2"]], dim=-1))
        say, say_cell = lstm_cell(said, state["c2"])
        return Advance((word, say, context), {"h1": look, "c1": look_cell, "h2": say, "c2": say_cell}, attention)
