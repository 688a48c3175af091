"""The captioner: a backbone that turns pixels into a grid of features, and a decoder that turns these into words."""

from __future__ import annotations

from torch import Tensor, nn

from camscribe.train.backbone import Backbone
from camscribe.train.config import ModelConfig
from camscribe.train.decoders import make_decoder
from camscribe.train.decoders.base import Memory, State


class Captioner(nn.Module):
    """Backbone and decoder.

    Args:
        words: size of the vocabulary V.
        config: the model's table of the configuration.
        weights: overrides ``config.weights``; a checkpoint is loaded into a model built with ``none``.
    """

    def __init__(self, words: int, config: ModelConfig, weights: str | None = None) -> None:
        super().__init__()
        self.backbone = Backbone(config.backbone, config.weights if weights is None else weights, config.grid)
        self.decoder = make_decoder(words, self.backbone.width, config)

    def encode(self, images: Tensor) -> tuple[Memory, State]:
        """uint8 [B, H, W, 3] RGB -> memory and initial states [B, H]."""
        return self.decoder.memory(self.backbone(images))
