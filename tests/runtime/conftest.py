"""A tiny but real captioner: two ONNX graphs with every bundle's interface, random weights, selection in the graph."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from camscribe.runtime.bundle import DEFAULT_BUNDLE, Bundle, encode_png, write_bundle
from camscribe.runtime.manifest import SCHEMA, GraphPair, GraphSpec, Manifest, Parity, SpecialTokens, TensorSpec
from camscribe.runtime.pixels import PixelSpec
from camscribe.runtime.search import DEAD, SearchOptions
from camscribe.runtime.vocab import SPECIAL_TOKENS, Vocabulary

PAD, START, END, UNKNOWN = range(4)
DTYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "uint8": TensorProto.UINT8}


@dataclass(frozen=True)
class Toy:
    """Sizes of a toy captioner, and how its words are weighted."""

    words: int = 12
    side: int = 16
    grid: int = 2
    width: int = 8
    sharpness: float = 2.0
    """Spread of the logits."""
    end_bonus: float = 0.0
    """Added to the logit of </s>: low makes ends rare, high makes them early."""
    seed: int = 0
    boxes: int = 0
    """Positions that are boxes the encoder finds, the whole image first; 0 for the cells of a grid."""

    @property
    def positions(self) -> int:
        return self.boxes or self.grid * self.grid

    @property
    def attention_grid(self) -> tuple[int, int]:
        return (1, self.boxes) if self.boxes else (self.grid, self.grid)

    def vocabulary(self) -> Vocabulary:
        return Vocabulary([*SPECIAL_TOKENS, *(f"word{index}" for index in range(4, self.words))])

    def images(self, count: int, seed: int = 0) -> np.ndarray:
        """uint8 [count, side, side, 3]"""
        generator = np.random.default_rng(seed)
        return generator.integers(0, 256, (count, self.side, self.side, 3), dtype=np.uint8)


class _Graph:
    """Collects nodes and weights of a graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def add(self, kind: str, inputs: Sequence[str], outputs: str | Sequence[str], **attributes: object) -> str:
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0]

    def save(self, path: Path, spec: GraphSpec) -> None:
        sides = [
            [helper.make_tensor_value_info(item.name, DTYPES[item.dtype], item.shape) for item in side]
            for side in (spec.inputs, spec.outputs)
        ]
        graph = helper.make_graph(self.nodes, path.stem, *sides, initializer=self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString())


def graph_specs(toy: Toy) -> GraphPair:
    width, positions, words = toy.width, toy.positions, toy.words
    memory = (
        TensorSpec("memory.features", "float32", ("B", positions, width)),
        TensorSpec("memory.keys", "float32", ("B", positions, width)),
    )
    if toy.boxes:
        memory = (*memory, TensorSpec("memory.mask", "float32", ("B", positions)))
    beams = ("B", "K")
    encoder = GraphSpec(
        "encoder.onnx",
        (),
        (TensorSpec("image", "uint8", ("B", toy.side, toy.side, 3)),),
        (
            *memory,
            *((TensorSpec("boxes", "float32", ("B", positions, 4)),) if toy.boxes else ()),
            TensorSpec("state.h", "float32", ("B", width)),
            TensorSpec("state.last", "int32", ("B", 1)),
        ),
    )
    states = (TensorSpec("state.h", "float32", (*beams, width)), TensorSpec("state.last", "int32", (*beams, 1)))
    decoder = GraphSpec(
        "decoder.onnx",
        (),
        (
            TensorSpec("token", "int32", beams),
            TensorSpec("parent", "int32", beams),
            TensorSpec("score", "float32", beams),
            TensorSpec("step", "int32", (1,)),
            TensorSpec("min_words", "int32", (1,)),
            TensorSpec("bias", "float32", (words,)),
            *states,
            *memory,
        ),
        (
            TensorSpec("next_token", "int32", beams),
            TensorSpec("next_parent", "int32", beams),
            TensorSpec("next_score", "float32", beams),
            TensorSpec("ended_score", "float32", beams),
            TensorSpec("ended_parent", "int32", beams),
            *(replace(state, name=f"next_{state.name}") for state in states),
            TensorSpec("attention", "float32", (*beams, positions)),
            TensorSpec("log_prob", "float32", (*beams, words)),
        ),
    )
    return GraphPair(encoder, decoder)


