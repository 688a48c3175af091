"""GPU, driver and CUDA."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from camscribe.runtime.cuda.nodes import GPU_NODES
from camscribe.runtime.doctor.machine import Machine
from camscribe.runtime.doctor.report import Item

_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"
_TOOLKIT = "/usr/local/cuda"


@dataclass(frozen=True)
class GpuFacts:
    """What was read of the GPU."""

    hardware: bool
    """The bus shows an NVIDIA GPU, or this is a Jetson."""
    nodes: bool
    """The driver has made its device files."""
    driver: str | None = None
    """Version of the kernel's driver."""
    answer: Mapping[str, Any] = field(default_factory=dict)
    """Of the probe ``driver``."""
    os: str = ""
    """ID in /etc/os-release."""
    jetson: bool = False
    container: bool = False

    @property
    def present(self) -> bool:
        """Whether this machine has a GPU that could be used, working or not."""
        return self.hardware or self.nodes or self.works

    @property
    def works(self) -> bool:
        """Whether the driver found a GPU."""
        return bool(self.answer.get("gpus"))

    @property
    def cuda(self) -> str | None:
        """Newest version of CUDA that the driver runs."""
        version = self.answer.get("cuda")
        return version if isinstance(version, str) else None


def read_gpu(machine: Machine, *, jetson: bool) -> GpuFacts:
    """Reads buses, device files and versions, and asks the driver's library in a child process."""
    hardware = jetson or any(
        machine.read(f"/sys/bus/pci/devices/{name}/vendor") == _NVIDIA_VENDOR
        and (machine.read(f"/sys/bus/pci/devices/{name}/class") or "").startswith(_DISPLAY_CLASS)
        for name in machine.names("/sys/bus/pci/devices", "*")
    )
    found = re.search(r"ID=\"?([\w-]+)", "\n" + (machine.read("/etc/os-release") or "").replace("VERSION_ID", ""))
    return GpuFacts(
        hardware,
        machine.exists(*GPU_NODES),
        parse_driver(machine.read("/proc/driver/nvidia/version") or ""),
        machine.ask(["driver"], 60),
        found[1] if found else "",
        jetson,
        machine.exists("/.dockerenv", "/run/.containerenv"),
    )


def parse_driver(text: str) -> str | None:
    """The version in ``/proc/driver/nvidia/version``: ``NVRM version: NVIDIA UNIX ... Module  580.95.05  ...``."""
    found = re.search(r"Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return found[1] if found else None


def judge_gpu(facts: GpuFacts) -> Item:
    """The GPU and its driver."""
    error = str(facts.answer.get("error", ""))
    if facts.works:
        gpus = facts.answer["gpus"]
        names = ", ".join(f"{gpu['name']} ({gpu['total_bytes'] / 2**30:.1f} GiB)" for gpu in gpus)
        driver = f"driver {facts.driver}, " if facts.driver else ""
        detail = f"{names}, {driver}CUDA up to {facts.cuda}"
        return Item("gpu", "NVIDIA GPU", "ok", detail, facts.driver, facts={"gpus": gpus, "cuda": facts.cuda})
    if not facts.present:
        return Item("gpu", "NVIDIA GPU", "absent", "this machine shows none")
    detail = "the driver finds no GPU"
    mend: str | None = install_driver(facts)
    if facts.container and ("libcuda" in error or not facts.nodes):
        # No command in here helps: the host decides what a container sees.
        detail, mend = "there is one, but this container does not see it: start it with --gpus all", None
    elif facts.nodes and "libcuda" in error:
        detail = "the kernel's driver runs, but its library libcuda.so.1 is not found"
    elif not facts.nodes:
        detail = "there is one, but its driver does not run"
    elif error:
        detail = f"the driver does not start: {error}"
        if "SYSTEM_DRIVER_MISMATCH" in error:
            detail, mend = "the driver was updated while it ran", "sudo reboot"
    return Item("gpu", "NVIDIA GPU", "broken", detail, facts.driver, mend=mend, facts={"error": error})


def install_driver(facts: GpuFacts) -> str:
    """The command that installs a current driver."""
    if facts.jetson:
        return "sudo apt install nvidia-jetpack"
    return "sudo ubuntu-drivers install" if facts.os == "ubuntu" else "sudo apt install nvidia-driver"


def judge_toolkit(machine: Machine, facts: GpuFacts) -> Item:
    """The CUDA toolkit: its compiler builds PyCUDA, nothing else of ours needs it."""
    homes = [machine.environment[key] for key in ("CUDA_HOME", "CUDA_PATH") if machine.environment.get(key)]
    for command in ("nvcc", *(f"{home}/bin/nvcc" for home in (*homes, _TOOLKIT))):
        version = parse_nvcc(machine.run([command, "--version"], 10).out)
        if version is None:
            continue
        if command == "nvcc":
            return Item("cuda_toolkit", "CUDA toolkit", "ok", f"{version}, nvcc is on the PATH", version)
        folder = command.removesuffix("/nvcc")
        return Item(
            "cuda_toolkit",
            "CUDA toolkit",
            "warning",
            f"{version}, but nvcc is not on the PATH, so PyCUDA cannot be built",
            version,
            mend=f"export PATH={folder}:$PATH",
        )
    detail = "no nvcc; only building PyCUDA needs it"
    if not facts.present:
        return Item("cuda_toolkit", "CUDA toolkit", "absent", detail)
    mend = "sudo apt install nvidia-jetpack" if facts.jetson else "sudo apt install nvidia-cuda-toolkit"
    return Item("cuda_toolkit", "CUDA toolkit", "absent", detail, mend=mend)


def parse_nvcc(text: str) -> str | None:
    """The version in what ``nvcc --version`` prints: ``release 12.6, V12.6.68``."""
    found = re.search(r"release (\d+\.\d+)", text)
    return found[1] if found else None
