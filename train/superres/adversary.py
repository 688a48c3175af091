"""What a GAN stage has beside the generator: perceptual loss, discriminator, and its optimizer."""

from __future__ import annotations

from typing import Any

import lightning_fabric
import torch
from torch import Tensor, nn

from camscribe.train.superres.config import Config, StageConfig
from camscribe.train.superres.discriminator import Discriminator
from camscribe.train.superres.losses import relativistic_average
from camscribe.train.superres.perceptual import PerceptualLoss


class Adversary:
    """Judges what the generator makes, and learns to judge better.

    Args:
        stage: weights of the losses, size and learning rate of the discriminator.
        config: of the run; says whose features the perceptual loss compares.
        fabric: launched by the caller.
    """

    def __init__(self, stage: StageConfig, config: Config, fabric: lightning_fabric.Fabric) -> None:
        self._stage, self._fabric = stage, fabric
        discriminator = Discriminator(stage.patch * config.model.scale, stage.discriminator_width)
        discriminator.to(fabric.device, memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(discriminator.parameters(), stage.discriminator_learning_rate, (0.9, 0.99))
        self.modules: dict[str, nn.Module] = {"discriminator": discriminator}
        """What is trained, by the prefix of its weights in a checkpoint."""
        self._discriminator, self._optimizer = fabric.setup(discriminator, optimizer)
        self.optimizers: dict[str, Any] = {"discriminator_optimizer": self._optimizer}
        """By the prefix of their states in a checkpoint."""
        self._perceptual = PerceptualLoss(config.features).to(fabric.device) if stage.perceptual_weight else None

    def judge(self, made: Tensor, truth: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The weighted perceptual and adversarial loss of generated images [B, 3, H, W], and what is logged."""
        self._discriminator.requires_grad_(False)
        with torch.no_grad():
            real = self._discriminator(truth)
        adversarial = relativistic_average(self._discriminator(made), real)
        loss, logged = self._stage.adversarial_weight * adversarial, {"adversarial": float(adversarial.detach())}
        if self._perceptual:
            perceptual = self._perceptual(made, truth)
            loss = loss + self._stage.perceptual_weight * perceptual
            logged["perceptual"] = float(perceptual.detach())
        return loss, logged

    def learn(self, made: Tensor, truth: Tensor, rate: float) -> dict[str, float]:
        """One step of the discriminator at a share of its peak learning rate; returns what is logged."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._stage.discriminator_learning_rate * rate
        self._discriminator.requires_grad_(True)
        loss = relativistic_average(self._discriminator(truth), self._discriminator(made))
        self._fabric.backward(loss)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return {"discriminator": float(loss.detach())}
