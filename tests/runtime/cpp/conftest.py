"""libcamscribe, built as a user builds it and with sanitizers, and called from Python.

The builds lie in build/ and are brought up to date, so only the first run takes long.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

SANITIZE = "-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all"
FORMATS = {"rgb": 1, "bgr": 2, "grey": 3, "nv12": 4}
SETS = ("beams", "max_words", "min_words", "nbest", "length_penalty", "stop", "poll")


def run(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command that must succeed; what it said is shown otherwise."""
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-6000:]}"
    return done


def _onnxruntime_root(repository: Path) -> Path | None:
    """Where the headers of ONNX Runtime are: ``ONNXRUNTIME_ROOT``, else build/onnxruntime."""
    roots = [Path(os.environ["ONNXRUNTIME_ROOT"])] if "ONNXRUNTIME_ROOT" in os.environ else []
    for root in (*roots, repository / "build" / "onnxruntime"):
        if any((root / "include").rglob("onnxruntime_cxx_api.h")):
            return root
    return None


@pytest.fixture(scope="session")
def onnxruntime_root(repository: Path) -> Path:
    """Folder with ONNX Runtime's headers and library."""
    missing = [name for name in ("cmake", "c++", "ninja") if shutil.which(name) is None]
    headers = (("opencv4/opencv2/imgproc.hpp", "libopencv-imgproc-dev"), ("nlohmann/json.hpp", "nlohmann-json3-dev"))
    missing += [package for name, package in headers if not (Path("/usr/include") / name).exists()]
    if missing:
        pytest.skip(f"what builds libcamscribe is missing: {', '.join(missing)}")
    root = _onnxruntime_root(repository)
    if root is None:
        pytest.skip("no headers of ONNX Runtime: run tests/runtime/cpp/get_onnxruntime.sh build/onnxruntime")
    return root


def build(repository: Path, folder: Path, *definitions: str) -> Path:
    """Configures and builds the project."""
    run(
        [
            "cmake",
            "-S",
            repository,
            "-B",
            folder,
            "-G",
            "Ninja",
            "-DCAMSCRIBE_CPP=ON",
            "-DCAMSCRIBE_WERROR=ON",
            *definitions,
        ]
    )
    run(["cmake", "--build", folder, "--parallel", "2"])
    return folder


@pytest.fixture(scope="session")
def plain_build(repository: Path, onnxruntime_root: Path) -> Path:
    """Built as a user builds it."""
    return build(repository, repository / "build" / "cpp", f"-DONNXRUNTIME_ROOT={onnxruntime_root}")


