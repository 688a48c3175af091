"""A Faster R-CNN that also tells attributes (Anderson et al. 2018, arXiv 1707.07998, section 3.1), to be trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import FrozenBatchNorm2d

from camscribe.runtime.errors import DataError
from camscribe.train.detection.config import ModelConfig
from camscribe.train.detection.scenes import Names, Targets
from camscribe.train.detection.weights import read_network

Maps = dict[str, Tensor]
_EPSILON = 1e-5
"""PyTorch's own, of batch norms."""


class AttributeHead(nn.Module):
    """Attributes of a region, from its feature and a learnt embedding of its class.

    A softmax over the attributes and "no attributes", as in the paper, behind one hidden layer, as in its code.

    Args:
        width: F of a region's feature.
        classes: without the background.
        attributes: A.
        config: its widths.
    """

    def __init__(self, width: int, classes: int, attributes: int, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes + 1, config.embedding_width)
        nn.init.normal_(self.embedding.weight, std=0.01)  # as there
        self.hidden = nn.Linear(width + config.embedding_width, config.attribute_width)
        self.output = nn.Linear(config.attribute_width, attributes + 1)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Features [N, F] and classes [N] -> log-probabilities [N, A + 1]."""
        hidden = self.hidden(torch.cat([features, self.embedding(labels)], dim=1)).relu()
        return self.output(hidden).float().log_softmax(dim=1)


class AttributeRoIHeads(RoIHeads):  # type: ignore[misc]
    """torchvision's heads with one for attributes.

    While training it is shown the sampled proposals that lie on annotated boxes, with the class of these. The loss
    ``loss_attributes`` is the cross-entropy with equal shares of all that a box has, a mean over these proposals. Else
    detections get ``attributes``, log-probabilities [N, A + 1], with the class that was found, and with targets also
    ``true_attributes``, of the boxes and classes that are true.

    Args:
        heads: torchvision's, whose parts are taken over.
        attributes: the head.
    """

    def __init__(self, heads: RoIHeads, attributes: AttributeHead) -> None:
        matcher, sampler = heads.proposal_matcher, heads.fg_bg_sampler
        super().__init__(
            heads.box_roi_pool,
            heads.box_head,
            heads.box_predictor,
            matcher.high_threshold,
            matcher.low_threshold,
            sampler.batch_size_per_image,
            sampler.positive_fraction,
            heads.box_coder.weights,
            heads.score_thresh,
            heads.nms_thresh,
            heads.detections_per_img,
        )
        self.attributes = attributes
        self._sampled: Any = None

    def select_training_samples(self, proposals: list[Tensor], targets: list[Targets] | None) -> Any:
        """torchvision's, whose choice is kept."""
        self._sampled = super().select_training_samples(proposals, targets)
        return self._sampled

    def forward(
        self,
        features: Maps,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Targets] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """As torchvision's, with attributes."""
        results, losses = super().forward(features, proposals, image_shapes, targets)
        if self.training:
            boxes, labels, wanted = self._annotated(targets or [])
            log_probs = torch.cat(self._tell(features, boxes, labels, image_shapes))
            losses["loss_attributes"] = -(wanted * log_probs).sum() / max(len(wanted), 1)
            return results, losses
        asked = {"attributes": results, **({"true_attributes": targets} if targets else {})}
        for name, items in asked.items():
            boxes, labels = ([item[key] for item in items] for key in ("boxes", "labels"))
            for result, told in zip(results, self._tell(features, boxes, labels, image_shapes), strict=True):
                result[name] = told
        return results, losses

    def _annotated(self, targets: list[Targets]) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Sampled proposals on boxes whose attributes somebody said: their places, classes and shares."""
        proposals, matched, labels, _ = self._sampled
        self._sampled = None
        chosen: list[tuple[Tensor, Tensor, Tensor]] = []
        for boxes, match, label, target in zip(proposals, matched, labels, targets, strict=True):
            on_something = label > 0
            shares = target["attributes"][match[on_something]]
            said = shares.sum(dim=1) > 0
            chosen.append((boxes[on_something][said], label[on_something][said], shares[said]))
        places, classes, wanted = zip(*chosen, strict=True)
        return list(places), list(classes), torch.cat(wanted)

    def _tell(
        self, features: Maps, boxes: list[Tensor], labels: list[Tensor], shapes: list[tuple[int, int]]
    ) -> Sequence[Tensor]:
        """Log-probabilities [N, A + 1] of each image's boxes [N, 4]. Pooled anew, as torchvision does for masks."""
        made = self.attributes(self.box_head(self.box_roi_pool(features, boxes, shapes)), torch.cat(labels))
        parts: Sequence[Tensor] = made.split([len(each) for each in boxes])
        return parts


