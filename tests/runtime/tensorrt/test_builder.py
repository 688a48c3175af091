"""Building: the parts that need no GPU, and with one the whole."""

from __future__ import annotations

import _thread
import importlib
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import EngineError
from camscribe.runtime.tensorrt import builder, versions
from camscribe.runtime.tensorrt.freeze import freeze
from camscribe.runtime.tensorrt.onnx_file import Graph


def test_work_in_a_thread_gives_its_result_and_its_error() -> None:
    cancelled = threading.Event()
    assert builder.in_thread(lambda: 7, lambda: None, cancelled) == 7

    def fail() -> None:
        raise EngineError("no")

    with pytest.raises(EngineError, match="no"):
        builder.in_thread(fail, lambda: None, cancelled)
    assert not cancelled.is_set()


def test_a_long_build_is_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "HEARTBEAT_S", 0.01)
    beats: list[int] = []
    done = threading.Event()

    def beat() -> None:
        beats.append(1)
        if len(beats) == 3:
            done.set()

    assert builder.in_thread(lambda: done.wait(30), beat, threading.Event())
    assert len(beats) >= 3


def test_ctrl_c_cancels_a_build_and_waits_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "HEARTBEAT_S", 0.05)
    cancelled, ended = threading.Event(), threading.Event()

    def work() -> None:
        _thread.interrupt_main()
        cancelled.wait(30)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        builder.in_thread(work, lambda: time.sleep(0), cancelled)
    assert ended.is_set()
    assert not builder.is_running()


def test_a_parsers_errors_name_file_and_nodes(toy_bundle: Bundle) -> None:
    data = freeze(toy_bundle, "float32", "decoder", 1, 3)
    nodes = Graph(data).nodes
    at = next(index for index, node in enumerate(nodes) if node.kind == "TopK")
    errors = [(at, "Assertion failed:\n k must be constant"), (-1, "opset 99"), (9999, "x"), (0, "fourth")]
    said = builder.parse_problem("decoder.onnx", (8, 6, 1), data, errors)
    assert said.startswith("decoder.onnx: TensorRT 8.6.1 cannot read the graph: TopK that makes ")
    assert "Assertion failed: k must be constant; opset 99; x; and 1 more: export the bundle again" in said
    assert "\n" not in said
    assert "cannot read the graph" in builder.parse_problem("x", (8, 6, 1), b"rubbish", [])


class Layer(SimpleNamespace):
    """As much of ``ILayer`` as the constraints touch; the real one needs a GPU, and its names are checked elsewhere."""

    def get_input(self, index: int) -> Any:
        return self.inputs[index]

    def get_output(self, index: int) -> Any:
        return self.outputs[index]

    def set_output_type(self, index: int, dtype: Any) -> None:
        self.set_types[index] = dtype


def layer(kind: str, inputs: list[str], outputs: list[str]) -> Layer:
    sides = [[None if name == "none" else SimpleNamespace(dtype=name) for name in side] for side in (inputs, outputs)]
    return Layer(
        type=kind,
        inputs=sides[0],
        outputs=sides[1],
        num_inputs=len(inputs),
        num_outputs=len(outputs),
        precision=None,
        set_types={},
    )


def constrained(layers: list[Layer], quantized: bool = False, version: str = "8.6.1") -> set[str]:
    """Runs the constraints over a network; returns the flags that were set."""
    enums: dict[str, dict[str, str]] = {}
    for name in versions.MEMBERS:
        enum, _, member = name.partition(".")
        enums.setdefault(enum, {})[member] = member
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = version
    for enum, members in enums.items():
        setattr(trt, enum, SimpleNamespace(__members__=members))
    flags: set[str] = set()
    network = SimpleNamespace(num_layers=len(layers), get_layer=lambda index: layers[index])
    versions.constrain_precision(trt, network, SimpleNamespace(set_flag=flags.add), quantized=quantized)
    return flags