def save_encoder(toy: Toy, path: Path) -> None:
    generator = np.random.default_rng(toy.seed)

    def normal(*shape: int) -> np.ndarray:
        return generator.normal(0, 1, shape).astype(np.float32)

    g = _Graph()
    g.weight("scale", np.float32(1 / 64))
    g.weight("middle", np.float32(2))
    g.weight("to_keys", normal(toy.width, toy.width))
    g.weight("zero", np.zeros((1, 1), np.float32))
    g.add("Cast", ["image"], "float", to=TensorProto.FLOAT)
    g.add("Mul", ["float", "scale"], "scaled")
    g.add("Sub", ["scaled", "middle"], "normal")
    if toy.boxes:
        _add_regions(g, toy, normal)
    else:
        cell = toy.side // toy.grid
        g.weight("patches", np.array([0, toy.grid, cell, toy.grid, cell * 3], np.int64))
        g.weight("flat", np.array([0, toy.positions, -1], np.int64))
        g.weight("project", normal(cell * cell * 3, toy.width) / np.float32(cell))
        g.add("Reshape", ["normal", "patches"], "split")
        g.add("Transpose", ["split"], "cells", perm=[0, 1, 3, 2, 4])
        g.add("Reshape", ["cells", "flat"], "rows")
    g.add("MatMul", ["rows", "project"], "memory.features")
    g.add("MatMul", ["memory.features", "to_keys"], "memory.keys")
    g.add("ReduceMean", ["memory.features"], "mean", axes=[1], keepdims=0)
    g.add("Tanh", ["mean"], "state.h")
    g.add("ReduceMean", ["mean"], "one", axes=[1], keepdims=1)
    g.add("Mul", ["one", "zero"], "nothing")
    g.add("Cast", ["nothing"], "state.last", to=TensorProto.INT32)
    g.save(path, graph_specs(toy).encoder)


