"""A small captioner with random weights, exported once by the command for all tests here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from camscribe.export.command import main
from camscribe.export.graphs import rounded
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.vocab import SPECIAL_TOKENS
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.config import from_dict
from camscribe.train.model import Captioner

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIG = {
    "data": {"root": "nowhere"},
    "model": {
        "backbone": "mobilenet_v2",
        "weights": "none",
        "image_height": 64,
        "image_width": 64,
        "memory_width": 48,
        "attention_width": 32,
        "state_width": 160,
        "embedding_width": 40,
        "no_stutter": True,
    },
    "stage": [{"name": "only", "epochs": 1}],
    "validation": {"beams": 3, "max_words": 8},
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an untrained checkpoint whose captions depend on the image, and whose words differ in probability."""
    torch.manual_seed(3)
    config = from_dict(CONFIG)
    words = [*SPECIAL_TOKENS, *(f"word{index}" for index in range(96))]
    model = Captioner(len(words), config.model).eval()
    with torch.no_grad():
        decoder = model.decoder
        decoder.embedding.weight.mul_(5)
        for layer in (decoder.from_state, decoder.from_input, decoder.output, decoder.initial):
            layer.weight.mul_(5)
        for module in model.backbone.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    meta = {"config": config.to_dict(), "vocabulary": words, "progress": {}, "history": []}
    Checkpoint(tensors, meta).save(path)
    return path


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle that the command makes of it, float32 and int8."""
    out = tmp_path_factory.mktemp("bundles") / "small"
    # The run's folder stands for its best checkpoint.
    arguments = [str(checkpoint.parent), "--out", str(out)]
    assert main([*arguments, "--int8-encoder", "--calibration", str(EXAMPLES), "--parity-images", str(EXAMPLES)]) == 0
    return Bundle.load(out)


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> Captioner:
    """The PyTorch model with the weights that the bundle stores."""
    return rounded(Checkpoint.load(checkpoint).model())
