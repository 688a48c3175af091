"""The machine, as the doctor reads it: files, programs, installed packages, and imports in child processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from camscribe.runtime.doctor.probes import main; main(sys.argv[2:])"
)
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Outcome:
    """What a program did."""

    status: int | None
    """Exit status, negative for a signal; None when it is not there or was ended for taking too long."""
    out: str = ""
    err: str = ""
    timed_out: bool = False

    @property
    def lines(self) -> list[str]:
        """Lines of both outputs."""
        return [*self.out.splitlines(), *self.err.splitlines()]


@dataclass(frozen=True)
class Package:
    """An installed Python package."""

    name: str
    """As packages are compared: lower case, with hyphens."""
    version: str
    folder: str
    """Where it is installed. Two packages in one folder may overwrite each other."""
    requires: tuple[str, ...] = ()


Answer = dict[str, Any]
"""What a probe found out, or ``{"error": "why it could not"}``."""
Run = Callable[[Sequence[str], float], Outcome]
Ask = Callable[[Sequence[str], float], Answer]


@dataclass(frozen=True)
class Machine:
    """Everything the doctor asks about a machine goes through here, so that a test can describe one."""

    root: Path
    run: Run
    """Runs a program with at most so many seconds."""
    ask: Ask
    """Calls a function of ``probes`` in a child process with at most so many seconds."""
    packages: tuple[Package, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    python: str = "3.11.0"
    architecture: str = "x86_64"
    system: str = "Linux"

    @classmethod
    def here(cls) -> Machine:
        """The machine this runs on."""
        import platform

        return cls(
            Path("/"),
            run,
            ask,
            tuple(installed_packages()),
            dict(os.environ),
            platform.python_version(),
            platform.machine(),
            platform.system(),
        )

    def path(self, name: str) -> Path:
        """Where ``/name`` is."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str | None:
        """The beginning of a small file, None where there is none that can be read."""
        try:
            with self.path(name).open("rb") as file:
                return file.read(_READ_BYTES).decode("utf-8", errors="replace").strip("\0\n ")
        except (OSError, ValueError):
            return None

    def exists(self, *names: str) -> bool:
        """Whether any of these is there."""
        for name in names:
            with contextlib.suppress(OSError):
                if self.path(name).exists():
                    return True
        return False

    def names(self, folder: str, pattern: str) -> list[str]:
        """Sorted names in a folder, as in ``video0``."""
        try:
            return sorted(path.name for path in self.path(folder).glob(pattern))
        except OSError:
            return []

    def package(self, *names: str) -> Package | None:
        """The first of these packages that is installed."""
        for name in names:
            for package in self.packages:
                if package.name == name:
                    return package
        return None


def run(command: Sequence[str], seconds: float) -> Outcome:
    """Runs a program and ends it, with all that it started, when it takes too long."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except (OSError, ValueError):
        return Outcome(None)
    timed_out = False
    with process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            timed_out = True
            _end(process)
            out, err = process.communicate()
        except BaseException:
            _end(process)
            raise
    status = None if timed_out else process.returncode
    return Outcome(status, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"), timed_out)


def ask(question: Sequence[str], seconds: float) -> Answer:
    """Calls a probe in a child process, where it may crash, hang or print what it likes."""
    outcome = run([sys.executable, "-c", _CHILD, json.dumps(sys.path), *question], seconds)
    if outcome.timed_out:
        return {"error": f"did not finish within {seconds:.0f} seconds"}
    if outcome.status is None:
        return {"error": "Python cannot be started again"}
    if outcome.status < 0:
        return {"error": f"crashed ({_signal(-outcome.status)})"}
    try:
        answer = json.loads(outcome.out.splitlines()[-1])
    except (ValueError, IndexError):
        last = outcome.err.strip().splitlines()[-1:] or [f"exit status {outcome.status}"]
        return {"error": f"failed ({last[0]:.300})"}
    return answer if isinstance(answer, dict) else {"error": "failed"}


def installed_packages() -> list[Package]:
    """Every package that Python finds here, in the order of its search path."""
    import importlib.metadata
    import re

    found = []
    for distribution in importlib.metadata.distributions():
        with contextlib.suppress(Exception):  # metadata of a half-removed package may be anything
            name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
            folder = str(distribution.locate_file(""))
            found.append(Package(name, distribution.version, folder, tuple(distribution.requires or ())))
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
