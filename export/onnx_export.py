"""From a PyTorch captioner to the two ONNX graphs of a bundle, in float32."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.export import Dim

from camscribe.export import region_graph
from camscribe.export.beam_graph import constants, gather_nodes, select_nodes, value_info
from camscribe.export.columns import turn_columns
from camscribe.export.graphs import EncoderGraph, Example, StepGraph
from camscribe.export.suppression import translations
from camscribe.runtime.errors import EngineError
from camscribe.runtime.manifest import GraphPair, GraphSpec
from camscribe.train.detector import Detector
from camscribe.train.model import Captioner

OPSET = 17
"""The newest that TensorRT 8.6 reads; also what keeps the graphs open to old versions of ONNX Runtime."""
_EXPORTED_OPSET = 18
"""The oldest that PyTorch's exporter writes."""
_IR_VERSION = 8
_NEW_IN_RESIZE = {"antialias": 0, "axes": None, "keep_aspect_ratio_policy": b"stretch"}
"""Attributes, and what they are by default."""


def export_graphs(
    model: Captioner, run: Example, pair: GraphPair, end_id: int
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Exports encoder and decoder.

    Args:
        model: in evaluation mode.
        run: of ``graphs.example``.
        pair: of ``graphs.graph_pair``; the graphs get exactly its tensors.
        end_id: id of ``</s>``.

    Returns:
        Encoder and decoder, weights inside, free sizes B and K.
    """
    images, beams = Dim("B", min=1), Dim("K", min=1)
    rows = {0: images, 1: beams}
    # What a YOLOX finds comes from nodes of its own; a Faster R-CNN is exported with the rest.
    detector = None if model.regions is None else model.regions.detector
    finder = region_graph.region_part(detector) if isinstance(detector, Detector) else region_graph.NOTHING
    found = (run.regions or ()) if isinstance(detector, Detector) else ()
    encoder = _export(
        EncoderGraph(model),
        (run.image, *found),
        ({0: images}, tuple({0: images} for _ in found)) if found else ({0: images},),
        ["image", *region_graph.INPUTS[: len(found)]],
        [spec.name for spec in pair.encoder.outputs],
    )
    step = _export(
        StepGraph(model),
        (run.token, run.state, run.memory),
        (rows, dict.fromkeys(run.state, rows), {name: {0: images} for name in run.memory}),
        ["token", *(f"gathered.{name}" for name in run.state), *(f"memory.{name}" for name in run.memory)],
        ["log_prob", "attention", *(f"next_state.{name}" for name in run.state)],
    )
    words = int(pair.decoder.outputs[-1].shape[-1])
    decoder_nodes = [*gather_nodes(list(run.state)), *step.graph.node, *select_nodes(words)]
    decoder_weights = [*step.graph.initializer, *constants(words, end_id)]
    return (
        _assemble(
            "encoder",
            pair.encoder,
            [*finder.nodes, *encoder.graph.node],
            [*finder.weights, *encoder.graph.initializer],
        ),
        _assemble("decoder", pair.decoder, decoder_nodes, decoder_weights),
    )


def export_graph(
    module: torch.nn.Module, image: torch.Tensor, dynamic: dict[int, Any], spec: GraphSpec, name: str
) -> onnx.ModelProto:
    """Exports a module of one input and one output.

    Args:
        module: takes ``image``.
        image: an example.
        dynamic: its free sizes.
        spec: the tensors that the graph gets.
        name: of the graph.

    Returns:
        A checked model, weights inside.
    """
    made = _export(module, (image,), (dynamic,), [spec.inputs[0].name], [spec.outputs[0].name])
    return _assemble(name, spec, made.graph.node, made.graph.initializer)


def _export(
    module: torch.nn.Module,
    arguments: tuple[Any, ...],
    dynamic: tuple[Any, ...],
    input_names: list[str],
    output_names: list[str],
) -> onnx.ModelProto:
    with _quiet():
        # The empty dictionary keeps a last argument that is one from being taken for keyword arguments.
        program = torch.onnx.export(
            module.eval(),
            (*arguments, {}),
            dynamo=True,
            dynamic_shapes=dynamic,
            opset_version=_EXPORTED_OPSET,
            input_names=input_names,
            output_names=output_names,
            custom_translation_table=translations(),
            verbose=False,
        )
    proto: onnx.ModelProto = program.model_proto  # type: ignore[union-attr]
    return proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter: what matters is checked afterwards, by ONNX's checker and by parity."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _assemble(
    name: str, spec: GraphSpec, nodes: Sequence[onnx.NodeProto], weights: Sequence[onnx.TensorProto]
) -> onnx.ModelProto:
    """A checked model. Of the exporter's notes (stack traces with paths of this machine) nothing is kept."""
    clean = []
    for index, node in enumerate(nodes):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.ClearField("metadata_props")
        copy.ClearField("doc_string")
        copy.name = f"{index}.{node.op_type}"
        clean.append(copy)
    graph = helper.make_graph(
        clean,
        name,
        [value_info(item.name, item.dtype, item.shape) for item in spec.inputs],
        [value_info(item.name, item.dtype, item.shape) for item in spec.outputs],
        initializer=[_plain(weight) for weight in weights],
    )
    _to_opset_17(graph)
    cast_pixels_first(graph)
    model = new_model(graph)
    turn_columns(model)
    drop_unused(model.graph)
    onnx.checker.check_model(model, full_check=True)
    return model


def new_model(graph: onnx.GraphProto) -> onnx.ModelProto:
    """A model of opset 17."""
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION, producer_name="camscribe"
    )


