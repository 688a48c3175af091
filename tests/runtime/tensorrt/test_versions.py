"""Version branches, and what is said where TensorRT or a GPU is missing."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from camscribe.runtime.errors import EngineError
from camscribe.runtime.tensorrt import versions
from camscribe.runtime.tensorrt.builder import typings
from camscribe.runtime.tensorrt.messages import is_memory_error, why_refused


def module(version: str) -> ModuleType:
    made = ModuleType("tensorrt")
    made.__version__ = version  # type: ignore[attr-defined]
    return made


def test_layers_that_lie_in_a_library_of_their_own_are_registered_once() -> None:
    """RoiAlign does; without it neither the parser nor an engine knows that layer."""
    trt, calls = module("10.3.0"), []
    trt.ILogger = type("ILogger", (), {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2})  # type: ignore[attr-defined]
    trt.init_libnvinfer_plugins = lambda *arguments: calls.append(arguments)  # type: ignore[attr-defined]
    for _ in range(2):
        versions.register_plugins(trt)
    assert calls == [(versions.logger(trt), "")]
    versions.register_plugins(module("10.3.0"))  # as tensorrt_lean, which has no such library


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("8.6.0", (8, 6, 0)),
        ("8.6.1.post1", (8, 6, 1)),
        ("10.13.3.9", (10, 13, 3)),
        ("11.4.0.106", (11, 4, 0)),
        ("10.3", (10, 3, 0)),
    ],
)
def test_versions_are_read(written: str, expected: versions.Version) -> None:
    assert versions.version(module(written)) == expected


def test_a_module_without_a_version_is_refused() -> None:
    with pytest.raises(EngineError, match="calls its version 'next'"):
        versions.version(module("next"))


@pytest.mark.parametrize(
    ("number", "jetson", "words"),
    [
        ((8, 4, 1), False, "too old; expected 8.5 or later"),
        ((8, 4, 1), True, "use JetPack 6 or later"),
        ((7, 1, 3), False, "too old"),
        ((11, 0, 0), True, "does not support Jetson"),
        ((11, 4, 0), True, "does not support Jetson"),
    ],
)
def test_unsupported_versions_are_refused_with_the_remedy(number: Any, jetson: bool, words: str) -> None:
    with pytest.raises(EngineError, match=words) as caught:
        versions.check_supported(number, jetson=jetson)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "jetson"),
    [
        ((8, 5, 0), False),
        ((8, 6, 2), True),
        ((10, 3, 0), True),
        ((10, 13, 3), True),
        ((11, 4, 1), True),
        ((11, 0, 0), False),
        ((11, 4, 0), False),
    ],
)
def test_supported_versions_pass(number: Any, jetson: bool) -> None:
    versions.check_supported(number, jetson=jetson)


@pytest.mark.parametrize(
    ("number", "precision", "expected"),
    [
        ((8, 6, 1), "fp16", [False]),
        ((10, 0, 1), "fp16", [True, False]),
        ((10, 11, 0), "int8", [True, False]),
        ((10, 3, 0), "float32", [True]),
        ((10, 12, 0), "fp16", [True]),
        ((11, 4, 0), "fp16", [True]),
    ],
)
def test_precision_is_said_in_the_way_each_version_understands(number: Any, precision: str, expected: Any) -> None:
    assert typings(number, precision) == expected


def test_a_member_is_none_where_the_version_lacks_it() -> None:
    trt = module("11.4.0")
    assert versions.member(trt, "BuilderFlag.FP16") is None
    trt.BuilderFlag = SimpleNamespace(__members__={"TF32": 7})  # type: ignore[attr-defined]
    assert versions.member(trt, "BuilderFlag.TF32") == 7


def test_a_missing_tensorrt_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_lean", "tensorrt_dispatch"):
        monkeypatch.setitem(sys.modules, name, None)
    for building in (True, False):
        with pytest.raises(
            EngineError,
            match=r"nvidia-jetpack\), elsewhere: pip uninstall onnxruntime, then pip install \"camscribe\[tensorrt\]\"",
        ) as caught:
            versions.load(building=building)
        assert "\n" not in str(caught.value)


def test_the_lean_runtime_runs_engines_but_builds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_lean", module("11.4.0.106"))
    assert versions.version(versions.load()) == (11, 4, 0)
    with pytest.raises(EngineError, match="cannot be imported"):
        versions.load(building=True)


def test_without_a_driver_nothing_of_tensorrt_is_called() -> None:
    """TensorRT 8.6's Runtime takes the process down there, so a child asks."""
    code = """
import ctypes
from camscribe.runtime.errors import EngineError
from camscribe.runtime.tensorrt import versions
def missing(name): raise OSError(name)
ctypes.CDLL = missing
try:
    versions.deserialize(None, b"x")
except EngineError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs an NVIDIA GPU with its driver" in done.stdout


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            "1: [stdArchiveReader.cpp::StdArchiveReader::40] Error Code 1: Serialization (Serialization assertion "
            "stdVersionRead == serializationVersion failed.Version tag does not match. Note: Current Version: 213, "
            "Serialized Engine Version: 205)",
            "another version of TensorRT, this is 10.3.0",
        ),
        (
            "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion magicTagRead == "
            "kMAGIC_TAG failed.Trying to load an engine created with incompatible serialization version. Check that "
            "the engine was not created using safety runtime, same OS was used and version compatibility parameters "
            "were set accordingly.)",
            "another version of TensorRT, this is 10.3.0",
        ),
        (
            "6: The engine plan file is not compatible with this version of TensorRT, expecting library version "
            "8.6.2.3 got 8.6.1.6, please rebuild.",
            "another version of TensorRT",
        ),
        (
            "The engine plan file is generated on an incompatible device, expecting compute 7.5 got compute 8.6, "
            "please rebuild.",
            "another GPU",
        ),
        (
            "1: [runtime.cpp::parsePlan::314] Error Code 1: Serialization (Serialization assertion "
            "plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.)",
            "truncated or damaged",
        ),
        (
            "Requested amount of GPU memory (1073741824 bytes) could not be allocated: out of memory",
            "too little memory",
        ),
        (
            "1: [pluginV2Runner.cpp::load::300] Error Code 1: Serialization (Serialization assertion creator "
            "failed.Cannot deserialize plugin since corresponding IPluginCreator not found in Plugin Registry)",
            "TensorRT's library of plugins, which is not here",
        ),
        ("something new", "does not load the engine (something new)"),
        ("", "it does not say why"),
    ],
)
def test_what_tensorrt_logs_of_a_refused_engine_is_understood(lines: str, words: str) -> None:
    said = why_refused([lines] if lines else [], "10.3.0")
    assert words in said
    assert any(
        remedy in said for remedy in ("camscribe build", "close other programs", "install the whole of TensorRT")
    )


def test_too_little_memory_is_recognised() -> None:
    assert is_memory_error(
        ["2: [virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory (Requested 9)"]
    )
    assert is_memory_error(["CUDA runtime: cudaErrorMemoryAllocation"])
    assert not is_memory_error(["Error Code 9: API Usage Error"])
