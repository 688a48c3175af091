"""A transformer with a cache of keys and values (Vaswani et al. 2017). See ``base`` for the letters in shapes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from camscribe.runtime.errors import DataError
from camscribe.train.config import ModelConfig
from camscribe.train.decoders.base import HIDDEN, Advance, Decoder, Memory, State, Unrolled, masked


class _Layer(nn.Module):
    """Self-attention, attention to the image, feed-forward; each with the norm before it (Xiong et al. 2020)."""

    def __init__(self, width: int, memory_width: int, dropout: float) -> None:
        super().__init__()
        self.self_norm, self.cross_norm, self.feed_norm = (nn.LayerNorm(width) for _ in range(3))
        self.project = nn.Linear(width, 3 * width)
        self.self_output = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(memory_width, 2 * width)
        self.cross_output = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )


class _Heads(NamedTuple):
    """Attention's result and weights."""

    mixed: Tensor
    """[B, K, Q, H]"""
    weights: Tensor
    """[B, K, heads, Q, S]"""


class TransformerDecoder(Decoder):
    """The layers of Vaswani et al. 2017, one word at a time.

    What was said is a state, ``past`` [B, K, layers, 2 H, window]: the keys and values of the last ``window`` words,
    each in the column of its position modulo ``window``, so that a caption of any length has a graph of fixed shapes.
    The state ``position`` [B, K, 1] counts words. The image's keys and values are memories, computed once.
    ``attention`` is the mean over the heads of the last layer.

    Training runs over all words at once, behind a mask that shows each word those before it, up to ``window``.
    """

    parts = 2
    resamples = True

    def __init__(self, words: int, found_width: int, config: ModelConfig) -> None:
        super().__init__()
        if config.layers < 1 or config.heads < 1 or config.window < 2:
            raise DataError(
                f"model: layers, heads and window are {config.layers}, {config.heads} and {config.window}; "
                "expected at least 1, 1 and 2"
            )
        if config.state_width % config.heads or config.state_width % 2:
            raise DataError(
                f"model: state_width is {config.state_width}; expected an even multiple of heads ({config.heads})"
            )
        self._make_memory(found_width, config)
        width = config.state_width
        self.embedding = nn.Embedding(words, config.embedding_width)
        self.widen = nn.Linear(config.embedding_width, width)
        self.layers = nn.ModuleList(_Layer(width, self.memory_width, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        self.register_buffer("rates", rates, persistent=False)
        self.register_buffer("columns", torch.arange(config.window, dtype=torch.float32), persistent=False)
        self._make_words(words, config, width)

    def memory(self, found: Tensor, hidden: Tensor | None = None) -> tuple[Memory, State]:
        """See ``Decoder``: memories ``keys`` [B, layers, heads, H / heads, P] and ``values`` [B, layers, heads, P,
        H / heads]; states ``past`` and ``position``, zero."""
        config, features = self.config, self.project(found)
        heads = (config.heads, config.state_width // config.heads)
        both = torch.stack([layer.key_value(features) for layer in self.layers], dim=1)
        keys, values = both.chunk(2, dim=-1)
        keys = keys.unflatten(3, heads).permute(0, 1, 3, 4, 2)
        values = values.unflatten(3, heads).permute(0, 1, 3, 2, 4)
        # Zeros that depend on the input: an exporter would fix the number of images otherwise.
        zero = features[:, :1, :1].mul(0).flatten(1)
        past = zero.reshape(-1, 1, 1, 1).expand(-1, config.layers, 2 * config.state_width, config.window)
        memory = masked({"keys": keys, "values": values}, hidden)
        return memory, {"past": past.contiguous(), "position": zero}

    def advance(self, word: Tensor, state: State, memory: Memory) -> Advance:
        """One step from embedded words [B, K, E], the past and the position."""
        position = state["position"]
        here = position - self.config.window * torch.floor(position / self.config.window)
        # 1 in the column of this word; columns that were never written are hidden. float32 holds any whole position.
        mine = (self.columns == here).to(word.dtype).unsqueeze(2)
        hidden = torch.where(self.columns > position, HIDDEN, 0.0).to(word.dtype)
        stream = (self.widen(word) + self._place(position).to(word.dtype)).unsqueeze(2)
        pasts = []
        attention = word
        for index, layer in enumerate(self.layers):
            query, new = layer.project(layer.self_norm(stream)).split(
                [self.config.state_width, 2 * self.config.state_width], dim=-1
            )
            past = state["past"].select(2, index)
            past = past + mine * (new.transpose(2, 3) - past)
            pasts.append(past)
            keys, values = past.chunk(2, dim=2)
            said = self._attend(query, self._split(keys), self._split(values).transpose(3, 4), hidden[:, :, None, None])
            stream = stream + self.dropout(layer.self_output(said.mixed))
            stream, attention = self._look(layer, stream, memory, index)
        output = self.norm(stream).squeeze(2)
        after = {"past": torch.stack(pasts, dim=2), "position": position + 1}
        return Advance((word, output), after, attention.squeeze(2))

    def unroll(self, memory: Memory, state: State, inputs: Tensor, sampling: float = 0.0) -> Unrolled:
        """See ``Decoder``. Scheduled sampling runs twice: the inputs of the second time are mixed with draws from the
        first (Mihaylova and Martins 2019)."""
        words = self.embed(inputs)
        if sampling:
            with torch.no_grad():
                first = self._all_words(words, memory)
            before = tuple(part[:, :, :-1] for part in first.parts)
            words = torch.cat([words[:, :, :1], self.mix(words[:, :, 1:], before, sampling)], dim=2)
        return self._all_words(words, memory)

    def _all_words(self, words: Tensor, memory: Memory) -> Unrolled:
        """Embedded words [B, K, T, E], all at once."""
        steps = torch.arange(words.shape[2], device=words.device)
        distance = steps.unsqueeze(1) - steps.unsqueeze(0)
        hidden = torch.where((distance < 0) | (distance >= self.config.window), HIDDEN, 0.0)
        places = self._place(steps.unsqueeze(1).float()).to(words.dtype)
        stream = self.widen(words) + places
        attention = words
        for index, layer in enumerate(self.layers):
            query, keys, values = layer.project(layer.self_norm(stream)).chunk(3, dim=-1)
            keys, values = (self._split(part.transpose(2, 3)) for part in (keys, values))
            said = self._attend(query, keys, values.transpose(3, 4), hidden)
            stream = stream + self.dropout(layer.self_output(said.mixed))
            stream, attention = self._look(layer, stream, memory, index)
        return Unrolled((words, self.norm(stream)), attention)

    def _look(self, layer: nn.Module, stream: Tensor, memory: Memory, index: int) -> tuple[Tensor, Tensor]:
        """Attention to the image and the feed-forward layer; also the attention, [B, K, Q, P]."""
        keys, values = (memory[name].select(1, index).unsqueeze(1) for name in ("keys", "values"))
        hidden = memory["mask"][:, None, None, None] if "mask" in memory else None
        seen = self._attend(layer.query(layer.cross_norm(stream)), keys, values, hidden)
        stream = stream + self.dropout(layer.cross_output(seen.mixed))
        stream = stream + self.dropout(layer.feed(layer.feed_norm(stream)))
        return stream, seen.weights.mean(dim=2)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None) -> _Heads:
        """Queries [B, K, Q, H], keys [B, K, heads, H / heads, S], values [B, K, heads, S, H / heads]."""
        width = self.config.state_width // self.config.heads
        queries = query.unflatten(3, (self.config.heads, width)).transpose(2, 3) * (width**-0.5)
        energy = torch.matmul(queries, keys)
        weights = torch.softmax(energy if hidden is None else energy + hidden, dim=-1)
        return _Heads(torch.matmul(weights, values).transpose(2, 3).flatten(3), weights)

    def _split(self, part: Tensor) -> Tensor:
        """[B, K, H, S] -> [B, K, heads, H / heads, S]."""
        return part.unflatten(2, (self.config.heads, self.config.state_width // self.config.heads))

    def _place(self, position: Tensor) -> Tensor:
        """Positions [..., 1] -> sines and cosines [..., H]."""
        angle = position * self.rates
        return torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)
