"""The part of an encoder that finds regions, written in ONNX: the detector's own nodes, and what makes regions of them.

``train/detector.py`` has the same in PyTorch, with the detector run by ONNX Runtime; parity compares the two.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from camscribe.export.beam_graph import nodes_of
from camscribe.runtime.errors import EngineError
from camscribe.train.detector import CANDIDATES, FLOOR, Detector, Regions, cells

INPUTS = tuple(f"regions.{name}" for name in Regions._fields)
"""What the nodes make of ``image``."""
_PREFIX = "detector."


class Part(NamedTuple):
    """Nodes of a graph and their constants."""

    nodes: list[onnx.NodeProto]
    weights: list[onnx.TensorProto]


NOTHING = Part([], [])
"""What an encoder without regions has of it."""
_PIXELS = """
    detector.float = Cast <to = 1> (image)
    detector.planes = Transpose <perm = [0, 3, 1, 2]> (detector.float)
    detector.bgr = Gather <axis = 1> (detector.planes, detector.turned)
    detector.shape = Shape (image)
    detector.images = Slice (detector.shape, detector.zero, detector.one)
    detector.size = Concat <axis = 0> (detector.images, detector.input_shape)
    detector.pixels = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel">
        (detector.bgr, , , detector.size)
"""
_BOXES = """
    detector.place, detector.extent, detector.object, detector.class = Split <axis = 2> (detector.raw, detector.parts)
    detector.moved = Add (detector.place, detector.corners)
    detector.centre = Mul (detector.moved, detector.steps)
    detector.factor = Exp (detector.extent)
    detector.half = Mul (detector.factor, detector.half_steps)
    detector.first = Sub (detector.centre, detector.half)
    detector.last = Add (detector.centre, detector.half)
    detector.loose = Concat <axis = 2> (detector.first, detector.last)
    detector.all_boxes = Clip (detector.loose, detector.nought, detector.unit)
    detector.all_classes = Mul (detector.class, detector.object)
    detector.all_scores = ReduceMax <axes = [2], keepdims = 0> (detector.all_classes)
    detector.scores, detector.order = TopK <axis = 1> (detector.all_scores, detector.candidates)
    detector.index = Unsqueeze (detector.order, detector.two)
    detector.boxes = GatherND <batch_dims = 1> (detector.all_boxes, detector.index)
    detector.classes = GatherND <batch_dims = 1> (detector.all_classes, detector.index)
"""
# Non-maximum suppression gives as many rows as it likes, (image, class, box); as a mask, they have a fixed shape again.
_SUPPRESS = """
    detector.by_class = Unsqueeze (detector.scores, detector.one)
    detector.kept = NonMaxSuppression
        (detector.boxes, detector.by_class, detector.most, detector.overlap, detector.floor)
    detector.where = Gather <axis = 1> (detector.kept, detector.outer)
    detector.first_column = Gather <axis = 1> (detector.kept, detector.index_zero)
    detector.counted = Cast <to = 1> (detector.first_column)
    detector.noughts = Mul (detector.counted, detector.nought)
    detector.ones = Add (detector.noughts, detector.unit)
    detector.nowhere = Mul (detector.scores, detector.nought)
    detector.mask = ScatterND (detector.nowhere, detector.where, detector.ones)
    detector.left = Mul (detector.scores, detector.mask)
    detector.score, detector.rank = TopK <axis = 1> (detector.left, detector.most)
    detector.good = Greater (detector.score, detector.threshold)
    detector.some = Greater (detector.score, detector.floor)
    detector.wanted = And (detector.some, detector.among_first)
    detector.is_shown = Or (detector.good, detector.wanted)
    regions.shown = Cast <to = 1> (detector.is_shown)
    detector.weight = Unsqueeze (regions.shown, detector.two)
    detector.ranks = Unsqueeze (detector.rank, detector.two)
    detector.best_boxes = GatherND <batch_dims = 1> (detector.boxes, detector.ranks)
    detector.best_classes = GatherND <batch_dims = 1> (detector.classes, detector.ranks)
    regions.boxes = Mul (detector.best_boxes, detector.weight)
    regions.features = Mul (detector.best_classes, detector.weight)
"""


def region_part(detector: Detector) -> Part:
    """Nodes that make ``INPUTS`` of ``image``, uint8 [B, H, W, 3] RGB."""
    network = _network(detector)
    nodes = [*nodes_of(_PIXELS), *network.nodes, *nodes_of(_BOXES), *nodes_of(_SUPPRESS)]
    return Part(nodes, [*network.weights, *_constants(detector)])


def rounded(model: bytes, size: int) -> bytes:
    """A detector whose kernels of at least ``size`` numbers are the nearest half-precision ones, as ``graphs.rounded``
    has it of all others."""
    loaded = onnx.load_from_string(model)
    for weight in loaded.graph.initializer:
        value = numpy_helper.to_array(weight)
        if value.dtype == np.float32 and value.ndim > 1 and value.size >= size:
            weight.CopyFrom(numpy_helper.from_array(value.astype(np.float16).astype(np.float32), weight.name))
    return bytes(loaded.SerializeToString())


def _constants(detector: Detector) -> list[onnx.TensorProto]:
    config = detector.config
    corners, steps = cells(detector.side)
    values: dict[str, npt.NDArray[np.generic]] = {
        "turned": np.array([2, 1, 0]),
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "index_zero": np.array(0),
        "outer": np.array([0, 2]),
        "input_shape": np.array([3, detector.side, detector.side]),
        "parts": np.array([2, 2, 1, config.detector_classes]),
        "corners": corners,
        "steps": steps,
        "half_steps": steps / 2,
        "nought": np.array(0, np.float32),
        "unit": np.array(1, np.float32),
        "candidates": np.array([min(CANDIDATES, len(corners))]),
        "most": np.array([config.regions]),
        "overlap": np.array([config.region_overlap], np.float32),
        "floor": np.array([FLOOR], np.float32),
        "threshold": np.array(config.region_threshold, np.float32),
        "among_first": np.arange(config.regions) < config.min_regions,
    }
    return [numpy_helper.from_array(value, f"{_PREFIX}{name}") for name, value in values.items()]


def _network(detector: Detector) -> Part:
    """The detector's graph from ``detector.pixels`` to ``detector.raw``, for any number of images.

    Raises:
        EngineError: its shapes are written for one image in a way that is not known here.
    """
    graph = onnx.load_from_string(detector.file).graph
    ends = {graph.input[0].name: f"{_PREFIX}pixels", graph.output[0].name: f"{_PREFIX}raw"}
    own = f"{_PREFIX}network."
    shapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    weights = []
    for weight in graph.initializer:
        value = numpy_helper.to_array(weight)
        if weight.name in shapes:
            if value[0] not in (0, 1):
                raise EngineError(
                    f"detector: reshapes to {value.tolist()}; expected 1, for one image, as the first size"
                )
            value = np.concatenate([[0], value[1:]])
        weights.append(numpy_helper.from_array(value, f"{own}{weight.name}"))
    held = {weight.name for weight in weights}
    for node in graph.node:
        if node.op_type == "Reshape" and f"{own}{node.input[1]}" not in held:
            raise EngineError(f"detector: node {node.name} computes the shape it reshapes to; expected a constant")
        for names in (node.input, node.output):
            names[:] = [ends.get(name, f"{own}{name}") if name else "" for name in names]
    return Part(list(graph.node), weights)
