"""Jetson: its board, its L4T release and JetPack, and its power mode."""

from __future__ import annotations

import re
from dataclasses import dataclass

from camscribe.runtime.doctor.known import support
from camscribe.runtime.doctor.machine import Machine
from camscribe.runtime.doctor.report import Item

JETPACK = {
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.5.0": "6.2.2",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
}
"""L4T release and the JetPack it belongs to, as NVIDIA's archive has them; of others the first number is told."""
_JETPACK_MAJOR = {"32": "4", "34": "5", "35": "5", "36": "6", "38": "7", "39": "7"}
_NVPMODEL = "/usr/sbin/nvpmodel"


@dataclass(frozen=True)
class Board:
    """A Jetson."""

    model: str
    l4t: str | None
    """As ``36.4.3``."""

    @property
    def jetpack(self) -> str | None:
        """As ``6.2``; None where the release is not known."""
        if self.l4t is None:
            return None
        return JETPACK.get(self.l4t) or _JETPACK_MAJOR.get(self.l4t.partition(".")[0])


def read_board(machine: Machine) -> Board | None:
    """The Jetson this is, None on another machine."""
    release = parse_l4t(machine.read("/etc/nv_tegra_release") or "")
    compatible = machine.read("/proc/device-tree/compatible") or ""
    if release is None and "nvidia,tegra" not in compatible:
        return None
    return Board(machine.read("/proc/device-tree/model") or "Jetson", release)


def parse_l4t(text: str) -> str | None:
    """The release in ``/etc/nv_tegra_release``: ``# R36 (release), REVISION: 4.3, ...`` is 36.4.3."""
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)", text)
    if found is None:
        return None
    parts = [found[1], *found[2].split(".")]
    return ".".join([*parts, "0", "0"][:3])


def judge_board(board: Board) -> Item:
    """The board and its JetPack."""
    jetpack = board.jetpack
    facts = {"model": board.model, "l4t": board.l4t}
    if jetpack is None:
        detail = f"{board.model}, its L4T release is unknown"
        return Item("jetson", "Jetson", "warning", detail, facts=facts)
    detail = f"{board.model}, JetPack {jetpack}{'' if '.' in jetpack else '.x'} (L4T {board.l4t})"
    if int(jetpack.partition(".")[0]) < 6:
        return Item("jetson", "Jetson", "broken", f"{detail}; JetPack 6 or newer is needed", jetpack, facts=facts)
    return Item("jetson", "Jetson", "ok", detail, jetpack, support("JetPack", jetpack), facts=facts)


def judge_power(machine: Machine) -> Item:
    """The power mode: anything but the one without caps makes captions slower."""
    outcome = machine.run([_NVPMODEL, "-q"], 10)
    current = parse_power_mode(outcome.out)
    if current is None:
        reason = "nvpmodel is not there" if outcome.status is None else "nvpmodel -q tells none"
        return Item("power_mode", "power mode", "absent", reason)
    modes = parse_power_modes(machine.read("/etc/nvpmodel.conf") or "")
    best = [number for number, name in sorted(modes.items()) if name.upper().startswith("MAXN")]
    facts = {"mode": current, "modes": list(modes.values())}
    if current.upper().startswith("MAXN") or not best:
        return Item("power_mode", "power mode", "ok", current, facts=facts)
    # Where there are two, the one named after MAXN, such as MAXN_SUPER, has the higher clocks.
    number = max(best, key=lambda item: len(modes[item]))
    detail = f"{current}, which caps the clocks; {modes[number]} does not"
    return Item("power_mode", "power mode", "warning", detail, mend=f"sudo nvpmodel -m {number}", facts=facts)


def parse_power_mode(text: str) -> str | None:
    """The name in what ``nvpmodel -q`` prints: ``NV Power Mode: 15W``."""
    found = re.search(r"NV Power Mode:\s*(\S+)", text)
    return found[1] if found else None


def parse_power_modes(text: str) -> dict[int, str]:
    """Number and name of each mode in ``/etc/nvpmodel.conf``."""
    return {int(number): name for number, name in re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", text)}
