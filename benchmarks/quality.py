"""Quality of each precision on the parts of a split: ``camscribe evaluate``, once for each, with the results kept.

    python -m camscribe.benchmarks.quality --data ../shared/data/flickr8k --out benchmarks/results

Writes ``quality-PRECISION-PART.json`` for ``tune`` (dev[:500], which chose the checkpoint and the search options),
``test`` (dev[500:], looked at only here) and ``all`` (dev), the captions of ``all`` as ``captions-PRECISION.jsonl``,
and prints a table. With another ``--backend`` than the CPU its name goes before the precision's:

    python -m camscribe.benchmarks.quality --data DATA --out benchmarks/results --backend tensorrt --precisions fp16

Captions are compared with those of float32 on the CPU, where ``captions-float32.jsonl`` is there:
``agreement-PRECISION.json`` counts the equal ones and has every other one with its score beside float32's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
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


def agreement(reference: Path, other: Path) -> dict[str, Any]:
    """Captions of the same images compared, word for word.

    Args:
        reference, other: JSON lines that ``camscribe evaluate --captions-out`` wrote.

    Returns:
        How many images, how many with equal captions, the largest difference of score (log-probability by length,
        each by the graphs that chose it) among the others, and these.
    """
    mine, theirs = ({line["image_id"]: line for line in _lines(file)} for file in (other, reference))
    pairs = [(theirs[image], line) for image, line in mine.items() if image in theirs]
    different = [
        {
            "image_id": line["image_id"],
            "float32": expected["caption"],
            "found": line["caption"],
            "float32_score": expected["score"],
            "score": line["score"],
        }
        for expected, line in pairs
        if expected["caption"] != line["caption"]
    ]
    gaps = [abs(each["float32_score"] - each["score"]) for each in different]
    return {
        "images": len(pairs),
        "same": len(pairs) - len(different),
        "largest_gap": max(gaps, default=0.0),
        "different": different,
    }


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, file.read_text(encoding="utf-8").splitlines())


def main() -> int:
    """Runs the evaluations; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", help="folder of the bundle (default: the one that comes with camscribe)")
    parser.add_argument("--precisions", nargs="+", default=["float32", "int8", "fp16"])
    parser.add_argument("--backend", default="cpu", help="where the graphs run (default: cpu)")
    parser.add_argument("--data", required=True, help="folder of the data set, in Flickr8k's layout")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    options = parser.parse_args()
    for precision in options.precisions:
        name = precision if options.backend == "cpu" else f"{options.backend}-{precision}"
        for part, cut in PARTS.items():
            file = options.out / f"quality-{name}-{part}.json"
            command = [*command_line(), "evaluate", *([options.bundle] if options.bundle else [])]
            command += ["--precision", precision, "--backend", options.backend, "--data", options.data]
            command += ["--split", f"{options.split}{cut}", "--out", str(file)]
            command += ["--captions-out", str(options.out / f"captions-{name}.jsonl")] if part == "all" else []
            done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
            if done.returncode:
                return done.returncode
            scores = tidy(file)["scores"]
            figures = "  ".join(f"{name} {value:.4f}" for name, value in scores.items() if value is not None)
            print(f"{name:8} {part:5} {figures}", flush=True)
        reference, other = (options.out / f"captions-{each}.jsonl" for each in ("float32", name))
        if reference.exists() and other != reference:
            found = agreement(reference, other)
            text = json.dumps(found, indent=1, ensure_ascii=False)
            (options.out / f"agreement-{name}.json").write_text(f"{text}\n", encoding="utf-8")
            print(
                f"{name:8} {found['same']} of {found['images']} captions as in float32, scores of the others at "
                f"most {found['largest_gap']:.3f} apart"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
