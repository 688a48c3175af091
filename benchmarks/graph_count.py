"""Operations and bytes of a graph by the types that are written in its file, for devices that compute in them.

A CPU computes half precision in float32 and so moves four bytes for each half; what ONNX Runtime's profile says of it
(``graph_cost``) is what that CPU does. A GPU reads a half as two bytes. So here the graph is run once on the CPU with
every factor of a product as an output, and ONNX Runtime hands these out in the types and sizes that they have in the
file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from camscribe.benchmarks.graph_cost import count, inputs
from camscribe.runtime.errors import BundleError
from camscribe.runtime.tensorrt.onnx_file import Graph, Node, numbers

RATES = ("float32", "fp16", "int8")
"""Of products, the widest numbers first."""
_PRODUCTS = ("Conv", "MatMul", "Gemm")
_PASSED_ON = ("Clip", "Identity", "Relu", "Reshape", "Transpose")
"""Operators that leave the type as it is, and that engines fuse with their neighbours."""
_EIGHT_BITS = ("int8", "uint8")


@dataclass(frozen=True)
class Work:
    """What one run of a graph must do at least."""

    macs: dict[str, int]
    """Multiply-adds by rate: ``float32``, ``fp16``, ``int8``."""
    weight_bytes: int
    """Of the weights of all products, each read once."""
    activation_bytes: int
    """Inputs and outputs of all products, each once."""


def work(path: Path, external: Collection[str], sizes: Mapping[str, int]) -> Work:
    """Counts a graph.

    A product is of the rate of its factors: ``int8`` where both come from 8 bits, ``fp16`` where both are halves. A
    weight that is cast is one of the type it is cast to: runtimes cast constants once, when they open the graph.

    Args:
        path: ONNX file.
        external: files beside it that its weights may lie in.
        sizes: of the free sizes, by name.

    Raises:
        BundleError: the graph is damaged, or does not run with these sizes.
    """
    import onnxruntime

    try:
        graph = Graph(path.read_bytes())
        graph.inline(path.parent, frozenset(external))
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from error
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    products = [each for each in graph.nodes if any(kind in each.kind for kind in _PRODUCTS)]
    makers = {name: each for each in graph.nodes for name in each.outputs}
    wanted = list(
        dict.fromkeys(name for each in products for name in (*each.inputs, each.outputs[0]) if name in makers)
    )
    graph.add_outputs(wanted)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(graph.to_bytes(), options, providers=["CPUExecutionProvider"])
        feeds = inputs(session, sizes)
        arrays = dict(zip(wanted, session.run(wanted, feeds), strict=True)) | feeds
    except Exception as error:  # the errors of ONNX Runtime have no base of their own
        raise BundleError(f"{path}: does not run with {dict(sizes)} ({' '.join(str(error).split()):.200})") from error
    arrays |= {name: numbers(graph.weights[name]) for each in products for name in each.inputs if name in graph.weights}
    return _add_up(products, graph.nodes, arrays)


def _add_up(products: Sequence[Node], nodes: Sequence[Node], arrays: Mapping[str, npt.NDArray[Any]]) -> Work:
    makers = {name: each for each in nodes for name in each.outputs}
    readers: dict[str, list[Node]] = {}
    for each in nodes:
        for name in each.inputs:
            readers.setdefault(name, []).append(each)
    macs = dict.fromkeys(RATES, 0)
    weight_bytes = activation_bytes = 0
    for each in products:
        read = [(_read_as(name, arrays, makers), arrays[name].shape) for name in each.inputs if name in arrays]
        out = each.outputs[0]
        counted = count(
            "",
            {
                "op_name": each.kind,
                "input_type_shape": [{kind: shape} for kind, shape in read],
                "output_type_shape": [{_written_as(out, arrays, readers): arrays[out].shape}],
            },
            0.0,
        )
        macs[_rate([kind for kind, shape in read if len(shape) >= 2][:2])] += counted.macs
        weight_bytes += counted.weight_bytes
        activation_bytes += counted.activation_bytes
    return Work(macs, weight_bytes, activation_bytes)


def _read_as(name: str, arrays: Mapping[str, npt.NDArray[Any]], makers: Mapping[str, Node]) -> str:
    """Type in which a device reads a factor: that of the 8 bits that it is scaled from, where it is."""
    maker = makers.get(name)
    while maker is not None and maker.kind in _PASSED_ON:
        maker = makers.get(maker.inputs[0])
    return "int8" if maker is not None and maker.kind == "DequantizeLinear" else _type(arrays[name])


def _written_as(name: str, arrays: Mapping[str, npt.NDArray[Any]], readers: Mapping[str, Sequence[Node]]) -> str:
    """Type in which a device writes a product: that of the 8 bits that it is scaled to, where that is all it is for."""
    kind, following = _type(arrays[name]), readers.get(name, ())
    while len(following) == 1 and following[0].kind in _PASSED_ON:
        following = readers.get(following[0].outputs[0], ())
    return "int8" if following and all(each.kind == "QuantizeLinear" for each in following) else kind


def _type(array: npt.NDArray[Any]) -> str:
    """As ONNX Runtime's profile names it."""
    name = str(array.dtype.name)
    return {"float32": "float", "float64": "double"}.get(name, name)


def _rate(factors: Sequence[str]) -> str:
    if all(kind in _EIGHT_BITS for kind in factors):
        return "int8"
    return "fp16" if all(kind == "float16" for kind in factors) else "float32"
