"""What an archive holds: image files in folders and images in tar shards (as WebDataset makes them), cut into units."""

from __future__ import annotations

import glob
import os
import tarfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from camscribe.runtime.errors import SourceError
from camscribe.runtime.images import SUFFIXES, looks_like_image

Interval: TypeAlias = tuple[int, int]
"""From the first number to before the second."""

_SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_BLOCK = 512
"""Tar files consist of such blocks; two of zeros end one."""
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


@dataclass(frozen=True)
class Found:
    """The files of an input. Names are relative to ``root``, sorted."""

    root: Path
    files: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    problems: list[SourceError] = field(default_factory=list)
    """Folders that could not be read."""


@dataclass(frozen=True)
class Files:
    """A unit of work: some image files."""

    names: tuple[str, ...]
    """Relative to the root."""

    @property
    def images(self) -> int:
        """How many."""
        return len(self.names)

    def singles(self) -> Iterator[Files]:
        """The same images, each a unit of its own."""
        return (Files((name,)) for name in self.names)


@dataclass(frozen=True)
class Members:
    """A unit of work: some images of a shard, one after the other."""

    shard: str
    """Relative to the root."""
    offset: int
    """Of a header in the file, where reading begins: image ``first`` is the first one from there on."""
    first: int
    start: int
    """The images are ``start`` to before ``stop``, counting the shard's images from 0."""
    stop: int

    @property
    def images(self) -> int:
        """How many."""
        return self.stop - self.start

    def singles(self) -> Iterator[Members]:
        """The same images, each a unit of its own."""
        return (replace(self, start=index, stop=index + 1) for index in range(self.start, self.stop))


Unit: TypeAlias = Files | Members


def shown(name: str) -> str:
    """A file's name as text that UTF-8 can hold: bytes that are none are written as ``\\udcff``."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def find(source: str) -> Found:
    """Finds the image files and shards of an input.

    Args:
        source: a folder, searched with all its sub-folders (neither hidden ones, nor behind links); a tar file; an
            image; or a glob of any of these.

    Raises:
        SourceError: there is nothing in it.
    """
    path = Path(source)
    if "://" in source:
        raise SourceError(
            f"{source}: is a URL; expected a folder, a tar file or a glob, on a disk that is mounted here"
        )
    try:
        if path.is_dir():
            found = _gather(path, [path])
        elif path.exists():
            found = _gather(path.parent, [path])
        elif glob.has_magic(source):
            # The root is the folder above the first part with a wildcard.
            plain = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
            matches = sorted(map(Path, glob.glob(source, recursive=True)))  # noqa: PTH207 - Path.glob takes no absolute ones
            found = _gather(plain, matches)
        else:
            raise SourceError(f"{source}: no such file or folder; expected a folder, a tar file or a glob")
    except (OSError, ValueError) as error:
        raise SourceError(f"{source}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not found.files and not found.shards:
        if found.problems:
            raise found.problems[0]
        raise SourceError(f"{source}: holds neither image files ({' '.join(sorted(SUFFIXES))}) nor .tar shards")
    return found


def _gather(root: Path, paths: Iterable[Path]) -> Found:
    """Sorts files, and those of folders, into images and shards. A glob may give a folder and also what is in it."""
    files: dict[str, None] = {}
    shards: dict[str, None] = {}
    found = Found(root)
    for path in paths:
        for item in _walk(path, found.problems) if path.is_dir() else [str(path)]:
            name = os.path.relpath(item, root)
            base = os.path.basename(item)  # noqa: PTH119 - millions of Path objects take their time
            if base.lower().endswith(_SHARD_SUFFIXES) and not base.startswith("."):
                shards[name] = None
            elif looks_like_image(PurePosixPath(base)):
                files[name] = None
    found.files.extend(sorted(files))
    found.shards.extend(sorted(shards))
    return found


def _walk(folder: Path, problems: list[SourceError]) -> Iterator[str]:
    """All files below a folder, in a fixed order."""

    def note(error: OSError) -> None:
        problems.append(SourceError(f"{error.filename}: cannot be read ({error.strerror}); what is in it is left out"))

    for parent, folders, names in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(parent, name)  # noqa: PTH118 - as above
            if os.path.isfile(path):  # noqa: PTH113 - as above
                yield path


def cut_files(names: Iterable[str], size: int) -> Iterator[Files]:
    """Units of ``size`` files."""
    rest = iter(names)
    while chunk := tuple(islice(rest, size)):
        yield Files(chunk)


def cut_shard(root: Path, shard: str, done: Collection[Interval], size: int) -> tuple[list[Members], str | None]:
    """Reads the headers of a shard.

    Args:
        root, shard: where it is.
        done: images that are already captioned.
        size: images in a unit.

    Returns:
        Units of what is to be done, and what is wrong with the shard; the images before a damage are good.
    """
    units: list[Members] = []
    try:
        for index, (_, member) in enumerate(shard_images(root / shard)):
            if any(start <= index < stop for start, stop in done):
                continue
            last = units[-1] if units else None
            if last is not None and last.stop == index and last.images < size:
                units[-1] = replace(last, stop=index + 1)
            else:
                units.append(Members(shard, member.offset, index, index, index + 1))
    except SourceError as error:
        return units, str(error)
    return units, None


def shard_images(path: Path, offset: int = 0) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The images of a tar file in their order: regular files that look like images by their name.

    Args:
        path: the file.
        offset: of a header, where to begin.

    Raises:
        SourceError: the file cannot be read, is no tar file, or is damaged. What came before is good.
    """
    count = 0
    try:
        with path.open("rb") as file:
            if file.read(5).startswith(_COMPRESSED):
                raise SourceError(f"{path}: is compressed; expected a plain .tar, any part of which can be read")
            file.seek(offset)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined] # else it remembers all of them
                    if member.isreg() and looks_like_image(PurePosixPath(member.name)):
                        count += 1
                        yield tar, member
                file.seek(tar.offset)
                if any(file.read(_BLOCK)):
                    # tarfile takes a header that makes no sense for the end.
                    raise tarfile.ReadError(f"no header at byte {tar.offset}")
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"{path}: is a broken tar file ({reason}), after {count} images") from error
