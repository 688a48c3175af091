"""The training loop of sgrvinod's tutorial, written anew from its algorithm.

A sample is one photograph with one of its captions. A batch is sorted by the length of its captions, longest first;
each step of time runs the decoder on the captions that still go on, so the batch shrinks, and writes their scores into
a tensor of zeros for all words of all steps. The loss is cross-entropy over the packed scores plus doubly stochastic
attention; gradients are clamped value by value, and Adam follows, one for the decoder and one for the encoder where it
is trained. The encoder runs for every sample in every epoch, frozen or not.

In the peer's favour: photographs lie in memory, reduced, instead of in an HDF5 file; no worker process hands them
over; the encoder computes in channels-last memory, which CPUs prefer (as ours does); and top-5 accuracy, which is only
logged, is computed without gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from camscribe.benchmarks.peers.tutorial import Decoder, Tutorial


@dataclass(frozen=True)
class Samples:
    """Photographs and their captions, in memory."""

    images: npt.NDArray[np.uint8]
    """[N, h, w, 3] RGB, of the encoder's size."""
    captions: tuple[tuple[tuple[int, ...], ...], ...]
    """Of each photograph: ids of words, without ``<start>`` and ``<end>``."""

    def pairs(self, count: int) -> list[tuple[int, int]]:
        """Every photograph with its first ``count`` captions: indices of both."""
        return [(image, row) for image, own in enumerate(self.captions) for row in range(min(count, len(own)))]


class Training:
    """The tutorial's two optimisers around a tutorial's model.

    Args:
        model: its weights are changed.
        pad_id: fills captions up.
        trained: how many of the encoder's last parts are trained; 0 freezes it.
        dropout: before the words' scores, 0.5 in the tutorial.
        clip: gradients are clamped to this, both ways; 5 in the tutorial.
        doubly: factor of doubly stochastic attention, 1 in the tutorial.
        learning_rate, encoder_learning_rate: of Adam.
    """

    def __init__(
        self,
        model: Tutorial,
        pad_id: int,
        trained: int = 0,
        dropout: float = 0.5,
        clip: float = 5.0,
        doubly: float = 1.0,
        learning_rate: float = 4e-4,
        encoder_learning_rate: float = 1e-4,
    ) -> None:
        self.model, self.pad_id, self.clip, self.doubly = model, pad_id, clip, doubly
        self.dropout = nn.Dropout(dropout)
        encoder, decoder = model.encoder.to(memory_format=torch.channels_last), model.decoder
        for parameter in encoder.features.parameters():
            parameter.requires_grad_(False)
        parts = list(encoder.features.children())
        for part in parts[len(parts) - trained :]:
            part.requires_grad_(True)
        # What projects the features is part of our decoder, and trained whenever that is.
        heads = [*decoder.parameters(), *encoder.project.parameters()]
        fine = [parameter for parameter in encoder.features.parameters() if parameter.requires_grad]
        self.optimizers = [torch.optim.Adam(heads, lr=learning_rate)]
        if fine:
            self.optimizers.append(torch.optim.Adam(fine, lr=encoder_learning_rate))

    def batches(
        self, samples: Samples, size: int, captions: int, generator: np.random.Generator
    ) -> Iterator[tuple[npt.NDArray[np.uint8], list[tuple[int, ...]]]]:
        """One epoch in random order: photographs [B, h, w, 3] and a caption of each."""
        pairs = samples.pairs(captions)
        order = generator.permutation(len(pairs))
        for first in range(0, len(order), size):
            chosen = [pairs[index] for index in order[first : first + size]]
            rows = [image for image, _ in chosen]
            yield samples.images[rows], [samples.captions[image][row] for image, row in chosen]

    def loss(self, images: npt.NDArray[np.uint8], captions: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """Cross-entropy and doubly stochastic attention of a batch, before they are added.

        Args:
            images: uint8 [B, h, w, 3].
            captions: of each.
        """
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0
        encoder = self.model.encoder
        return self.decoder_loss(encoder((pixels - encoder.mean) / encoder.std), captions)

    def decoder_loss(self, grid: Tensor, captions: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """See ``loss``; from the encoder's grid [B, rows, columns, D]."""
        start, end = self.model.start_id, self.model.end_id
        order = sorted(range(len(captions)), key=lambda index: -len(captions[index]))
        lengths = [len(captions[index]) + 1 for index in order]
        words = torch.full((len(order), lengths[0] + 1), self.pad_id)
        for row, index in enumerate(order):
            words[row, : lengths[row] + 1] = torch.tensor([start, *captions[index], end])
        cells = grid.flatten(1, 2)[order]
        scores, attention = self._unroll(self.model.decoder, cells, words, lengths)
        packed = pack_padded_sequence(scores, lengths, batch_first=True).data
        targets = pack_padded_sequence(words[:, 1:], lengths, batch_first=True).data
        self._accuracy(packed, targets)
        return F.cross_entropy(packed, targets), ((1.0 - attention.sum(dim=1)) ** 2).mean()

    def step(self, images: npt.NDArray[np.uint8], captions: Sequence[tuple[int, ...]]) -> float:
        """One step of training; returns the loss."""
        return self.update(*self.loss(images, captions))

    def update(self, words: Tensor, attention: Tensor) -> float:
        """Changes the weights by the two parts of a loss; returns their sum."""
        loss = words + self.doubly * attention
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.clamp_(-self.clip, self.clip)
            optimizer.step()
        return float(loss.detach())

    def _unroll(self, decoder: Decoder, cells: Tensor, words: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
        """Scores [B, T, V] and attention [B, T, P], zeros behind the end of each caption."""
        embedded = decoder.embedding(words)
        hidden, cell = decoder.init_hidden_state(cells)
        vocabulary = decoder.embedding.num_embeddings
        scores = torch.zeros(len(cells), lengths[0], vocabulary)
        attention = torch.zeros(len(cells), lengths[0], cells.shape[1])
        for step in range(lengths[0]):
            going = sum(length > step for length in lengths)
            context, weights = decoder.attention(cells[:going], hidden[:going])
            context = torch.sigmoid(decoder.f_beta(hidden[:going])) * context
            word = embedded[:going, step]
            hidden, cell = decoder.decode_step(torch.cat([word, context], dim=1), (hidden[:going], cell[:going]))
            if decoder.deep_output:
                made = word + decoder.output(torch.cat([self.dropout(hidden), context], dim=1))
                scores[:going, step] = F.linear(self.dropout(made), decoder.embedding.weight, decoder.word_bias)
            else:
                scores[:going, step] = decoder.fc(self.dropout(hidden))
            attention[:going, step] = weights
        return scores, attention

    @torch.no_grad()
    def _accuracy(self, scores: Tensor, targets: Tensor) -> float:
        """Share of words among the five best, which the tutorial logs at every step."""
        _, best = scores.topk(min(5, scores.shape[1]), dim=1)
        return float(best.eq(targets.unsqueeze(1)).any(dim=1).float().mean())
