"""Time from the start of a fresh process to the first caption, and the most memory it ever held.

    python -m camscribe.benchmarks.startup --image PHOTO [--bundle FOLDER] [--rounds N]

Prints JSON. A process of its own, and a small one: what a child is told about its peak memory begins with its parent's.
The comparison is a fresh process that imports ONNX Runtime, OpenCV and NumPy and opens both sessions. Both are timed
until their first line of output, and run in turn. Python may keep the compiled modules, as it does for users, whatever
this process was told (PYTHONDONTWRITEBYTECODE): else an editable installation compiles its sources at every start.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

FLOOR = """
import onnxruntime, cv2, numpy
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = {threads}
for path in {paths}:
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
print("open", flush=True)
"""


def launch(command: list[str]) -> tuple[float, float, float]:
    """Runs a process to its end: seconds to the first line of output and to the end, peak memory in MB.

    Raises:
        RuntimeError: it failed.
    """
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=surroundings)
    if process.stdout is None or process.stderr is None:
        raise RuntimeError("no pipe to the process")
    line = process.stdout.readline()
    first = time.perf_counter() - start
    process.stdout.read()
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    whole = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    process.stderr.close()
    if process.returncode or not line:
        raise RuntimeError(f"{' '.join(command)[:200]} failed: {errors.decode(errors='replace').strip()[-500:]}")
    # Linux counts in KiB, macOS in bytes.
    return first, whole, usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3 / 1.024)


def command_line() -> list[str]:
    """The installed ``camscribe``, or its module where this interpreter has no such script."""
    script = Path(sys.executable).with_name("camscribe")
    return [str(script)] if script.exists() else [sys.executable, "-m", "camscribe.runtime.cli"]


def graphs_of(bundle: Path | None) -> tuple[list[str], int]:
    """The two files that ``camscribe caption`` opens, and its threads. Asked of another process, to keep this small."""
    code = (
        "import json, sys; from pathlib import Path; from camscribe.runtime.bundle import Bundle;"
        "from camscribe.runtime.threads import physical_cores;"
        "b = Bundle.load(Path(sys.argv[1]) if sys.argv[1] else None); p = b.manifest.cpu_precision;"
        "print(json.dumps([[str(b.graph(p, g)) for g in ('encoder', 'decoder')], physical_cores()]))"
    )
    command = [sys.executable, "-c", code, str(bundle or "")]
    paths, threads = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return paths, threads


def measure(image: Path, bundle: Path | None, rounds: int) -> dict[str, list[float]]:
    """First and last moment (seconds) and peak memory (MB) of each round, of both commands."""
    paths, threads = graphs_of(bundle)
    caption = [*command_line(), "caption", "--json", "--backend", "cpu", str(image)]
    caption += [] if bundle is None else ["--bundle", str(bundle)]
    commands = {"caption": caption, "floor": [sys.executable, "-c", FLOOR.format(threads=threads, paths=paths)]}
    result: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            first, whole, memory = launch(command)
            if turn:  # the first one brings the files into the system's cache
                for key, value in (("first_s", first), ("whole_s", whole), ("memory_mb", memory)):
                    result.setdefault(f"{name} {key}", []).append(value)
    return result


def main() -> None:
    """Prints the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    print(json.dumps(measure(options.image, options.bundle, options.rounds)))


if __name__ == "__main__":
    main()
