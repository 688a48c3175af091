"""The engines of an enhancer: one for each variant, precision and size of tile, each frozen for that size."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from camscribe.runtime.enhancer_bundle import EnhancerBundle
from camscribe.runtime.errors import EngineError, NoEngineError, OptionError
from camscribe.runtime.images import MAX_PIXELS
from camscribe.runtime.onnxruntime_executor import open_session
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.tensorrt import enhancer_gate, gate, versions
from camscribe.runtime.tensorrt.engine_cache import EngineCache, EngineKey, files_sha256
from camscribe.runtime.tensorrt.engines import Built, Progress, Wanted, build_wanted
from camscribe.runtime.tensorrt.freeze import freeze_graph
from camscribe.runtime.tensorrt.toolchain import TensorRT, TileEngine, Toolchain
from camscribe.runtime.tiles import enlarge

if TYPE_CHECKING:
    from camscribe.runtime.cuda.driver import DeviceInfo

_REFERENCE_TILE = 384
"""Rows and columns that go through the reference at a time, so that a large tile takes no gigabytes on the CPU."""


def precision_for(bundle: EnhancerBundle, variant: str, precision: str | None) -> str:
    """The precision of engines: the one that is wished, else fp16 where the bundle has it.

    Raises:
        OptionError: the bundle has no such variant or precision.
    """
    if precision is None and "fp16" in bundle.manifest.variants.get(variant, {}):
        precision = "fp16"
    return bundle.manifest.graph_for("cuda", variant, precision)[1]


def check_tile(bundle: EnhancerBundle, height: int, width: int) -> None:
    """Refuses sizes of tiles that have no meaning.

    Raises:
        OptionError: a side is too small for the network, or the enlargement too large.
    """
    smallest, scale = bundle.manifest.smallest, bundle.manifest.scale
    if min(height, width) < smallest:
        raise OptionError(f"tile is {width}x{height}; expected {smallest}x{smallest} pixels or more")
    if height * width * scale**2 > MAX_PIXELS:
        raise OptionError(f"tile is {width}x{height}; x{scale} that is more than {MAX_PIXELS} pixels in all")


def graph_name(variant: str, height: int, width: int) -> str:
    """What the cache calls a graph that is frozen for a tile: ``psnr-384x384``, columns first."""
    return f"{variant}-{width}x{height}"


def sizes_of(bundle: EnhancerBundle, height: int, width: int) -> dict[str, int]:
    """The free sizes of a graph's tensors for one tile."""
    scale = bundle.manifest.scale
    return {"B": 1, "H": height, "W": width, f"{scale}*H": scale * height, f"{scale}*W": scale * width}


def key_of(
    bundle: EnhancerBundle,
    variant: str,
    precision: str,
    height: int,
    width: int,
    device_info: DeviceInfo,
    tensorrt: str | None = None,
) -> EngineKey:
    """What an engine depends on, here and now.

    Args:
        bundle, variant, precision, height, width, device_info: see ``open_engine``.
        tensorrt: its version; None asks the module.

    Raises:
        EngineError: TensorRT is missing or not supported.
        OptionError: the bundle has no such graph, or the size has no meaning.
    """
    check_tile(bundle, height, width)
    graph = bundle.manifest.graph_for("cuda", variant, precision)[2]
    return EngineKey(
        files_sha256(bundle.manifest.files, graph),
        versions.text(versions.version()) if tensorrt is None else tensorrt,
        device_info.name,
        ".".join(map(str, device_info.compute_capability)),
        precision,
        graph_name(variant, height, width),
        1,
        0,
    )


def sizes_there(
    bundle: EnhancerBundle, variant: str, precision: str, device_info: DeviceInfo, tensorrt: str | None = None
) -> list[tuple[int, int]]:
    """Rows and columns of the tiles that there are engines for, the largest first; see ``key_of``.

    Raises:
        EngineError, OptionError: see ``key_of``.
    """
    smallest = bundle.manifest.smallest
    key = key_of(bundle, variant, precision, smallest, smallest, device_info, tensorrt)
    found = []
    for name in EngineCache(bundle).graphs(key):
        width, _, height = name.removeprefix(f"{variant}-").partition("x")
        if width.isdigit() and height.isdigit() and name == graph_name(variant, int(height), int(width)):
            found.append((int(height), int(width)))
    return sorted(found, key=lambda size: size[0] * size[1], reverse=True)


