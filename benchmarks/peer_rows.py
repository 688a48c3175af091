"""The peers in the run of ``camscribe bench``: opened once, timed in turn with the variants, their words compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from camscribe.benchmarks.peers import PEERS
from camscribe.benchmarks.protocol import Samples
from camscribe.benchmarks.schema import Missing, PeerRow
from camscribe.benchmarks.statistics import paired_ratio, spread
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import CamscribeError
from camscribe.runtime.pixels import Pixels, reduce

if TYPE_CHECKING:
    from camscribe.benchmarks.session import Plan


@dataclass(frozen=True)
class Running:
    """An opened peer."""

    description: str
    run: Callable[[Pixels], list[int]]
    pixels: tuple[Pixels, ...]
    """Reduced, by number of the image."""
    same: float | Missing

    def caption(self, index: int) -> object:
        """Captions an image by its number."""
        return self.run(self.pixels[index])


def open_peers(plan: Plan, bundle: Bundle, folder: Path) -> tuple[dict[str, Running], dict[str, str]]:
    """Opens the peers that were asked for.

    Args:
        plan: names them, known ones, ``all`` for all.
        bundle: that they are measured beside.
        folder: for what they write.

    Returns:
        Those that work, and why the others do not.
    """
    if not plan.peers:
        return {}, {}
    names = list(PEERS) if plan.peers == ("all",) else list(plan.peers)
    running: dict[str, Running] = {}
    left_out: dict[str, str] = {}
    pixels = tuple(reduce(image, bundle.manifest.pixels) for image in plan.images.values())
    for name in names:
        peer = PEERS[name]
        try:
            reason = peer.why_not(bundle, plan.checkpoint)
            if reason is not None:
                left_out[f"peer {name}"] = reason
                continue
            run = peer.open(bundle, plan.checkpoint, threads=plan.threads)
            same = _same(run, bundle, pixels, plan) if peer.same_captions else Missing("has weights of its own")
        except (CamscribeError, ModuleNotFoundError) as error:
            left_out[f"peer {name}"] = str(error)
            continue
        running[name] = Running(peer.description, run, pixels, same)
    return running, left_out


def peer_rows(running: Mapping[str, Running], samples: Samples, variants: Sequence[str]) -> tuple[PeerRow, ...]:
    """What was measured of the peers."""
    rows = []
    for name, peer in running.items():
        each = samples.milliseconds.get(f"peer {name}", [])
        ratios = {variant: paired_ratio(each, samples.milliseconds[variant]) for variant in variants} if each else {}
        latency = spread(each) if each else Missing("interrupted before it was measured")
        rows.append(PeerRow(name, peer.description, latency, tuple(np.round(each, 4).tolist()), ratios, peer.same))
    return tuple(rows)


def _same(run: Callable[[Pixels], Any], bundle: Bundle, pixels: Sequence[Pixels], plan: Plan) -> float:
    """Share of the images whose words are those of float32."""
    with Captioner.load(bundle.path, "cpu", "float32", plan.threads) as captioner:
        equal = 0
        for image in pixels:
            theirs = run(image)
            words = theirs if isinstance(theirs, str) else " ".join(bundle.vocabulary.decode(theirs))
            equal += words == captioner.caption(image, "rgb").text
    return equal / len(pixels)
