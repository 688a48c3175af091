"""The attention decoders of ruotianluo's repository, as they are there, so that its checkpoints can be imported.

Ours differ from them in what makes small machines fast; these differ from their papers where that repository does.
See ``base`` for the letters in shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from camscribe.train.config import ModelConfig
from camscribe.train.decoders.base import Advance, Decoder, Memory, State, lstm_cell, masked


class _LuoDecoder(Decoder):
    """Attention with tanh: energies w . tanh(W_v v_i + W_h h), whose softmax weighs the features."""

    keys: nn.Linear
    energy: nn.Linear

    def _make_attention(self, config: ModelConfig) -> None:
        self.keys = nn.Linear(self.memory_width, config.attention_width)
        self.energy = nn.Linear(config.attention_width, 1, bias=False)  # a softmax ignores what all cells share

    def attend(self, query: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Queries [B, K, A] -> context [B, K, D] and attention [B, K, P]."""
        hidden = torch.tanh(memory["keys"].unsqueeze(1) + query.unsqueeze(2))
        attention = self.weigh(self.energy(hidden).squeeze(3), memory)
        return torch.matmul(attention, memory["features"]), attention


class _EmbeddedDecoder(_LuoDecoder):
    """One whose features and words pass a ReLU, with dropout behind it."""

    def _make_memory(self, found_width: int, config: ModelConfig) -> None:
        self.config = config
        self.memory_width = config.memory_width or found_width
        self.project = nn.Linear(found_width, self.memory_width) if config.memory_width else nn.Identity()

    def _features(self, found: Tensor) -> Tensor:
        return self._rectify(self.project(found))

    def embed(self, token: Tensor) -> Tensor:
        """See ``Decoder``."""
        return self._rectify(self.embedding(token))

    def _rectify(self, values: Tensor) -> Tensor:
        rectified: Tensor = self.dropout(torch.relu(values))
        return rectified


class TopDownDecoder(_EmbeddedDecoder):
    """Its ``updown`` (``topdown``): Anderson et al. 2018 with an embedding of the mean feature in place of the mean.

    Equations as in ``UpDownDecoder``, with tanh in (3) as in the paper. The mean is taken over the encoder's features,
    as its ``fc`` features are, and both LSTMs start from zeros.
    """

    def __init__(self, words: int, found_width: int, config: ModelConfig) -> None:
        super().__init__()
        self._make_memory(found_width, config)
        state = config.state_width
        self._make_attention(config)
        self.whole = nn.Linear(found_width, state)
        self.from_whole = nn.Linear(state, 4 * state)
        self.embedding = nn.Embedding(words, config.embedding_width)
        self.look = nn.Linear(config.embedding_width + 2 * state, 4 * state, bias=False)
        self.from_look = nn.Linear(state, config.attention_width + 4 * state)
        self.say = nn.Linear(self.memory_width + state, 4 * state, bias=False)
        self._make_words(words, config, state + self.memory_width)

    def memory(self, found: Tensor, hidden: Tensor | None = None) -> tuple[Memory, State]:
        """See ``Decoder``: memories ``features`` [B, P, D], ``keys`` [B, P, A] and ``whole`` [B, 4 H]; states ``h1``,
        ``c1`` of the attention LSTM and ``h2``, ``c2`` of the language LSTM [B, H], zero."""
        features = self._features(found)
        whole = self.from_whole(self._rectify(self.whole(self.mean(found, hidden))))
        zero = torch.zeros_like(whole[:, : self.config.state_width])
        memory = {"features": features, "keys": self.keys(features), "whole": whole}
        return masked(memory, hidden), {name: zero.clone() for name in ("h1", "c1", "h2", "c2")}

    def advance(self, word: Tensor, state: State, memory: Memory) -> Advance:
        """One step from embedded words [B, K, E] and states [B, K, H]."""
        config = self.config
        looked = self.look(torch.cat([word, state["h2"], state["h1"]], dim=-1)) + memory["whole"].unsqueeze(1)
        look, look_cell = lstm_cell(looked, state["c1"])
        query, from_look = self.from_look(look).split([config.attention_width, 4 * config.state_width], dim=-1)
        context, attention = self.attend(query, memory)
        said = from_look + self.say(torch.cat([context, state["h2"]], dim=-1))
        say, say_cell = lstm_cell(said, state["c2"])
        return Advance((word, say, context), {"h1": look, "c1": look_cell, "h2": say, "c2": say_cell}, attention)


