"""A Faster R-CNN of torchvision's as what finds regions: bottom-up attention as in Anderson et al. 2018
(arXiv 1707.07998, section 3.1), from pixels to regions in fixed shapes, so that it becomes part of one ONNX graph.

torchvision's own forward (Ren et al. 2015, arXiv 1506.01497; Lin et al. 2017, arXiv 1612.03144) has as many proposals
as are left; here there are always the same number, of which some may be padding. Where both algorithms are the same the
numbers are, which the tests check. The detector is frozen.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.ops import roi_align

from camscribe.runtime.errors import DataError
from camscribe.train.backbone import fold_batch_norms
from camscribe.train.config import ModelConfig
from camscribe.train.detection.weights import PREDICTOR, read_network, set_classes
from camscribe.train.detector import REGION_SETTINGS, Regions, best_regions, check_counts, numbered
from camscribe.train.suppression import suppress

STRIDE = 32
"""Of the coarsest map that is upsampled, pixels; torchvision pads images to whole multiples of it."""
SMALLEST = 1e-2
"""Shortest side of a region, pixels, as torchvision has it."""

Maps = dict[str, Tensor]


class Proposals(NamedTuple):
    """Where something may be: N an image, best first, padded."""

    boxes: Tensor
    """[B, N, 4], pixels."""
    real: Tensor
    """[B, N]: 1 for a proposal, 0 for padding."""


class FasterRcnn(nn.Module):
    """torchvision's Faster R-CNN ``config.detector`` and what makes regions of its boxes.

    A region's box is that of its best class; of those that non-maximum suppression leaves, whatever their class, are
    kept those whose score is above the threshold, but at least ``min_regions`` and at most ``regions``, as in Anderson
    et al. 2018. A region's feature is what the head makes of its proposal: the paper's head is convolutional (ResNet's
    last stage) and so is averaged over its cells; torchvision's heads end in linear layers, whose output it is.

    Args:
        config: the model's table of the configuration.

    Raises:
        DataError: its settings have no meaning, or torchvision has no such detector.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        check_counts(config, config.proposals, "proposals")
        if config.image_height % STRIDE or config.image_width % STRIDE:
            raise DataError(
                f"model: image_height and image_width are {config.image_height} and {config.image_width}; a Faster "
                f"R-CNN takes whole multiples of {STRIDE}"
            )
        self.config = config
        self._anchors: dict[Any, list[Tensor]] = {}
        self._take(read_network(config.detector, "none"))

    def read(self) -> None:
        """Takes the weights that ``config.weights`` names.

        Raises:
            DataError: they cannot be read, or do not fit.
        """
        if self.config.weights != "none":
            self._take(read_network(self.config.detector, self.config.weights))

    @property
    def width(self) -> int:
        """Width N of a region's feature."""
        return int(self.network.roi_heads.box_predictor.cls_score.in_features)

    @property
    def fingerprint(self) -> bytes:
        """All that decides what is found."""
        settings = {name: getattr(self.config, name) for name in (*REGION_SETTINGS, "detector", "proposals")}
        digest = hashlib.sha256(json.dumps(settings).encode())
        for name, value in self.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().numpy().tobytes())
        return digest.digest()

    def train(self, mode: bool = True) -> FasterRcnn:
        """Stays in evaluation mode: it is frozen."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Regions:
        """uint8 [B, H, W, 3] RGB -> regions."""
        height, width = images.shape[1:3]
        maps = self.maps(images)
        proposals = self.propose(maps, height, width)
        features = self.features(maps, proposals.boxes, height)
        boxes, scores = self.judge(features, proposals, height, width)
        size = boxes.new_tensor([width, height, width, height])
        return best_regions(boxes / size, scores, features, self.config, floor=0.0)

    def maps(self, images: Tensor) -> Maps:
        """uint8 [B, H, W, 3] RGB -> the pyramid's features [B, C, h, w] by name, the finest first. The image has its
        size already; torchvision's would resize it here."""
        transform = self.network.transform
        mean, std = (
            images.new_tensor(value, dtype=torch.float32).view(1, 3, 1, 1) * 255
            for value in (transform.image_mean, transform.image_std)
        )
        pixels = (images.permute(0, 3, 1, 2).to(mean.dtype) - mean) / std
        made: Maps = self.network.backbone(pixels)
        return made

    def propose(self, maps: Maps, height: int, width: int) -> Proposals:
        """The region proposal network: the best anchors of every level, moved, without those that overlap a better one
        of their level."""
        rpn = self.network.rpn
        objectness, deltas = rpn.head(list(maps.values()))
        found_boxes, found_scores, shifts = [], [], []
        anchors = self._anchors_of(maps, height, width)
        for level, (logits, moves, places) in enumerate(zip(objectness, deltas, anchors, strict=True)):
            kinds = logits.shape[1]
            logits = logits.permute(0, 2, 3, 1).flatten(1)
            moves = moves.unflatten(1, (kinds, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
            best, order = logits.topk(min(rpn._pre_nms_top_n["testing"], logits.shape[1]), dim=1)
            moves = moves.gather(1, order.unsqueeze(2).expand(-1, -1, 4))
            boxes = _clipped(_moved(moves, places[order], rpn.box_coder), height, width)
            score = best.sigmoid()
            good = (_shortest(boxes) >= rpn.min_size) & (score >= rpn.score_thresh)
            found_boxes.append(boxes)
            found_scores.append(score * good.to(score.dtype))
            # Boxes of two levels never overlap once each level is moved to a place of its own.
            shifts.append(score.new_full((score.shape[1], 1), level * (max(height, width) + 1.0)))
        all_boxes, all_scores = torch.cat(found_boxes, dim=1), torch.cat(found_scores, dim=1)
        most = min(self.config.proposals, rpn._post_nms_top_n["testing"], all_scores.shape[1])
        left = suppress(all_boxes + torch.cat(shifts), all_scores, rpn.nms_thresh, 0.0, most)
        score, order = (all_scores * left).topk(most, dim=1)
        boxes = all_boxes.gather(1, order.unsqueeze(2).expand(-1, -1, 4))
        return Proposals(boxes, (score > 0).to(score.dtype))

    def features(self, maps: Maps, boxes: Tensor, height: int) -> Tensor:
        """What the head makes of boxes [B, N, 4], pixels, of images ``height`` pixels high: [B, N, F]. Each is read
        from the level that fits its size (Lin et al. 2017, eq. 1)."""
        heads = self.network.roi_heads
        pool = heads.box_roi_pool
        read = [maps[name] for name in pool.featmap_names if name in maps]
        finest, coarsest = (_log_stride(read[end], height) for end in (0, -1))
        rois = numbered(boxes)
        area = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
        pooled: Tensor | None = None
        for level in range(finest, coarsest + 1):
            grid = read[level - finest]
            here = roi_align(grid, rois, pool.output_size, 0.5 ** _log_stride(grid, height), pool.sampling_ratio)
            # floor(k0 + log2(sqrt(area) / s0) + 1e-6) >= level, without a logarithm.
            least = pool.canonical_scale * 2 ** (level - pool.canonical_level - 1e-6)
            far = (area >= least**2).view(-1, 1, 1, 1)
            pooled = here if pooled is None else torch.where(far, here, pooled)
        made: Tensor = heads.box_head(pooled)
        made = made.flatten(2).mean(dim=2) if made.dim() == 4 else made
        return made.view(boxes.shape[0], boxes.shape[1], -1)

    def judge(self, features: Tensor, proposals: Proposals, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Features [B, N, F] -> boxes of their best classes [B, N, 4], pixels, and scores [B, N], 0 for padding."""
        heads = self.network.roi_heads
        logits, moves = heads.box_predictor(features.flatten(0, 1))
        score, best = logits.softmax(dim=1)[:, 1:].max(dim=1)
        moves = moves.unflatten(1, (-1, 4)).gather(1, (best + 1).view(-1, 1, 1).expand(-1, 1, 4)).squeeze(1)
        boxes = _clipped(_moved(moves, proposals.boxes.flatten(0, 1), heads.box_coder), height, width)
        score = score * (_shortest(boxes) >= SMALLEST).to(score.dtype)
        images = proposals.boxes.shape[0]
        return boxes.view(images, -1, 4), score.view(images, -1) * proposals.real

    def _anchors_of(self, maps: Maps, height: int, width: int) -> list[Tensor]:
        """Of every level, [h * w * kinds, 4] pixels; constants of an image's size, which are made once."""
        sizes = [(int(each.shape[2]), int(each.shape[3])) for each in maps.values()]
        device = next(iter(maps.values())).device
        key = (height, width, *sizes, str(device))
        if key not in self._anchors:
            generator = self.network.rpn.anchor_generator
            strides = [
                [torch.tensor(height // h, device=device), torch.tensor(width // w, device=device)] for h, w in sizes
            ]
            generator.set_cell_anchors(torch.float32, device)
            self._anchors[key] = generator.grid_anchors(sizes, strides)
        return self._anchors[key]

    def _take(self, network: FasterRCNN) -> None:
        self.network = network.eval().requires_grad_(False)
        fold_batch_norms(self.network)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        kept = state_dict.get(f"{prefix}network.{PREDICTOR}.cls_score.weight")
        if kept is not None:  # it knows whatever classes its file did
            set_classes(self.network, len(kept))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _moved(moves: Tensor, boxes: Tensor, coder: Any) -> Tensor:
    """Boxes [..., 4] moved by what a network says (Girshick et al. 2014, appendix C)."""
    moves = moves / moves.new_tensor(coder.weights)
    sides = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + 0.5 * sides + moves[..., :2] * sides
    half = 0.5 * moves[..., 2:].clamp(max=coder.bbox_xform_clip).exp() * sides
    return torch.cat([centre - half, centre + half], dim=-1)


def _clipped(boxes: Tensor, height: int, width: int) -> Tensor:
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def _shortest(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).amin(dim=-1)


def _log_stride(grid: Tensor, height: int) -> int:
    """2 to its power is the stride of a level, pixels."""
    return (height // int(grid.shape[2])).bit_length() - 1
