"""The two functions of a model that become graphs, and the names and shapes of their tensors.

Nothing here knows a certain decoder: what is called memory and state, and how many of each there are, comes from the
dictionaries that the model's ``encode`` and its decoder's ``step`` pass on.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from camscribe.export import region_graph
from camscribe.runtime.errors import DataError
from camscribe.runtime.manifest import GraphPair, GraphSpec, TensorSpec
from camscribe.train.decoders.base import Memory, State
from camscribe.train.detector import Detector, Regions
from camscribe.train.model import Captioner

HALF_FROM = 256
"""Matrices and kernels of at least this many numbers are rounded to half precision; biases and norms are not."""
Network = TypeVar("Network", bound=nn.Module)
_DTYPES = {torch.float32: "float32", torch.int32: "int32"}


class EncoderGraph(nn.Module):
    """uint8 [B, H, W, 3] RGB -> every memory and every initial state, in the order of their dictionaries.

    Of a captioner with regions there are also the boxes of all positions [B, P, 4]. Regions that a YOLOX finds are
    inputs; what finds them is added as ONNX (``region_graph``).
    """

    def __init__(self, model: Captioner) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, *found: Tensor) -> tuple[Tensor, ...]:
        grid = self.model.grid(image)
        regions = Regions(*found) if found else self.model.find(image)
        positions = self.model.positions(grid, regions)
        memory, state = self.model.read(grid, regions)
        boxes = () if positions is None else (positions.boxes,)
        return (*memory.values(), *state.values(), *boxes)


class StepGraph(nn.Module):
    """The decoder's step alone; what beam search needs around it is added as ONNX (``beam_graph``)."""

    def __init__(self, model: Captioner) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(self, token: Tensor, state: State, memory: Memory) -> tuple[Tensor, ...]:
        """Tokens [B, K], states, memories -> log_prob [B, K, V], attention [B, K, P], next states [B, K, ...]."""
        log_prob, next_state, attention = self.decoder.step(token, state, memory)
        return (log_prob, attention, *(next_state[name] for name in state))


@dataclass(frozen=True)
class Example:
    """Tensors of a real run, which show an exporter the shapes. B is 2 and K is 3: no two sizes may look alike."""

    image: Tensor
    token: Tensor
    state: State
    memory: Memory
    regions: Regions | None


def example(model: Captioner) -> Example:
    """One run of the encoder on black images, with its states spread over the beams."""
    config = model.decoder.config
    image = torch.zeros(2, config.image_height, config.image_width, 3, dtype=torch.uint8)
    with torch.no_grad():
        regions = model.find(image)
        memory, state = model.read(model.grid(image), regions)
    state = {name: torch.stack([value] * 3, dim=1) for name, value in state.items()}
    return Example(image, torch.zeros(2, 3, dtype=torch.int32), state, memory, regions)


def graph_pair(model: Captioner, run: Example) -> GraphPair:
    """The tensors of both graphs, as the manifest names them; files are filled in by who writes them."""
    config = model.decoder.config
    memory = _specs("memory.", run.memory, ("B",))
    state = _specs("state.", run.state, ("B", "K"))
    with torch.no_grad():
        log_prob, _, attention = model.decoder.step(run.token, run.state, run.memory)
    words, positions = log_prob.shape[2], attention.shape[2]
    beams = ("B", "K")
    boxes = () if run.regions is None else (TensorSpec("boxes", "float32", ("B", positions, 4)),)
    encoder = GraphSpec(
        file="",
        external=(),
        inputs=(TensorSpec("image", "uint8", ("B", config.image_height, config.image_width, 3)),),
        outputs=(*memory, *(TensorSpec(spec.name, spec.dtype, ("B", *spec.shape[2:])) for spec in state), *boxes),
    )
    decoder = GraphSpec(
        file="",
        external=(),
        inputs=(
            TensorSpec("token", "int32", beams),
            TensorSpec("parent", "int32", beams),
            TensorSpec("score", "float32", beams),
            TensorSpec("step", "int32", (1,)),
            TensorSpec("min_words", "int32", (1,)),
            TensorSpec("bias", "float32", (words,)),
            *state,
            *memory,
        ),
        outputs=(
            TensorSpec("next_token", "int32", beams),
            TensorSpec("next_parent", "int32", beams),
            TensorSpec("next_score", "float32", beams),
            TensorSpec("ended_score", "float32", beams),
            TensorSpec("ended_parent", "int32", beams),
            *(TensorSpec(f"next_{spec.name}", spec.dtype, spec.shape) for spec in state),
            TensorSpec("attention", "float32", (*beams, positions)),
            TensorSpec("log_prob", "float32", (*beams, words)),
        ),
    )
    return GraphPair(encoder, decoder)


def attention_grid(model: Captioner, run: Example) -> tuple[int, int]:
    """Rows and columns of the positions that the decoder attends to; of regions, one row."""
    with torch.no_grad():
        grid = model.grid(run.image)
        positions = model.positions(grid, run.regions)
    if positions is not None:
        return 1, positions.boxes.shape[1]
    if grid is None:
        raise ValueError("neither a grid nor regions to attend to")
    return int(grid.shape[2]), int(grid.shape[3])


def rounded(model: Network) -> Network:
    """A copy whose matrices and kernels are the nearest half-precision numbers, still held and computed in float32.

    The bundle stores them so; this copy is "the float32 reference" that the graphs are compared with.

    Raises:
        DataError: a weight is too large for half precision, or is not a number.
    """
    model = copy.deepcopy(model).eval()
    bad = []
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() > 1 and value.numel() >= HALF_FROM:
                value.copy_(value.half().float())
            if not torch.isfinite(value).all():
                bad.append(name)
        for detector in (part for part in model.modules() if isinstance(part, Detector)):
            detector.replace(region_graph.rounded(detector.file, HALF_FROM))
    if bad:
        raise DataError(
            f"checkpoint has weights that are no finite half-precision numbers: {', '.join(bad[:5])}; "
            "train it again, with a lower learning rate if it diverged"
        )
    return model


def _specs(prefix: str, tensors: Mapping[str, Tensor], free: tuple[str, ...]) -> tuple[TensorSpec, ...]:
    specs = []
    for name, value in tensors.items():
        shape = (*free, *value.shape[len(free) :])
        if value.dtype not in _DTYPES:
            raise DataError(f"{prefix}{name} is {value.dtype}; expected {' or '.join(map(str, _DTYPES))}")
        specs.append(TensorSpec(f"{prefix}{name}", _DTYPES[value.dtype], shape))  # type: ignore[arg-type]
    return tuple(specs)
