"""Faster R-CNN with random weights: its parts make what torchvision's own model makes, in fixed shapes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from camscribe.runtime.errors import DataError
from camscribe.train.config import ModelConfig
from camscribe.train.faster_rcnn import FasterRcnn
from camscribe.train.model import Captioner
from camscribe.train.regions import RegionEncoder

HEIGHT, WIDTH, PROPOSALS = 96, 128, 40
SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
CONFIG = ModelConfig(
    encoder="faster_rcnn",
    detector=SMALL,
    weights="none",
    image_height=HEIGHT,
    image_width=WIDTH,
    proposals=PROPOSALS,
    regions=6,
    min_regions=2,
    region_overlap=0.5,
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@torch.no_grad()
def spread_out(network: FasterRCNN, images: Tensor) -> None:
    """Makes random weights ones whose scores and boxes differ from place to place; norms as after training."""
    whole: Any = network
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = None
    listed, _ = whole.transform(as_theirs(images))
    whole.backbone.train()(listed.tensors)
    network.eval()
    maps = whole.backbone(listed.tensors)
    objectness, moves = whole.rpn.head(list(maps.values()))
    whole.rpn.head.cls_logits.weight.mul_(1.5 / objectness[0].std())
    whole.rpn.head.bbox_pred.weight.mul_(0.2 / moves[0].std())
    boxes, _ = whole.rpn(listed, maps)
    pooled = whole.roi_heads.box_head(whole.roi_heads.box_roi_pool(maps, boxes, listed.image_sizes))
    scores, moves = whole.roi_heads.box_predictor(pooled)
    whole.roi_heads.box_predictor.cls_score.weight.mul_(2 / scores.std())
    whole.roi_heads.box_predictor.bbox_pred.weight.mul_(0.5 / moves.std())


def as_theirs(images: Tensor) -> list[Tensor]:
    """uint8 [B, H, W, 3] as torchvision takes images."""
    return [image.permute(2, 0, 1) / 255 for image in images]


def same(mine: Tensor, theirs: Tensor) -> None:
    """Equal but for another order of sums; folded batch norms round otherwise."""
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=2e-4 * float(theirs.abs().max()))


class Pair(NamedTuple):
    """torchvision's network, ours with the same weights, and images."""

    theirs: FasterRCNN
    mine: FasterRcnn
    images: Tensor


