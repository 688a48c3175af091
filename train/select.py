"""The selection of beam search as a module, so that it is exported inside the decoder graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from camscribe.runtime.search import DEAD


class Select(nn.Module):
    """Equals ``camscribe.runtime.search.select``, given the same log-probabilities.

    Args:
        end_id: id of ``</s>``.
    """

    def __init__(self, end_id: int) -> None:
        super().__init__()
        self.end_id = end_id

    def forward(
        self, log_prob: Tensor, score: Tensor, step: Tensor, min_words: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One selection.

        Args:
            log_prob: float32 [B, K, V].
            score: float32 [B, K].
            step: int32 [1].
            min_words: int32 [1].
            bias: float32 [V].

        Returns:
            next_token, next_parent (int32 [B, K]), next_score, ended_score (float32 [B, K]), ended_parent (int32).
        """
        images, beams, words = log_prob.shape
        is_end_word = torch.arange(words, dtype=torch.int32, device=log_prob.device) == self.end_id
        dead = torch.full((), float(DEAD), dtype=torch.float32, device=log_prob.device)
        banned = torch.logical_and(is_end_word, step < min_words)
        biased = torch.where(banned, dead, log_prob + bias)
        candidates = torch.maximum(score.unsqueeze(2) + biased, dead).reshape(images, beams * words)
        # In PyTorch topk promises no order of ties; exported, it is TopK, which on a CPU gives the lower index first.
        best, rank = torch.topk(candidates, 2 * beams, dim=1)
        rank = rank.to(torch.int32)
        parent = torch.div(rank, words, rounding_mode="floor").to(torch.int32)
        token = rank - parent * words
        is_end = token == self.end_id
        ends = torch.logical_and(is_end[:, :beams], best[:, :beams] > dead)
        ended_score = torch.where(ends, best[:, :beams], dead)
        # At most K of 2K candidates are </s>, so K others remain; the order is kept by ranking positions.
        position = torch.arange(2 * beams, dtype=torch.float32, device=log_prob.device)
        order = torch.where(is_end, -position - 2.0 * beams, -position)
        live = torch.topk(order, beams, dim=1).indices
        return (
            torch.gather(token, 1, live),
            torch.gather(parent, 1, live),
            torch.gather(best, 1, live),
            ended_score,
            parent[:, :beams].contiguous(),
        )
