"""An enhancer's engines: frozen, compared, kept, and run on host memory with ONNX Runtime in the engines' place."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import runpy
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from PIL import Image

from camscribe.runtime import enhancer_network
from camscribe.runtime.cli import main
from camscribe.runtime.commands import build, build_enhancer
from camscribe.runtime.cuda import driver
from camscribe.runtime.enhancer import Enhancer
from camscribe.runtime.enhancer_bundle import DEFAULT_ENHANCER, EnhancerBundle
from camscribe.runtime.enhancer_network import FallbackNetwork
from camscribe.runtime.errors import EngineError, NoEngineError, OptionError, SourceError
from camscribe.runtime.tensorrt import enhancer_engines, enhancer_gate, sealed_file, versions
from camscribe.runtime.tensorrt import enhancer_network as tensorrt_network
from camscribe.runtime.tensorrt.engine_cache import EngineCache, EngineKey
from camscribe.runtime.tensorrt.enhancer_engines import (
    build_engine,
    graph_name,
    key_of,
    open_engine,
    sizes_of,
    sizes_there,
)
from camscribe.runtime.tensorrt.enhancer_network import EngineNetwork
from camscribe.runtime.tensorrt.freeze import freeze_graph
from camscribe.runtime.tensorrt.toolchain import TileEngine

EXAMPLES = Path(__file__).parents[3] / "examples"
PARSED = {"Add", "Cast", "Clip", "Concat", "Conv", "DepthToSpace", "Div", "Mul", "Pad", "Relu", "Sub", "Transpose"}
PARSED |= {"DequantizeLinear", "QuantizeLinear"}
"""What TensorRT's parser has read since 8.4, by its table of operators; 8 bits with a zero point of 0 only."""
HOST = runpy.run_path(str(Path(__file__).with_name("host_device.py")))


class HostMachine:
    """``Machine`` on host memory; an engine is the frozen graph, run by ONNX Runtime."""

    def __init__(self, specs: Mapping[str, Any], *, integrated: bool = False) -> None:
        self.specs, self.integrated, self.notes = specs, integrated, ()
        self.opened: dict[tuple[int, int], tuple[Any, dict[str, int]]] = {}
        self.devices: list[Any] = []
        self.inside = 0
        self.closed = self.failing = False

    @contextlib.contextmanager
    def current(self, doing: str) -> Iterator[None]:
        self.inside += 1
        try:
            if self.failing:
                raise EngineError(f"CUDA failed {doing}")
            yield
        finally:
            self.inside -= 1

    def open(self, engine: TileEngine, sizes: Mapping[str, int]) -> None:
        assert self.inside
        session = onnxruntime.InferenceSession(engine.data, providers=["CPUExecutionProvider"])
        self.opened[engine.key] = (session, dict(sizes))

    def device(self, *key: int) -> Any:
        assert self.inside
        session, sizes = self.opened[key]  # type: ignore[index]
        device = HOST["HostDevice"](
            self.specs, {"enhancer": session}, sizes, mapped=self.integrated, recorded=not self.integrated
        )
        self.devices.append(device)
        return device

    def synchronize(self) -> None:
        """The devices of an enhancer are waited for one by one."""

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def enhancer_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EnhancerBundle:
    """The shipped enhancer, to keep engines beside, and TensorRT's version 10.3.0."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(versions, "version", lambda trt=None: (10, 3, 0))
    shutil.copytree(DEFAULT_ENHANCER, tmp_path / "enhancer")
    return EnhancerBundle.load(tmp_path / "enhancer")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A small photograph, [61, 90, 3]."""
    return np.asarray(Image.open(EXAMPLES / "horses.jpg").convert("RGB").resize((90, 61), Image.Resampling.BOX))


@pytest.fixture(scope="module")
def alone() -> Enhancer:
    """The shipped enhancer in ONNX Runtime, in float32."""
    return Enhancer.load(backend="cpu", precision="float32")


def shift(model: onnx.ModelProto) -> None:
    """Makes every picture brighter."""
    weight = next(item for item in model.graph.initializer if "tail.bias" in item.name)
    value = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array((value + 0.1).astype(value.dtype), weight.name))


