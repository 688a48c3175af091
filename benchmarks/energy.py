"""Joules per caption, from what the machine can tell: counters (NVML, RAPL) or rails that are looked at (Jetson).

A machine that tells nothing, or lets only root read, answers with the reason. Idle power is not subtracted: the joules
are those of everything that the meter sees while captions are made without a pause.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from camscribe.benchmarks.schema import Missing

INTERVAL_S = 0.05
"""Between two looks at a power in watts."""


class Meter(NamedTuple):
    """Something that tells energy or power."""

    source: str
    scope: str
    """What it sees: the package of the CPU, the GPU, the whole board."""
    kind: str
    """``joules``, a counter, or ``watts``."""
    read: Callable[[], float]
    wraps_at: float = 0.0
    """Joules at which a counter begins again at 0; 0 for never."""


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
    watchers = [_Watcher(meter) for meter in meters]
    start = time.perf_counter()
    for watcher in watchers:
        watcher.start()
    try:
        captions = work()
    finally:
        joules = [watcher.stop() for watcher in watchers]
    seconds = time.perf_counter() - start
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
    for look in (_rapl, _rails, _nvidia):
        found = look(root)
        if isinstance(found, str):
            reasons.append(found)
        else:
            meters += found
    return meters, reasons


class _Watcher:
    """Reads one meter from ``start`` to ``stop``; a power is summed by the trapezoid rule."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._stop = threading.Event()
        self._problem = ""
        self._joules = 0.0
        self._thread = threading.Thread(target=self._look, name=meter.source, daemon=True)

    def start(self) -> None:
        self._last, self._at = self._read(), time.perf_counter()
        self._thread.start()

    def stop(self) -> float | str:
        """Joules, or what went wrong."""
        self._stop.set()
        self._thread.join()
        self._add()
        return self._problem or self._joules

    def _look(self) -> None:
        # Counters are looked at too, so that one that wraps is noticed.
        while not self._stop.wait(INTERVAL_S if self._meter.kind == "watts" else 1.0):
            self._add()

    def _add(self) -> None:
        value, now = self._read(), time.perf_counter()
        if self._meter.kind == "watts":
            self._joules += (self._last + value) / 2 * (now - self._at)
        else:
            more = value - self._last
            self._joules += more + self._meter.wraps_at if more < 0 else more
        self._last, self._at = value, now

    def _read(self) -> float:
        try:
            return self._meter.read()
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._problem = self._problem or f"could not be read during the run ({error})"
            return 0.0


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
            return f"{file} may be read by root only"
        except (OSError, ValueError) as error:
            return f"{file} cannot be read ({error})"
        found.append(Meter(f"RAPL {name}", "CPU package", "joules", lambda f=file: _micro(f), limit))  # type: ignore[misc]
    return found


def _rails(root: Path) -> list[Meter] | str:
    """The input rail of a Jetson's INA3221, which tegrastats shows, too: millivolts times milliamperes."""
    for label in sorted(root.glob("sys/class/hwmon/hwmon*/in*_label")):
        try:
            name = label.read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if name not in ("VDD_IN", "VIN", "5V_IN"):
            continue
        number = label.name.removeprefix("in").removesuffix("_label")
        volts, amperes = label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input")

        def watts(volts: Path = volts, amperes: Path = amperes) -> float:
            return int(volts.read_text()) * int(amperes.read_text()) / 1e6

        try:
            watts()
        except (OSError, ValueError) as error:
            return f"{volts} cannot be read ({error})"
        return [Meter(f"INA3221 {name}", "whole board", "watts", watts)]
    return "there are no power rails of a Jetson (/sys/class/hwmon)"


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
