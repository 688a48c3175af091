"""A bundle's two graphs run bare: what a caption would cost without beam search, Python around it, or reduced pixels.

The decoder is cut: the selection and the gathering of states by parent are taken out of the graph, so that a raw step
is the network's arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.utils import Extractor

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import BundleError
from camscribe.runtime.onnxruntime_executor import open_session

_GATHERS = ("Gather", "GatherND", "GatherElements")
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
}
Arrays = dict[str, npt.NDArray[Any]]


def cut_decoder(source: Path, target: Path) -> list[str]:
    """Writes a decoder without selection: tokens, states and memory in; log-probabilities, attention and states out.

    Args:
        source: the bundle's decoder, weights beside it where they are external.
        target: the file to write, weights inside.

    Returns:
        The operators that were cut off, one for each node.

    Raises:
        BundleError: the graph gathers its states in a way that cannot be taken out.
    """
    model = onnx.load(source)
    before = [node.op_type for node in model.graph.node]
    reached = _reached(model.graph, "parent")
    for node in list(model.graph.node):
        if node.op_type in _GATHERS and node.input[1] in reached and node.input[0] not in reached:
            _replace(model.graph, node.output[0], node.input[0])
            model.graph.node.remove(node)
    names = [item.name for item in model.graph.input]
    inputs = [name for name in names if name == "token" or name.startswith(("state.", "memory."))]
    outputs = [
        item.name for item in model.graph.output if item.name in ("log_prob", "attention") or "state." in item.name
    ]
    cut = Extractor(model).extract_model(inputs, outputs)
    made = {*inputs, *(weight.name for weight in cut.graph.initializer)}
    made.update(name for node in cut.graph.node for name in node.output)
    unmade = {name for node in cut.graph.node for name in node.input if name} - made
    if unmade:
        raise BundleError(f"{source}: its step cannot be told from its selection: {', '.join(sorted(unmade))}")
    onnx.save(cut, target)
    for node in cut.graph.node:
        before.remove(node.op_type)
    return sorted(before)


def _reached(graph: onnx.GraphProto, start: str) -> set[str]:
    """Names of the tensors that depend on ``start`` before any state comes in."""
    reached = {start}
    states = {item.name for item in graph.input if item.name.startswith("state.")}
    for node in graph.node:  # in topological order, as ONNX demands
        if reached & set(node.input) and not states & set(node.input):
            reached |= set(node.output)
    return reached


def _replace(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


class RawGraphs:
    """Encoder and cut decoder with all memory bound beforehand, opened with the very options of the executor.

    Args:
        bundle: a loaded bundle.
        precision: one of its precisions.
        beams: K.
        folder: where the cut decoder is written.
        threads: None for one per physical core, as everywhere.
    """

    def __init__(self, bundle: Bundle, precision: str, beams: int, folder: Path, threads: int | None = None) -> None:
        target = folder / f"{precision}.cut.onnx"
        self.cut_off = cut_decoder(bundle.graph(precision, "decoder"), target)
        """Operators of the decoder that a raw step lacks."""
        positions = int(np.prod(bundle.manifest.attention_grid))
        sizes = {"B": 1, "K": beams, "P": positions, "V": bundle.manifest.vocabulary_size}
        self._encoder = open_session(bundle.graph(precision, "encoder"), "cpu", threads)
        self._decoder = open_session(target, "cpu", threads, steps=True)
        self._image = _arrays(self._encoder.get_inputs(), sizes)
        self._encoded = _arrays(self._encoder.get_outputs(), sizes)
        self._encode = _bind(self._encoder, self._image, self._encoded)
        inputs, outputs = self._decoder.get_inputs(), self._decoder.get_outputs()
        token = _arrays([item for item in inputs if item.name == "token"], sizes)
        token["token"][:] = bundle.manifest.special_tokens.start
        made = _arrays([item for item in outputs if "state." not in item.name], sizes)
        # Bindings hold addresses, not arrays.
        self._kept = (token, made)
        self._states = [_arrays([item for item in inputs if item.name.startswith("state.")], sizes) for _ in range(2)]
        self._steps = [
            _bind(
                self._decoder,
                {**self.memory(), **token, **self._states[now]},
                {**made, **{f"next_{name}": array for name, array in self._states[1 - now].items()}},
            )
            for now in (0, 1)
        ]

    def set_image(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Takes the image (uint8 [H, W, 3], reduced) and the states it begins with. Not to be timed."""
        self._image["image"][:] = pixels
        self._encoder.run_with_iobinding(self._encode)
        for name, state in self._states[0].items():
            state[:] = self._encoded[name][:, None]

    def memory(self) -> Arrays:
        """What the encoder made for the decoder, as views."""
        return {name: array for name, array in self._encoded.items() if name.startswith("memory.")}

    def states(self, parity: int) -> Arrays:
        """The states that steps of even (0) or odd (1) number begin with, as views."""
        return self._states[parity]

    def encode(self) -> None:
        """Runs the encoder."""
        self._encoder.run_with_iobinding(self._encode)

    def decode(self, steps: int) -> None:
        """Runs raw decoder steps."""
        run, bindings = self._decoder.run_with_iobinding, self._steps
        for step in range(steps):
            run(bindings[step % 2])

    def run(self, steps: int) -> None:
        """Encoder and steps."""
        self.encode()
        self.decode(steps)


def _arrays(arguments: list[Any], sizes: Mapping[str, int]) -> Arrays:
    """Memory for tensors of a session."""
    return {
        item.name: np.zeros([sizes[size] if isinstance(size, str) else size for size in item.shape], _DTYPES[item.type])
        for item in arguments
    }


def _bind(session: Any, inputs: Arrays, outputs: Arrays) -> Any:
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    return binding
