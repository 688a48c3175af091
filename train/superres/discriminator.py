"""SRGAN's discriminator: convolutions in VGG's manner, every second halving the image (Ledig et al. 2017, fig. 4)."""

from __future__ import annotations

from torch import Tensor, nn

from camscribe.runtime.errors import OptionError

_STEPS = ((1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2))
"""(multiple of the width, stride) of each 3x3 convolution."""
_HALVED = 16


class Discriminator(nn.Module):
    """Images [B, 3, side, side] in 0..1 -> logits [B, 1], higher for real ones.

    Args:
        side: of the large patches.
        width: channels of the first convolution; 64 in SRGAN, with 16 x as many hidden units before the logit.

    Raises:
        OptionError: the patches are not a multiple of what the convolutions halve.
    """

    def __init__(self, side: int, width: int = 64) -> None:
        super().__init__()
        if side % _HALVED:
            raise OptionError(f"large patches are {side} pixels wide; a discriminator expects a multiple of {_HALVED}")
        layers: list[nn.Module] = []
        channels = 3
        for multiple, stride in _STEPS:
            norm = channels > 3
            layers.append(nn.Conv2d(channels, multiple * width, 3, stride, padding=1, bias=not norm))
            layers += [nn.BatchNorm2d(multiple * width)] if norm else []
            layers.append(nn.LeakyReLU(0.2))
            channels = multiple * width
        self.features = nn.Sequential(*layers)
        cells = (side // _HALVED) ** 2
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * cells, 16 * width), nn.LeakyReLU(0.2), nn.Linear(16 * width, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, side, side] -> [B, 1]."""
        logits: Tensor = self.classifier(self.features(images - 0.5))
        return logits
