"""Where something is measured: device, driver, versions, power mode, clocks, temperature; and clocks during a run.

Everything is read from files below ``root`` and from tools that may be absent: what cannot be read is left out as a
``missing`` reason, never a zero.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from camscribe.benchmarks import measure

CLOCK_LIMIT = 0.05
"""Clocks that move by a larger share of their median are warned of."""
_GPU_FIELDS = ("name", "driver_version", "pstate", "clocks.sm", "clocks.mem", "temperature.gpu", "power.limit")
_JETSON_GPUS = ("gpu", "ga10b", "gv11b", "gp10b")
"""What the device trees of Thor and Orin, Orin before JetPack 6, Xavier and TX2 call their GPU."""


def environment(root: Path = Path("/")) -> dict[str, Any]:
    """The present environment: what ``measure.environment`` knows and what the device says of itself.

    Clocks are in MHz, temperatures in degrees Celsius, ``memory_bytes`` is of the whole machine.
    """
    return asdict(measure.environment()) | {
        "device": _device(root),
        "memory_bytes": _memory_bytes(root),
        "clocks_mhz": cpu_clocks(root) or {"missing": "the kernel shows no clocks"},
        "gpu_clocks_mhz": gpu_clocks(root) or {"missing": "neither the kernel nor nvidia-smi shows a GPU's clock"},
        "governor": _governors(root) or {"missing": "the kernel shows no governor (cpufreq)"},
        "temperature_c": _temperatures(root) or {"missing": "the kernel shows no thermal zones"},
        "power_mode": _said(["nvpmodel", "-q"]) or {"missing": "no nvpmodel; it is a Jetson's"},
        "gpu": gpus() or {"missing": "no NVIDIA GPU that nvidia-smi shows"},
        "libraries": {
            name: version
            for name in ("onnxruntime-gpu", "tensorrt", "pycuda", "cuda-python")
            if (version := measure.package_version(name))
        },
    }


def cpu_clocks(root: Path = Path("/")) -> list[float]:
    """The present clock of each core in MHz: cpufreq's, else what /proc/cpuinfo says; empty where there is none."""
    files = sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    found = [float(text) / 1e3 for file in files if (text := _text(file)).isdigit()]
    if found:
        return found
    lines = _text(root / "proc/cpuinfo").splitlines()
    return [float(line.split(":", 1)[1]) for line in lines if line.startswith("cpu MHz")]


def gpus() -> list[dict[str, str]]:
    """What nvidia-smi says of each GPU, by its own names of fields."""
    text = _said(["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader"])
    return [
        dict(zip(_GPU_FIELDS, (cell.strip() for cell in line.split(",")), strict=False)) for line in text.splitlines()
    ]


def gpu_clocks(root: Path = Path("/")) -> list[float]:
    """The present clock of each GPU in MHz: a Jetson's by its kernel, else nvidia-smi's; empty where there is none."""
    found = []
    for device in sorted(root.glob("sys/class/devfreq/*")):
        clock = _text(device / "cur_freq")
        if _text(device / "device" / "of_node" / "name").strip("\0") in _JETSON_GPUS and clock.isdigit():
            found.append(float(clock) / 1e6)
    return found or [clock for item in gpus() if (clock := _number(item.get("clocks.sm", "")))]


class Clocks:
    """Samples of the clocks during a run."""

    def __init__(self) -> None:
        self.samples: dict[str, list[float]] = {}
        """MHz by clock: of the fastest core, and of each GPU."""

    def look(self, cpu: Sequence[float], gpus: Sequence[float]) -> None:
        """Adds what the clocks show now; none where they show nothing."""
        now = [("the CPU's clock", max(cpu))] if cpu else []
        for name, value in (*now, *((f"the clock of GPU {index}", value) for index, value in enumerate(gpus))):
            self.samples.setdefault(name, []).append(value)

    def warnings(self) -> list[str]:
        """One line for each clock that moved."""
        found = []
        for name, values in self.samples.items():
            ordered = sorted(values)
            middle, low, high = ordered[len(ordered) // 2], ordered[0], ordered[-1]
            if middle and (high - low) / middle > CLOCK_LIMIT:
                found.append(f"{name} moved between {low:.0f} and {high:.0f} MHz during the run")
        return found


@contextmanager
def watch(interval_s: float = 1.0, root: Path = Path("/")) -> Iterator[Clocks]:
    """Looks at the clocks every ``interval_s`` seconds, in a thread that sleeps between two looks."""
    clocks, stop = Clocks(), threading.Event()
    has_gpu = bool(gpu_clocks(root))

    def look() -> None:
        while not stop.wait(interval_s):
            clocks.look(cpu_clocks(root), gpu_clocks(root) if has_gpu else ())

    thread = threading.Thread(target=look, name="clocks", daemon=True)
    thread.start()
    try:
        yield clocks
    finally:
        stop.set()
        thread.join()


def _device(root: Path) -> str:
    """A board's own name (Jetson), else the machine's product name."""
    for name in ("proc/device-tree/model", "sys/class/dmi/id/product_name"):
        if text := _text(root / name).strip("\0 \n"):
            return text
    return "unknown"


def _memory_bytes(root: Path) -> int | dict[str, str]:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return {"missing": "no /proc/meminfo"}


def _governors(root: Path) -> list[str]:
    return sorted({_text(f) for f in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")} - {""})


def _temperatures(root: Path) -> dict[str, float]:
    found = {}
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        value = _text(zone / "temp")
        if value.lstrip("-").isdigit():
            found[f"{zone.name} {_text(zone / 'type')}".strip()] = int(value) / 1e3
    return found


def _number(text: str) -> float:
    """The number that begins ``1755 MHz``; 0 where there is none, which ``warnings`` passes over."""
    try:
        return float(text.split()[0])
    except (ValueError, IndexError):
        return 0.0


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _said(command: Sequence[str]) -> str:
    """What a tool prints; empty where it is absent, fails or hangs."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=10, env={**os.environ, "LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