def frozen(bundle: EnhancerBundle, precision: str, height: int, width: int) -> bytes:
    graph = bundle.manifest.variants["psnr"][precision]
    return freeze_graph(bundle.path / graph.file, graph.external, sizes_of(bundle, height, width))


@pytest.mark.parametrize("precision", ["float32", "fp16", "int8"])
def test_an_engine_is_built_compared_and_kept(
    enhancer_bundle: EnhancerBundle, device: Any, make_toolchain: Any, precision: str
) -> None:
    layers = {"float32": "Float", "fp16": "Half", "int8": "Int8"}[precision]
    tools = make_toolchain(layers=layers)
    built = build_engine(enhancer_bundle, "gan", precision, 40, 48, device, toolchain=tools)
    assert built.new == ("gan-48x40",)
    assert built.verdict is not None
    assert built.verdict.problems == []
    assert [recipe.quantized for recipe in tools.recipes] == [precision == "int8"]
    path = built.files["gan-48x40"]
    assert path.name.startswith(f"gan-48x40-{precision}-b1-")
    notes = sealed_file.read_header(path)["notes"]
    assert notes["gate"]["psnr"] is None or notes["gate"]["psnr"] > 45
    assert notes["gate"]["pictures"] == 4  # of the parity image, 64x64
    assert open_engine(enhancer_bundle, "gan", precision, 40, 48, device) == built.engines
    again = build_engine(enhancer_bundle, "gan", precision, 40, 48, device, toolchain=tools)
    assert (again.engines, again.new, again.verdict) == (built.engines, (), None)
    assert build_engine(enhancer_bundle, "gan", precision, 40, 48, device, toolchain=tools, rebuild=True).new
    EnhancerBundle.load(enhancer_bundle.path)  # the bundle is as it was


def test_frozen_graphs_are_whole_and_typed_as_they_were(enhancer_bundle: EnhancerBundle) -> None:
    for precision in ("float32", "fp16", "int8"):
        model = onnx.load_from_string(frozen(enhancer_bundle, precision, 20, 30))
        onnx.checker.check_model(model, full_check=True)
        assert {node.op_type for node in model.graph.node} <= PARSED
        shapes = [
            [size.dim_value for size in item.type.tensor_type.shape.dim]
            for item in (*model.graph.input, *model.graph.output)
        ]
        assert shapes == [[1, 20, 30, 3], [1, 80, 120, 3]]
        assert not any(weight.external_data for weight in model.graph.initializer)
        assert TensorProto.UINT8 not in {weight.data_type for weight in model.graph.initializer}
        # TensorRT takes 8 bits of pixels as inputs and outputs only: beside them stands a cast.
        assert [node.op_type for node in model.graph.node if node.input[0] == "image"] == ["Cast"]
        assert [node.op_type for node in model.graph.node if node.output[0] == "enhanced"] == ["Cast"]
    half = onnx.load_from_string(frozen(enhancer_bundle, "fp16", 20, 30))
    kinds = {weight.data_type for weight in half.graph.initializer if len(weight.dims) == 4}
    assert kinds == {TensorProto.FLOAT16}


def test_an_engine_that_makes_another_picture_is_not_kept_and_the_old_one_stays(
    enhancer_bundle: EnhancerBundle, device: Any, toolchain: Any
) -> None:
    old = build_engine(enhancer_bundle, "psnr", "fp16", 64, 64, device, toolchain=toolchain)
    toolchain.damage = lambda recipe: shift
    with pytest.raises(EngineError, match=r"ONNX Runtime and are not used: the picture is 2\d\."):
        build_engine(enhancer_bundle, "psnr", "fp16", 64, 64, device, toolchain=toolchain, rebuild=True)
    with pytest.raises(EngineError, match=r"a pixel is \d+ levels off, expected at most 8"):
        build_engine(enhancer_bundle, "psnr", "fp16", 40, 40, device, toolchain=toolchain)
    assert sizes_there(enhancer_bundle, "psnr", "fp16", device) == [(64, 64)]
    assert open_engine(enhancer_bundle, "psnr", "fp16", 64, 64, device) == old.engines