@pytest.fixture(scope="session")
def sanitized_build(repository: Path, onnxruntime_root: Path) -> Path:
    """The library and the programs of the tests, with AddressSanitizer (leaks included) and UBSan."""
    return build(
        repository,
        repository / "build" / "cpp-sanitized",
        f"-DONNXRUNTIME_ROOT={onnxruntime_root}",
        "-DCAMSCRIBE_CPP_TESTS=ON",
        "-DCMAKE_BUILD_TYPE=None",
        f"-DCMAKE_CXX_FLAGS={SANITIZE}",
        f"-DCMAKE_C_FLAGS={SANITIZE}",
    )


Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def ask(sanitized_build: Path) -> Iterator[Ask]:
    """``ask("resizes", height=1, ...)``: what the sanitized C++ answers: ``answer``, or ``status`` and ``error``."""
    process = subprocess.Popen(
        [sanitized_build / "runtime" / "cpp" / "tests" / "camscribe_probe"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    questions, answers = process.stdin, process.stdout

    def put(question: str, **arguments: object) -> dict[str, Any]:
        print(json.dumps({"ask": question, **arguments}), file=questions, flush=True)
        line = answers.readline()
        assert line, f"the probe ended at {question}: its sanitizer says why"
        answer: dict[str, Any] = json.loads(line)
        return answer

    yield put
    questions.close()
    assert process.wait(timeout=60) == 0
    answers.close()


class LoadOptions(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("backend", ctypes.c_char_p),
        ("precision", ctypes.c_char_p),
        ("threads", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("onnxruntime", ctypes.c_char_p),
    )


class Info(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        *((name, ctypes.c_char_p) for name in ("name", "backend", "precision", "reasons", "onnxruntime")),
        *((name, ctypes.c_int32) for name in ("vocabulary_size", "width", "height", "rows", "columns")),
        *((name, ctypes.c_int32) for name in ("beams", "nbest", "max_words", "min_words", "reserved")),
        ("length_penalty", ctypes.c_double),
    )


class Image(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("format", "width", "height", "reserved")),
        ("stride", ctypes.c_size_t),
        ("chroma", ctypes.c_void_p),
        ("chroma_stride", ctypes.c_size_t),
    )


class Options(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("set", ctypes.c_uint32),
        *((name, ctypes.c_int32) for name in ("beams", "max_words", "min_words", "nbest", "stop")),
        ("length_penalty", ctypes.c_double),
        ("poll", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("ban", ctypes.POINTER(ctypes.c_char_p)),
        ("ban_count", ctypes.c_size_t),
    )


class HypothesisView(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("text", ctypes.c_char_p),
        ("words", ctypes.POINTER(ctypes.c_char_p)),
        ("tokens", ctypes.POINTER(ctypes.c_int32)),
        ("attention", ctypes.POINTER(ctypes.c_float)),
        *((name, ctypes.c_int32) for name in ("word_count", "rows", "columns", "truncated")),
        ("log_prob", ctypes.c_double),
        ("score", ctypes.c_double),
    )


class TraceView(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        *((name, ctypes.c_int32) for name in ("steps", "beams", "positions", "reserved")),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("parent", ctypes.POINTER(ctypes.c_int32)),
        ("score", ctypes.POINTER(ctypes.c_float)),
        ("ended_score", ctypes.POINTER(ctypes.c_float)),
        ("ended_parent", ctypes.POINTER(ctypes.c_int32)),
        ("attention", ctypes.POINTER(ctypes.c_float)),
    )


class RefusedError(Exception):
    """A status that is not 0."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Sentence:
    """One hypothesis."""

    text: str
    words: tuple[str, ...]
    tokens: tuple[int, ...]
    log_prob: float
    score: float
    truncated: bool
    attention: npt.NDArray[np.float32]


class Library:
    """camscribe.h through ctypes."""

    def __init__(self, path: Path) -> None:
        self.c = ctypes.CDLL(str(path))
        self.c.camscribe_last_error.restype = ctypes.c_char_p
        self.c.camscribe_version.restype = ctypes.c_char_p
        self.c.camscribe_captioner_word.restype = ctypes.c_char_p
        self.c.camscribe_captioner_word.argtypes = (ctypes.c_void_p, ctypes.c_int32)
        for name in ("camscribe_captioner_free", "camscribe_caption_free"):
            getattr(self.c, name).argtypes = (ctypes.c_void_p,)
            getattr(self.c, name).restype = None

    def check(self, status: int) -> None:
        if status:
            raise RefusedError(status, self.c.camscribe_last_error().decode())

    def load(self, path: Path, backend: str = "cpu", precision: str | None = None, threads: int = 0) -> Captioner:
        options = LoadOptions(size=ctypes.sizeof(LoadOptions), backend=backend.encode(), threads=threads)
        options.precision = None if precision is None else precision.encode()
        handle = ctypes.c_void_p()
        self.check(self.c.camscribe_captioner_load(str(path).encode(), ctypes.byref(options), ctypes.byref(handle)))
        return Captioner(self, handle)


class Captioner:
    """A captioner's handle."""

    def __init__(self, library: Library, handle: ctypes.c_void_p) -> None:
        self.library, self.handle = library, handle

    def info(self) -> Info:
        info = Info(size=ctypes.sizeof(Info))
        self.library.check(self.library.c.camscribe_captioner_info(self.handle, ctypes.byref(info)))
        return info

    def caption(self, image: Image, ban: Sequence[str] = (), **changes: Any) -> Caption:
        options = Options(size=ctypes.sizeof(Options))
        for name, value in changes.items():
            options.set |= 1 << SETS.index(name)
            setattr(options, name, {"optimal": 0, "first_k": 1}[value] if name == "stop" else value)
        words = (ctypes.c_char_p * len(ban))(*(word.encode() for word in ban))
        options.ban, options.ban_count = ctypes.cast(words, ctypes.POINTER(ctypes.c_char_p)), len(ban)
        handle = ctypes.c_void_p()
        self.library.check(
            self.library.c.camscribe_caption_image(
                self.handle, ctypes.byref(image), ctypes.byref(options), ctypes.byref(handle)
            )
        )
        return Caption(self.library, handle)

    def close(self) -> None:
        self.library.c.camscribe_captioner_free(self.handle)


class Caption:
    """A caption, copied out of its handle."""

    def __init__(self, library: Library, handle: ctypes.c_void_p) -> None:
        count = library.c.camscribe_caption_count(handle)
        self.sentences = [self._sentence(library, handle, index) for index in range(count)]
        view = TraceView(size=ctypes.sizeof(TraceView))
        library.check(library.c.camscribe_caption_trace(handle, ctypes.byref(view)))
        shape = (view.steps, view.beams)
        self.trace = {
            name: np.ctypeslib.as_array(getattr(view, name), shape).copy()
            for name in ("token", "parent", "score", "ended_score", "ended_parent")
        }
        self.trace["attention"] = np.ctypeslib.as_array(view.attention, (*shape, view.positions)).copy()
        boxes, found = ctypes.POINTER(ctypes.c_float)(), ctypes.c_int32()
        library.check(library.c.camscribe_caption_boxes(handle, ctypes.byref(boxes), ctypes.byref(found)))
        self.boxes = np.ctypeslib.as_array(boxes, (found.value, 4)).copy() if boxes else None
        assert (self.boxes is None) == (found.value == 0)
        library.c.camscribe_caption_free(handle)

    @staticmethod
    def _sentence(library: Library, handle: ctypes.c_void_p, index: int) -> Sentence:
        view = HypothesisView(size=ctypes.sizeof(HypothesisView))
        library.check(library.c.camscribe_caption_hypothesis(handle, index, ctypes.byref(view)))
        count = view.word_count
        return Sentence(
            view.text.decode(),
            tuple(view.words[word].decode() for word in range(count)),
            tuple(view.tokens[:count]),
            view.log_prob,
            view.score,
            bool(view.truncated),
            np.ctypeslib.as_array(view.attention, (count, view.rows, view.columns)).copy(),
        )


def image_of(pixels: npt.NDArray[np.uint8], kind: str = "rgb", **members: Any) -> Image:
    """An array as the C interface takes it: [h, w, 3], [h, w] or, for NV12, [h * 3 / 2, w]; must outlive the result."""
    height = pixels.shape[0] * 2 // 3 if kind == "nv12" else pixels.shape[0]
    made = {"data": pixels.ctypes.data, "format": FORMATS[kind], "width": pixels.shape[1], "height": height}
    made["stride"] = pixels.strides[0]
    return Image(size=ctypes.sizeof(Image), **{**made, **members})


@pytest.fixture(scope="session")
def library(plain_build: Path) -> Library:
    """The library as a user has it."""
    return Library(plain_build / "runtime" / "cpp" / "libcamscribe.so")


@pytest.fixture(scope="session")
def as_image() -> Callable[..., Image]:
    """``image_of``."""
    return image_of


@pytest.fixture(scope="session")
def refused() -> type[RefusedError]:
    """What ``Library`` raises."""
    return RefusedError
