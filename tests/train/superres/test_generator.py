"""Generators: interface, radius, start at the bicubic enlargement, cost, folding, blending."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from camscribe.runtime.errors import DataError, OptionError
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.superres.config import ModelConfig, from_dict
from camscribe.train.superres.generator import Generator, InceptionBlock, folded, multiply_adds
from camscribe.train.superres.resize import resize
from camscribe.train.superres.weights import blend, load_generator

SMALL = ModelConfig(width=8, depth=2, branches=(4, 8, 4), growth=4)
KINDS = [
    replace(SMALL, generator="inception"),
    replace(SMALL, generator="srresnet"),
    replace(SMALL, generator="srresnet", batch_norm=True),
    replace(SMALL, generator="rrdb", depth=1),
    replace(SMALL, generator="rrdb", depth=1, upsampler="steps"),
    replace(SMALL, generator="inception", scale=2, upsampler="steps"),
]


def _name(config: ModelConfig) -> str:
    return f"{config.generator}-x{config.scale}-{config.upsampler}{'-norm' if config.batch_norm else ''}"


@pytest.mark.parametrize("config", KINDS, ids=_name)
def test_every_generator_enlarges_and_learns(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = Generator(config)
    made = model(torch.rand(2, 3, 7, 9))
    assert made.shape == (2, 3, 7 * config.scale, 9 * config.scale)
    made.square().mean().backward()
    assert all(value.grad is not None and torch.isfinite(value.grad).all() for value in model.parameters())


@pytest.mark.parametrize("config", KINDS, ids=_name)
def test_nothing_beyond_the_radius_matters(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = Generator(config).double().eval()
    # Gains that let the outermost pixel show in the result.
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.uniform_(module.weight, 0.1, 0.5)
    size = 2 * model.radius + 8
    pixels = torch.rand(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    middle = size // 2
    model(pixels)[0, :, middle * config.scale : (middle + 1) * config.scale].sum().backward()
    rows = pixels.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert middle - rows.min() <= model.radius
    assert rows.max() - middle <= model.radius
    if config.upsampler == "direct":
        assert middle - rows.min() == model.radius, "the radius is larger than it need be"


@pytest.mark.parametrize("scale", [2, 4])
def test_the_skip_starts_as_the_bicubic_enlargement(scale: int) -> None:
    model = Generator(replace(SMALL, scale=scale))
    small = np.random.default_rng(1).integers(40, 200, (12, 15, 3)).astype(np.uint8)
    pixels = torch.from_numpy(small).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        plain = F.pixel_shuffle(model.skip(F.pad(pixels, (2, 2, 2, 2), mode="replicate")), scale)[0]
    # MATLAB's rounds after the rows and after the columns.
    assert np.abs(plain.permute(1, 2, 0).numpy() - resize(small, float(scale))).max() < 1.7


def test_the_inception_block_has_the_three_branches() -> None:
    block = InceptionBlock(8, (4, 6, 2), residual_scale=0.2)
    assert {name: tuple(conv.kernel_size) for name, conv in block.named_children()} == {
        "ones": (1, 1),
        "threes": (3, 3),
        "rows": (1, 5),
        "columns": (5, 1),
        "fuse": (1, 1),
    }
    features = torch.rand(1, 8, 6, 6)
    with torch.no_grad():
        added = block(features) - features
        block.residual_scale = 0.1
        assert torch.allclose(block(features) - features, added / 2, atol=1e-6)


@pytest.mark.parametrize("config", KINDS, ids=_name)
def test_folding_changes_nothing(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = Generator(config).eval()
    pixels = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(folded(model)(pixels), model(pixels), atol=1e-6)


def test_multiply_adds_are_counted_by_the_small_pixel() -> None:
    config = ModelConfig(width=4, depth=1, branches=(1, 2, 1), scale=2)
    block = 4 * 1 + 4 * 2 * 9 + 4 * 5 + 1 * 5 + 4 * 4
    ends = 3 * 4 * 9 + 4 * 4 * 9 + 4 * 12 * 9
    # The skip's convolution runs on the padded image, but makes one pixel for each.
    assert multiply_adds(config) == block + ends + 3 * 12 * 25


def test_the_shipped_size_is_a_quarter_of_srresnet_at_most() -> None:
    srresnet = multiply_adds(ModelConfig("srresnet", width=64, depth=16, upsampler="steps"))
    assert 4 * multiply_adds(ModelConfig()) <= srresnet


def _checkpoint(config: ModelConfig, seed: int) -> Checkpoint:
    torch.manual_seed(seed)
    model: dict[str, Any] = dict(vars(config))
    stage = {"name": "psnr", "steps": 1}
    table = from_dict({"task": "super_resolution", "data": {"root": "x"}, "model": model, "stage": [stage]}).to_dict()
    tensors = {f"model.{name}": value for name, value in Generator(config).state_dict().items()}
    return Checkpoint(tensors, {"config": table, "history": [], "progress": {}})


def test_blending_lies_between_two_networks() -> None:
    first, second = _checkpoint(SMALL, 1), _checkpoint(SMALL, 2)
    made = blend((first, "a"), (second, "b"), 0.25)[1].state_dict()
    for name, value in made.items():
        expected = 0.75 * first.tensors[f"model.{name}"] + 0.25 * second.tensors[f"model.{name}"]
        assert torch.allclose(value, expected, atol=1e-6)


def test_weights_of_another_generator_are_refused() -> None:
    first, second = _checkpoint(SMALL, 1), _checkpoint(replace(SMALL, width=12), 2)
    with pytest.raises(DataError, match=r"b: is of another generator than a: \[model\] differs in width \(12,"):
        blend((first, "a"), (second, "b"), 0.5)
    half = _checkpoint(replace(SMALL, scale=2), 2)
    with pytest.raises(DataError, match=r"differs in scale \(2, expected 4\)$"):
        blend((first, "a"), (half, "b"), 0.5)
    with pytest.raises(OptionError, match=r"blend of 1\.5"):
        blend((first, "a"), (first, "b"), 1.5)
    mixed = Checkpoint(second.tensors, first.meta)
    with pytest.raises(DataError, match=r"mixed\.safetensors: does not fit its own configuration, .*of another shape"):
        load_generator(mixed, "mixed.safetensors")
    other = Checkpoint(_checkpoint(replace(SMALL, generator="srresnet"), 1).tensors, first.meta)
    with pytest.raises(DataError, match=r"a generator 'inception': \d+ tensors missing \(body\.0") as caught:
        load_generator(other, "other.safetensors")
    assert len(str(caught.value)) < 250
    with pytest.raises(DataError, match="task captioning"):
        load_generator(Checkpoint({}, {"config": {}}), "captioner.safetensors")
