"""From checkpoints of generators to an enhancer's bundle: export, quantise, prove, write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from camscribe import __version__
from camscribe.export.calibration import Feeds, observe
from camscribe.export.graphs import rounded
from camscribe.export.half import to_half
from camscribe.export.onnx_export import export_graph
from camscribe.export.quantize import Plan, quantize
from camscribe.export.ranges import Ranges
from camscribe.export.weights import Inline, StoredWeights, WeightFile, share_weights, store_half
from camscribe.runtime import images
from camscribe.runtime.bundle import Draft, encode_png, write_bundle
from camscribe.runtime.enhancer_bundle import EnhancerBundle, EnhancerManifest, EnhancerParity, graph_tensors
from camscribe.runtime.errors import DataError, EngineError
from camscribe.runtime.manifest import SCHEMA, GraphSpec
from camscribe.runtime.onnxruntime_executor import open_session
from camscribe.runtime.pixels import Pixels
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.superres.config import DataConfig
from camscribe.train.superres.generator import Generator, folded
from camscribe.train.superres.patches import pair, photograph_files
from camscribe.train.superres.weights import config_of

SMALLEST = 8
"""Rows and columns that an image must have: below that, nearly all a pixel is made of lies outside the picture."""
CALIBRATION_IMAGES = 24
CALIBRATED = 64
"""Rows and columns of the small calibration images."""
_LEVELS = 1
"""Of 255, that a pixel of the float32 graph may be off: two orders of summation may round differently."""
_FLOAT_PARTS = ("head", "skip", "tail")
"""Convolutions that int8 leaves in float32: those that see the picture itself, or draw it."""


class EnhancerGraph(nn.Module):
    """uint8 [B, H, W, 3] RGB -> uint8 [B, scale H, scale W, 3]."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.permute(0, 3, 1, 2).to(torch.float32) / 255
        made = self.generator(pixels).permute(0, 2, 3, 1)
        # A cast to integers cuts off; with a half added it rounds.
        levels: Tensor = (made * 255 + 0.5).clamp(0, 255).to(torch.uint8)
        return levels


