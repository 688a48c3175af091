"""The tutorial under ``torch.compile``: what PyTorch gains without leaving it.

Encoder and decoder step are compiled, the loop around them is not: it branches on what was found. Compiling takes
about a minute and is no part of a caption, so it happens when the peer is opened.
"""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import numpy as np

from camscribe.benchmarks.peers import Run, plain
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import EngineError
from camscribe.runtime.search import SearchOptions

_WARM_UP = 3
"""The step is compiled twice: the first beams share their features' memory, later ones have their own."""


def why_not(bundle: Bundle, checkpoint: Path | None) -> str | None:
    """See ``Peer``."""
    without = plain.why_not(bundle, checkpoint)
    if without is not None:
        return without
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    if not any(shutil.which(name) for name in names if name):
        return "torch.compile needs a C++ compiler, and there is none (apt-get install g++)"
    return None


def open_peer(bundle: Bundle, checkpoint: Path | None, options: SearchOptions, threads: int) -> Run:
    """See ``Peer``. Compiles, which takes about a minute.

    Raises:
        EngineError: PyTorch cannot compile it here.
    """
    run = plain.open_peer(bundle, checkpoint, options, threads, compiled=True)
    spec = bundle.manifest.pixels
    noise = np.random.default_rng(0).integers(0, 256, (_WARM_UP, spec.height, spec.width, 3), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch about itself, while it compiles
        try:
            for image in noise:
                run(image)
        except Exception as error:  # a compiler's errors have no base of their own
            line = " ".join(str(error).split())[:300]
            raise EngineError(f"torch.compile does not work here: {line}") from error
    return run
