"""The import arrows: train imports runtime; export imports train and runtime; benchmarks imports runtime; no others."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ALLOWED = {
    "runtime": {"runtime"},
    "train": {"train", "runtime"},
    "export": {"export", "train", "runtime"},
    "benchmarks": {"benchmarks", "runtime"},
}
HEAVY = (
    *("torch", "torchvision", "onnx", "onnxscript", "tensorrt", "pycuda", "cuda", "pycocoevalcap", "matplotlib"),
    *("ray", "pyarrow"),
)
ROBOT = ("cyclonedds", "zenoh", "mcap", "rosbags")


def modules(package: Path) -> list[str]:
    """Dotted names of all modules of a folder."""
    names = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def imported(path: Path, module: str, *, also_in_functions: bool = True) -> Iterator[str]:
    """Absolute names that a source file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if also_in_functions else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            yield from ([f"{node.module}.{alias.name}" for alias in node.names] if node.module else [])


@pytest.mark.parametrize("package", ALLOWED)
def test_sources_import_only_what_their_layer_may(repository: Path, package: str) -> None:
    wrong = []
    for path in sorted((repository / package).rglob("*.py")):
        for name in imported(path, str(path)):
            first, _, rest = name.partition(".")
            layer = rest.partition(".")[0]
            if first == "camscribe" and layer in ALLOWED and layer not in ALLOWED[package]:
                wrong.append(f"{path.relative_to(repository)} imports {name}")
            if first in ALLOWED:
                wrong.append(f"{path.relative_to(repository)} imports {name}, a second copy of camscribe.{first}")
    assert wrong == []


_IMPORTER = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
for name in {names!r}:
    importlib.import_module("camscribe." + name)
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_runtime_imports_where_nothing_of_the_training_side_is_installed(repository: Path) -> None:
    run(_IMPORTER.format(blocked=HEAVY, names=modules(repository / "runtime")))


def test_the_runtime_imports_even_without_opencv_and_onnx_runtime(repository: Path) -> None:
    """A Jetson may bring neither; what needs one says so when it is used."""
    run(_IMPORTER.format(blocked=(*HEAVY, *ROBOT, "cv2", "onnxruntime", "PIL"), names=modules(repository / "runtime")))
