"""How far graphs are from the PyTorch model, or from other graphs: in tensors, and in the captions of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.executor import search
from camscribe.runtime.manifest import BOXES, Manifest
from camscribe.runtime.onnxruntime_executor import OnnxRuntimeExecutor, open_session, tensor_specs
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import Floats, Hypothesis, SearchOptions
from camscribe.runtime.tensorrt.positions import align
from camscribe.runtime.vocab import Vocabulary
from camscribe.train.decoders.base import Memory, State
from camscribe.train.executor import TorchExecutor
from camscribe.train.model import Captioner

Words = tuple[int, ...]
Feeds = Mapping[str, npt.NDArray[Any]]


def teacher_forced(
    encoder: Any, decoder: Any, images: Pixels, captions: Sequence[Words], start_id: int
) -> Iterator[tuple[Feeds, Feeds]]:
    """Runs the graphs over given captions, one beam an image.

    Args:
        encoder, decoder: open sessions.
        images: uint8 [B, H, W, 3] RGB.
        captions: words of each image; shorter ones are continued with ``<s>``.
        start_id: id of ``<s>``.

    Yields:
        Inputs and outputs of every step of the decoder; the encoder's outputs stand among the inputs.
    """
    names = [output.name for output in encoder.get_outputs()]
    made = dict(zip(names, encoder.run(names, {"image": images}), strict=True))
    words = next(spec for spec in decoder.get_inputs() if spec.name == "bias").shape[0]
    memory = {name: value for name, value in made.items() if name.startswith("memory.")}
    states = {name: value[:, None] for name, value in made.items() if name.startswith("state.")}
    outputs = ["log_prob", "attention", *(f"next_{name}" for name in states)]
    length = max(map(len, captions)) + 1
    tokens = np.full((len(captions), length), start_id, dtype=np.int32)
    for row, caption in enumerate(captions):
        tokens[row, 1 : len(caption) + 1] = caption
    for position in range(length):
        token = np.ascontiguousarray(tokens[:, position : position + 1])
        feeds = {
            **memory,
            **states,
            "token": token,
            "parent": np.zeros_like(token),
            "score": np.zeros(token.shape, np.float32),
            "step": np.array([position], np.int32),
            "min_words": np.zeros(1, np.int32),
            "bias": np.zeros(words, np.float32),
        }
        results = dict(zip(outputs, decoder.run(outputs, feeds), strict=True))
        yield feeds, results
        states = {name: results[f"next_{name}"] for name in states}


def tensor_distances(
    files: tuple[Path, Path], model: Captioner, images: Pixels, captions: Sequence[Words], start_id: int
) -> dict[str, float]:
    """Largest differences from PyTorch: of the encoder's outputs, and of the decoder's over all steps.

    Both take each step from what the graphs made before it, memory and states: else a difference in the last digit
    grows from step to step in a network that turns on it, and says nothing of its operators. Differences of memory and
    states are relative to their largest number where that is above 1, as it is in the features of a ResNet.

    Args:
        files: encoder and decoder.
        model: in evaluation mode, with the weights the graphs have.
        images: uint8 [B, H, W, 3] RGB.
        captions: the words that both decoders are fed.
        start_id: id of ``<s>``.

    Returns:
        By tensor. Words that the step itself rules out (-1e9) count nothing. Regions are compared in one order, and
        ``other_boxes`` is the share of them that only one side has: of two that score nearly alike another order of
        sums may put the other one first, or drop one.
    """
    encoder, decoder = (open_session(file, "cpu") for file in files)
    with torch.no_grad():
        seen = torch.from_numpy(images)
        grid, found = model.grid(seen), model.find(seen)
        memory, state = model.read(grid, found)
        positions = model.positions(grid, found)
    worst: dict[str, float] = {}
    if positions is not None:
        boxes = positions.boxes.numpy()
        memory, state, others = _in_order(encoder, images, boxes, memory, state)
        worst["other_boxes"] = others / max(int(boxes.any(axis=2).sum()), 1)
    own = {f"memory.{name}": value for name, value in memory.items()}
    own |= {f"state.{name}": value for name, value in state.items()}
    for position, (feeds, results) in enumerate(teacher_forced(encoder, decoder, images, captions, start_id)):
        if position == 0:
            for name, value in own.items():
                mine = feeds[name][:, 0] if name.startswith("state.") else feeds[name]
                worst[name] = _relative(mine, value.numpy())
        memory = {name: torch.from_numpy(feeds[f"memory.{name}"]) for name in memory}
        state = {name: torch.from_numpy(feeds[f"state.{name}"]) for name in state}
        with torch.no_grad():
            log_prob, after, attention = model.decoder.step(torch.from_numpy(feeds["token"]), state, memory)
        made = {
            "log_prob": distance(results["log_prob"], log_prob.numpy()),
            "attention": distance(results["attention"], attention.numpy()),
            **{
                f"next_state.{name}": _relative(results[f"next_state.{name}"], value.numpy())
                for name, value in after.items()
            },
        }
        worst |= {name: max(worst.get(name, 0.0), value) for name, value in made.items()}
    return worst


def _relative(mine: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> float:
    """``distance``, as a share of the largest number where that is above 1."""
    real = theirs[theirs > -1e8]
    return distance(mine, theirs) / max(1.0, float(np.abs(real).max(initial=0.0)))


def _in_order(
    encoder: Any, images: Pixels, boxes: npt.NDArray[np.float32], memory: Memory, state: State
) -> tuple[Memory, State, int]:
    """PyTorch's memory and states in the order of the boxes that the encoder's graph finds, and how many boxes have no
    counterpart: of these they have what the graph has."""
    specs = tensor_specs(encoder.get_outputs())
    names = [spec.name for spec in specs]
    mine = dict(zip(names, encoder.run(names, {"image": images}), strict=True))
    theirs = {f"memory.{name}": value.numpy() for name, value in memory.items()}
    theirs |= {f"state.{name}": value.numpy() for name, value in state.items()} | {BOXES: boxes}
    made, others = align(specs, boxes.shape[1], mine, theirs)
    return (
        {name: torch.from_numpy(made[f"memory.{name}"]) for name in memory},
        {name: torch.from_numpy(made[f"state.{name}"]) for name in state},
        others,
    )


def graph_distances(
    files: tuple[Path, Path],
    reference: tuple[Path, Path],
    images: Pixels,
    captions: Sequence[Words],
    start_id: int,
    batch: int = 8,
) -> dict[str, float]:
    """``tensor_distances`` from another pair of graphs instead of PyTorch; each pair goes on from its own states."""
    mine, theirs = ([open_session(file, "cpu") for file in pair] for pair in (files, reference))
    worst: dict[str, float] = {}
    for start in range(0, len(images), batch):
        rows = slice(start, start + batch)
        runs = (teacher_forced(pair[0], pair[1], images[rows], captions[rows], start_id) for pair in (mine, theirs))
        for position, (own, wanted) in enumerate(zip(*runs, strict=True)):
            made, expected = dict(own[1]), dict(wanted[1])
            if position == 0:
                made |= {name: value for name, value in own[0].items() if name.startswith(("memory.", "state."))}
                expected |= {name: wanted[0][name] for name in made if name in wanted[0]}
            for name, value in expected.items():
                worst[name] = max(worst.get(name, 0.0), distance(made[name], value))
    return worst


def distance(mine: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> float:
    """The largest absolute difference: infinity where one alone rules something out (-1e9), or integers differ."""
    if mine.shape != theirs.shape or (theirs.dtype.kind in "iu" and not np.array_equal(mine, theirs)):
        return float("inf")
    mine, theirs = mine.astype(np.float32), theirs.astype(np.float32)
    real = theirs > -1e8
    if not np.array_equal(real, mine > -1e8):
        return float("inf")
    return float(np.abs(mine[real] - theirs[real]).max(initial=0.0))


def captions(
    folder: Path, manifest: Manifest, vocabulary: Vocabulary, precision: str, images: Pixels
) -> list[Hypothesis]:
    """The best hypothesis of each image under a bundle's own defaults. The manifest need not be complete yet."""
    executor = OnnxRuntimeExecutor(Bundle(folder, manifest, vocabulary), precision, "cpu")
    try:
        return caption_with_graphs(executor, images, manifest.search, vocabulary.bias(manifest.search.ban))
    finally:
        executor.close()


