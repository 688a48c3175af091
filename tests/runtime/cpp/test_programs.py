"""Programs in C and C++: under sanitizers, on an emulated GPU, and built against an installed libcamscribe."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camscribe.runtime.bundle import DEFAULT_BUNDLE, Bundle
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.images import read
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.tensorrt.engine_cache import EngineCache, EngineKey, graph_sha256
from camscribe.runtime.tensorrt.plan import fixed_shape

OPTIONS: tuple[dict[str, Any], ...] = ({}, {"beams": 5, "nbest": 3}, {"max_words": 7, "nbest": 2, "stop": "first_k"})


def run(command: Sequence[str | Path], **options: Any) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-6000:]}"
    return done.stdout


def write_group(
    folder: Path, path: Path, backend: str, precision: str, images: Sequence[Pixels], options: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What api_test reads: images, options, and what Python finds."""
    cases = []
    with Captioner.load(path, backend="cpu", precision=precision) as captioner:
        for index, image in enumerate(images):
            file = folder / f"{path.name}-{precision}-{index}.rgb"
            np.ascontiguousarray(image).tofile(file)
            for changes in options:
                found = captioner.caption(image, "rgb", **changes)
                keys = ("text", "log_prob", "truncated")
                sentences = [{key: getattr(item, key) for key in keys} for item in found.hypotheses]
                shape = {"file": str(file), "width": image.shape[1], "height": image.shape[0], "format": 1}
                boxes = [] if found.boxes is None else found.boxes.tolist()
                cases.append({**shape, "options": changes, "hypotheses": sentences, "boxes": boxes})
    return {"bundle": str(path), "backend": backend, "precision": precision, "cases": cases}


def engine_of(bundle: Bundle, graph: str, beams: int) -> bytes:
    """What the emulated TensorRT takes for an engine: the graph's file, and its tensors with fixed sizes."""
    pair = bundle.manifest.precisions["float32"]
    spec = pair.encoder if graph == "encoder" else pair.decoder
    rows, columns = bundle.manifest.attention_grid
    sizes = {"B": 1, "K": beams, "P": rows * columns, "V": bundle.manifest.vocabulary_size}
    tensors = [
        {"name": item.name, "dtype": item.dtype, "shape": fixed_shape(item, sizes), "input": item in spec.inputs}
        for item in (*spec.inputs, *spec.outputs)
    ]
    return json.dumps({"onnx": str(bundle.path / spec.file), "tensors": tensors}).encode()


def build_engines(bundle: Bundle, beams: int) -> None:
    """What ``camscribe build`` leaves in the cache, for the emulated GPU."""
    for graph, width in (("encoder", 0), ("decoder", beams)):
        digest = graph_sha256(bundle, "float32", graph)  # type: ignore[arg-type]
        key = EngineKey(digest, "10.3.0", "NVIDIA Test", "8.7", "float32", graph, 1, width)  # type: ignore[arg-type]
        EngineCache(bundle).store(key, engine_of(bundle, graph, beams))


