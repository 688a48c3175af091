"""Joules per caption, from what the machine can tell: counters (NVML, RAPL), or a Jetson's rails (/sys, tegrastats).

A machine that tells nothing, or lets only root read, answers with the reason. Idle power is not subtracted: the joules
are those of everything that the meter sees while captions are made without a pause.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from camscribe.benchmarks import jetson_power
from camscribe.benchmarks.meter import Meter, Watcher
from camscribe.benchmarks.schema import Missing


def measure(work: Callable[[], int], root: Path = Path("/")) -> dict[str, Any] | Missing:
    """Joules per caption of all meters that this machine has.

    Args:
        work: makes captions for some seconds; returns how many.
        root: where /sys is; for tests.

    Returns:
        ``seconds``, ``captions`` and ``meters``: a list of source, scope, joules per caption and mean watts.
    """
    meters, reasons = find(root)
    if not meters:
        return Missing(f"not measurable here: {'; '.join(reasons)}")
    watchers = [Watcher(meter) for meter in meters]
    start = time.perf_counter()
    for watcher in watchers:
        watcher.start()
    try:
        captions = work()
    finally:
        joules = [watcher.stop() for watcher in watchers]
        seconds = time.perf_counter() - start
        for meter in meters:
            meter.close()
    if captions < 1:
        return Missing("no caption was made while the energy was read")
    rows, failed = [], list(reasons)
    for meter, value in zip(meters, joules, strict=True):
        if isinstance(value, str):
            failed.append(f"{meter.source}: {value}")
            continue
        rows.append(
            {
                "source": meter.source,
                "scope": meter.scope,
                "joules_per_caption": value / captions,
                "mean_watts": value / seconds,
            }
        )
    if not rows:
        return Missing(f"not measurable here: {'; '.join(failed)}")
    return {"seconds": seconds, "captions": captions, "meters": rows, "not_read": failed}


def find(root: Path = Path("/")) -> tuple[list[Meter], list[str]]:
    """The meters that can be read, and why the others cannot."""
    meters: list[Meter] = []
    reasons: list[str] = []
    for look in (_rapl, jetson_power.meters, _nvidia):
        found = look(root)
        if isinstance(found, str):
            reasons.append(found)
        else:
            meters += found
    return meters, reasons


def _rapl(root: Path) -> list[Meter] | str:
    """The packages' counters of the kernel's powercap: microjoules that wrap around."""
    zones = [z for z in sorted(root.glob("sys/class/powercap/*:[0-9]*")) if z.name.count(":") == 1]
    if not zones:
        return "the kernel shows no RAPL counters (/sys/class/powercap)"
    found = []
    for zone in zones:
        file = zone / "energy_uj"
        try:
            _micro(file)
            limit = _micro(zone / "max_energy_range_uj")
            name = (zone / "name").read_text(encoding="utf-8").strip()
        except PermissionError:
            return f"{file} may be read by root only (sudo chmod a+r {file} lets everyone, until the next start)"
        except (OSError, ValueError) as error:
            return f"{file} cannot be read ({error})"
        found.append(Meter(f"RAPL {name}", "CPU package", "joules", lambda f=file: _micro(f), limit))  # type: ignore[misc]
    return found


def _nvidia(root: Path) -> list[Meter] | str:
    """NVML's counter of joules where its Python module is there, else nvidia-smi's watts."""
    try:
        import pynvml
    except ImportError:
        return _nvidia_smi()
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        return f"NVML: {error}"

    def joules() -> float:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from error

    return [Meter("NVML", "GPU 0", "joules", joules)]


def _nvidia_smi() -> list[Meter] | str:
    if shutil.which("nvidia-smi") is None:
        return "there is no NVIDIA GPU (no pynvml, no nvidia-smi)"
    command = ["nvidia-smi", "-i", "0", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]

    def watts() -> float:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return float(done.stdout)

    try:
        watts()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return f"nvidia-smi tells no power ({error})"
    return [Meter("nvidia-smi", "GPU 0", "watts", watts)]


def _micro(file: Path) -> float:
    return int(file.read_text(encoding="utf-8")) / 1e6