def test_weakly_typed_networks_are_held_to_the_types_of_their_graph() -> None:
    product = layer("MATRIX_MULTIPLY", ["HALF", "HALF"], ["HALF"])
    island = layer("SOFTMAX", ["FLOAT"], ["FLOAT"])
    best = layer("TOPK", ["FLOAT"], ["FLOAT", "INT32"])
    compared = layer("ELEMENTWISE", ["FLOAT", "FLOAT"], ["BOOL"])
    counted = layer("ELEMENTWISE", ["INT32", "INT32"], ["INT32"])
    optional = layer("SLICE", ["HALF", "none"], ["HALF"])
    fixed = [layer(kind, ["HALF"], ["FLOAT"]) for kind in ("CAST", "CONSTANT", "IDENTITY", "QUANTIZE", "DEQUANTIZE")]
    flags = constrained([product, island, best, compared, counted, optional, *fixed])
    assert flags == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}
    assert (product.precision, product.set_types) == ("HALF", {0: "HALF"})
    assert (island.precision, island.set_types) == ("FLOAT", {0: "FLOAT"})
    assert (best.precision, best.set_types) == ("FLOAT", {0: "FLOAT"})
    assert (compared.precision, compared.set_types) == ("FLOAT", {})
    assert (counted.precision, counted.set_types) == (None, {})
    assert (optional.precision, optional.set_types) == ("HALF", {0: "HALF"})
    assert all((item.precision, item.set_types) == (None, {}) for item in fixed)


def test_only_what_the_graph_holds_is_allowed() -> None:
    single = layer("CONVOLUTION", ["FLOAT"], ["FLOAT"])
    assert constrained([single]) == {"OBEY_PRECISION_CONSTRAINTS"}
    assert constrained([single], quantized=True) == {"INT8", "OBEY_PRECISION_CONSTRAINTS"}
    # Weights of the float32 graphs may be stored in half precision, and cast when they are read.
    assert "FP16" in constrained([layer("GATHER", ["HALF", "INT32"], ["HALF"]), single])
    assert constrained([layer("CAST", ["HALF"], ["FLOAT"])], version="8.5.3") >= {"FP16"}


def tensorrt() -> ModuleType:
    try:
        return importlib.import_module("tensorrt")
    except Exception as error:  # its own loader raises more than ImportError when a library is missing
        pytest.skip(f"TensorRT cannot be imported here: {error}")


def test_without_a_gpu_a_build_ends_in_one_line(toy_bundle: Bundle) -> None:
    trt = tensorrt()
    try:
        versions.require_driver()
    except EngineError:
        pass
    else:
        pytest.skip("this machine has a GPU")
    data = freeze(toy_bundle, "float32", "encoder", 1, 3)
    with pytest.raises(EngineError, match="TensorRT needs an NVIDIA GPU") as caught:
        builder.build(trt, data, "encoder.onnx", builder.Recipe(strong=False))
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_a_toy_graph_is_built_and_loads_again(toy_bundle: Bundle, graph: Any) -> None:
    trt = tensorrt()
    reports: list[str] = []
    data = freeze(toy_bundle, "float32", graph, 1, 3)
    strong = builder.typings(versions.version(trt), "float32")[0]
    recipe = builder.Recipe(strong, workspace_bytes=256 << 20)
    made = builder.build(trt, data, graph, recipe, lambda phase, share: reports.append(phase))
    assert reports
    engine = versions.deserialize(trt, made.engine)
    pair = toy_bundle.manifest.precisions["float32"]
    spec = pair.encoder if graph == "encoder" else pair.decoder
    names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    assert names == {item.name for item in (*spec.inputs, *spec.outputs)}
    again = builder.build(trt, data, graph, builder.Recipe(strong, timing_cache=made.timing_cache))
    assert again.engine


@pytest.mark.gpu
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"rubbish" * 100])
def test_a_truncated_engine_is_one_line(toy_bundle: Bundle, damage: Any) -> None:
    trt = tensorrt()
    strong = builder.typings(versions.version(trt), "float32")[0]
    made = builder.build(trt, freeze(toy_bundle, "float32", "encoder", 1, 3), "encoder", builder.Recipe(strong))
    with pytest.raises(EngineError, match="camscribe build") as caught:
        versions.deserialize(trt, damage(made.engine))
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
def test_a_graph_that_tensorrt_cannot_read_is_one_line(tmp_path: Path) -> None:
    trt = tensorrt()
    strong = builder.typings(versions.version(trt), "float32")[0]
    with pytest.raises(EngineError, match=r"rubbish\.onnx: TensorRT .* cannot read the graph") as caught:
        builder.build(trt, b"rubbish", "rubbish.onnx", builder.Recipe(strong))
    assert "\n" not in str(caught.value)
