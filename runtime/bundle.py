"""Bundles on disk: one folder that is all the runtime needs. Read with every check, written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from camscribe.runtime import typed_json
from camscribe.runtime.errors import BundleError
from camscribe.runtime.manifest import Device, FileEntry, Graph, Manifest, read_manifest
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.vocab import Vocabulary

MANIFEST, VOCABULARY = "bundle.json", "vocab.txt"
DEFAULT_BUNDLE = Path(__file__).parent / "bundles" / "default"
"""The bundle that is used when none is named."""
Content = TypeVar("Content")
_MANIFEST_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True)
class Bundle:
    """A captioner's folder, checked."""

    path: Path
    manifest: Manifest
    vocabulary: Vocabulary

    @classmethod
    def load(cls, path: Path | None = None, device: Device | None = None, precision: str | None = None) -> Bundle:
        """Reads and checks a bundle.

        Args:
            path: its folder; None for the bundle that comes with the package.
            device: where its graphs will be opened, which decides (with ``precision``) the files that will be. Only
                those are hashed then, the others are only measured. None hashes all.
            precision: the precision that will be opened, None for the device's default.

        Raises:
            BundleError: one line that lists everything wrong.
            OptionError: the bundle has no such precision.
        """
        folder = DEFAULT_BUNDLE if path is None else Path(path)
        manifest = read_folder(folder, read_manifest, default=path is None)
        problems = []
        opened = None if device is None else manifest.files_of(manifest.precision_for(device, precision))
        for name, entry in manifest.files.items():
            hashed = opened is None or name in opened or name == VOCABULARY
            problems += file_problems(folder / name, entry, hashed=hashed)
        vocabulary = None
        if (folder / VOCABULARY).is_file() or not problems:
            try:
                vocabulary = Vocabulary.read(folder / VOCABULARY)
                problems += _vocabulary_problems(vocabulary, manifest)
            except BundleError as error:
                problems.append(str(error).removeprefix(f"{folder}{os.sep}"))
        if problems or vocabulary is None:
            raise BundleError(f"{folder}: {'; '.join(dict.fromkeys(problems))}: fetch or export the bundle again")
        return cls(folder, manifest, vocabulary)

    def graph(self, precision: str, graph: Graph) -> Path:
        """The file of one graph."""
        pair = self.manifest.precisions[precision]
        return self.path / (pair.encoder.file if graph == "encoder" else pair.decoder.file)

    def parity_images(self) -> list[Pixels]:
        """The parity images, each uint8 [H, W, 3] RGB of the pixel spec's size.

        Raises:
            BundleError: one is not such an image.
        """
        images = []
        for index, text in enumerate(self.manifest.parity.images):
            try:
                images.append(decode_png(text))
            except Exception as error:  # Pillow raises whatever a damaged image makes it raise
                raise BundleError(f"{self.path}: parity image {index} is not a PNG in base64 ({error})") from error
            expected = (self.manifest.pixels.height, self.manifest.pixels.width, 3)
            if images[-1].shape != expected:
                raise BundleError(
                    f"{self.path}: parity image {index} has shape {images[-1].shape}; expected {expected}"
                )
        return images


def content_sha256(folder: Path) -> str:
    """Which model a bundle of any kind holds: the sha256 of its manifest as it was before its quality was measured.

    The manifest holds the sha256 of every other file. What is measured with a bundle is written into it afterwards
    (``camscribe export --update --quality``), which must not make another bundle of it.

    Raises:
        BundleError: there is no manifest, or it is not JSON.
    """
    path = folder / MANIFEST
    try:
        manifest = typed_json.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); expected a bundle's manifest") from error
    except ValueError as error:
        raise BundleError(f"{path}: is not JSON ({error}); expected a bundle's manifest") from error
    return hashlib.sha256(_text({**manifest, "quality": {}}).encode()).hexdigest()


def _text(manifest: dict[str, Any]) -> str:
    return f"{json.dumps(manifest, indent=1, ensure_ascii=False)}\n"


@dataclass
class Draft:
    """A bundle being written, in a folder that nobody else sees."""

    folder: Path
    """Put the graphs (and their external weights) here."""
    finished: bool = False

    def finish(self, manifest: Manifest, vocabulary: Vocabulary) -> None:
        """Writes the vocabulary and the manifest, then checks the whole as a reader would.

        Args:
            manifest: its ``files`` are filled in here, from the folder.
            vocabulary: the words.

        Raises:
            BundleError: a reader would refuse the result, everything wrong listed.
        """
        vocabulary.write(self.folder / VOCABULARY)
        self.seal(manifest, Bundle.load)

    def seal(self, manifest: Any, load: Callable[[Path], object]) -> None:
        """Writes the manifest of a bundle of any kind, then checks the whole with ``load``, as a reader would.

        Raises:
            BundleError: a reader would refuse the result, everything wrong listed.
        """
        files = {path.name: _entry(path) for path in sorted(self.folder.iterdir()) if path.name != MANIFEST}
        text = _text(typed_json.encode(replace(manifest, files=files)))
        (self.folder / MANIFEST).write_text(text, encoding="utf-8")
        load(self.folder)
        for path in (*self.folder.iterdir(), self.folder):
            _sync(path)
        self.finished = True


