"""PyTorch as an executor: the reference for parity, and how checkpoints caption during training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from camscribe.runtime.search import Hypothesis, Progress, SearchOptions, Trace, hypotheses, initial_score
from camscribe.runtime.vocab import Vocabulary
from camscribe.train.decoders.base import Memory, State, gather_beams, spread
from camscribe.train.detector import Regions
from camscribe.train.model import Captioner
from camscribe.train.select import Select


class TorchExecutor:
    """Runs a captioner's beam search in PyTorch.

    Args:
        model: put into evaluation mode by the caller.
        vocabulary: the model's.
    """

    def __init__(self, model: Captioner, vocabulary: Vocabulary) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.device = next(model.parameters()).device
        self._select = Select(vocabulary.end_id)

    @torch.no_grad()
    def caption(self, images: npt.NDArray[np.uint8], options: SearchOptions) -> list[list[Hypothesis]]:
        """Hypotheses of uint8 [B, H, W, 3] RGB images of the model's input size."""
        return self.search(*self.model.encode(torch.from_numpy(images).to(self.device)), options)

    @torch.no_grad()
    def caption_regions(self, regions: Regions, options: SearchOptions) -> list[list[Hypothesis]]:
        """Hypotheses of images whose regions are precomputed."""
        return self.search(*self.model.read(None, regions.to(self.device)), options)

    @torch.no_grad()
    def search(self, memory: Memory, state: State, options: SearchOptions) -> list[list[Hypothesis]]:
        """Hypotheses from an encoder's memory and initial states [B, H]."""
        images, beams = next(iter(state.values())).shape[0], options.beams
        token = torch.full((images, beams), self.vocabulary.start_id, dtype=torch.int32, device=self.device)
        parent = torch.arange(beams, dtype=torch.int32, device=self.device).expand(images, beams)
        score = torch.from_numpy(initial_score(images, beams)).to(self.device)
        bias = torch.from_numpy(self.vocabulary.bias(options.ban)).to(self.device)
        min_words = torch.tensor([options.min_words], dtype=torch.int32, device=self.device)
        state = spread(state, beams)
        rows: list[tuple[Tensor, ...]] = []
        progress = Progress(images, options)
        for step in range(options.max_words):
            position = torch.tensor([step], dtype=torch.int32, device=self.device)
            log_prob, state, attention = self.model.decoder.step(token, gather_beams(state, parent), memory)
            token, parent, score, ended_score, ended_parent = self._select(log_prob, score, position, min_words, bias)
            rows.append((token, parent, score, ended_score, ended_parent, attention))
            if progress.finished(_trace(rows)):
                break
        return hypotheses(_trace(rows), options, progress)


def _trace(rows: list[tuple[Tensor, ...]]) -> Trace:
    return Trace(
        *(
            torch.stack(column).float().cpu().numpy()
            if column[0].is_floating_point()
            else torch.stack(column).cpu().numpy()
            for column in zip(*rows, strict=True)
        )
    )
