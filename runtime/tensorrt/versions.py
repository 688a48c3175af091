"""The one home of everything that differs between TensorRT's versions, from 8.5 to 11.

Everything else in this folder calls only what every one of these versions has. Members of enums that come and go stand
in ``MEMBERS``, with the versions that have them; a test compares that table with the real modules.
"""

from __future__ import annotations

import functools
import importlib
import platform
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from camscribe.runtime.errors import EngineError

Version = tuple[int, int, int]
Typing = Literal["flags", "either", "strong"]

OLDEST = (8, 5, 0)
_INSTALL = (
    "on a Jetson it comes with JetPack (apt install python3-libnvinfer), elsewhere: pip install tensorrt-cu12 (or -cu13)"
)
_NEVER: Version = (99, 0, 0)
MEMBERS: dict[str, tuple[Version, Version]] = {
    "BuilderFlag.FP16": (OLDEST, (11, 0, 0)),
    "BuilderFlag.INT8": (OLDEST, (11, 0, 0)),
    "BuilderFlag.OBEY_PRECISION_CONSTRAINTS": (OLDEST, (11, 0, 0)),
    "BuilderFlag.TF32": (OLDEST, _NEVER),
    "MemoryPoolType.WORKSPACE": (OLDEST, _NEVER),
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": (OLDEST, (11, 0, 0)),
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": ((10, 0, 0), _NEVER),
    "ProfilingVerbosity.DETAILED": (OLDEST, _NEVER),
    "TacticSource.CUBLAS": (OLDEST, (11, 0, 0)),
    "TacticSource.CUBLAS_LT": (OLDEST, (11, 0, 0)),
    "TacticSource.CUDNN": (OLDEST, (11, 0, 0)),
}
"""Members that our code takes by name: from the first version on that has them, until the first that does not."""


def load(*, building: bool = False) -> ModuleType:
    """The ``tensorrt`` module, imported on first use; ``tensorrt_lean`` or ``tensorrt_dispatch`` where it is missing.

    Args:
        building: only the full module will do, as the others cannot build.

    Raises:
        EngineError: it is missing, does not load, or is a version that is not supported, with the remedy.
    """
    problems = []
    for name in ("tensorrt",) if building else ("tensorrt", "tensorrt_lean", "tensorrt_dispatch"):
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            problems.append(f"{name}: {' '.join(str(error).split()):.200}")
        else:
            _check_supported(version(module), jetson=is_jetson())
            return module
    # The first is the one to install; why its stand-ins are missing as well helps nobody.
    raise EngineError(f"TensorRT cannot be imported ({problems[0]}): {_INSTALL}")


def version(trt: ModuleType | None = None) -> Version:
    """Version of a TensorRT module, None for the one that ``load`` gives.

    Raises:
        EngineError: see ``load``; or the module has no version that can be read.
    """
    text = str((load() if trt is None else trt).__version__)
    parts = [part for part in text.split(".")[:3] if part.isdigit()]
    if len(parts) < 2:
        raise EngineError(f"TensorRT calls its version {text!r}; expected numbers such as 10.3.0: {_INSTALL}")
    major, minor, patch = (*map(int, parts), 0)[:3]
    return major, minor, patch


def text(number: Version) -> str:
    """``10.3.0``."""
    return ".".join(map(str, number))


def is_jetson() -> bool:
    """Whether this machine is an NVIDIA Jetson."""
    if platform.machine() != "aarch64":
        return False
    try:
        compatible = Path("/proc/device-tree/compatible").read_bytes()
    except OSError:
        compatible = b""
    return b"nvidia,tegra" in compatible or Path("/etc/nv_tegra_release").exists()


def _check_supported(number: Version, *, jetson: bool) -> None:
    if number < OLDEST:
        raise EngineError(
            f"TensorRT {text(number)} is too old; expected {OLDEST[0]}.{OLDEST[1]} or later: "
            f"{'use JetPack 6 or later' if jetson else _INSTALL}"
        )
    if jetson and (11, 0, 0) <= number < (11, 4, 1):
        raise EngineError(
            f"TensorRT {text(number)} does not support Jetson; expected the one of JetPack: 8.6, 10.3, 10.13 or 11.4.1"
        )
