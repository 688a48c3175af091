"""Every decoder goes through export and the runtime unchanged: same words in PyTorch, ONNX Runtime and the search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from camscribe.export.command import main
from camscribe.export.graphs import rounded
from camscribe.export.parity import caption_with_graphs, caption_with_torch
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.onnxruntime_executor import OnnxRuntimeExecutor, open_session
from camscribe.runtime.search import SearchOptions
from camscribe.runtime.vocab import SPECIAL_TOKENS
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.config import from_dict
from camscribe.train.detector import STRIDES
from camscribe.train.model import Captioner

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = {
    "backbone": "squeezenet1_1",
    "weights": "none",
    "image_height": 64,
    "image_width": 64,
    "memory_width": 48,
    "attention_width": 32,
    "state_width": 64,
    "embedding_width": 40,
    "layers": 2,
    "heads": 4,
    "window": 6,
    "no_stutter": True,
}


def _write_detector(path: Path, side: int, classes: int) -> None:
    """A detector with YOLOX's outputs and random weights, which sees something else in every image."""
    generator = np.random.default_rng(8)
    nodes, parts, weights = [], [], {}
    for stride in STRIDES:
        weights[f"kernel{stride}"] = generator.normal(size=(5 + classes, 3, stride, stride)) / stride / 90
        weights[f"bias{stride}"] = np.array([0.5, 0.5, 1, 1, 1, *[0] * classes])
        weights[f"shape{stride}"] = np.array([1, 5 + classes, -1])
        names = [f"{name}{stride}" for name in ("said", "box", "sure", "all", "flat")]
        nodes += [
            helper.make_node("Conv", ["images", f"kernel{stride}", f"bias{stride}"], [names[0]], strides=[stride] * 2),
            helper.make_node("Slice", [names[0], "zero", "four", "axis"], [names[1]]),
            helper.make_node("Slice", [names[0], "four", "end", "axis"], [f"raw{stride}"]),
            helper.make_node("Sigmoid", [f"raw{stride}"], [names[2]]),
            helper.make_node("Concat", [names[1], names[2]], [names[3]], axis=1),
            helper.make_node("Reshape", [names[3], f"shape{stride}"], [names[4]]),
        ]
        parts.append(names[4])
    nodes.append(helper.make_node("Concat", parts, ["rows"], axis=2))
    nodes.append(helper.make_node("Transpose", ["rows"], ["output"], perm=[0, 2, 1]))
    weights |= {"zero": np.array([0]), "four": np.array([4]), "end": np.array([99]), "axis": np.array([1])}
    count = sum((side // stride) ** 2 for stride in STRIDES)
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, [1, count, 5 + classes])],
        [
            numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(np.float32), name)
            for name, value in weights.items()
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)


@pytest.fixture(
    scope="module",
    params=[
        "updown",
        "transformer",
        "topdown",
        "regions updown",
        "regions transformer",
    ],
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Captioner]:
    """A bundle of each decoder with random weights, in all precisions, and its PyTorch model."""
    torch.manual_seed(4)
    folder = tmp_path_factory.mktemp(request.param.replace(" ", "-"))
    *encoder, decoder = request.param.split()
    changes: dict[str, object] = {"decoder": decoder}
    if encoder:
        changes |= {"encoder": "regions", "detector": str(folder / "detector.onnx"), "detector_classes": 3}
        # Those with regions, in all precisions, so that a state of whole numbers goes through everything too.
        changes |= {
            "no_repeat": 2,
            "regions": 6,
            "min_regions": 2,
            "cells": decoder == "transformer",
            "region_threshold": 0.6,
        }
        _write_detector(folder / "detector.onnx", side=96, classes=3)
    validation = {"beams": 3, "max_words": 9}
    table = {"data": {"root": "nowhere"}, "model": {**MODEL, **changes}, "validation": validation}
    config = from_dict({**table, "stage": [{"name": "only", "epochs": 1}]})
    words = [*SPECIAL_TOKENS, *(f"word{index}" for index in range(60))]
    model = Captioner(len(words), config.model).eval()
    (folder / "detector.onnx").unlink(missing_ok=True)  # a checkpoint has it inside
    with torch.no_grad():
        for name, value in model.decoder.named_parameters():
            if value.dim() > 1:
                value.mul_({"embedding.weight": 8, "whole.weight": 60}.get(name, 3))
        for module in model.backbone.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    meta = {"config": config.to_dict(), "vocabulary": words, "progress": {}, "history": []}
    Checkpoint(tensors, meta).save(folder / "best.safetensors")
    images = ["--calibration", str(EXAMPLES), "--parity-images", str(EXAMPLES)]
    assert main([str(folder), "--out", str(folder / "bundle"), *images]) == 0
    return Bundle.load(folder / "bundle"), rounded(Checkpoint.load(folder / "best.safetensors").model())


@pytest.mark.parametrize("beams", [1, 3, 4])
def test_captions_of_the_graphs_are_those_of_pytorch(exported: tuple[Bundle, Captioner], beams: int) -> None:
    bundle, model = exported
    images = np.stack(bundle.parity_images())
    # Longer than the transformer's window, so that its columns are used again.
    options = SearchOptions(beams=beams, max_words=9, min_words=8)
    executor = OnnxRuntimeExecutor(bundle, "float32", "cpu", 1)
    mine = caption_with_graphs(executor, images, options, bundle.vocabulary.bias())
    theirs = caption_with_torch(model, bundle.vocabulary, images, options)
    assert [caption.tokens for caption in mine] == [caption.tokens for caption in theirs]
    assert len({caption.tokens for caption in mine}) > 1


@pytest.mark.parametrize("precision", ["float32", "fp16", "int8"])
def test_an_image_alone_has_the_tokens_it_has_in_a_batch(exported: tuple[Bundle, Captioner], precision: str) -> None:
    bundle, _ = exported
    images = np.stack(bundle.parity_images())
    executor = OnnxRuntimeExecutor(bundle, precision, "cpu", 1)
    options = SearchOptions(beams=3, max_words=9)
    alone, together = (
        caption_with_graphs(executor, images, options, bundle.vocabulary.bias(), batch) for batch in (1, len(images))
    )
    assert [caption.tokens for caption in alone] == [caption.tokens for caption in together]


def test_regions_hang_by_the_image_and_their_boxes_lie_in_it(exported: tuple[Bundle, Captioner]) -> None:
    bundle, model = exported
    if model.regions is None:
        pytest.skip("sees a grid")
    images = torch.from_numpy(np.stack(bundle.parity_images()))
    with torch.no_grad():
        positions = model.positions(model.backbone(images), model.find(images))
    assert positions is not None
    encoder = open_session(bundle.graph("float32", "encoder"), "cpu")
    (found,) = encoder.run(["boxes"], {"image": images.numpy()})
    np.testing.assert_allclose(found, positions.boxes.numpy(), atol=1e-4)
    assert (found[:, 0] == [0, 0, 1, 1]).all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert len({image.tobytes() for image in found}) > 1