class Batch:
    """Images and targets as one thing, into which mixed precision does not look: in half of it boxes lose pixels."""

    def __init__(self, images: list[Tensor], targets: list[Targets]) -> None:
        self.images, self.targets = images, targets


class DetectionLoss(nn.Module):
    """What a step computes: torchvision's losses, and that of attributes where the network has some."""

    def __init__(self, network: FasterRCNN) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by torchvision's names."""
        losses: dict[str, Tensor] = self.network(batch.images, batch.targets)
        return losses


def build_detector(
    config: ModelConfig, names: Names, weights: str, images: Sequence[Tensor] | None = None
) -> FasterRCNN:
    """The network to train, in torchvision's names and with what tells attributes where there are some.

    Args:
        config: its table of the configuration.
        names: classes and attributes.
        weights: in place of the configuration's.
        images: float32 [3, H, W] in 0..1, from which the statistics of random batch norms are taken: without, the
            signal of a deep backbone dies out before its end.

    Raises:
        DataError: torchvision has no such detector, or its weights cannot be read or do not fit.
    """
    network = read_network(config.detector, weights)
    # Images have the input's size already.
    network.transform.min_size = (min(config.image_height, config.image_width),)
    network.transform.max_size = max(config.image_height, config.image_width)
    if images and weights == "none":
        _settle_norms(network, images)
    _freeze_norms(network)
    heads: Any = network.roi_heads
    width = heads.box_predictor.cls_score.in_features
    heads.box_predictor = FastRCNNPredictor(width, len(names.classes) + 1)
    if names.attributes:
        head = AttributeHead(width, len(names.classes), len(names.attributes), config)
        network.roi_heads = AttributeRoIHeads(heads, head)
    return network


def train_backbone(network: FasterRCNN, trained: int) -> None:
    """Freezes all of the backbone but its last stages.

    Raises:
        DataError: it has fewer stages.
    """
    stages = list(network.backbone.body.children())
    if trained > len(stages):
        raise DataError(f"trained_backbone_stages is {trained}; the detector's backbone has {len(stages)}")
    network.requires_grad_(True)
    for stage in stages[: len(stages) - trained]:
        stage.requires_grad_(False)


@torch.no_grad()
def _settle_norms(network: FasterRCNN, images: Sequence[Tensor]) -> None:
    norms = [module for module in network.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    epsilons = [norm.eps for norm in norms]
    for norm in norms:
        norm.momentum, norm.eps = None, _EPSILON  # a mean of what it sees
    seen, _ = network.eval().transform(list(images))
    network.backbone.train()(seen.tensors)
    for norm, epsilon in zip(norms, epsilons, strict=True):  # some have 0, with which a dead channel would be no number
        norm.running_var += _EPSILON - epsilon
        norm.eps = epsilon


def _freeze_norms(module: nn.Module) -> None:
    """Batch norms become constants, as torchvision's are when it trains detectors: a few images are no statistics."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, child.eps)
            frozen.load_state_dict({key: value for key, value in child.state_dict().items() if key in frozen._buffers})
            setattr(module, name, frozen)
        else:
            _freeze_norms(child)
