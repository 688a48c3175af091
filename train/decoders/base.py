"""What all decoders have in common.

Shapes: B images, K hypotheses of an image (beams, or its captions in training), P positions (grid cells or regions), C
width of the encoder's features, D memory width, A attention width, H state width, E embedding width, V words, T words
of a caption.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camscribe.runtime.search import DEAD
from camscribe.train.config import ModelConfig

Memory = dict[str, Tensor]
State = dict[str, Tensor]
HIDDEN = -1e4
"""Added to the energy of what may not be attended to; a half-precision number holds it."""
SAID = "said"
"""The state of the words said so far, of a decoder that repeats none."""
_REMEMBERED = 32
"""How many of them it holds."""


class Advance(NamedTuple):
    """What one step of a decoder makes."""

    parts: tuple[Tensor, ...]
    """[B, K, ...] each; ``Decoder.logits`` makes words of them."""
    state: State
    attention: Tensor
    """[B, K, P]"""


class Unrolled(NamedTuple):
    """What a decoder makes of given words."""

    parts: tuple[Tensor, ...]
    """[B, K, T, ...] each, see ``Advance``."""
    attention: Tensor
    """[B, K, T, P]"""


class Decoder(nn.Module):
    """A single step, its word embedding and its output layer; the step is what is exported.

    A child makes its layers in its constructor and implements ``memory`` and ``advance``. Names of states and memories
    are its own: export and executors pass on whatever the dictionaries hold.

    Args:
        words: size of the vocabulary V.
        found_width: width C of the encoder's features.
        config: the model's table of the configuration.
    """

    config: ModelConfig
    dropout: nn.Dropout
    embedding: nn.Embedding
    memory_width: int
    parts = 3
    """How many tensors ``Advance.parts`` has."""
    resamples = False
    """True where gradients through drawn captions are cheaper by running over them again than by keeping each step."""

    def _make_memory(self, found_width: int, config: ModelConfig) -> None:
        self.config = config
        self.memory_width = config.memory_width or found_width
        if config.memory_width:
            self.project: nn.Module = nn.Sequential(
                nn.Linear(found_width, self.memory_width), nn.LayerNorm(self.memory_width)
            )
        else:
            self.project = nn.Sequential()

    def _make_words(self, words: int, config: ModelConfig, output_width: int) -> None:
        """The output layer, on top of features [..., output_width]."""
        self.dropout = nn.Dropout(config.dropout)
        if config.deep_output:
            self.output = nn.Linear(output_width, config.embedding_width)
            self.word_bias = nn.Parameter(torch.zeros(words))
        else:
            self.words = nn.Linear(config.state_width, words)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def memory(self, found: Tensor, hidden: Tensor | None = None) -> tuple[Memory, State]:
        """Memory and initial state [B, ...] of images.

        Args:
            found: the encoder's features [B, P, C].
            hidden: [B, P], added to the energies: 0, or ``HIDDEN`` of a position that is mere padding. None where
                there is none; else it becomes the memory ``mask``.
        """
        raise NotImplementedError

    def advance(self, word: Tensor, state: State, memory: Memory) -> Advance:
        """One step from embedded words [B, K, E] and states [B, K, ...]."""
        raise NotImplementedError

    @staticmethod
    def weigh(energy: Tensor, memory: Memory) -> Tensor:
        """Energies [B, K, P] -> attention, of which a hidden position gets none."""
        return torch.softmax(energy + memory["mask"].unsqueeze(1) if "mask" in memory else energy, dim=-1)

    @staticmethod
    def mean(features: Tensor, hidden: Tensor | None) -> Tensor:
        """Of the features [B, P, D] that are not hidden: [B, D]."""
        if hidden is None:
            return features.mean(dim=1)
        shown = (hidden == 0).to(features.dtype).unsqueeze(2)
        return (features * shown).sum(dim=1) / shown.sum(dim=1)

    def start(self, found: Tensor, hidden: Tensor | None = None) -> tuple[Memory, State]:
        """Memory and all initial states [B, ...] of images, that of ``step`` itself among them; see ``memory``."""
        memory, state = self.memory(found, hidden)
        if self.config.no_repeat:
            # Zeros, <pad>, which is never said. They depend on the input: an exporter would fix the number of images.
            zero = found[:, 0, :1].mul(0).to(torch.int32)
            state = {**state, SAID: zero.expand(-1, _REMEMBERED)}
        return memory, state

    def embed(self, token: Tensor) -> Tensor:
        """Token ids [...] -> [..., E]."""
        embedded: Tensor = self.dropout(self.embedding(token))
        return embedded

    def logits(self, word: Tensor, hidden: Tensor, *context: Tensor) -> Tensor:
        """Embedded words [..., E], the states after them [..., H] and what else a child hands on -> logits [..., V].

        With ``deep_output`` from all of these, the matrix tied to the embedding (Xu et al. 2015, eq. 7); else from the
        state alone.
        """
        hidden = self.dropout(hidden)
        if not self.config.deep_output:
            plain: Tensor = self.words(hidden)
            return plain
        output = word + self.output(torch.cat([hidden, *context], dim=-1))
        return F.linear(self.dropout(output), self.embedding.weight, self.word_bias)

    def step(self, token: Tensor, state: State, memory: Memory) -> tuple[Tensor, State, Tensor]:
        """One step from token ids [B, K]: log-probabilities [B, K, V], next states, attention [B, K, P]."""
        made = self.follow(token, state, memory)
        log_prob = self.log_prob(made.parts)
        if SAID not in state:
            return self.without_stutter(token, log_prob), made.state, made.attention
        log_prob, said = self.without_repeats(state[SAID], token.to(torch.int32), log_prob)
        return log_prob, {**made.state, SAID: said}, made.attention

    def steps(self, inputs: Tensor, state: State, memory: Memory) -> Tensor:
        """The log-probabilities [B, K, T, V] of ``step`` after each of given words, from one run over all of them.

        Args:
            inputs: [B, K, T] token ids, ``<s>`` first.
            state: initial, [B, ...].
            memory: of B images.
        """
        log_prob = self.log_prob(self.unroll(memory, state, inputs).parts)
        if not self.config.no_repeat:
            return self.without_stutter(inputs, log_prob)
        # By <pad>, which is never said, so that each word has as many before it as the state holds.
        said = F.pad(inputs[:, :, :-1], (_REMEMBERED, 0)).unfold(2, _REMEMBERED, 1)
        return self.without_repeats(said, inputs, log_prob)[0]

    def follow(self, token: Tensor, state: State, memory: Memory) -> Advance:
        """``advance`` from token ids [B, K]."""
        return self.advance(self.embed(token), state, memory)

    def log_prob(self, parts: tuple[Tensor, ...]) -> Tensor:
        """Log-probabilities [..., V] of what ``logits`` makes of ``parts``, float32; no word is banned yet."""
        return torch.log_softmax(self.logits(*parts).float(), dim=-1)

    def without_stutter(self, token: Tensor, log_prob: Tensor) -> Tensor:
        """Log-probabilities [..., V], of which, with ``no_stutter``, that of the word before [...] becomes ``DEAD``."""
        if self.config.no_stutter:
            log_prob = log_prob.scatter(-1, token.unsqueeze(-1).long(), float(DEAD))
        return log_prob

    def without_repeats(self, said: Tensor, token: Tensor, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities [..., V], of which those become ``DEAD`` whose words would complete ``no_repeat`` words in
        a row that were said.

        Args:
            said: [..., W] words before the last one, the latest last.
            token: [...] the last word.
            log_prob: of what follows it.

        Returns:
            The log-probabilities, and the words that are ``said`` at the next step [..., W].
        """
        size, before, last = self.config.no_repeat, said.shape[-1], token.unsqueeze(-1)
        following = torch.cat([said[..., 1:], last], dim=-1)  # each of said
        # The last word is banned in any case, and so fills the places of a scatter where nothing would be repeated.
        # Of two words in a row all of this is one comparison and one choice, which is what a step's time hangs on.
        banned = following[..., max(size - 2, 0) :]
        for back in range(size - 1):
            one = said[..., before - back, None] if back else last
            banned = torch.where(said[..., size - 2 - back : before - back] == one, banned, last)
        return log_prob.scatter(-1, banned.long(), float(DEAD)), following

    def unroll(self, memory: Memory, state: State, inputs: Tensor, sampling: float = 0.0) -> Unrolled:
        """Runs over given words.

        Args:
            memory: of B images.
            state: initial, [B, ...].
            inputs: [B, K, T] token ids, ``<s>`` first.
            sampling: chance that an input is drawn from the model instead (scheduled sampling, Bengio et al. 2015).
        """
        # Unbound once: taking a slice a step would make autograd fill a whole tensor of zeros a step.
        given = self.embed(inputs).unbind(dim=2)
        state = spread(state, inputs.shape[1])
        made: list[Advance] = []
        for position, word in enumerate(given):
            if sampling and position:
                word = self.mix(word, made[-1].parts, sampling)
            made.append(self.advance(word, state, memory))
            state = made[-1].state
        parts = tuple(torch.stack(part, dim=2) for part in zip(*(each.parts for each in made), strict=True))
        return Unrolled(parts, torch.stack([each.attention for each in made], dim=2))

    def mix(self, word: Tensor, parts: tuple[Tensor, ...], sampling: float) -> Tensor:
        """Embedded words [..., E], a share of them replaced by words drawn from what ``logits`` makes of ``parts``."""
        chosen = torch.rand(word.shape[:-1], device=word.device) < sampling
        if not chosen.any():
            return word
        with torch.no_grad():
            logits = self.logits(*(part[chosen] for part in parts))
            drawn = torch.multinomial(torch.softmax(logits.float(), dim=-1), 1).squeeze(1)
        return word.masked_scatter(chosen.unsqueeze(-1).expand_as(word), self.embed(drawn).to(word.dtype))


def masked(memory: Memory, hidden: Tensor | None) -> Memory:
    """The memory, with what hides positions where anything does."""
    return memory if hidden is None else {**memory, "mask": hidden}


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """The arithmetic of an LSTM cell, from summed gates [..., 4 H] (input, forget, candidate, output) and a cell state.

    Returns:
        The next output and cell state, [..., H] each.
    """
    in_gate, forget_gate, candidate, out_gate = gates.chunk(4, dim=-1)
    cell = torch.sigmoid(forget_gate) * cell + torch.sigmoid(in_gate) * torch.tanh(candidate)
    return torch.sigmoid(out_gate) * torch.tanh(cell), cell


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
