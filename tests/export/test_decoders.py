"""Every decoder goes through export and the runtime unchanged: same words in PyTorch, ONNX Runtime and the search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from camscribe.export.command import main
from camscribe.export.graphs import rounded
from camscribe.export.parity import caption_with_graphs, caption_with_torch
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.onnxruntime_executor import OnnxRuntimeExecutor
from camscribe.runtime.search import SearchOptions
from camscribe.runtime.vocab import SPECIAL_TOKENS
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.config import from_dict
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


@pytest.fixture(scope="module", params=["updown", "transformer", "topdown"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Captioner]:
    """A bundle of each decoder with random weights, in all precisions, and its PyTorch model."""
    torch.manual_seed(4)
    validation = {"beams": 3, "max_words": 9}
    table = {"data": {"root": "nowhere"}, "model": {**MODEL, "decoder": request.param}, "validation": validation}
    config = from_dict({**table, "stage": [{"name": "only", "epochs": 1}]})
    words = [*SPECIAL_TOKENS, *(f"word{index}" for index in range(60))]
    model = Captioner(len(words), config.model).eval()
    with torch.no_grad():
        for name, value in model.decoder.named_parameters():
            if value.dim() > 1:
                value.mul_({"embedding.weight": 8, "whole.weight": 60}.get(name, 3))
        for module in model.backbone.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    folder = tmp_path_factory.mktemp(request.param)
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