class Att2InDecoder(_EmbeddedDecoder):
    """Its ``att2in2``: the context enters an LSTM's candidate alone, which is the larger of two (Rennie et al. 2017).

    With gates i, f, o = sigmoid(W_x x + W_h h), c = f c + i max(z_1, z_2) with z = V_x x + V_h h + V_a context, and
    h = o tanh(c). States start from zeros; nothing but the attention sees the image.
    """

    def __init__(self, words: int, found_width: int, config: ModelConfig) -> None:
        super().__init__()
        self._make_memory(found_width, config)
        state = config.state_width
        self._make_attention(config)
        self.embedding = nn.Embedding(words, config.embedding_width)
        self.from_state = nn.Linear(state, config.attention_width + 5 * state)
        self.from_word = nn.Linear(config.embedding_width, 5 * state, bias=False)
        self.from_context = nn.Linear(self.memory_width, 2 * state, bias=False)
        self._make_words(words, config, state + self.memory_width)

    def memory(self, found: Tensor, hidden: Tensor | None = None) -> tuple[Memory, State]:
        """See ``Decoder``: memories ``features`` [B, P, D] and ``keys`` [B, P, A], states ``h`` and ``c`` [B, H],
        zero."""
        features = self._features(found)
        zero = features.new_zeros(features.shape[0], self.config.state_width)
        return masked({"features": features, "keys": self.keys(features)}, hidden), {"h": zero, "c": zero.clone()}

    def advance(self, word: Tensor, state: State, memory: Memory) -> Advance:
        """One step from embedded words [B, K, E] and states [B, K, H]."""
        width = self.config.state_width
        query, from_state = self.from_state(state["h"]).split([self.config.attention_width, 5 * width], dim=-1)
        context, attention = self.attend(query, memory)
        gates, candidates = (from_state + self.from_word(word)).split([3 * width, 2 * width], dim=-1)
        in_gate, forget_gate, out_gate = torch.sigmoid(gates).chunk(3, dim=-1)
        one, other = (candidates + self.from_context(context)).chunk(2, dim=-1)
        cell = forget_gate * state["c"] + in_gate * torch.maximum(one, other)
        hidden = out_gate * torch.tanh(cell)
        return Advance((word, hidden, context), {"h": hidden, "c": cell}, attention)


class ShowAttendTellDecoder(_LuoDecoder):
    """Its ``show_attend_tell``: Xu et al. 2015 without the gate, on the backbone's features as they are where
    ``memory_width`` is 0. State and cell start from the same linear map of their mean."""

    def __init__(self, words: int, found_width: int, config: ModelConfig) -> None:
        super().__init__()
        self._make_memory(found_width, config)
        state = config.state_width
        self._make_attention(config)
        self.initial = nn.Linear(self.memory_width, state)
        self.embedding = nn.Embedding(words, config.embedding_width)
        self.from_state = nn.Linear(state, config.attention_width + 4 * state)
        self.from_input = nn.Linear(config.embedding_width + self.memory_width, 4 * state, bias=False)
        self._make_words(words, config, state + self.memory_width)

    def memory(self, found: Tensor, hidden: Tensor | None = None) -> tuple[Memory, State]:
        """See ``Decoder``: memories ``features`` [B, P, D] and ``keys`` [B, P, A], states ``h`` and ``c`` [B, H]."""
        features = self.project(found)
        start = self.initial(self.mean(features, hidden))
        return masked({"features": features, "keys": self.keys(features)}, hidden), {"h": start, "c": start.clone()}

    def advance(self, word: Tensor, state: State, memory: Memory) -> Advance:
        """One step from embedded words [B, K, E] and states [B, K, H]."""
        config = self.config
        query, from_state = self.from_state(state["h"]).split([config.attention_width, 4 * config.state_width], dim=-1)
        context, attention = self.attend(query, memory)
        hidden, cell = lstm_cell(from_state + self.from_input(torch.cat([word, context], dim=-1)), state["c"])
        return Advance((word, hidden, context), {"h": hidden, "c": cell}, attention)