def same(found: Sequence[Hypothesis], expected: Sequence[Hypothesis]) -> dict[str, Any]:
    """How many captions are the same, and the largest difference of score among the others."""
    pairs = list(zip(found, expected, strict=True))
    return {
        "images": len(pairs),
        "same_captions": sum(mine.tokens == theirs.tokens for mine, theirs in pairs),
        "score": max(
            (abs(mine.score - theirs.score) for mine, theirs in pairs if mine.tokens != theirs.tokens), default=0.0
        ),
    }


def caption_with_graphs(
    executor: OnnxRuntimeExecutor, images: Pixels, options: SearchOptions, bias: Floats, batch: int = 8
) -> list[Hypothesis]:
    """The best hypothesis of each image by the graphs."""
    found: list[Hypothesis] = []
    for start in range(0, len(images), batch):
        executor.encode(images[start : start + batch], options, bias)
        found += [hypotheses[0] for hypotheses in search(executor, options)]
    return found


def caption_with_torch(
    model: Captioner, vocabulary: Vocabulary, images: Pixels, options: SearchOptions, batch: int = 8
) -> list[Hypothesis]:
    """The best hypothesis of each image by PyTorch."""
    executor = TorchExecutor(model, vocabulary)
    found: list[Hypothesis] = []
    for start in range(0, len(images), batch):
        found += [hypotheses[0] for hypotheses in executor.caption(images[start : start + batch], options)]
    return found
