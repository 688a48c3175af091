"""Engines are a cache, never part of a bundle: built on the device, and rebuilt when anything they depend on differs.

They lie in ``NAME.engines`` beside the bundle where that can be written, else in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.enhancer_bundle import EnhancerBundle
from camscribe.runtime.errors import EngineError
from camscribe.runtime.manifest import FileEntry, Graph, GraphSpec
from camscribe.runtime.tensorrt import sealed_file

RECIPE = 1
"""Raised when this code builds other engines from the same graphs; engines of another recipe are rebuilt."""
_WORDS = {
    "onnx_sha256": "another export of the graph",
    "tensorrt": "TensorRT {}",
    "gpu": "{}",
    "compute_capability": "compute capability {}",
    "recipe": "another release of camscribe",
}
"""How a difference of a key is told. Other fields select the engine, so they never differ."""


@dataclass(frozen=True)
class EngineKey:
    """Everything an engine depends on."""

    onnx_sha256: str
    """Of the graph and its weights, see ``files_sha256``."""
    tensorrt: str
    """``10.3.0``"""
    gpu: str
    """The name of the GPU."""
    compute_capability: str
    """``8.7``"""
    precision: str
    graph: str
    """``encoder`` or ``decoder``; of an enhancer the variant and the tile, ``psnr-384x384``."""
    images: int
    beams: int
    """0 for graphs that know none: all but the decoder."""
    recipe: int = RECIPE

    def __str__(self) -> str:
        beams = f", {self.beams} beams" if self.beams else ""
        return f"{self.precision} {self.graph}, batch {self.images}{beams}"

    @property
    def file_name(self) -> str:
        """Legible, and different for every key."""
        beams = f"-k{self.beams}" if self.beams else ""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:12]
        graph = re.sub(r"[^\w.-]", "_", self.graph)  # a variant may have any name
        return f"{graph}-{self.precision}-b{self.images}{beams}-{digest}.engine"


def graph_sha256(bundle: Bundle, precision: str, graph: Graph) -> str:
    """Of a graph's file and of the files that its weights lie in, as the manifest records them."""
    pair = bundle.manifest.precisions[precision]
    return files_sha256(bundle.manifest.files, pair.encoder if graph == "encoder" else pair.decoder)


def files_sha256(files: Mapping[str, FileEntry], spec: GraphSpec) -> str:
    """Of a graph's file and of the files that its weights lie in, as a manifest records them."""
    digests = [files[name].sha256 for name in (spec.file, *sorted(spec.external))]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


class EngineCache:
    """The engines of one bundle.

    Args:
        bundle: a loaded bundle, of either kind.
        user_cache: the user's cache folder; None for ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """

    def __init__(self, bundle: Bundle | EnhancerBundle, user_cache: Path | None = None) -> None:
        path = bundle.path.resolve()
        user = user_cache or _user_cache()
        name = re.sub(r"[^\w.-]", "_", path.name)
        digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
        beside = path.with_name(f"{path.name}.engines")
        self.folders = (beside, *([user / "camscribe" / f"{name}-{digest}.engines"] if user is not None else []))
        """Where engines are looked for, in this order, and written to, the first that can be."""

    def find(self, key: EngineKey) -> Path | None:
        """The file of an engine, if it is there and undamaged."""
        return next((path for path in self._paths(key) if self._problem(path, key) is None), None)

    def read(self, key: EngineKey) -> bytes | None:
        """An engine, if it is there and undamaged."""
        for path in self._paths(key):
            try:
                header, content = sealed_file.read(path)
            except (OSError, ValueError):
                continue
            if header.get("key") == asdict(key):
                return content
        return None

    def graphs(self, key: EngineKey) -> list[str]:
        """Names of all graphs that there is an engine of which differs from ``key`` in nothing else."""
        wanted = {name: value for name, value in asdict(key).items() if name != "graph"}
        found = {str(other.get("graph")) for other in self._headers() if wanted.items() <= other.items()}
        return sorted(name for name in found if self.find(replace(key, graph=name)) is not None)

    def why_not(self, key: EngineKey) -> str:
        """Why ``find`` finds nothing: what is there instead, in words."""
        for path in self._paths(key):
            problem = self._problem(path, key)
            if problem is not None and path.exists():
                return f"{path}: {problem}"
        others = sorted(self._similar(key), key=lambda item: len(_differences(item, key)))
        if not others:
            return f"no engine was built here for {key}"
        there, here = _differences(others[0], key), _differences(asdict(key), others[0])
        return f"the engine for {key} was built for {', '.join(there)}; this is {', '.join(here)}"

    def place(self) -> Path:
        """The folder that engines are written to, made and tried. Call it before a build that takes minutes.

        Raises:
            EngineError: neither folder can be written into.
        """
        problems = []
        for folder in self.folders:
            problem = _why_not_writable(folder)
            if problem is None:
                sealed_file.remove_stale(folder)
                return folder
            problems.append(f"{folder} ({problem})")
        raise EngineError(
            f"engines can be written neither into {' nor into '.join(problems)}: make one of them writable, "
            "or set XDG_CACHE_HOME to a folder that is"
        )

    def store(self, key: EngineKey, data: bytes, notes: dict[str, Any] | None = None) -> Path:
        """Writes an engine, whole or not at all; one of the same key is replaced.

        Args:
            key: what it depends on.
            data: as TensorRT serialized it.
            notes: what else to keep beside it: the audit, the gate's figures.

        Raises:
            EngineError: it cannot be written.
        """
        path = self.place() / key.file_name
        sealed_file.write(path, {"key": asdict(key), "notes": notes or {}}, data)
        return path

    def _paths(self, key: EngineKey) -> list[Path]:
        return [folder / key.file_name for folder in self.folders]

    def _problem(self, path: Path, key: EngineKey) -> str | None:
        try:
            header, _ = sealed_file.read(path)
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        except ValueError as error:
            return f"is not usable ({error})"
        return None if header.get("key") == asdict(key) else "holds the engine of another key"

    def _similar(self, key: EngineKey) -> list[dict[str, Any]]:
        """Keys of the engines that do the same, but were built for something else."""
        wanted = {name: value for name, value in asdict(key).items() if name not in _WORDS}
        return [other for other in self._headers() if wanted.items() <= other.items()]

    def _headers(self) -> Iterator[dict[str, Any]]:
        """The keys of all engines, which may be damaged."""
        for folder in self.folders:
            for path in sorted(folder.glob("*.engine")):
                try:
                    key = sealed_file.read_header(path).get("key")
                except (OSError, ValueError):
                    continue
                if isinstance(key, dict):
                    yield key


def _user_cache() -> Path | None:
    """The user's cache folder; None for a user who has neither it nor a home, as in some containers."""
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(named) if named else Path.home() / ".cache"
    except RuntimeError:
        return None


def _why_not_writable(folder: Path) -> str | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _differences(mine: Any, other: Any) -> list[str]:
    """In what ``mine`` differs from ``other``, told from ``mine``'s side."""
    mine, other = (asdict(item) if isinstance(item, EngineKey) else item for item in (mine, other))
    names = [field.name for field in fields(EngineKey) if field.name in _WORDS]
    return [_WORDS[name].format(mine.get(name)) for name in names if mine.get(name) != other.get(name)]
