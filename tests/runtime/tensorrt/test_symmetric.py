"""8-bit graphs made symmetric: the same numbers up to the new step, and nothing unsigned left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from camscribe.runtime.bundle import DEFAULT_BUNDLE, Bundle
from camscribe.runtime.errors import BundleError
from camscribe.runtime.tensorrt import gate
from camscribe.runtime.tensorrt.freeze import freeze
from camscribe.runtime.tensorrt.onnx_file import Graph, constant, numbers
from camscribe.runtime.tensorrt.symmetric import make_symmetric
from camscribe.runtime.tensorrt.toolchain import EnginePair


def quantised(scale: float, zero: int, dtype: type = np.uint8) -> onnx.ModelProto:
    """x -> Q -> DQ, plus a bias of 32 bits."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["bias32", "bias_scale", "bias_zero"], ["bias"], axis=0),
        helper.make_node("Add", ["d", "bias"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(np.array(scale, np.float32), "scale"),
        numpy_helper.from_array(np.array(zero, dtype), "zero"),
        numpy_helper.from_array(np.array([1000, -2000, 3], np.int32), "bias32"),
        numpy_helper.from_array(np.array([0.5, 0.25, 2], np.float32), "bias_scale"),
        numpy_helper.from_array(np.zeros(3, np.int32), "bias_zero"),
    ]
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (5, 3)) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "q", sides[:1], sides[1:], initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = Graph(model.SerializeToString())
    make_symmetric(graph)
    made = onnx.load_from_string(graph.to_bytes())
    onnx.checker.check_model(made, full_check=True)
    return made


@given(zero=st.integers(0, 255), scale=st.floats(1e-3, 10))
def test_every_number_that_could_be_said_can_still_be_said_within_a_step(zero: int, scale: float) -> None:
    made = rewritten(quantised(scale, zero))
    weights = {weight.name: numpy_helper.to_array(weight) for weight in made.graph.initializer}
    assert weights["zero"].dtype == np.int8
    assert not weights["zero"].any()
    step = float(weights["scale"])
    assert step <= scale * 255 / 127 * 1.001
    x = np.linspace((0 - zero) * scale, (255 - zero) * scale, 15, dtype=np.float32).reshape(5, 3)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    np.testing.assert_allclose(found, x + np.float32([500, -500, 6]), atol=step * 0.501 + 1e-3, rtol=1e-6)


@pytest.mark.parametrize("zero", [0, 1])
def test_a_quantiser_that_was_the_relu_stays_one(zero: int) -> None:
    """A lower bound of 0 cuts off what is negative; another one is a matter of the range."""
    made = rewritten(quantised(0.1, zero))
    assert [node.op_type for node in made.graph.node].count("Relu") == (zero == 0)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.linspace(-20, 20, 15, dtype=np.float32).reshape(5, 3)
    (found,) = session.run(None, {"x": x})
    expected = x.clip(0 if zero == 0 else -25.4, 25.5) + np.float32([500, -500, 6])
    np.testing.assert_allclose(found, expected, atol=0.11, rtol=1e-6)


def test_what_is_positive_already_gets_no_second_relu() -> None:
    def q(name: str, source: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("QuantizeLinear", [source, "scale", "zero"], [f"{name}8"]),
            helper.make_node("DequantizeLinear", [f"{name}8", "scale", "zero"], [name]),
        ]

    nodes = [*q("a", "x"), *q("b", "x"), helper.make_node("Concat", ["a", "b"], ["ab"], axis=0), *q("y", "ab")]
    model = quantised(0.1, 0)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 10
    made = rewritten(model)
    kinds = [node.op_type for node in made.graph.node]
    assert kinds == ["Relu", *(["QuantizeLinear", "DequantizeLinear"] * 2), "Concat", *kinds[-2:]]
    read = [node.input[0] for node in made.graph.node if node.op_type == "QuantizeLinear"]
    assert read == ["x.rectified", "x.rectified", "ab"]


def test_symmetric_graphs_and_graphs_without_8_bits_stay_as_they_are(toy_bundle: Bundle) -> None:
    made = rewritten(quantised(0.1, 0, np.int8))
    weights = {weight.name: numpy_helper.to_array(weight) for weight in made.graph.initializer}
    assert weights["scale"] == np.float32(0.1)
    data = toy_bundle.graph("float32", "decoder").read_bytes()
    graph = Graph(data)
    make_symmetric(graph)
    assert [node.kind for node in graph.nodes] == [node.kind for node in Graph(data).nodes]


def test_one_scale_for_two_zero_points_is_refused() -> None:
    model = quantised(0.1, 3)
    model.graph.node[1].input[2] = "bias_zero"
    with pytest.raises(BundleError, match="stands for two scales"):
        make_symmetric(Graph(model.SerializeToString()))


def test_a_computed_scale_is_refused() -> None:
    model = quantised(0.1, 3)
    model.graph.node[0].input[1] = "x"
    with pytest.raises(BundleError, match="TensorRT wants a constant"):
        make_symmetric(Graph(model.SerializeToString()))


@pytest.mark.parametrize(
    "value", [np.float32(3), np.arange(6, dtype=np.int8).reshape(2, 3), np.zeros((0,), np.float16)]
)
def test_tensors_are_written_and_read_as_the_onnx_package_does(value: np.ndarray) -> None:
    value = np.asarray(value)
    theirs = numpy_helper.from_array(value, "w")
    np.testing.assert_array_equal(numbers(theirs.SerializeToString()), value)
    mine = onnx.TensorProto.FromString(constant("w", value))
    np.testing.assert_array_equal(numpy_helper.to_array(mine), value)
    assert (mine.name, mine.data_type) == ("w", theirs.data_type)


def test_a_tensor_stored_otherwise_is_refused() -> None:
    with pytest.raises(BundleError, match="weight w is stored in an unknown way"):
        numbers(helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0]).SerializeToString())


@pytest.mark.skipif(not DEFAULT_BUNDLE.exists(), reason="this checkout has no bundled model")
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_the_bundled_graphs_pass_the_gate_when_they_are_frozen(
    make_toolchain: Callable[[], Any], precision: str
) -> None:
    bundle = Bundle.load()
    if precision not in bundle.manifest.precisions:
        pytest.skip(f"the bundled model has no {precision} graphs")
    data = {graph: freeze(bundle, precision, graph, 2, 3) for graph in ("encoder", "decoder")}
    weights = onnx.load_from_string(data["decoder"]).graph.initializer
    assert not [weight.name for weight in weights if weight.data_type == TensorProto.UINT8]
    reference = gate.onnxruntime_side(bundle)
    with make_toolchain().side(bundle, precision, EnginePair(data["encoder"], data["decoder"], 2, 3)) as candidate:
        verdict = gate.compare(bundle, reference, candidate, 2, 3, gate.LIMITS[precision])
    reference.executor.close()
    assert verdict.problems == []
    assert verdict.log_prob > 0
