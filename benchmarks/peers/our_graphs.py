"""Our own graphs as people use graphs by hand: ``session.run`` with NumPy arrays, and beam search on the host.

The decoder is made from the bundle's float32 graph by taking selection and gathering out, so weights and kernels are
ours, precomputed keys included, and sessions have the options and threads of our own executor. What is left between
this and ``Captioner.caption`` in float32 is the search: selection in the graph, and memory that is bound once.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from camscribe.benchmarks.peers import missing
from camscribe.benchmarks.peers.host_search import Arrays, HostSearch
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.onnxruntime_executor import open_session
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import SearchOptions


def why_not(bundle: Bundle, checkpoint: Path | None) -> str | None:
    """See ``Peer``. It needs onnx to take the selection out of the graph."""
    return missing("onnxruntime", "onnx")


def open_peer(
    bundle: Bundle, checkpoint: Path | None, options: SearchOptions, threads: int, precision: str = "float32"
) -> HostSearch:
    """See ``Peer``.

    Args:
        bundle, checkpoint, options, threads: see ``Peer``.
        precision: one of the bundle's; by hand one has what was exported, which is float32.
    """
    from camscribe.benchmarks.raw import cut_decoder

    with tempfile.TemporaryDirectory() as folder:
        cut = Path(folder) / "decoder.onnx"
        cut_decoder(bundle.graph(precision, "decoder"), cut)
        decoder = open_session(cut, "cpu", threads, steps=True)
    return HostSearch(_Cut(open_session(bundle.graph(precision, "encoder"), "cpu", threads), decoder), bundle, options)


class _Cut:
    """Sessions of the encoder and of the decoder without selection; see ``Network``."""

    def __init__(self, encoder: Any, decoder: Any) -> None:
        self._encoder, self._decoder = encoder, decoder
        self._encoded = [item.name for item in encoder.get_outputs()]
        self._states = [item.name for item in decoder.get_inputs() if item.name.startswith("state.")]
        self._wanted = ["log_prob", *(f"next_{name}" for name in self._states)]
        self._feeds: Arrays = {}

    def start(self, pixels: Pixels) -> None:
        made: Arrays = dict(zip(self._encoded, self._encoder.run(self._encoded, {"image": pixels[None]}), strict=True))
        self._feeds = {name: value for name, value in made.items() if name.startswith("memory.")}
        self._feeds |= {name: made[name][:, None] for name in self._states}

    def step(self, words: list[int]) -> npt.NDArray[np.float32]:
        self._feeds["token"] = np.array([words], np.int32)
        log_prob, *states = self._decoder.run(self._wanted, self._feeds)
        self._feeds |= dict(zip(self._states, states, strict=True))
        made: npt.NDArray[np.float32] = log_prob[0]
        return made

    def keep(self, parents: list[int]) -> None:
        self._feeds |= {name: self._feeds[name][:, parents] for name in self._states}
