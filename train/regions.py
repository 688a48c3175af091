"""Bottom-up attention: an image as regions that a detector proposed (Anderson et al. 2018, arXiv 1707.07998)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from camscribe.train.config import ModelConfig
from camscribe.train.decoders.base import HIDDEN
from camscribe.train.detector import Detector, Regions

SAMPLES = 4
"""Along each side of a region, at which its feature is read before the mean."""


class Positions(NamedTuple):
    """What a decoder attends to."""

    features: Tensor
    """[B, P, C]"""
    hidden: Tensor
    """[B, P]: 0, or ``HIDDEN`` where there is nothing."""
    boxes: Tensor
    """[B, P, 4]: left, top, right, bottom, fractions of the image."""


class RegionEncoder(nn.Module):
    """The mean of the backbone's grid over each region (RoIAlign, He et al. 2017): one pass of the backbone in all.

    The first position is the whole image, which also serves an image without any detection. ``config.cells`` adds the
    grid's cells. To a region's feature come its classes' scores and its box: corners and area.

    Args:
        grid_width: width of the backbone's features.
        config: the model's table of the configuration.
    """

    def __init__(self, grid_width: int, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.detector = Detector(config)
        self.classes = config.detector_classes
        self.width = grid_width + self.classes + 5

    def find(self, images: Tensor) -> Regions:
        """uint8 [B, H, W, 3] RGB -> regions."""
        found: Regions = self.detector(images)
        return found

    def forward(self, grid: Tensor, regions: Regions) -> Positions:
        """Features [B, C', h, w] and regions [B, R, ...] -> positions."""
        images, (rows, columns) = grid.shape[0], grid.shape[2:]
        cells = [(0.0, 0.0, 1.0, 1.0)]
        seen = [grid.flatten(2).mean(dim=2, keepdim=True)]
        if self.config.cells:
            cells += [
                (x / columns, y / rows, (x + 1) / columns, (y + 1) / rows) for y in range(rows) for x in range(columns)
            ]
            seen.append(grid.flatten(2))
        fixed = torch.tensor(np.array(cells, np.float32), device=grid.device).expand(images, -1, -1)
        scale = torch.tensor([columns, rows, columns, rows], dtype=grid.dtype, device=grid.device)
        index = torch.arange(images, device=grid.device, dtype=grid.dtype).view(-1, 1, 1)
        corners = regions.boxes * scale
        rois = torch.cat([index.expand(-1, corners.shape[1], 1), corners], dim=2).flatten(0, 1)
        pooled = roi_align(grid, rois, output_size=1, spatial_scale=1.0, sampling_ratio=SAMPLES, aligned=True)
        features = torch.cat([torch.cat(seen, dim=2).transpose(1, 2), pooled.view(images, -1, grid.shape[1])], dim=1)
        boxes = torch.cat([fixed, regions.boxes], dim=1)
        classes = torch.cat([fixed.new_zeros(1).expand(images, fixed.shape[1], self.classes), regions.classes], dim=1)
        sides = boxes[:, :, 2:] - boxes[:, :, :2]
        area = sides[:, :, :1] * sides[:, :, 1:]
        hidden = torch.cat([fixed[:, :, 0] * 0, (1 - regions.shown) * HIDDEN], dim=1)
        return Positions(torch.cat([features, classes, boxes, area], dim=2), hidden, boxes)
