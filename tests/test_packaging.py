"""What is shipped: the wheel holds the four folders and nothing else, and works where nothing of ours is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

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
            if path.is_file() and "__pycache__" not in name and not name.startswith("benchmarks/results/"):
                expected.add(f"camscribe/{name}")
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert found == expected


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, repository: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", repository, tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    again = build("wheel", source, tmp_path)
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


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
    assert "dog" in done.stdout
    assert done.stderr == ""