@pytest.fixture(scope="module", params=[SMALL, "fasterrcnn_resnet50_fpn"], ids=["one-level", "four-levels"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Ours reads the other's weights from a file."""
    torch.manual_seed(1)
    theirs = torchvision.models.get_model(request.param, weights=None, weights_backbone=None, num_classes=7).eval()
    theirs.transform.min_size, theirs.transform.max_size = (HEIGHT,), WIDTH
    theirs.rpn._post_nms_top_n["testing"] = PROPOSALS
    theirs.roi_heads.score_thresh = 0.0
    images = (torch.rand(2, HEIGHT // 8, WIDTH // 8, 3) * 255).byte()
    images = images.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    spread_out(theirs, images)
    if request.param == "fasterrcnn_resnet50_fpn":  # as torchvision does for its weights of this one
        for norm in (module for module in theirs.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.running_var.clamp_(min=0.05)
            norm.eps = 0.0
    path = tmp_path_factory.mktemp("weights") / "detector.safetensors"
    save_file(theirs.state_dict(), path)
    mine = FasterRcnn(replace(CONFIG, detector=request.param, weights=str(path)))
    mine.read()
    return Pair(theirs, mine.eval(), images)


@torch.no_grad()
def test_proposals_and_features_are_those_of_torchvision(pair: Pair) -> None:
    theirs, mine, images = pair
    listed, _ = theirs.transform(as_theirs(images))
    assert listed.tensors.shape == (2, 3, HEIGHT, WIDTH)
    expected: OrderedDict[str, Tensor] = theirs.backbone(listed.tensors)
    maps = mine.maps(images)
    assert list(maps) == list(expected)
    for name, value in expected.items():
        same(maps[name], value)

    boxes, _ = theirs.rpn(listed, expected)
    proposals = mine.propose(maps, HEIGHT, WIDTH)
    assert proposals.boxes.shape == (2, PROPOSALS, 4)
    for image, each in enumerate(boxes):
        assert proposals.real[image].sum() == len(each) > 10
        torch.testing.assert_close(proposals.boxes[image, : len(each)], each, rtol=1e-3, atol=1e-2)

    heads = theirs.roi_heads
    pooled = heads.box_head(heads.box_roi_pool(expected, list(proposals.boxes), listed.image_sizes))
    features = mine.features(maps, proposals.boxes, HEIGHT)
    same(features.flatten(0, 1), pooled)


@torch.no_grad()
def test_the_best_region_is_torchvisions_best_detection(pair: Pair) -> None:
    theirs, mine, images = pair
    detections = theirs(as_theirs(images))
    regions = mine(images)
    assert regions.boxes.shape == (2, 6, 4)
    assert regions.features.shape == (2, 6, mine.width)
    for image, found in enumerate(detections):
        box = regions.boxes[image, 0] * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
        torch.testing.assert_close(box, found["boxes"][0], rtol=1e-3, atol=1e-2)


@torch.no_grad()
def test_levels_are_chosen_as_torchvision_does(pair: Pair) -> None:
    theirs, mine, images = pair
    maps = mine.maps(images)
    corners = torch.rand(2, 30, 2) * 8
    sides = 2 ** torch.linspace(0, 9, 30).view(1, 30, 1)  # beyond the image too, so that each level has some
    boxes = torch.cat([corners, corners + sides], dim=2)
    heads = theirs.roi_heads
    expected = heads.box_head(heads.box_roi_pool(maps, list(boxes), [(HEIGHT, WIDTH)] * 2))
    same(mine.features(maps, boxes, HEIGHT).flatten(0, 1), expected)


@torch.no_grad()
def test_an_image_alone_has_the_regions_it_has_in_a_batch(pair: Pair) -> None:
    _, mine, images = pair
    together = mine(images)
    for image in range(2):
        alone = mine(images[image : image + 1])
        for one, both in zip(alone, together, strict=True):
            same(one[0], both[image])


def captioner(**changes: Any) -> Captioner:
    widths = {"memory_width": 24, "attention_width": 16, "state_width": 32, "embedding_width": 16}
    return Captioner(12, replace(CONFIG, **widths, **changes)).eval()


@torch.no_grad()
def test_the_whole_image_is_the_mean_of_its_regions_and_stands_alone_where_there_are_none() -> None:
    model = captioner()
    encoder, images = model.regions, torch.zeros(1, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    assert isinstance(encoder, RegionEncoder)
    found = model.find(images)
    assert found is not None
    positions = model.positions(None, found)
    assert positions is not None
    shown = int(found.shown.sum())
    assert shown >= 2
    torch.testing.assert_close(positions.features[0, 0, :-5], found.features[0, :shown].mean(dim=0))
    assert positions.boxes[0, 0].tolist() == [0, 0, 1, 1]
    nothing = type(found)(*(each * 0 for each in found))
    memory, state = model.read(None, nothing)
    log_prob, _, attention = model.decoder.step(
        torch.zeros(1, 1, dtype=torch.int32), {name: value.unsqueeze(1) for name, value in state.items()}, memory
    )
    assert torch.isfinite(log_prob).all()
    assert attention[0, 0].tolist() == [1.0] + [0.0] * 6


@pytest.mark.parametrize("pair", [SMALL], indirect=True)
def test_a_checkpoint_of_other_classes_fits_a_model_built_from_its_configuration(pair: Pair) -> None:
    again = FasterRcnn(pair.mine.config)
    again.load_state_dict(pair.mine.state_dict())
    assert again.fingerprint == pair.mine.fingerprint
    assert again.network.roi_heads.box_predictor.cls_score.out_features == 7


def test_it_is_never_trained() -> None:
    made = FasterRcnn(CONFIG).train()
    assert not any(module.training for module in made.modules())
    assert not any(parameter.requires_grad for parameter in made.parameters())


@pytest.mark.parametrize("pair", [SMALL], indirect=True)
def test_weights_are_read_from_a_file_of_pytorchs_own(pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "detector.pth"
    torch.save(pair.theirs.state_dict(), path)
    made = FasterRcnn(replace(pair.mine.config, weights=str(path)))
    made.read()
    for name, value in pair.mine.state_dict().items():
        torch.testing.assert_close(made.state_dict()[name], value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"detector": "fasterrcnn_none"}, "is no Faster R-CNN of torchvision's; expected one of fasterrcnn_mobilenet"),
        ({"detector": "resnet18"}, "is no Faster R-CNN of torchvision's"),
        ({"image_height": 100}, "whole multiples of 32"),
        ({"regions": 50, "min_regions": 2}, r"at most 40 \(proposals\)"),
        ({"weights": "nowhere.safetensors"}, "cannot be read as weights of fasterrcnn_mobilenet"),
    ],
)
def test_what_has_no_meaning_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        FasterRcnn(replace(CONFIG, **changes)).read()


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    pickled, other = tmp_path / "code.pth", tmp_path / "other.safetensors"
    torch.save(print, pickled)
    save_file({"roi_heads.box_predictor.cls_score.weight": torch.zeros(91, 1024)}, other)
    for path, message in ((pickled, "cannot be read as weights"), (other, "does not fit")):
        with pytest.raises(DataError, match=message):
            FasterRcnn(replace(CONFIG, weights=str(path))).read()
