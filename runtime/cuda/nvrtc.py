"""CUDA sources compiled at run time by NVRTC, for robots have no nvcc."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from camscribe.runtime.errors import EngineError

_SYSTEM = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/*/lib")
_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2")


def compile_cubin(source: str, name: str, capability: tuple[int, int], newest_cuda: int | None = None) -> bytes:
    """Compiles a CUDA source for one kind of GPU. Needs no GPU.

    Args:
        source: the text.
        name: what the compiler calls it in messages.
        capability: compute capability, such as (8, 7).
        newest_cuda: major version of CUDA that the driver can load; None for any.

    Raises:
        EngineError: NVRTC is not installed, does not know that GPU, or refuses the source.
    """
    problems = []
    for library in _libraries():
        major = _version(library)[0]
        if newest_cuda is not None and major > newest_cuda:
            problems.append(
                f"NVRTC {major} is newer than the driver, which supports CUDA {newest_cuda}: update the driver, or "
                f"pip install nvidia-cuda-nvrtc-cu{newest_cuda}"
            )
            continue
        try:
            return _compile(library, source, name, f"sm_{capability[0]}{capability[1]}")
        except EngineError as error:
            problems.append(str(error))
    if not problems:
        raise EngineError(
            "NVRTC is not installed, which compiles the kernel for images on the GPU: it comes with CUDA, or "
            "pip install nvidia-cuda-nvrtc (nvidia-cuda-nvrtc-cu12 for CUDA 12)"
        )
    raise EngineError(problems[0])


def installed() -> tuple[int, int] | None:
    """Version of the first NVRTC that loads here; None where there is none."""
    library = next(_libraries(), None)
    return None if library is None else _version(library)


def _libraries() -> Iterator[ctypes.CDLL]:
    """Every NVRTC that loads here: those of pip, then the loader's, then CUDA's usual places."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    files = [str(path) for folder in folders for path in folder.glob("*/lib/libnvrtc.so.*")]
    files += _NAMES
    for pattern in _SYSTEM:
        files += [str(path) for path in Path("/").glob(f"{pattern[1:]}/libnvrtc.so.*")]
    for file in files:
        if not re.search(r"libnvrtc\.so\.[0-9.]+$", file):  # libnvrtc.alt and the like
            continue
        try:
            library = ctypes.CDLL(file)
            _load_builtins(Path(file))
            yield library
        except OSError:
            continue


def _load_builtins(library: Path) -> None:
    """Loads what NVRTC itself looks for when it compiles: by its name alone, which finds nothing in pip's folders."""
    for path in library.parent.glob("libnvrtc-builtins.so.*") if library.is_absolute() else ():
        ctypes.CDLL(str(path))


def _version(library: ctypes.CDLL) -> tuple[int, int]:
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def _compile(library: ctypes.CDLL, source: str, name: str, architecture: str) -> bytes:
    program = ctypes.c_void_p()
    options = [f"--gpu-architecture={architecture}".encode()]
    code = library.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), name.encode(), 0, ctypes.c_void_p(), ctypes.c_void_p()
    )
    _check(library, code, name, b"")
    try:
        code = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        _check(library, code, name, _read(library, program, "ProgramLog") if code else b"")
        return _read(library, program, "CUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _read(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), what, b"")
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, buffer), what, b"")
    return buffer.raw


def _check(library: ctypes.CDLL, code: int, name: str, log: bytes) -> None:
    if code:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        reason = library.nvrtcGetErrorString(code).decode()
        text = " ".join(log.rstrip(b"\0").decode(errors="replace").split())
        version = ".".join(map(str, _version(library)))
        raise EngineError(f"{name}: NVRTC {version} cannot compile it ({reason}{': ' if text else ''}{text:.300})")
