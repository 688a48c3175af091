"""A captioner with a Faster R-CNN of random weights goes through export and the runtime: one graph, from pixels on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from camscribe.export.command import main
from camscribe.export.graphs import rounded
from camscribe.export.parity import caption_with_graphs, caption_with_torch
from camscribe.export.photographs import folder_images
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.captioner import Captioner as RuntimeCaptioner
from camscribe.runtime.onnxruntime_executor import OnnxRuntimeExecutor, open_session
from camscribe.runtime.pixels import PixelSpec
from camscribe.runtime.search import SearchOptions
from camscribe.runtime.tensorrt.positions import match
from camscribe.runtime.vocab import SPECIAL_TOKENS
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.config import from_dict
from camscribe.train.faster_rcnn import FasterRcnn
from camscribe.train.model import Captioner

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = {
    "encoder": "faster_rcnn",
    "detector": "fasterrcnn_mobilenet_v3_large_320_fpn",
    "weights": "none",
    "image_height": 96,
    "image_width": 128,
    "proposals": 24,
    "regions": 6,
    "min_regions": 2,
    "decoder": "updown",
    "memory_width": 48,
    "attention_width": 32,
    "state_width": 64,
    "embedding_width": 40,
    "no_stutter": True,
}


class Exported(NamedTuple):
    """A bundle and the PyTorch model with the weights it stores."""

    bundle: Bundle
    model: Captioner


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def spread_out(detector: FasterRcnn, images: Tensor) -> None:
    """Makes random weights ones whose scores and boxes differ from place to place."""
    heads: Any = detector.network.roi_heads

    def unit(conv: nn.Module, _: Any, made: Tensor) -> Tensor:
        """Gives a convolution an output of standard deviation 1."""
        for value in conv.parameters():
            value.div_(made.std())
        return made / made.std()

    hooks = [each.register_forward_hook(unit) for each in detector.modules() if isinstance(each, nn.Conv2d)]
    detector.maps(images)
    for hook in hooks:
        hook.remove()
    maps = detector.maps(images)
    objectness, moves = detector.network.rpn.head(list(maps.values()))
    detector.network.rpn.head.cls_logits.weight.mul_(1.5 / objectness[0].std())
    detector.network.rpn.head.bbox_pred.weight.mul_(0.2 / moves[0].std())
    features = detector.features(maps, detector.propose(maps, 96, 128).boxes, 96)
    scores, moves = heads.box_predictor(features.flatten(0, 1))
    heads.box_predictor.cls_score.weight.mul_(2 / scores.std())
    heads.box_predictor.bbox_pred.weight.mul_(0.5 / moves.std())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(4)
    table = {"data": {"root": "nowhere"}, "model": MODEL, "validation": {"beams": 3, "max_words": 9}}
    config = from_dict({**table, "stage": [{"name": "only", "epochs": 1}]})
    words = [*SPECIAL_TOKENS, *(f"word{index}" for index in range(60))]
    model = Captioner(len(words), config.model).eval()
    with torch.no_grad():
        for name, value in model.decoder.named_parameters():
            if value.dim() > 1:
                value.mul_(8 if name == "embedding.weight" else 3)
        assert model.regions is not None
        assert isinstance(model.regions.detector, FasterRcnn)
        spread_out(model.regions.detector, torch.from_numpy(folder_images(EXAMPLES, PixelSpec(96, 128, "squash"))))
    folder = tmp_path_factory.mktemp("faster_rcnn")
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    meta = {"config": config.to_dict(), "vocabulary": words, "progress": {}, "history": []}
    Checkpoint(tensors, meta).save(folder / "best.safetensors")
    images = ["--calibration", str(EXAMPLES), "--parity-images", str(EXAMPLES)]
    assert main([str(folder), "--out", str(folder / "bundle"), *images]) == 0
    return Exported(Bundle.load(folder / "bundle"), rounded(Checkpoint.load(folder / "best.safetensors").model()))


def test_everything_is_in_the_graph_and_nothing_of_our_own(exported: Exported) -> None:
    graph = onnx.load(exported.bundle.path / "encoder.onnx").graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["NonMaxSuppression"] == 2
    assert kinds["RoiAlign"] == 1
    assert {node.domain for node in graph.node} == {""}
    assert [value.name for value in graph.input] == ["image"]
    assert exported.bundle.manifest.attention_grid == (1, 7)


def test_captions_of_the_graphs_are_those_of_pytorch(exported: Exported) -> None:
    bundle, model = exported
    images = np.stack(bundle.parity_images())
    options = SearchOptions(beams=3, max_words=9, min_words=8)
    executor = OnnxRuntimeExecutor(bundle, "float32", "cpu", 1)
    mine = caption_with_graphs(executor, images, options, bundle.vocabulary.bias())
    theirs = caption_with_torch(model, bundle.vocabulary, images, options)
    assert [caption.tokens for caption in mine] == [caption.tokens for caption in theirs]
    assert len({caption.tokens for caption in mine}) > 1


def test_boxes_are_those_of_pytorch_for_any_number_of_images(exported: Exported) -> None:
    bundle, model = exported
    images = np.stack(bundle.parity_images())
    session = open_session(bundle.path / "encoder.onnx", "cpu")
    found = model.find(torch.from_numpy(images))
    assert found is not None
    assert found.shown.sum(dim=1).min() >= 2
    for count in (1, 3, len(images)):
        (boxes,) = session.run(["boxes"], {"image": images[:count]})
        assert boxes[:, 0].tolist() == [[0, 0, 1, 1]] * count
        order, same = match(boxes[:, 1:], found.boxes[:count].numpy())  # of two scores nearly alike either may be first
        assert same.all()
        ordered = np.take_along_axis(found.boxes[:count].numpy(), order[:, :, None], axis=1)
        np.testing.assert_allclose(boxes[:, 1:], ordered, atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "fp16", "int8"])
def test_an_image_without_anything_gets_a_caption(exported: Exported, precision: str) -> None:
    with RuntimeCaptioner.load(exported.bundle.path, "cpu", precision) as captioner:
        caption = captioner.caption(np.zeros((50, 60, 3), np.uint8), color="rgb")
    assert caption.text
