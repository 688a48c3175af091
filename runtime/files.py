"""Output files: whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from camscribe.runtime.errors import OptionError, SourceError


def make_folder(path: Path, option: str) -> Path:
    """Makes sure that files can be written into a folder, before any work is done for them.

    Raises:
        OptionError: it cannot be made or written into.
    """
    import tempfile

    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"{option} {path}: cannot be written into ({reason}); name another folder") from error
    return path


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file that is either complete or as it was before.

    Raises:
        SourceError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            partial.write_bytes(content)
            partial.replace(path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()
    except OSError as error:
        raise SourceError(f"{path}: cannot be written ({error.strerror})") from error


def own_names(files: Sequence[Path], suffix: str) -> list[str]:
    """A name of its own for what is made of each file, never that of the file itself.

    Args:
        files: of any folders, so that some may have the same name.
        suffix: behind each file's stem, such as ``.caption.jpg``.
    """
    taken: set[str] = set()
    counts: Counter[str] = Counter()
    names = []
    for path in files:
        name = f"{path.stem}{suffix}"
        while name.lower() in taken:
            counts[path.stem.lower()] += 1
            name = f"{path.stem}-{counts[path.stem.lower()] + 1}{suffix}"
        taken.add(name.lower())
        names.append(name)
    return names
