"""Speed of the enhancer in ONNX Runtime beside the same network in PyTorch, as ratios of what is timed in turn.

    python -m camscribe.benchmarks.enhancer_speed --out benchmarks/results/enhancer_speed.json

PyTorch runs eager, in float32, without recording gradients, with as many threads. Both get pixels and give pixels.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from camscribe.benchmarks.measure import environment, interleave, ratio
from camscribe.benchmarks.peers.enhancer import TorchEnhancer, why_not
from camscribe.runtime.commands.arguments import Parser
from camscribe.runtime.enhancer import Enhancer
from camscribe.runtime.errors import CamscribeError, OptionError
from camscribe.runtime.images import read
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.threads import physical_cores

SIZES = ((56, 56), (160, 120), (320, 180))
"""Columns and rows of the small image."""
LIMIT = 2.0
"""What PyTorch's time is asked to be, as a multiple of the default precision's."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; returns the exit status."""
    parser = Parser(prog="python -m camscribe.benchmarks.enhancer_speed", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--bundle", type=Path, metavar="FOLDER", help="the enhancer (default: the one that comes along)"
    )
    parser.add_argument(
        "--image", type=Path, default=Path("examples/horses.jpg"), help="photograph that is cut and timed"
    )
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="timed runs of each (default: 15)")
    parser.add_argument("--threads", type=int, default=None, metavar="N", help="default: one per physical core")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the report goes")
    options = parser.parse_args(argv)
    missing = why_not()
    if missing is not None:
        raise OptionError(f"nothing to measure beside: {missing}")
    threads = options.threads or physical_cores()
    photograph = read(options.image)
    made = {name: Enhancer.load(options.bundle, "cpu", name, threads) for name in ("float32", "int8")}
    bundle = made["float32"].bundle
    peer = TorchEnhancer(bundle, bundle.manifest.default_variant, threads)
    rows = []
    for width, height in SIZES:
        image = _cut(photograph, height, width)
        apart = np.abs(made["float32"].enlarge(image).astype(int) - peer.enlarge(image).astype(int)).max()
        if apart > 1:
            raise OptionError(f"PyTorch's picture is {apart} levels off; it is not the same network")
        runs: dict[str, Callable[[], object]] = {"pytorch": lambda image=image: peer.enlarge(image)}
        for name, enhancer in made.items():
            runs[name] = lambda image=image, enhancer=enhancer: enhancer.enlarge(image)
        # Threads of one library spin for a while after its run, and would slow the next one down.
        seconds = interleave(runs, options.rounds, warm_up=2, pause_s=0.05)
        for name in made:
            asked = LIMIT if name == bundle.manifest.cpu_precision else None
            found = ratio(f"{width}x{height} {name}", seconds, "pytorch", name, "at least" if asked else "none", asked)
            rows.append(asdict(found))
            print(
                f"{found.name}: PyTorch takes {found.median:.2f} x as long ({found.p10:.2f} to {found.p90:.2f}); "
                f"{found.numerator_ms:.1f} ms beside {found.denominator_ms:.1f} ms",
                flush=True,
            )
    if options.out is not None:
        report = {
            "bundle": bundle.manifest.name,
            "threads": threads,
            "environment": asdict(environment()),
            "question": "How much longer than ONNX Runtime does PyTorch take for the same network?",
            "ratios": rows,
        }
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _cut(photograph: Pixels, height: int, width: int) -> Pixels:
    top, left = (photograph.shape[0] - height) // 2, (photograph.shape[1] - width) // 2
    if min(top, left) < 0:
        raise OptionError(f"--image is smaller than {width}x{height}")
    return np.ascontiguousarray(photograph[top : top + height, left : left + width])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CamscribeError as error:
        print(f"enhancer_speed: {error}", file=sys.stderr)
        sys.exit(2)
