"""The half-precision graphs of a bundle: made of its float32 graphs alone, checked against them, put beside them.

ONNX Runtime's CPU provider computes many half operators in float32. So the checks here prove types, ranges and rounded
weights (and, where tensors are watched, that each is rounded to half), not the arithmetic of FP16 hardware.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from camscribe.export.half import half_specs, to_half
from camscribe.export.parity import Words, captions, graph_distances, same, teacher_forced
from camscribe.export.ranges import Ranges
from camscribe.export.weights import StoredWeights, store_half
from camscribe.runtime.bundle import Draft
from camscribe.runtime.manifest import GraphPair, Manifest
from camscribe.runtime.onnxruntime_executor import open_session
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.vocab import Vocabulary

_BATCH = 4
"""Images whose tensors are watched at a time: all of them lie in memory at once."""
_GRAPHS = ("encoder", "decoder")


class Added(NamedTuple):
    """What adding the half-precision graphs came to."""

    manifest: Manifest
    """With the precision, its expected words and its figures."""
    figures: dict[str, Any]
    """Distances from the float32 graphs, in tensors and captions, and the largest numbers."""
    ranges: dict[str, Any]
    """By graph and tensor: its type and largest absolute value."""


def add_fp16(draft: Draft, manifest: Manifest, vocabulary: Vocabulary, images: Pixels) -> Added:
    """Writes ``encoder.fp16.onnx`` and ``decoder.fp16.onnx`` into a draft that has the float32 graphs.

    Args:
        draft: the bundle being written.
        manifest: of the draft, as far as it goes.
        vocabulary: of the bundle.
        images: uint8 [N, H, W, 3], the parity images first.

    Raises:
        EngineError: a graph has something that cannot be written in half, or whose numbers half cannot hold.
    """
    float32 = manifest.precisions["float32"]
    files = _files(draft.folder, float32)
    reference = [onnx.load(file) for file in files]
    specs = half_specs(float32, reference[1])
    half = [to_half(model, spec) for model, spec in zip(reference, (specs.encoder, specs.decoder), strict=True)]
    stored = StoredWeights(files)
    named = []
    for graph, model, spec in zip(_GRAPHS, half, (specs.encoder, specs.decoder), strict=True):
        small = onnx.ModelProto()
        small.CopyFrom(model)
        store_half(small, stored)
        name = f"{graph}.fp16.onnx"
        (draft.folder / name).write_bytes(small.SerializeToString())
        named.append(replace(spec, file=name, external=_external(small)))
    manifest = replace(manifest, precisions={**manifest.precisions, "fp16": GraphPair(named[0], named[1])})
    expected = captions(draft.folder, manifest, vocabulary, "float32", images)
    words = [hypothesis.tokens for hypothesis in expected]
    paths = _files(draft.folder, manifest.precisions["fp16"])
    ranges = _ranges((half, reference), (paths, files), images, words, vocabulary.start_id)
    for each in ranges:
        each.refuse()
    found = captions(draft.folder, manifest, vocabulary, "fp16", images)
    parity = manifest.parity
    figures = {
        **same(found, expected),
        **graph_distances(paths, files, images, words, vocabulary.start_id),
        **{graph: each.summary() for graph, each in zip(_GRAPHS, ranges, strict=True)},
    }
    tokens = tuple(hypothesis.tokens for hypothesis in found[: len(parity.images)])
    parity = replace(parity, tokens={**parity.tokens, "fp16": tokens}, figures={**parity.figures, "fp16": figures})
    table = {graph: each.table() for graph, each in zip(_GRAPHS, ranges, strict=True)}
    return Added(replace(manifest, parity=parity), figures, table)


def _files(folder: Path, pair: GraphPair) -> tuple[Path, Path]:
    return folder / pair.encoder.file, folder / pair.decoder.file


def _external(model: onnx.ModelProto) -> tuple[str, ...]:
    entries = (entry for weight in model.graph.initializer for entry in weight.external_data)
    return tuple(sorted({entry.value for entry in entries if entry.key == "location"}))


def _ranges(
    models: tuple[list[onnx.ModelProto], list[onnx.ModelProto]],
    files: tuple[tuple[Path, Path], tuple[Path, Path]],
    images: Pixels,
    sentences: list[Words],
    start_id: int,
) -> list[Ranges]:
    """What both graphs' numbers reach on the images and their captions; half and float32 in each pair of arguments."""
    half, reference = ([open_session(file, "cpu") for file in pair] for pair in files)
    encoder, decoder = (Ranges(models[0][index], models[1][index]) for index in range(2))
    for image in images:
        # One at a time: every number in between is kept, gigabytes of them for a large encoder.
        encoder.watch([{"image": image[None]}], [{"image": image[None]}])
    for start in range(0, len(images), _BATCH):
        rows = slice(start, start + _BATCH)
        steps = [
            (feeds for feeds, _ in teacher_forced(pair[0], pair[1], images[rows], sentences[rows], start_id))
            for pair in (half, reference)
        ]
        decoder.watch(steps[0], steps[1])
    return [encoder, decoder]
