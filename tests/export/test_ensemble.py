"""An ensemble from joined checkpoints to a bundle: it says what its members' bundles say side by side."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch

from camscribe.export.command import main
from camscribe.export.graphs import rounded
from camscribe.export.half_plan import HALF
from camscribe.export.parity import caption_with_graphs, caption_with_torch, same, teacher_forced
from camscribe.export.plain import element_types
from camscribe.export.quantize import LARGE
from camscribe.runtime import cli
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.guided.ensemble import EnsembleExecutor
from camscribe.runtime.onnxruntime_executor import OnnxRuntimeExecutor, open_session
from camscribe.runtime.search import SearchOptions
from camscribe.runtime.vocab import SPECIAL_TOKENS
from camscribe.train.captioning import Device, caption_split
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.commands.join import join
from camscribe.train.config import from_dict
from camscribe.train.model import Captioner
from camscribe.train.readers import CaptionedImage

EXAMPLES = Path(__file__).parents[2] / "examples"
WORDS = [*SPECIAL_TOKENS, *(f"word{index}" for index in range(496))]
MODEL = {
    "backbone": "squeezenet1_1",
    "weights": "none",
    "image_height": 64,
    "image_width": 64,
    "memory_width": 48,
    "attention_width": 32,
    "state_width": 64,
    "embedding_width": 40,
    "layers": 1,
    "heads": 4,
    "window": 6,
    "no_stutter": True,
}
MEMBERS = (
    {"decoder": "soft_attention"},
    {"decoder": "updown", "memory_width": 40, "embedding_width": 36},
    {"decoder": "transformer"},
)
LONGEST = 9
"""Words; longer than the transformer's window, so that its columns are used again."""


class Made(NamedTuple):
    """One ensemble in all its forms."""

    checkpoint: Path
    bundle: Bundle
    model: Captioner
    members: tuple[Bundle, ...]
    """Exported each by itself, in float32."""


def _checkpoint(path: Path, changes: dict[str, object], seed: int, backbone: dict[str, torch.Tensor]) -> Path:
    """Random weights that half precision holds, so that a checkpoint says what its bundle says."""
    validation = {"beams": 3, "max_words": LONGEST}
    table = {"data": {"root": "nowhere"}, "model": {**MODEL, **changes}, "validation": validation}
    config = from_dict({**table, "stage": [{"name": "only", "epochs": 1}]})
    torch.manual_seed(seed)
    model = Captioner(len(WORDS), config.model).eval()
    with torch.no_grad():
        for name, value in model.decoder.named_parameters():
            if value.dim() > 1:
                value.mul_(8 if name == "embedding.weight" else 3)
        if not backbone:
            for module in model.backbone.modules():
                if isinstance(module, torch.nn.Conv2d):
                    torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            backbone |= rounded(model).backbone.state_dict()
        model.backbone.load_state_dict(backbone)
    tensors = {f"model.{name}": value for name, value in rounded(model).state_dict().items()}
    progress = {"stage": 0, "epoch": 0}
    Checkpoint(tensors, {"config": config.to_dict(), "vocabulary": WORDS, "progress": progress, "history": []}).save(
        path
    )
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("ensemble")
    backbone: dict[str, torch.Tensor] = {}
    paths = [
        _checkpoint(folder / f"{changes['decoder']}.safetensors", changes, seed, backbone)
        for seed, changes in enumerate(MEMBERS, 3)
    ]
    joined = folder / "joined.safetensors"
    join(paths).save(joined)
    images = ["--calibration", str(EXAMPLES), "--parity-images", str(EXAMPLES)]
    assert main([str(joined), "--out", str(folder / "joined"), *images]) == 0
    for path in paths:
        assert main([str(path), "--out", str(path.with_suffix("")), *images, "--no-fp16", "--no-int8"]) == 0
    return Made(
        joined,
        Bundle.load(folder / "joined"),
        rounded(Checkpoint.load(joined).model()),
        tuple(Bundle.load(path.with_suffix("")) for path in paths),
    )


def _images(made: Made) -> np.ndarray:
    return np.stack(made.bundle.parity_images())


def test_the_graph_is_the_mean_of_the_members_graphs(made: Made) -> None:
    images = _images(made)
    captions = [tuple(row) for row in np.random.default_rng(2).integers(4, len(WORDS), (len(images), LONGEST))]
    runs = [
        list(
            teacher_forced(
                *(open_session(bundle.graph("float32", graph), "cpu") for graph in ("encoder", "decoder")),
                images,
                captions,
                1,
            )
        )
        for bundle in (made.bundle, *made.members)
    ]
    for step in zip(*runs, strict=True):
        joint, *each = (outputs for _, outputs in step)
        chances = [np.exp(outputs["log_prob"].astype(np.float64)) for outputs in each]
        np.testing.assert_allclose(np.exp(joint["log_prob"]), np.mean(chances, axis=0), rtol=1e-3, atol=1e-6)
        attention = np.mean([outputs["attention"] for outputs in each], axis=0)
        np.testing.assert_allclose(joint["attention"], attention, atol=1e-5)
    assert chances[0].argmax() != chances[1].argmax() or chances[0].argmax() != chances[2].argmax(), "they differ"


