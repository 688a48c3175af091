"""The caption loop of sgrvinod's a-PyTorch-Tutorial-to-Image-Captioning, written anew from its algorithm.

One image at a time in PyTorch: the encoder runs once, its features are repeated for k beams, and each step embeds the
last words, attends (projecting the features of every beam again), gates, runs an LSTM cell, scores all words, takes the
best k continuations of the flattened scores, and sets aside what is complete; k shrinks by that. Modules carry the
tutorial's parameter names, so that a state dictionary fits both. Two differences, both in the peer's favour: it runs
without recording gradients, and takes pixels that already have the encoder's size.

Four things the tutorial lacks and our model may have: a projection of the features, a deep output (Xu et al. 2015,
eq. 7), and the rules that no word follows itself and that no n words in a row are said twice. All are off unless asked
for.

Shapes: s live beams, P grid cells, D feature width, A attention width, H state width, E embedding width, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camscribe.runtime.search import SearchOptions

PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LAST_STEP = 50
"""The tutorial goes on while its step, counted from 1, is at most this; so captions have at most 51 words."""


class Encoder(nn.Module):
    """A convolutional network and what makes its grid the decoder's.

    Args:
        features: pixels [1, 3, h, w] -> [1, C, rows, columns].
        side: the grid is averaged (or spread) to this many rows and columns, 14 in the tutorial; 0 keeps it.
        project: of each cell's features [.., C] -> [.., D]; the tutorial has none.
        mean, std: of RGB in 0..1, which the network takes away and divides by.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        features: nn.Module,
        side: int = 14,
        project: nn.Module | None = None,
        mean: Sequence[float] = PIXEL_MEAN,
        std: Sequence[float] = PIXEL_STD,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.features = features
        self.adaptive_pool = nn.AdaptiveAvgPool2d((side, side)) if side else nn.Identity()
        self.project = project or nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        """[1, 3, h, w] -> [1, rows, columns, D]"""
        grid: Tensor = self.adaptive_pool(self.features(image)).permute(0, 2, 3, 1)
        projected: Tensor = self.project(grid)
        return projected


