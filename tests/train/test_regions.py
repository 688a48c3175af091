"""Regions: what a detector finds, and how features are read over it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from camscribe.runtime.errors import DataError
from camscribe.train.config import ModelConfig
from camscribe.train.decoders.base import HIDDEN
from camscribe.train.detector import FLOOR, Detector, Regions, cells
from camscribe.train.regions import RegionEncoder

SIDE, CLASSES = 64, 3
CONFIG = ModelConfig(
    encoder="regions", detector_classes=CLASSES, regions=6, min_regions=2, region_threshold=0.4, region_overlap=0.5
)
YOLOX = Path(__file__).parents[3] / "shared" / "weights" / "yolox_nano_416.onnx"


def detector_file(raw: npt.NDArray[np.float32] | None = None) -> bytes:
    """A detector that says ``raw`` [cells, 5 + classes] of every image, or that a bright image holds one thing."""
    count = len(cells(SIDE)[0])
    pixels = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, count, 5 + CLASSES])
    if raw is None:
        raw = np.zeros((count, 5 + CLASSES), np.float32)
        raw[count // 2, 4:] = [1, 0.9, 0.1, 0]
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "least"], ["nothing"]),
        helper.make_node("Add", ["raw", "nothing"], ["sum"]),
        helper.make_node("Reshape", ["sum", "shape"], ["output"]),
    ]
    weights = {"least": np.float32(0), "raw": raw, "shape": np.array([1, count, 5 + CLASSES])}
    graph = helper.make_graph(
        nodes, "g", [pixels], [output], [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()]
    )
    return onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6).SerializeToString()


def detector(raw: npt.NDArray[np.float32] | None = None, **changes: object) -> Detector:
    made = Detector(replace(CONFIG, **changes))
    made.replace(detector_file(raw))
    return made


def raw_of(boxes: list[tuple[float, float, float, float, float, int]]) -> npt.NDArray[np.float32]:
    """What a network says that sees boxes (left, top, right, bottom, score, class) in fractions of the image."""
    corners, steps = cells(SIDE)
    raw = np.zeros((len(corners), 5 + CLASSES), np.float32)
    for cell, (left, top, right, bottom, score, kind) in enumerate(boxes):
        step = steps[cell, 0]
        raw[cell, :2] = np.array([left + right, top + bottom]) / 2 / step - corners[cell]
        raw[cell, 2:4] = np.log(np.array([right - left, bottom - top]) / step)
        raw[cell, 4], raw[cell, 5 + kind] = 1, score
    return raw


def found(made: Detector, images: int = 1) -> Regions:
    result: Regions = made(torch.zeros(images, 20, 30, 3, dtype=torch.uint8))
    return result


def test_boxes_come_best_first_without_those_that_overlap_a_better_one() -> None:
    boxes = [
        (0.1, 0.1, 0.5, 0.5, 0.6, 0),
        (0.6, 0.2, 0.9, 0.9, 0.9, 1),
        (0.12, 0.1, 0.5, 0.5, 0.5, 2),  # overlaps the first, of whatever class
        (0.0, 0.8, 0.3, 1.2, 0.7, 2),  # reaches out of the image
    ]
    regions = found(detector(raw_of(boxes)), images=2)
    expected = torch.tensor([[0.6, 0.2, 0.9, 0.9], [0.0, 0.8, 0.3, 1.0], [0.1, 0.1, 0.5, 0.5]])
    for image in range(2):
        assert regions.shown[image].tolist() == [1, 1, 1, 0, 0, 0]
        torch.testing.assert_close(regions.boxes[image, :3], expected, rtol=0, atol=1e-5)
        assert not regions.boxes[image, 3:].any()
        assert not regions.features[image, 3:].any()
        torch.testing.assert_close(
            regions.features[image, :3], torch.tensor([[0, 0.9, 0], [0, 0, 0.7], [0.6, 0, 0]]), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize(
    ("scores", "shown"),
    [
        ([], 0),
        ([FLOOR / 2], 0),
        ([0.1], 1),
        ([0.1, 0.3, 0.2], 2),  # as few as min_regions
        ([0.9, 0.8, 0.7, 0.3], 3),  # those above the threshold
        ([0.9 - 0.01 * i for i in range(9)], 6),  # as many as regions
    ],
)
def test_how_many_regions_are_kept(scores: list[float], shown: int) -> None:
    boxes = [(0.1 * i, 0.1 * i, 0.1 * i + 0.1, 0.1 * i + 0.1, score, 0) for i, score in enumerate(scores)]
    assert found(detector(raw_of(boxes))).shown.sum() == shown


def test_features_are_means_over_the_boxes_and_the_whole_image_comes_first() -> None:
    encoder = RegionEncoder(2, replace(CONFIG, cells=True))
    rows = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 1, 4, 5)
    columns = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 1, 4, 5)
    grid = torch.cat([rows, columns], dim=1)
    boxes, shown, classes = torch.zeros(1, 6, 4), torch.zeros(1, 6), torch.zeros(1, 6, 3)
    boxes[0, 0], shown[0, 0], classes[0, 0] = torch.tensor([0.2, 0.25, 0.6, 0.75]), 1, torch.tensor([0.1, 0.2, 0.3])
    positions = encoder(grid, Regions(boxes, shown, classes))
    features = positions.features[0]
    assert features.shape == (1 + 20 + 6, 2 + 3 + 5)
    assert encoder.width == 10
    torch.testing.assert_close(features[0, :2], grid.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(features[1:21, :2], grid[0].flatten(1).T)
    # A grid that rises evenly has, as its mean over a box, its value in the middle of the box.
    torch.testing.assert_close(features[21, :2], torch.tensor([1.5, 1.5]))
    torch.testing.assert_close(features[21, 2:], torch.tensor([0.1, 0.2, 0.3, 0.2, 0.25, 0.6, 0.75, 0.4 * 0.5]))
    torch.testing.assert_close(positions.boxes[0, 0], torch.tensor([0.0, 0, 1, 1]))
    torch.testing.assert_close(positions.boxes[0, 7], torch.tensor([0.2, 0.25, 0.4, 0.5]))
    assert positions.hidden[0].tolist() == [0.0] * 22 + [HIDDEN] * 5


def test_a_checkpoint_brings_its_detector_along() -> None:
    first = RegionEncoder(2, CONFIG)
    first.detector.replace(detector_file())
    second = RegionEncoder(2, CONFIG)
    second.load_state_dict(first.state_dict())
    assert second.detector.file == first.detector.file
    assert found(second.detector).shown.sum() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_regions": 7}, "expected at least 1"),
        ({"min_regions": 0}, "expected at least 1"),
        ({"regions": 1000, "min_regions": 1}, "at most 256"),
        ({"detector_side": 100}, "expected a multiple of 32"),
        ({"detector_classes": 4}, "5 + classes|detector_classes = 4"),
    ],
)
def test_settings_without_a_meaning_are_refused(changes: dict[str, int], message: str, tmp_path: Path) -> None:
    def read(path: Path) -> None:
        path.write_bytes(detector_file())
        Detector(replace(CONFIG, detector=str(path), **changes)).read()

    with pytest.raises(DataError, match=message):
        read(tmp_path / "detector.onnx")


def test_a_file_that_is_no_detector_is_refused(tmp_path: Path) -> None:
    for content, message in ((None, "No such file"), (b"no model", "ONNX Runtime cannot open it")):
        path = tmp_path / "detector.onnx"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            Detector(replace(CONFIG, detector=str(path))).read()


@pytest.mark.parametrize("side", [0, 256])
@pytest.mark.skipif(not YOLOX.exists(), reason="YOLOX-nano's weights are not here")
def test_yolox_finds_the_dog_of_the_examples(side: int) -> None:
    from camscribe.runtime import images, pixels

    made = Detector(ModelConfig(encoder="regions", detector=str(YOLOX), detector_side=side))
    made.read()
    assert made.side == (side or 416)
    photo = images.read(Path(__file__).parents[2] / "examples" / "retriever.jpg")
    seen: Tensor = torch.from_numpy(pixels.reduce(photo, pixels.PixelSpec(224, 224, "squash")))[None]
    regions = made(seen)
    assert regions.features[0, 0].argmax() == 16, "COCO's dog"
    assert regions.features[0, 0].max() > 0.5
