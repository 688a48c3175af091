"""Compares the captions of run_demo.sh, and writes its record: python record.py WORK_FOLDER RECORD."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


def captions(path: Path) -> dict[str, dict[str, Any]]:
    """The command's JSON lines, by the image's name."""
    return {Path(line["file"]).name: line for line in map(json.loads, path.read_text().splitlines())}


def first_line(*command: str) -> str:
    """The first line that a program prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def compare(work: Path, precision: str) -> dict[str, Any]:
    """Captions of one precision, on both machines."""
    here, there = (captions(work / f"{machine}-{precision}.jsonl") for machine in ("x86_64", "aarch64"))
    if set(here) != set(there):
        raise SystemExit(f"other images were captioned: {sorted(set(here) ^ set(there))}")
    start, end = map(float, (work / f"aarch64-{precision}.seconds").read_text().split())
    return {
        "images": len(here),
        "captions_equal": sum(here[name]["words"] == there[name]["words"] for name in here),
        "largest_difference_of_log_prob": max(abs(here[name]["log_prob"] - there[name]["log_prob"]) for name in here),
        "seconds_under_emulation": round(end - start, 1),
        "captions": {
            name: {"aarch64": there[name]["caption"], "log_prob": there[name]["log_prob"]}
            | ({} if here[name]["words"] == there[name]["words"] else {"x86_64": here[name]["caption"]})
            for name in sorted(here)
        },
    }


def main() -> None:
    """Writes the record."""
    work, record = map(Path, sys.argv[1:])
    doctor = json.loads((work / "doctor.json").read_text())
    warnings = (work / "aarch64-float32.err").read_text().splitlines()
    versions = dict(re.findall(r"^([\w.-]+)==(\S+)$", (work / "requirements.txt").read_text(), re.MULTILINE))
    written = {
        "schema": 1,
        "what": "camscribe caption examples/ from the wheel, in an arm64 Debian under emulation, beside x86-64",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": "tests/arm64/run_demo.sh WORK_FOLDER",
        "emulator": first_line("qemu-aarch64-static", "--version"),
        "root": "Debian 12 (bookworm) arm64, unpacked by mmdebstrap --variant=extract, entered by proot -q",
        "python": next(item["version"] for item in doctor["items"] if item["name"] == "python"),
        "packages": versions,
        "stderr": warnings,
        "precisions": {precision: compare(work, precision) for precision in ("float32", "int8")},
        "doctor": {"system": doctor["system"], "captions": doctor["captions"], "backends": doctor["backends"]},
        "note": "qemu shows that the wheels load and that the words are right; its seconds say nothing about a board.",
    }
    record.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    for precision, found in written["precisions"].items():
        print(f"{precision}: {found['captions_equal']} of {found['images']} captions as on x86-64")


if __name__ == "__main__":
    main()
