"""Non-maximum suppression as one operator of fixed shapes; export writes it in ONNX (``export/suppression.py``)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms


@torch.library.custom_op("camscribe::suppress", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, overlap: float, floor: float, most: int) -> Tensor:
    """The boxes that no better one overlaps.

    Args:
        boxes: [B, N, 4] left, top, right, bottom.
        scores: [B, N].
        overlap: intersection over union above which the worse of two boxes is dropped.
        floor: no box is left that has no higher score.
        most: best boxes that are left at most.

    Returns:
        [B, N]: 1 for a box that is left, else 0.
    """
    left = torch.zeros_like(scores)
    for image in range(len(scores)):
        kept = nms(boxes[image], scores[image], overlap)
        kept = kept[scores[image, kept] > floor][:most]
        left[image, kept] = 1
    return left


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, overlap: float, floor: float, most: int) -> Tensor:
    return torch.empty_like(scores)
