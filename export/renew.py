"""Graphs of a bundle as this version writes them, made of the bundle's own graphs: no checkpoint is needed.

Of the decoders, what beam search adds to the step is taken out and written anew (``beam_graph``), and the rewrites of
export are applied to the step itself (``columns``). Weights and interface stay; so do the words, which is checked. The
int8 encoder is made of the float32 one, for which there must be photographs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from camscribe.export.beam_graph import SELECTED, constants, select_nodes
from camscribe.export.columns import turn_columns
from camscribe.export.int8 import integer_encoder
from camscribe.export.onnx_export import drop_unused
from camscribe.export.parity import captions, graph_distances, same
from camscribe.export.plain import without_casts
from camscribe.export.weights import Inline, StoredWeights, insert_nodes, share_weights
from camscribe.runtime.bundle import Draft
from camscribe.runtime.errors import EngineError, OptionError
from camscribe.runtime.manifest import Manifest
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.vocab import Vocabulary

LARGEST_CHANGE = {"float32": 1e-4, "int8": 0.2}
"""Of any tensor. Sums in another order move float32's last bits, and so now and then an 8-bit number by one step; the
states carry that on (0.07 in log-probabilities on 208 images, where int8 is 0.29 from PyTorch)."""
CLOSE = {"float32": 1e-4, "int8": 5e-2}
"""Captions may differ where their scores are closer than this."""


def renew_decoders(draft: Draft, before: Path, manifest: Manifest, vocabulary: Vocabulary, images: Pixels) -> Manifest:
    """Writes the float32 and int8 decoders of a draft anew.

    Args:
        draft: has copies of all files of the bundle.
        before: the bundle itself.
        manifest: of the bundle.
        vocabulary: of the bundle.
        images: uint8 [N, H, W, 3], on which old and new graphs are compared, the parity images first.

    Returns:
        The manifest with the words and figures of the new graphs. How far a tensor is from PyTorch is, at most, how far
        it was before and how far it has moved since; their sum is what is recorded.

    Raises:
        EngineError: the new graphs do not do what the old ones did.
    """
    parity = manifest.parity
    tokens, figures = dict(parity.tokens), dict(parity.figures)
    reference = None
    for precision in ("float32", "int8"):
        if precision not in manifest.precisions:
            continue
        pair = manifest.precisions[precision]
        old = (before / pair.encoder.file, before / pair.decoder.file)
        new = (draft.folder / pair.encoder.file, draft.folder / pair.decoder.file)
        model = renewed(onnx.load(old[1]), len(vocabulary), vocabulary.end_id)
        share_weights(model, StoredWeights(old) if pair.decoder.external else Inline())
        new[1].write_bytes(model.SerializeToString())
        found = captions(draft.folder, manifest, vocabulary, precision, images)
        expected = captions(before, manifest, vocabulary, precision, images)
        words = [hypothesis.tokens for hypothesis in expected]
        moved = graph_distances(new, old, images, words, vocabulary.start_id)
        _refuse(precision, same(found, expected), moved)
        reference = reference or found
        figures[precision] = _moved(figures.get(precision, {}), same(found, reference), moved)
        tokens[precision] = tuple(hypothesis.tokens for hypothesis in found[: len(parity.images)])
    return replace(manifest, parity=replace(parity, tokens=tokens, figures=figures))


def quantise_encoder(
    draft: Draft, before: Path, manifest: Manifest, vocabulary: Vocabulary, images: Pixels
) -> Manifest:
    """Gives a draft's int8 precision an encoder of its own, made of the float32 one.

    Args:
        draft: has all files of the bundle, its decoders as they will stay.
        before: the bundle itself.
        manifest: of the draft.
        vocabulary: of the bundle.
        images: uint8 [N, H, W, 3]: the parity images, then those that calibrate, at least a few dozen.

    Returns:
        The manifest with the words and figures of the new graphs, see ``renew_decoders``.

    Raises:
        OptionError: the bundle has no int8 graphs.
    """
    parity = manifest.parity
    own = len(parity.images)
    if "int8" not in manifest.precisions:
        raise OptionError(f"{before}: has no int8 graphs whose encoder could be quantised; export it again")
    exact, old = manifest.precisions["float32"], manifest.precisions["int8"]
    model = integer_encoder(without_casts(onnx.load(before / exact.encoder.file)), images[own:])
    share_weights(model, Inline())
    encoder = replace(exact.encoder, file="encoder.int8.onnx", external=())
    (draft.folder / encoder.file).write_bytes(model.SerializeToString())
    manifest = replace(manifest, precisions={**manifest.precisions, "int8": replace(old, encoder=encoder)})
    expected = captions(draft.folder, manifest, vocabulary, "float32", images)
    found = captions(draft.folder, manifest, vocabulary, "int8", images)
    moved = graph_distances(
        (draft.folder / encoder.file, draft.folder / old.decoder.file),
        (before / old.encoder.file, draft.folder / old.decoder.file),
        images,
        [hypothesis.tokens for hypothesis in expected],
        vocabulary.start_id,
    )
    figures = _moved(parity.figures.get("int8", {}), same(found, expected), moved)
    tokens = tuple(hypothesis.tokens for hypothesis in found[:own])
    parity = replace(parity, tokens={**parity.tokens, "int8": tokens}, figures={**parity.figures, "int8": figures})
    return replace(manifest, parity=parity)


def _moved(known: Mapping[str, Any], captioned: Mapping[str, Any], moved: Mapping[str, float]) -> dict[str, Any]:
    """Figures of graphs that differ by ``moved`` from those of which the figures were ``known``."""
    return {
        **known,
        **captioned,
        **{name: known[name] + change for name, change in moved.items() if name in known},
    }


def renewed(model: onnx.ModelProto, words: int, end_id: int) -> onnx.ModelProto:
    """A decoder with the selection and the rewrites of this version, weights inside.

    Args:
        model: of any version, weights inside.
        words: size of the vocabulary.
        end_id: id of ``</s>``.
    """
    result = without_casts(model)
    graph = result.graph
    step = [
        node for node in graph.node if not any(name in SELECTED or name.startswith("select.") for name in node.output)
    ]
    weights = [weight for weight in graph.initializer if not weight.name.startswith("select.")]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(step)
    graph.initializer.extend([*weights, *constants(words, end_id)])
    insert_nodes(graph, select_nodes(words))
    turn_columns(result)
    drop_unused(graph)
    onnx.checker.check_model(result, full_check=True)
    return result


def _refuse(precision: str, captioned: Mapping[str, Any], moved: Mapping[str, float]) -> None:
    wrong = [f"{name} is {change:.3g} off" for name, change in moved.items() if not change <= LARGEST_CHANGE[precision]]
    if not captioned["score"] <= CLOSE[precision]:
        wrong.append(f"{captioned['images'] - captioned['same_captions']} of {captioned['images']} captions differ")
    if wrong:
        raise EngineError(
            f"the renewed {precision} graphs do not do what the bundle's did: {'; '.join(wrong)}; nothing was written"
        )
