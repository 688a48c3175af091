"""The enhancer's network in PyTorch, as one would write it: what its graphs in ONNX Runtime are measured beside.

The weights are read from the bundle's float32 graph, so that both compute the same picture.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np

from camscribe.runtime.enhancer_bundle import EnhancerBundle
from camscribe.runtime.errors import OptionError
from camscribe.runtime.pixels import Pixels

if TYPE_CHECKING:
    from torch import Tensor

_PADDING = {"rows": (0, 2), "columns": (2, 0), "ones": 0, "fuse": 0, "skip": 0}
"""Of a convolution by the last part of its name; 1 of all others, which are 3x3."""


def why_not() -> str | None:
    """Why the network cannot be run here; None where it can."""
    missing = [name for name in ("torch", "onnx") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed" if missing else None


class TorchEnhancer:
    """An inception generator with one pixel shuffle, eager, float32.

    Args:
        bundle: the enhancer's.
        variant: of it.
        threads: of PyTorch, which is told here.

    Raises:
        OptionError: the bundle's generator is another.
    """

    def __init__(self, bundle: EnhancerBundle, variant: str, threads: int) -> None:
        import onnx
        import torch
        from onnx import numpy_helper

        kind = bundle.manifest.architecture
        if kind.get("generator") != "inception" or kind.get("upsampler") != "direct":
            raise OptionError("the network in PyTorch is written for inception generators with one pixel shuffle")
        torch.set_num_threads(threads)
        model = onnx.load(bundle.path / bundle.manifest.variants[variant]["float32"].file)
        weights: dict[str, Any] = {}
        for item in model.graph.initializer:
            name = item.name.removeprefix("generator.").removesuffix(".half")
            value = numpy_helper.to_array(item)
            if np.issubdtype(value.dtype, np.floating) and name.endswith((".weight", ".bias")):
                weights[name] = torch.from_numpy(value.astype(np.float32))
        self._weights, self._depth, self._scale = weights, int(kind["depth"]), bundle.manifest.scale

    def enlarge(self, image: Pixels) -> Pixels:
        """uint8 [h, w, 3] -> [scale h, scale w, 3]."""
        import torch
        from torch.nn import functional as F

        with torch.inference_mode():
            pixels = torch.tensor(image).permute(2, 0, 1)[None].float() / 255
            features = first = self._conv("head", pixels - 0.5)
            for block in range(self._depth):
                features = features + self._block(f"body.{block}", features)
            details = self._conv("tail", first + self._conv("join", features))
            plain = self._conv("skip", F.pad(pixels, (2, 2, 2, 2), mode="replicate"))
            made = F.pixel_shuffle(plain + details, self._scale)[0].permute(1, 2, 0)
            result: Pixels = (made * 255 + 0.5).clamp(0, 255).to(torch.uint8).numpy()
        return result

    def _block(self, name: str, features: Tensor) -> Tensor:
        import torch

        branches = (
            self._conv(f"{name}.ones", features),
            self._conv(f"{name}.threes", features),
            self._conv(f"{name}.columns", self._conv(f"{name}.rows", features)),
        )
        return self._conv(f"{name}.fuse", torch.cat([torch.relu(branch) for branch in branches], 1))

    def _conv(self, name: str, features: Tensor) -> Tensor:
        from torch.nn import functional as F

        padding = _PADDING.get(name.rpartition(".")[2], 1)
        weights = self._weights
        return F.conv2d(features, weights[f"{name}.weight"], weights.get(f"{name}.bias"), padding=padding)