def _add_regions(g: _Graph, toy: Toy, normal: Callable[..., np.ndarray]) -> None:
    """From ``normal`` to ``boxes``, ``memory.mask`` and ``rows``: a detector of sorts, and RoiAlign on the pixels.

    Of a few anchors non-maximum suppression leaves as many as there are; their scores are scattered among those of all
    anchors, which are 0 then but for these, and the best of them are a fixed number again.
    """
    anchors = [[left, top, left + 0.4, top + 0.5] for left in (0, 0.1, 0.35, 0.6) for top in (0, 0.1, 0.5)]
    found = toy.boxes - 1
    for name, value in (
        ("anchors", np.float32(anchors)), ("anchors1", np.float32([anchors])), ("whole", np.float32([[[0, 0, 1, 1]]])),
        ("to_scores", normal(3 * toy.side**2, len(anchors)) / np.float32(toy.side)), ("most", np.int64([found])),
        ("overlap", np.float32([0.5])), ("sure", np.float32([0.5])), ("image_and_anchor", np.int64([0, 2])),
        ("nothing0", np.float32(0)), ("never", np.float32(-1e4)), ("side", np.float32(toy.side)),
        ("one1", np.int64([1])), ("last1", np.int64([-1])), ("fours", np.int64([-1, 4])), ("first", np.int64(0)),
        ("one0", np.int64(1)), ("per_image", np.int64([1, toy.boxes])), ("row_shape", np.int64([-1, toy.boxes, 12])),
        ("project", normal(12, toy.width)),
    ):  # fmt: skip
        g.weight(name, value)
    g.add("Transpose", ["normal"], "planes", perm=[0, 3, 1, 2])
    g.add("Flatten", ["normal"], "pixels", axis=1)
    g.add("MatMul", ["pixels", "to_scores"], "raw_scores")
    g.add("Sigmoid", ["raw_scores"], "scores2")
    g.add("Unsqueeze", ["scores2", "one1"], "scores")
    g.add("Shape", ["image"], "images", start=0, end=1)
    g.add("Concat", ["images", "one1", "one1"], "images3", axis=0)
    g.add("Expand", ["anchors1", "images3"], "candidates")
    g.add("NonMaxSuppression", ["candidates", "scores", "most", "overlap", "sure"], "selected")
    g.add("Gather", ["selected", "image_and_anchor"], "places", axis=1)
    g.add("GatherND", ["scores2", "places"], "their_scores")
    g.add("Mul", ["scores2", "nothing0"], "none_selected")
    g.add("ScatterND", ["none_selected", "places", "their_scores"], "only_selected")
    g.add("TopK", ["only_selected", "most"], ["best", "best_anchor"], axis=1)
    g.add("Gather", ["anchors", "best_anchor"], "best_boxes")
    g.add("Unsqueeze", ["best", "last1"], "best1")
    g.add("Greater", ["best1", "nothing0"], "is_found")
    g.add("Where", ["is_found", "best_boxes", "nothing0"], "found_boxes")
    g.add("Expand", ["whole", "images3"], "whole_images")
    g.add("Concat", ["whole_images", "found_boxes"], "boxes", axis=1)
    g.add("ReduceMax", ["boxes"], "extent", axes=[2], keepdims=0)
    g.add("Greater", ["extent", "nothing0"], "is_box")
    g.add("Where", ["is_box", "nothing0", "never"], "memory.mask")
    g.add("Mul", ["boxes", "side"], "in_pixels")
    g.add("Reshape", ["in_pixels", "fours"], "rois")
    g.add("Squeeze", ["images"], "images0")
    g.add("Range", ["first", "images0", "one0"], "numbers")
    g.add("Unsqueeze", ["numbers", "one1"], "numbers2")
    g.add("Expand", ["numbers2", "per_image"], "numbers_of_boxes")
    g.add("Reshape", ["numbers_of_boxes", "last1"], "image_of_box")
    g.add("RoiAlign", ["planes", "rois", "image_of_box"], "pooled", output_height=2, output_width=2, sampling_ratio=2)
    g.add("Reshape", ["pooled", "row_shape"], "rows")


def save_decoder(toy: Toy, path: Path) -> None:
    generator = np.random.default_rng(toy.seed + 1)
    width, words = toy.width, toy.words

    def normal(*shape: int) -> np.ndarray:
        return generator.normal(0, 1 / np.sqrt(width), shape).astype(np.float32)

    g = _Graph()
    # The states in the order of the beams that live now.
    g.add("Cast", ["parent"], "parent64", to=TensorProto.INT64)
    g.weight("last_axis", np.array([-1], np.int64))
    g.add("Unsqueeze", ["parent64", "last_axis"], "at")
    g.add("GatherND", ["state.h", "at"], "h", batch_dims=1)
    g.add("GatherND", ["state.last", "at"], "last", batch_dims=1)
    # One cell that also remembers the word before the last, so that a wrong order of states shows in the words.
    g.weight("embedding", normal(words, width) * np.float32(3))
    g.add("Gather", ["embedding", "token"], "now")
    g.weight("second", np.array([-1], np.int64))
    g.add("Squeeze", ["last", "second"], "last_flat")
    g.add("Gather", ["embedding", "last_flat"], "before")
    g.weight("u_now", normal(width, width))
    g.weight("u_before", normal(width, width))
    g.weight("u_h", normal(width, width))
    g.weight("u_context", normal(width, width))
    g.add("Transpose", ["memory.keys"], "keys", perm=[0, 2, 1])
    g.add("MatMul", ["h", "keys"], "energy")
    if toy.boxes:
        g.weight("beam_axis", np.array([1], np.int64))
        g.add("Unsqueeze", ["memory.mask", "beam_axis"], "mask")
        g.add("Add", ["energy", "mask"], "masked")
    g.add("Softmax", ["masked" if toy.boxes else "energy"], "attention", axis=-1)
    g.add("MatMul", ["attention", "memory.features"], "context")
    terms = [
        g.add("MatMul", pair, f"term{index}")
        for index, pair in enumerate([("now", "u_now"), ("before", "u_before"), ("h", "u_h"), ("context", "u_context")])
    ]
    g.add("Sum", terms, "sum")
    g.add("Tanh", ["sum"], "next_state.h")
    g.add("Unsqueeze", ["token", "last_axis"], "next_state.last")
    g.weight("to_words", normal(width, words) * np.float32(toy.sharpness))
    offsets = np.zeros(words, np.float32)
    offsets[END] = toy.end_bonus
    g.weight("offsets", offsets)
    g.add("MatMul", ["next_state.h", "to_words"], "raw")
    g.add("Add", ["raw", "offsets"], "logits")
    g.add("LogSoftmax", ["logits"], "log_prob", axis=-1)
    _add_selection(g, words)
    g.save(path, graph_specs(toy).decoder)


