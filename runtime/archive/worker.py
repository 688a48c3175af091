"""What runs in Ray's worker processes: captions units of an archive. A bad image is a row with an error."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from camscribe.runtime.archive.inputs import Files, Members, Unit, cut_shard, shard_images, shown
from camscribe.runtime.archive.table import Row
from camscribe.runtime.bundle import DEFAULT_BUNDLE, MANIFEST
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import BundleError, CamscribeError, SourceError
from camscribe.runtime.executor import Backend
from camscribe.runtime.images import Photo, decode
from camscribe.runtime.pixels import reduce
from camscribe.runtime.search import SearchOptions

if TYPE_CHECKING:
    from camscribe.runtime.caption import Caption
    from camscribe.runtime.guided.options import GuidedChanges

TRIES = 2
"""Times that a unit may end its worker process before it is given up."""

_LARGEST_BYTES = 1 << 30
"""Of a member of a shard."""

Column = npt.NDArray[np.object_]
"""Pickled objects, the form in which all that is ours goes through Ray."""


@dataclass(frozen=True)
class Job:
    """What every worker must know."""

    root: Path
    bundle: Path | None
    bundle_sha256: str | None
    """Of the manifest, which has the hashes of all the rest; None before it is known."""
    backend: Backend
    precision: str | None
    threads: int
    batch: int
    search: GuidedChanges
    ban: tuple[str, ...]

    def load(self) -> Captioner:
        """The captioner.

        Raises:
            CamscribeError: it cannot be used here.
        """
        if self.bundle_sha256 not in (None, bundle_sha256(self.bundle)):
            raise BundleError(
                f"{self.bundle or DEFAULT_BUNDLE}: is another bundle here than where the command was given"
            )
        return Captioner.load(self.bundle, self.backend, self.precision, self.threads)


class Trial(TypedDict):
    """What a trial of the captioner on a worker found."""

    error: CamscribeError | None
    precision: str
    options: SearchOptions
    reasons: tuple[str, ...]


class Result(TypedDict):
    """What became of a unit."""

    unit: int
    """Its number."""
    rows: list[Row]
    died: bool
    """The worker process ended each time that the unit was tried."""
    error: CamscribeError | None
    """Not the images' fault: the run cannot go on."""


class Tries:
    """Counts how often each unit was begun. One for all workers, so that it remembers when one of them ends."""

    def __init__(self) -> None:
        self._begun: dict[int, int] = {}

    def begin(self, unit: int) -> bool:
        """Whether the unit may be tried (once more)."""
        count = self._begun[unit] = self._begun.get(unit, 0) + 1
        return count <= TRIES

    def end(self, unit: int) -> None:
        """Forgets a unit that is done."""
        self._begun.pop(unit, None)


def bundle_sha256(path: Path | None) -> str:
    """Identifies a bundle: the sha256 of its manifest, which has those of all its files."""
    manifest = (path or DEFAULT_BUNDLE) / MANIFEST
    try:
        return hashlib.sha256(manifest.read_bytes()).hexdigest()
    except OSError as error:
        raise BundleError(f"{manifest}: cannot be read ({error.strerror})") from error


def try_captioner(job: Job) -> Trial:
    """Loads the captioner and captions one image: what would fail for all images fails here."""
    try:
        with job.load() as captioner:
            options = captioner.options(job.ban, **job.search)
            spec = captioner.bundle.manifest.pixels
            blank = np.zeros((spec.height, spec.width, 3), np.uint8)
            for result in captioner.caption_each([blank], options, "rgb", batch=job.batch):
                if isinstance(result, SourceError):
                    raise result
            return Trial(
                error=None, precision=captioner.choice.precision, options=options, reasons=captioner.choice.reasons
            )
    except CamscribeError as error:
        return Trial(error=error, precision="", options=SearchOptions(), reasons=())


def cut(root: Path, size: int, batch: dict[str, Column]) -> dict[str, Column]:
    """Cuts shards into units: (shard, done) to (shard, units, what is wrong)."""
    found = []
    for item in batch["item"]:
        shard, done = pickle.loads(item)
        found.append((shard, *cut_shard(root, shard, done, size)))
    return {"item": packed(found)}


def packed(items: list[Any]) -> Column:
    """A column of pickled objects."""
    column = np.empty(len(items), object)
    column[:] = [pickle.dumps(item) for item in items]
    return column


