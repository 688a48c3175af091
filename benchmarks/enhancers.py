"""What can be measured of an enhancer here: backends x precisions, each opened once, and why not the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import numpy as np

from camscribe.benchmarks.enhancer_schema import EnhancerFacts, Fidelity
from camscribe.runtime.bundle import content_sha256
from camscribe.runtime.enhancer import Enhancer
from camscribe.runtime.enhancer_bundle import EnhancerBundle
from camscribe.runtime.enhancer_network import Backend
from camscribe.runtime.errors import EngineError, OptionError
from camscribe.runtime.executor import why_not
from camscribe.runtime.pixels import Pixels

BACKENDS = tuple(name for name in get_args(Backend) if name != "auto")
"""Those that can be asked for, each under its own name."""
SIZES = ("80x45", "160x90", "320x180")
"""Columns x rows of the small images that are enhanced where none are named; the last is a 720p frame's quarter."""


@dataclass(frozen=True)
class OpenedEnhancer:
    """A variant that works here."""

    name: str
    """``BUNDLE VARIANT BACKEND PRECISION``."""
    backend: str
    precision: str
    enhancer: Enhancer

    @property
    def bundle(self) -> EnhancerBundle:
        """The loaded bundle."""
        return self.enhancer.bundle

    def size_bytes(self) -> int:
        """Of the files that it reads."""
        graph = self.bundle.manifest.variants[self.enhancer.variant][self.precision]
        return sum(self.bundle.manifest.files[name].bytes for name in (graph.file, *graph.external))


def open_enhancers(
    path: Path, variant: str | None, backends: Sequence[str], precisions: Sequence[str], threads: int | None
) -> tuple[list[OpenedEnhancer], dict[str, str]]:
    """Opens all that works.

    Args:
        path: the bundle's folder.
        variant: of it; None for its default.
        backends: names to try; empty for all.
        precisions: names to try; empty for all that the bundle has.
        threads: of a CPU; None for one per physical core.

    Returns:
        What works, and by name why the others do not.

    Raises:
        OptionError: a backend, the variant or a precision is unknown.
        BundleError: the bundle cannot be used.
        EngineError: nothing works.
    """
    unknown = [name for name in backends if name not in BACKENDS]
    if unknown:
        raise OptionError(f"--backend is {unknown[0]!r}; an enhancer runs on {', '.join(BACKENDS)}")
    manifest = EnhancerBundle.load(path, "cpu", variant).manifest
    taken, _, _ = manifest.graph_for("cpu", variant, None)
    there = manifest.variants[taken]
    for name in precisions:
        manifest.graph_for("cpu", taken, name)
    opened: list[OpenedEnhancer] = []
    left_out: dict[str, str] = {}
    try:
        for backend in backends or BACKENDS:
            reason = None if backend == "cpu" else why_not(cast(Backend, backend))
            for precision in precisions or there:
                name = f"{manifest.name} {taken} {backend} {precision}"
                if reason is not None:
                    left_out[name] = reason
                    continue
                try:
                    enhancer = Enhancer.load(path, cast(Backend, backend), precision, threads, variant=taken)
                except EngineError as error:
                    left_out[name] = str(error)
                    continue
                opened.append(OpenedEnhancer(name, backend, precision, enhancer))
    except BaseException:
        close(opened)
        raise
    if not opened:
        raise EngineError(f"nothing can be measured here: {'; '.join(dict.fromkeys(left_out.values()))}")
    return opened, left_out


def close(opened: Sequence[OpenedEnhancer]) -> None:
    """Gives all memory back."""
    for variant in opened:
        variant.enhancer.close()


def facts(variant: OpenedEnhancer) -> EnhancerFacts:
    """What a report says of the bundle."""
    manifest = variant.bundle.manifest
    digest = content_sha256(variant.bundle.path)
    return EnhancerFacts(manifest.name, digest, variant.enhancer.variant, manifest.scale, manifest.architecture)


def cut(photograph: Pixels, size: str, name: str) -> Pixels:
    """The middle of a photograph.

    Args:
        photograph: uint8 [h, w, 3].
        size: columns x rows, ``320x180``.
        name: of the photograph, for messages.

    Raises:
        OptionError: the size is none, or larger than the photograph.
    """
    width, _, height = size.partition("x")
    if not (width.isdigit() and height.isdigit() and 0 < int(width) < 10_000 and 0 < int(height) < 10_000):
        raise OptionError(f"--sizes has {size!r:.40}; expected columns x rows, such as 320x180")
    rows, columns = int(height), int(width)
    top, left = (photograph.shape[0] - rows) // 2, (photograph.shape[1] - columns) // 2
    if min(top, left) < 0:
        there = f"{photograph.shape[1]}x{photograph.shape[0]}"
        raise OptionError(f"{name} has {there} pixels, fewer than {size}; name another photograph with --images")
    return np.ascontiguousarray(photograph[top : top + rows, left : left + columns])


def fidelity(found: Pixels, expected: Pixels) -> Fidelity:
    """How near a picture is to float32's."""
    apart = np.abs(found.astype(np.int16) - expected.astype(np.int16))
    error = float(np.mean(apart.astype(np.float64) ** 2))
    return Fidelity(10 * float(np.log10(255**2 / error)) if error else None, int(apart.max()))