def test_the_engines_that_are_there_are_found_by_variant_precision_and_gpu(
    enhancer_bundle: EnhancerBundle, device: Any, toolchain: Any
) -> None:
    for variant, height, width in (("psnr", 40, 48), ("psnr", 50, 60), ("gan", 44, 44)):
        build_engine(enhancer_bundle, variant, "fp16", height, width, device, toolchain=toolchain)
    assert sizes_there(enhancer_bundle, "psnr", "fp16", device) == [(50, 60), (40, 48)]
    assert sizes_there(enhancer_bundle, "gan", "fp16", device) == [(44, 44)]
    assert sizes_there(enhancer_bundle, "psnr", "float32", device) == []
    assert sizes_there(enhancer_bundle, "psnr", "fp16", replace(device, name="another")) == []
    assert sizes_there(enhancer_bundle, "psnr", "fp16", device, "8.6.1") == []
    damaged = EngineCache(enhancer_bundle).find(key_of(enhancer_bundle, "psnr", "fp16", 50, 60, device))
    assert damaged is not None
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert sizes_there(enhancer_bundle, "psnr", "fp16", device) == [(40, 48)]
    with pytest.raises(NoEngineError, match=r"it is truncated.*: run camscribe build .*--precision fp16 --tile 60x50$"):
        open_engine(enhancer_bundle, "psnr", "fp16", 50, 60, device)
    with pytest.raises(NoEngineError, match="no engine was built here for fp16 psnr-41x40, batch 1: run"):
        open_engine(enhancer_bundle, "psnr", "fp16", 40, 41, device)


def test_sizes_and_graphs_without_a_meaning_are_refused(enhancer_bundle: EnhancerBundle, device: Any) -> None:
    for height, width, message in ((7, 40, "tile is 40x7; expected 8x8"), (9000, 9000, "more than")):
        with pytest.raises(OptionError, match=message):
            key_of(enhancer_bundle, "psnr", "fp16", height, width, device)
    with pytest.raises(OptionError, match="variant is 'x'"):
        key_of(enhancer_bundle, "x", "fp16", 40, 40, device)
    with pytest.raises(OptionError, match="precision is 'fp8'"):
        enhancer_engines.precision_for(enhancer_bundle, "psnr", "fp8")
    assert enhancer_engines.precision_for(enhancer_bundle, "psnr", None) == "fp16"
    odd = EngineKey("0" * 64, "10.3.0", "gpu", "8.7", "fp16", graph_name("../psnr", 40, 40), 1, 0)
    assert "/" not in odd.file_name


@given(image=st.tuples(st.integers(8, 40), st.integers(8, 40)), height=st.integers(8, 90), width=st.integers(8, 90))
def test_the_gate_sees_the_whole_parity_image_in_every_size(image: tuple[int, int], height: int, width: int) -> None:
    pixels = np.arange(image[0] * image[1], dtype=np.uint16).reshape(*image, 1).repeat(3, 2)
    seen: set[int] = set()
    for picture in enhancer_gate.pictures(pixels, height, width):  # type: ignore[arg-type]
        assert picture.shape == (height, width, 3)
        seen |= set(picture[..., 0].ravel().tolist())
    assert seen == set(range(image[0] * image[1]))


def test_the_verdict_measures_what_it_says() -> None:
    image = np.full((16, 16, 3), 100, np.uint8)
    same = enhancer_gate.compare(image, lambda x: x, lambda x: x, 16, 16, enhancer_gate.LIMITS["float32"])
    assert (same.psnr, same.largest, same.problems) == (float("inf"), 0, [])
    assert json.loads(json.dumps(same.notes())) == {"pictures": 1, "psnr": None, "largest": 0}
    off = enhancer_gate.compare(image, lambda x: x, lambda x: x + np.uint8(10), 8, 8, enhancer_gate.LIMITS["fp16"])
    assert off.psnr == pytest.approx(10 * np.log10(255**2 / 100))
    assert (off.pictures, off.largest, len(off.problems)) == (4, 10, 2)
    assert str(off) == "float32's picture and the engine's are 28.1 dB apart, 10 levels at most"