def check_place(target: Path) -> Path:
    """Makes sure that a bundle may be written to a place, before any work is done for it; returns it as absolute path.

    Raises:
        BundleError: something else is there.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would replace what a link points to
    if target.exists() and not (target / MANIFEST).is_file() and not (target.is_dir() and not any(target.iterdir())):
        raise BundleError(f"{target}: exists and is not a bundle; name another folder")
    return target


@contextlib.contextmanager
def write_bundle(target: Path) -> Iterator[Draft]:
    """Writes a bundle whole or not at all.

    The draft lies beside the target and takes its place when the block is left after ``finish``; if the block raises,
    or ends unfinished, nothing has changed. A bundle that is replaced stays in place until then.

    Raises:
        BundleError: the target is something else than a bundle, the place is not writable, or the disk is full.
    """
    import shutil

    target = check_place(target)
    draft = Draft(_beside(target, "partial"))
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            draft.folder.mkdir()
            yield draft
            if draft.finished:
                _take_place(draft.folder, target)
        finally:
            shutil.rmtree(draft.folder, ignore_errors=True)
    except OSError as error:
        about_disk = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if about_disk or str(error.filename or "").startswith(str(target.parent)):
            raise BundleError(f"{target}: cannot be written ({error.strerror}); nothing was changed") from error
        raise


def encode_png(image: Pixels) -> str:
    """The form in which a parity image (uint8 [H, W, 3] RGB) stands in the manifest."""
    import base64

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def decode_png(text: str) -> Pixels:
    """uint8 RGB pixels of a PNG in base64; Pillow raises whatever a damaged one makes it raise."""
    import base64

    from PIL import Image

    data = base64.b64decode(text, validate=True)
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        return np.asarray(image.convert("RGB"))


def kind_of(folder: Path) -> str:
    """What a bundle is, ``captioner`` or ``enhancer``, as its manifest says.

    Raises:
        BundleError: there is no bundle, or it does not say.
    """

    def read(text: str) -> str:
        try:
            kind = typed_json.parse(text)["kind"]
        except (ValueError, TypeError, KeyError) as error:
            raise BundleError("bundle.json does not say of which kind it is") from error
        return str(kind)

    return read_folder(folder, read, default=False)


def read_folder(folder: Path, read: Callable[[str], Content], *, default: bool) -> Content:
    """Reads the manifest of a bundle of any kind.

    Args:
        folder: the bundle's.
        read: reads the text of ``bundle.json``.
        default: whether it is a bundle that should have come with the package.

    Raises:
        BundleError: there is no bundle, or none that ``read`` takes.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > _MANIFEST_LIMIT_BYTES:
            raise BundleError(f"{path}: is larger than {_MANIFEST_LIMIT_BYTES} bytes; expected a bundle's manifest")
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        if default:
            raise BundleError(
                f"{folder}: this installation has no bundled model; name a bundle with --bundle (bundle= in Python)"
            ) from error
        what = "is not a bundle: it has no bundle.json" if folder.is_dir() else "no such bundle folder"
        raise BundleError(f"{folder}: {what}; expected a folder written by camscribe export") from error
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise BundleError(f"{path!s:.300}: cannot be read as UTF-8 text ({error!s:.200})") from error
    try:
        return read(text)
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error


def file_problems(path: Path, entry: FileEntry, *, hashed: bool) -> list[str]:
    """What is wrong with one file of a bundle; whether it is altered only where it is ``hashed``."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            return [f"{path.name} is not a file"]
        if size != entry.bytes:
            return [f"{path.name} has {size} bytes; expected {entry.bytes}"]
        if hashed and _sha256(path) != entry.sha256:
            return [f"{path.name} is altered: its sha256 differs"]
    except FileNotFoundError:
        return [f"{path.name} is missing"]
    except OSError as error:
        return [f"{path.name} cannot be read ({error.strerror})"]
    return []


def _vocabulary_problems(vocabulary: Vocabulary, manifest: Manifest) -> Iterable[str]:
    if len(vocabulary) != manifest.vocabulary_size:
        yield f"{VOCABULARY} has {len(vocabulary)} tokens; expected {manifest.vocabulary_size}"
    ids = (vocabulary.pad_id, vocabulary.start_id, vocabulary.end_id, vocabulary.unknown_id)
    expected = tuple(typed_json.encode(manifest.special_tokens).values())
    if ids != expected:
        yield f"{VOCABULARY} has the special tokens at {ids}; expected {expected}"
    unknown = [word for word in manifest.search.ban if word not in vocabulary]
    if unknown:
        yield f"search.ban has words that {VOCABULARY} lacks: {' '.join(unknown):.100}"


def _entry(path: Path) -> FileEntry:
    return FileEntry(path.stat().st_size, _sha256(path))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        # Large blocks, as the interpreter does something else while one is hashed.
        while block := file.read(1 << 25):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Waits until the disk has a file, or the entries of a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _beside(target: Path, kind: str) -> Path:
    """A hidden name beside ``target`` that nobody else uses."""
    return target.with_name(f".{target.name}.{os.urandom(4).hex()}.{kind}")


def _take_place(folder: Path, target: Path) -> None:
    """Renames ``folder`` to ``target``; a bundle there is moved aside first and removed last."""
    import shutil

    old = _beside(target, "old")
    replaces = target.exists()
    if replaces:
        target.rename(old)
    try:
        folder.rename(target)
    except OSError:
        if replaces:
            old.rename(target)
        raise
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)