def command(bundle: EnhancerBundle, variant: str, precision: str, height: int, width: int) -> str:
    """The command that builds an engine."""
    short = "fp32" if precision == "float32" else precision
    return f"camscribe build {bundle.path} --variant {variant} --precision {short} --tile {width}x{height}"


def open_engine(
    bundle: EnhancerBundle, variant: str, precision: str, height: int, width: int, device_info: DeviceInfo
) -> TileEngine:
    """An engine from the cache.

    Args:
        bundle: a loaded bundle.
        variant, precision: which graph.
        height, width: of the tile, in pixels of the small image.
        device_info: the GPU, see ``camscribe.runtime.cuda.driver.device_info``.

    Raises:
        NoEngineError: it is not there, with why and how it is built.
        EngineError, OptionError: see ``key_of``.
    """
    cache, key = EngineCache(bundle), key_of(bundle, variant, precision, height, width, device_info)
    data = cache.read(key)
    if data is None:
        raise NoEngineError(f"{cache.why_not(key)}: run {command(bundle, variant, precision, height, width)}")
    return TileEngine(data, height, width)


def build_engine(
    bundle: EnhancerBundle,
    variant: str,
    precision: str,
    height: int,
    width: int,
    device_info: DeviceInfo,
    *,
    workspace_bytes: int | None = None,
    rebuild: bool = False,
    progress: Progress | None = None,
    toolchain: Toolchain | None = None,
) -> Built[TileEngine]:
    """Builds an engine unless the cache has it, and compares it with ONNX Runtime before it is kept.

    Args:
        bundle, variant, precision, height, width, device_info: see ``open_engine``.
        workspace_bytes, rebuild, progress, toolchain: see ``camscribe.runtime.tensorrt.engines.build_engines``.

    Raises:
        EngineError: it cannot be built, or makes another picture; what was in the cache still is.
        OptionError: see ``key_of``.
    """
    tools: Toolchain = toolchain or TensorRT()
    key = key_of(bundle, variant, precision, height, width, device_info, tools.version)
    graph = bundle.manifest.variants[variant][precision]
    path, sizes = bundle.path / graph.file, sizes_of(bundle, height, width)

    def compare(engines: Mapping[str, bytes]) -> gate.Finding:
        manifest, window = bundle.manifest, max(_REFERENCE_TILE, 2 * bundle.manifest.radius + 1)
        session = gate.SessionRunner(open_session(bundle.path / manifest.variants[variant]["float32"].file, "cpu"))

        def reference(image: Pixels) -> Pixels:
            return enlarge(image, partial(_run, session), manifest.scale, (window, window), manifest.radius)

        limits = enhancer_gate.LIMITS.get(precision, enhancer_gate.LIMITS["float32"])
        with tools.runner(engines[key.graph], graph, sizes) as runner:
            return enhancer_gate.compare(
                bundle.parity_image(), reference, lambda image: _run(runner, image[None])[0], height, width, limits
            )

    wanted = {key.graph: Wanted(key, path, partial(freeze_graph, path, graph.external, sizes))}
    made = build_wanted(
        EngineCache(bundle),
        wanted,
        compare,
        device_info,
        tools,
        workspace_bytes=workspace_bytes,
        rebuild=rebuild,
        progress=progress,
    )
    engine = TileEngine(made.engines[key.graph], height, width)
    return Built(engine, made.files, made.new, made.audits, made.verdict, made.strong)


def _run(runner: gate.Runner, images: Pixels) -> Pixels:
    """uint8 [1, h, w, 3] -> [1, scale h, scale w, 3]."""
    made = runner({"image": images})["enhanced"]
    if made.dtype != np.uint8:
        raise EngineError(f"the enhanced picture is {made.dtype}; expected uint8")
    return made
