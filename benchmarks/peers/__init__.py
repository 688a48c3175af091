"""What camscribe is measured beside, each behind the same two calls: can it run here, and open it.

A peer is opened once and then called with one image after the other. It is timed from the reduced pixels, without
reading and resizing, which is in its favour. Peers may need packages that camscribe does not; nothing is imported
before it is asked for, and no peer is needed by anything else of the package.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import SearchOptions
from camscribe.runtime.threads import physical_cores

Run = Callable[[Pixels], list[int]]
"""Reduced pixels uint8 [H, W, 3] of the bundle's size -> ids of the caption's words, without ``<s>`` and ``</s>``."""


class _Module(Protocol):
    """What the module of a peer has."""

    def why_not(self, bundle: Bundle, checkpoint: Path | None) -> str | None: ...

    def open_peer(self, bundle: Bundle, checkpoint: Path | None, options: SearchOptions, threads: int) -> Run: ...


@dataclass(frozen=True)
class Peer:
    """One of the things that camscribe is measured beside."""

    name: str
    description: str
    """One line."""
    same_captions: bool
    """Whether it has the bundle's weights, so that its tokens must be those of the float32 graphs."""
    module: str
    """Where it is, below ``camscribe.benchmarks.peers``."""

    def why_not(self, bundle: Bundle, checkpoint: Path | None = None) -> str | None:
        """Why it cannot run here, in one line; None where it may.

        Args:
            bundle: what it is measured beside.
            checkpoint: what the bundle was exported from; None for the weights in the bundle itself.
        """
        return self._load().why_not(bundle, checkpoint)

    def open(
        self,
        bundle: Bundle,
        checkpoint: Path | None = None,
        options: SearchOptions | None = None,
        threads: int | None = None,
    ) -> Run:
        """Makes it ready, compiling included, so that the first timed call is like all others.

        Args:
            bundle, checkpoint: see ``why_not``.
            options: None for the bundle's own. ``nbest`` and ``poll`` are ignored.
            threads: of the CPU; None for one per physical core, as everywhere.

        Raises:
            DataError: the checkpoint is not that of the bundle.
            EngineError: it does not work here after all.
        """
        return self._load().open_peer(
            bundle, checkpoint, options or bundle.manifest.search, threads or physical_cores()
        )

    def _load(self) -> _Module:
        return cast(_Module, importlib.import_module(f"camscribe.benchmarks.peers.{self.module}"))


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("tutorial", "sgrvinod's tutorial: its loop in PyTorch, our weights and stop rule", True, "plain"),
        Peer("tutorial-compiled", "the same with encoder and decoder step under torch.compile", True, "compiled"),
        Peer(
            "onnxruntime-by-hand",
            "the tutorial's encoder and decoder step exported to ONNX as they are, session.run, beam search in NumPy "
            "over all words: what people write by hand",
            True,
            "exported",
        ),
        Peer(
            "onnxruntime-by-hand-tuned",
            "the same with our session options, which nobody sets by hand",
            True,
            "exported_tuned",
        ),
        Peer(
            "our-graphs-by-hand",
            "our float32 graphs without selection, session.run, the same beam search in NumPy",
            True,
            "our_graphs",
        ),
        Peer("tutorial-cuda", "the tutorial's loop in PyTorch on an NVIDIA GPU", True, "plain_cuda"),
        Peer(
            "onnxruntime-cuda-by-hand",
            "the exported tutorial on ONNX Runtime's CUDA provider, session.run, beam search on the host",
            True,
            "exported_cuda",
        ),
        Peer(
            "huggingface",
            "transformers' generate on a vision encoder-decoder of the bundle's size, random weights, as many steps",
            False,
            "huggingface",
        ),
        Peer(
            "raw-engines",
            "both TensorRT engines run bare on a GPU, as trtexec would, for the steps of an ordinary caption",
            False,
            "raw_engines",
        ),
    )
}
"""By name, in the order they are shown in."""


def usual_steps(bundle: Bundle) -> int:
    """Decoder steps of an ordinary caption: the median over the bundle's own parity images, ``</s>`` counted.

    For peers that do not decide for themselves when a caption ends.
    """
    lengths = sorted(len(tokens) + 1 for tokens in bundle.manifest.parity.tokens.get("float32", ()))
    return min(lengths[len(lengths) // 2] if lengths else 12, bundle.manifest.search.max_words)


def missing(*packages: str) -> str | None:
    """Why a peer cannot run where one of ``packages`` is not installed; None where all are."""
    absent = [package for package in packages if importlib.util.find_spec(package) is None]
    if not absent:
        return None
    return f'{" and ".join(absent)} not installed (pip install "camscribe[peers]")'