def cast_pixels_first(graph: onnx.GraphProto) -> None:
    """Casts 8-bit inputs before anything moves them: TensorRT takes such numbers as a network's input only.

    Raises:
        EngineError: something else is done with them.
    """
    for name in [item.name for item in graph.input if item.type.tensor_type.elem_type == TensorProto.UINT8]:
        moved, casts = {name}, []
        for node in graph.node:
            if not node.input or node.input[0] not in moved:
                continue
            if node.op_type in ("Reshape", "Squeeze", "Transpose", "Unsqueeze"):
                moved.add(node.output[0])
            elif node.op_type == "Cast":
                casts.append(node)
            elif node.op_type != "Shape":
                raise EngineError(f"graph {graph.name}: {node.op_type} reads the 8-bit {name}; expected a Cast")
        if moved == {name} or not casts:
            continue
        same = {node.output[0]: node.input[0] for node in casts} | {name: f"{name}.float"}
        kept = [node for node in graph.node if node.output[0] not in same]
        for node in kept:
            node.input[:] = [same.get(item, item) for item in node.input]
            node.input[:] = [same.get(item, item) for item in node.input]
        first = helper.make_node("Cast", [name], [same[name]], name=f"{name}.cast", to=TensorProto.FLOAT)
        del graph.node[:]
        graph.node.extend([first, *kept])


def _plain(weight: onnx.TensorProto) -> onnx.TensorProto:
    """The tensor as raw bytes under its name, without notes."""
    return numpy_helper.from_array(np.array(numpy_helper.to_array(weight), order="C"), weight.name)


def _to_opset_17(graph: onnx.GraphProto) -> None:
    """Writes the few operators that opset 18 changed as opset 17 knows them.

    ONNX's own converter leaves ``Split.num_outputs`` in place, which ONNX Runtime then refuses.
    """
    values = {weight.name: weight for weight in graph.initializer}
    for node in graph.node:
        changed = onnx.defs.get_schema(node.op_type, _EXPORTED_OPSET, node.domain).since_version > OPSET
        if not changed:
            continue
        if node.op_type == "Split":
            _drop_attribute(node, "num_outputs")
        elif node.op_type == "Pad" and len(node.input) < 4:
            pass  # Opset 18 only added a choice of axes.
        elif node.op_type == "Resize" and not _new_in_resize(node):
            pass  # Opset 18 only added these.
        elif node.op_type.startswith("Scatter") and _reduction(node) not in ("min", "max"):
            pass  # Opset 18 only added these two reductions.
        elif node.op_type.startswith("Reduce") and (len(node.input) < 2 or node.input[1] in values):
            if len(node.input) > 1:
                axes = numpy_helper.to_array(values[node.input[1]]).tolist()
                del node.input[1:]
                node.attribute.append(helper.make_attribute("axes", axes))
            _drop_attribute(node, "noop_with_empty_axes")
        else:
            raise EngineError(
                f"graph {graph.name}: operator {node.op_type} has no known form in opset {OPSET}, the newest that "
                "TensorRT 8.6 reads; choose another backbone or decoder"
            )


def _new_in_resize(node: onnx.NodeProto) -> set[str]:
    """What opset 18 added to Resize and the node makes use of; the exporter writes some as they are by default."""
    for name, default in _NEW_IN_RESIZE.items():
        if any(item.name == name and helper.get_attribute_value(item) == default for item in node.attribute):
            _drop_attribute(node, name)
    return {item.name for item in node.attribute} & set(_NEW_IN_RESIZE)


def _reduction(node: onnx.NodeProto) -> str:
    return next((attribute.s.decode() for attribute in node.attribute if attribute.name == "reduction"), "none")


def _drop_attribute(node: onnx.NodeProto, name: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Drops constants that nothing reads."""
    used = {name for node in graph.node for name in node.input}
    kept = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
