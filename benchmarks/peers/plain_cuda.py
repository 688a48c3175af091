"""The tutorial of ``plain`` on an NVIDIA GPU: networks, beams and scores lie there, as in the original.

The loop looks at every step's words, so host and GPU wait for each other; so does the original's.
"""

from __future__ import annotations

from pathlib import Path

from camscribe.benchmarks.peers import Run, plain
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.search import SearchOptions


def why_not(bundle: Bundle, checkpoint: Path | None) -> str | None:
    """See ``Peer``."""
    without = plain.why_not(bundle, checkpoint)
    if without is not None:
        return without
    import torch

    return None if torch.cuda.is_available() else "PyTorch sees no NVIDIA GPU here"


def open_peer(bundle: Bundle, checkpoint: Path | None, options: SearchOptions, threads: int) -> Run:
    """See ``Peer``."""
    return plain.open_peer(bundle, checkpoint, options, threads, device="cuda")
