"""The half-precision graphs: what is half and what is not, for the shipped kind of model and for operators it lacks."""

from __future__ import annotations

import collections
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from camscribe.export.command import main
from camscribe.export.graphs import example, graph_pair, rounded
from camscribe.export.half import half_specs, to_half
from camscribe.export.onnx_export import cast_pixels_first, export_graphs, new_model
from camscribe.export.plain import element_types, without_casts
from camscribe.export.ranges import Ranges
from camscribe.export.weights import WEIGHTS
from camscribe.runtime.bundle import DEFAULT_BUNDLE, Bundle
from camscribe.runtime.errors import EngineError, OptionError
from camscribe.runtime.manifest import GraphSpec, TensorSpec
from camscribe.train.config import from_dict
from camscribe.train.model import Captioner

EXAMPLES = Path(__file__).parents[2] / "examples"
PRODUCTS = ("Conv", "MatMul", "Gemm")
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def _session(model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _spec(inputs: dict[str, Any], outputs: dict[str, Any]) -> GraphSpec:
    sides = [tuple(TensorSpec(name, *value) for name, value in side.items()) for side in (inputs, outputs)]
    return GraphSpec("", (), *sides)


def _graph(text: str, **weights: Any) -> onnx.ModelProto:
    """A model of ONNX's text form, with constants."""
    graph = onnx.parser.parse_graph(text)
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items())
    return new_model(graph)


def _kinds(model: onnx.ModelProto) -> dict[str, str]:
    """Type by node, of what each makes."""
    types = element_types(model)
    return {node.output[0]: TensorProto.DataType.Name(types[node.output[0]]) for node in model.graph.node}


