"""Every TensorRT name that our code touches, against the real modules of both ends of the range and between.

``api.json`` is what ``collect_api.py`` recorded of them. Where a TensorRT can be imported, it is asked itself, too; the
extra ``dev`` has its lean runtime, which needs no GPU for that.
"""

from __future__ import annotations

import ast
import importlib
import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from camscribe.runtime.tensorrt import versions
from camscribe.runtime.tensorrt.messages import messages
from camscribe.runtime.tensorrt.versions import MEMBERS, ONLY_IN, Version

HERE = Path(__file__).parent
LEAN = "lean-11.4.0.106"
OBJECTS = {
    "builder": "Builder",
    "cache": "ITimingCache",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "kept": "ITimingCache",
    "layer": "ILayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "problem": "ParserError",
    "runtime": "Runtime",
    "tensor": "ITensor",
}
"""What the variables of these names are, where TensorRT's objects are used."""
FILES = {
    "audit.py": {"engine", "inspector"},
    "builder.py": set(OBJECTS),
    "device.py": {"context", "engine", "runtime", "inspector"},
    "executor.py": {"context", "engine", "inspector"},
    "runner.py": {"context", "engine"},
    "versions.py": {"builder", "config", "engine", "layer", "network", "runtime", "tensor"},
}
"""The files that use them, and which of the names mean them there."""
RUNS_ENGINES = ("runner.py", "executor.py", "device.py")
"""Files that must do with the lean runtime, which has no builder."""


def table() -> dict[str, set[str]]:
    """Names by version."""
    recorded = json.loads((HERE / "api.json").read_text())
    return {
        version: {name for name, has in recorded["names"].items() if has[index] == "x"}
        for index, version in enumerate(recorded["versions"])
    }


TABLE = table()
FULL = [version for version in TABLE if version != LEAN]


def number(version: str) -> Version:
    major, minor, patch = map(int, version.split(".")[:3])
    return major, minor, patch


def touched(path: Path) -> Iterator[str]:
    """``Class.name`` and ``Enum.MEMBER`` of all of TensorRT that a source file uses."""
    known = FILES[path.name]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("member", "versions.member"):
            if isinstance(node.args[1], ast.Constant):
                yield str(node.args[1].value)
            continue
        if not isinstance(node, ast.Attribute):
            continue
        chain = [node.attr]
        value: ast.expr = node.value
        while isinstance(value, ast.Attribute):
            chain.append(value.attr)
            value = value.value
        if isinstance(value, ast.Name):
            chain.append(value.id)
        chain = chain[::-1]
        if chain[0] == "self":
            chain = chain[1:]
        root = chain[0].lstrip("_")
        if root == "trt" and len(chain) > 1:
            yield ".".join(chain[1:3])
        elif root in known and len(chain) > 1:
            yield f"{OBJECTS[root]}.{chain[1]}"


def sources(repository: Path) -> list[Path]:
    folder = repository / "runtime" / "tensorrt"
    return [folder / name for name in FILES if (folder / name).exists()]


def is_there(name: str, names: set[str]) -> bool:
    return name in names or name.endswith(".__init__") or name == "__version__"


def test_the_recorded_modules_span_the_versions_we_claim() -> None:
    assert number(FULL[0])[:2] == (8, 6)
    assert number(FULL[-1])[:2] == (11, 4)
    assert {"10.3.0", LEAN} <= set(TABLE)  # that of JetPack 6.2, and a runtime without a builder


def test_the_sources_touch_what_we_think(repository: Path) -> None:
    """Guards the collection itself: it finds the calls that a reader finds."""
    found = {name for path in sources(repository) for name in touched(path)}
    assert {
        "Builder.build_serialized_network",
        "BuilderFlag.TF32",
        "EngineInspector.get_engine_information",
        "IBuilderConfig.set_memory_pool_limit",
        "ICudaEngine.create_execution_context",
        "IExecutionContext.execute_async_v3",
        "ILayer.precision",
        "ILogger.WARNING",
        "INetworkDefinition.get_layer",
        "IProgressMonitor",
        "OnnxParser.parse",
        "ParserError.desc",
        "Runtime.deserialize_cuda_engine",
    } <= found


