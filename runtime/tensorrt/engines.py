"""The engines of a bundle: from the cache, or built, audited, compared with ONNX Runtime, and only then stored."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import EngineError, OptionError
from camscribe.runtime.manifest import Graph
from camscribe.runtime.tensorrt import audit, builder, gate, versions
from camscribe.runtime.tensorrt.engine_cache import EngineCache, EngineKey, graph_sha256
from camscribe.runtime.tensorrt.freeze import freeze
from camscribe.runtime.tensorrt.onnx_file import Graph as OnnxGraph
from camscribe.runtime.tensorrt.toolchain import EnginePair, TensorRT, TimingCache, Toolchain

if TYPE_CHECKING:
    from camscribe.runtime.cuda.driver import DeviceInfo

Progress = Callable[[str, float], None]
"""Told what is being done, in words, and its share that is done: 0 to 1, NaN where nobody knows."""


Result = TypeVar("Result")
Engines = TypeVar("Engines")


@dataclass
class Built(Generic[Engines]):
    """What a build did."""

    engines: Engines
    files: dict[str, Path]
    """Of the engines, by the names of their graphs; encoder first."""
    new: tuple[str, ...]
    """Those that were built; the others were in the cache."""
    audits: dict[str, audit.Audit] = field(default_factory=dict)
    """Of the new ones."""
    verdict: gate.Finding | None = None
    """None where nothing was built."""
    strong: bool | None = None
    """Whether the new ones are strongly typed."""


@dataclass(frozen=True)
class Wanted:
    """An engine that is to be there."""

    key: EngineKey
    graph: Path
    """The graph's file."""
    freeze: Callable[[], bytes]
    """Makes the ONNX file with all sizes given, see ``camscribe.runtime.tensorrt.freeze``."""


def check_sizes(images: int, beams: int) -> None:
    """Refuses sizes that have no meaning.

    Raises:
        OptionError: B or K is out of range.
    """
    for name, value, largest in (("batch", images, 1024), ("beams", beams, 64)):
        if not 1 <= value <= largest:
            raise OptionError(f"{name} is {value}; expected 1 to {largest}")


def keys_of(
    bundle: Bundle, precision: str, images: int, beams: int, device_info: DeviceInfo, tensorrt: str | None = None
) -> dict[Graph, EngineKey]:
    """What the two engines depend on, here and now.

    Args:
        bundle, precision, images, beams, device_info: see ``open_engines``.
        tensorrt: its version; None asks the module.

    Raises:
        EngineError: TensorRT is missing or not supported.
        OptionError: the bundle has no such precision, or B or K has no meaning.
    """
    check_sizes(images, beams)
    bundle.manifest.precision_for("cuda", precision)
    number = versions.text(versions.version()) if tensorrt is None else tensorrt
    capability = ".".join(map(str, device_info.compute_capability))
    return {
        graph: EngineKey(
            graph_sha256(bundle, precision, graph),
            number,
            device_info.name,
            capability,
            precision,
            graph,
            images,
            beams if graph == "decoder" else 0,
        )
        for graph in ("encoder", "decoder")
    }


def open_engines(
    bundle: Bundle,
    precision: str,
    images: int,
    beams: int,
    device_info: DeviceInfo,
    *,
    build: bool,
    progress: Progress | None = None,
) -> EnginePair:
    """The engines of a bundle for B images and K beams on this device.

    Args:
        bundle: a loaded bundle.
        precision: one of its precisions: ``float32``, ``fp16`` or ``int8``.
        images, beams: B and K.
        device_info: the GPU, see ``camscribe.runtime.cuda.driver.device_info``.
        build: build what is missing, which takes minutes, check it and store it.
        progress: told what is being built.

    Raises:
        EngineError: an engine is missing and ``build`` is False; or it cannot be built, or computes something else
            than ONNX Runtime.
        OptionError: the bundle has no such precision, or B or K has no meaning.
    """
    cache = EngineCache(bundle)
    keys = keys_of(bundle, precision, images, beams, device_info)
    found = {graph: cache.read(key) for graph, key in keys.items()}
    encoder, decoder = found["encoder"], found["decoder"]
    if encoder is not None and decoder is not None:
        return EnginePair(encoder, decoder, images, beams)
    if not build:
        reasons = "; ".join(cache.why_not(keys[graph]) for graph, data in found.items() if data is None)
        raise EngineError(f"{reasons}: run {command(bundle, precision, images, beams)}")
    return build_engines(bundle, precision, images, beams, device_info, progress=progress).engines


def command(bundle: Bundle, precision: str, images: int, beams: int) -> str:
    """The command that builds these engines."""
    short = "fp32" if precision == "float32" else precision
    return f"camscribe build {bundle.path} --precision {short} --batch {images} --beams {beams}"


