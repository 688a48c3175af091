"""From a checkpoint to a bundle: export, quantise, prove, write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from camscribe import __version__
from camscribe.export.fp16 import add_fp16
from camscribe.export.graphs import attention_grid, example, graph_pair, rounded
from camscribe.export.int8 import integer_decoder, integer_encoder
from camscribe.export.onnx_export import export_graphs
from camscribe.export.parity import Words, caption_with_torch, captions, same, tensor_distances
from camscribe.export.weights import WEIGHTS, Inline, WeightFile, share_weights
from camscribe.runtime.bundle import Draft, check_place, encode_png, write_bundle
from camscribe.runtime.errors import EngineError
from camscribe.runtime.manifest import SCHEMA, GraphPair, Manifest, Parity, SpecialTokens
from camscribe.runtime.pixels import Pixels, PixelSpec
from camscribe.runtime.search import SearchOptions
from camscribe.train.checkpoint import Checkpoint

CPU_PRECISIONS = ("float32", "int8")
LARGEST_DISTANCE = 1e-2
"""Of any tensor from PyTorch, in float32; a wrong operator shows as far more, another order of sums as far less."""
OTHER_BOXES = 0.05
"""Share of the regions that may be others; a wrong operator moves them all."""
CLOSE = 1e-3
"""Captions may differ where their scores are closer than this: two orders of summation may then choose differently."""

_DECODERS = {
    "soft_attention": "soft attention (Xu et al. 2015)",
    "updown": "up-down (Anderson et al. 2018)",
    "transformer": "transformer (Vaswani et al. 2017)",
    "topdown": "up-down (Anderson et al. 2018, as in ruotianluo's repository)",
    "att2in2": "att2in (Rennie et al. 2017, as in ruotianluo's repository)",
    "show_attend_tell": "soft attention (Xu et al. 2015, as in ruotianluo's repository)",
}
_OF_TRANSFORMERS = {"layers", "heads", "window"}
_OF_REGIONS = {
    "detector",
    "detector_side",
    "detector_classes",
    "proposals",
    "regions",
    "min_regions",
    "region_threshold",
    "region_overlap",
    "cells",
    "feature_width",
}
"""Keys of the configuration that mean nothing to other models, and are not told of them."""

Figures = dict[str, dict[str, Any]]


class Exported(NamedTuple):
    """What an export came to."""

    figures: Figures
    """Parity by precision."""
    ranges: dict[str, Any]
    """Of the half-precision graphs: by graph and tensor its type and largest absolute value."""


def export_bundle(
    checkpoint: Checkpoint,
    target: Path,
    *,
    name: str,
    search: SearchOptions,
    spec: PixelSpec,
    parity_images: Pixels,
    calibration: Pixels | None,
    quality: dict[str, Any],
    cpu_precision: str,
    fp16: bool = True,
    int8: bool = True,
    int8_encoder: bool = False,
) -> Exported:
    """Writes a bundle, whole or not at all.

    Args:
        checkpoint: the trained captioner.
        target: the bundle's folder.
        name: of the bundle.
        search: its defaults.
        spec: how its pixels arrive.
        parity_images: uint8 [N, H, W, 3], which lie in the bundle.
        calibration: uint8 [N, H, W, 3], on which the int8 graphs are calibrated and all graphs are compared; None
            where there are none, and so no int8 graphs.
        quality: measured scores by precision.
        cpu_precision: what CPUs take.
        fp16: write half-precision graphs.
        int8: write int8 graphs.
        int8_encoder: quantise the encoder too.

    Raises:
        EngineError: the float32 graphs do not do what PyTorch does, or half precision cannot hold their numbers;
            nothing is written.
        BundleError: the bundle cannot be written.
    """
    check_place(target)
    vocabulary = checkpoint.vocabulary
    model = rounded(checkpoint.model())
    run = example(model)
    pair = graph_pair(model, run)
    encoder, decoder = export_graphs(model, run, pair, vocabulary.end_id)
    manifest = Manifest(
        schema=SCHEMA,
        kind="captioner",
        name=name,
        architecture=_architecture(checkpoint),
        vocabulary_size=len(vocabulary),
        special_tokens=SpecialTokens(vocabulary.pad_id, vocabulary.start_id, vocabulary.end_id, vocabulary.unknown_id),
        pixels=spec,
        attention_grid=attention_grid(model, run),
        search=search,
        precisions={},
        cpu_precision=cpu_precision,
        provenance=_provenance(checkpoint),
        quality=quality,
        parity=Parity(tuple(map(encode_png, parity_images)), {}, {}),
        files={},
    )
    with write_bundle(target) as draft:
        weights = WeightFile()
        files = tuple(
            _write(draft, graph, "float32", made, weights)
            for graph, made in (("encoder", encoder), ("decoder", decoder))
        )
        weights.write(draft.folder)
        manifest = replace(manifest, precisions={"float32": _named(pair, (files[0], files[1]), (WEIGHTS,))})
        tested = parity_images if calibration is None else np.concatenate([parity_images, calibration])
        found = captions(draft.folder, manifest, vocabulary, "float32", tested)
        expected = caption_with_torch(model, vocabulary, tested, search)
        figures = {"float32": same(found, expected)}
        words = [hypothesis.tokens for hypothesis in found]
        paths = (draft.folder / files[0], draft.folder / files[1])
        figures["float32"] |= tensor_distances(
            paths, model, parity_images, words[: len(parity_images)], vocabulary.start_id
        )
        _refuse(figures["float32"])
        tokens: dict[str, tuple[Words, ...]] = {"float32": tuple(words[: len(parity_images)])}
        if int8 and calibration is not None:
            small = integer_decoder(decoder, paths, calibration, words[len(parity_images) :], vocabulary.start_id)
            half = _write(draft, "decoder", "int8", small, Inline())
            # The float32 encoder serves both unless asked otherwise: what 8-bit weights cost hangs on the backbone and
            # is to be measured (the shipped one: benchmarks/results/quality-int8-all.json).
            integer = replace(manifest.precisions["float32"], decoder=replace(pair.decoder, file=half))
            if int8_encoder:
                name = _write(draft, "encoder", "int8", integer_encoder(encoder, calibration), Inline())
                integer = replace(integer, encoder=replace(pair.encoder, file=name))
            manifest = replace(manifest, precisions={**manifest.precisions, "int8": integer})
            own = captions(draft.folder, manifest, vocabulary, "int8", tested)
            paths = (draft.folder / integer.encoder.file, draft.folder / integer.decoder.file)
            figures["int8"] = same(own, expected)
            figures["int8"] |= tensor_distances(
                paths, model, parity_images, words[: len(parity_images)], vocabulary.start_id
            )
            tokens["int8"] = tuple(hypothesis.tokens for hypothesis in own[: len(parity_images)])
        manifest = replace(manifest, parity=replace(manifest.parity, tokens=tokens, figures=figures))
        ranges: dict[str, Any] = {}
        if fp16:
            manifest, figures["fp16"], ranges = add_fp16(draft, manifest, vocabulary, tested)
        draft.finish(manifest, vocabulary)
    return Exported(figures, ranges)


def _write(draft: Draft, graph: str, precision: str, model: onnx.ModelProto, store: WeightFile | Inline) -> str:
    """Writes a graph and returns its file's name."""
    shared = onnx.ModelProto()
    shared.CopyFrom(model)
    share_weights(shared, store)
    name = f"{graph}.onnx" if precision == "float32" else f"{graph}.{precision}.onnx"
    (draft.folder / name).write_bytes(shared.SerializeToString())
    return name


