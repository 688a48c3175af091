"""What docs/enhance.md says of an enhancer's speed, from the report of ``camscribe bench``."""

from __future__ import annotations

from camscribe.benchmarks.enhancer_schema import EnhancerReport
from camscribe.benchmarks.report_markdown import table

ASKED = 2.0
"""How many times as fast as PyTorch the enhancer is asked to be, in its better precision."""


def beside_pytorch(made: EnhancerReport) -> list[str]:
    """docs/enhance.md: an enhancer beside the same network in PyTorch."""
    precisions = list(dict.fromkeys(row.precision for row in made.variants))
    rows = []
    for peer in made.peers:
        of = {row.precision: row for row in made.variants if row.size == peer.size}
        cells = [f"{of[name].latency_ms.median:.1f} ms, {peer.ratios[of[name].name]:.2f}" for name in precisions]
        rows.append((peer.size, f"{peer.latency_ms.median:.1f} ms", *cells))
    lowest = {
        name: min(ratio for peer in made.peers for row, ratio in peer.ratios.items() if f" {name} " in f" {row} ")
        for name in ("int8", "float32")
    }
    best, value = max(lowest.items(), key=lambda item: item[1])
    where, count = made.environment, made.protocol.threads
    verdict = f": {'met' if value >= ASKED else 'missed'}" if count == 2 else ", measured on another number"
    packages = where["packages"]
    return [
        *table(("small image", "PyTorch", *(f"{name}, times as fast" for name in precisions)), rows),
        "",
        f"Asked: int8 or float32 at least {ASKED:g} times as fast on two cores{verdict}. {best} is at least "
        f"{value:.2f} times as fast at every size. {count} thread{'s' if count > 1 else ''}, {made.protocol.rounds} "
        f"pictures of each size, ONNX Runtime {packages['onnxruntime']}, PyTorch {packages['torch']}, "
        f"load average before {where['load_average']:g}.",
    ]
