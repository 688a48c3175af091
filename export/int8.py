"""The 8-bit graphs: calibrated on real images, and on the captions the float32 graphs give them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx

from camscribe.export.calibration import Feeds, observe
from camscribe.export.equalize import equalize
from camscribe.export.parity import Words, teacher_forced
from camscribe.export.quantize import Plan, fold_transposes, quantize, store_as_integers
from camscribe.runtime.onnxruntime_executor import open_session
from camscribe.runtime.pixels import Pixels

_BATCH = 10
_WIDE = 64
"""Channels from which on a convolution is quantised, and all that follows."""


def integer_encoder(encoder: onnx.ModelProto, images: Pixels) -> onnx.ModelProto:
    """Quantises an encoder, all but its first convolutions, which have few channels.

    Integer products of few channels are slow, and what they round stays in all that follows. Measured on the shipped
    MobileNetV2: with its first convolution in float32 it takes a fifth less time, and with the next two as well, which
    cost nothing, the features are off by 12 % (root mean square) instead of 15.

    Args:
        encoder: float32, weights inside.
        images: uint8 [B, H, W, 3] RGB, reduced; at least a few dozen.

    Returns:
        A new graph of the same interface.
    """

    def feeds() -> Iterator[Feeds]:
        # One at a time: what goes into every product is kept, gigabytes of it for a large encoder.
        for image in images:
            yield {"image": image[None]}

    small = _copy(encoder)
    fold_transposes(small)
    plan = Plan(small, skip=_first(small))
    seen = observe(small, plan.tensors, feeds)
    equalize(small, plan, seen)
    quantize(small, plan, seen)
    return _finished(small)


def _first(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the weights of the convolutions that come before the first of ``_WIDE`` channels."""
    weights = {weight.name: weight for weight in model.graph.initializer}
    names: list[str] = []
    for node in model.graph.node:
        if node.op_type != "Conv" or node.input[1] not in weights:
            continue
        channels, group_inputs = weights[node.input[1]].dims[:2]
        if names and channels >= _WIDE and group_inputs > 1:
            break
        names.append(node.input[1])
    return tuple(names)


def integer_decoder(
    decoder: onnx.ModelProto, files: tuple[Path, Path], images: Pixels, captions: Sequence[Words], start_id: int
) -> onnx.ModelProto:
    """Quantises a decoder.

    Args:
        decoder: float32, weights inside.
        files: where the float32 encoder and decoder lie on disk.
        images: as for the encoder.
        captions: by the float32 graphs, of each image.
        start_id: id of ``<s>``.

    Returns:
        A new graph of the same interface.
    """
    sessions = [open_session(file, "cpu") for file in files]

    def feeds() -> Iterator[Feeds]:
        for start in range(0, len(images), _BATCH):
            rows = slice(start, start + _BATCH)
            for inputs, _ in teacher_forced(sessions[0], sessions[1], images[rows], captions[rows], start_id):
                yield inputs

    small = _copy(decoder)
    fold_transposes(small)
    plan = Plan(small)
    quantize(small, plan, observe(small, plan.tensors, feeds))
    return _finished(small)


def _finished(graph: onnx.ModelProto) -> onnx.ModelProto:
    store_as_integers(graph)
    onnx.checker.check_model(graph)
    return graph


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made
