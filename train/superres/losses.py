"""Pixel-wise and relativistic losses (Ledig et al. 2017; Wang et al. 2018; Jolicoeur-Martineau 2019)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F


def pixel_loss(made: Tensor, truth: Tensor, kind: Literal["l1", "l2"]) -> Tensor:
    """Mean absolute, or mean squared, difference."""
    return F.l1_loss(made, truth) if kind == "l1" else F.mse_loss(made, truth)


def relativistic_average(winners: Tensor, losers: Tensor) -> Tensor:
    """Loss of a relativistic average discriminator, of logits [B] or [B, 1].

    It is smallest where winners score above the losers' mean and losers below the winners'. Real images win for the
    discriminator, generated ones for the generator (Wang et al. 2018, eq. 1 and 2).
    """
    above = winners - losers.mean()
    below = losers - winners.mean()
    return 0.5 * (F.softplus(-above).mean() + F.softplus(below).mean())