class Attention(nn.Module):
    """Additive attention over the cells of a grid."""

    def __init__(self, encoder_dim: int, decoder_dim: int, attention_dim: int) -> None:
        super().__init__()
        self.encoder_att = nn.Linear(encoder_dim, attention_dim)
        self.decoder_att = nn.Linear(decoder_dim, attention_dim)
        self.full_att = nn.Linear(attention_dim, 1)

    def forward(self, cells: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Cells [s, P, D] and states [s, H] -> weighted cells [s, D], weights [s, P]."""
        keys = self.encoder_att(cells)
        query = self.decoder_att(hidden).unsqueeze(1)
        weights = F.softmax(self.full_att(F.relu(keys + query)).squeeze(2), dim=1)
        return (cells * weights.unsqueeze(2)).sum(dim=1), weights


class Decoder(nn.Module):
    """Attention, gate, LSTM cell and word scores.

    Args:
        attention_dim, embed_dim, decoder_dim, vocab_size, encoder_dim: A, E, H, V, D.
        deep_output: words from embedding, state and context, by the transposed embedding; off in the tutorial.
        no_stutter: no word follows itself; off in the tutorial.
    """

    def __init__(
        self,
        attention_dim: int,
        embed_dim: int,
        decoder_dim: int,
        vocab_size: int,
        encoder_dim: int,
        deep_output: bool = False,
        no_stutter: bool = False,
    ) -> None:
        super().__init__()
        self.attention = Attention(encoder_dim, decoder_dim, attention_dim)
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.decode_step = nn.LSTMCell(embed_dim + encoder_dim, decoder_dim)
        self.init_h = nn.Linear(encoder_dim, decoder_dim)
        self.init_c = nn.Linear(encoder_dim, decoder_dim)
        self.f_beta = nn.Linear(decoder_dim, encoder_dim)
        self.deep_output, self.no_stutter = deep_output, no_stutter
        if deep_output:
            self.output = nn.Linear(decoder_dim + encoder_dim, embed_dim)
            self.word_bias = nn.Parameter(torch.zeros(vocab_size))
        else:
            self.fc = nn.Linear(decoder_dim, vocab_size)

    def init_hidden_state(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """[s, P, D] -> initial states [s, H]."""
        mean = cells.mean(dim=1)
        return self.init_h(mean), self.init_c(mean)

    def forward(
        self, words: Tensor, cells: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One step: last words [s, 1] -> log-probabilities [s, V], attention [s, P], next states [s, H]."""
        embedded = self.embedding(words).squeeze(1)
        context, weights = self.attention(cells, hidden)
        context = torch.sigmoid(self.f_beta(hidden)) * context
        hidden, cell = self.decode_step(torch.cat([embedded, context], dim=1), (hidden, cell))
        if self.deep_output:
            made = embedded + self.output(torch.cat([hidden, context], dim=1))
            logits = F.linear(made, self.embedding.weight, self.word_bias)
        else:
            logits = self.fc(hidden)
        log_prob = F.log_softmax(logits, dim=1)
        if self.no_stutter:
            log_prob = log_prob.scatter(1, words, -torch.inf)
        return log_prob, weights, hidden, cell


@dataclass(frozen=True)
class Found:
    """A caption."""

    tokens: tuple[int, ...]
    """Word ids, without ``<start>`` and ``<end>``."""
    log_prob: float
    """Summed log-probability, ``<end>`` included unless truncated."""
    truncated: bool
    """True when no sequence was complete at the last step. The tutorial itself fails then."""
    steps: int
    """Decoder steps that were run."""
    attention: npt.NDArray[np.float32]
    """[words, rows, columns]"""


class _Beams:
    """What the loop carries from step to step: the live sequences of one image."""

    def __init__(self, decoder: Decoder, grid: Tensor, start_id: int, beams: int, no_repeat: int = 0) -> None:
        _, rows, columns, width = grid.shape
        self.decoder, self.grid, self.no_repeat = decoder, (rows, columns), no_repeat
        self.cells = grid.reshape(1, -1, width).expand(beams, rows * columns, width)
        self.words = torch.full((beams, 1), start_id, dtype=torch.long, device=grid.device)
        self.sequences = self.words
        self.weights = torch.ones(beams, 1, rows, columns, device=grid.device)
        self.scores = torch.zeros(beams, 1, device=grid.device)
        self.hidden, self.cell = decoder.init_hidden_state(self.cells)

    def step(self) -> tuple[Tensor, Tensor]:
        """Runs the decoder: log-probabilities of the next word [s, V] and attention [s, rows, columns]."""
        log_prob, weights, self.hidden, self.cell = self.decoder(self.words, self.cells, self.hidden, self.cell)
        if self.no_repeat:
            log_prob = log_prob.scatter(1, repeats(self.sequences, self.no_repeat), -torch.inf)
        return log_prob, weights.view(-1, *self.grid)

    def extend(self, parents: Tensor, words: Tensor, attention: Tensor) -> None:
        """Makes the sequences those of ``parents`` with ``words`` added, both [k]."""
        self.sequences = torch.cat([self.sequences[parents], words.unsqueeze(1)], dim=1)
        self.weights = torch.cat([self.weights[parents], attention[parents].unsqueeze(1)], dim=1)

    def keep(self, indices: list[int], parents: Tensor, words: Tensor, scores: Tensor) -> None:
        """Goes on with some of the continuations."""
        self.sequences, self.weights = self.sequences[indices], self.weights[indices]
        chosen = parents[indices]
        self.hidden, self.cell, self.cells = self.hidden[chosen], self.cell[chosen], self.cells[chosen]
        self.scores, self.words = scores[indices].unsqueeze(1), words[indices].unsqueeze(1)


def repeats(sequences: Tensor, size: int) -> Tensor:
    """What may not follow sequences [s, t]: the last word, and what would say ``size`` words in a row again, [s, n]."""
    last = sequences[:, -1:]
    runs = sequences.size(1) - size + 1
    if runs <= 0:
        return last
    said = sequences.unfold(1, size, 1)
    again = (said[:, :, :-1] == sequences[:, None, runs:]).all(dim=2)
    return torch.where(again, said[:, :, -1], last)


class Tutorial:
    """The tutorial's captioner: an encoder, a decoder, and its loop, with its own stop rule or with ours.

    Args:
        encoder, decoder: put into evaluation mode here.
        start_id, end_id: of the vocabulary.
        no_repeat: no so many words in a row are said twice, and none follows itself; 0, as in the tutorial, is no rule.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, start_id: int, end_id: int, no_repeat: int = 0) -> None:
        self.encoder, self.decoder = encoder.eval(), decoder.eval()
        self.start_id, self.end_id, self.no_repeat = start_id, end_id, no_repeat

    def to(self, device: str) -> Tutorial:
        """Puts both networks on a device, where the loop then runs, as the original's does."""
        self.encoder.to(device)
        self.decoder.to(device)
        return self

    def encode(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 [h, w, 3] RGB -> grid [1, rows, columns, D]."""
        image = torch.FloatTensor(pixels.transpose(2, 0, 1) / 255.0).to(self.encoder.mean.device)
        grid: Tensor = self.encoder(((image - self.encoder.mean) / self.encoder.std).unsqueeze(0))
        return grid

    @torch.no_grad()
    def caption(self, pixels: npt.NDArray[np.uint8], beams: int) -> Found:
        """The tutorial's search: k shrinks with every complete sequence, sums are compared without length penalty.

        Args:
            pixels: uint8 [h, w, 3] RGB of the encoder's size.
            beams: k.
        """
        live = self._begin(pixels, beams)
        complete: list[tuple[float, list[int], list[Any]]] = []
        for step in range(1, LAST_STEP + 2):
            log_prob, attention = live.step()
            words = log_prob.size(1)
            scores = live.scores.expand_as(log_prob) + log_prob
            # All beams are the same at first.
            best, rank = (scores[0] if step == 1 else scores.view(-1)).topk(beams)
            parents, next_words = rank // words, rank % words
            live.extend(parents, next_words, attention)
            going = [index for index, word in enumerate(next_words) if word != self.end_id]
            ended = [index for index in range(beams) if index not in going]
            if ended:
                complete += zip(
                    best[ended].tolist(), live.sequences[ended].tolist(), live.weights[ended].tolist(), strict=True
                )
                beams -= len(ended)
            if not going:
                break
            live.keep(going, parents, next_words, best)
        if not complete:
            return self._truncated(live, step)
        log_prob_best, tokens, weights = max(complete, key=lambda item: item[0])
        # Both begin with <start> and end with <end>.
        return Found(tuple(tokens[1:-1]), log_prob_best, False, step, np.asarray(weights[1:-1], np.float32))

    @torch.no_grad()
    def caption_as(self, pixels: npt.NDArray[np.uint8], options: SearchOptions, banned: Sequence[int] = ()) -> Found:
        """The same loop with the selection and the stop rule of camscribe, transcribed from their description.

        Of the best 2k continuations those that are ``<end>`` and rank among the first k end, the best k others live on.

        Args:
            pixels: uint8 [h, w, 3] RGB of the encoder's size.
            options: ``nbest`` must be 1; ``ban`` and ``poll`` are ignored.
            banned: ids of words that may not appear.
        """
        beams, alpha, longest = options.beams, options.length_penalty, options.max_words
        live = self._begin(pixels, beams)
        complete: list[tuple[float, float, list[int], list[Any]]] = []
        for step in range(1, longest + 1):
            log_prob, attention = live.step()
            words = log_prob.size(1)
            log_prob[:, list(banned)] = -torch.inf
            if step <= options.min_words:
                log_prob[:, self.end_id] = -torch.inf
            scores = live.scores.expand_as(log_prob) + log_prob
            candidates = scores[0] if step == 1 else scores.view(-1)
            best, rank = candidates.topk(min(2 * beams, len(candidates)))
            possible = best > -torch.inf
            best, rank = best[possible], rank[possible]
            parents, next_words = rank // words, rank % words
            live.extend(parents, next_words, attention)
            ended = [index for index, word in enumerate(next_words[:beams]) if word == self.end_id]
            going = [index for index, word in enumerate(next_words) if word != self.end_id][:beams]
            if ended:
                sums, sequences, maps = best[ended], live.sequences[ended], live.weights[ended]
                penalised = [total / float(step) ** alpha for total in sums.tolist()]
                complete += zip(penalised, sums.tolist(), sequences.tolist(), maps.tolist(), strict=True)
            if not going:
                break
            live.keep(going, parents, next_words, best)
            if options.stop == "first_k":
                if len(complete) >= beams:
                    break
            elif complete:
                bound = float(best[going[0]]) / float(longest) ** alpha
                if max(item[0] for item in complete) >= bound:
                    break
        if not complete:
            return self._truncated(live, step)
        _, total, tokens, weights = max(complete, key=lambda item: item[0])
        return Found(tuple(tokens[1:-1]), total, False, step, np.asarray(weights[1:-1], np.float32))

    def _begin(self, pixels: npt.NDArray[np.uint8], beams: int) -> _Beams:
        return _Beams(self.decoder, self.encode(pixels), self.start_id, beams, self.no_repeat)

    def _truncated(self, live: _Beams, steps: int) -> Found:
        weights = live.weights[0, 1:].cpu().numpy()
        return Found(tuple(live.sequences[0, 1:].tolist()), float(live.scores[0]), True, steps, weights)
