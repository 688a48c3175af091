"""The captioner: an encoder that turns pixels into features, and a decoder that turns these into words."""

from __future__ import annotations

from torch import Tensor, nn

from camscribe.train.backbone import Backbone
from camscribe.train.config import ModelConfig
from camscribe.train.decoders import make_decoder
from camscribe.train.decoders.base import Memory, State
from camscribe.train.detector import Regions
from camscribe.train.regions import Positions, RegionEncoder


class Captioner(nn.Module):
    """Backbone, what finds regions, and decoder; which encoder has which of the first two says ``config.encoder``.

    Args:
        words: size of the vocabulary V.
        config: the model's table of the configuration.
        weights: overrides ``config.weights``; a checkpoint is loaded into a model built with ``none``.
    """

    def __init__(self, words: int, config: ModelConfig, weights: str | None = None) -> None:
        super().__init__()
        self.backbone: Backbone | None = None
        self.regions: RegionEncoder | None = None
        width = 0
        if config.encoder in ("grid", "regions"):
            self.backbone = Backbone(config.backbone, config.weights if weights is None else weights, config.grid)
            width = self.backbone.width
        if config.encoder != "grid":
            self.regions = RegionEncoder(width, config)
            if weights is None and self.regions.detector is not None:
                self.regions.detector.read()
            width = self.regions.width
        self.decoder = make_decoder(words, width, config)

    def encode(self, images: Tensor) -> tuple[Memory, State]:
        """uint8 [B, H, W, 3] RGB -> memory and initial states [B, H]."""
        return self.read(self.grid(images), self.find(images))

    def grid(self, images: Tensor) -> Tensor | None:
        """The backbone's features [B, C, h, w] of uint8 [B, H, W, 3] RGB images; None for a captioner without one."""
        return None if self.backbone is None else self.backbone(images)

    def find(self, images: Tensor) -> Regions | None:
        """Regions of uint8 [B, H, W, 3] RGB images; None for a captioner that sees a grid.

        Raises:
            DataError: its regions are precomputed.
        """
        return None if self.regions is None else self.regions.find(images)

    def read(self, grid: Tensor | None, found: Regions | None) -> tuple[Memory, State]:
        """The backbone's features [B, C, h, w] and regions, which of them there are -> memory and initial states."""
        positions = self.positions(grid, found)
        if positions is not None:
            return self.decoder.start(positions.features, positions.hidden)
        if grid is None:
            raise ValueError("neither a grid nor regions to read")
        return self.decoder.start(grid.flatten(2).transpose(1, 2))

    def positions(self, grid: Tensor | None, found: Regions | None) -> Positions | None:
        """What the decoder attends to; None where that is the grid itself."""
        if self.regions is None or found is None:
            return None
        positions: Positions = self.regions(grid, found)
        return positions
