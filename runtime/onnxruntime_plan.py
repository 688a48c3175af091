"""Memory and bindings of one size of batch, made once, for the ONNX Runtime executor.

A step's small outputs lie in row t + 1 of the trace, which is the next step's input; only the states ping-pong. So the
bindings of all steps are known beforehand, and a step is one call that copies and allocates nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from camscribe.runtime.errors import EngineError
from camscribe.runtime.manifest import BOXES, Device, GraphPair, Manifest, TensorSpec
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import Floats, Selection, Trace, initial_score

_TRACE = ("token", "parent", "score", "ended_score", "ended_parent")
"""Rows of the trace; the first three are inputs of the next step, and all are outputs (some as ``next_*``)."""
_ALIGNMENT = 16
"""Rows begin at multiples of this many numbers, 64 bytes, which suits any vectorised kernel."""


class Buffer:
    """Memory that graphs read and write, and its image on the host; on a CPU the two are one."""

    def __init__(self, runtime: ModuleType, device: Device, dtype: str, shape: Sequence[int]) -> None:
        self.host: npt.NDArray[Any] = np.zeros(shape, dtype)
        self._value = None if device == "cpu" else runtime.OrtValue.ortvalue_from_numpy(self.host, device, 0)
        self.pointer = int(self.host.ctypes.data if self._value is None else self._value.data_ptr())

    def row(self, *index: int) -> int:
        """Address of a row (or of a row of a row)."""
        return self.pointer + sum(i * stride for i, stride in zip(index, self.host.strides, strict=False))

    def upload(self) -> None:
        """Makes the device see what the host wrote."""
        if self._value is not None:
            self._value.update_inplace(self.host)

    def download(self) -> None:
        """Makes the host see what the device wrote."""
        if self._value is not None:
            self.host[...] = self._value.numpy()


class Plan:
    """Memory and bindings of the search for B images with K beams in at most T steps.

    Args:
        runtime: the ``onnxruntime`` module.
        device: where both sessions run.
        encoder, decoder: the sessions.
        manifest: of the bundle.
        pair: the tensors of the sessions.
        images, beams, steps: B, K and T.
    """

    def __init__(
        self,
        runtime: ModuleType,
        device: Device,
        encoder: Any,
        decoder: Any,
        manifest: Manifest,
        pair: GraphPair,
        images: int,
        beams: int,
        steps: int,
    ) -> None:
        positions = math.prod(manifest.attention_grid)
        sizes = {"B": images, "K": beams, "P": positions, "V": manifest.vocabulary_size}

        def buffer(spec: TensorSpec) -> Buffer:
            return Buffer(runtime, device, spec.dtype, _shape(spec, sizes))

        def padded(dtype: str, *shape: int) -> Buffer:
            return Buffer(runtime, device, dtype, (*shape[:-1], -(-shape[-1] // _ALIGNMENT) * _ALIGNMENT))

        self._device, self._pair, self._sizes = device, pair, sizes
        self._proposed: Buffer | None = None
        self._proposals: dict[int, Any] = {}
        self._image = buffer(pair.encoder.inputs[0])
        self._encoded = {spec.name: buffer(spec) for spec in pair.encoder.outputs}
        self._small = {spec.name: buffer(spec) for spec in pair.decoder.inputs if spec.name in ("min_words", "bias")}
        self._positions = padded("int32", steps, 1)
        self._positions.host[:] = np.arange(steps, dtype=np.int32)[:, None]
        self._positions.upload()
        states = [spec for spec in pair.decoder.inputs if spec.name.startswith("state.")]
        self._states = [{spec.name: buffer(spec) for spec in states} for _ in range(2)]
        # One block, so that one copy fetches it from a GPU. Row 0 is the start, row t + 1 what step t selected.
        self._rows = padded("int32", len(_TRACE), steps + 1, images * beams)
        self._attention = padded("float32", steps, images * beams * positions)
        columns = [
            (block.view(np.float32) if "score" in name else block)[:, : images * beams].reshape(-1, images, beams)
            for name, block in zip(_TRACE, self._rows.host, strict=True)
        ]
        weights = self._attention.host[:, : images * beams * positions].reshape(steps, images, beams, positions)
        self._trace = Trace(columns[0], columns[1], columns[2], columns[3], columns[4], weights)
        self._trace.token[0] = manifest.special_tokens.start
        self._trace.parent[0] = np.arange(beams)
        self._trace.score[0] = initial_score(images, beams)
        self._looks: list[Trace | None] = [None] * (steps + 1)
        self._rows.upload()
        self._at = encoded = {name: made.pointer for name, made in self._encoded.items()}
        self.encoder_binding = _bind(encoder, device, pair.encoder.inputs, {"image": self._image.pointer}, sizes)
        _bind_outputs(self.encoder_binding, device, pair.encoder.outputs, encoded, sizes)
        self.bindings = [self._decoder_binding(decoder, step) for step in range(steps)]
        """Of each step."""
        self.options: list[Any] = [None] * steps
        """Of each step: what ``run_with_iobinding`` is told besides."""

    def _decoder_binding(self, decoder: Any, step: int, log_prob: Buffer | None = None) -> Any:
        pair, encoded = self._pair, self._at
        now, then = self._states[step % 2], self._states[(step + 1) % 2]
        inputs = {
            **{name: memory for name, memory in encoded.items() if name.startswith("memory.")},
            **{name: self._rows.row(_TRACE.index(name), step) for name in ("token", "parent", "score")},
            **{name: state.pointer for name, state in now.items()},
            **{name: small.pointer for name, small in self._small.items()},
            "step": self._positions.row(step),
        }
        outputs = {
            **{f"next_{name}": self._rows.row(_TRACE.index(name), step + 1) for name in ("token", "parent", "score")},
            **{name: self._rows.row(_TRACE.index(name), step + 1) for name in ("ended_score", "ended_parent")},
            **{f"next_{name}": state.pointer for name, state in then.items()},
            "attention": self._attention.row(step),
            **({} if log_prob is None else {"log_prob": log_prob.pointer}),
        }
        binding = _bind(decoder, self._device, pair.decoder.inputs, inputs, self._sizes)
        _bind_outputs(binding, self._device, pair.decoder.outputs, outputs, self._sizes)
        return binding

    def proposal(self, runtime: ModuleType, decoder: Any, step: int) -> tuple[Any, Any]:
        """Binding and options of a step whose log-probabilities the host wants; made when first asked for."""
        if self._proposed is None:
            spec = next(spec for spec in self._pair.decoder.outputs if spec.name == "log_prob")
            self._proposed = Buffer(runtime, self._device, spec.dtype, _shape(spec, self._sizes))
        if step not in self._proposals:
            self._proposals[step] = self._decoder_binding(decoder, step, self._proposed)
        options = None
        if self.options[step] is not None:
            options = runtime.RunOptions()
            options.add_run_config_entry("gpu_graph_id", "-1")  # recorded graphs have other outputs
        return self._proposals[step], options

    def log_prob(self) -> Floats:
        """What the last proposal holds, float32 [B, K, V]."""
        if self._proposed is None:
            raise EngineError("log_prob was asked for before a proposal")
        self._proposed.download()
        return self._proposed.host

    def choose(self, step: int, selection: Selection) -> None:
        """Writes a selection over that of step ``step - 1``."""
        if self._device != "cpu":
            self._rows.download()  # the rows before are the device's
        trace = self._trace
        for column, value in zip(
            (trace.token, trace.parent, trace.score, trace.ended_score, trace.ended_parent), selection, strict=True
        ):
            column[step] = value
        self._rows.upload()

    def boxes(self) -> Floats | None:
        """What the encoder made of that name, float32 [B, P, 4], as a view; None where it makes none."""
        made = self._encoded.get(BOXES)
        if made is None:
            return None
        made.download()
        return made.host

    def record_steps(self, runtime: ModuleType, first: int) -> None:
        """Gives each step's CUDA graph a number of its own, from ``first`` on: its addresses are those of no other."""
        for step in range(len(self.bindings)):
            self.options[step] = runtime.RunOptions()
            self.options[step].add_run_config_entry("gpu_graph_id", str(first + step + 1))

    def start(self, images: Pixels, min_words: int, bias: Floats) -> None:
        """Takes the inputs of a search."""
        for buffer, value in (
            (self._image, images),
            (self._small["min_words"], min_words),
            (self._small["bias"], bias),
        ):
            buffer.host[...] = value
            buffer.upload()

    def spread_states(self) -> None:
        """Copies the states that the encoder made to all beams of their image."""
        for name, state in self._states[0].items():
            made = self._encoded[name]
            made.download()
            state.host[...] = made.host[:, None]
            state.upload()

    def read(self, steps: int, *, attention: bool) -> Trace:
        """The first ``steps`` steps, as views."""
        self._rows.download()
        trace, end = self._trace, steps + 1
        # A search looks after every step, and making the views takes longer than reading them.
        look = self._looks[steps]
        if look is None:
            look = self._looks[steps] = Trace(
                trace.token[1:end],
                trace.parent[1:end],
                trace.score[1:end],
                trace.ended_score[1:end],
                trace.ended_parent[1:end],
            )
        if not attention or trace.attention is None:
            return look
        self._attention.download()
        return replace(look, attention=trace.attention[:steps])


