"""Quality of each precision on the parts of a split: ``camscribe evaluate``, once for each, with the results kept.

    python -m camscribe.benchmarks.quality --data ../shared/data/flickr8k --out benchmarks/results

Writes ``quality-PRECISION-PART.json`` for ``tune`` (dev[:500], which chose the checkpoint and the search options),
``test`` (dev[500:], looked at only here) and ``all`` (dev), the captions of ``all`` as ``captions-PRECISION.jsonl``,
and prints a table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from camscribe.benchmarks.measure import portable
from camscribe.benchmarks.startup import command_line

PARTS = {"tune": "[:500]", "test": "[500:]", "all": ""}


def tidy(file: Path) -> dict[str, Any]:
    """Takes the machine's folders out of the command that a report holds; returns the report."""
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    report["command"] = [portable(word) for word in report["command"]]
    file.write_text(f"{json.dumps(report, indent=2, ensure_ascii=False)}\n", encoding="utf-8")
    return report


def main() -> int:
    """Runs the evaluations; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", help="folder of the bundle (default: the one that comes with camscribe)")
    parser.add_argument("--precisions", nargs="+", default=["float32", "int8", "fp16"])
    parser.add_argument("--data", required=True, help="folder of the data set, in Flickr8k's layout")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    options = parser.parse_args()
    for precision in options.precisions:
        for part, cut in PARTS.items():
            file = options.out / f"quality-{precision}-{part}.json"
            command = [*command_line(), "evaluate", *([options.bundle] if options.bundle else [])]
            command += ["--precision", precision, "--backend", "cpu", "--data", options.data]
            command += ["--split", f"{options.split}{cut}", "--out", str(file)]
            command += ["--captions-out", str(options.out / f"captions-{precision}.jsonl")] if part == "all" else []
            done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
            if done.returncode:
                return done.returncode
            scores = tidy(file)["scores"]
            figures = "  ".join(f"{name} {value:.4f}" for name, value in scores.items() if value is not None)
            print(f"{precision:8} {part:5} {figures}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
