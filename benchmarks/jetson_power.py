"""The power of a Jetson: the rails of its INA3221 in /sys, else what tegrastats prints.

Modules differ. Orin Nano, Orin NX, Xavier NX and the old Nano have a rail in front of all others (VDD_IN, POM_5V_IN):
it is the whole module. AGX Orin and AGX Xavier have none: there the rails are added up, which leaves out what no rail
sees, the carrier board above all.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from camscribe.benchmarks.meter import Meter

INPUTS = ("VDD_IN", "VIN", "POM_5V_IN", "5V_IN")
"""Rails in front of all others."""
INTERVAL_MS = 100
"""Between two lines of tegrastats."""
_FIRST_LINE_S = 3.0
# NAME now/average, of late with the largest value as a third; old releases leave mW out. Memory is in MB or kB.
_RAIL = re.compile(r"(?<!\S)([A-Z0-9][A-Z0-9_]*) (\d+)(?:mW)?(?:/\d+(?:mW)?){1,2}(?!\S)")


def rails(line: str) -> dict[str, int]:
    """Milliwatts of each rail in a line of tegrastats, now; without those that are not connected (NC)."""
    return {name: int(value) for name, value in _RAIL.findall(line) if name != "NC"}


def total(milliwatts: Mapping[str, float]) -> tuple[float, str]:
    """Milliwatts of the module, and what that is.

    Raises:
        ValueError: there is no rail.
    """
    for name in INPUTS:
        if name in milliwatts:
            return milliwatts[name], f"whole module ({name})"
    if not milliwatts:
        raise ValueError("no power rail is shown")
    return sum(milliwatts.values()), f"sum of the rails {', '.join(milliwatts)}"


def meters(root: Path) -> list[Meter] | str:
    """What tells the power of a Jetson, or why nothing does.

    Args:
        root: where /sys is.
    """
    found = _sysfs(root)
    if not isinstance(found, str):
        return found
    other = _tegrastats()
    return f"{found}; {other}" if isinstance(other, str) else other


def _sysfs(root: Path) -> list[Meter] | str:
    """Rails of the INA3221: millivolts times milliamperes."""
    channels: dict[str, tuple[Path, Path]] = {}
    for label in sorted(root.glob("sys/class/hwmon/hwmon*/in*_label")):
        number = label.name.removeprefix("in").removesuffix("_label")
        amperes = label.with_name(f"curr{number}_input")
        try:
            name = label.read_text(encoding="utf-8").strip()
            monitor = label.with_name("name").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            continue
        # The seventh is the sum of the shunts, which has no current.
        if monitor.startswith("ina3221") and name not in ("", "NC") and amperes.exists():
            channels[name] = (label.with_name(f"in{number}_input"), amperes)
    if not channels:
        return "there are no power rails of a Jetson (/sys/class/hwmon)"

    def milliwatts() -> dict[str, float]:
        return {name: int(v.read_text()) * int(a.read_text()) / 1e3 for name, (v, a) in channels.items()}

    try:
        _, scope = total(milliwatts())
    except (OSError, ValueError) as error:
        return f"the power rails of /sys/class/hwmon cannot be read ({error})"
    return [Meter("INA3221", scope, "watts", lambda: total(milliwatts())[0] / 1e3)]


def _tegrastats() -> list[Meter] | str:
    if shutil.which("tegrastats") is None:
        return "there is no tegrastats"
    reader = Tegrastats()
    try:
        _, scope = total(reader.wait())
    except (OSError, ValueError) as error:
        reader.close()
        return f"tegrastats tells no power ({error})"
    return [Meter("tegrastats", scope, "watts", reader.watts, close=reader.close)]


class Tegrastats:
    """A running tegrastats, of which the last line counts. ``close`` it.

    Raises:
        OSError: it does not start.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["tegrastats", "--interval", str(INTERVAL_MS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
        self._last: dict[str, int] = {}
        self._seen = threading.Event()
        self._thread = threading.Thread(target=self._read, name="tegrastats", daemon=True)
        self._thread.start()

    def wait(self) -> dict[str, int]:
        """The rails of its first line.

        Raises:
            ValueError: it prints none.
        """
        if not self._seen.wait(_FIRST_LINE_S):
            raise ValueError(f"it prints nothing within {_FIRST_LINE_S:g} s")
        return self._last

    def watts(self) -> float:
        """Of its last line.

        Raises:
            OSError: it has ended.
            ValueError: that line has no rails.
        """
        if self._process.poll() is not None:
            raise OSError(f"it ended with exit status {self._process.returncode}")
        return total(self._last)[0] / 1e3

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        if self._process.poll() is None:
            self._process.kill()
        self._thread.join(5)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._last = rails(line)
            self._seen.set()
        self._seen.set()  # it has ended; what is missing is said where it is asked for
