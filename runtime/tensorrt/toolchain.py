"""What turns a frozen graph into an engine and runs it: the part of a build that needs the GPU, and only that."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import EngineError
from camscribe.runtime.executor import Executor
from camscribe.runtime.manifest import GraphSpec
from camscribe.runtime.tensorrt import audit, builder, gate, sealed_file, versions


@dataclass(frozen=True)
class EnginePair:
    """The two engines of one precision, as TensorRT serialized them."""

    encoder: bytes
    decoder: bytes
    images: int
    """B that both are frozen for; smaller batches are padded."""
    beams: int
    """K that the decoder is frozen for; the encoder knows no beams."""

    @property
    def key(self) -> tuple[int, int]:
        """B and K."""
        return self.images, self.beams

    @property
    def parts(self) -> Mapping[str, bytes]:
        """By graph."""
        return {"encoder": self.encoder, "decoder": self.decoder}


@dataclass(frozen=True)
class TileEngine:
    """The engine of one variant and precision of an enhancer, as TensorRT serialized it."""

    data: bytes
    height: int
    width: int
    """Rows and columns of the small image that it is frozen for."""

    @property
    def key(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.height, self.width

    @property
    def parts(self) -> Mapping[str, bytes]:
        """By graph, of which there is one."""
        return {"enhancer": self.data}


class Toolchain(Protocol):
    """Compiles engines and runs them."""

    version: str
    """``10.3.0``, part of every engine's key."""

    def typings(self, precision: str) -> Sequence[bool]:
        """Values of ``Recipe.strong`` to try in turn."""

    def compile(self, onnx: bytes, name: str, recipe: builder.Recipe, report: builder.Report) -> builder.Built:
        """See ``builder.build``."""

    def audit(self, engine: bytes) -> audit.Audit:
        """See ``audit.audit``."""

    def side(self, bundle: Bundle, precision: str, engines: EnginePair) -> AbstractContextManager[gate.Side]:
        """A captioner's engines, running, to be compared."""

    def runner(self, engine: bytes, graph: GraphSpec, sizes: Mapping[str, int]) -> AbstractContextManager[gate.Runner]:
        """One engine, running, to be compared; ``sizes`` are the free ones of its tensors."""


class TensorRT:
    """TensorRT as a ``Toolchain``.

    Raises:
        EngineError: it is missing, not supported, or there is no GPU driver.
    """

    def __init__(self) -> None:
        self._trt = versions.load(building=True)
        versions.require_driver()
        self.version = versions.text(versions.version(self._trt))

    def typings(self, precision: str) -> Sequence[bool]:
        """See ``Toolchain``."""
        return builder.typings(versions.version(self._trt), precision)

    def compile(self, onnx: bytes, name: str, recipe: builder.Recipe, report: builder.Report) -> builder.Built:
        """See ``Toolchain``."""
        return builder.build(self._trt, onnx, name, recipe, report)

    def audit(self, engine: bytes) -> audit.Audit:
        """See ``Toolchain``."""
        return audit.audit(self._trt, versions.deserialize(self._trt, engine))

    @contextlib.contextmanager
    def side(self, bundle: Bundle, precision: str, engines: EnginePair) -> Iterator[gate.Side]:
        """See ``Toolchain``."""
        from camscribe.runtime.tensorrt.executor import TensorRTExecutor

        pair = bundle.manifest.precisions[precision]
        rows, columns = bundle.manifest.attention_grid
        sizes = {"B": engines.images, "K": engines.beams, "P": rows * columns, "V": bundle.manifest.vocabulary_size}
        with contextlib.ExitStack() as opened:
            encoder, decoder = (
                opened.enter_context(self.runner(data, spec, sizes))
                for data, spec in ((engines.encoder, pair.encoder), (engines.decoder, pair.decoder))
            )
            executor: Executor = TensorRTExecutor(bundle, precision, engines)
            opened.callback(executor.close)
            yield gate.Side(encoder, decoder, executor)

    def runner(self, engine: bytes, graph: GraphSpec, sizes: Mapping[str, int]) -> AbstractContextManager[gate.Runner]:
        """See ``Toolchain``."""
        from camscribe.runtime.tensorrt.runner import EngineRunner

        return contextlib.closing(EngineRunner(self._trt, engine, (*graph.inputs, *graph.outputs), sizes))


class TimingCache:
    """What TensorRT measured in earlier builds, for one version of it on one GPU. A second build is far faster."""

    def __init__(self, folder: Path, version: str, gpu: str, compute_capability: str) -> None:
        plain = "".join(letter if letter.isalnum() else "_" for letter in gpu)
        self._path = folder / f"timings-{version}-{plain}-{compute_capability}.cache"

    def read(self) -> bytes:
        """Empty where there is none, or it is damaged."""
        try:
            return sealed_file.read(self._path)[1]
        except (OSError, ValueError):
            return b""

    def write(self, data: bytes) -> None:
        """Keeps it, if it can be written: else the next build is slower, no more."""
        if data:
            with contextlib.suppress(EngineError):
                sealed_file.write(self._path, {}, data)