def build_engines(
    bundle: Bundle,
    precision: str,
    images: int,
    beams: int,
    device_info: DeviceInfo,
    *,
    workspace_bytes: int | None = None,
    rebuild: bool = False,
    progress: Progress | None = None,
    toolchain: Toolchain | None = None,
) -> Built[EnginePair]:
    """Builds the engines of a captioner that the cache lacks.

    Args:
        bundle, precision, images, beams, device_info: see ``open_engines``.
        workspace_bytes: limit of a layer's scratch space; None for TensorRT's own, but a quarter of a shared memory.
        rebuild: build both, whatever the cache holds.
        progress: told what is being done.
        toolchain: None for TensorRT.

    Raises:
        EngineError: nothing was stored, and what was in the cache still is.
        OptionError: see ``open_engines``.
    """
    tools: Toolchain = toolchain or TensorRT()
    keys = keys_of(bundle, precision, images, beams, device_info, tools.version)

    def compare(found: Mapping[str, bytes]) -> gate.Verdict:
        reference = gate.onnxruntime_side(bundle)
        try:
            with tools.side(bundle, precision, _pair(found, images, beams)) as candidate:
                limits = gate.LIMITS.get(precision, gate.LIMITS["float32"])
                return gate.compare(bundle, reference, candidate, images, beams, limits)
        finally:
            reference.executor.close()

    wanted: dict[str, Wanted] = {
        graph: Wanted(key, bundle.graph(precision, graph), partial(freeze, bundle, precision, graph, images, beams))
        for graph, key in keys.items()
    }
    built = build_wanted(
        EngineCache(bundle),
        wanted,
        compare,
        device_info,
        tools,
        workspace_bytes=workspace_bytes,
        rebuild=rebuild,
        progress=progress,
    )
    pair = _pair(built.engines, images, beams)
    return Built(pair, built.files, built.new, built.audits, built.verdict, built.strong)


def build_wanted(
    cache: EngineCache,
    wanted: Mapping[str, Wanted],
    compare: Callable[[Mapping[str, bytes]], gate.Finding],
    device_info: DeviceInfo,
    tools: Toolchain,
    *,
    workspace_bytes: int | None = None,
    rebuild: bool = False,
    progress: Progress | None = None,
) -> Built[dict[str, bytes]]:
    """Builds those engines of a bundle of any kind that its cache lacks: all are kept, or none.

    Args:
        cache: of the bundle.
        wanted: engines by the names of their graphs, all of one precision; they are compared together.
        compare: runs the engines beside ONNX Runtime.
        device_info, workspace_bytes, rebuild, progress: see ``build_engines``.
        tools: what builds.

    Raises:
        EngineError: nothing was stored, and what was in the cache still is.
    """
    report = progress or (lambda phase, share: None)
    place = cache.place()  # before minutes are spent on what cannot be kept
    found = {name: None if rebuild else cache.read(each.key) for name, each in wanted.items()}
    new = tuple(name for name, data in found.items() if data is None)
    if not new:
        return Built({name: data for name, data in found.items() if data is not None}, _files(cache, wanted), ())
    if workspace_bytes is None and device_info.integrated:
        workspace_bytes = device_info.total_bytes // 4  # the CPU needs some of it too
    frozen = {name: wanted[name].freeze() for name in new}
    first = next(iter(wanted.values())).key
    precision = first.precision
    timings = TimingCache(place, tools.version, device_info.name, first.compute_capability)
    audits: dict[str, audit.Audit] = {}

    def attempt(strong: bool) -> tuple[dict[str, bytes], gate.Finding]:
        made = {name: data for name, data in found.items() if data is not None and name not in new}
        for name in new:
            file = str(wanted[name].graph)
            quantized = "QuantizeLinear" in {node.kind for node in OnnxGraph(frozen[name]).nodes}
            recipe = builder.Recipe(strong, quantized, workspace_bytes, timings.read())
            result = tools.compile(frozen[name], file, recipe, _prefixed(report, name))
            timings.write(result.timing_cache)
            audits[name] = tools.audit(result.engine)
            # Of several graphs in int8, one may have stayed in float32.
            audit.check(audits[name], precision if quantized or precision != "int8" else "float32", file)
            made[name] = result.engine
        report("comparing with ONNX Runtime", math.nan)
        verdict = compare(made)
        gate.check(verdict, str(wanted[new[0]].graph.parent))
        return made, verdict

    strong, (engines, verdict) = first_that_works(tools.typings(precision), attempt, report)
    notes = {"gate": verdict.notes(), "strongly_typed": strong, "workspace_bytes": workspace_bytes}
    for name in new:
        cache.store(wanted[name].key, engines[name], {**notes, "layers": audits[name].layers})
    return Built(engines, _files(cache, wanted), new, audits, verdict, strong)


def first_that_works(
    typings: Sequence[bool], attempt: Callable[[bool], Result], report: Progress
) -> tuple[bool, Result]:
    """The first of several ways to build that ends with engines that pass, and what it gave.

    Raises:
        EngineError: that of the last way.
    """
    *early, last = typings
    for strong in early:
        with contextlib.suppress(EngineError):
            return strong, attempt(strong)
        report(f"{'strongly' if strong else 'weakly'} typed engines did not pass; trying the other way", math.nan)
    return last, attempt(last)


def _pair(found: Mapping[str, bytes], images: int, beams: int) -> EnginePair:
    return EnginePair(found["encoder"], found["decoder"], images, beams)


def _files(cache: EngineCache, wanted: Mapping[str, Wanted]) -> dict[str, Path]:
    return {name: path for name, each in wanted.items() if (path := cache.find(each.key)) is not None}


def _prefixed(report: Progress, name: str) -> Progress:
    return lambda phase, share: report(f"{name}: {phase}", share)
