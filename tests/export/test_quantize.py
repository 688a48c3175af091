"""Weights in 8 bits: how near they are, and that no product of neighbours overflows 16 bits where there is no VNNI."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

from camscribe.export.parity import distance
from camscribe.export.quantize import Plan, quantize_weight

WEIGHTS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.integers(1, 5)),
    elements=st.floats(-100, 100, width=32, allow_subnormal=False),
)


@given(WEIGHTS)
def test_two_neighbours_fit_16_bits_and_all_are_within_half_a_step(weight: np.ndarray) -> None:
    for axis, along, matrix in ((1, 0, weight), (0, 1, weight.T)):
        made = quantize_weight(matrix, axis, along=along)
        numbers = made.value.astype(np.int64) if along == 0 else made.value.T.astype(np.int64)  # [sum, outputs]
        for sign in (1, -1):
            large = np.maximum(sign * numbers, 0)
            assert np.all((large[:-1] + large[1:]) * 255 < 2**15)
        steps = made.scale[None, :] if axis == 1 else made.scale[:, None]
        assert np.all(np.abs(made.error) <= steps * 0.501)
        np.testing.assert_allclose(made.value * steps + made.error, matrix, rtol=1e-5, atol=1e-6)


def test_neighbours_cost_less_than_a_bit() -> None:
    weight = np.random.default_rng(0).normal(size=(1, 512)).astype(np.float32)
    exact, paired, seven = (
        np.square(quantize_weight(weight, 0, **options).error).mean() for options in ({}, {"along": 1}, {"bits": 7})
    )
    assert exact <= paired < 0.7 * seven


def test_weights_of_one_sign_take_the_room_of_both() -> None:
    assert quantize_weight(np.array([[1.0, 1.0]], np.float32), 0, along=1).value.tolist() == [[64, 64]]
    assert quantize_weight(np.array([[1.0, -1.0]], np.float32), 0, along=1).value.tolist() == [[127, -127]]
    assert quantize_weight(np.array([[1.0, 0.0, 1.0]], np.float32), 0, along=1).value.tolist() == [[127, 0, 127]]
    assert quantize_weight(np.array([[1.0]], np.float32), 0, along=1).value.tolist() == [[127]]


@pytest.mark.parametrize("value", [0.0, 1e-30])
def test_dead_channels_are_zeros(value: float) -> None:
    assert not quantize_weight(np.full((2, 3), value, np.float32), 0, along=1).value.any()


def test_a_weight_that_two_products_read_stays_as_it_is() -> None:
    """As those of a detector's head on all levels of its pyramid, each of which sees other ranges."""
    weight = np.ones((4, 4, 1, 1), np.float32)
    nodes = [helper.make_node("Conv", [name, "weight"], [f"{name}.out"]) for name in ("one", "two")]
    infos = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8])
        for name in ("one", "two", "one.out", "two.out")
    }
    graph = helper.make_graph(
        nodes,
        "heads",
        [infos["one"], infos["two"]],
        [infos["one.out"], infos["two.out"]],
        [numpy_helper.from_array(weight, "weight")],
    )
    assert Plan(helper.make_model(graph)).products == []
    nodes[1].input[1] = "other"
    graph.node[1].input[1] = "other"
    graph.initializer.append(numpy_helper.from_array(weight, "other"))
    assert len(Plan(helper.make_model(graph)).products) == 2


def test_what_one_alone_rules_out_and_other_integers_are_infinitely_far() -> None:
    sure = np.array([-0.1, -1e9], np.float32)
    assert distance(sure, sure) == 0
    assert distance(np.array([-0.1, -0.2], np.float32), sure) == distance(sure, sure[::-1]) == np.inf
    assert distance(np.array([1, 2], np.int32), np.array([1, 3], np.int32)) == np.inf
