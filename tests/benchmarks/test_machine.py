"""What a report says of the machine, read from described ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from camscribe.benchmarks import compare, machine, schema, statistics


def describe(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    """As far as it is read: a Jetson with two cores."""
    cpu = "sys/devices/system/cpu/cpu{}/cpufreq/"
    return describe(
        tmp_path,
        {
            "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
            "proc/meminfo": "MemTotal:       31459776 kB\nMemFree: 1 kB\n",
            **{cpu.format(index) + "scaling_cur_freq": "2201600\n" for index in (0, 1)},
            **{cpu.format(index) + "scaling_governor": "schedutil\n" for index in (0, 1)},
            "sys/class/devfreq/17000000.gpu/cur_freq": "1300500000\n",
            "sys/class/devfreq/17000000.gpu/device/of_node/name": "gpu\0",
            "sys/class/devfreq/2c60000.emc/cur_freq": "3199000000\n",
            "sys/class/devfreq/2c60000.emc/device/of_node/name": "emc\0",
            "sys/class/thermal/thermal_zone0/temp": "-1500\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        },
    )


def test_a_jetson_is_described(orin: Path) -> None:
    found = machine.environment(orin)
    assert found["device"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert found["memory_bytes"] == 31459776 * 1024
    assert found["clocks_mhz"] == [2201.6, 2201.6]
    assert found["gpu_clocks_mhz"] == [1300.5], "the memory's clock is not the GPU's"
    assert found["governor"] == ["schedutil"]
    assert found["temperature_c"] == {"thermal_zone0 cpu-thermal": -1.5}


def test_what_a_machine_does_not_tell_is_a_reason_and_no_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi, no nvpmodel
    found = machine.environment(tmp_path)
    for name in ("memory_bytes", "clocks_mhz", "gpu_clocks_mhz", "governor", "temperature_c", "power_mode", "gpu"):
        assert list(found[name]) == ["missing"], name
    assert found["device"] == "unknown"


def test_a_tool_that_fails_or_prints_no_number_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    for script, names, clocks in (
        ("#!/bin/sh\nexit 9\n", [], []),
        ("#!/bin/sh\necho 'Orin (nvgpu), 540.4.0, [N/A], [N/A], [N/A], [N/A], [N/A]'\n", ["Orin (nvgpu)"], []),
        ("#!/bin/sh\necho 'NVIDIA L4, 580.1, P0, 2040 MHz, 6251 MHz, 41, 72.00 W'\n", ["NVIDIA L4"], [2040.0]),
    ):
        tool.write_text(script)
        tool.chmod(0o755)
        assert [item["name"] for item in machine.gpus()] == names
        assert machine.gpu_clocks(tmp_path) == clocks


def test_clocks_that_move_are_warned_of_each_by_its_name(orin: Path) -> None:
    clocks = machine.Clocks()
    for cpu, gpu in (([2000.0, 1990.0], [1300.0]), ([], [1300.0]), ([2020.0], [900.0])):
        clocks.look(cpu, gpu)
    assert clocks.warnings() == ["the clock of GPU 0 moved between 900 and 1300 MHz during the run"]
    assert machine.Clocks().warnings() == []
    with machine.watch(0.001, orin) as watched:
        while not watched.samples.get("the clock of GPU 0"):
            pass
    assert watched.warnings() == []
    assert set(watched.samples) == {"the CPU's clock", "the clock of GPU 0"}


def test_a_comparison_says_what_else_is_different(repository: Path) -> None:
    old = schema.read(repository / "benchmarks" / "results" / "bench-cpu.json")
    card = {"name": "NVIDIA L4", "driver_version": "580.1", "clocks.sm": "2040 MHz"}
    new = dataclasses.replace(
        old,
        bundles=(dataclasses.replace(old.bundles[0], manifest_sha256="f" * 64),),
        protocol=dataclasses.replace(old.protocol, beams=5),
        environment={
            **old.environment,
            "packages": {"onnxruntime": "1.23.2"},
            "libraries": {"tensorrt": "10.3.0"},
            "gpu": [card],
        },
    )
    remarks = compare.compare(old, new).remarks
    assert any(f"{old.bundles[0].name}: another bundle of that name" in each for each in remarks)
    assert f"measured with {old.protocol.beams} and 5 beams" in remarks
    assert f"measured with onnxruntime {old.environment['packages']['onnxruntime']} and 1.23.2" in remarks
    assert "measured with tensorrt none and 10.3.0" in remarks
    assert "measured on different GPUs: none, now NVIDIA L4 580.1" in remarks
    warmer = dataclasses.replace(new, environment={**new.environment, "gpu": [{**card, "clocks.sm": "900 MHz"}]})
    assert compare.compare(old, old).remarks == compare.compare(new, warmer).remarks == ()


def test_a_single_sample_is_no_evidence() -> None:
    assert statistics.ratio_interval([10.0], [30.0]) == (3.0, 0.0, float("inf"))
    assert statistics.ratio_interval([10.0, 10.0], [30.0, 30.0]) == (3.0, 3.0, 3.0)