@pytest.mark.parametrize("beams", [1, 3])
def test_captions_are_those_of_pytorch_and_of_the_bundles_side_by_side(made: Made, beams: int) -> None:
    images, options = _images(made), SearchOptions(beams=beams, max_words=LONGEST, min_words=LONGEST - 1)
    bias, vocabulary = made.bundle.vocabulary.bias(), made.bundle.vocabulary
    mine = caption_with_graphs(OnnxRuntimeExecutor(made.bundle, "float32", "cpu", 1), images, options, bias)
    beside = EnsembleExecutor(
        [OnnxRuntimeExecutor(bundle, "float32", "cpu", 1) for bundle in made.members], vocabulary.end_id
    )
    for theirs in (
        caption_with_graphs(beside, images, options, bias),
        caption_with_torch(made.model, vocabulary, images, options),
    ):
        assert same(mine, theirs)["score"] < 1e-4, "only ties may be decided otherwise"
        assert same(mine, theirs)["same_captions"] >= len(images) - 1
    assert len({caption.tokens for caption in mine}) > 1
    alone = caption_with_graphs(OnnxRuntimeExecutor(made.members[0], "float32", "cpu", 1), images, options, bias)
    assert [caption.tokens for caption in mine] != [caption.tokens for caption in alone]


@pytest.mark.parametrize("precision", ["float32", "fp16", "int8"])
def test_an_image_alone_has_the_tokens_it_has_in_a_batch(made: Made, precision: str) -> None:
    images, options = _images(made), SearchOptions(beams=3, max_words=LONGEST)
    executor = OnnxRuntimeExecutor(made.bundle, precision, "cpu", 1)
    bias = made.bundle.vocabulary.bias()
    alone, together = (caption_with_graphs(executor, images, options, bias, batch) for batch in (1, len(images)))
    assert [caption.tokens for caption in alone] == [caption.tokens for caption in together]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_smaller_numbers_stay_near_and_finite(made: Made, precision: str) -> None:
    images = _images(made)
    captions = [tuple(range(4 + row, 4 + row + LONGEST)) for row in range(len(images))]
    runs = [
        teacher_forced(
            *(open_session(made.bundle.graph(each, graph), "cpu") for graph in ("encoder", "decoder")),
            images,
            captions,
            1,
        )
        for each in (precision, "float32")
    ]
    for (_, found), (_, wanted) in zip(*runs, strict=True):
        assert np.isfinite(found["log_prob"]).all()
        assert (found["log_prob"] <= 0).all()
        # Total variation: how much of the probability lies on other words.
        moved = np.abs(np.exp(found["log_prob"]) - np.exp(wanted["log_prob"])).sum(axis=2).max() / 2
        assert moved < {"fp16": 0.05, "int8": 0.5}[precision]


def test_what_mixes_probabilities_is_an_island_of_float32(made: Made) -> None:
    model = onnx.load(made.bundle.graph("fp16", "decoder"))
    kinds = element_types(model)
    nodes = [node for node in model.graph.node if node.op_type in ("Exp", "Log", "LogSoftmax")]
    assert [node.op_type for node in nodes].count("LogSoftmax") == len(MEMBERS)
    assert [node.op_type for node in nodes].count("Exp") >= len(MEMBERS)
    assert not [node.name for node in nodes if kinds[node.output[0]] == HALF]


def test_the_8_bit_decoder_holds_the_large_matrices_of_all_members_as_integers(made: Made) -> None:
    weights = onnx.load(made.bundle.graph("int8", "decoder")).graph.initializer
    large = {weight.name: weight.data_type for weight in weights if np.prod(weight.dims) >= LARGE}
    assert set(large.values()) == {onnx.TensorProto.INT8}
    for number in range(len(MEMBERS)):
        assert any(name.startswith(f"decoder.members.{number}.embedding.weight") for name in large)
    float32 = onnx.load(made.bundle.graph("float32", "decoder")).graph
    products = [node for node in float32.node if node.op_type == "MatMul"]
    wide = {weight.name for weight in float32.initializer if np.prod(weight.dims) >= LARGE}
    assert len(large) >= len(wide) >= 2 * len(MEMBERS)
    assert products


def test_memories_and_states_have_their_member_s_number(made: Made) -> None:
    names = [spec.name for spec in made.bundle.manifest.precisions["float32"].encoder.outputs]
    assert {"memory.features.0", "memory.keys.1", "memory.values.2", "state.h.0", "state.h1.1", "state.past.2"} <= {
        *names
    }
    assert made.bundle.manifest.attention_grid == made.members[0].manifest.attention_grid


def test_checkpoint_and_bundle_say_the_same_when_they_are_evaluated(made: Made) -> None:
    images = [CaptionedImage(path, ("a dog",), path.name, "test") for path in sorted(EXAMPLES.glob("*.jpg"))]
    by_torch = caption_split(made.checkpoint, images, device=Device("cpu", threads=1))
    by_bundle = caption_split(made.bundle.path, images, device=Device("cpu", "float32", 1))
    said = [(by_torch.by_image[image.image_id].text, by_bundle.by_image[image.image_id].text) for image in images]
    assert sum(one == other for one, other in said) >= len(images) - 1


def test_info_shows_the_members_with_their_parameters(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", str(made.bundle.path), "--check", "--precision", "float32"]) == 0
    said = capsys.readouterr().out
    assert (
        "soft attention (Xu et al. 2015) + up-down (Anderson et al. 2018) + transformer (Vaswani et al. 2017)" in said
    )
    for name in ("soft_attention", "updown", "transformer"):
        assert f"/{name}.safetensors" in said, "where a member comes from"
    for number, member in enumerate(made.model.decoder.members):
        count = sum(value.numel() for value in member.parameters())
        assert made.bundle.manifest.architecture["members"][str(number)]["parameters"] == count
        assert str(count) in said
    members = made.bundle.manifest.architecture["members"]
    assert ["heads" in members[number] for number in "012"] == [False, False, True], "only what its decoder has"
    assert "region_overlap" not in said, "there is no detector"
    assert '"/' not in str(made.bundle.manifest.provenance).replace("'", '"'), "a path of the machine it was made on"