@pytest.mark.parametrize("version", FULL)
def test_every_name_we_touch_is_in_every_version_that_we_touch_it_in(repository: Path, version: str) -> None:
    missing = []
    for path in sources(repository):
        for name in sorted(set(touched(path))):
            since, until = ONLY_IN.get(name) or MEMBERS.get(name) or (versions.OLDEST, (99, 0, 0))
            if since <= number(version) < until and not is_there(name, TABLE[version]):
                missing.append(f"{path.name}: {name}")
    assert missing == []


def test_what_not_all_versions_have_is_touched_in_one_file_only(repository: Path) -> None:
    wrong = [
        f"{path.name}: {name}"
        for path in sources(repository)
        for name in touched(path)
        if path.name != "versions.py" and name in ONLY_IN
    ]
    assert wrong == []


@pytest.mark.parametrize("version", FULL)
def test_the_tables_of_what_comes_and_goes_are_exact(version: str) -> None:
    wrong = [
        name
        for name, (since, until) in {**MEMBERS, **ONLY_IN}.items()
        if not name.endswith("__init__") and (name in TABLE[version]) != (since <= number(version) < until)
    ]
    assert wrong == []


def test_names_taken_by_a_computed_string_are_in_the_table() -> None:
    for name in versions._UNTOUCHED_LAYERS:
        assert f"LayerType.{name}" in MEMBERS
    for name in ("CUBLAS", "CUBLAS_LT", "CUDNN"):
        assert f"TacticSource.{name}" in MEMBERS


def test_running_an_engine_needs_nothing_that_the_lean_runtime_lacks(repository: Path) -> None:
    found = {name for path in sources(repository) if path.name in RUNS_ENGINES for name in touched(path)}
    assert found
    assert [name for name in sorted(found) if not is_there(name, TABLE[LEAN])] == []


MODULES = ("tensorrt", "tensorrt_lean_bindings")
"""The whole of TensorRT, and the module of its lean runtime as the wheel on the package index has it."""


@pytest.fixture(params=MODULES)
def trt(request: pytest.FixtureRequest) -> ModuleType:
    try:
        module = importlib.import_module(request.param)
    except Exception as error:  # its own loader raises more than ImportError when a library is missing
        pytest.skip(f"{request.param} cannot be imported here: {error}")
    return module


def test_the_module_that_is_here_has_what_was_recorded_for_its_version(trt: ModuleType) -> None:
    found = runpy.run_path(str(HERE / "collect_api.py"))["names"](trt)
    here, lean = versions.version(trt), not hasattr(trt, "Builder")
    for name, (since, until) in MEMBERS.items():
        if lean and name.partition(".")[0] not in found:
            continue  # an enum that only building needs
        assert (name in found) == (since <= here < until), name
        assert (versions.member(trt, name) is not None) == (since <= here < until), name
    recorded = TABLE.get(f"{'lean-' if lean else ''}{trt.__version__}")
    assert recorded is None or recorded == found


def test_the_module_that_is_here_has_all_that_running_an_engine_touches(trt: ModuleType, repository: Path) -> None:
    found = runpy.run_path(str(HERE / "collect_api.py"))["names"](trt)
    touches = {name for path in sources(repository) if path.name in RUNS_ENGINES for name in touched(path)}
    assert [name for name in sorted(touches) if not is_there(name, found)] == []


def test_types_of_the_module_that_is_here_have_numpys_names(trt: ModuleType) -> None:
    names = [versions.dtype_name(getattr(trt.DataType, name)) for name in ("FLOAT", "HALF", "INT32", "UINT8")]
    assert names == ["float32", "float16", "int32", "uint8"]


def test_the_logger_of_the_module_that_is_here_keeps_warnings_for_our_messages(trt: ModuleType) -> None:
    messages().clear()
    logger = versions.logger(trt)
    logger.log(trt.ILogger.INFO, "of no interest")
    logger.log(trt.ILogger.ERROR, "two\nlines")
    assert list(messages().lines) == ["two lines"]
    assert logger is versions.logger(trt)
