"""Just enough of ONNX's file format (protocol buffers) to freeze a graph without the onnx package.

Fields that are not named here are carried over as they are. Numbers of fields are those of ``onnx.proto``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from camscribe.runtime.errors import BundleError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_VALUE_INFO = 1, 5, 11, 12, 13
_NODE_INPUT, _NODE_OUTPUT, _NODE_KIND = 1, 2, 4
_TENSOR_DIMS, _TENSOR_DTYPE, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 2, 8, 9, 13, 14
_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16"}
"""Names of ``TensorProto.DataType``."""
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_TO_DIMENSION = (2, 1, 2, 1)
"""ValueInfo.type.tensor_type.shape.dim"""
_DIMENSION_VALUE, _DIMENSION_NAME = 1, 2


class Field(NamedTuple):
    """One field of a message."""

    number: int
    wire: int
    value: int | bytes


class Node(NamedTuple):
    """One operator; ``data`` is the whole of it."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    data: bytes


class Graph:
    """The graph of an ONNX file, taken apart.

    Args:
        data: the file's content.

    Raises:
        BundleError: it is no ONNX file.
    """

    def __init__(self, data: bytes) -> None:
        try:
            self._model = list(_fields(data))
            graph = next(field.value for field in self._model if field.number == _MODEL_GRAPH)
            self._rest: list[Field] = []
            self.nodes: list[Node] = []
            self.weights: dict[str, bytes] = {}
            """Tensors by name."""
            for field in _fields(_bytes(graph)):
                if field.number == _GRAPH_NODE:
                    self.nodes.append(_node(_bytes(field.value)))
                elif field.number == _GRAPH_INITIALIZER:
                    tensor = _bytes(field.value)
                    self.weights[_text(tensor, _TENSOR_NAME)[0]] = tensor
                elif field.number != _GRAPH_VALUE_INFO:  # types of what lies between can be inferred, and may be stale
                    self._rest.append(field)
        except (ValueError, IndexError, StopIteration) as error:
            raise BundleError(f"is not an ONNX graph ({error or 'it ends early'})") from error

    def freeze(self, sizes: Mapping[str, int], constants: Mapping[str, bytes]) -> None:
        """Gives inputs and outputs their sizes, and puts constants in the place of the nodes that would compute them.

        Args:
            sizes: by the name of a free size.
            constants: tensors by name. Of the outputs of a node, all count or none.
        """
        self._rest = [
            field._replace(value=_with_sizes(_bytes(field.value), sizes, _TO_DIMENSION))
            if field.number in (_GRAPH_INPUT, _GRAPH_OUTPUT)
            else field
            for field in self._rest
        ]
        kept = []
        for node in self.nodes:
            if all(name in constants for name in node.outputs if name):
                self.weights |= {name: constants[name] for name in node.outputs if name}
            else:
                kept.append(node)
        self.nodes = self._alive(kept)
        used = {name for node in self.nodes for name in node.inputs} | self._outputs()
        self.weights = {name: tensor for name, tensor in self.weights.items() if name in used}

    def inline(self, folder: Path, allowed: Set[str]) -> None:
        """Takes weights that lie in other files into the graph.

        Args:
            folder: where the files are.
            allowed: names of those that may be read.

        Raises:
            BundleError: a weight lies elsewhere, or its file is too short.
        """
        files: dict[str, bytes] = {}
        for name, tensor in self.weights.items():
            place = dict(_entries(tensor))
            if not place:
                continue
            file = place.get("location", "")
            if file not in allowed:
                raise BundleError(
                    f"weight {name} lies in {file!r}; expected {', '.join(sorted(allowed)) or 'the graph'}"
                )
            content = files.setdefault(file, (folder / file).read_bytes() if file not in files else b"")
            start, length = int(place.get("offset", 0)), int(place.get("length", len(content)))
            if start < 0 or length < 0 or start + length > len(content):
                raise BundleError(f"weight {name} lies beyond the end of {file}")
            rest = [f for f in _fields(tensor) if f.number not in (_TENSOR_EXTERNAL, _TENSOR_LOCATION, _TENSOR_RAW)]
            self.weights[name] = _join([*rest, Field(_TENSOR_RAW, _BYTES, content[start : start + length])])

    def add_outputs(self, names: Iterable[str]) -> None:
        """Hands out tensors that lie within the graph; readers of the file infer their types and sizes."""
        added = set(names) - self._outputs()
        self._rest += [Field(_GRAPH_OUTPUT, _BYTES, _join([Field(1, _BYTES, name.encode())])) for name in sorted(added)]

    def to_bytes(self) -> bytes:
        """The content of an ONNX file."""
        graph = _join(
            [
                *(Field(_GRAPH_NODE, _BYTES, node.data) for node in self.nodes),
                *(Field(_GRAPH_INITIALIZER, _BYTES, tensor) for tensor in self.weights.values()),
                *self._rest,
            ]
        )
        return _join([f._replace(value=graph) if f.number == _MODEL_GRAPH else f for f in self._model])

    def _outputs(self) -> set[str]:
        return {_text(_bytes(field.value), 1)[0] for field in self._rest if field.number == _GRAPH_OUTPUT}

    def _alive(self, nodes: list[Node]) -> list[Node]:
        """Without those that nothing reads; nodes come before their readers."""
        used, kept = self._outputs(), []
        for node in reversed(nodes):
            if used.intersection(node.outputs):
                used.update(node.inputs)
                kept.append(node)
        return kept[::-1]


