"""Reading the engine inspector's JSON in the shapes of 8.x, 10.x and 11.x, as NVIDIA's guides and issues show them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camscribe.runtime.errors import EngineError
from camscribe.runtime.tensorrt import audit


def tensor(name: str, dtype: str, **more: Any) -> dict[str, Any]:
    return {"Name": name, "Location": "Device", "Dimensions": [1, 8, 4, 4], "Format/Datatype": dtype, **more}


ROW_FLOAT, ROW_HALF = "Row major linear FP32", "Row major linear FP16 format"
OLD = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to conv1 + relu1",
            "LayerType": "Reformat",
            "Inputs": [tensor("x", ROW_FLOAT)],
            "Outputs": [tensor("y", "Channel major FP16 format where channel % 4 == 0")],
            "ParameterType": "Reformat",
            "Origin": "REFORMAT",
            "TacticValue": "0x00000000000003ea",
            "StreamId": 0,
            "Metadata": "",
        },
        {
            "Name": "conv1 + relu1",
            "LayerType": "CaskConvolution",
            "Inputs": [tensor("y", "Channel major FP16 format where channel % 8 == 0")],
            "Outputs": [tensor("z", "Channel major FP16 format where channel % 8 == 0")],
            "ParameterType": "Convolution",
            "Kernel": [1, 1],
            "Weights": {"Type": "Half", "Count": 131072},
            "Bias": {"Type": "Half", "Count": 256},
            "Activation": "RELU",
            "TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x128x32_stage4",
            "TacticValue": "0x11bde0e1d9f2f35d",
        },
        {
            "Name": "{ForeignNode[/Constant_7_output_0.../Einsum_1]}",
            "LayerType": "Myelin",
            "Inputs": [tensor("z", ROW_FLOAT), tensor("token", "Row major Int32 tensor (Int32)")],
            "Outputs": [tensor("p", ROW_FLOAT)],
            "TacticValue": "0x0000000000000000",
        },
        {
            "Name": "conv2",
            "LayerType": "CaskConvolution",
            "Inputs": [tensor("z", "Thirty-two wide channel vectorized row major Int8 format.")],
            "Outputs": [tensor("q", "Thirty-two wide channel vectorized row major Int8 format.")],
            "Weights": {"Type": "Int8", "Count": 131072},
            "Bias": {"Type": "Float", "Count": 256},
        },
        {"Name": "where", "LayerType": "NoOp", "Inputs": [], "Outputs": [], "TacticValue": "0x0"},
    ],
    "Bindings": ["x", "p"],
}
TEN = {
    "Layers": [
        {
            "Name": "__myl_CastMulAdd_myl0_1",
            "LayerType": "kgen",
            "Inputs": [tensor("a", "Half"), tensor("i", "Int32")],
            "Outputs": [tensor("b", "Half")],
            "TacticName": "__myl_CastMulAdd_0x2c1a",
            "StreamId": 0,
            "Metadata": "[ONNX Layer: mul]\x1e[ONNX Layer: add]",
        },
        {
            "Name": "matmul_myl0_2",
            "LayerType": "gemm",
            "Inputs": [tensor("b", "Half"), tensor("w", "Half")],
            "Outputs": [tensor("c", "Float")],
            "TacticName": "sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize64x64x64_stage5",
        },
        {
            "Name": "softmax",
            "LayerType": "kgen",
            "Inputs": [tensor("c", "Float")],
            "Outputs": [tensor("p", "Float")],
        },
        {"Name": "topk", "LayerType": "TopK", "Inputs": [tensor("p", "Float")], "Outputs": [tensor("i", "Int32")]},
        {"Name": "add", "LayerType": "kgen", "Inputs": [tensor("i", "Int32")], "Outputs": [tensor("j", "Int32")]},
        {"Name": "__mye_wait", "LayerType": "wait", "Inputs": [], "Outputs": []},
    ],
    "Bindings": ["a", "j"],
}


def eleven(dtype: str) -> dict[str, Any]:
    """11.x: ``I/O Tensors`` for ``Bindings``, and format and type in fields of their own."""
    side = {"Name": "a", "Location": "Device", "Dimensions": [1, 8], "Format": "Row major linear", "DataType": dtype}
    return {
        "Layers": [{"Name": "gemm", "LayerType": "gemm", "Inputs": [side], "Outputs": [side]}],
        "I/O Tensors": [
            {
                "Name": "a",
                "IOMode": "Input",
                "DataType": "Float",
                "Dimensions": [1, 3, 224, 224],
                "Location": "Device",
                "IsShapeInferenceIO": False,
                "ProfileInfo": [{"Format": "Row major linear FP32 format (kLINEAR)"}],
            }
        ],
    }


@pytest.mark.parametrize(
    ("said", "layers"),
    [
        (OLD, {"half": 1, "float": 1, "int8": 1}),
        (TEN, {"half": 2, "float": 2, "other": 1}),
        (eleven("Half"), {"half": 1}),
        (eleven("BFloat16"), {"bfloat16": 1}),
        (eleven("Float"), {"float": 1}),
    ],
)
def test_layers_are_counted_by_the_lowest_type_they_compute_in(said: Any, layers: dict[str, int]) -> None:
    assert audit.read(json.dumps(said)).layers == layers


def test_the_share_counts_only_layers_that_compute_with_fractions() -> None:
    found = audit.read(json.dumps(TEN))
    assert found.share("half") == 0.5
    assert str(found) == "5 layers: 2 in half, 2 in float, 1 in other"
    assert audit.Audit({"other": 3}).share("half") == 0


def test_an_engine_without_the_precision_that_was_asked_for_is_refused() -> None:
    float_only = audit.read(json.dumps(eleven("Float")))
    with pytest.raises(EngineError, match="computes no layer in half") as caught:
        audit.check(float_only, "fp16", "encoder.onnx")
    assert "\n" not in str(caught.value)
    with pytest.raises(EngineError, match="computes no layer in int8"):
        audit.check(audit.read(json.dumps(TEN)), "int8", "encoder.onnx")
    audit.check(float_only, "float32", "encoder.onnx")
    audit.check(audit.read(json.dumps(TEN)), "fp16", "encoder.onnx")


def test_moving_half_precision_numbers_about_is_not_computing_in_it() -> None:
    moves = [
        {"Name": "r", "LayerType": kind, "Inputs": [tensor("a", "Half")], "Outputs": [tensor("b", "Float")]}
        for kind in ("Reformat", "Constant", "NoOp", "Shuffle", "Cast", "ShapeHostToDeviceCopy", "Identity")
    ]
    work = {"Name": "w", "LayerType": "gemm", "Inputs": [tensor("b", "Float")], "Outputs": [tensor("c", "Float")]}
    with pytest.raises(EngineError, match="no layer in half"):
        audit.check(audit.read(json.dumps({"Layers": [*moves, work]})), "fp16", "x")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ('{"Layers": ["conv1", "conv2"], "Bindings": []}', "names of layers only"),
        ('{"Layers": []}', "names of layers only"),
        ("{}", "not its JSON"),
        ("", "not its JSON"),
        ("null", "not its JSON"),
    ],
)
def test_other_answers_are_refused(said: str, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        audit.read(said)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["Layers", "LayerType", "Inputs", "Outputs", "Weights", "Bias", "Count", "Type", "DataType"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(said=JSON)
def test_whatever_the_inspector_writes_is_read_or_refused(said: Any) -> None:
    try:
        audit.read(json.dumps({"Layers": said}))
    except EngineError:
        return
