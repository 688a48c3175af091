"""What TensorRT says when it fails: it logs instead of raising, so its last lines are kept and understood."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class Messages:
    """The last warnings and errors."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=60)

    def add(self, text: str) -> None:
        """Keeps a message, in one line."""
        self.lines.append(" ".join(text.split())[:400])

    def clear(self) -> None:
        """Forgets all: what follows belongs to another call."""
        self.lines.clear()

    def last(self, default: str = "TensorRT does not say why") -> str:
        """The last of them."""
        return self.lines[-1] if self.lines else default


_messages = Messages()


def messages() -> Messages:
    """What ``versions.logger`` heard. One for the process, as TensorRT keeps the first logger that it is given."""
    return _messages


def why_refused(lines: Iterable[str], version: str) -> str:
    """What the messages about an engine that TensorRT refused mean, in one line."""
    said = " ".join(lines)
    lower, again = said.lower(), "run camscribe build"
    if any(words in lower for words in ("version tag", "library version", "incompatible serialization version")):
        return f"the engine was built for another version of TensorRT, this is {version}: {again}"
    if any(words in lower for words in ("incompatible device", "different model", "compute capability")):
        return f"the engine was built for another GPU: {again}"
    if is_memory_error(lines):
        return "the GPU has too little memory for the engine: close other programs on it"
    if "plugin registry" in lower:
        return (
            "the engine has a layer of TensorRT's library of plugins, which is not here: install the whole of TensorRT "
            "(tensorrt, not tensorrt_lean; libnvinfer-plugin)"
        )
    if any(words in lower for words in ("magic tag", "size specified in header", "serialization")):
        return f"the engine is truncated or damaged: {again}"
    return f"TensorRT {version} does not load the engine ({said[-300:] or 'it does not say why'}): {again}"


def is_memory_error(lines: Iterable[str]) -> bool:
    """Whether the messages tell of too little memory."""
    said = " ".join(lines).lower()
    return any(words in said for words in ("outofmemory", "out of memory", "bad_alloc", "memoryallocation"))
