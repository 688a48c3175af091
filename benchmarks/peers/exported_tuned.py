"""The exported tutorial of ``exported`` with our session options, which hand waiting threads back between two graphs.

Nobody who writes such a loop by hand sets them; this row says how much of our lead they are.
"""

from __future__ import annotations

from pathlib import Path

from camscribe.benchmarks.peers import exported
from camscribe.benchmarks.peers.host_search import HostSearch
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.search import SearchOptions

why_not = exported.why_not


def open_peer(bundle: Bundle, checkpoint: Path | None, options: SearchOptions, threads: int) -> HostSearch:
    """See ``Peer``."""
    return exported.open_peer(bundle, checkpoint, options, threads, tuned=True)
