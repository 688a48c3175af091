"""The arithmetic of the fused kernel, compiled for the host from the same source, against the CPU's own path."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camscribe.runtime.cuda import nvrtc
from camscribe.runtime.cuda.nvrtc import compile_cubin
from camscribe.runtime.cuda.preprocess import LAYOUTS, SOURCE
from camscribe.runtime.cuda.weights import bands
from camscribe.runtime.errors import EngineError
from camscribe.runtime.images import as_rgb, read
from camscribe.runtime.pixels import PixelSpec, reduce

Kernel = Callable[..., np.ndarray]
SPECS = [PixelSpec(224, 224), PixelSpec(224, 224, "crop"), PixelSpec(96, 320), PixelSpec(700, 224), PixelSpec(288, 288)]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    library = tmp_path_factory.mktemp("kernel") / "preprocess.so"
    flags = ["-O2", "-x", "c++", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, "-o", library, SOURCE], check=True)
    function = ctypes.CDLL(str(library)).camscribe_reduce

    def run(pixels: np.ndarray, layout: str, spec: PixelSpec, size: tuple[int, int] | None = None) -> np.ndarray:
        height, width = size or pixels.shape[:2]
        out = np.zeros((spec.height, spec.width, 3), np.uint8)
        arguments: list[Any] = [ctypes.c_void_p(pixels.ctypes.data)]
        arguments.append(ctypes.c_void_p(pixels.ctypes.data + height * pixels.strides[0]))
        arguments += [ctypes.c_longlong(stride) for stride in (*pixels.strides, 0)[:3]]
        arguments.append(LAYOUTS[layout])
        kept = []
        for band in bands(height, width, spec):
            weights = band.weights.astype(np.float32)
            kept += [band.first, weights]
            arguments += [ctypes.c_void_p(band.first.ctypes.data), ctypes.c_void_p(weights.ctypes.data)]
            arguments.append(weights.shape[1])
        function(*arguments, ctypes.c_void_p(out.ctypes.data), spec.height, spec.width)
        return out

    return run


def photographs(repository: Path) -> list[np.ndarray]:
    return [read(path) for path in sorted((repository / "examples").glob("*.jpg"))]


def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(int) - other.astype(int))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_photographs_come_out_as_from_the_cpu(kernel: Kernel, repository: Path, spec: PixelSpec) -> None:
    for photo in photographs(repository):
        apart = distance(kernel(photo, "rgb", spec), reduce(photo, spec))
        assert apart.max() <= 2
        assert (apart > 1).mean() < 1e-3
        assert apart.mean() < 0.35


@pytest.mark.parametrize("scale", [0.3, 2.7, 6.1, 9.0])
def test_cameras_of_any_size(kernel: Kernel, repository: Path, scale: float) -> None:
    photo = photographs(repository)[0]
    size = (round(photo.shape[1] * scale), round(photo.shape[0] * scale * 0.75))
    frame = cv2.resize(photo, size, interpolation=cv2.INTER_CUBIC)
    spec = PixelSpec(224, 224)
    apart = distance(kernel(frame, "rgb", spec), reduce(frame, spec))
    assert apart.max() <= 3  # each halving on the CPU rounds once more
    assert apart.mean() < 0.6


def test_bgr_grey_and_pitch(kernel: Kernel, repository: Path) -> None:
    spec = PixelSpec(224, 224)
    for photo in photographs(repository)[:3]:
        height, width = photo.shape[:2]
        wanted = kernel(photo, "rgb", spec)
        np.testing.assert_array_equal(kernel(np.ascontiguousarray(photo[:, :, ::-1]), "bgr", spec), wanted)
        pitched = np.zeros((height, width + 37, 3), np.uint8)[:, :width]
        pitched[:] = photo
        np.testing.assert_array_equal(kernel(pitched, "rgb", spec), wanted)
        planes = np.ascontiguousarray(photo.transpose(2, 0, 1)).transpose(1, 2, 0)
        np.testing.assert_array_equal(kernel(planes, "rgb", spec), wanted)
        mirrored = np.ascontiguousarray(photo[::-1, ::-1])[::-1, ::-1]
        np.testing.assert_array_equal(kernel(mirrored, "rgb", spec), wanted)
        grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
        apart = distance(kernel(grey, "grey", spec), reduce(as_rgb(grey), spec))
        assert apart.max() <= 1


def nv12(rgb: np.ndarray) -> np.ndarray:
    """[h * 3 / 2, w] as a camera gives it."""
    height, width = rgb.shape[:2]
    planar = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
    half = height * width // 4
    flat = planar.reshape(-1)
    u, v = flat[height * width :][:half], flat[height * width + half :]
    chroma = np.stack([u, v], axis=1).reshape(height // 2, width)
    return np.concatenate([planar[:height], chroma])


@pytest.mark.parametrize("spec", SPECS[:3], ids=str)
def test_nv12_is_converted_as_opencv_does(kernel: Kernel, repository: Path, spec: PixelSpec) -> None:
    for photo in photographs(repository)[:4]:
        even = np.ascontiguousarray(photo[: photo.shape[0] // 2 * 2, : photo.shape[1] // 2 * 2])
        frame = nv12(even)
        same_size = PixelSpec(*even.shape[:2])
        converted = kernel(frame, "nv12", same_size, even.shape[:2])
        np.testing.assert_array_equal(converted, as_rgb(frame, "nv12"))
        assert distance(converted, even).mean() < 4  # half the colour was thrown away
        apart = distance(kernel(frame, "nv12", spec, even.shape[:2]), reduce(as_rgb(frame, "nv12"), spec))
        assert apart.max() <= 1


def test_nv12_of_any_values_is_converted_as_opencv_does(kernel: Kernel) -> None:
    generator = np.random.default_rng(0)
    frame = generator.integers(0, 256, (96 * 3 // 2, 128), dtype=np.uint8)
    np.testing.assert_array_equal(kernel(frame, "nv12", PixelSpec(96, 128), (96, 128)), as_rgb(frame, "nv12"))


@given(
    height=st.integers(1, 600),
    width=st.integers(1, 600),
    rows=st.integers(8, 64),
    columns=st.integers(8, 64),
    fit=st.sampled_from(["squash", "crop"]),
)
def test_weights_read_inside_the_image_and_sum_to_one(
    height: int, width: int, rows: int, columns: int, fit: Any
) -> None:
    for band, source, size in zip(
        bands(height, width, PixelSpec(rows, columns, fit)), (height, width), (rows, columns), strict=True
    ):
        assert band.weights.shape[0] == band.first.shape[0] == size
        assert band.first.min() >= 0
        assert (band.first + band.weights.shape[1]).max() <= source
        np.testing.assert_allclose(band.weights.sum(axis=1), 1, atol=1e-9)


def test_nvrtc_compiles_the_kernel_for_every_kind_of_gpu() -> None:
    if not list(nvrtc._libraries()):
        pytest.skip("no NVRTC here")
    for capability in ((7, 5), (8, 6), (8, 7), (9, 0)):  # Turing, Ampere cards, Orin, Hopper
        code = compile_cubin(SOURCE.read_text(encoding="utf-8"), SOURCE.name, capability)
        assert code[:4] == b"\x7fELF"
        assert b"camscribe_reduce" in code


def test_what_nvrtc_cannot_do_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    if list(nvrtc._libraries()):
        with pytest.raises(EngineError, match=r"bad\.cu: NVRTC .* cannot compile it .*bad\.cu\(1\)") as error:
            compile_cubin("int x = ;", "bad.cu", (8, 7))
        assert "\n" not in str(error.value)
        with pytest.raises(EngineError, match="newer than the driver, which supports CUDA 9"):
            compile_cubin("", "any.cu", (8, 7), newest_cuda=9)
    monkeypatch.setattr(nvrtc, "_libraries", lambda: iter(()))
    with pytest.raises(EngineError, match=r"NVRTC is not installed.*pip install nvidia-cuda-nvrtc"):
        compile_cubin("", "any.cu", (8, 7))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_nvcc_compiles_the_kernel(tmp_path: Path) -> None:
    for architecture in ("sm_80", "sm_87"):
        target = tmp_path / f"{architecture}.ptx"
        subprocess.run(["nvcc", "-ptx", f"-arch={architecture}", "-o", target, SOURCE], check=True)
        assert "camscribe_reduce" in target.read_text()


@pytest.mark.skipif(shutil.which("nvcc") is None or shutil.which("cmake") is None, reason="no nvcc or no CMake")
def test_cmake_compiles_it_ahead_of_time_only_when_asked(repository: Path, tmp_path: Path) -> None:
    def cmake(*arguments: str | Path) -> None:
        done = subprocess.run(["cmake", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    cmake("-S", repository, "-B", tmp_path / "plain")
    cmake("--build", tmp_path / "plain")
    assert not list((tmp_path / "plain").glob("*.fatbin"))
    cuda = ("-DCAMSCRIBE_CUDA=ON", "-DCAMSCRIBE_CUDA_ARCHITECTURES=sm_87")
    cmake("-S", repository, "-B", tmp_path / "cuda", *cuda)
    cmake("--build", tmp_path / "cuda")
    cmake("--install", tmp_path / "cuda", "--prefix", tmp_path / "site")
    assert (tmp_path / "site" / "camscribe" / "runtime" / "cuda" / "preprocess.fatbin").stat().st_size > 0
