"""Small random models in both forms: camscribe's and the tutorial's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from camscribe.benchmarks.peers.tutorial_weights import Weights, random_weights
from camscribe.runtime.vocab import SPECIAL_TOKENS, Vocabulary
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.config import Config, DataConfig, ModelConfig, StageConfig
from camscribe.train.decoders.soft_attention import SoftAttentionDecoder
from camscribe.train.executor import TorchExecutor
from camscribe.train.model import Captioner

SIDE = 64


@pytest.fixture(scope="session")
def photos() -> npt.NDArray[np.uint8]:
    """uint8 [6, SIDE, SIDE, 3]: smooth gradients and blocks, so that their features differ."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2)


def plain_checkpoint(path: Path, seed: int, grid: int) -> Path:
    """The tutorial's model as a checkpoint of camscribe: random, small, captions of about eight words."""
    random_weights("mobilenet_v2", side=SIDE, grid=grid, words=60, width=32, seed=seed, length=8).write(path)
    return path


@torch.no_grad()
def make_endings(decoder: SoftAttentionDecoder, end_id: int, length: int = 8) -> None:
    """What ``set_apart`` does for the tutorial's decoder: words that differ, and an end after about ``length``."""
    config = decoder.config
    torch.nn.init.uniform_(decoder.embedding.weight, -0.5, 0.5)
    torch.nn.init.uniform_(decoder.output.weight, -2, 2)
    first = config.attention_width + config.memory_width
    for gate, bias in enumerate((10.0, 10.0, 0.7 / length, 10.0)):
        decoder.from_state.weight[first + gate * config.state_width] = 0
        decoder.from_state.bias[first + gate * config.state_width] = bias
        decoder.from_input.weight[gate * config.state_width] = 0
    decoder.embedding.weight[:, 0] = 0
    decoder.embedding.weight[end_id] = 0
    decoder.embedding.weight[end_id, 0] = 1
    decoder.output.weight[0] = 0
    decoder.output.weight[0, 0] = 60
    decoder.output.bias[0] = -60 * 0.6


def deep_checkpoint(path: Path, seed: int, no_stutter: bool = False, no_repeat: int = 0, words: int = 50) -> Path:
    """A checkpoint of camscribe's own kind of model: projected features, deep output, tied embedding."""
    config = Config(
        data=DataConfig(root="none"),
        stage=(StageConfig("random", 0),),
        model=ModelConfig(
            weights="none",
            image_height=SIDE,
            image_width=SIDE,
            memory_width=40,
            attention_width=24,
            state_width=32,
            embedding_width=28,
            no_stutter=no_stutter,
            no_repeat=no_repeat,
        ),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Captioner(words, config.model)
        # Of a random network as it is, all images have the same features.
        model.backbone.load_state_dict(random_weights("mobilenet_v2", words=50, width=8, seed=seed).of("backbone."))
        vocabulary = Vocabulary([*SPECIAL_TOKENS, *(f"word{index}" for index in range(4, words))])
        make_endings(model.decoder, vocabulary.end_id)
        with torch.no_grad():
            model.decoder.word_bias[[vocabulary.pad_id, vocabulary.start_id]] = -1e4
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    meta = {"config": config.to_dict(), "vocabulary": list(vocabulary.tokens), "progress": {}, "history": []}
    Checkpoint(tensors, meta).save(path)
    return path


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``make_checkpoint(kind, seed, grid)``: of kind ``plain``, ``deep``, ``deep without stutter`` or ``deep without
    repeats``, made once."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def make(kind: str, seed: int = 0, grid: int = 0) -> Path:
        path = folder / f"{kind}-{seed}-{grid}.safetensors"
        if not path.exists():
            if kind == "plain":
                plain_checkpoint(path, seed, grid)
            else:
                rules = {
                    "no_stutter": kind == "deep without stutter",
                    "no_repeat": 2 * (kind == "deep without repeats"),
                }
                deep_checkpoint(path, seed, **rules)
        return path

    return make


def executor_of(checkpoint: Path) -> TorchExecutor:
    """camscribe's search in PyTorch."""
    weights = Weights.read(checkpoint)
    return TorchExecutor(Checkpoint.load(checkpoint).model(), weights.vocabulary)


@pytest.fixture
def make_executor() -> Callable[[Path], TorchExecutor]:
    """``make_executor(checkpoint)``: camscribe's search in PyTorch."""
    return executor_of