def _check_typed(model: onnx.ModelProto) -> None:
    """One type for each tensor, no cast of a cast, none to the type a tensor has, no constant half cannot hold."""
    onnx.checker.check_model(model, full_check=True)
    types = element_types(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        assert node.op_type == "Cast" or len({types[name] for name in node.input if types.get(name) in FLOATS}) < 2
        if node.op_type == "Cast":
            assert types[node.input[0]] != types[node.output[0]]
            before = makers.get(node.input[0])
            assert before is None or before.op_type != "Cast"
        elif any(types.get(name) == TensorProto.UINT8 for name in node.input):
            pytest.fail(f"{node.op_type} reads 8-bit numbers")
    casts = [(node.input[0], types[node.output[0]]) for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == len(set(casts))
    for weight in model.graph.initializer:
        if weight.data_type in FLOATS:
            assert np.isfinite(numpy_helper.to_array(weight)).all()


@pytest.mark.parametrize("graph", ["encoder", "decoder"])
@pytest.mark.parametrize("which", ["small", "shipped"])
def test_every_tensor_of_a_half_graph_has_one_type(bundle: Bundle, graph: Any, which: str) -> None:
    bundle = bundle if which == "small" else Bundle.load(DEFAULT_BUNDLE)
    model = onnx.load(bundle.graph("fp16", graph))
    assert model.ir_version == 8
    _check_typed(model)
    makers = collections.Counter(_kinds(model)[node.output[0]] for node in model.graph.node if node.op_type in PRODUCTS)
    assert makers["FLOAT16"] > makers["FLOAT"]
    assert makers["FLOAT"] == (0 if graph == "encoder" else 2)


def test_the_islands_of_the_decoder_are_float32(bundle: Bundle) -> None:
    model = onnx.load(bundle.graph("fp16", "decoder"))
    kinds, types = _kinds(model), element_types(model)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
        if node.op_type in ("Softmax", "LogSoftmax", "TopK", "Tanh", "Max"):
            assert kinds[node.output[0]] == "FLOAT", node.op_type
        if node.output[0].startswith("select.") and types[node.output[0]] in FLOATS:
            assert kinds[node.output[0]] == "FLOAT", node.output[0]
    islands = [node for node in model.graph.node if node.op_type in PRODUCTS and kinds[node.output[0]] == "FLOAT"]
    # The energies and the logits, whose product reads the half table of words through a cast.
    assert len(islands) == 2
    assert kinds["gathered.h"] == kinds["next_state.h"] == "FLOAT16"
    assert kinds["gathered.c"] == kinds["next_state.c"] == "FLOAT"


def test_the_encoder_normalises_pixels_and_features_in_float32(bundle: Bundle) -> None:
    model = onnx.load(bundle.graph("fp16", "encoder"))
    kinds = _kinds(model)
    first = model.graph.node[0]
    assert (first.op_type, list(first.input)) == ("Cast", ["image"])
    for node in model.graph.node:
        if node.op_type in ("Sub", "Div", "LayerNormalization", "ReduceMean"):
            assert kinds[node.output[0]] == "FLOAT"
        if node.op_type == "Conv":
            assert kinds[node.output[0]] == "FLOAT16"


def test_half_graphs_read_the_weights_of_the_float32_ones_without_casts(bundle: Bundle) -> None:
    encoder = onnx.load(bundle.graph("fp16", "encoder"), load_external_data=False)
    stored = {w.name for w in encoder.graph.initializer if w.data_location == TensorProto.EXTERNAL}
    assert len(stored) > 50
    assert all(node.input[0] not in stored for node in encoder.graph.node if node.op_type == "Cast")
    spec = bundle.manifest.precisions["fp16"]
    assert spec.encoder.external == spec.decoder.external == (WEIGHTS,)
    for graph in ("encoder", "decoder"):
        assert bundle.graph("fp16", graph).stat().st_size < 150_000
        for weight in onnx.load(bundle.graph("fp16", graph), load_external_data=False).graph.initializer:
            large = len(weight.dims) > 1 and np.prod(weight.dims) >= 256
            assert not (large and weight.data_type in FLOATS) or weight.data_location == TensorProto.EXTERNAL


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_large", "efficientnet_b0", "densenet121"])
def test_other_backbones_are_half_too(backbone: str) -> None:
    model_table = {"backbone": backbone, "weights": "none", "image_height": 64, "image_width": 64}
    widths = {"memory_width": 24, "attention_width": 16, "state_width": 32, "embedding_width": 16}
    only = [{"name": "only", "epochs": 1}]
    config = from_dict({"data": {"root": "nowhere"}, "model": {**model_table, **widths}, "stage": only})
    torch.manual_seed(0)
    model = rounded(Captioner(50, config.model))
    run = example(model)
    pair = graph_pair(model, run)
    encoder, decoder = export_graphs(model, run, pair, 2)
    half = to_half(encoder, half_specs(pair, decoder).encoder)
    _check_typed(half)
    kinds = _kinds(half)
    products = [kinds[node.output[0]] for node in half.graph.node if node.op_type in PRODUCTS]
    assert products.count("FLOAT16") == len(products) > 20
    # Squeeze-and-excitation: the means are summed in float32, and what they scale is half.
    assert {kinds[node.output[0]] for node in half.graph.node if node.op_type == "ReduceMean"} == {"FLOAT"}
    gates = [node for node in half.graph.node if node.op_type in ("HardSwish", "HardSigmoid", "Sigmoid", "Mul")]
    assert {kinds[node.output[0]] for node in gates} <= {"FLOAT16", "INT64"}  # sizes are multiplied too
    assert not any(node.op_type == "BatchNormalization" for node in half.graph.node)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    for mine, theirs in zip(*(_session(each).run(None, {"image": pixels}) for each in (half, encoder)), strict=True):
        np.testing.assert_allclose(mine.astype(np.float32), theirs, atol=0.02)


def test_masks_and_epsilons_keep_a_node_in_float32() -> None:
    model = _graph(
        """g (float[B, 4] x, int32[B, 4] m) => (float[B, 4] y, float[B, 4] z, float[B, 4] w) {
            a = MatMul (x, weight)
            shown = Greater (m, none)
            masked = Where (shown, a, infinite)
            y = MatMul (masked, weight)
            b = MatMul (x, weight)
            safe = Add (b, epsilon)
            z = MatMul (safe, weight)
            c = MatMul (x, weight)
            shifted = Add (c, plain)
            w = MatMul (shifted, weight)
        }""",
        weight=np.eye(4, dtype=np.float32),
        none=np.int32(0),
        infinite=np.float32(-np.inf),
        epsilon=np.float32(1e-12),
        plain=np.float32(0.5),
    )
    half = ("float16", ("B", 4))
    made = to_half(model, _spec({"x": half, "m": ("int32", ("B", 4))}, {"y": half, "z": half, "w": half}))
    _check_typed(made)
    kinds = _kinds(made)
    assert (kinds["masked"], kinds["safe"], kinds["shifted"]) == ("FLOAT", "FLOAT", "FLOAT16")
    assert numpy_helper.to_array(next(w for w in made.graph.initializer if w.name == "infinite")) == np.float32(-1e9)


def test_what_only_moves_is_rounded_early_and_what_is_summed_late() -> None:
    model = _graph(
        """g (float[B, 4] x) => (float[B, 4] y, float[B, 1] s) {
            norm = LayerNormalization <axis = -1> (x, one, zero)
            turned = Transpose <perm = [1, 0]> (norm)
            y0 = MatMul (weight, turned)
            y = Transpose <perm = [1, 0]> (y0)
            product = MatMul (x, weight)
            biased = Add (product, zero)
            s = ReduceSum <keepdims = 1> (biased, axis)
        }""",
        weight=np.eye(4, dtype=np.float32),
        one=np.ones(4, np.float32),
        zero=np.zeros(4, np.float32),
        axis=np.array([1]),
    )
    made = to_half(model, _spec({"x": ("float16", ("B", 4))}, {"y": ("float16", ("B", 4)), "s": ("float32", ("B", 1))}))
    _check_typed(made)
    kinds = _kinds(made)
    assert (kinds["norm"], kinds["turned"], kinds["product"], kinds["biased"]) == (
        "FLOAT", "FLOAT16", "FLOAT16", "FLOAT",
    )  # fmt: skip


def test_batch_norms_become_a_product_and_a_sum() -> None:
    generator = np.random.default_rng(0)
    scale, bias, mean = (generator.normal(size=3).astype(np.float32) for _ in range(3))
    model = _graph(
        "g (float[B, 3, 2, 2] x) => (float[B, 3, 2, 2] y) "
        "{ n = BatchNormalization <epsilon = 0.1> (x, s, b, m, v)  y = Relu (n) }",
        s=scale,
        b=bias,
        m=mean,
        v=np.array([0.5, 1, 2], np.float32),
    )
    shape = ("B", 3, 2, 2)
    made = to_half(model, _spec({"x": ("float16", shape)}, {"y": ("float16", shape)}))
    assert [node.op_type for node in made.graph.node] == ["Mul", "Add", "Relu"]
    x = generator.normal(size=(2, 3, 2, 2)).astype(np.float16)
    (found,) = _session(made).run(None, {"x": x})
    (expected,) = _session(model).run(None, {"x": x.astype(np.float32)})
    np.testing.assert_allclose(found.astype(np.float32), expected, atol=5e-3)


def test_pixels_are_cast_before_they_move() -> None:
    model = _graph(
        "g (uint8[B, 2, 2, 3] image) => (float[B, 3, 2, 2] y) "
        "{ t = Transpose <perm = [0, 3, 1, 2]> (image)  f = Cast <to = 1> (t)  y = Relu (f) }"
    )
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    (expected,) = _session(model).run(None, {"image": pixels})
    cast_pixels_first(model.graph)
    assert [node.op_type for node in model.graph.node] == ["Cast", "Transpose", "Relu"]
    np.testing.assert_array_equal(_session(model).run(None, {"image": pixels})[0], expected)


def test_weights_stored_in_half_and_rows_of_tables_are_restored(bundle: Bundle) -> None:
    stored = onnx.load(bundle.graph("float32", "decoder"))
    plain = without_casts(stored)
    assert {w.data_type for w in plain.graph.initializer} & {TensorProto.FLOAT16} == set()
    kinds = element_types(plain)
    # What the selection casts are no numbers that were stored.
    assert not any(
        node.op_type == "Cast" and kinds[node.input[0]] in (TensorProto.FLOAT16, TensorProto.FLOAT)
        for node in plain.graph.node
        if not node.output[0].startswith("select.")
    )
    assert all(kinds[node.input[0]] != TensorProto.FLOAT16 for node in plain.graph.node if node.op_type == "Cast")
    names = [output.name for output in stored.graph.output]
    generator = np.random.default_rng(0)
    feeds = {
        "token": np.array([[5, 6]], np.int32),
        "parent": np.array([[1, 0]], np.int32),
        "score": np.array([[-1, -2]], np.float32),
        "step": np.array([1], np.int32),
        "min_words": np.array([0], np.int32),
        "bias": np.zeros(100, np.float32),
        "state.h": generator.normal(size=(1, 2, 160)).astype(np.float32),
        "state.c": generator.normal(size=(1, 2, 160)).astype(np.float32),
        "memory.features": generator.normal(size=(1, 4, 48)).astype(np.float32),
        "memory.keys": generator.normal(size=(1, 4, 32)).astype(np.float32),
    }
    for mine, theirs in zip(*(_session(m).run(names, feeds) for m in (plain, stored)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("factor", "refused"), [(60.0, False), (80.0, True), (np.nan, True)])
def test_numbers_beyond_half_are_refused(factor: float, refused: bool) -> None:
    model = _graph(
        "g (float[B, 4] x) => (float[B, 4] y) { big = MatMul (x, weight)  y = MatMul (big, small) }",
        weight=(np.eye(4) * factor).astype(np.float32),
        small=(np.eye(4) * 1e-3).astype(np.float32),
    )
    made = to_half(model, _spec({"x": ("float16", ("B", 4))}, {"y": ("float16", ("B", 4))}))
    ranges = Ranges(made, model)
    x = np.full((2, 4), 1000, np.float32)
    ranges.watch([{"x": x.astype(np.float16)}], [{"x": x}])
    if refused:
        with pytest.raises(EngineError, match=r"big reaches .*--no-fp16") as error:
            ranges.refuse()
        assert "\n" not in str(error.value)
        assert factor != 80 or "80000" in str(error.value) or "inf" in str(error.value)
    else:
        ranges.refuse()
        assert ranges.summary()["largest"] == 60000
        assert ranges.table()["big"] == {"dtype": "float16", "largest": 60000.0, "distance": 0.0}


def test_graphs_of_their_own_inside_nodes_are_refused() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["i"])], "b", [], [helper.make_tensor_value_info("i", 1, [2])]
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    sides = [helper.make_tensor_value_info("x", 1, [2]), helper.make_tensor_value_info("c", TensorProto.BOOL, [])]
    model = new_model(helper.make_graph([node], "g", sides, [helper.make_tensor_value_info("y", 1, [2])]))
    with pytest.raises(EngineError, match="graph of its own"):
        to_half(model, _spec({"x": ("float16", (2,))}, {"y": ("float16", (2,))}))


def test_fp16_is_added_to_a_bundle_from_its_float32_graphs_alone(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(bundle.path, folder)
    manifest = json.loads((folder / "bundle.json").read_text())
    for graph in ("encoder", "decoder"):
        (folder / f"{graph}.fp16.onnx").unlink()
        del manifest["files"][f"{graph}.fp16.onnx"]
    del manifest["precisions"]["fp16"], manifest["parity"]["tokens"]["fp16"], manifest["parity"]["figures"]["fp16"]
    (folder / "bundle.json").write_text(json.dumps(manifest))
    before = Bundle.load(folder).manifest
    ranges = tmp_path / "ranges.json"
    assert (
        main(["--update", str(folder), "--add", "fp16", "--ranges", str(ranges), "--calibration", str(EXAMPLES)]) == 0
    )
    after = Bundle.load(folder).manifest
    assert after.precisions["fp16"] == bundle.manifest.precisions["fp16"]
    assert after.parity.tokens["fp16"] == bundle.manifest.parity.tokens["fp16"]
    assert after.files == bundle.manifest.files
    assert after.cpu_precision == before.cpu_precision
    assert {name: after.precisions[name] for name in before.precisions} == before.precisions
    assert {name: after.parity.figures[name] for name in before.parity.figures} == before.parity.figures
    table = json.loads(ranges.read_text())
    assert table["decoder"]["next_state.c"]["dtype"] == "float32"
    assert table["encoder"]["memory.keys"]["dtype"] == "float16"
    assert 0 < table["encoder"]["memory.keys"]["largest"] < 65504


def test_a_bundle_whose_numbers_half_cannot_hold_stays_as_it_is(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from camscribe.export import ranges

    folder = tmp_path / "copy"
    shutil.copytree(bundle.path, folder)
    monkeypatch.setattr(ranges, "HALF_MAX", 1e-3)
    with pytest.raises(EngineError, match="would overflow"):
        main(["--update", str(folder), "--add", "fp16"])
    assert Bundle.load(folder).manifest == bundle.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--add", "fp16"],
        ["checkpoint", "--out", "x", "--add", "fp16"],
        ["checkpoint", "--out", "x", "--no-fp16", "--ranges", "r.json"],
        ["--update", "nowhere", "--ranges", "r.json"],
        ["--update", "nowhere", "--add", "int8"],
        ["checkpoint", "--out", "x", "--cpu-precision", "fp16"],
    ],
)
def test_options_without_meaning_are_refused(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError):
        main(arguments)