class Worker:
    """Captions units; Ray makes one in each of its worker processes."""

    def __init__(self, job: Job, tries: Any) -> None:
        self._job = job
        self._tries = tries
        self._captioner: Captioner | None = None
        self._readers = ThreadPoolExecutor(job.threads)

    def __call__(self, batch: dict[str, Column]) -> dict[str, Column]:
        return {"item": packed([self._caption(*pickle.loads(item)) for item in batch["item"]])}

    def _caption(self, number: int, unit: Unit) -> Result:
        import ray

        if not ray.get(self._tries.begin.remote(number)):
            return Result(unit=number, rows=[], died=True, error=None)
        try:
            if self._captioner is None:
                self._captioner = self._job.load()
            rows = list(caption_unit(self._captioner, self._job, unit, self._readers))
        except CamscribeError as error:
            return Result(unit=number, rows=[], died=False, error=error)
        self._tries.end.remote(number)
        return Result(unit=number, rows=rows, died=False, error=None)


def caption_unit(captioner: Captioner, job: Job, unit: Unit, readers: Executor) -> Iterator[Row]:
    """Captions the images of a unit; one row each, whatever is wrong with an image.

    Args:
        captioner, job, unit: what is done with what.
        readers: the threads that decode images, those of a batch at the same time.

    Raises:
        EngineError: the device failed.
    """
    options = captioner.options(job.ban, **job.search)
    spec = captioner.bundle.manifest.pixels

    def read(image: _Image) -> Photo | SourceError:
        try:
            with image.open() as file:
                # As the captioner itself reads files.
                photo = decode(file, image.name, at_least=2 * max(spec.height, spec.width))
            return replace(photo, pixels=reduce(photo.pixels, spec))
        except OSError as error:
            return SourceError(f"{image.name}: cannot be read ({error.strerror or error})")
        except SourceError as error:
            return error

    images = _files(job.root, unit) if isinstance(unit, Files) else _members(job.root, unit)
    while chunk := list(islice(images, job.batch)):
        found = list(readers.map(read, chunk))
        pixels = [photo.pixels for photo in found if isinstance(photo, Photo)]
        captions = captioner.caption_each(pixels, options, "rgb", batch=job.batch)
        for image, photo in zip(chunk, found, strict=True):
            if isinstance(photo, SourceError):
                yield {**image.row, "error": shown(str(photo))}
                continue
            caption = next(captions)
            if isinstance(caption, SourceError):
                yield {**image.row, "error": shown(str(caption))}
            else:
                size = {"width": photo.width, "height": photo.height}
                yield {**image.row, **size, **_columns(caption, nbest=bool(job.search.get("nbest")))}


class _Image(NamedTuple):
    """An image that is to be read."""

    row: Row
    """The columns that say which it is."""
    name: str
    """What errors call it."""
    open: Callable[[], BinaryIO]


def _opened(path: Path) -> BinaryIO:
    return path.open("rb")


def _files(root: Path, unit: Files) -> Iterator[_Image]:
    for name in unit.names:
        path = root / name
        yield _Image({"file": shown(name)}, str(path), partial(_opened, path))


def _members(root: Path, unit: Members) -> Iterator[_Image]:
    path = root / unit.shard
    index = unit.start

    def row(index: int, member: str | None) -> Row:
        shard = shown(unit.shard)
        file = shard if member is None else f"{shard}/{shown(member)}"
        return {"file": file, "shard": shard, "member": None if member is None else shown(member), "index": index}

    def broken(error: SourceError) -> BinaryIO:
        raise error

    try:
        found = enumerate(shard_images(path, unit.offset), start=unit.first)
        for at, (tar, member) in found:
            if at >= unit.start:
                name = f"{path}/{member.name}"
                try:
                    content = _content(tar, member, name)
                except SourceError as unreadable:
                    yield _Image(row(at, member.name), name, partial(broken, unreadable))
                else:
                    yield _Image(row(at, member.name), name, partial(io.BytesIO, content))
                index = at + 1
            if index == unit.stop:
                return
        changed = SourceError(f"{path}: has fewer images than before")
    except SourceError as error:
        changed = error
    # The headers were read before, so the file has changed since.
    for at in range(index, unit.stop):
        yield _Image(row(at, None), str(path), partial(broken, changed))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> bytes:
    """The bytes of an image in a tar file.

    Raises:
        SourceError: there are too few of them, or more than an image has.
    """
    if member.size > _LARGEST_BYTES:
        raise SourceError(f"{name}: has {member.size} bytes; expected at most {_LARGEST_BYTES}")
    try:
        file = tar.extractfile(member)
        if file is None:
            raise SourceError(f"{name}: is not a regular file; expected an image")
        with file:
            return file.read()
    except (tarfile.TarError, OSError) as error:
        raise SourceError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _columns(caption: Caption, *, nbest: bool) -> Row:
    row: Row = {
        "caption": caption.text,
        "score": caption.score,
        "log_prob": caption.log_prob,
        "truncated": caption.truncated,
    }
    if nbest:
        row["nbest"] = [
            {"caption": item.text, "score": item.score, "log_prob": item.log_prob} for item in caption.hypotheses
        ]
    return row
