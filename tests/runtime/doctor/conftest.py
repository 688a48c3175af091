"""Machines that are described, so that the judges can be tried on what is not at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from camscribe.runtime.doctor.machine import Answer, Machine, Outcome, Package


@pytest.fixture
def describe(tmp_path: Path) -> Callable[..., Machine]:
    """``describe(files, programs, answers, packages, **facts)``: a machine of which only this is known."""

    def build(
        files: Mapping[str, str] | None = None,
        programs: Mapping[str, Outcome] | None = None,
        answers: Mapping[str, Answer] | None = None,
        packages: Sequence[Package] = (),
        **facts: Any,
    ) -> Machine:
        for name, content in (files or {}).items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

        def run(command: Sequence[str], seconds: float) -> Outcome:
            return (programs or {}).get(" ".join(command), Outcome(None))

        def ask(question: Sequence[str], seconds: float) -> Answer:
            missing = {"error": f"No module named {question[0]!r}", "kind": "ModuleNotFoundError"}
            modules = {"opencv": "cv2", "cuda_python": "cuda.bindings"}
            missing["missing"] = modules.get(question[0], question[0])
            return (answers or {}).get(" ".join(question), missing)

        return Machine(tmp_path, run, ask, tuple(packages), **facts)

    return build
