"""The exported graphs: their interface, their agreement with PyTorch, and what lies in their files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from camscribe.export.bundling import LARGEST_DISTANCE
from camscribe.export.graphs import example, graph_pair
from camscribe.export.onnx_export import export_graphs
from camscribe.export.parity import caption_with_graphs, caption_with_torch, tensor_distances
from camscribe.export.weights import WEIGHTS
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.onnxruntime_executor import OnnxRuntimeExecutor, open_session, tensor_specs
from camscribe.runtime.search import SearchOptions, select
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.decoders.base import gather_beams
from camscribe.train.model import Captioner

PRECISIONS = ("float32", "fp16", "int8")
STATE, MEMORY = ("state.h", "state.c"), ("memory.features", "memory.keys")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_graphs_have_the_tensors_of_the_design(bundle: Bundle, precision: str) -> None:
    encoder, decoder = (
        open_session(bundle.graph(precision, "encoder"), "cpu", 1),
        open_session(bundle.graph(precision, "decoder"), "cpu", 1),
    )

    def tensors(arguments: Any) -> dict[str, tuple[Any, ...]]:
        return {spec.name: (spec.dtype, *spec.shape) for spec in tensor_specs(arguments)}

    half = "float16" if precision == "fp16" else "float32"
    beams: Mapping[str, Any] = {"score": ("float32", "B", "K"), "token": ("int32", "B", "K")}
    memory = {"memory.features": (half, "B", 4, 48), "memory.keys": (half, "B", 4, 32)}
    assert tensors(encoder.get_inputs()) == {"image": ("uint8", "B", 64, 64, 3)}
    states = {"state.h": (half, "B", 160), "state.c": ("float32", "B", 160)}
    assert tensors(encoder.get_outputs()) == {**memory, **states}
    states = {name: (dtype, "B", "K", width) for name, (dtype, _, width) in states.items()}
    assert tensors(decoder.get_inputs()) == {
        **beams,
        "parent": beams["token"],
        "step": ("int32", 1),
        "min_words": ("int32", 1),
        "bias": ("float32", 100),
        **states,
        **memory,
    }
    assert tensors(decoder.get_outputs()) == {
        "next_token": beams["token"],
        "next_parent": beams["token"],
        "next_score": beams["score"],
        "ended_score": beams["score"],
        "ended_parent": beams["token"],
        **{f"next_{name}": state for name, state in states.items()},
        "attention": ("float32", "B", "K", 4),
        "log_prob": ("float32", "B", "K", 100),
    }


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
@pytest.mark.parametrize("images", [1, 4])
def test_a_decoder_step_is_pytorchs_step_and_the_selection_of_the_definition(
    bundle: Bundle, model: Captioner, images: int, beams: int
) -> None:
    generator = np.random.default_rng(images * 10 + beams)
    pixels = generator.integers(0, 256, (images, 64, 64, 3), dtype=np.uint8)
    encoder = open_session(bundle.graph("float32", "encoder"), "cpu", 1)
    decoder = open_session(bundle.graph("float32", "decoder"), "cpu", 1)
    made = dict(zip((*MEMORY, *STATE), encoder.run([*MEMORY, *STATE], {"image": pixels}), strict=True))
    with torch.no_grad():
        memory, first = model.encode(torch.from_numpy(pixels))
    for name, value in {**memory, **first}.items():
        mine = made.get(f"memory.{name}", made.get(f"state.{name}"))
        np.testing.assert_allclose(mine, value.numpy(), rtol=1e-3, atol=1e-4, err_msg=name)
    states = {name: generator.uniform(-1, 1, (images, beams, 160)).astype(np.float32) for name in STATE}
    feeds = {
        "token": generator.integers(4, 100, (images, beams)).astype(np.int32),
        "parent": generator.integers(0, beams, (images, beams)).astype(np.int32),
        "score": -generator.exponential(3, (images, beams)).astype(np.float32),
        "step": np.array([2], np.int32),
        "min_words": np.array([0], np.int32),
        "bias": bundle.vocabulary.bias(),
        **states,
        **{name: made[name] for name in MEMORY},
    }
    names = [output.name for output in decoder.get_outputs()]
    found = dict(zip(names, decoder.run(names, feeds), strict=True))
    with torch.no_grad():
        state = {name.removeprefix("state."): torch.from_numpy(value) for name, value in states.items()}
        log_prob, after, attention = model.decoder.step(
            torch.from_numpy(feeds["token"]), gather_beams(state, torch.from_numpy(feeds["parent"])), memory
        )
    wanted = {"log_prob": log_prob, "attention": attention}
    wanted |= {f"next_state.{name}": value for name, value in after.items()}
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-3, atol=1e-3, err_msg=name)
    selection = select(found["log_prob"], feeds["score"], 2, 0, feeds["bias"], bundle.vocabulary.end_id)
    for name, value in selection._asdict().items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_large_features_and_wild_states_are_no_reason_to_refuse(checkpoint: Path, tmp_path: Path) -> None:
    """Features of thousands, as ResNets without a projection have tens, and states that turn on the last digit."""
    trained = Checkpoint.load(checkpoint)
    config = replace(trained.config.model, backbone="resnet18", memory_width=0)
    torch.manual_seed(3)
    model = Captioner(len(trained.vocabulary), config, "none").eval()
    with torch.no_grad():
        [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)][-1].weight.mul_(1e4)
        model.decoder.from_state.weight.mul_(50)
    run = example(model)
    files = []
    for name, graph in zip(
        ("encoder", "decoder"),
        export_graphs(model, run, graph_pair(model, run), trained.vocabulary.end_id),
        strict=True,
    ):
        files.append(tmp_path / f"{name}.onnx")
        onnx.save(graph, files[-1])
    images = np.random.default_rng(2).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    words = [tuple(range(4, 24)), tuple(range(30, 50))]
    found = tensor_distances((files[0], files[1]), model, images, words, trained.vocabulary.start_id)
    assert max(found.values()) < LARGEST_DISTANCE
    with torch.no_grad():
        model.decoder.output.weight[0].mul_(1.5)
    changed = tensor_distances((files[0], files[1]), model, images, words, trained.vocabulary.start_id)
    assert changed["log_prob"] > LARGEST_DISTANCE
    assert changed["next_state.h"] == found["next_state.h"]


@pytest.mark.parametrize("beams", [1, 3])
def test_captions_of_the_float32_graphs_are_those_of_pytorch(bundle: Bundle, model: Captioner, beams: int) -> None:
    images = np.stack(bundle.parity_images())
    options = SearchOptions(beams=beams, max_words=8)
    executor = OnnxRuntimeExecutor(bundle, "float32", "cpu", 1)
    mine = caption_with_graphs(executor, images, options, bundle.vocabulary.bias())
    theirs = caption_with_torch(model, bundle.vocabulary, images, options)
    assert [caption.tokens for caption in mine] == [caption.tokens for caption in theirs]
    assert len({caption.tokens for caption in mine}) > 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_image_alone_has_the_tokens_it_has_in_a_batch(bundle: Bundle, precision: str) -> None:
    images = np.concatenate(
        [np.stack(bundle.parity_images()), np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)]
    )
    executor = OnnxRuntimeExecutor(bundle, precision, "cpu", 1)
    options = SearchOptions(beams=3, max_words=8)
    runs = [
        caption_with_graphs(executor, images, options, bundle.vocabulary.bias(), batch) for batch in (1, 5, len(images))
    ]
    alone, *batched = [[caption.tokens for caption in run] for run in runs]
    assert all(run == alone for run in batched)


def test_the_manifest_proves_all_precisions(bundle: Bundle) -> None:
    parity = bundle.manifest.parity
    assert len(parity.images) == 6
    for precision in PRECISIONS:
        executor = OnnxRuntimeExecutor(bundle, precision, "cpu", 1)
        bias = bundle.vocabulary.bias(["<unk>"])
        found = caption_with_graphs(executor, np.stack(bundle.parity_images()), bundle.manifest.search, bias)
        assert [caption.tokens for caption in found] == list(parity.tokens[precision])
    figures = parity.figures["float32"]
    assert figures["log_prob"] < 1e-3
    assert figures["memory.features"] < 1e-3
    assert parity.figures["int8"]["log_prob"] > figures["log_prob"]
    half = parity.figures["fp16"]
    assert half["images"] == figures["images"]
    assert half["log_prob"] < 0.2
    assert 0 < half["encoder"]["largest"] < 65504
    assert half["decoder"]["float16_tensors"] > 10


def test_float32_weights_lie_once_in_half_precision(bundle: Bundle, model: Captioner) -> None:
    wide = sum(value.numel() for value in model.parameters() if value.dim() > 1 and value.numel() >= 256)
    assert bundle.manifest.files[WEIGHTS].bytes == pytest.approx(2 * wide, rel=0.01)
    for graph in ("encoder", "decoder"):
        proto = onnx.load(bundle.graph("float32", graph), load_external_data=False)
        inside = [weight for weight in proto.graph.initializer if weight.data_location != onnx.TensorProto.EXTERNAL]
        assert not [
            w.name
            for w in inside
            if w.data_type == onnx.TensorProto.FLOAT and len(w.dims) > 1 and np.prod(w.dims) >= 256
        ]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_graphs_are_opset_17_and_name_no_file_of_the_exporting_machine(
    bundle: Bundle, precision: str, graph: str
) -> None:
    path = bundle.graph(precision, graph)
    onnx.checker.check_model(path, full_check=True)
    proto = onnx.load(path, load_external_data=False)
    assert [(item.domain, item.version) for item in proto.opset_import] == [("", 17)]
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)


def test_int8_graphs_are_static_and_small(bundle: Bundle) -> None:
    for graph in ("encoder", "decoder"):
        path = bundle.graph("int8", graph)
        kinds = {node.op_type for node in onnx.load(path).graph.node}
        assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
        assert not kinds & {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}
        weights = {weight.name: weight for weight in onnx.load(path).graph.initializer}
        assert not [
            name for name, w in weights.items() if w.data_type == onnx.TensorProto.FLOAT and np.prod(w.dims) > 20000
        ]


def test_onnx_runtime_turns_the_int8_graphs_into_integer_kernels(bundle: Bundle, tmp_path: Path) -> None:
    import onnxruntime

    kinds: list[str] = []
    for graph in ("encoder", "decoder"):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        onnxruntime.InferenceSession(bundle.graph("int8", graph), options, providers=["CPUExecutionProvider"])
        kinds += [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 49  # of 52, but for the first three
    assert kinds.count("Conv") == 3
    assert kinds.count("MatMulIntegerToFloat") == 3  # the other products are too small to gain


def test_the_bundle_captions_alike_in_the_oldest_onnx_runtime(bundle: Bundle) -> None:
    python = os.environ.get("CAMSCRIBE_OLDEST_PYTHON")
    if not python:
        pytest.skip("CAMSCRIBE_OLDEST_PYTHON names no interpreter with the oldest supported ONNX Runtime")
    script = (
        "import sys, numpy as np; from pathlib import Path; "
        "from camscribe.runtime.bundle import Bundle; from camscribe.runtime.captioner import Captioner\n"
        "for precision in ('float32', 'fp16', 'int8'):\n"
        "    captioner = Captioner.load(sys.argv[1], precision=precision, threads=1)\n"
        "    tokens = captioner.bundle.manifest.parity.tokens[precision]\n"
        "    found = captioner.caption(captioner.bundle.parity_images(), 'rgb')\n"
        "    words = [tuple(captioner.bundle.vocabulary.decode(caption)) for caption in tokens]\n"
        "    assert [caption.words for caption in found] == words, precision\n"
    )
    done = subprocess.run([python, "-c", script, str(bundle.path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