def _add_selection(g: _Graph, words: int) -> None:
    """The rule of ``search.select`` as ONNX."""
    g.weight("dead", DEAD)
    g.weight("is_end_word", np.arange(words) == END)
    g.weight("words32", np.int64(words))
    g.weight("end64", np.int64(END))
    g.weight("two", np.array([2], np.int64))
    g.weight("zero", np.array([0], np.int64))
    g.weight("one", np.array([1], np.int64))
    g.weight("axis1", np.array([1], np.int64))
    g.add("Add", ["log_prob", "bias"], "biased")
    g.add("Less", ["step", "min_words"], "too_early")
    g.add("And", ["too_early", "is_end_word"], "forbidden")
    g.add("Where", ["forbidden", "dead", "biased"], "allowed")
    g.add("Unsqueeze", ["score", "last_axis"], "score3")
    g.add("Add", ["score3", "allowed"], "sums")
    g.add("Max", ["sums", "dead"], "floored")
    g.add("Flatten", ["floored"], "candidates", axis=1)
    g.add("Shape", ["token"], "k", start=1, end=2)
    g.add("Mul", ["k", "two"], "k2")
    g.add("TopK", ["candidates", "k2"], ["best", "rank"], axis=1)
    g.add("Div", ["rank", "words32"], "parents")
    g.add("Mod", ["rank", "words32"], "tokens")
    g.add("Equal", ["tokens", "end64"], "is_end")
    g.add("Slice", ["is_end", "zero", "k", "axis1"], "is_end_k")
    g.add("Slice", ["best", "zero", "k", "axis1"], "best_k")
    g.add("Slice", ["parents", "zero", "k", "axis1"], "parents_k")
    g.add("Greater", ["best_k", "dead"], "real")
    g.add("And", ["is_end_k", "real"], "ends")
    g.add("Where", ["ends", "best_k", "dead"], "ended_score")
    g.add("Cast", ["parents_k"], "ended_parent", to=TensorProto.INT32)
    # Continuations first, each group in its order.
    g.add("Squeeze", ["k2"], "k2_scalar")
    g.weight("start0", np.int64(0))
    g.weight("by1", np.int64(1))
    g.add("Range", ["start0", "k2_scalar", "by1"], "place")
    g.add("Add", ["place", "k2"], "late")
    g.add("Where", ["is_end", "late", "place"], "order")
    g.add("TopK", ["order", "k"], ["order_k", "live"], axis=1, largest=0)
    for source, name in (("tokens", "next_token"), ("parents", "next_parent")):
        g.add("GatherElements", [source, "live"], f"{name}64", axis=1)
        g.add("Cast", [f"{name}64"], name, to=TensorProto.INT32)
    g.add("GatherElements", ["best", "live"], "next_score", axis=1)


