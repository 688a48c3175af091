"""torchvision's Faster R-CNNs, and their weights from its own files and from checkpoints of ``task = "detection"``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

from camscribe.runtime.errors import DataError

PREDICTOR = "roi_heads.box_predictor"
ATTRIBUTES = "roi_heads.attributes."
"""Where a network that was trained with attributes has what names them, beyond torchvision's own."""
_EPSILON = {"fasterrcnn_resnet50_fpn": 0.0}
"""Of the backbone's batch norms, where torchvision's weights were trained with another than PyTorch's own."""


def read_network(name: str, weights: str) -> FasterRCNN:
    """One of torchvision's Faster R-CNNs.

    Args:
        name: such as ``fasterrcnn_resnet50_fpn_v2``.
        weights: ``torchvision`` (downloads), ``none`` (random), or a file in torchvision's names, of any number of
            classes: safetensors, PyTorch's own without pickled code, or a checkpoint of camscribe's.

    Raises:
        DataError: torchvision has no such model, or the weights cannot be downloaded, be read, or do not fit.
    """
    known = torchvision.models.list_models(torchvision.models.detection, include="fasterrcnn_*")
    if name not in known:
        raise DataError(f"detector {name!r}: is no Faster R-CNN of torchvision's; expected one of {', '.join(known)}")
    builder = torchvision.models.get_model_builder(name)
    if weights == "torchvision":
        try:
            trained: FasterRCNN = builder(weights="DEFAULT")
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            raise DataError(
                f"detector {name!r}: torchvision's weights cannot be downloaded ({reason}); name a file in weights"
            ) from error
        return trained
    made: FasterRCNN = builder(weights=None, weights_backbone=None)
    for module in made.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = _EPSILON.get(name, module.eps)
    if weights != "none":
        _load(made, name, Path(weights))
    return made


def set_classes(network: FasterRCNN, classes: int) -> None:
    """A new last layer, where it is of another number of classes (the background among them)."""
    last: Any = network.roi_heads.box_predictor
    if last.cls_score.out_features != classes:
        network.roi_heads.box_predictor = FastRCNNPredictor(last.cls_score.in_features, classes).to(
            last.cls_score.weight.device
        )


def _load(network: FasterRCNN, name: str, path: Path) -> None:
    try:
        tensors = _tensors(path, name)
        set_classes(network, len(tensors[f"{PREDICTOR}.cls_score.weight"]))
        missing, extra = network.load_state_dict(tensors, strict=False)
    except DataError:
        raise
    except Exception as error:  # safetensors' and pickle's own kinds, and what a file of something else leads to
        raise DataError(f"{path}: cannot be read as weights of {name} ({' '.join(str(error).split()):.300})") from error
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or extra:
        raise DataError(
            f"{path}: does not fit torchvision's {name}: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(extra)} unknown {extra[:3]}"
        )


def _tensors(path: Path, name: str) -> dict[str, Tensor]:
    """A file's weights in torchvision's names; of a checkpoint that resumes, the running average where it has one."""
    from safetensors import safe_open

    if path.suffix != ".safetensors":
        kept: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return kept
    with safe_open(path, framework="pt") as file:
        said = json.loads((file.metadata() or {}).get("camscribe", "null"))
        names = list(file.keys())
        if said is None:
            return {key: file.get_tensor(key) for key in names}
        config = said.get("config", {})
        task, detector = config.get("task", "captioning"), config.get("model", {}).get("detector")
        if task != "detection" or detector != name:
            what = f"task {task}" if task != "detection" else f"detector {detector}"
            raise DataError(f"{path}: is a checkpoint of {what}; expected one of task detection and of detector {name}")
        return {
            key.removeprefix(prefix): file.get_tensor(key)
            for prefix in ("model.", "average.")
            for key in names
            if key.startswith(prefix) and not key.startswith(prefix + ATTRIBUTES)
        }
