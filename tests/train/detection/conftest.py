"""Scenes of coloured shapes, and a Faster R-CNN small enough to learn them within seconds on one core."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn
from torchvision.models import _api
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

SIDE = 96
TINY = "fasterrcnn_tiny"
COLOURS = {"red": (225, 40, 40), "green": (30, 190, 60), "blue": (40, 80, 235)}
SHAPES = ("square", "ring")


def tiny(*, weights: Any = None, weights_backbone: Any = None) -> FasterRCNN:
    """torchvision's own parts, with few channels."""
    widths = (3, 16, 32, 48)
    layers = [
        nn.Sequential(nn.Conv2d(one, other, 5, 4 if one == 3 else 2, 2, bias=False), nn.BatchNorm2d(other), nn.ReLU())
        for one, other in itertools.pairwise(widths)
    ]
    for layer in layers:
        nn.init.kaiming_normal_(layer[0].weight, nonlinearity="relu")
    body = nn.Sequential(*layers)
    backbone = BackboneWithFPN(body, {"1": "0", "2": "1"}, [32, 48], 32, LastLevelMaxPool())
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(((32,), (48,), (64,)), ((1.0,),) * 3),
        box_head=TwoMLPHead(32 * 7 * 7, 64),
        box_predictor=FastRCNNPredictor(64, 91),
    )


tiny.__module__ = "torchvision.models.detection.tiny"


@pytest.fixture(autouse=True, scope="package")
def _tiny_network() -> Iterator[None]:
    """It is one of torchvision's; and one thread, which makes sums the same each time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_api.BUILTIN_MODELS, TINY, tiny)
        yield
    torch.set_num_threads(threads)


def draw(random: np.random.Generator) -> tuple[Image.Image, list[tuple[str, str, tuple[int, int, int, int]]]]:
    """A picture with a shape in its left and one in its right half: (shape, colour, box [x, y, w, h]) each."""
    picture = Image.fromarray(random.integers(90, 130, (SIDE, SIDE, 3)).astype(np.uint8))
    pen, things = ImageDraw.Draw(picture), []
    for half in range(2):
        shape, colour = SHAPES[random.integers(2)], list(COLOURS)[random.integers(3)]
        side = int(random.integers(28, 44))
        left = half * SIDE // 2 + int(random.integers(0, SIDE // 2 - side + 1))
        top = int(random.integers(0, SIDE - side + 1))
        corners = (left, top, left + side - 1, top + side - 1)
        if shape == "square":
            pen.rectangle(corners, fill=COLOURS[colour])
        else:
            pen.ellipse(corners, outline=COLOURS[colour], width=9)
        things.append((shape, colour, (left, top, side, side)))
    return picture, things


def write_split(root: Path, split: str, count: int, seed: int) -> dict[str, Any]:
    """Writes the images of a split and returns what its file of annotations holds."""
    random = np.random.default_rng(seed)
    (root / split).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for number in range(count):
        picture, things = draw(random)
        picture.save(root / split / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        boxes += [
            {"image_id": number, "category_id": 10 * SHAPES.index(shape), "bbox": list(box), "attributes": [colour]}
            for shape, colour, box in things
        ]
    categories = [{"id": 10 * number, "name": name} for number, name in enumerate(SHAPES)]
    return {"images": images, "annotations": boxes, "categories": categories}


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in COCO's layout."""
    root = tmp_path_factory.mktemp("scenes")
    for split, count in (("train", 40), ("val", 8)):
        content = write_split(root, split, count, seed=count)
        (root / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return root
