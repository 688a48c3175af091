"""``camscribe build`` of an enhancer's bundle."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from camscribe.runtime.commands.build import (
    BuildProgress,
    as_json,
    describe,
    gpu_to_build_on,
    number,
    precision_of,
    workspace_bytes,
)
from camscribe.runtime.enhancer_bundle import EnhancerBundle
from camscribe.runtime.enhancer_network import TILE
from camscribe.runtime.errors import OptionError
from camscribe.runtime.tensorrt.engines import Built
from camscribe.runtime.tensorrt.enhancer_engines import build_engine, check_tile
from camscribe.runtime.tensorrt.toolchain import TileEngine

TILES = ((TILE, TILE), (128, 128))
"""Rows and columns that are built for unasked: the first for photographs, the second for what is smaller."""


def build(options: argparse.Namespace) -> int:
    """Builds the engines that the options of ``camscribe build`` name; returns the exit status."""
    if options.batch is not None or options.beams is not None:
        raise OptionError("--batch and --beams are a captioner's; this bundle is an enhancer's, whose sizes are --tile")
    bundle = EnhancerBundle.load(options.bundle)
    manifest = bundle.manifest
    variants = [manifest.graph_for("cuda", name, "float32")[0] for name in options.variant or manifest.variants]
    graphs = [manifest.variants[name] for name in variants]
    there = [name for name in graphs[0] if all(name in each for each in graphs)]
    precision = precision_of(manifest.name, there, options.precision)
    tiles = [_size(text) for text in options.tile] if options.tile else TILES
    for tile in tiles:
        check_tile(bundle, *tile)
    device = gpu_to_build_on()
    if precision == "int8":
        for line in _int8_loss(bundle, variants):
            print(f"camscribe: {line}", file=sys.stderr)
    began, built = time.monotonic(), list[Built[TileEngine]]()
    with BuildProgress(show=not options.quiet) as progress:
        for variant in dict.fromkeys(variants):
            for tile in dict.fromkeys(tiles):
                built.append(
                    build_engine(
                        bundle,
                        variant,
                        precision,
                        *tile,
                        device,
                        workspace_bytes=workspace_bytes(options),
                        rebuild=options.rebuild,
                        progress=progress.show,
                    )
                )
    if options.json:
        print(json.dumps({"builds": [as_json(each) for each in built]}, indent=1))
    else:
        print("\n".join(describe(built, time.monotonic() - began)))
    return 0


def _size(text: str) -> tuple[int, int]:
    """Rows and columns of ``320x180``, which has columns first; ``384`` is a square.

    Raises:
        OptionError: it is neither.
    """
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if match is None:
        raise OptionError(f"--tile is {text!r}; expected columns x rows, such as 320x180, or one number for a square")
    return int(match[2] or match[1]), int(match[1])


def _int8_loss(bundle: EnhancerBundle, variants: Sequence[str]) -> Iterator[str]:
    """What int8 was measured to cost, by the figures in the bundle."""
    measured = False
    for variant in variants:
        found: Any = bundle.manifest.quality.get(variant)
        quality = found if isinstance(found, Mapping) else {}
        int8, reference = (quality.get(name) for name in ("int8", "float32"))
        if not isinstance(int8, Mapping) or not isinstance(reference, Mapping):
            continue
        for data, scores in int8.items():
            ours, theirs = number(scores, "psnr_y"), number(reference.get(data), "psnr_y")
            if ours is not None and theirs is not None:
                measured = True
                yield f"int8 of {variant} on {data}: {ours:.2f} dB, float32 {theirs:.2f} dB, measured on a CPU"
    if not measured:
        yield "what int8 costs in quality was not measured for this bundle; fp16 costs next to nothing"
