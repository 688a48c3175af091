"""The exported tutorial of ``exported`` on ONNX Runtime's CUDA provider, with the search on the host all the same.

Features go to the GPU and log-probabilities of all words come back at every step, as ``session.run`` has it.
"""

from __future__ import annotations

from pathlib import Path

from camscribe.benchmarks.peers import exported
from camscribe.benchmarks.peers.host_search import HostSearch
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.executor import why_not as why_not_backend
from camscribe.runtime.search import SearchOptions


def why_not(bundle: Bundle, checkpoint: Path | None) -> str | None:
    """See ``Peer``."""
    return exported.why_not(bundle, checkpoint) or why_not_backend("cuda")


def open_peer(bundle: Bundle, checkpoint: Path | None, options: SearchOptions, threads: int) -> HostSearch:
    """See ``Peer``.

    Raises:
        EngineError: ONNX Runtime does not start on the GPU, or see ``exported``.
    """
    return exported.open_peer(bundle, checkpoint, options, threads, tuned=True, device="cuda")