def network_of(
    bundle: EnhancerBundle, sizes: list[tuple[int, int]], *, integrated: bool = False, build: bool = False
) -> tuple[EngineNetwork, HostMachine, list[tuple[int, int]]]:
    machine = HostMachine({"enhancer": bundle.manifest.variants["psnr"]["float32"]}, integrated=integrated)
    loaded: list[tuple[int, int]] = []

    def load(height: int, width: int) -> TileEngine:
        loaded.append((height, width))
        return TileEngine(frozen(bundle, "float32", height, width), height, width)

    made = (lambda height, width: load(min(height, 64), min(width, 64))) if build else None
    return EngineNetwork(bundle, machine, sizes, load, made, lambda *size: f"build {size}"), machine, loaded


@pytest.mark.parametrize("integrated", [False, True])
def test_pictures_are_those_of_onnx_runtime(
    enhancer_bundle: EnhancerBundle, photo: np.ndarray, alone: Enhancer, integrated: bool
) -> None:
    network, machine, loaded = network_of(enhancer_bundle, [(61, 90), (48, 40), (40, 48)], integrated=integrated)
    enhancer = Enhancer(enhancer_bundle, network, "psnr", alone.choice)
    for crop in (photo, photo[::-1], photo[:48, :40], photo[:50, :70], photo[:48], photo[4:44, 10:70], photo):
        found = enhancer.enlarge(np.ascontiguousarray(crop)).astype(int)
        expected = alone.enlarge(np.ascontiguousarray(crop)).astype(int)
        assert np.abs(found - expected).max() <= 1  # another size of tile, another order of sums
    assert loaded == [(61, 90), (48, 40), (40, 48)]
    assert [device.calls["upload"] > 0 for device in machine.devices] == [not integrated] * 3
    assert machine.devices[0].calls["replay"] == (0 if integrated else 2)  # the same picture again and another
    assert machine.inside == 0
    enhancer.close()
    assert machine.closed
    with pytest.raises(EngineError, match="this enhancer is closed"):
        network.run(photo[None])


def test_the_engine_that_computes_least_takes_an_image(enhancer_bundle: EnhancerBundle) -> None:
    network, _, loaded = network_of(enhancer_bundle, [(60, 80), (40, 40), (39, 39), (12, 12)])
    assert loaded == [(60, 80)]
    assert network.window(60, 80) == (60, 80)
    assert network.window(40, 40) == (40, 40)
    assert network.window(12, 12) == (12, 12)
    assert network.window(600, 800) == (60, 80)
    assert network.window(59, 80) == (40, 40)  # 39 leaves one row and column of a tile
    for size in ((20, 30), (38, 200), (12, 13)):
        with pytest.raises(NoEngineError, match=rf"no engine for an image of {size[1]} x {size[0]} pixels: build \("):
            network.window(*size)
    assert loaded == [(60, 80)]


def test_what_no_engine_fits_is_built_where_that_was_asked_for(
    enhancer_bundle: EnhancerBundle, photo: np.ndarray, alone: Enhancer
) -> None:
    network, _, loaded = network_of(enhancer_bundle, [(64, 64)], build=True)
    enhancer = Enhancer(enhancer_bundle, network, "psnr", alone.choice)
    small = np.ascontiguousarray(photo[:20, :30])
    for _ in range(2):
        assert np.abs(enhancer.enlarge(small).astype(int) - alone.enlarge(small).astype(int)).max() <= 1
    assert loaded == [(64, 64), (20, 30)]
    with pytest.raises(SourceError, match="takes 8 x 8 or more"):
        enhancer.enlarge(photo[:7])
    assert loaded == [(64, 64), (20, 30)]


def test_a_device_that_fails_is_one_line_and_can_be_used_again(
    enhancer_bundle: EnhancerBundle, photo: np.ndarray, alone: Enhancer
) -> None:
    network, machine, _ = network_of(enhancer_bundle, [(61, 90)])
    enhancer = Enhancer(enhancer_bundle, network, "psnr", alone.choice)
    machine.failing = True
    with pytest.raises(EngineError, match="CUDA failed enhancing"):
        enhancer.enlarge(photo)
    machine.failing = False
    assert enhancer.enlarge(photo).shape == (244, 360, 3)


