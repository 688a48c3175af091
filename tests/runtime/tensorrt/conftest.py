"""Toy bundles with more than float32, and a toolchain whose engines are the frozen graphs, run by ONNX Runtime."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from camscribe.runtime.bundle import DEFAULT_BUNDLE, Bundle, write_bundle
from camscribe.runtime.manifest import GraphPair, GraphSpec
from camscribe.runtime.onnxruntime_executor import OnnxRuntimeExecutor, open_session
from camscribe.runtime.tensorrt import audit, builder, gate
from camscribe.runtime.tensorrt.plan import fixed_shape
from camscribe.runtime.tensorrt.toolchain import EnginePair

Change = Callable[[onnx.ModelProto], None]


@dataclass(frozen=True)
class Device:
    """What ``camscribe.runtime.cuda.driver.DeviceInfo`` says of a GPU."""

    name: str = "NVIDIA Test"
    compute_capability: tuple[int, int] = (8, 7)
    total_bytes: int = 8 << 30
    integrated: bool = False


def with_precision(
    bundle: Bundle, folder: Path, precision: str, change_encoder: Change, change_decoder: Change
) -> Bundle:
    """A copy of a bundle with one precision more, whose graphs are changed copies of the float32 ones."""
    pair = bundle.manifest.precisions["float32"]
    made = GraphPair(
        *(replace(spec, file=f"{spec.file}.{precision}", external=()) for spec in (pair.encoder, pair.decoder))
    )
    with write_bundle(folder) as draft:
        for name in bundle.manifest.files:
            shutil.copy(bundle.path / name, draft.folder / name)
        for graph, spec, change in (
            ("encoder", made.encoder, change_encoder),
            ("decoder", made.decoder, change_decoder),
        ):
            model = onnx.load(str(bundle.graph("float32", graph)))
            change(model)
            (draft.folder / spec.file).write_bytes(model.SerializeToString())
        draft.finish(
            replace(bundle.manifest, precisions={**bundle.manifest.precisions, precision: made}), bundle.vocabulary
        )
    return Bundle.load(folder)


def scale_weights(factor: float) -> Change:
    """Multiplies every matrix of a graph."""

    def change(model: onnx.ModelProto) -> None:
        for weight in model.graph.initializer:
            value = numpy_helper.to_array(weight)
            if value.dtype.kind == "f" and value.ndim == 2:
                weight.CopyFrom(numpy_helper.from_array((value * factor).astype(value.dtype), weight.name))

    return change


class OnnxToolchain:
    """A ``Toolchain`` whose engines are the frozen graphs, which ONNX Runtime runs."""

    def __init__(self, version: str = "10.3.0", layers: str = "Half", typings: Sequence[bool] = (True,)) -> None:
        self.version = version
        self.recipes: list[builder.Recipe] = []
        self.compiled: list[str] = []
        self.damage: Callable[[builder.Recipe], Change | None] = lambda recipe: None
        """What a build does to a graph that it should not."""
        self._layers = layers
        self._typings = typings

    def typings(self, precision: str) -> Sequence[bool]:
        return self._typings

    def compile(self, data: bytes, name: str, recipe: builder.Recipe, report: builder.Report) -> builder.Built:
        self.recipes.append(recipe)
        self.compiled.append(name)
        report("building", 0.5)
        change = self.damage(recipe)
        if change is not None:
            model = onnx.load_from_string(data)
            change(model)
            data = model.SerializeToString()
        return builder.Built(data, b"timings of " + self.version.encode())

    def audit(self, engine: bytes) -> audit.Audit:
        tensors = [{"Name": "x", "Location": "Device", "Dimensions": [1], "Format/Datatype": self._layers}]
        layer = {"Name": "all", "LayerType": "gemm", "Inputs": tensors, "Outputs": tensors}
        return audit.read(json.dumps({"Layers": [layer], "Bindings": []}))

    @contextlib.contextmanager
    def side(self, bundle: Bundle, precision: str, engines: EnginePair) -> Iterator[gate.Side]:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            frozen = replace(bundle, path=Path(folder))
            for graph, data in (("encoder", engines.encoder), ("decoder", engines.decoder)):
                frozen.graph(precision, graph).write_bytes(data)
            sessions = [open_session(frozen.graph(precision, graph), "cpu") for graph in ("encoder", "decoder")]
            executor = OnnxRuntimeExecutor(frozen, precision, "cpu")
            yield gate.Side(*map(gate.SessionRunner, sessions), executor)
            executor.close()

    @contextlib.contextmanager
    def runner(self, engine: bytes, graph: GraphSpec, sizes: Mapping[str, int]) -> Iterator[gate.SessionRunner]:
        session = onnxruntime.InferenceSession(engine, providers=["CPUExecutionProvider"])
        for spec, found in zip(
            (*graph.inputs, *graph.outputs), (*session.get_inputs(), *session.get_outputs()), strict=True
        ):
            assert (found.name, tuple(found.shape)) == (spec.name, fixed_shape(spec, sizes))
        yield gate.SessionRunner(session)


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def toolchain() -> OnnxToolchain:
    return OnnxToolchain()


@pytest.fixture
def make_toolchain() -> type[OnnxToolchain]:
    return OnnxToolchain


@pytest.fixture(scope="session")
def add_precision() -> Callable[..., Bundle]:
    """``with_precision``"""
    return with_precision


@pytest.fixture(scope="session")
def scaled() -> Callable[[float], Change]:
    """``scale_weights``"""
    return scale_weights


@pytest.fixture
def bundle(tmp_path: Path, make_toy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A toy bundle of its own, with fp16 graphs that are float32 ones, and a user's cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    toy = Bundle.load(make_toy(tmp_path / "toy32"))
    return with_precision(toy, tmp_path / "toy", "fp16", lambda model: None, lambda model: None)


@pytest.fixture
def copy_bundle() -> Callable[[Path], Bundle]:
    """Copies the bundle that comes with the package to a folder."""

    def copy(folder: Path) -> Bundle:
        if not DEFAULT_BUNDLE.exists():
            pytest.skip("this checkout has no bundled model")
        shutil.copytree(DEFAULT_BUNDLE, folder)
        return Bundle.load(folder)

    return copy
