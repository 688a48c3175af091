"""A classification model of torchvision or timm as a grid encoder: stages, the first of which may stay frozen."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from camscribe.runtime.errors import DataError
from camscribe.train import timm_models
from camscribe.train.fitting import load_fitting

# ImageNet's, which all torchvision weights and their kin expect of RGB in 0..1.
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)


CAFFE = "caffe_"
"""Before the name of a ResNet: with the strides of the original, in Caffe."""


class Backbone(nn.Module):
    """Stages that turn pixels into a grid of features.

    Batch norms are folded into the convolutions: fine-tuning on small batches keeps their statistics anyway, and a
    folded network trains and runs faster.

    Args:
        name: a torchvision classification model, of a ResNet also with ``caffe_`` before it; or one of timm's, with
            ``timm/`` before it.
        weights: ``torchvision``, ``timm``, ``none``, a safetensors file in torchvision's names (of the whole model, or
            of its ``features`` alone) or timm's, or a checkpoint of camscribe's.
        grid: rows and columns that the grid is averaged (or spread) to; 0 keeps the network's own.

    Raises:
        DataError: no such model, its features are not a grid, or the weights do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, weights: str = "none", grid: int = 0) -> None:
        super().__init__()
        self.grid = grid
        own = _own_weights(weights)
        used = weights if own is None else "none"
        if name.startswith(timm_models.PREFIX):
            model = timm_models.make(name, used)
            mean, std = timm_models.pixel_statistics(model)
            self.stages = nn.Sequential(*timm_models.grid_stages(model))
        else:
            model = _torchvision_model(name, used)
            mean, std = PIXEL_MEAN, PIXEL_STD
            self.stages = nn.Sequential(*_grid_stages(model))
        self.eval()
        fold_batch_norms(self.stages)
        if own is not None:
            try:
                self.stages.load_state_dict(own)
            except RuntimeError as error:
                raise DataError(
                    f"{weights}: has another backbone than {name} ({' '.join(str(error).split())})"
                ) from error
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)
        self.width = self._probe(name)

    def _probe(self, name: str) -> int:
        try:
            with torch.no_grad():
                grid = self(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
        except Exception as error:
            raise DataError(f"backbone {name}: its stages do not run one after the other ({error})") from error
        if grid.dim() != 4:
            raise DataError(
                f"backbone {name}: makes features of shape {tuple(grid.shape)}, expected a grid [B, C, h, w]"
            )
        return int(grid.shape[1])

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] RGB -> features [B, C, h, w]."""
        return self.trunk(self.stem(images, 0), 0)

    def stem(self, images: Tensor, trained: int) -> Tensor:
        """uint8 [B, H, W, 3] RGB -> what the last ``trained`` stages take."""
        pixels = (images.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.std
        for stage in self.stages[: len(self.stages) - trained]:
            pixels = stage(pixels)
        return pixels

    def trunk(self, features: Tensor, trained: int) -> Tensor:
        """Runs the last ``trained`` stages, and brings the grid to its size."""
        for stage in self.stages[len(self.stages) - trained :]:
            features = stage(features)
        return average_grid(features, self.grid) if self.grid else features

    def trunk_parameters(self, trained: int) -> Iterator[nn.Parameter]:
        """Parameters of the last ``trained`` stages."""
        for stage in self.stages[len(self.stages) - trained :]:
            yield from stage.parameters()


def average_grid(grid: Tensor, side: int) -> Tensor:
    """``nn.AdaptiveAvgPool2d(side)`` as a matrix product, because ONNX has no pooling from 8 cells to 14.

    Features [B, C, h, w] -> [B, C, side, side].
    """
    rows, columns = (_averages(size, side) for size in grid.shape[2:])
    weights = torch.from_numpy(np.kron(rows, columns)).to(grid)
    return (grid.flatten(2) @ weights.T).unflatten(2, (side, side))


def _averages(size: int, cells: int) -> npt.NDArray[np.float32]:
    """[cells, size] weights with which each of ``cells`` averages what it covers of ``size``."""
    weights = np.zeros((cells, size), np.float32)
    for cell in range(cells):
        begin, end = cell * size // cells, -(-(cell + 1) * size // cells)
        weights[cell, begin:end] = 1 / (end - begin)
    return weights


def _torchvision_model(name: str, weights: str) -> nn.Module:
    plain = name.removeprefix(CAFFE)
    caffe = plain != name
    try:
        builder = torchvision.models.get_model_builder(plain)
    except ValueError as error:
        raise DataError(f"backbone {name!r}: torchvision has no such model") from error
    if caffe and not plain.startswith("resnet"):
        raise DataError(f"backbone {name!r}: only ResNets have Caffe's strides, such as {CAFFE}resnet101")
    if caffe and weights == "torchvision":
        raise DataError(f"backbone {name!r}: torchvision has no weights for Caffe's strides; name a file of them")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Inception and GoogLeNet warn about their own initialisation.
        try:
            model: nn.Module = builder(weights="DEFAULT" if weights == "torchvision" else None)
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            raise DataError(
                f"backbone {name!r}: torchvision's weights cannot be downloaded ({reason}); name a file in weights"
            ) from error
    if caffe:
        _caffe_strides(model)
    if weights not in ("torchvision", "none"):
        _load_local(model, name, Path(weights))
    return model


def _own_weights(weights: str) -> dict[str, Tensor] | None:
    """The stages of a checkpoint of camscribe's; None where ``weights`` names none."""
    from safetensors import SafetensorError, safe_open

    if weights in ("torchvision", "timm", "none") or not weights.endswith(".safetensors"):
        return None
    prefix = "model.backbone.stages."
    try:
        with safe_open(weights, framework="pt") as file:
            if "camscribe" not in (file.metadata() or {}):
                return None
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (not a mapping)
            return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{weights}: cannot be read as safetensors weights ({error})") from error