def _named(pair: GraphPair, files: tuple[str, str], external: tuple[str, ...]) -> GraphPair:
    return GraphPair(
        replace(pair.encoder, file=files[0], external=external),
        replace(pair.decoder, file=files[1], external=external),
    )


def _refuse(figures: dict[str, Any]) -> None:
    wrong = [
        f"{name} is {value:.3g} off"
        for name, value in figures.items()
        if name not in ("images", "same_captions", "score", "other_boxes") and not value <= LARGEST_DISTANCE
    ]
    if not figures.get("other_boxes", 0.0) <= OTHER_BOXES:
        wrong.append(
            f"{figures['other_boxes']:.0%} of the boxes are others (as of a detector that was never trained, whose "
            "scores differ in their last bits only)"
        )
    if not figures["score"] <= CLOSE:
        wrong.append(f"{figures['images'] - figures['same_captions']} of {figures['images']} captions differ")
    if wrong:
        raise EngineError(
            f"the float32 graphs do not do what PyTorch {torch.__version__} does: {'; '.join(wrong)}; nothing was "
            "written: export with another version of torch or onnxscript"
        )


def _architecture(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the model is, with its parameters counted. Of an ensemble, keys of decoders stand with the members."""
    model = checkpoint.config.to_dict()["model"]
    members, tensors = model.pop("members"), checkpoint.of("model.")
    kept = {key: value for key, value in model.items() if key != "weights"}
    if members:
        kept = {key: value for key, value in kept.items() if key not in members[0]}
    titles = [_DECODERS[each["decoder"]] for each in members or [model]]
    made = {**_used(kept), "decoder": " + ".join(titles)}
    if "detector" in made:
        made["detector"] = Path(model["detector"]).name
    made["parameters"] = {
        "encoder": _numbers(tensors) - _numbers(tensors, "decoder."),
        "decoder": _numbers(tensors, "decoder."),
    }
    if members:
        made["members"] = {
            str(number): {
                **_used(member),
                "decoder": titles[number],
                "parameters": _numbers(tensors, f"decoder.members.{number}."),
            }
            for number, member in enumerate(members)
        }
    return made


def _used(table: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's table of a model, or of an ensemble's member, without what only other models have."""
    idle: set[str] = set()
    if table.get("encoder") == "grid":
        idle |= _OF_REGIONS
    if "decoder" in table:
        idle |= {"attention_width"} if table["decoder"] == "transformer" else _OF_TRANSFORMERS
    return {key: value for key, value in table.items() if key not in idle}


def _numbers(tensors: Mapping[str, Tensor], prefix: str = "") -> int:
    """In all tensors of a name, but for a detector's file, which is bytes."""
    return sum(
        value.numel() for name, value in tensors.items() if name.startswith(prefix) and value.is_floating_point()
    )


def _provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    """How the model was made, without the paths of the machine it was made on."""
    versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    return {
        "camscribe": __version__,
        "exported": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {**checkpoint.meta.get("versions", {}), **versions},
        **_run(checkpoint.meta),
    }


def _run(meta: dict[str, Any]) -> dict[str, Any]:
    """A training run, and under ``start`` the one that it started from; of an ensemble those of its members."""
    if "members" in meta:  # joined, and so not trained itself
        return {
            "members": {
                str(number): {"checkpoint": member["checkpoint"], **_run(member)}
                for number, member in enumerate(meta["members"])
            }
        }
    if "bundle" in meta:  # which says itself how it was made
        return {"bundle": meta["bundle"]}
    config = meta["config"]
    data = {key: value for key, value in config["data"].items() if key not in ("root", "captions", "images")}
    scored = [entry for entry in meta["history"] if "tune_cider" in entry]
    return {
        "data": {**data, **meta.get("data", {})},
        "pretrained": Path(config["model"]["weights"]).name,
        "seed": config["seed"],
        "averaged": meta.get("averaged", []),
        "plus": meta.get("plus", []),
        "stages": {stage["name"]: stage for stage in config["stage"]},
        "history": {
            f"{entry['stage']} {entry['epoch']}": {"tune_cider": entry["tune_cider"], "time": entry["time"]}
            for entry in scored
        },
        "start": _run(meta["start"]) if meta.get("start") else None,
        **({"imported": meta["imported"]} if "imported" in meta else {}),
    }
