"""Bundles of kind "enhancer": the networks that enlarge images, their precisions, and how far they were measured."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from camscribe.runtime import typed_json
from camscribe.runtime.bundle import decode_png, file_problems, read_folder
from camscribe.runtime.errors import BundleError, OptionError
from camscribe.runtime.manifest import Device, FileEntry, GraphSpec, TensorSpec, parse_manifest, unsafe_names
from camscribe.runtime.pixels import Pixels

DEFAULT_ENHANCER = Path(__file__).parent / "bundles" / "enhancer"
"""The enhancer that is used when none is named."""


@dataclass(frozen=True)
class EnhancerParity:
    """What the exporting machine saw, so that another one can prove itself without PyTorch."""

    image: str
    """A small image as PNG (uint8 RGB) in base64."""
    enhanced: dict[str, str]
    """By variant: its enlargement by the float32 graph, as PNG in base64."""
    figures: dict[str, Any]
    """By variant and precision: how far the graphs are from PyTorch, in levels of 255."""


@dataclass(frozen=True)
class EnhancerManifest:
    """The whole of an enhancer's ``bundle.json``."""

    schema: int
    kind: Literal["enhancer"]
    name: str
    architecture: dict[str, Any]
    """What the network is, as the training configuration says it."""
    scale: int
    """Enlargement in each axis."""
    radius: int
    """How many pixels of the small image around a pixel its enlargement depends on: what tiles overlap by."""
    smallest: int
    """Rows and columns that an image must have at least."""
    variants: dict[str, dict[str, GraphSpec]]
    """By variant (``psnr``: nearest to the truth, ``gan``: sharpest to look at) and precision."""
    default_variant: str
    cpu_precision: str
    """The precision taken on a CPU when none is named."""
    provenance: dict[str, Any]
    """By variant: data, configuration and steps of the training."""
    quality: dict[str, Any]
    """Measured scores, by variant, precision and data set."""
    parity: EnhancerParity
    files: dict[str, FileEntry]
    """Every other file of the bundle."""

    def graph_for(self, device: Device, variant: str | None, precision: str | None) -> tuple[str, str, GraphSpec]:
        """Variant, precision and graph to open, where the arguments are the user's wishes.

        Raises:
            OptionError: the bundle has no such variant or precision.
        """
        variant = self.default_variant if variant is None else variant
        if variant not in self.variants:
            raise OptionError(f"variant is {variant!r}; enhancer {self.name!r} has {', '.join(sorted(self.variants))}")
        graphs = self.variants[variant]
        if precision is None:
            precision = self.cpu_precision if device == "cpu" else "float32"
        if precision not in graphs:
            raise OptionError(f"precision is {precision!r}; enhancer {self.name!r} has {', '.join(sorted(graphs))}")
        return variant, precision, graphs[precision]


@dataclass(frozen=True)
class EnhancerBundle:
    """An enhancer's folder, checked."""

    path: Path
    manifest: EnhancerManifest

    @classmethod
    def load(
        cls,
        path: Path | None = None,
        device: Device | None = None,
        variant: str | None = None,
        precision: str | None = None,
    ) -> EnhancerBundle:
        """Reads and checks a bundle.

        Args:
            path: its folder; None for the one that comes with the package.
            device: where its graph will be opened. Only that graph's files are hashed then; None hashes all.
            variant: the one that will be opened, None for the default.
            precision: the one that will be opened, None for the device's default.

        Raises:
            BundleError: one line that lists everything wrong.
            OptionError: the bundle has no such variant or precision.
        """
        folder = DEFAULT_ENHANCER if path is None else Path(path)
        manifest = read_folder(folder, read_enhancer_manifest, default=path is None)
        opened = None
        if device is not None:
            graph = manifest.graph_for(device, variant, precision)[2]
            opened = (graph.file, *graph.external)
        problems = []
        for name, entry in manifest.files.items():
            problems += file_problems(folder / name, entry, hashed=opened is None or name in opened)
        if problems:
            raise BundleError(f"{folder}: {'; '.join(problems)}: fetch or export the bundle again")
        return cls(folder, manifest)

    def parity_image(self) -> Pixels:
        """The parity image, uint8 [h, w, 3] RGB.

        Raises:
            BundleError: it cannot be read.
        """
        return self._png(self.manifest.parity.image, "parity image")

    def parity_enhanced(self, variant: str) -> Pixels:
        """What the float32 graph of a variant made of the parity image, uint8 [H, W, 3] RGB.

        Raises:
            BundleError: it cannot be read.
        """
        return self._png(self.manifest.parity.enhanced[variant], f"parity image of {variant}")

    def _png(self, text: str, what: str) -> Pixels:
        try:
            return decode_png(text)
        except Exception as error:  # Pillow raises whatever a damaged image makes it raise
            raise BundleError(f"{self.path}{os.sep}bundle.json: {what} is not a PNG in base64 ({error})") from error


def read_enhancer_manifest(text: str) -> EnhancerManifest:
    """Reads an enhancer's ``bundle.json``.

    Raises:
        BundleError: one line that lists everything wrong.
    """
    value = parse_manifest(text, "enhancer")
    problems: list[str] = []
    manifest = typed_json.decode(EnhancerManifest, value, "manifest", problems)
    if not problems:
        problems = _contradictions(manifest)
    if problems:
        raise BundleError(f"bundle.json: {'; '.join(problems)}")
    result: EnhancerManifest = manifest
    return result


def graph_tensors(scale: int) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of every graph of an enhancer: B images of any height H and width W."""
    return (
        (TensorSpec("image", "uint8", ("B", "H", "W", 3)),),
        (TensorSpec("enhanced", "uint8", ("B", f"{scale}*H", f"{scale}*W", 3)),),
    )


def _contradictions(manifest: EnhancerManifest) -> list[str]:
    """What is well formed, but cannot be."""
    problems = []
    for name, low, high in (("scale", 1, 16), ("radius", 0, 512), ("smallest", 1, 512)):
        value = getattr(manifest, name)
        if not low <= value <= high:
            problems.append(f"{name} is {value}; expected {low} to {high}")
    if problems:
        return problems
    if manifest.default_variant not in manifest.variants:
        problems.append(f"default_variant is {manifest.default_variant!r:.60}, which is not among variants")
    problems += unsafe_names(manifest.files)
    inputs, outputs = graph_tensors(manifest.scale)
    for variant, graphs in manifest.variants.items():
        for needed in ("float32", manifest.cpu_precision):
            if needed not in graphs:
                problems.append(f"variant {variant:.60} lacks {needed:.60}")
        for precision, graph in graphs.items():
            problems += [
                f"variant {variant:.60}, {precision:.60}: files lacks {name:.60}"
                for name in (graph.file, *graph.external)
                if name not in manifest.files
            ]
            if (graph.inputs, graph.outputs) != (inputs, outputs):
                found = " ".join(map(str, (*graph.inputs, *graph.outputs)))
                expected = " ".join(map(str, (*inputs, *outputs)))
                problems.append(f"variant {variant:.60}, {precision:.60}: has {found:.300}; expected {expected}")
        if variant not in manifest.parity.enhanced:
            problems.append(f"parity lacks variant {variant:.60}")
    return problems