def export_enhancer(
    variants: Mapping[str, tuple[Checkpoint, Generator]],
    target: Path,
    *,
    name: str,
    parity_image: Pixels,
    calibration: list[Pixels],
    quality: dict[str, Any],
    cpu_precision: str,
    fp16: bool = True,
    int8: bool = True,
) -> dict[str, dict[str, Any]]:
    """Writes an enhancer's bundle, whole or not at all.

    Args:
        variants: by name, the default first: where it comes from and its generator, all of one configuration.
        target: the bundle's folder.
        name: of the bundle.
        parity_image: a small image uint8 [h, w, 3], which lies in the bundle.
        calibration: more of that size, on which int8 is calibrated and all graphs are compared.
        quality: measured scores.
        cpu_precision: what CPUs take.
        fp16: write half-precision graphs.
        int8: write int8 graphs.

    Returns:
        By variant and precision, how far the graphs are from PyTorch.

    Raises:
        DataError: the variants are of different generators.
        EngineError: the float32 graphs do not do what PyTorch does, or half precision cannot hold their numbers.
        BundleError: the bundle cannot be written.
    """
    default = next(iter(variants))
    config = variants[default][1].config
    for variant, (_, generator) in variants.items():
        if generator.config != config:
            raise DataError(f"variant {variant} is of another generator than {default}; expected the same [model]")
    stack = np.stack([parity_image, *calibration])
    graphs: dict[str, dict[str, GraphSpec]] = {}
    figures: dict[str, dict[str, Any]] = {}
    shown: dict[str, str] = {}
    with write_bundle(target) as draft:
        weights = WeightFile()
        made = {}
        for variant, (_, generator) in variants.items():
            model = EnhancerGraph(rounded(folded(generator)))
            made[variant] = (model, _export(model, config.scale))
            graphs[variant] = {"float32": _write(draft, variant, "float32", made[variant][1], weights, config.scale)}
        weights.write(draft.folder)
        for variant, (model, graph) in made.items():
            reference = _torch(model, stack)
            found = _run(draft, graphs[variant]["float32"], stack)
            figures[variant] = {"float32": _distance(found, reference)}
            off = figures[variant]["float32"]["largest"]
            if off > _LEVELS:
                raise EngineError(
                    f"the float32 graph of {variant} is {off} levels off what PyTorch {torch.__version__} makes; "
                    "nothing was written: export with another version of torch or onnxscript"
                )
            shown[variant] = encode_png(found[0])
            if fp16:
                graphs[variant]["fp16"] = _write_half(draft, variant, graphs[variant]["float32"], stack)
                figures[variant]["fp16"] = _distance(_run(draft, graphs[variant]["fp16"], stack), reference)
            if int8:
                small = _integer(graph, stack)
                graphs[variant]["int8"] = _write(draft, variant, "int8", small, Inline(), config.scale)
                figures[variant]["int8"] = _distance(_run(draft, graphs[variant]["int8"], stack), reference)
        manifest = EnhancerManifest(
            schema=SCHEMA,
            kind="enhancer",
            name=name,
            architecture={key: list(v) if isinstance(v, tuple) else v for key, v in vars(config).items()},
            scale=config.scale,
            radius=variants[default][1].radius,
            smallest=SMALLEST,
            variants=graphs,
            default_variant=default,
            cpu_precision=cpu_precision,
            provenance={
                "camscribe": __version__,
                "exported": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "versions": {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
                **{variant: provenance(checkpoint) for variant, (checkpoint, _) in variants.items()},
            },
            quality=quality,
            parity=EnhancerParity(encode_png(stack[0]), shown, figures),
            files={},
        )
        draft.seal(manifest, EnhancerBundle.load)
    return figures


def update_enhancer(folder: Path, quality: dict[str, Any], cpu_precision: str | None) -> None:
    """Adds measured quality to a bundle, or names the precision that CPUs take; all else stays.

    Raises:
        BundleError: the bundle cannot be used, or not be written.
        OptionError: it has no such variant or precision.
    """
    import shutil

    bundle = EnhancerBundle.load(folder)
    manifest = bundle.manifest
    merged = dict(manifest.quality)
    for variant, precisions in quality.items():
        own = dict(merged.get(variant, {}))
        for precision, scores in precisions.items():
            if precision != "bicubic":
                manifest.graph_for("cpu", variant, precision)
            own[precision] = {**own.get(precision, {}), **scores}
        merged[variant] = own
    manifest = replace(manifest, quality=merged, cpu_precision=cpu_precision or manifest.cpu_precision)
    with write_bundle(folder) as draft:
        for name in manifest.files:
            shutil.copyfile(folder / name, draft.folder / name)
        draft.seal(manifest, EnhancerBundle.load)


def calibration_pixels(folder: Path | None, data: DataConfig, scale: int) -> list[Pixels]:
    """Small images, ``CALIBRATED`` pixels square: middles of photographs, of a folder or of the training data, reduced.

    Raises:
        DataError: there are none.
    """
    files = photograph_files(folder or Path(data.root))
    if folder is None:
        files = files[: len(files) - data.tune]
    chosen = [files[round(row)] for row in np.linspace(0, len(files) - 1, min(CALIBRATION_IMAGES, len(files)))]
    made = []
    for path in chosen:
        small = pair(path.name, images.read(path), scale).small
        top, left = ((size - CALIBRATED) // 2 for size in small.shape[:2])
        if min(top, left) < 0:
            raise DataError(f"{path}: too small; expected {CALIBRATED * scale} pixels or more in each axis")
        made.append(np.ascontiguousarray(small[top : top + CALIBRATED, left : left + CALIBRATED]))
    return made


def provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    """How a generator was trained, without the paths of the machine it was trained on."""
    config = config_of(checkpoint)
    table = config.to_dict()
    scored = [entry for entry in checkpoint.meta["history"] if "tune_psnr_y" in entry]
    return {
        "data": {key: v for key, v in table["data"].items() if key != "root"} | checkpoint.meta.get("data", {}),
        "features": {"network": config.features.network, "weights": Path(config.features.weights).name},
        "seed": config.seed,
        "averaged": checkpoint.meta.get("averaged", []),
        "plus": checkpoint.meta.get("plus", []),
        "blended": checkpoint.meta.get("blended", []),
        "stages": {stage["name"]: stage for stage in table["stage"]},
        "history": {
            f"{entry['stage']} {entry['epoch']}": {"tune_psnr_y": entry["tune_psnr_y"], "time": entry["time"]}
            for entry in scored
        },
        "versions": checkpoint.meta.get("versions", {}),
    }


def _spec(file: str, scale: int, external: tuple[str, ...] = ()) -> GraphSpec:
    return GraphSpec(file, external, *graph_tensors(scale))


def _export(model: EnhancerGraph, scale: int) -> onnx.ModelProto:
    free = {0: Dim("B", min=1), 1: Dim("H", min=4), 2: Dim("W", min=4)}
    image = torch.zeros(2, 20, 24, 3, dtype=torch.uint8)
    return export_graph(model.eval(), image, free, _spec("enhancer", scale), "enhancer")


def _write(
    draft: Draft, variant: str, precision: str, model: onnx.ModelProto, store: WeightFile | Inline, scale: int
) -> GraphSpec:
    shared = onnx.ModelProto()
    shared.CopyFrom(model)
    share_weights(shared, store)
    name = f"{variant}.onnx" if precision == "float32" else f"{variant}.{precision}.onnx"
    (draft.folder / name).write_bytes(shared.SerializeToString())
    return _spec(name, scale, _external(shared))


def _write_half(draft: Draft, variant: str, float32: GraphSpec, stack: Pixels) -> GraphSpec:
    file = draft.folder / float32.file
    reference = onnx.load(file)
    half = to_half(reference, float32)
    ranges = Ranges(half, reference)
    for start in range(0, len(stack), 4):
        feeds = [{"image": stack[start : start + 4]}]
        ranges.watch(feeds, feeds)
    ranges.refuse()
    store_half(half, StoredWeights([file]))
    name = f"{variant}.fp16.onnx"
    (draft.folder / name).write_bytes(half.SerializeToString())
    return replace(float32, file=name, external=_external(half))


def _external(model: onnx.ModelProto) -> tuple[str, ...]:
    entries = (entry for weight in model.graph.initializer for entry in weight.external_data)
    return tuple(sorted({entry.value for entry in entries if entry.key == "location"}))


def _integer(model: onnx.ModelProto, stack: Pixels) -> onnx.ModelProto:
    """Quantises the body; the residual stream between its blocks stays float32, as do the parts that draw."""
    small = onnx.ModelProto()
    small.CopyFrom(model)
    skip = tuple(
        weight.name for weight in small.graph.initializer if any(f"{part}." in weight.name for part in _FLOAT_PARTS)
    )

    def feeds() -> Iterator[Feeds]:
        for start in range(0, len(stack), 8):
            yield {"image": stack[start : start + 8]}

    plan = Plan(small, skip)
    quantize(small, plan, observe(small, plan.tensors, feeds))
    onnx.checker.check_model(small)
    return small


def _torch(model: EnhancerGraph, stack: Pixels) -> Pixels:
    with torch.no_grad():
        made: Pixels = model(torch.from_numpy(stack)).numpy()
    return made


def _run(draft: Draft, graph: GraphSpec, stack: Pixels) -> Pixels:
    session = open_session(draft.folder / graph.file, "cpu")
    return np.concatenate([session.run(["enhanced"], {"image": image[None]})[0] for image in stack])


def _distance(found: Pixels, expected: Pixels) -> dict[str, float]:
    """Levels of 255 that two stacks of images are apart."""
    apart = np.abs(found.astype(np.int16) - expected.astype(np.int16))
    return {
        "images": len(found),
        "largest": int(apart.max()),
        "mean": float(apart.mean()),
        "differing_share": float((apart > 0).mean()),
    }
