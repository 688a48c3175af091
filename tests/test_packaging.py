"""What is shipped: the wheel holds the four folders and nothing else, and works where nothing of ours is installed."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterable, Sequence
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.slow

FOLDERS = ("train", "export", "runtime", "benchmarks")
NO_INDEX = re.compile(
    r"No matching distribution found|Could not find a version|NewConnectionError|Max retries exceeded"
)


def run(command: Sequence[str | Path], **options: object) -> subprocess.CompletedProcess[str]:
    """Runs a command away from this checkout's environment variables."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment.update(options.pop("env", {}))  # type: ignore[call-overload]
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [str(word) for word in command], capture_output=True, text=True, env=environment, check=False, **options
    )


def build(kind: str, source: Path, out: Path) -> Path:
    """Builds a ``wheel`` or an ``sdist`` with an empty PATH: no compiler, no CMake, no git to lean on."""
    done = run(
        [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", out, source],
        env={"PATH": str(out)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", repository, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_runs_on_every_machine(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")


def test_the_wheel_holds_every_file_of_the_four_folders_and_nothing_else(wheel: Path, repository: Path) -> None:
    expected = {"camscribe/__init__.py", "camscribe/py.typed"}
    for folder in FOLDERS:
        for path in (repository / folder).rglob("*"):
            name = path.relative_to(repository).as_posix()
            if (
                path.is_file()
                and "__pycache__" not in name
                and not name.startswith(("benchmarks/results/", "runtime/cpp/"))
            ):
                expected.add(f"camscribe/{name}")
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert found == expected


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, repository: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", repository, tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    again = build("wheel", source, tmp_path)
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


PYTHONS = ("3.10", "3.11", "3.12", "3.13")
EXTRAS = (
    *("cpu", "cuda", "tensorrt", "jetson", "ray", "train", "export", "peers", "web", "dev"),
    *("ros2", "zenoh", "mcap", "bag", "robot"),
)


class Extras:
    """What the wheel's extras install, the extras that they name included."""

    def __init__(self, wheel: Path) -> None:
        archive = zipfile.ZipFile(wheel)
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
        self.names = set(metadata.get_all("Provides-Extra", []))
        self._requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]

    def requirements(self, extras: Iterable[str], python: str) -> list[Requirement]:
        """What ``camscribe[extras]`` requires with a version of Python."""
        waiting, seen, found = ["", *extras], set(), []
        while waiting:
            extra = waiting.pop()
            if extra in seen:
                continue
            seen.add(extra)
            environment = {"extra": extra, "python_version": python}
            for requirement in self._requirements:
                needs_extra = requirement.marker is not None and "extra" in str(requirement.marker)
                if needs_extra == (extra == "") or (
                    requirement.marker is not None and not requirement.marker.evaluate(environment)
                ):
                    continue
                if requirement.name == "camscribe":
                    waiting += requirement.extras
                else:
                    found.append(requirement)
        return found

    def installs(self, extras: Iterable[str], python: str = "3.12") -> set[str]:
        """Names of what ``camscribe[extras]`` requires."""
        return {requirement.name.lower() for requirement in self.requirements(extras, python)}


@pytest.fixture(scope="module")
def extras(wheel: Path) -> Extras:
    return Extras(wheel)


def documented_combinations(repository: Path) -> set[tuple[str, ...]]:
    """Every ``.[a,b]`` and ``camscribe[a,b]`` that a document, the Makefile or a message of the runtime names."""
    sources = [repository / "README.md", repository / "Makefile", *repository.glob("docs/**/*.md")]
    sources += [path for folder in FOLDERS for path in (repository / folder).rglob("*.py")]
    found = set()
    for path in sources:
        for names in re.findall(
            r"""(?:["'` ]\.|camscribe)\[([a-z]+(?:,[a-z]+)*)\]""", path.read_text(encoding="utf-8")
        ):
            found.add(tuple(names.split(",")))
    return found


def test_the_extras_are_the_documented_ones(extras: Extras) -> None:
    assert extras.names == set(EXTRAS)


def test_the_base_installation_is_small(extras: Extras) -> None:
    assert extras.installs(()) == {"numpy", "pillow"}


@pytest.mark.parametrize("python", PYTHONS)
def test_no_documented_combination_has_both_onnx_runtimes(extras: Extras, repository: Path, python: str) -> None:
    combinations = documented_combinations(repository)
    assert {("cpu",), ("cuda",), ("tensorrt",), ("jetson",), ("train", "export"), ("dev",)} <= combinations
    for combination in combinations | {(extra,) for extra in EXTRAS}:
        assert set(combination) <= extras.names, combination
        assert not {"onnxruntime", "onnxruntime-gpu"} <= extras.installs(combination, python), combination


def test_onnx_runtime_comes_with_every_extra_that_runs_captions(extras: Extras) -> None:
    for extra in ("cpu", "cuda", "tensorrt", "jetson"):
        assert extras.installs((extra,)) & {"onnxruntime", "onnxruntime-gpu"}
    # The test would see a pair that clashes.
    assert {"onnxruntime", "onnxruntime-gpu"} <= extras.installs(("cpu", "cuda"))


@pytest.mark.parametrize("python", PYTHONS)
def test_a_jetson_keeps_jetpack_s_tensorrt_and_opencv(extras: Extras, python: str) -> None:
    names = extras.installs(("jetson",), python)
    assert {"pycuda", "cuda-python"} <= names
    assert not [
        name for name in names if name.startswith(("tensorrt", "opencv", "nvidia-", "torch", "onnxruntime-gpu"))
    ]
    (bindings,) = (item for item in extras.requirements(("jetson",), python) if item.name == "cuda-python")
    # JetPack 6 has Python 3.10 and CUDA 12; JetPack 7 has Python 3.12 and CUDA 13.
    assert bindings.specifier.contains("12.9.10") == (python == "3.10")
    assert bindings.specifier.contains("13.4.4") == (python != "3.10")


def test_what_runs_on_a_device_brings_nothing_of_the_training_side(extras: Extras) -> None:
    for extra, python in itertools.product(("cpu", "cuda", "tensorrt", "jetson"), PYTHONS):
        names = extras.installs((extra,), python)
        assert not names & {"torch", "torchvision", "onnx", "onnxscript", "matplotlib", "pycocoevalcap"}


@pytest.fixture(scope="module")
def clean_bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of a new virtual environment that holds the wheel with its extra ``cpu`` and nothing else."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    done = run([programs / "python", "-m", "pip", "install", "--quiet", f"camscribe[cpu] @ {wheel.as_uri()}"])
    if done.returncode and NO_INDEX.search(done.stderr):
        pytest.skip("the package index cannot be reached from here")
    assert done.returncode == 0, done.stderr
    return programs


def test_a_clean_installation_has_no_training_library(clean_bin: Path) -> None:
    listed = run([clean_bin / "python", "-m", "pip", "list", "--format", "freeze"]).stdout
    names = {line.split("==")[0].lower() for line in listed.splitlines()}
    assert "camscribe" in names
    assert not names & {"torch", "torchvision", "onnx", "tensorrt", "pycuda", "matplotlib"}


def test_a_clean_installation_tells_its_version(clean_bin: Path, wheel: Path, tmp_path: Path) -> None:
    done = run([clean_bin / "camscribe", "--version"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["camscribe", wheel.name.split("-")[1]]


def test_a_clean_installation_captions_a_photograph(
    clean_bin: Path, wheel: Path, repository: Path, tmp_path: Path
) -> None:
    done = run([clean_bin / "camscribe", "caption", repository / "examples" / "shepherd.jpg"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "shepherd" in done.stdout
    assert done.stderr == ""