def test_auto_goes_on_with_the_next_backend_when_a_device_fails_and_says_so_once(
    enhancer_bundle: EnhancerBundle, photo: np.ndarray, alone: Enhancer, caplog: pytest.LogCaptureFixture
) -> None:
    first, machine, _ = network_of(enhancer_bundle, [(61, 90)])
    second, other, _ = network_of(enhancer_bundle, [(61, 90)])
    network = FallbackNetwork(first, lambda: second)
    with Enhancer(enhancer_bundle, network, "psnr", alone.choice) as enhancer:
        expected = enhancer.enlarge(photo)
        machine.failing = True
        for _ in range(2):
            assert np.array_equal(enhancer.enlarge(photo), expected)
        assert [record.getMessage() for record in caplog.records] == [
            "camscribe: CUDA failed enhancing; the next fastest backend goes on"
        ]
        assert machine.closed
        other.failing = True
        with pytest.raises(EngineError, match="CUDA failed enhancing"):
            enhancer.enlarge(photo)


@pytest.fixture
def gpu(device: Any, toolchain: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine whose GPU is host memory: ``Enhancer.load`` and ``camscribe build`` take it for real."""
    monkeypatch.setattr(enhancer_network, "why_not", lambda name: None if name == "tensorrt" else f"no {name} here")
    monkeypatch.setattr(enhancer_network, "has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(driver, "device_info", lambda index=0: device)
    monkeypatch.setattr(enhancer_engines, "TensorRT", lambda: toolchain)
    monkeypatch.setattr(tensorrt_network, "CudaMachine", HostMachine)
    monkeypatch.setattr(build, "gpu_to_build_on", lambda: device)
    monkeypatch.setattr(build_enhancer, "gpu_to_build_on", lambda: device)
    return toolchain


@pytest.mark.usefixtures("gpu")
def test_auto_takes_engines_where_there_are_some(
    enhancer_bundle: EnhancerBundle,
    device: Any,
    toolchain: Any,
    photo: np.ndarray,
    alone: Enhancer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Enhancer.load(enhancer_bundle.path) as enhancer:
        assert enhancer.choice.backend == "cpu"
        assert enhancer.choice.surprising
        assert "psnr-384x384, batch 1: run camscribe build" in enhancer.choice.reasons[0]
        assert enhancer.choice.reasons[0].endswith("--tile 384x384, which makes pictures faster")
    build_engine(enhancer_bundle, "psnr", "fp16", 48, 48, device, toolchain=toolchain)
    with Enhancer.load(enhancer_bundle.path) as enhancer, caplog.at_level(logging.WARNING):
        assert (enhancer.choice.backend, enhancer.choice.precision) == ("tensorrt", "fp16")
        assert enhancer.choice.reasons == ("tensorrt: taken, the fastest that works here",)
        assert not enhancer.choice.surprising
        assert np.abs(enhancer.enlarge(photo).astype(int) - alone.enlarge(photo).astype(int)).max() <= 2
        small = np.ascontiguousarray(photo[:20, :30])
        for _ in range(2):
            assert enhancer.enlarge(small).shape == (80, 120, 3)
        enhancer.enlarge(photo)
    assert len(caplog.records) == 1
    assert "no engine for an image of 30 x 20 pixels: camscribe build" in caplog.text
    assert "--tile 30x20; the next fastest backend takes such images" in caplog.text
    with Enhancer.load(enhancer_bundle.path, variant="gan") as enhancer:
        assert enhancer.choice.backend == "cpu"


@pytest.mark.usefixtures("gpu")
def test_asked_for_it_builds_what_it_lacks_and_the_command_says_so(
    enhancer_bundle: EnhancerBundle, toolchain: Any, photo: np.ndarray, tmp_path: Path, capsys: Any
) -> None:
    Image.fromarray(photo).save(tmp_path / "photo.png")
    out = ["--out", str(tmp_path / "out"), "--bundle", str(enhancer_bundle.path), "--tile", "56"]
    assert main(["enhance", str(tmp_path / "photo.png"), *out, "--backend", "tensorrt", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["backend"], said["precision"], said["width"]) == ("tensorrt", "fp16", 360)
    assert len(toolchain.compiled) == 1
    assert main(["build", str(enhancer_bundle.path), "--variant", "gan", "--tile", "64", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["info", str(enhancer_bundle.path), "--check", "--backend", "tensorrt", "--precision", "fp16"]) == 0
    assert "check: gan fp16 on tensorrt: 1 levels at most" in capsys.readouterr().out


@pytest.mark.usefixtures("gpu")
def test_the_command_builds_every_variant_and_tile(
    enhancer_bundle: EnhancerBundle, toolchain: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["build", str(enhancer_bundle.path), "--quiet", "--tile", "48x40", "44"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for name in ("psnr-48x40", "psnr-44x44", "gan-48x40", "gan-44x44"):
        assert f"{name}: {enhancer_bundle.path}.engines" in text
    assert text.count("compared with ONNX Runtime: float32's picture and the engine's are 6") == 4
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("was there") == 4
    assert len(toolchain.compiled) == 4
    assert main([*arguments[:3], "--variant", "gan", "--tile", "45", "--json"]) == 0
    (made,) = json.loads(capsys.readouterr().out)["builds"]
    assert (made["built"], made["gate"]["largest"]) == (["gan-45x45"], 1)
    for wrong, message in (
        (["--tile", "48*40"], "--tile is '48*40'; expected columns x rows, such as 320x180"),
        (["--tile", "7"], "tile is 7x7; expected 8x8"),
        (["--variant", "x"], "variant is 'x'; enhancer 'enhancer-x4' has gan, psnr"),
        (["--beams", "3"], "--batch and --beams are a captioner's"),
        (["--workspace", "0"], "--workspace is 0"),
    ):
        assert main(["build", str(enhancer_bundle.path), *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main(["build", "--tile", "48"]) == 2
    assert "--variant and --tile are an enhancer's" in capsys.readouterr().err
    monkeypatch.setattr(build_enhancer, "TILES", ())
    assert main(["build", "enhancer"]) == 0  # the one that comes along


def test_what_int8_costs_is_said_as_it_was_measured(enhancer_bundle: EnhancerBundle) -> None:
    lines = list(build_enhancer._int8_loss(enhancer_bundle, ["psnr", "gan"]))
    assert lines[0] == "int8 of psnr on set5_x4: 31.28 dB, float32 31.29 dB, measured on a CPU"
    assert len(lines) == 2
    for quality in ({}, {"psnr": 3}, {"psnr": {"int8": {"x": 1}, "float32": {}}}):
        unknown = replace(enhancer_bundle, manifest=replace(enhancer_bundle.manifest, quality=quality))
        assert "was not measured" in next(build_enhancer._int8_loss(unknown, ["psnr"]))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "float32", "int8"])
def test_tensorrt_builds_and_runs_the_shipped_enhancer(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: np.ndarray, alone: Enhancer
) -> None:
    try:
        importlib.import_module("tensorrt")
        info = driver.device_info()
    except (ImportError, EngineError) as error:
        pytest.skip(f"no TensorRT to build with: {error}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    shutil.copytree(DEFAULT_ENHANCER, tmp_path / "enhancer")
    bundle = EnhancerBundle.load(tmp_path / "enhancer")
    built = build_engine(bundle, "psnr", precision, 48, 56, info)
    assert built.verdict is not None
    assert built.verdict.problems == []
    allowed = enhancer_gate.LIMITS[precision].largest
    with Enhancer.load(bundle.path, "tensorrt", precision) as enhancer:
        for _ in range(3):  # plain, recorded, replayed
            found = enhancer.enlarge(photo).astype(int)
            assert np.abs(found - alone.enlarge(photo).astype(int)).max() <= allowed
    with Enhancer.load(bundle.path, precision=precision) as enhancer:
        assert enhancer.choice.backend == "tensorrt"
