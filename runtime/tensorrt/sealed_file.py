"""Files of the engine cache: a line of JSON that describes the content and seals it with its sha256, then the content.

Engines are code for the GPU: TensorRT may crash on a truncated or altered one, so they are checked before it sees them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from camscribe.runtime.errors import EngineError

_KIND = "camscribe sealed file"
_HEADER_LIMIT = 1 << 20
_WRITING_S = 600.0
_PARTIAL = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.partial")


def write(path: Path, header: dict[str, Any], content: bytes) -> None:
    """Writes a file that is either complete or as it was before, also after a power cut.

    Raises:
        EngineError: it cannot be written.
    """
    sealed = {**header, "kind": _KIND, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            with partial.open("wb") as file:
                file.write(json.dumps(sealed).encode() + b"\n")
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()
    except OSError as error:
        raise EngineError(
            f"{path}: cannot be written ({error.strerror}); what was there before is still there"
        ) from error


def read_header(path: Path) -> dict[str, Any]:
    """The first line of a file, which may be damaged further on.

    Raises:
        ValueError: it is not such a file.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        line = file.readline(_HEADER_LIMIT)
    header = json.loads(line) if line.endswith(b"\n") else None
    if not isinstance(header, dict) or header.get("kind") != _KIND:
        raise ValueError("it does not begin as the cache's files do")
    return header


def read(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header and the content of a file, checked.

    Raises:
        ValueError: it is not such a file, or damaged; the message says how.
        OSError: it cannot be read.
    """
    header = read_header(path)
    content = path.read_bytes().partition(b"\n")[2]
    if len(content) != header.get("bytes"):
        raise ValueError(f"it is truncated: it holds {len(content)} bytes, expected {header.get('bytes')}")
    if hashlib.sha256(content).hexdigest() != header.get("sha256"):
        raise ValueError("it is altered: its sha256 differs")
    return header, content


def remove_stale(folder: Path) -> None:
    """Removes what killed processes of this machine left half written in a folder."""
    with contextlib.suppress(OSError):
        for path in folder.glob(".*.partial"):
            match = _PARTIAL.fullmatch(path.name)
            if match is None or Path("/proc", match["pid"]).exists():
                continue
            # Another container's processes are not seen from here, but write for seconds only.
            if time.time() - path.stat().st_mtime > _WRITING_S:
                path.unlink(missing_ok=True)
