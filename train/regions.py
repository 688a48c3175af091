"""Bottom-up attention: an image as regions that a detector proposed (Anderson et al. 2018, arXiv 1707.07998)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from camscribe.runtime.errors import DataError
from camscribe.train.config import ModelConfig
from camscribe.train.decoders.base import HIDDEN
from camscribe.train.detector import Detector, Regions, numbered
from camscribe.train.faster_rcnn import FasterRcnn

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
    """Regions as positions. A region's feature is the mean of the backbone's grid over it, where there is a backbone
    (RoIAlign, He et al. 2017; one pass of the backbone in all), what the finder knows of it, and its box: corners and
    area.

    The first position is the whole image, which also serves an image without any detection: the mean of the grid, or
    of the regions where there is none. ``config.cells`` adds the grid's cells.

    Args:
        grid_width: width of the backbone's features; 0 where there is no backbone.
        config: the model's table of the configuration.

    Raises:
        DataError: its settings have no meaning.
    """

    def __init__(self, grid_width: int, config: ModelConfig) -> None:
        super().__init__()
        if config.cells and not grid_width:
            raise DataError(f"model: cells are of a backbone's grid, and encoder {config.encoder} has no backbone")
        if config.regions < 1:
            raise DataError("model: regions is 0; expected at least 1")
        self.config = config
        self.detector: Detector | FasterRcnn | None = None
        if config.encoder == "regions":
            self.detector = Detector(config)
        elif config.encoder == "faster_rcnn":
            self.detector = FasterRcnn(config)
        self.found_width = config.feature_width if self.detector is None else self.detector.width
        self.width = grid_width + self.found_width + 5

    def find(self, images: Tensor) -> Regions:
        """uint8 [B, H, W, 3] RGB -> regions.

        Raises:
            DataError: they are precomputed.
        """
        if self.detector is None:
            raise DataError(
                "this captioner attends to precomputed features and has no encoder of pixels; train one with encoder = "
                '"regions" or "faster_rcnn" for captions of images'
            )
        found: Regions = self.detector(images)
        return found

    def forward(self, grid: Tensor | None, regions: Regions) -> Positions:
        """Features [B, C', h, w] and regions [B, R, ...] -> positions."""
        places = regions.boxes.new_tensor(np.array(self._cells(grid), np.float32))
        fixed = places.expand(regions.boxes.shape[0], -1, -1)
        boxes = torch.cat([fixed, regions.boxes], dim=1)
        sides = boxes[:, :, 2:] - boxes[:, :, :2]
        area = sides[:, :, :1] * sides[:, :, 1:]
        hidden = torch.cat([fixed[:, :, 0] * 0, (1 - regions.shown) * HIDDEN], dim=1)
        if grid is None:
            parts = [torch.cat([_mean(regions), regions.features], dim=1)]
        else:
            nothing = fixed.new_zeros(1).expand(fixed.shape[0], fixed.shape[1], self.found_width)
            parts = [self._pooled(grid, regions), torch.cat([nothing, regions.features], dim=1)]
        return Positions(torch.cat([*parts, boxes, area], dim=2), hidden, boxes)

    def _cells(self, grid: Tensor | None) -> list[tuple[float, float, float, float]]:
        """Boxes of the positions before the regions."""
        whole = (0.0, 0.0, 1.0, 1.0)
        if grid is None or not self.config.cells:
            return [whole]
        rows, columns = grid.shape[2:]
        cells = [
            (x / columns, y / rows, (x + 1) / columns, (y + 1) / rows) for y in range(rows) for x in range(columns)
        ]
        return [whole, *cells]

    def _pooled(self, grid: Tensor, regions: Regions) -> Tensor:
        """The grid's features at all positions, [B, P, C']."""
        images, (rows, columns) = grid.shape[0], grid.shape[2:]
        seen = [grid.flatten(2).mean(dim=2, keepdim=True)]
        if self.config.cells:
            seen.append(grid.flatten(2))
        scale = torch.tensor([columns, rows, columns, rows], dtype=grid.dtype, device=grid.device)
        rois = numbered(regions.boxes * scale)
        pooled = roi_align(grid, rois, output_size=1, spatial_scale=1.0, sampling_ratio=SAMPLES, aligned=True)
        return torch.cat([torch.cat(seen, dim=2).transpose(1, 2), pooled.view(images, -1, grid.shape[1])], dim=1)


def _mean(regions: Regions) -> Tensor:
    """Of the features that are shown: [B, 1, N]; zeros where none is."""
    shown = regions.shown.unsqueeze(2)
    return (regions.features * shown).sum(dim=1, keepdim=True) / shown.sum(dim=1, keepdim=True).clamp(min=1)
