"""Where every tensor of a search lies, for engines of fixed sizes: plain arithmetic, no device.

A step's small outputs lie in row t + 1 of the trace, which is the next step's input; only the states ping-pong. So the
addresses of all steps are known beforehand, and whole intervals of steps can be captured in one CUDA graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from camscribe.runtime.errors import EngineError
from camscribe.runtime.manifest import BOXES, GraphPair, Manifest, TensorSpec

TRACE = ("token", "parent", "score", "ended_score", "ended_parent")
"""Columns of the trace; the first three are inputs of the next step, and all are outputs (some as ``next_*``)."""
ALIGNMENT = 256
"""TensorRT wants the address of every tensor to be a multiple of this."""


@dataclass(frozen=True)
class Span:
    """A tensor's place in a block of memory."""

    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.offset + self.bytes


class Block:
    """A block of memory being laid out."""

    def __init__(self) -> None:
        self.bytes = 0

    def add(self, dtype: str, shape: Sequence[int]) -> Span:
        """Takes aligned space for a tensor."""
        span = Span(aligned(self.bytes), dtype, tuple(shape))
        self.bytes = span.end
        return span


class Plan:
    """The two blocks of memory of a search for B images with K beams in at most T steps, and who reads what in them.

    ``shared`` is what host and GPU both see: first the inputs, then what never changes, then the trace, then the
    attention, then the boxes it is on, so that each is one copy. ``private`` is for the GPU alone.

    Args:
        manifest: of the bundle.
        pair: the tensors of the two graphs.
        images, beams, steps: B, K and T.

    Raises:
        EngineError: a tensor has a size that nobody knows.
    """

    def __init__(self, manifest: Manifest, pair: GraphPair, images: int, beams: int, steps: int) -> None:
        self.pair = pair
        self.images, self.beams, self.steps = images, beams, steps
        self.positions = math.prod(manifest.attention_grid)
        self.sizes = {"B": images, "K": beams, "P": self.positions, "V": manifest.vocabulary_size}
        shared, private = Block(), Block()
        inputs = {spec.name: spec for spec in pair.decoder.inputs}
        self.min_words = shared.add("int32", (1,))
        self.bias = self._add(shared, inputs["bias"])
        self.image = self._add(shared, pair.encoder.inputs[0])
        self.step_numbers = shared.add("int32", (steps, _padded(1)))
        # Step by step, so that the steps since the last look are one piece.
        self.rows = shared.add("int32", (steps + 1, len(TRACE), _padded(images * beams)))
        self.attention = shared.add("float32", (steps, _padded(images * beams * self.positions)))
        self.boxes = next((self._add(shared, spec) for spec in pair.encoder.outputs if spec.name == BOXES), None)
        # For a host that selects by itself; behind everything else, so that no other copy takes it along.
        self.log_prob = shared.add("float32", (images, beams, manifest.vocabulary_size))
        self.shared_bytes = shared.bytes
        self.encoded = {spec.name: self._add(private, spec) for spec in pair.encoder.outputs if spec.name != BOXES}
        states = [spec for spec in pair.decoder.inputs if spec.name.startswith("state.")]
        self.states = [{spec.name: self._add(private, spec) for spec in states} for _ in range(2)]
        # An engine writes every output it has, wanted or not.
        self.unread = {spec.name: self._add(private, spec) for spec in pair.decoder.outputs if spec.name == "log_prob"}
        self.private_bytes = private.bytes

    def encoder(self, private: int, shared: int, image: int | None = None) -> dict[str, int]:
        """Addresses of the encoder's tensors.

        Args:
            private, shared: where the two blocks begin on the GPU.
            image: where the images lie, None for in the shared block.
        """
        made = {name: private + span.offset for name, span in self.encoded.items()}
        if self.boxes is not None:
            made[BOXES] = shared + self.boxes.offset
        return {"image": shared + self.image.offset if image is None else image, **made}

    def decoder(self, private: int, shared: int, step: int) -> dict[str, int]:
        """Addresses of the decoder's tensors in a step."""
        now, then = self.states[step % 2], self.states[(step + 1) % 2]
        row, next_row = shared + self._row(step), shared + self._row(step + 1)
        column = self.rows.shape[2] * 4
        at = {name: index * column for index, name in enumerate(TRACE)}
        return {
            **{name: private + span.offset for name, span in self.encoded.items() if name.startswith("memory.")},
            **{name: row + at[name] for name in ("token", "parent", "score")},
            **{name: private + span.offset for name, span in now.items()},
            "step": shared + self.step_numbers.offset + step * self.step_numbers.shape[1] * 4,
            "min_words": shared + self.min_words.offset,
            "bias": shared + self.bias.offset,
            **{f"next_{name}": next_row + at[name] for name in ("token", "parent", "score")},
            **{name: next_row + at[name] for name in ("ended_score", "ended_parent")},
            **{f"next_{name}": private + span.offset for name, span in then.items()},
            "attention": shared + self.attention.offset + step * self.attention.shape[1] * 4,
            **{name: private + span.offset for name, span in self.unread.items()},
        }

    def spread(self, private: int) -> list[tuple[int, int, int]]:
        """Copies (target, source, bytes) on the GPU that give the states the encoder made to all beams of their image.

        One for each image and beam: the pitches of a two-dimensional copy would have to please the driver.
        """
        copies = []
        for name, target in self.states[0].items():
            source = self.encoded[name]
            size = source.bytes // self.images
            copies += [
                (
                    private + target.offset + (image * self.beams + beam) * size,
                    private + source.offset + image * size,
                    size,
                )
                for image in range(self.images)
                for beam in range(self.beams)
            ]
        return copies

    def inputs(self, *, image: bool) -> tuple[int, int]:
        """Begin and end of the inputs in the shared block, with the images or without."""
        return self.min_words.offset, self.image.end if image else self.bias.end

    def rows_of(self, first: int, last: int) -> tuple[int, int]:
        """Begin and end, in the shared block, of what steps ``first`` to ``last - 1`` selected."""
        return self._row(first + 1), self._row(last + 1)

    def attention_of(self, steps: int) -> tuple[int, int]:
        """Begin and end of the attention of the first ``steps`` steps."""
        return self.attention.offset, self.attention.offset + steps * self.attention.shape[1] * 4

    def shape(self, spec: TensorSpec) -> tuple[int, ...]:
        """The shape of a tensor with its free sizes filled in."""
        return fixed_shape(spec, self.sizes)

    def _add(self, block: Block, spec: TensorSpec) -> Span:
        return block.add(spec.dtype, self.shape(spec))

    def _row(self, index: int) -> int:
        return self.rows.offset + index * self.rows.shape[1] * self.rows.shape[2] * 4


def fixed_shape(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a tensor with its free sizes filled in.

    Raises:
        EngineError: a size is not among ``sizes``.
    """
    unknown = [size for size in spec.shape if isinstance(size, str) and size not in sizes]
    if unknown:
        raise EngineError(f"tensor {spec} has sizes nobody knows: {', '.join(unknown)}; expected {', '.join(sizes)}")
    return tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape)


def aligned(size: int) -> int:
    """The next multiple of ``ALIGNMENT``."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _padded(numbers: int) -> int:
    """How many numbers of 4 bytes to keep free for so many, for the next ones to be aligned."""
    return aligned(numbers * 4) // 4
