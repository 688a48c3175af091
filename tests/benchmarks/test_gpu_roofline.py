"""The roofline of GPUs: counts by the types in the files, bounds from given limits, and the limits on a GPU itself."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from camscribe.benchmarks import gpu_limits, products, report_tables, roofline, schema, terminal
from camscribe.benchmarks.graph_cost import cost
from camscribe.benchmarks.graph_count import Work, work
from camscribe.benchmarks.schema import Missing, Spread, Stage
from camscribe.runtime import cli
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.cuda.driver import open_gpu
from camscribe.runtime.errors import BundleError, EngineError

CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
GPU: dict[str, Any] = {
    "device": "a GPU as it might be",
    "compute_capability": "8.7",
    "bytes_per_s": {"1": 20e9, "4": 60e9, "64": 50e9},
    "macs_per_s": {"float32": 1e12, "fp16": 4e12},
    "macs_per_s_by": {"float32": {"TensorRT": 1e12}, "fp16": {"TensorRT": 4e12}, "int8": {}},
    "not_measured": {"int8 by TensorRT": "no layer in int8"},
    "how": "given",
}
"""Limits to calculate with; nobody measured them."""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(None)


def stage(ms: float, times: float = 1.0) -> Stage:
    return Stage(Spread(1, ms, ms, ms, ms, ms, ms, ms, None), times, "device")


# The files of one product


@pytest.mark.parametrize(
    "file",
    [
        products.product("float32", 32),
        products.product("float16", 32),
        products.product("int8", 32),
        products.product("uint8", 32, "int8"),
        products.quantised(32, 3),
    ],
    ids=["float32", "float16", "int8", "uint8", "quantised"],
)
def test_the_files_written_by_hand_are_onnx(file: bytes) -> None:
    onnx.checker.check_model(onnx.load_from_string(file), full_check=True)


def test_a_product_is_the_product() -> None:
    session = onnxruntime.InferenceSession(products.product("int8", 32), providers=["CPUExecutionProvider"])
    left = products.left("int8", 32)
    right = np.random.default_rng(1).integers(-64, 64, (32, 32))
    assert np.array_equal(session.run(None, {"left": left})[0], left.astype(np.int32) @ right)


@pytest.mark.parametrize("side", [64, 512])
def test_no_number_of_a_product_overflows_or_dies_out(side: int) -> None:
    """What is not finite, or zero, takes less power and so another clock."""
    for kind, file in (("float16", products.product("float16", side)), ("float32", products.quantised(side, 8))):
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        out = session.run(None, {"left": products.left(kind, side)})[0].astype(np.float64)
        assert np.isfinite(out).all()
        assert 0.1 < out.std() < 1000


# Counts


def test_float32_is_counted_as_the_profile_of_a_cpu_counts_it(bundle: Bundle) -> None:
    pair = bundle.manifest.precisions["float32"]
    for name, spec in (("encoder", pair.encoder), ("decoder", pair.decoder)):
        path = bundle.graph("float32", name)  # type: ignore[arg-type]
        counted, seen = work(path, spec.external, {"B": 1, "K": 3}), cost(path, {"B": 1, "K": 3}, 1, 1)
        assert counted.macs == {**seen.macs, "fp16": 0}
        assert (counted.weight_bytes, counted.activation_bytes) == (seen.weight_bytes, seen.activation_bytes)


def test_halves_are_two_bytes_and_islands_four(bundle: Bundle) -> None:
    sizes = {"B": 1, "K": 3}
    counts = {
        (precision, name): work(bundle.graph(precision, name), getattr(pair, name).external, sizes)
        for precision, pair in bundle.manifest.precisions.items()
        for name in ("encoder", "decoder")
    }
    for name in ("encoder", "decoder"):
        macs = sum(counts["float32", name].macs.values())
        assert sum(counts["fp16", name].macs.values()) == sum(counts["int8", name].macs.values()) == macs
    encoder, full = counts["fp16", "encoder"], counts["float32", "encoder"]
    assert (2 * encoder.weight_bytes, 2 * encoder.activation_bytes) == (full.weight_bytes, full.activation_bytes)
    assert encoder.macs["float32"] == 0
    decoder, full = counts["fp16", "decoder"], counts["float32", "decoder"]
    # The logits and the attention's energies are islands of float32.
    island = decoder.macs["float32"] / sum(decoder.macs.values())
    assert 0 < island < 0.5
    assert 0.5 < decoder.weight_bytes / full.weight_bytes < 0.5 + island
    assert counts["int8", "decoder"].macs["int8"] > 0.9 * sum(full.macs.values())


@pytest.mark.parametrize(
    ("file", "rate", "weights", "activations"),
    [
        (products.product("float16", 32), "fp16", 2 * 32 * 32, 2 * 2 * 32 * 32),
        (products.product("int8", 32), "int8", 32 * 32, (1 + 4) * 32 * 32),
        # Read as 8 bits in all products; what lies between them leaves as 8 bits too, the last as float32.
        (products.quantised(32, 3), "int8", 3 * 32 * 32, (1 + 1 + 1 + 1 + 1 + 4) * 32 * 32),
    ],
    ids=["fp16", "int8", "quantised"],
)
def test_a_graph_is_counted_as_by_hand(tmp_path: Path, file: bytes, rate: str, weights: int, activations: int) -> None:
    path = tmp_path / "graph.onnx"
    path.write_bytes(file)
    counted = work(path, (), {})
    width = 2 if rate == "fp16" else 1
    assert {name: macs for name, macs in counted.macs.items() if macs} == {rate: weights // width * 32}
    assert (counted.weight_bytes, counted.activation_bytes) == (weights, activations)


def test_a_graph_that_cannot_be_counted_is_one_line(tmp_path: Path, bundle: Bundle) -> None:
    path = tmp_path / "graph.onnx"
    with pytest.raises(BundleError, match=r"graph\.onnx: cannot be read"):
        work(path, (), {})
    path.write_bytes(b"nonsense")
    with pytest.raises(BundleError, match=r"graph\.onnx: is not an ONNX graph"):
        work(path, (), {})
    with pytest.raises(BundleError, match="expected the graph"):
        work(bundle.graph("fp16", "encoder"), (), {"B": 1})


# Bounds from given limits


def test_the_larger_of_both_times_is_the_bound() -> None:
    machine = {"bytes_per_s": {"1": 50e9, "64": 50e9}, "macs_per_s": {"float32": 1e12, "fp16": 4e12}}
    graph = Work({"float32": 10**9, "fp16": 2 * 10**9, "int8": 0}, 4_000_000, 1_000_000)
    found = roofline.part(graph, machine, 2.0)
    assert found["compute_ms"] == pytest.approx(1.5)
    assert found["memory_ms"] == pytest.approx(0.1)
    assert (found["bound_ms"], found["bound_by"]) == (found["compute_ms"], "compute")
    assert (found["share"], found["limited_by"]) == (pytest.approx(0.75), "compute")
    assert roofline.part(graph, machine, 3.1)["limited_by"] == "overhead"
    moving = roofline.part(Work({"float32": 0, "fp16": 1, "int8": 0}, 50_000_000, 0), machine, 1.25)
    assert (moving["bound_by"], moving["limited_by"], moving["share"]) == ("memory", "memory", pytest.approx(0.8))


def test_small_blocks_and_narrow_numbers_are_never_slower() -> None:
    slow_int8 = {**GPU, "macs_per_s": {"float32": 1e12, "fp16": 4e12, "int8": 2e12}}
    found = roofline.gpu_machine(slow_int8, [Work({"float32": 0, "fp16": 0, "int8": 5}, 1, 1)])
    assert found == {
        "bytes_per_s": {"1": 60e9, "4": 60e9, "64": 50e9},
        "macs_per_s": {"float32": 1e12, "fp16": 4e12, "int8": 4e12},
    }


@pytest.mark.parametrize(
    ("gpu", "reason"),
    [
        ({"missing": "PyCUDA is not installed"}, "PyCUDA is not installed"),
        (GPU, r"rate of products in int8 was not measured \(int8 by TensorRT: no layer in int8\)"),
        ({**GPU, "bytes_per_s": {}}, "bandwidth of the GPU's memory was not measured"),
    ],
)
def test_what_was_not_measured_is_a_reason(gpu: dict[str, Any], reason: str) -> None:
    found = roofline.gpu_machine(gpu, [Work({"float32": 1, "fp16": 0, "int8": 5}, 1, 1)])
    assert isinstance(found, Missing)
    assert re.search(reason, found.missing)


def test_a_row_of_a_gpu_says_what_a_row_of_a_cpu_says(bundle: Bundle, repository: Path) -> None:
    stages = {"h2d": stage(0.1), "encoder": stage(1.0), "decoder step": stage(0.2, 10.0), "d2h": stage(0.05, 3.0)}
    assert roofline.bound(bundle, "int8", "cpu", {}, steps=1, measured_ms=1, stages=Missing("none")) == Missing("none")
    gpu = roofline.bound(bundle, "fp16", "tensorrt", {"gpu": GPU}, steps=10, measured_ms=4.0, stages=stages)
    cpu = schema.read(repository / "benchmarks" / "results" / "bench-cpu.json").variants[0].roofline
    assert isinstance(gpu, dict)
    assert isinstance(cpu, dict)
    assert gpu.keys() == cpu.keys()
    assert gpu["encoder"].keys() == cpu["encoder"].keys()
    assert gpu["caption"].keys() == cpu["caption"].keys()
    assert (gpu["encoder"]["measured_ms"], gpu["decoder_step"]["measured_ms"]) == (1.0, 0.2)
    assert gpu["encoder"]["compute_ms"] == pytest.approx(gpu["encoder"]["macs"]["fp16"] / 4e12 * 1e3)
    losses = gpu["caption"]["losses_ms"]
    assert losses["copies to, on and from the device"] == pytest.approx(0.25)
    assert losses["reading and reducing the photograph"] == 0
    assert losses["what lies between"] == pytest.approx(4.0 - 1.0 - 2.0 - 0.25)
    assert gpu["caption"]["bound_ms"] + sum(losses.values()) == pytest.approx(4.0)
    assert gpu["caption"]["largest_loss"] == "decoder steps, above their bound"


def test_a_row_of_a_gpu_whose_limits_or_stages_are_missing_says_why(bundle: Bundle) -> None:
    def row(machine: dict[str, Any], stages: dict[str, Stage] | Missing) -> object:
        return roofline.bound(bundle, "float32", "cuda", machine, steps=1, measured_ms=1, stages=stages)

    both = {"encoder": stage(1.0), "decoder step": stage(0.2)}
    assert row({"gpu": GPU}, Missing("interrupted")) == Missing("interrupted")
    assert row({"gpu": {"missing": "no GPU"}}, both) == Missing("no GPU")
    assert row({}, both) == Missing("the GPU's limits were not measured")


def test_the_tables_of_a_report_have_the_gpu_beside_the_cpu(repository: Path, bundle: Bundle) -> None:
    kept = schema.read(repository / "benchmarks" / "results" / "bench-cpu.json")
    assert isinstance(kept.roofline, dict)
    stages = {"encoder": stage(1.0), "decoder step": stage(0.2)}
    bound = roofline.bound(bundle, "fp16", "cuda", {"gpu": GPU}, steps=10, measured_ms=4.0, stages=stages)
    row = replace(kept.variants[0], name="x cuda fp16", backend="cuda", precision="fp16", roofline=bound)
    report = replace(kept, variants=(*kept.variants, row), roofline={**kept.roofline, "gpu": GPU})
    tables = {table.title: table for table in report_tables.tables(report)}
    assert [cells[0] for cells in tables["Limits"].rows][-1] == "cuda fp16"
    assert "decoder steps, above their bound" in tables["Limits"].rows[-1][3]
    assert tables["What the devices do at most"].rows[-1] == (GPU["device"], "50.0", "60.0", "1000", "4000", "-")
    text = "\n".join(terminal.table(report))
    assert f"limits of {GPU['device']}: int8 by TensorRT: no layer in int8" in text
    schema.parse(json.dumps(schema.to_json(report)))


# Measuring


def test_work_is_repeated_until_it_can_be_timed_and_the_fewest_seconds_count() -> None:
    asked = []

    def timed(times: int) -> float:
        asked.append(times)
        return 0.004 + 0.001 * (len(asked) % 3)

    assert gpu_limits._fewest(timed) == pytest.approx(0.004)
    assert asked[:2] == [1, 1]
    assert set(asked[2:]) == {2}
    assert len(asked) == 2 + 7


@pytest.mark.parametrize("rate", ["float32", "fp16", "int8"])
def test_products_are_timed_by_the_calls_that_a_gpu_is_timed_by(rate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, where the same calls run for real; the figure is this CPU's."""
    monkeypatch.setattr(gpu_limits, "_LEAST_S", 1e-4)
    assert 1e6 < gpu_limits.onnxruntime_rate(rate, "cpu", 64) < 1e15


