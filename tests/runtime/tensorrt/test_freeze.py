"""Freezing B and K: a frozen graph computes what the free one does, in the same types, and every k is a constant."""

from __future__ import annotations

import builtins
import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from camscribe.runtime.bundle import DEFAULT_BUNDLE, Bundle
from camscribe.runtime.errors import BundleError, EngineError
from camscribe.runtime.tensorrt.freeze import freeze
from camscribe.runtime.tensorrt.onnx_file import Graph

needs_default = pytest.mark.skipif(not DEFAULT_BUNDLE.exists(), reason="this checkout has no bundled model")


def feeds_of(session: onnxruntime.InferenceSession, beams: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    feeds = {}
    for item in session.get_inputs():
        if item.type == "tensor(uint8)":
            feeds[item.name] = generator.integers(0, 256, item.shape, dtype=np.uint8)
        elif item.type == "tensor(int32)":
            feeds[item.name] = generator.integers(0, beams, item.shape).astype(np.int32)
        else:
            dtype = np.float16 if item.type == "tensor(float16)" else np.float32
            feeds[item.name] = generator.normal(0, 1, item.shape).astype(dtype)
    return feeds


def check_frozen(bundle: Bundle, precision: str, graph: Any, images: int, beams: int) -> onnx.ModelProto:
    data = freeze(bundle, precision, graph, images, beams)
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    original = onnx.load(str(bundle.graph(precision, graph)), load_external_data=False)
    assert [(item.domain, item.version) for item in model.opset_import] == [
        (item.domain, item.version) for item in original.opset_import
    ]
    assert {node.domain for node in model.graph.node} <= {""}
    weights = {weight.name for weight in model.graph.initializer}
    assert all(node.input[1] in weights for node in model.graph.node if node.op_type == "TopK")
    assert all(not weight.external_data for weight in model.graph.initializer)
    for value in (*model.graph.input, *model.graph.output):
        assert all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim), value.name
    if precision == "int8":
        return model  # other scales, see test_symmetric.py
    frozen = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    free = onnxruntime.InferenceSession(str(bundle.graph(precision, graph)), providers=["CPUExecutionProvider"])
    feeds = feeds_of(frozen, beams)
    rough = 5e-3 if precision == "fp16" else 1e-4  # ONNX Runtime fuses other operators, which rounds elsewhere
    for item, mine, theirs in zip(frozen.get_outputs(), frozen.run(None, feeds), free.run(None, feeds), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(
            mine.astype(np.float64), theirs.astype(np.float64), rtol=10 * rough, atol=rough, err_msg=item.name
        )
    return model


@pytest.mark.parametrize(("images", "beams"), [(1, 1), (2, 3)])
@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_a_frozen_toy_graph_computes_the_same(toy_bundle: Bundle, graph: str, images: int, beams: int) -> None:
    check_frozen(toy_bundle, "float32", graph, images, beams)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_a_graph_whose_shapes_depend_on_the_image_freezes(boxes_bundle: Bundle, graph: str, images: int) -> None:
    """Non-maximum suppression gives int64 [boxes, 3], as many as it finds; ScatterND makes that fixed sizes again."""
    model = check_frozen(boxes_bundle, "float32", graph, images, 3)
    kinds = Counter(node.op_type for node in model.graph.node)
    if graph == "encoder":
        assert (kinds["NonMaxSuppression"], kinds["RoiAlign"], kinds["ScatterND"]) == (1, 1, 1)
        assert not kinds["Shape"] + kinds["Range"] + kinds["Expand"]  # all that depends on B alone is a constant
        weights = {weight.name for weight in model.graph.initializer}
        # TensorRT wants these known when it builds.
        suppression, roi_align = (
            next(node for node in model.graph.node if node.op_type == kind)
            for kind in ("NonMaxSuppression", "RoiAlign")
        )
        assert {*suppression.input[2:], roi_align.input[2]} <= weights
        by_name = {item.name: item for item in onnx.shape_inference.infer_shapes(model).graph.value_info}
        selected = by_name["selected"].type.tensor_type
        assert selected.elem_type == TensorProto.INT64
        assert not selected.shape.dim[0].HasField("dim_value")


@needs_default
@pytest.mark.parametrize("precision", ["float32", "int8", "fp16"])
@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_the_bundled_graphs_freeze_with_their_types(precision: str, graph: str) -> None:
    bundle = Bundle.load()
    if precision not in bundle.manifest.precisions:
        pytest.skip(f"the bundled model has no {precision} graphs")
    model = check_frozen(bundle, precision, graph, 2, 3)
    original = onnx.load(str(bundle.graph(precision, graph)), load_external_data=False)
    before, after = (Counter(node.op_type for node in each.graph.node) for each in (original, model))
    assert after["QuantizeLinear"] == before["QuantizeLinear"]
    assert after["DequantizeLinear"] == before["DequantizeLinear"]
    assert not after - before, "freezing added operators"


def half_model() -> onnx.ModelProto:
    """Half-typed operators that ONNX Runtime's CPU computes in float32, around a float32 island; k is B's double."""
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["h", "w"], ["m"]),
        helper.make_node("Sigmoid", ["m"], ["s"]),
        helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("LogSoftmax", ["f"], ["p"], axis=-1),
        helper.make_node("Shape", ["x"], ["b"], start=0, end=1),
        helper.make_node("Mul", ["b", "two"], ["k"]),
        helper.make_node("TopK", ["p", "k"], ["best", "rank"], axis=1),
        helper.make_node("Cast", ["p"], ["q"], to=TensorProto.FLOAT16),
        helper.make_node("Tanh", ["q"], ["t"]),
    ]
    weights = [
        numpy_helper.from_array(np.eye(8, dtype=np.float16), "w"),
        numpy_helper.from_array(np.array([2], np.int64), "two"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("B", 8))]
    outputs = [
        helper.make_tensor_value_info("best", TensorProto.FLOAT, ("B", "K")),
        helper.make_tensor_value_info("t", TensorProto.FLOAT16, ("B", 8)),
    ]
    graph = helper.make_graph(nodes, "half", inputs, outputs, initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_half_precision_keeps_its_types_and_islands_though_the_cpu_lacks_the_operators(
    bundle: Bundle, tmp_path: Path
) -> None:
    """ONNX Runtime's own optimised file has casts around every such operator, and would lose the island."""
    path = bundle.graph("fp16", "encoder")
    path.write_bytes(half_model().SerializeToString())
    model = onnx.load_from_string(freeze(bundle, "fp16", "encoder", 2, 1))
    assert Counter(node.op_type for node in model.graph.node) == {
        "Cast": 3,
        "MatMul": 1,
        "Sigmoid": 1,
        "LogSoftmax": 1,
        "TopK": 1,
        "Tanh": 1,
    }
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    dtypes = {item.name: item.type.tensor_type.elem_type for item in inferred}
    assert dtypes["m"] == dtypes["s"] == dtypes["q"] == TensorProto.FLOAT16
    assert dtypes["f"] == dtypes["p"] == TensorProto.FLOAT
    k = next(weight for weight in model.graph.initializer if weight.name == "k")
    assert numpy_helper.to_array(k).tolist() == [4]


def test_weights_in_another_file_are_taken_in(toy_bundle: Bundle, tmp_path: Path) -> None:
    model = onnx.load(str(toy_bundle.graph("float32", "encoder")))
    moved = onnx.load(str(toy_bundle.graph("float32", "encoder")))
    onnx.save(moved, str(tmp_path / "e.onnx"), save_as_external_data=True, location="w.bin", size_threshold=0)
    graph = Graph((tmp_path / "e.onnx").read_bytes())
    graph.inline(tmp_path, frozenset({"w.bin"}))
    inlined = onnx.load_from_string(graph.to_bytes())
    for mine, theirs in zip(inlined.graph.initializer, model.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(mine), numpy_helper.to_array(theirs))
    with pytest.raises(BundleError, match=r"lies in 'w\.bin'; expected the graph"):
        Graph((tmp_path / "e.onnx").read_bytes()).inline(tmp_path, frozenset())
    (tmp_path / "w.bin").write_bytes(b"short")
    with pytest.raises(BundleError, match=r"beyond the end of w\.bin"):
        Graph((tmp_path / "e.onnx").read_bytes()).inline(tmp_path, frozenset({"w.bin"}))


def test_a_graph_that_is_only_taken_apart_and_put_together_is_the_same(toy_bundle: Bundle) -> None:
    path = toy_bundle.graph("float32", "decoder")
    again, before = onnx.load_from_string(Graph(path.read_bytes()).to_bytes()), onnx.load(str(path))
    for model in (again, before):
        del model.graph.value_info[:]
    assert again == before


@given(data=st.binary(max_size=200))
def test_what_is_no_graph_is_refused_or_harmless(data: bytes) -> None:
    with contextlib.suppress(BundleError):  # any other error fails the test
        Graph(data).to_bytes()


@given(cut=st.integers(0, 5000), at=st.integers(0, 5000), byte=st.integers(0, 255))
def test_a_damaged_graph_is_refused_or_harmless(toy_bundle: Bundle, cut: int, at: int, byte: int) -> None:
    data = bytearray(toy_bundle.graph("float32", "decoder").read_bytes())
    data[at % len(data)] = byte
    del data[len(data) - cut % len(data) :]
    with contextlib.suppress(BundleError):
        Graph(bytes(data)).to_bytes()


def test_a_k_that_stays_free_is_refused(bundle: Bundle) -> None:
    model = onnx.load(str(bundle.graph("fp16", "decoder")))
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "K":
                dim.dim_param = "other"
    bundle.graph("fp16", "decoder").write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="2 TopK take a k that is still free"):
        freeze(bundle, "fp16", "decoder", 1, 3)


def test_a_damaged_file_is_one_line(bundle: Bundle) -> None:
    bundle.graph("fp16", "decoder").write_bytes(b"\x08\x01rubbish")
    with pytest.raises(EngineError, match="cannot freeze it") as caught:
        freeze(bundle, "fp16", "decoder", 1, 3)
    assert "\n" not in str(caught.value)


def test_without_onnx_runtime_the_remedy_is_said(toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = builtins.__import__

    def blocked(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name=name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(EngineError, match=r"on a Jetson: pip install onnxruntime") as caught:
        freeze(toy_bundle, "float32", "encoder", 1, 3)
    assert "\n" not in str(caught.value)
