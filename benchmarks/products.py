"""ONNX files that hold nothing but a large matrix product, written by hand: a device has no onnx package.

What a machine computes at most is the rate at which it runs one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from camscribe.runtime.tensorrt.onnx_file import constant, node

_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "float16": 10}
"""Of ``TensorProto.DataType``."""
_IR, _OPSET = 8, 17


def product(kind: str, side: int, right: str | None = None) -> bytes:
    """``out = left x right``, of square matrices; ``right`` is constant, as in the graphs.

    Args:
        kind: type of ``left``: float32, float16, int8 or uint8. Sums of 8-bit numbers are int32.
        side: rows and columns.
        right: type of the constant; that of ``left`` where None.
    """
    integers = kind in ("int8", "uint8")
    weights = _weights(side).astype(right or kind) if integers else (_weights(side) / 64).astype(kind)
    step = node("MatMulInteger" if integers else "MatMul", ["left", "right"], ["out"]).data
    return _file([step], [constant("right", weights)], kind, "int32" if integers else kind, side)


def quantised(side: int, products: int) -> bytes:
    """A chain of products in 8 bits as TensorRT reads them: scales to and from float32 around each (Q/DQ).

    What leaves a product is scaled to 8 bits for the next one, so float32 comes in and goes out at the ends only.

    Args:
        side: rows and columns of all matrices.
        products: length of the chain.
    """
    constants = [
        constant("weights", _weights(side).astype(np.int8)),
        constant("scale", np.array(1 / 64, np.float32)),
        # By which the product of the matrices is about as large as what comes in.
        constant("weight_scale", np.array(1 / (37 * side**0.5), np.float32)),
        constant("zero", np.array(0, np.int8)),
    ]
    nodes = [node("DequantizeLinear", ["weights", "weight_scale", "zero"], ["right"])]
    value = "left"
    for index in range(products):
        small, wide, out = f"small{index}", f"wide{index}", "out" if index == products - 1 else f"out{index}"
        nodes += [
            node("QuantizeLinear", [value, "scale", "zero"], [small]),
            node("DequantizeLinear", [small, "scale", "zero"], [wide]),
            node("MatMul", [wide, "right"], [out]),
        ]
        value = out
    return _file([each.data for each in nodes], constants, "float32", "float32", side)


def left(kind: str, side: int) -> npt.NDArray[Any]:
    """Something to put in: 0 to 127, or 0 to 1 in floating point, whose sums half precision holds."""
    numbers = np.random.default_rng(0).integers(0, 128, (side, side))
    return numbers.astype(kind) if kind in ("int8", "uint8") else (numbers / 128).astype(kind)


def _weights(side: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(1).integers(-64, 64, (side, side))


def _file(nodes: Sequence[bytes], constants: Sequence[bytes], kind: str, out: str, side: int) -> bytes:
    def value(name: bytes, dtype: int) -> bytes:
        size = _field(1, _number(1, side))
        shape = _field(2, size + size)
        return _field(1, name) + _field(2, _field(1, _number(1, dtype) + shape))

    graph = b"".join(_field(1, each) for each in nodes) + _field(2, b"product")
    graph += b"".join(_field(5, each) for each in constants)
    graph += _field(11, value(b"left", _TYPES[kind])) + _field(12, value(b"out", _TYPES[out]))
    return _number(1, _IR) + _field(7, graph) + _field(8, _number(2, _OPSET))


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content
