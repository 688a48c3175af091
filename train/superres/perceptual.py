"""Differences between the features of a pretrained network, before activations."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camscribe.runtime.pixels import Pixels
from camscribe.train.backbone import Backbone
from camscribe.train.superres.config import FeaturesConfig

_CUTS = {"vgg19": (34,), "mobilenet_v2": (3, 6)}
"""Layers of ``features`` whose outputs are compared. VGG19's 34 is conv5_4 before its activation (ESRGAN, sec. 3.2);
MobileNetV2's are the linear outputs of its blocks at 1/4 and 1/8 of the size."""


class PerceptualLoss(nn.Module):
    """Mean absolute difference of two images' features, averaged over the levels compared.

    Raises:
        DataError: the weights are not to be had, or are of another network.
    """

    def __init__(self, config: FeaturesConfig) -> None:
        super().__init__()
        self.cuts = _CUTS[config.network]
        backbone = Backbone(config.network, config.weights)
        self.stages = backbone.stages[: self.cuts[-1] + 1].requires_grad_(False)
        self.register_buffer("mean", backbone.mean / 255, persistent=False)
        self.register_buffer("std", backbone.std / 255, persistent=False)
        self.eval()

    def features(self, images: Tensor) -> list[Tensor]:
        """float [B, 3, H, W] in 0..1 -> one tensor a level."""
        made = []
        images = (images - self.mean) / self.std
        for index, stage in enumerate(self.stages):
            images = stage(images)
            if index in self.cuts:
                made.append(images)
        return made

    def forward(self, made: Tensor, truth: Tensor) -> Tensor:
        """The loss of generated images beside the true ones, [B, 3, H, W] in 0..1."""
        with torch.no_grad():
            wanted = self.features(truth)
        pairs = zip(self.features(made), wanted, strict=True)
        return torch.stack([F.l1_loss(own, other) for own, other in pairs]).mean()


LPIPS_SMALLEST = 31
"""Rows and columns that AlexNet needs: of less, nothing is left after its second pooling."""


def lpips_metric() -> tuple[Callable[[Pixels, Pixels], float] | None, str]:
    """LPIPS (Zhang et al. 2018, version 0.1) of two uint8 images [H, W, 3], or None and why it cannot be had.

    Nothing is downloaded: the package ``lpips`` brings the weights of the levels, and AlexNet's lie where torchvision
    keeps what it downloads.
    """
    if importlib.util.find_spec("lpips") is None:
        return None, "the package lpips is not installed: pip install lpips"
    from torchvision.models import AlexNet_Weights

    url = AlexNet_Weights.IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        return None, f"AlexNet's weights are not there: put {url} into {path.parent}"
    try:
        network = _lpips(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # whatever a damaged file makes the unpickler raise
        return None, f"{path}: is not AlexNet's weights ({' '.join(str(error).split()):.120}); download it again: {url}"

    @torch.no_grad()
    def distance(made: Pixels, truth: Pixels) -> float:
        own, other = (torch.tensor(image).permute(2, 0, 1)[None].float() / 127.5 - 1 for image in (made, truth))
        return float(network(own, other))

    return distance, ""


def _lpips(backbone: Mapping[str, Tensor]) -> nn.Module:
    """The package's network with AlexNet's weights in torchvision's names; by itself it would download them."""
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision and torch in ways of their past
        network: nn.Module = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    features = network.get_submodule("net")
    # slice2.3.weight there is features.3.weight in torchvision.
    features.load_state_dict({name: backbone[f"features.{name.partition('.')[2]}"] for name in features.state_dict()})
    return network.eval()
