"""The power of a Jetson, from lines that people published of real modules and from a /sys that is described."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camscribe.benchmarks import energy, jetson_power
from camscribe.benchmarks.schema import Missing

# Each shortened by cores; where it was published stands above it.
LINES = {
    # github.com/henrygd/beszel, internal/agent/gpu_test.go
    "Orin Nano": (
        "11-15-2024 08:38:09 RAM 6185/7620MB (lfb 8x2MB) SWAP 851/3810MB (cached 1MB) CPU [15%@729,8%@729] "
        "EMC_FREQ 43%@2133 GR3D_FREQ 63%@[621] NVDEC off NVJPG off VIC off OFA off APE 200 cpu@53.968C soc2@52.437C "
        "tj@53.968C VDD_IN 12479mW/12479mW VDD_CPU_GPU_CV 4667mW/4667mW VDD_SOC 2817mW/2817mW",
        12479,
        "whole module (VDD_IN)",
    ),
    # github.com/GDWR/jetson_exporter, issue 14
    "AGX Orin": (
        "04-11-2025 10:36:27 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) CPU [0%@729,off] "
        "EMC_FREQ 0%@2133 GR3D_FREQ 0%@[0,0] VIC_FREQ 729 APE 174 CV0@-256C CPU@44.562C Tboard@32C tj@44.343C "
        "VDD_GPU_SOC 2340mW/2340mW VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW "
        "VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW",
        2340 + 390 + 4025 + 301,
        "sum of the rails VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0, VDDQ_VDD2_1V8AO",
    ),
    # a comment in turquoise's xavier_status, ROS; no unit in JetPack 4
    "AGX Xavier": (
        "RAM 2336/15827MB (lfb 2948x4MB) CPU [2%@1190,1%@1190,0%@1190,0%@1190,off,off,off,off] EMC_FREQ 0% "
        "GR3D_FREQ 0% AO@25.5C GPU@26C Tboard@27C Tdiode@28.75C AUX@25C CPU@27C thermal@25.75C PMIC@100C GPU 465/465 "
        "CPU 310/310 SOC 1242/1242 CV 0/0 VDDRQ 0/0 SYS5V 1776/1776",
        465 + 310 + 1242 + 1776,
        "sum of the rails GPU, CPU, SOC, CV, VDDRQ, SYS5V",
    ),
    # github.com/FindHao/tx-utils, issue 3
    "TX2": (
        "RAM 2020/7852MB (lfb 1164x4MB) CPU [9%@345,21%@345,1%@345] EMC_FREQ 0% GR3D_FREQ 0% PLL@42.5C "
        "thermal@41.9C Tdiode@41.25C VDD_SYS_GPU 153/158 VDD_SYS_SOC 536/547 VDD_4V0_WIFI 633/527 VDD_IN 3140/3208 "
        "VDD_SYS_CPU 536/590 VDD_SYS_DDR 557/601",
        3140,
        "whole module (VDD_IN)",
    ),
    # a release of 2026 with the largest value as a third number
    "Orin Nano, three numbers": (
        "10-01-2026 20:36:32 RAM 974/7546MB (lfb 6x4MB) SWAP 0/5821MB (cached 0MB) CPU [0%@729,0%@883] GR3D_FREQ 12% "
        "cpu@49.843C/49.843C tj@50.875C/50.875C VDD_IN 4548mW/4550mW/4960mW VDD_CPU_GPU_CV 483mW/483mW/483mW "
        "VDD_SOC 1489mW/1489mW/1489mW",
        4548,
        "whole module (VDD_IN)",
    ),
}


@pytest.mark.parametrize("module", LINES)
def test_the_rails_of_a_line_add_up_to_the_module(module: str) -> None:
    line, milliwatts, scope = LINES[module]
    assert jetson_power.total(jetson_power.rails(line)) == (milliwatts, scope)


def test_memory_is_no_power() -> None:
    assert (
        jetson_power.rails("RAM 4/8MB SWAP 1/2MB IRAM 0/252kB(lfb 252kB) CPU [1%@2] GR3D_FREQ 0%@[0,0] NC 1mW/1mW")
        == {}
    )
    with pytest.raises(ValueError, match="no power rail"):
        jetson_power.total({})


@given(st.text())
def test_no_line_makes_a_traceback(line: str) -> None:
    assert all(value >= 0 for value in jetson_power.rails(line).values())


def describe(root: Path, hwmon: str, channels: dict[str, tuple[int, int]], name: str = "ina3221") -> None:
    """A power monitor as the kernel shows it: millivolts and milliamperes of each label."""
    folder = root / "sys/class/hwmon" / hwmon
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    for number, (label, (millivolts, milliamperes)) in enumerate(channels.items(), 1):
        (folder / f"in{number}_label").write_text(f"{label}\n")
        (folder / f"in{number}_input").write_text(f"{millivolts}\n")
        (folder / f"curr{number}_input").write_text(f"{milliamperes}\n")


def test_the_input_rail_in_sys_is_the_module(tmp_path: Path) -> None:
    describe(tmp_path, "hwmon0", {"VDD_CORE": (900, 9000)}, name="other")
    describe(tmp_path, "hwmon1", {"VDD_IN": (5000, 2000), "VDD_CPU_GPU_CV": (5000, 800), "VDD_SOC": (5000, 300)})
    (tmp_path / "sys/class/hwmon/hwmon1/in7_label").write_text("sum of shunt voltages\n")
    (meter,) = jetson_power.meters(tmp_path)
    assert not isinstance(meter, str)
    assert meter.scope == "whole module (VDD_IN)"
    assert meter.read() == pytest.approx(10.0)


def test_without_an_input_rail_all_rails_of_both_monitors_are_added(tmp_path: Path) -> None:
    describe(tmp_path, "hwmon3", {"VDD_GPU_SOC": (843, 6170), "VDD_CPU_CV": (780, 3437), "VIN_SYS_5V0": (4968, 953)})
    describe(tmp_path, "hwmon4", {"NC": (0, 0), "VDDQ_VDD2_1V8AO": (1800, 341)})
    (meter,) = jetson_power.meters(tmp_path)
    assert not isinstance(meter, str)
    assert meter.scope.startswith("sum of the rails VDD_GPU_SOC")
    assert meter.read() == pytest.approx((843 * 6170 + 780 * 3437 + 4968 * 953 + 1800 * 341) / 1e6)


def put_tegrastats(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    file = folder / "tegrastats"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(energy, "_nvidia", lambda root: "there is no NVIDIA GPU")


def test_a_running_tegrastats_gives_joules_and_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = LINES["Orin Nano"][0]
    put_tegrastats(
        tmp_path, monkeypatch, f'test "$1 $2" = "--interval 100" || exit 3\nwhile :; do echo "{line}"; sleep 0.05; done'
    )

    def work() -> int:
        time.sleep(0.3)
        return 3

    answer = energy.measure(work, tmp_path)
    assert isinstance(answer, dict)
    (row,) = answer["meters"]
    assert (row["source"], row["scope"]) == ("tegrastats", "whole module (VDD_IN)")
    assert row["mean_watts"] == pytest.approx(12.479, rel=0.1)
    assert row["joules_per_caption"] == pytest.approx(row["mean_watts"] * answer["seconds"] / 3)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 1", "tegrastats tells no power"),
        ("echo RAM 1/2MB; exec sleep 9", "tegrastats tells no power (no power rail is"),
    ],
    ids=["fails", "no rails"],
)
def test_a_tegrastats_that_tells_nothing_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    put_tegrastats(tmp_path, monkeypatch, script)
    answer = energy.measure(lambda: 1, tmp_path)
    assert isinstance(answer, Missing)
    assert answer.missing.startswith("not measurable here: ")
    assert reason in answer.missing


def test_one_that_ends_in_between_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_tegrastats(tmp_path, monkeypatch, f'echo "{LINES["TX2"][0]}"; sleep 0.3; exit 4')

    def work() -> int:
        time.sleep(0.8)
        return 1

    answer = energy.measure(work, tmp_path)
    assert isinstance(answer, Missing)
    assert "could not be read during the run (it ended with exit status 4)" in answer.missing


def test_a_counter_that_only_root_reads_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(energy, "_nvidia", lambda root: "there is no NVIDIA GPU")

    def refuse(file: Path) -> float:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(energy, "_micro", refuse)
    answer = energy.measure(lambda: 1, tmp_path)
    assert isinstance(answer, Missing)
    assert "may be read by root only" in answer.missing
