"""From a bundle to checked engines in the cache, with ONNX Runtime in TensorRT's place; with a GPU TensorRT itself."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import EngineError, OptionError
from camscribe.runtime.tensorrt import engines, sealed_file
from camscribe.runtime.tensorrt.engine_cache import EngineCache
from camscribe.runtime.tensorrt.engines import build_engines, first_that_works, keys_of, open_engines


def files(bundle: Bundle) -> list[str]:
    return sorted(path.name for path in EngineCache(bundle).folders[0].iterdir())


def test_engines_are_built_compared_and_kept(bundle: Bundle, device: Any, toolchain: Any) -> None:
    told: list[tuple[str, float]] = []
    built = build_engines(
        bundle, "fp16", 2, 3, device, toolchain=toolchain, progress=lambda phase, share: told.append((phase, share))
    )
    assert built.new == ("encoder", "decoder")
    assert built.verdict is not None
    assert built.verdict.same_captions == built.verdict.images == 8
    assert built.audits["encoder"].layers == {"half": 1}
    assert ("encoder: building", 0.5) in told
    assert told[-1][0] == "comparing with ONNX Runtime"
    assert math.isnan(told[-1][1])
    names = files(bundle)
    assert [name.partition("-fp16")[0] for name in names] == [
        "decoder",
        "encoder",
        "timings-10.3.0-NVIDIA_Test-8.7.cache",
    ]
    notes = sealed_file.read_header(built.files["decoder"])["notes"]
    assert notes["layers"] == {"half": 1}
    assert notes["gate"]["same_captions"] == 8
    keys = keys_of(bundle, "fp16", 2, 3, device, "10.3.0")
    cache = EngineCache(bundle)
    assert cache.read(keys["encoder"]) == built.engines.encoder
    assert cache.read(keys["decoder"]) == built.engines.decoder


def test_what_is_there_is_not_built_again(bundle: Bundle, device: Any, toolchain: Any) -> None:
    first = build_engines(bundle, "fp16", 1, 3, device, toolchain=toolchain)
    again = build_engines(bundle, "fp16", 1, 3, device, toolchain=toolchain)
    assert (again.engines, again.new, again.verdict) == (first.engines, (), None)
    assert len(toolchain.compiled) == 2
    more = build_engines(bundle, "fp16", 1, 2, device, toolchain=toolchain)  # the encoder knows no beams
    assert more.new == ("decoder",)
    assert more.engines.encoder == first.engines.encoder
    assert build_engines(bundle, "fp16", 1, 3, device, toolchain=toolchain, rebuild=True).new == ("encoder", "decoder")


def test_the_second_build_begins_with_the_timings_of_the_first(bundle: Bundle, device: Any, toolchain: Any) -> None:
    build_engines(bundle, "fp16", 1, 3, device, toolchain=toolchain)
    assert [recipe.timing_cache for recipe in toolchain.recipes] == [b"", b"timings of 10.3.0"]
    path = EngineCache(bundle).folders[0] / "timings-10.3.0-NVIDIA_Test-8.7.cache"
    path.write_bytes(path.read_bytes()[:-1])
    build_engines(bundle, "fp16", 2, 3, device, toolchain=toolchain)
    assert toolchain.recipes[2].timing_cache == b""  # damaged, so not used


def test_a_shared_memory_is_not_used_up(bundle: Bundle, device: Any, toolchain: Any) -> None:
    build_engines(bundle, "fp16", 1, 3, replace(device, integrated=True), toolchain=toolchain)
    assert toolchain.recipes[0].workspace_bytes == 2 << 30
    build_engines(bundle, "fp16", 2, 3, device, toolchain=toolchain, workspace_bytes=1 << 20)
    assert toolchain.recipes[-1].workspace_bytes == 1 << 20


def test_engines_that_do_not_pass_are_not_stored_and_the_old_ones_stay(
    bundle: Bundle, device: Any, toolchain: Any, scaled: Any
) -> None:
    old = build_engines(bundle, "fp16", 1, 3, device, toolchain=toolchain)
    before = {path: path.read_bytes() for path in old.files.values()}
    toolchain.damage = lambda recipe: scaled(1.5)
    with pytest.raises(EngineError, match="the engines differ from ONNX Runtime and are not used"):
        build_engines(bundle, "fp16", 1, 3, device, toolchain=toolchain, rebuild=True)
    with pytest.raises(EngineError, match="are not used"):
        build_engines(bundle, "fp16", 2, 3, device, toolchain=toolchain)
    assert {path: path.read_bytes() for path in old.files.values()} == before
    assert len([name for name in files(bundle) if name.endswith(".engine")]) == 2


def test_an_engine_that_is_not_in_half_precision_is_not_stored(
    bundle: Bundle, device: Any, make_toolchain: Any
) -> None:
    with pytest.raises(EngineError, match="computes no layer in half"):
        build_engines(bundle, "fp16", 1, 3, device, toolchain=make_toolchain(layers="Float"))
    assert not [name for name in files(bundle) if name.endswith(".engine")]


def test_of_a_pair_in_int8_one_graph_may_have_stayed_in_float32(
    bundle: Bundle, device: Any, make_toolchain: Any, add_precision: Any, tmp_path: Path
) -> None:
    def quantise_attention(model: onnx.ModelProto) -> None:
        steps = [("scale8", np.float32(0.005)), ("zero8", np.uint8(100))]
        model.graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in steps)
        names = [name for name, _ in steps]
        at = next(index for index, node in enumerate(model.graph.node) if node.op_type == "Tanh")
        source = model.graph.node[at].input[0]
        model.graph.node[at].input[0] = "restored"
        model.graph.node.insert(at, helper.make_node("DequantizeLinear", ["quantised", *names], ["restored"]))
        model.graph.node.insert(at, helper.make_node("QuantizeLinear", [source, *names], ["quantised"]))

    both = add_precision(bundle, tmp_path / "int8", "int8", lambda model: None, quantise_attention)
    tools = make_toolchain(layers="Float")
    with pytest.raises(EngineError, match=r"decoder\.onnx\.int8: TensorRT computes no layer in int8"):
        build_engines(both, "int8", 1, 3, device, toolchain=tools)
    assert [recipe.quantized for recipe in tools.recipes] == [False, True]


def test_where_strong_typing_computes_wrong_flags_are_tried(
    bundle: Bundle, device: Any, make_toolchain: Any, scaled: Any
) -> None:
    tools = make_toolchain(typings=(True, False))
    tools.damage = lambda recipe: scaled(1.5) if recipe.strong else None
    told: list[str] = []
    built = build_engines(
        bundle, "fp16", 1, 3, device, toolchain=tools, progress=lambda phase, share: told.append(phase)
    )
    assert built.strong is False
    assert [recipe.strong for recipe in tools.recipes] == [True, True, False, False]
    assert any("strongly typed engines did not pass" in line for line in told)
    assert sealed_file.read_header(built.files["encoder"])["notes"]["strongly_typed"] is False


def test_the_last_way_to_build_gives_the_error() -> None:
    def attempt(strong: bool) -> None:
        raise EngineError(f"strong is {strong}")

    with pytest.raises(EngineError, match="strong is False"):
        first_that_works([True, False], attempt, lambda phase, share: None)


def test_an_unwritable_cache_is_noticed_before_the_build(
    bundle: Bundle, device: Any, toolchain: Any, tmp_path: Path
) -> None:
    EngineCache(bundle).folders[0].write_text("in the way")
    (tmp_path / "user").write_text("in the way")
    with pytest.raises(EngineError, match="engines can be written neither"):
        build_engines(bundle, "fp16", 1, 3, device, toolchain=toolchain)
    assert toolchain.compiled == []


def test_a_missing_engine_is_told_with_the_command_that_builds_it(
    bundle: Bundle, device: Any, toolchain: Any, make_toolchain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines.versions, "version", lambda trt=None: (10, 3, 0))
    with pytest.raises(EngineError, match="no engine was built here for fp16 encoder, batch 1; no engine") as caught:
        open_engines(bundle, "fp16", 1, 3, device, build=False)
    assert str(caught.value).endswith(f"run camscribe build {bundle.path} --precision fp16 --batch 1 --beams 3")
    build_engines(bundle, "fp16", 1, 3, device, toolchain=make_toolchain("8.6.1"))
    with pytest.raises(EngineError, match=r"was built for TensorRT 8\.6\.1; this is TensorRT 10\.3\.0"):
        open_engines(bundle, "fp16", 1, 3, device, build=False)
    built = build_engines(bundle, "fp16", 1, 3, device, toolchain=toolchain)
    assert open_engines(bundle, "fp16", 1, 3, device, build=False) == built.engines


@pytest.mark.parametrize(("images", "beams"), [(0, 3), (1, 0), (1025, 3), (1, 65)])
def test_sizes_without_a_meaning_are_refused(bundle: Bundle, device: Any, images: int, beams: int) -> None:
    with pytest.raises(OptionError, match="expected 1 to"):
        keys_of(bundle, "fp16", images, beams, device, "10.3.0")


def test_a_precision_that_the_bundle_lacks_is_refused(bundle: Bundle, device: Any) -> None:
    with pytest.raises(OptionError, match="has float32, fp16"):
        keys_of(bundle, "int8", 1, 3, device, "10.3.0")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "float32"])
def test_the_bundled_model_is_built_by_tensorrt(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy_bundle: Callable[[Path], Bundle]
) -> None:
    try:
        importlib.import_module("tensorrt")
        driver = importlib.import_module("camscribe.runtime.cuda.driver")
        info = driver.device_info()
    except (ImportError, EngineError) as error:
        pytest.skip(f"no TensorRT to build with: {error}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    bundle = copy_bundle(tmp_path / "bundle")
    if precision not in bundle.manifest.precisions:
        pytest.skip(f"the bundled model has no {precision} graphs")
    built = build_engines(bundle, precision, 1, 3, info)
    assert built.verdict is not None
    assert built.verdict.problems == []
    if precision == "fp16":
        assert built.audits["encoder"].share("half") > 0.5
    assert open_engines(bundle, precision, 1, 3, info, build=False) == built.engines
