"""Generators: SRResNet's, ESRGAN's and inception-residual blocks between one head and one tail.

Everything but the tail of ``upsampler = "steps"`` runs at the small size. A generator adds to a bicubic enlargement,
which is one 5x5 convolution here: its weights start as the cubic kernel of every phase, and are trained with the rest.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camscribe.train.superres.config import ModelConfig
from camscribe.train.superres.resize import cubic

_SKIP = 5
"""Taps that a bicubic enlargement can need in each axis: four a phase, of two neighbouring positions."""
_RGB = 3


class ResidualBlock(nn.Module):
    """SRResNet's block: two 3x3 convolutions around a PReLU; batch norms where asked for (Ledig et al. 2017)."""

    def __init__(self, width: int, residual_scale: float, batch_norm: bool) -> None:
        super().__init__()
        norms = [nn.BatchNorm2d(width) if batch_norm else nn.Identity() for _ in range(2)]
        first, second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.body = nn.Sequential(first, norms[0], nn.PReLU(width), second, norms[1])
        self.residual_scale = residual_scale

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] -> the same."""
        return torch.add(features, self.body(features), alpha=self.residual_scale)


def fold_scale(last: nn.Conv2d, residual_scale: float) -> float:
    """Moves a block's residual scale into its last convolution; returns what is left of it."""
    with torch.no_grad():
        last.weight.mul_(residual_scale)
        if last.bias is not None:
            last.bias.mul_(residual_scale)
    return 1.0


class DenseBlock(nn.Module):
    """Five densely connected 3x3 convolutions (Wang et al. 2018, fig. 4)."""

    def __init__(self, width: int, growth: int, residual_scale: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(width + step * growth, growth if step < 4 else width, 3, padding=1) for step in range(5)
        )
        self.residual_scale = residual_scale

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] -> the same."""
        seen = [features]
        for conv in self.convs[:-1]:
            seen.append(F.leaky_relu(conv(torch.cat(seen, 1)), 0.2))
        return torch.add(features, self.convs[-1](torch.cat(seen, 1)), alpha=self.residual_scale)

    def fold(self) -> None:
        """Folds the residual scale into the last convolution, for export."""
        last = self.convs[-1]
        assert isinstance(last, nn.Conv2d)
        self.residual_scale = fold_scale(last, self.residual_scale)


class ResidualDenseBlock(nn.Module):
    """Three dense blocks in a residual (ESRGAN's RRDB)."""

    def __init__(self, width: int, growth: int, residual_scale: float) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(width, growth, residual_scale) for _ in range(3)))
        self.residual_scale = residual_scale

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] -> the same."""
        return torch.add(features, self.blocks(features), alpha=self.residual_scale)


class InceptionBlock(nn.Module):
    """Parallel 1x1, 3x3 and factorised 5x5 branches, concatenated, fused by a 1x1 convolution and added, scaled.

    After Inception-ResNet (Szegedy et al. 2016), without its batch norms and without 1x1 reductions before the
    branches: on CPUs those cost more time than the multiplications they save.
    """

    def __init__(self, width: int, branches: tuple[int, ...], residual_scale: float) -> None:
        super().__init__()
        ones, threes, fives = branches
        self.ones = nn.Conv2d(width, ones, 1)
        self.threes = nn.Conv2d(width, threes, 3, padding=1)
        self.rows = nn.Conv2d(width, fives, (1, 5), padding=(0, 2))
        self.columns = nn.Conv2d(fives, fives, (5, 1), padding=(2, 0))
        self.fuse = nn.Conv2d(sum(branches), width, 1)
        self.residual_scale = residual_scale

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] -> the same."""
        branches = (self.ones(features), self.threes(features), self.columns(self.rows(features)))
        joined = torch.cat([F.relu(branch) for branch in branches], 1)
        return torch.add(features, self.fuse(joined), alpha=self.residual_scale)

    def fold(self) -> None:
        """Folds the residual scale into the last convolution, for export."""
        self.residual_scale = fold_scale(self.fuse, self.residual_scale)


class Generator(nn.Module):
    """Small RGB images to large ones.

    Attributes:
        scale: enlargement in each axis.
        radius: how many pixels of the small image around a pixel its enlargement can depend on.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.scale = config, config.scale
        width = config.width
        self.head = nn.Conv2d(_RGB, width, 3, padding=1)
        self.body = nn.Sequential(*(_block(config) for _ in range(config.depth)))
        self.join = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Conv2d(_RGB, _RGB * self.scale**2, _SKIP, bias=False)
        if config.upsampler == "direct":
            self.tail: nn.Module = nn.Conv2d(width, _RGB * self.scale**2, 3, padding=1)
            last = self.tail
        else:
            steps: list[nn.Module] = []
            for _ in range(int(math.log2(self.scale))):
                steps += [nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.LeakyReLU(0.2)]
            last = nn.Conv2d(width, _RGB, 3, padding=1)
            self.tail = nn.Sequential(*steps, last)
        self.radius = _radius(config)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()
            self.skip.weight.copy_(_bicubic_weights(self.scale))

    def forward(self, pixels: Tensor) -> Tensor:
        """float [B, 3, h, w] in 0..1 -> [B, 3, scale h, scale w], not clipped."""
        features = self.head(pixels - 0.5)
        details = self.tail(features + self.join(self.body(features)))
        plain = self.skip(F.pad(pixels, (_SKIP // 2,) * 4, mode="replicate"))
        if self.config.upsampler == "direct":
            return F.pixel_shuffle(plain + details, self.scale)
        return F.pixel_shuffle(plain, self.scale) + details


def folded(generator: Generator) -> Generator:
    """A copy with the residual scales folded into convolutions, which computes the same in fewer operations."""
    made = copy.deepcopy(generator).eval()
    for module in list(made.modules()):
        if isinstance(module, InceptionBlock | DenseBlock):
            module.fold()
    return made


def _block(config: ModelConfig) -> nn.Module:
    if config.generator == "srresnet":
        return ResidualBlock(config.width, config.residual_scale, config.batch_norm)
    if config.generator == "rrdb":
        return ResidualDenseBlock(config.width, config.growth, config.residual_scale)
    return InceptionBlock(config.width, config.branches, config.residual_scale)


def _radius(config: ModelConfig) -> int:
    per_block = {"srresnet": 2, "rrdb": 15, "inception": 2}[config.generator]
    tail = 1 if config.upsampler == "direct" else 2
    return 2 + per_block * config.depth + tail


def _bicubic_weights(scale: int) -> Tensor:
    """[3 scale^2, 3, 5, 5]: each phase's cubic kernel, in the order of a pixel shuffle's channels."""
    taps = torch.arange(_SKIP) - _SKIP // 2
    phases = (torch.arange(scale) + 0.5) / scale - 0.5
    axis = torch.from_numpy(cubic((phases[:, None] - taps[None, :]).numpy())).float()
    kernels = torch.einsum("yi,xj->yxij", axis, axis).flatten(0, 1)
    weights = torch.zeros(_RGB, scale**2, _RGB, _SKIP, _SKIP)
    for color in range(_RGB):
        weights[color, :, color] = kernels
    return weights.flatten(0, 1)


def multiply_adds(config: ModelConfig) -> int:
    """Multiply-adds for one pixel of the small image, convolutions alone."""
    total = 0

    def count(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        total += module.weight[0].numel() * made.numel()

    model, side = Generator(config).eval(), 16
    hooks = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        model(torch.zeros(1, _RGB, side, side))
    for hook in hooks:
        hook.remove()
    return total // side**2
