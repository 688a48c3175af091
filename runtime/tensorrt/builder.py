"""A frozen ONNX graph to a serialized engine. Calls only what every TensorRT from 8.5 to 11 has; see versions.py.

Who changes how an engine is built raises ``engine_cache.RECIPE``.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from camscribe.runtime.errors import BundleError, EngineError
from camscribe.runtime.tensorrt import versions
from camscribe.runtime.tensorrt.messages import is_memory_error, messages
from camscribe.runtime.tensorrt.onnx_file import Graph

Report = Callable[[str, float], None]
"""Told the phase in words, and its share that is done: 0 to 1, NaN where this version of TensorRT does not say."""

HEARTBEAT_S = 1.0
_PATIENCE_S = 20.0
"""How long an interrupted build may take to end."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Built:
    """What a build made."""

    engine: bytes
    timing_cache: bytes
    """What TensorRT measured, to begin the next build with; empty if it kept nothing."""


@dataclass(frozen=True)
class Recipe:
    """How to build."""

    strong: bool
    """A strongly typed network; else flags and constraints."""
    quantized: bool = False
    """The graph has 8-bit operators."""
    workspace_bytes: int | None = None
    """Device memory for the scratch space of layers; None for all there is."""
    timing_cache: bytes = b""
    """From an earlier build by the same TensorRT on the same GPU."""


def typings(number: versions.Version, precision: str) -> list[bool]:
    """Values of ``Recipe.strong`` to try in turn, until the gate is passed."""
    how = versions.typing_of(number)
    if how == "either" and precision != "float32":
        return [True, False]  # strong typing is there since 10.0, but complete since 10.12 only
    return [how != "flags"]


def build(trt: ModuleType, onnx: bytes, name: str, recipe: Recipe, report: Report = lambda phase, share: None) -> Built:
    """Builds an engine; takes seconds to minutes.

    Args:
        trt: the full ``tensorrt`` module.
        onnx: a frozen graph, its weights inside.
        name: of the graph, for messages.
        recipe: how.
        report: told about once a second how far it is.

    Raises:
        EngineError: TensorRT cannot build it, in one line; or there is no GPU.
        KeyboardInterrupt: and the build was stopped, or goes on in the background where this version cannot stop it.
    """
    versions.require_driver()
    messages().clear()
    cancelled = threading.Event()
    told = [math.nan, time.monotonic()]  # the last share, and when

    def progress(phase: str, share: float) -> None:
        told[:] = [share, time.monotonic()]
        report(phase, share)

    def heartbeat() -> None:
        if time.monotonic() - told[1] >= HEARTBEAT_S:
            report("building", told[0])

    return in_thread(lambda: _build(trt, onnx, name, recipe, progress, cancelled), heartbeat, cancelled)


def in_thread(work: Callable[[], Result], heartbeat: Callable[[], None], cancelled: threading.Event) -> Result:
    """Calls ``work`` in another thread, so that Ctrl-C is heard while TensorRT is busy.

    Raises:
        KeyboardInterrupt: after ``cancelled`` was set and ``work`` had time to notice it.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="camscribe-build", daemon=True)
    try:
        thread.start()
        while thread.is_alive():
            thread.join(HEARTBEAT_S)
            if thread.is_alive():
                heartbeat()
    except KeyboardInterrupt:
        cancelled.set()
        with contextlib.suppress(RuntimeError):  # it had not begun
            thread.join(_PATIENCE_S)
        raise
    if errors:
        raise errors[0]
    return results[0]


def is_running() -> bool:
    """Whether an interrupted build still runs; then only the end of the process ends it."""
    return any(thread.name == "camscribe-build" for thread in threading.enumerate())


def _build(
    trt: ModuleType, onnx: bytes, name: str, recipe: Recipe, report: Report, cancelled: threading.Event
) -> Built:
    logger = versions.logger(trt)
    versions.register_plugins(trt)
    try:
        builder = trt.Builder(logger)
        network = versions.create_network(trt, builder, strong=recipe.strong)
        config = builder.create_builder_config()
    except TypeError as error:  # a constructor that failed in C++
        raise _failed("cannot start a build") from error
    if network is None or config is None:
        raise _failed("cannot start a build")
    _parse(trt, network, logger, onnx, name)
    if not recipe.strong:
        versions.constrain_precision(trt, network, config, quantized=recipe.quantized)
    # TensorFloat-32 would round what is meant to be float32 to the 10 bits of half precision.
    config.clear_flag(versions.member(trt, "BuilderFlag.TF32"))
    config.profiling_verbosity = versions.member(trt, "ProfilingVerbosity.DETAILED")  # for the audit
    versions.disable_libraries(trt, config)
    if recipe.workspace_bytes is not None:
        config.set_memory_pool_limit(versions.member(trt, "MemoryPoolType.WORKSPACE"), recipe.workspace_bytes)
    cache = config.create_timing_cache(recipe.timing_cache) or config.create_timing_cache(b"")
    if cache is not None:
        config.set_timing_cache(cache, False)
    monitor = versions.watch(trt, config, report, cancelled.is_set)
    report("building", math.nan)
    data = builder.build_serialized_network(network, config)
    del monitor
    if cancelled.is_set():
        raise EngineError(f"{name}: the build was interrupted")
    if data is None:
        raise _failed(f"cannot build an engine of {name}")
    kept = config.get_timing_cache()
    timings = kept.serialize() if kept is not None else None
    return Built(bytes(data), b"" if timings is None else bytes(timings))


def _parse(trt: ModuleType, network: Any, logger: Any, onnx: bytes, name: str) -> None:
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        problems = [parser.get_error(index) for index in range(parser.num_errors)]
        errors = [(problem.node(), problem.desc()) for problem in problems]
        raise EngineError(parse_problem(name, versions.version(trt), onnx, errors))
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [network.get_output(index) for index in range(network.num_outputs)]
    for tensor in tensors:
        # The executor's buffers are plain arrays.
        tensor.allowed_formats = 1 << int(versions.member(trt, "TensorFormat.LINEAR"))
    free = [tensor.name for tensor in tensors if any(size < 0 for size in tensor.shape)]
    if free:
        raise EngineError(f"{name}: the sizes of {', '.join(free)} depend on data; export the bundle again")


def parse_problem(name: str, number: versions.Version, onnx: bytes, errors: Sequence[tuple[int, str]]) -> str:
    """What a parser's errors, pairs of a node's index and a text, say in one line that names file and nodes."""
    try:
        nodes = Graph(onnx).nodes
    except BundleError:
        nodes = []
    parts = []
    for index, said in errors[:3]:
        known = 0 <= index < len(nodes)
        where = f"{nodes[index].kind} that makes {nodes[index].outputs[0]}: " if known else ""
        parts.append(f"{where}{' '.join(said.split()):.200}")
    if len(errors) > 3:
        parts.append(f"and {len(errors) - 3} more")
    return (
        f"{name}: TensorRT {versions.text(number)} cannot read the graph: "
        f"{'; '.join(parts) or messages().last()}: export the bundle again, or take another precision"
    )


def _failed(what: str) -> EngineError:
    said = messages()
    if is_memory_error(list(said.lines)):
        return EngineError(
            f"TensorRT {what}: the GPU has too little memory; close other programs on it, lower --batch or --beams, "
            "or give --workspace"
        )
    return EngineError(f"TensorRT {what}: {said.last()}")