def toy_manifest(toy: Toy, search: SearchOptions) -> Manifest:
    images = toy.images(8, seed=99)
    return Manifest(
        schema=SCHEMA,
        kind="captioner",
        name="toy",
        architecture={"cell": "tanh"},
        vocabulary_size=toy.words,
        special_tokens=SpecialTokens(PAD, START, END, UNKNOWN),
        pixels=PixelSpec(toy.side, toy.side),
        attention_grid=toy.attention_grid,
        search=search,
        precisions={"float32": graph_specs(toy)},
        cpu_precision="float32",
        provenance={"data": "none"},
        quality={"float32": {"CIDEr": 0.0}},
        parity=Parity(tuple(encode_png(image) for image in images), {}, {}),
        files={},
    )


def write_toy(
    folder: Path,
    toy: Toy = Toy(),
    search: SearchOptions = SearchOptions(max_words=8, ban=("<unk>",)),  # noqa: B008 - frozen
    change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
) -> Path:
    with write_bundle(folder) as draft:
        save_encoder(toy, draft.folder / "encoder.onnx")
        save_decoder(toy, draft.folder / "decoder.onnx")
        draft.finish(change(toy_manifest(toy, search)), toy.vocabulary())
    return folder


@pytest.fixture(scope="session")
def toy() -> Toy:
    return Toy()


@pytest.fixture(scope="session")
def make_toy() -> Callable[..., Path]:
    """``write_toy(folder, toy, search, change)``: writes a toy bundle and returns its folder."""
    return write_toy


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory, toy: Toy) -> Bundle:
    """A toy bundle, to be read only."""
    return Bundle.load(write_toy(tmp_path_factory.mktemp("bundles") / "toy", toy))


@pytest.fixture(scope="session")
def boxes_toy() -> Toy:
    return Toy(boxes=5, end_bonus=-1.0)


@pytest.fixture(scope="session")
def boxes_bundle(tmp_path_factory: pytest.TempPathFactory, boxes_toy: Toy) -> Bundle:
    """A toy bundle whose encoder finds boxes, with non-maximum suppression and RoiAlign; to be read only."""
    return Bundle.load(write_toy(tmp_path_factory.mktemp("bundles") / "boxes", boxes_toy))


@pytest.fixture(scope="session")
def default_with_boxes(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundled model, which says of each cell of its grid that it is a box of three by three cells."""
    if not DEFAULT_BUNDLE.exists():
        pytest.skip("this checkout has no bundled model")
    bundle, folder = Bundle.load(), tmp_path_factory.mktemp("bundles") / "default"
    rows, columns = bundle.manifest.attention_grid
    at = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    corners = np.concatenate([at - 1, at + 2], axis=1) / np.array([columns, rows] * 2)
    boxes = corners.clip(0, 1).astype(np.float32)
    boxes[0] = 0, 0, 1, 1
    with write_bundle(folder) as draft:
        for name in bundle.manifest.files:
            shutil.copy(bundle.path / name, draft.folder / name)
        for file in {pair.encoder.file for pair in bundle.manifest.precisions.values()}:
            _add_constant_boxes(draft.folder / file, boxes)
        spec = TensorSpec("boxes", "float32", ("B", len(boxes), 4))
        pairs = {
            precision: replace(pair, encoder=replace(pair.encoder, outputs=(*pair.encoder.outputs, spec)))
            for precision, pair in bundle.manifest.precisions.items()
        }
        manifest = replace(bundle.manifest, precisions=pairs, attention_grid=(1, len(boxes)), name="boxes")
        draft.finish(manifest, bundle.vocabulary)
    return Bundle.load(folder)


def _add_constant_boxes(path: Path, boxes: np.ndarray) -> None:
    """Gives an encoder an output ``boxes``, the same for all images."""
    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    for name, value in (("all_boxes", boxes[None]), ("two_ones", np.array([1, 1], np.int64))):
        graph.initializer.append(numpy_helper.from_array(value, name))
    graph.node.extend(
        [
            helper.make_node("Shape", ["image"], ["count_of_images"], start=0, end=1),
            helper.make_node("Concat", ["count_of_images", "two_ones"], ["shape_of_boxes"], axis=0),
            helper.make_node("Expand", ["all_boxes", "shape_of_boxes"], ["boxes"]),
        ]
    )
    graph.output.append(helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ("B", len(boxes), 4)))
    path.write_bytes(model.SerializeToString())
