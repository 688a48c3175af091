"""Backbones: batch norms folded exactly, stages that split anywhere, weights that must fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from camscribe.runtime.errors import DataError
from camscribe.train.backbone import PIXEL_MEAN, PIXEL_STD, Backbone, average_grid


def _unfolded(name: str, path: Path) -> torch.nn.Module:
    """torchvision's model with random batch-norm statistics, saved to ``path``."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return model


@pytest.mark.parametrize(("name", "truth"), [("mobilenet_v2", "features"), ("resnet18", "trunk")])
@torch.no_grad()
def test_folded_features_equal_torchvisions(tmp_path: Path, name: str, truth: str) -> None:
    model = _unfolded(name, tmp_path / "w.safetensors")
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    pixels = images.permute(0, 3, 1, 2) / 255
    pixels = (pixels - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)
    if truth == "features":
        expected = model.features(pixels)
    else:
        expected = torch.nn.Sequential(*list(model.children())[:-2])(pixels)
    backbone = Backbone(name, str(tmp_path / "w.safetensors"))
    torch.testing.assert_close(backbone(images), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in backbone.modules())
    assert backbone.width == expected.shape[1]


@torch.no_grad()
def test_stem_and_trunk_make_the_whole_wherever_it_is_cut() -> None:
    backbone = Backbone("shufflenet_v2_x0_5")
    images = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    for trained in range(len(backbone.stages) + 1):
        torch.testing.assert_close(backbone.trunk(backbone.stem(images, trained), trained), backbone(images))


@pytest.mark.parametrize("name", ["efficientnet_b0", "convnext_tiny", "regnet_y_400mf", "squeezenet1_1", "swin_t"])
def test_other_families_give_a_grid(name: str) -> None:
    backbone = Backbone(name)
    with torch.no_grad():
        assert backbone(torch.zeros(1, 64, 64, 3, dtype=torch.uint8)).shape[:2] == (1, backbone.width)


def test_a_network_without_a_grid_is_refused() -> None:
    with pytest.raises(DataError, match="vit_b_16"):
        Backbone("vit_b_16")


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(DataError, match="no such model"):
        Backbone("mobilenet_v9")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file({"0.0.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match="does not fit torchvision's mobilenet_v2"):
        Backbone("mobilenet_v2", str(tmp_path / "w.safetensors"))


def test_weights_that_cannot_be_downloaded_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(DataError, match=r"'squeezenet1_1': torchvision's weights cannot be downloaded \(.*name a file"):
        Backbone("squeezenet1_1", "torchvision")


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        Backbone("mobilenet_v2", str(tmp_path / "none.safetensors"))


@pytest.mark.parametrize(("rows", "columns", "side"), [(8, 8, 14), (7, 7, 14), (10, 6, 4), (5, 9, 9)])
def test_average_grid_equals_adaptive_pooling(rows: int, columns: int, side: int) -> None:
    torch.manual_seed(0)
    grid = torch.randn(2, 3, rows, columns)
    torch.testing.assert_close(average_grid(grid, side), torch.nn.AdaptiveAvgPool2d(side)(grid))


@torch.no_grad()
def test_a_backbone_with_a_grid_gives_that_grid_wherever_it_is_cut() -> None:
    backbone = Backbone("shufflenet_v2_x0_5", grid=5)
    images = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    assert backbone(images).shape == (1, backbone.width, 5, 5)
    for trained in (0, 2):
        torch.testing.assert_close(backbone.trunk(backbone.stem(images, trained), trained), backbone(images))


@torch.no_grad()
def test_caffe_s_resnets_have_their_strides(tmp_path: Path) -> None:
    model = _unfolded("resnet50", tmp_path / "w.safetensors")
    model.maxpool = torch.nn.MaxPool2d(3, 2, padding=0, ceil_mode=True)
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    images = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    pixels = images.permute(0, 3, 1, 2) / 255
    pixels = (pixels - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)
    expected = torch.nn.Sequential(*list(model.children())[:-2])(pixels)
    found = Backbone("caffe_resnet50", str(tmp_path / "w.safetensors"))(images)
    assert found.shape == (1, 2048, 2, 3)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    plain = Backbone("resnet50", str(tmp_path / "w.safetensors"))(images)
    assert float((plain - expected).abs().max()) > 0.1 * float(expected.abs().max()), "these are other features"


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("caffe_mobilenet_v2", "none", "only ResNets have Caffe's strides"),
        ("caffe_resnet18", "torchvision", "no weights for Caffe's strides; name a file"),
        ("caffe_resnet19", "none", "no such model"),
    ],
)
def test_what_is_no_resnet_of_caffe_s_is_refused(name: str, weights: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Backbone(name, weights)


def _of_timm(name: str) -> torch.nn.Module:
    """timm's model with random batch-norm statistics."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "mobilenetv3_small_100", "mobilenetv4_conv_small", "resnet18"]
)
@torch.no_grad()
def test_folded_features_equal_timms(tmp_path: Path, name: str) -> None:
    model = _of_timm(name)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    expected = model.forward_features((images.permute(0, 3, 1, 2) / 255 - mean) / std)
    backbone = Backbone(f"timm/{name}", str(tmp_path / "w.safetensors"))
    torch.testing.assert_close(backbone(images), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in backbone.modules())
    assert backbone.width == expected.shape[1]


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite2"])
@torch.no_grad()
def test_the_names_of_efficientnet_pytorch_are_read(tmp_path: Path, name: str) -> None:
    model = _of_timm(name)
    renamed = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    named = {
        f"{renamed[key.split('.')[0]]}.{key.split('.')[1]}": value
        for key, value in model.state_dict().items()
        if key.split(".")[0] in renamed
    }
    blocks = [block for stage in model.blocks for block in stage]
    for index, block in enumerate(blocks):
        layers = [layer for layer in block.children() if list(layer.state_dict())]
        plain = ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
        for layer, old in zip(layers, plain if len(layers) == 4 else ["_expand_conv", "_bn0", *plain], strict=True):
            named |= {f"_blocks.{index}.{old}.{key}": value for key, value in layer.state_dict().items()}
    assert len(named) == len(model.state_dict())
    torch.save(named | {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}, tmp_path / "lite.pth")
    images = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    expected = model.forward_features((images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
    found = Backbone(f"timm/{name}", str(tmp_path / "lite.pth"))(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/mobilenet_v9", "timm makes no such model"),
        ("timm/vit_tiny_patch16_224", "do not run one after the other"),
    ],
)
def test_what_timm_has_no_grid_of_is_refused(name: str, message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(DataError, match=message):
        Backbone(name)


def test_weights_of_another_model_of_timms_are_refused(tmp_path: Path) -> None:
    save_file(_of_timm("tf_efficientnet_lite0").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(DataError, match="does not fit timm's tf_efficientnet_lite2"):
        Backbone("timm/tf_efficientnet_lite2", str(tmp_path / "w.safetensors"))
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(DataError, match="cannot be read as weights of timm/tf_efficientnet_lite0"):
        Backbone("timm/tf_efficientnet_lite0", str(tmp_path / "broken.pth"))