@pytest.mark.skipif(CUDA, reason="this ONNX Runtime has CUDA")
def test_without_cuda_products_are_not_measured_on_a_cpu_instead() -> None:
    with pytest.raises(EngineError, match="built without CUDA"):
        gpu_limits.onnxruntime_rate("fp16", "cuda", 64)


def test_a_machine_without_a_gpu_says_so_and_gives_no_figure() -> None:
    found = roofline._gpu_limits()
    if isinstance(found, dict):
        pytest.skip("there is a GPU")
    with pytest.raises(EngineError, match=re.escape(found.missing)):
        open_gpu()


@pytest.mark.gpu
def test_a_gpu_s_limits_are_measured() -> None:
    gpu = open_gpu()
    before = gpu.free_bytes()
    found = gpu_limits.limits()
    assert found["device"] == gpu.info.name
    assert "64" in found["bytes_per_s"], found["not_measured"]
    assert all(5e9 < value < 2e13 for size, value in found["bytes_per_s"].items() if int(size) >= 16)
    tools = [tool for tool, here in (("ONNX Runtime", CUDA), ("TensorRT", _has_tensorrt())) if here]
    assert tools, "a GPU without anything that runs products on it"
    for tool in tools:
        for rate in ("float32", "fp16"):
            assert tool in found["macs_per_s_by"][rate], found["not_measured"]
    if gpu.info.compute_capability >= (7, 0):  # tensor cores
        assert found["macs_per_s"]["fp16"] > 1.5 * found["macs_per_s"]["float32"]
    assert "int8" in found["macs_per_s"] or any(name.startswith("int8") for name in found["not_measured"])
    assert before - gpu.free_bytes() < 3 * 10**9, "blocks and matrices are given back; libraries keep theirs"


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["cuda", "tensorrt"])
def test_a_row_of_a_gpu_reaches_a_share_of_its_limit(tmp_path: Path, repository: Path, backend: str) -> None:
    pytest.importorskip("pycuda.driver")
    if not {"tensorrt": _has_tensorrt(), "cuda": CUDA}[backend]:
        pytest.skip(f"{backend} is not here")
    arguments = ["--backend", backend, "--precision", "fp16", "--rounds", "10", "--rate-seconds", "0", "--no-energy"]
    arguments += ["--batches", "1", "--beams", "3", "--images", str(repository / "examples" / "shepherd.jpg")]
    assert cli.main(["bench", *arguments, "--quiet", "--out", str(tmp_path)]) == 0
    report = schema.read(tmp_path / "report.json")
    (row,) = report.variants
    assert isinstance(row.roofline, dict), row.roofline
    assert 0 < row.roofline["caption"]["share"] <= 1
    assert row.roofline["encoder"]["macs"]["fp16"] > 0
    assert isinstance(report.roofline, dict)
    assert report.roofline["gpu"]["bytes_per_s"]


def _has_tensorrt() -> bool:
    try:
        from camscribe.runtime.tensorrt import versions

        versions.load(building=True)
    except EngineError:
        return False
    return True


def test_a_limit_is_not_that_of_a_bad_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def work() -> None:
        nonlocal now
        now += 0.02 if now < 0.6 else 0.01  # twice as slow for the first 0.6 s

    monkeypatch.setattr(roofline.time, "perf_counter", lambda: now)
    assert roofline._best(work) == pytest.approx(0.01)