def _caffe_strides(model: Any) -> None:
    """The first convolution of a stage halves the size, not the second (He et al. 2016), and pooling rounds up."""
    model.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)


def _load_local(model: nn.Module, name: str, path: Path) -> None:
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except Exception as error:
        raise DataError(f"{path}: cannot be read as safetensors weights of {name} ({error})") from error
    target: Any = model
    own = set(model.state_dict())
    if not set(tensors) & own and hasattr(model, "features"):
        target = model.features
    load_fitting(target, tensors, f"{path}: does not fit torchvision's {name}", _is_head)


_NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)
_CONVOLUTIONS = ("Conv2d", "Conv2dSame")
_IN_ORDER = ("BasicBlock", "Bottleneck", "ConvBnAct", "ConvNormAct", "DepthwiseSeparableConv", "InvertedResidual")
"""Of torchvision's and timm's blocks, those that name their children in the order in which they run."""
_HEADS = ("classifier", "fc", "head", "heads")


def _is_head(key: str) -> bool:
    return key.split(".")[0] in _HEADS


def _grid_stages(model: nn.Module) -> Iterator[nn.Module]:
    """The children up to the pooling, with a ``features`` container taken apart."""
    for name, child in model.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d) or _is_head(name) or name in ("avgpool", "dropout"):
            return
        if name == "features" and isinstance(child, nn.Sequential):
            yield from child.children()
        elif not name.startswith(("aux", "AuxLogits")):
            yield child


def fold_batch_norms(module: nn.Module) -> None:
    """Folds every batch norm that directly follows a convolution among its parent's children."""
    for child in module.children():
        fold_batch_norms(child)
    names = list(module._modules)
    for first, second in itertools.pairwise(names):
        conv, norm = module._modules[first], module._modules[second]
        if type(conv).__name__ in _CONVOLUTIONS and isinstance(norm, _NORMS) and _in_order(module):
            module._modules[first] = fuse_conv_bn_eval(conv, norm)
            module._modules[second] = getattr(norm, "act", nn.Identity())  # timm's norms hold what follows them


def _in_order(module: nn.Module) -> bool:
    """Whether children run in the order of their names."""
    return type(module).__name__ in _IN_ORDER or isinstance(module, nn.Sequential | IntermediateLayerGetter)
