"""GPU, driver, CUDA toolkit and Jetson, from described machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from camscribe.runtime.doctor.gpu import judge_gpu, judge_toolkit, parse_driver, parse_nvcc, read_gpu
from camscribe.runtime.doctor.jetson import judge_board, judge_power, parse_l4t, read_board
from camscribe.runtime.doctor.machine import Machine, Outcome

Describe = Callable[..., Machine]

H100 = {"name": "NVIDIA H100", "compute_capability": "9.0", "total_bytes": 80 << 30, "integrated": False}
ORIN = {"name": "Orin", "compute_capability": "8.7", "total_bytes": 8 << 30, "integrated": True}
NO_LIBRARY = {"error": "libcuda.so.1: cannot open shared object file: No such file or directory"}
CARD = {"/sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n", "/sys/bus/pci/devices/0000:01:00.0/class": "0x030200\n"}
NVRM = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version: 12"
OPEN_NVRM = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (builder)\n"


def test_the_driver_s_version_is_read_from_both_kinds_of_module() -> None:
    assert parse_driver(NVRM) == "535.183.01"
    assert parse_driver(OPEN_NVRM) == "580.95.05"
    assert parse_driver("") is None


def test_a_working_gpu(describe: Describe) -> None:
    machine = describe(
        {**CARD, "/dev/nvidia0": "", "/proc/driver/nvidia/version": NVRM},
        answers={"driver": {"cuda": "12.2", "gpus": [H100]}},
    )
    item = judge_gpu(read_gpu(machine, jetson=False))
    assert (item.status, item.version, item.mend) == ("ok", "535.183.01", None)
    assert item.detail == "NVIDIA H100 (80.0 GiB), driver 535.183.01, CUDA up to 12.2"


@pytest.mark.parametrize(
    ("files", "answer", "status", "detail", "mend"),
    [
        ({}, NO_LIBRARY, "absent", "shows none", None),
        ({**CARD, "/etc/os-release": "NAME=Debian\nVERSION_ID=12\nID=debian\n"}, NO_LIBRARY, "broken",
         "its driver does not run", "sudo apt install nvidia-driver"),
        ({**CARD, "/etc/os-release": 'ID=ubuntu\nID_LIKE=debian\n'}, NO_LIBRARY, "broken",
         "its driver does not run", "sudo ubuntu-drivers install"),
        ({"/dev/nvidiactl": ""}, NO_LIBRARY, "broken", "libcuda.so.1 is not found", "sudo apt install nvidia-driver"),
        ({"/dev/nvidiactl": ""}, {"error": "cuInit says CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)"}, "broken",
         "was updated while it ran", "sudo reboot"),
        ({"/dev/nvidiactl": ""}, {"error": "cuInit says CUDA_ERROR_UNKNOWN (999)"}, "broken",
         "CUDA_ERROR_UNKNOWN (999)", "sudo apt install nvidia-driver"),
        ({"/dev/nvidiactl": ""}, {"error": "crashed (SIGSEGV)"}, "broken", "crashed", "sudo apt install nvidia-driver"),
        ({"/dev/nvidiactl": ""}, {"cuda": "12.2", "gpus": []}, "broken", "finds no GPU",
         "sudo apt install nvidia-driver"),
        ({**CARD, "/.dockerenv": ""}, NO_LIBRARY, "broken", "start it with --gpus all", None),
        ({**CARD, "/.dockerenv": "", "/dev/nvidia0": ""}, NO_LIBRARY, "broken", "start it with --gpus all", None),
        ({"/sys/bus/pci/devices/0/vendor": "0x10de", "/sys/bus/pci/devices/0/class": "0x040300"}, NO_LIBRARY,
         "absent", "shows none", None),
    ],
)  # fmt: skip
def test_gpus_that_do_not_work(
    describe: Describe, files: dict[str, str], answer: dict[str, Any], status: str, detail: str, mend: str | None
) -> None:
    item = judge_gpu(read_gpu(describe(files, answers={"driver": answer}), jetson=False))
    assert (item.status, item.mend) == (status, mend)
    assert detail in item.detail


NVCC = Outcome(0, "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 12.6, V12.6.68\n")


def test_nvcc_on_the_path_or_beside_it(describe: Describe) -> None:
    assert parse_nvcc(NVCC.out) == "12.6"
    gpu = read_gpu(describe({"/dev/nvidia0": ""}, answers={"driver": {"cuda": "12.6", "gpus": [ORIN]}}), jetson=True)
    assert judge_toolkit(describe(programs={"nvcc --version": NVCC}), gpu).status == "ok"
    beside = judge_toolkit(describe(programs={"/usr/local/cuda/bin/nvcc --version": NVCC}), gpu)
    assert (beside.status, beside.mend) == ("warning", "export PATH=/usr/local/cuda/bin:$PATH")
    at_home = describe(programs={"/opt/cuda/bin/nvcc --version": NVCC}, environment={"CUDA_HOME": "/opt/cuda"})
    assert judge_toolkit(at_home, gpu).mend == "export PATH=/opt/cuda/bin:$PATH"
    none = judge_toolkit(describe(), gpu)
    assert (none.status, none.mend) == ("absent", "sudo apt install nvidia-jetpack")


L4T = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025"
)
ORIN_NANO = {
    "/etc/nv_tegra_release": L4T,
    "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "/proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0",
    "/etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=25W >\n"
    "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< POWER_MODEL ID=3 NAME=7W >\n< PM_CONFIG DEFAULT=1 >\n",
}


@pytest.mark.parametrize(
    ("line", "release"),
    [
        (L4T, "36.4.3"),
        ("# R38 (release), REVISION: 2.0, GCID: 1", "38.2.0"),
        ("# R36 (release), REVISION: 3", "36.3.0"),
        ("", None),
        ("R36", None),
    ],
)
def test_the_l4t_release(line: str, release: str | None) -> None:
    assert parse_l4t(line) == release


def test_a_jetson_is_known_by_its_files(describe: Describe) -> None:
    board = read_board(describe(ORIN_NANO))
    assert board is not None
    item = judge_board(board)
    assert (item.status, item.version, item.support) == ("ok", "6.2", "never run")
    assert item.detail == "NVIDIA Jetson Orin Nano Developer Kit, JetPack 6.2 (L4T 36.4.3)"


def test_other_machines_are_no_jetsons(describe: Describe) -> None:
    assert read_board(describe({"/proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712"})) is None


@pytest.mark.parametrize(
    ("release", "status", "detail"),
    [
        ("# R36 (release), REVISION: 9.9", "ok", "JetPack 6.x (L4T 36.9.9)"),
        ("# R35 (release), REVISION: 4.1", "broken", "JetPack 6 or newer is needed"),
        ("# R99 (release), REVISION: 1.0", "warning", "unknown"),
    ],
)
def test_releases_outside_the_table(describe: Describe, release: str, status: str, detail: str) -> None:
    board = read_board(describe({**ORIN_NANO, "/etc/nv_tegra_release": release}))
    assert board is not None
    assert judge_board(board).status == status
    assert detail in judge_board(board).detail


def test_a_jetson_in_a_container_shows_its_device_tree_only(describe: Describe) -> None:
    board = read_board(describe({"/proc/device-tree/compatible": "nvidia,tegra234\0"}))
    assert board is not None
    assert judge_board(board).status == "warning"


@pytest.mark.parametrize(
    ("out", "status", "mend"),
    [
        ("NV Power Mode: 15W\n0\n", "warning", "sudo nvpmodel -m 2"),
        ("NV Power Mode: MAXN_SUPER\n2\n", "ok", None),
        ("NVPM ERROR: no permission\n", "absent", None),
    ],
)
def test_the_power_mode(describe: Describe, out: str, status: str, mend: str | None) -> None:
    item = judge_power(describe(ORIN_NANO, {"/usr/sbin/nvpmodel -q": Outcome(0, out)}))
    assert (item.status, item.mend) == (status, mend)


def test_maxn_super_goes_before_maxn(describe: Describe) -> None:
    conf = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=4 NAME=MAXN_SUPER >\n< POWER_MODEL ID=1 NAME=10W >\n"
    machine = describe({"/etc/nvpmodel.conf": conf}, {"/usr/sbin/nvpmodel -q": Outcome(0, "NV Power Mode: 10W\n1\n")})
    assert judge_power(machine).mend == "sudo nvpmodel -m 4"
