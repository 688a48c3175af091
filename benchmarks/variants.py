"""What can be measured here: bundles x backends x precisions, each opened once, and why not the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from camscribe.benchmarks.schema import BundleFacts
from camscribe.runtime import typed_json
from camscribe.runtime.bundle import Bundle, content_sha256
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import CamscribeError, EngineError, OptionError
from camscribe.runtime.executor import Backend, Executor, open_executor, why_not

BACKENDS = tuple(name for name in get_args(Backend) if name != "auto")
"""Those that can be asked for, each under its own name."""


@dataclass(frozen=True)
class Opened:
    """A variant that works here."""

    name: str
    path: Path | None
    """The bundle's folder as it was given; None for the default one."""
    backend: str
    precision: str
    captioner: Captioner
    executor: Executor
    """The captioner's own."""

    @property
    def bundle(self) -> Bundle:
        """The loaded bundle."""
        return self.captioner.bundle

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of how it runs."""
        return tuple(getattr(self.executor, "notes", ()))

    def size_bytes(self) -> int:
        """Of the files that it reads."""
        manifest = self.bundle.manifest
        return sum(manifest.files[name].bytes for name in manifest.files_of(self.precision))


def open_variants(
    paths: Sequence[Path | None], backends: Sequence[str], precisions: Sequence[str], threads: int | None
) -> tuple[list[Opened], dict[str, str]]:
    """Opens all that works.

    Args:
        paths: folders of bundles, None for the default one.
        backends: names to try; empty for all.
        precisions: names to try; empty for all that a bundle has.
        threads: of a CPU; None for one per physical core.

    Returns:
        What works, and by name why the others do not.

    Raises:
        OptionError: a backend is unknown, or no bundle has a precision.
        BundleError: a bundle cannot be used.
        EngineError: nothing works.
    """
    unknown = [name for name in backends if name not in BACKENDS]
    if unknown:
        raise OptionError(f"--backend is {unknown[0]!r}; expected {', '.join(BACKENDS)}")
    bundles = [Bundle.load(path, "cpu", None) for path in paths]
    there = list(dict.fromkeys(name for bundle in bundles for name in bundle.manifest.precisions))
    missing = [name for name in precisions if name not in there]
    if missing:
        raise OptionError(f"--precision is {missing[0]!r}; the bundles have {', '.join(there)}")
    opened: list[Opened] = []
    left_out: dict[str, str] = {}
    reasons = {name: why_not(cast(Backend, name)) for name in backends or BACKENDS}
    try:
        for title, path, bundle in zip(_titles(bundles), paths, bundles, strict=True):
            for backend, reason in reasons.items():
                for precision in bundle.manifest.precisions:
                    name = f"{title} {backend} {precision}"
                    if precisions and precision not in precisions:
                        continue
                    if reason is not None:
                        left_out[name] = reason
                        continue
                    try:
                        loaded, executor, choice = open_executor(path, cast(Backend, backend), precision, threads)
                    except EngineError as error:
                        left_out[name] = str(error)
                        continue
                    captioner = Captioner(loaded, executor, choice)
                    opened.append(Opened(name, path, backend, precision, captioner, executor))
    except BaseException:
        close(opened)
        raise
    if not opened:
        why = "; ".join(dict.fromkeys(left_out.values())) or "no bundle has one of the precisions"
        raise EngineError(f"nothing can be measured here: {why}")
    return opened, left_out


def close(opened: Sequence[Opened]) -> None:
    """Gives all memory back."""
    for variant in opened:
        variant.captioner.close()


def reference(opened: Sequence[Opened], variant: Opened, threads: int | None) -> Captioner | str:
    """Float32 of the same bundle on the CPU: the captions that others are compared with. A text where it fails."""
    for other in opened:
        if other.path == variant.path and (other.backend, other.precision) == ("cpu", "float32"):
            return other.captioner
    try:
        return Captioner.load(variant.path, "cpu", "float32", threads)
    except CamscribeError as error:
        return str(error)


def facts(bundle: Bundle) -> BundleFacts:
    """What a report says of a bundle."""
    return BundleFacts(bundle.manifest.name, content_sha256(bundle.path), typed_json.encode(bundle.manifest.search))


def _titles(bundles: Sequence[Bundle]) -> list[str]:
    """A name for each bundle that no other has."""
    titles: list[str] = []
    for bundle in bundles:
        name, number = bundle.manifest.name, 1
        while name in titles:
            number += 1
            name = f"{bundle.manifest.name}#{number}"
        titles.append(name)
    return titles
