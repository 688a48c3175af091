"""The Makefile is the first thing a newcomer runs, often on a machine that lacks something."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(repository: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHON", "MAKEFLAGS", "MAKELEVEL"}}
    if path is not None:
        environment["PATH"] = path
    program = shutil.which("make")
    assert program is not None
    return subprocess.run(
        [program, "--no-print-directory", *arguments],
        cwd=repository, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_make_alone_lists_every_target(repository: Path) -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (repository / "Makefile").read_text(), re.MULTILINE)
    listed = re.findall(r"^  make (\S+) +\S", make(repository).stdout, re.MULTILINE)
    assert sorted(listed) == sorted(phony.split())


def script(folder: Path, name: str, body: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_an_old_python_is_refused_in_one_line(repository: Path, tmp_path: Path) -> None:
    old = script(tmp_path, "python-old", "exit 1")
    done = make(repository, f"DEMO={tmp_path / 'venv'}", f"PYTHON={old}", "demo")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "3.10 or newer" in line
    assert str(old) in line
    assert "make PYTHON=" in line


def test_a_python_without_venv_is_refused_in_one_line(repository: Path, tmp_path: Path) -> None:
    bare = script(tmp_path, "python-bare", 'case "$2" in *venv*) exit 1;; esac')
    done = make(repository, f"DEMO={tmp_path / 'venv'}", f"PYTHON={bare}", "demo")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"{bare} has no venv module" in line
    assert "python3-venv" in line


def test_the_first_recent_python_is_chosen(repository: Path, tmp_path: Path) -> None:
    for tool in ("find", "rm"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    script(tmp_path, "python3", "exit 1")
    script(tmp_path, "python3.12", 'case "$1" in --version) echo Python 3.12.99;; -m) exit 7;; esac')
    script(tmp_path, "python3.11", "exit 0")
    done = make(repository, f"DEMO={tmp_path / 'venv'}", "demo", path=str(tmp_path))
    assert done.stdout == f"== {tmp_path}/venv: virtual environment of Python 3.12.99\n"
    assert done.returncode == 2  # This one's venv module fails, and so does make.