def _shape(spec: TensorSpec, sizes: Mapping[str, int]) -> list[int]:
    """The shape of a tensor with its free sizes filled in."""
    unknown = [size for size in spec.shape if isinstance(size, str) and size not in sizes]
    if unknown:
        raise EngineError(f"tensor {spec} has sizes nobody knows: {', '.join(unknown)}; expected {', '.join(sizes)}")
    shape = [sizes[size] if isinstance(size, str) else size for size in spec.shape]
    if math.prod(shape) > 1 << 40:
        raise MemoryError
    return shape


def _bind(
    session: Any, device: Device, specs: Sequence[TensorSpec], pointers: Mapping[str, int], sizes: Mapping[str, int]
) -> Any:
    binding = session.io_binding()
    for spec in specs:
        binding.bind_input(spec.name, device, 0, np.dtype(spec.dtype), _shape(spec, sizes), pointers[spec.name])
    return binding


def _bind_outputs(
    binding: Any, device: Device, specs: Sequence[TensorSpec], pointers: Mapping[str, int], sizes: Mapping[str, int]
) -> None:
    """Binds the outputs that are wanted; others, as a rule ``log_prob``, are never fetched."""
    for spec in specs:
        if spec.name in pointers:
            shape = _shape(spec, sizes)
            binding.bind_output(spec.name, device, 0, np.dtype(spec.dtype), shape, pointers[spec.name])