def numbers(tensor: bytes) -> npt.NDArray[Any]:
    """What a tensor of a graph holds.

    Raises:
        BundleError: it is stored in a way that export does not use.
    """
    shape: list[int] = []
    dtype, raw = 0, None
    for field in _fields(tensor):
        if field.number == _TENSOR_DIMS:
            shape += [field.value] if isinstance(field.value, int) else _packed(field.value)
        elif field.number == _TENSOR_DTYPE and isinstance(field.value, int):
            dtype = field.value
        elif field.number == _TENSOR_RAW:
            raw = _bytes(field.value)
    if dtype not in _DTYPES or raw is None or len(raw) != math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize:
        raise BundleError(f"weight {_text(tensor, _TENSOR_NAME)[0]} is stored in an unknown way; export it again")
    return np.frombuffer(raw, _DTYPES[dtype]).reshape(shape)


def constant(name: str, value: npt.NDArray[Any]) -> bytes:
    """A tensor of a graph."""
    dtype = next(number for number, known in _DTYPES.items() if known == value.dtype.name)
    return _join(
        [
            *(Field(_TENSOR_DIMS, _VARINT, size) for size in value.shape),
            Field(_TENSOR_DTYPE, _VARINT, dtype),
            Field(_TENSOR_NAME, _BYTES, name.encode()),
            Field(_TENSOR_RAW, _BYTES, value.tobytes()),
        ]
    )


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str]) -> Node:
    """A node without attributes."""
    names = [(_NODE_INPUT, name) for name in inputs] + [(_NODE_OUTPUT, name) for name in outputs]
    data = _join([*(Field(number, _BYTES, name.encode()) for number, name in [*names, (_NODE_KIND, kind)])])
    return Node(kind, tuple(inputs), tuple(outputs), data)


def reading(other: Node, old: str, new: str) -> Node:
    """A node that reads another tensor, and is the same otherwise."""
    fields = (
        field._replace(value=new.encode()) if (field.number, field.value) == (_NODE_INPUT, old.encode()) else field
        for field in _fields(other.data)
    )
    return _node(_join(list(fields)))


def _packed(data: bytes) -> list[int]:
    found, at = [], 0
    while at < len(data):
        number, at = _read_varint(data, at)
        found.append(number)
    return found


def _node(data: bytes) -> Node:
    kind = _text(data, _NODE_KIND)[0]
    return Node(kind, tuple(_text(data, _NODE_INPUT)), tuple(_text(data, _NODE_OUTPUT)), data)


def _entries(tensor: bytes) -> Iterator[tuple[str, str]]:
    """Where an external tensor lies: ``location``, ``offset`` and ``length``."""
    for field in _fields(tensor):
        if field.number == _TENSOR_EXTERNAL:
            entry = _bytes(field.value)
            yield _text(entry, _ENTRY_KEY)[0], _text(entry, _ENTRY_VALUE)[0]


def _with_sizes(data: bytes, sizes: Mapping[str, int], path: tuple[int, ...]) -> bytes:
    """A message with the named sizes filled in, in the messages that ``path`` leads to."""
    if not path:
        names = _text(data, _DIMENSION_NAME)
        known = names and names[0] in sizes
        return _join([Field(_DIMENSION_VALUE, _VARINT, sizes[names[0]])]) if known else data
    return _join(
        [
            field._replace(value=_with_sizes(_bytes(field.value), sizes, path[1:]))
            if field.number == path[0]
            else field
            for field in _fields(data)
        ]
    )


def _text(data: bytes, number: int) -> list[str]:
    return [_bytes(field.value).decode() for field in _fields(data) if field.number == number]


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return value


def _fields(data: bytes) -> Iterator[Field]:
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        wire = key & 7
        if wire == _VARINT:
            number, at = _read_varint(data, at)
            yield Field(key >> 3, wire, number)
            continue
        if wire == _BYTES:
            length, at = _read_varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + length > len(data):
            raise ValueError("it ends early")
        yield Field(key >> 3, wire, data[at : at + length])
        at += length


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _join(fields: list[Field]) -> bytes:
    parts = []
    for number, wire, value in fields:
        parts.append(_varint(number << 3 | wire))
        if isinstance(value, int):
            parts.append(_varint(value))
        else:
            parts += [_varint(len(value)), value] if wire == _BYTES else [value]
    return b"".join(parts)