@pytest.fixture(scope="module")
def emulated_bundle(make_toy: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A toy with engines for 3 and 5 beams."""
    bundle = Bundle.load(make_toy(tmp_path_factory.mktemp("emulated") / "toy"))
    for beams in (3, 5):
        build_engines(bundle, beams)
    return bundle


@pytest.fixture(scope="module")
def emulated_boxes(make_toy: Callable[..., Path], boxes_toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A toy that attends to boxes, with engines for 3 and 5 beams."""
    bundle = Bundle.load(make_toy(tmp_path_factory.mktemp("emulated") / "boxes", boxes_toy))
    for beams in (3, 5):
        build_engines(bundle, beams)
    return bundle


@pytest.fixture(scope="module")
def cases(
    repository: Path,
    emulated_bundle: Bundle,
    emulated_boxes: Bundle,
    toy: Any,
    toy_bundle: Bundle,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    photographs = [read(path) for path in sorted((repository / "examples").glob("*.jpg"))]
    toys = [*toy.images(4), toy.images(1).repeat(3, axis=1)[0]]
    groups = [
        write_group(folder, toy_bundle.path, "cpu", "float32", toys, OPTIONS),
        write_group(folder, DEFAULT_BUNDLE, "cpu", "int8", photographs, OPTIONS[:1]),
        write_group(folder, DEFAULT_BUNDLE, "cpu", "float32", photographs[:3], OPTIONS[1:]),
    ]
    (folder / "cases.json").write_text(json.dumps(groups))
    emulated = [
        write_group(folder, bundle.path, "tensorrt", "float32", toys, [*OPTIONS, {"poll": 3}])
        for bundle in (emulated_bundle, emulated_boxes)
    ]
    (folder / "emulated.json").write_text(json.dumps(emulated))
    return folder


def test_programs_are_clean_under_sanitizers(sanitized_build: Path, cases: Path) -> None:
    """All programs, the TensorRT executor on an emulated card and an emulated Jetson among them, by CTest."""
    run(["cmake", f"-DCAMSCRIBE_CASES={cases}", sanitized_build])
    said = run(["ctest", "--output-on-failure", "--no-tests=error"], cwd=sanitized_build)
    assert "100% tests passed" in said
    assert len(re.findall(r"Passed", said)) == 4


def test_the_sanitizers_see_something(sanitized_build: Path, repository: Path, tmp_path: Path) -> None:
    """The same flags on a program that is wrong: else a clean run would prove nothing."""
    (tmp_path / "wrong.cpp").write_text(
        "int main(int n, char**) { int* p = new int[n]; int x = p[n]; delete[] p; return x; }"
    )
    flags = re.search(r"CMAKE_CXX_FLAGS:[A-Z]*=(.*)", (sanitized_build / "CMakeCache.txt").read_text())
    assert flags is not None
    run(["c++", *flags[1].split(), tmp_path / "wrong.cpp", "-o", tmp_path / "wrong"])
    done = subprocess.run([tmp_path / "wrong"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


EMULATED = """
import ctypes, sys
sys.path.insert(0, {tests!r})
import conftest
library = conftest.Library({library!r})
captioner = library.load({bundle!r}, {backend!r})
import numpy as np
image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
texts = {{captioner.caption(conftest.image_of(image), **{options!r}).sentences[0].text for _ in range(4)}}
print(captioner.info().backend.decode(), library.c.camscribe_emulated_launches(), *sorted(texts), sep="|")
print(captioner.info().reasons.decode())
"""


@pytest.fixture
def emulate(
    sanitized_build: Path, emulated_bundle: Bundle, onnxruntime_root: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Captions one image four times with the library on the emulated GPU, in a process with the sanitizer."""
    # Python has no C++ library of its own, and the sanitizer looks for it when it starts.
    needed = ("libasan.so", "libstdc++.so")
    runtime = " ".join(run(["c++", f"-print-file-name={name}"]).strip() for name in needed)

    def call(
        backend: str = "tensorrt", options: dict[str, Any] | None = None, bundle: Path | None = None, **environment: str
    ) -> Any:
        program = EMULATED.format(
            tests=str(Path(__file__).parent),
            library=str(sanitized_build / "runtime" / "cpp" / "tests" / "libcamscribe_emulated.so"),
            bundle=str(bundle or emulated_bundle.path),
            backend=backend,
            options=options or {},
        )
        return subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", **environment},
        )

    return call


def test_the_emulated_gpu_replays_graphs_or_does_without(emulate: Any, emulated_bundle: Bundle) -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    with Captioner.load(emulated_bundle.path, backend="cpu") as captioner:
        expected = captioner.caption(image, "rgb").text
    for environment in ({}, {"CAMSCRIBE_EMULATED_JETSON": "1"}, {"CAMSCRIBE_EMULATED_NO_GRAPHS": "1"}):
        done = emulate(**environment)
        assert done.returncode == 0, done.stderr
        backend, launches, *texts = done.stdout.splitlines()[0].split("|")
        assert (backend, texts) == ("tensorrt", [expected])
        assert (int(launches) > 0) == ("CAMSCRIBE_EMULATED_NO_GRAPHS" not in environment)


def test_auto_takes_tensorrt_where_it_can_and_hands_on_what_it_cannot(emulate: Any, emulated_bundle: Bundle) -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    with Captioner.load(emulated_bundle.path, backend="cpu") as captioner:
        expected = captioner.caption(image, "rgb", beams=2).text
    done = emulate("auto", {"beams": 2})  # no engine was built for two beams
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split("|") == ["tensorrt", "0", expected]
    for environment, reason in (("NO_GPU", "there is no NVIDIA GPU here"), ("FULL", "GPU memory ran out")):
        done = emulate("auto", **{f"CAMSCRIBE_EMULATED_{environment}": "1"})
        if environment == "NO_GPU":
            assert done.stdout.startswith("cpu|")
            assert reason in done.stdout
        else:
            assert reason in done.stderr


def test_boxes_are_found_anew_for_each_image_and_steps_replayed(emulate: Any, emulated_boxes: Bundle) -> None:
    """TensorRT waits for the number of boxes, which cannot be recorded; and RoiAlign lies in its library of plugins."""
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    with Captioner.load(emulated_boxes.path, backend="cpu") as captioner:
        expected = captioner.caption(image, "rgb").text
    done = emulate(bundle=emulated_boxes.path)
    assert done.returncode == 0, done.stderr
    backend, launches, *texts = done.stdout.splitlines()[0].split("|")
    assert (backend, texts) == ("tensorrt", [expected])
    assert int(launches) > 0
    done = emulate(bundle=emulated_boxes.path, CAMSCRIBE_EMULATED_NO_PLUGINS="1")
    assert "TensorRT's library of plugins, which captions with boxes need, cannot be used" in done.stderr
    assert "install libnvinfer-plugin10" in done.stderr


def test_tensorrt_says_what_is_missing(emulate: Any) -> None:
    done = emulate("tensorrt", {"beams": 2})
    assert "no engine was built here for float32 decoder, batch 1, 2 beams: run camscribe build" in done.stderr


@pytest.fixture(scope="module")
def installed(plain_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("prefix")
    run(["cmake", "--install", plain_build, "--prefix", prefix])
    return prefix


def test_the_example_builds_against_what_is_installed_and_captions(
    installed: Path, repository: Path, tmp_path: Path
) -> None:
    example = tmp_path / "example"
    run(["cmake", "-S", repository / "examples" / "cpp", "-B", example, f"-DCMAKE_PREFIX_PATH={installed}"])
    run(["cmake", "--build", example])
    picture = repository / "examples" / "shepherd.jpg"
    Image.fromarray(read(picture)).save(tmp_path / "picture.ppm")
    said = run([example / "caption", DEFAULT_BUNDLE, tmp_path / "picture.ppm"]).splitlines()
    with Captioner.load(backend="cpu") as captioner:
        expected = captioner.caption(picture, nbest=3)
    assert [line.split("  ", 1)[1] for line in said[:3]] == [item.text for item in expected.hypotheses]
    assert [line.split(":")[0] for line in said[3:]] == list(expected.words)
    wrong = subprocess.run([example / "caption", DEFAULT_BUNDLE, picture], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert "is not a binary PPM" in wrong.stderr


def test_the_example_is_as_short_as_promised(repository: Path) -> None:
    assert len((repository / "examples" / "cpp" / "caption.cpp").read_text().splitlines()) <= 40


def test_other_versions_are_not_taken_for_it(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.22)\nproject(x LANGUAGES NONE)\nfind_package(camscribe 0.9 REQUIRED)\n"
    )
    done = subprocess.run(
        ["cmake", "-S", tmp_path, "-B", tmp_path / "b", f"-DCMAKE_PREFIX_PATH={installed}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "version: 0.1.0" in done.stderr


def test_pkg_config_knows_it(installed: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("no pkg-config")
    (folder,) = {path.parent for path in installed.rglob("camscribe.pc")}
    said = run(["pkg-config", "--libs", "camscribe"], env={**os.environ, "PKG_CONFIG_PATH": str(folder)})
    assert "-lcamscribe" in said


def test_only_the_c_interface_is_exported(plain_build: Path, repository: Path) -> None:
    library = plain_build / "runtime" / "cpp" / "libcamscribe.so"
    if shutil.which("nm") is None:
        pytest.skip("no nm")
    exported = {line.split()[-1] for line in run(["nm", "-D", "--defined-only", library]).splitlines()}
    header = (repository / "runtime" / "cpp" / "include" / "camscribe" / "camscribe.h").read_text()
    declared = set(re.findall(r"CAMSCRIBE_API [^;(]*?(camscribe_\w+)\(", header))
    ours = {name for name in exported if name.startswith("camscribe_")}
    assert ours == declared
    assert not [name for name in exported if "camscribe" in name and name not in ours]


def test_an_onnx_runtime_that_is_missing_or_too_old_is_told(
    plain_build: Path, toy_bundle: Bundle, tmp_path: Path
) -> None:
    """In processes of their own, as a process loads it once. The old one is a stand-in that knows no API of ours."""
    (tmp_path / "old.c").write_text(
        """
        struct Base { const void* (*GetApi)(unsigned); const char* (*GetVersionString)(void); };
        static const void* api(unsigned version) { (void)version; return 0; }
        static const char* version(void) { return "1.12.0"; }
        static const struct Base base = {api, version};
        const struct Base* OrtGetApiBase(void) { return &base; }
        """
    )
    run(["cc", "-shared", "-fPIC", tmp_path / "old.c", "-o", tmp_path / "libold.so"])
    run(["cc", "-shared", "-fPIC", "-x", "c", "/dev/null", "-o", tmp_path / "libother.so"])
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import conftest; from pathlib import Path\n"
        "conftest.Library(Path(sys.argv[2])).load(Path(sys.argv[3]))"
    )
    for name, words in (
        ("libold.so", "ONNX Runtime 1.12.0 is too old; this libcamscribe was compiled with the headers of 1."),
        ("libother.so", "is not ONNX Runtime's library"),
        ("libnone.so", "ONNX Runtime cannot be loaded"),
    ):
        library = plain_build / "runtime" / "cpp" / "libcamscribe.so"
        done = subprocess.run(
            [sys.executable, "-c", program, Path(__file__).parent, library, toy_bundle.path],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "CAMSCRIBE_ONNXRUNTIME": str(tmp_path / name)},
        )
        assert words in done.stderr


def test_ctypes_structs_have_the_sizes_of_the_header(repository: Path, tmp_path: Path, onnxruntime_root: Path) -> None:
    names = ("load_options", "info", "image", "options", "hypothesis", "trace", "timings")
    prints = "".join(f'printf("%zu\\n", sizeof(camscribe_{name}));' for name in names)
    (tmp_path / "sizes.c").write_text(
        f"#include <camscribe/camscribe.h>\n#include <stdio.h>\nint main(void){{{prints}}}"
    )
    run(["cc", f"-I{repository}/runtime/cpp/include", tmp_path / "sizes.c", "-o", tmp_path / "sizes"])
    sizes = dict(zip(names, map(int, run([tmp_path / "sizes"]).split()), strict=True))
    # These are the ABI: a change of one is a change of CAMSCRIBE_ABI_VERSION, unless it grew at its end.
    pointer = ctypes.sizeof(ctypes.c_void_p)
    assert pointer != 8 or sizes == {
        "load_options": 40,
        "info": 96,
        "image": 56,
        "options": 64,
        "hypothesis": 72,
        "trace": 72,
        "timings": 48,
    }
