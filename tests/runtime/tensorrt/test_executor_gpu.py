"""The TensorRT executor on a GPU: words of the CPU, beside other users of CUDA, and all memory given back."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camscribe.runtime.bundle import DEFAULT_BUNDLE, Bundle
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.cuda import graphs
from camscribe.runtime.cuda.driver import device_info, open_gpu
from camscribe.runtime.errors import EngineError
from camscribe.runtime.executor import search
from camscribe.runtime.images import read
from camscribe.runtime.onnxruntime_executor import OnnxRuntimeExecutor
from camscribe.runtime.pixels import PixelSpec, reduce
from camscribe.runtime.search import SearchOptions

MISSING = [name for name in ("pycuda", "tensorrt") if importlib.util.find_spec(name) is None]
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {' '.join(MISSING)}")]

Words = list[list[tuple[int, ...]]]


@pytest.fixture(scope="module")
def bundle(toy_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The toy with engines for 1 and 4 images and 3 beams beside it."""
    from camscribe.runtime.tensorrt.engines import open_engines

    folder = tmp_path_factory.mktemp("engines") / "toy"
    shutil.copytree(toy_bundle.path, folder)
    copied = Bundle.load(folder)
    for images in (1, 4):
        open_engines(copied, "float32", images, 3, device_info(), build=True)
    return copied


def open_tensorrt(bundle: Bundle) -> Any:
    from camscribe.runtime.tensorrt.engines import open_engines
    from camscribe.runtime.tensorrt.executor import TensorRTExecutor

    def more(images: int, beams: int) -> Any:
        return open_engines(bundle, "float32", images, beams, device_info(), build=False)

    return TensorRTExecutor(bundle, "float32", more(1, 3), more)


def words(executor: Any, images: Any, options: SearchOptions, bias: Any) -> Words:
    executor.encode(images, options, bias)
    return [[hypothesis.tokens for hypothesis in image] for image in search(executor, options)]


OPTIONS = SearchOptions(beams=3, max_words=8, nbest=3)


@pytest.mark.parametrize("recorded", [True, False])
def test_words_are_those_of_the_cpu(bundle: Bundle, toy: Any, recorded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if recorded and graphs.bindings() is None:
        pytest.skip("no cuda-python")
    if not recorded:
        monkeypatch.setattr(graphs, "bindings", lambda: None)
    executor, alone = open_tensorrt(bundle), OnnxRuntimeExecutor(bundle, "float32", "cpu")
    bias = bundle.vocabulary.bias()
    for seed in range(4):  # plain, recorded, replayed, replayed
        for count in (1, 3, 4, 9):
            for options in (OPTIONS, SearchOptions(beams=3, max_words=6, min_words=3, poll=5)):
                images = toy.images(count, seed=seed)
                assert words(executor, images, options, bias) == words(alone, images, options, bias)
    executor.close()


def test_log_probabilities_and_attention_are_close_to_the_cpus(bundle: Bundle, toy: Any) -> None:
    executor, alone = open_tensorrt(bundle), OnnxRuntimeExecutor(bundle, "float32", "cpu")
    for each in (executor, alone):
        each.encode(toy.images(4), OPTIONS, bundle.vocabulary.bias())
    for one, other in zip(search(executor, OPTIONS), search(alone, OPTIONS), strict=True):
        assert one[0].log_prob == pytest.approx(other[0].log_prob, abs=1e-3)
        assert one[0].attention is not None
        assert other[0].attention is not None
        np.testing.assert_allclose(one[0].attention, other[0].attention, atol=1e-3)
    executor.close()


def test_an_encoder_that_finds_boxes_is_built_and_its_boxes_are_those_of_the_cpu(
    boxes_bundle: Bundle, boxes_toy: Any, tmp_path: Path
) -> None:
    """Non-maximum suppression, shapes that depend on the image, and RoiAlign from TensorRT's library of plugins."""
    from camscribe.runtime.tensorrt.engines import open_engines

    shutil.copytree(boxes_bundle.path, tmp_path / "boxes")
    bundle = Bundle.load(tmp_path / "boxes")
    for images in (1, 4):
        open_engines(bundle, "float32", images, 3, device_info(), build=True)
    executor, alone, bias = (
        open_tensorrt(bundle),
        OnnxRuntimeExecutor(bundle, "float32", "cpu"),
        bundle.vocabulary.bias(),
    )
    for seed in range(4):  # steps are plain, recorded, replayed, replayed; the encoder is never recorded
        for count in (1, 3, 4, 9):
            images = boxes_toy.images(count, seed=seed)
            assert words(executor, images, OPTIONS, bias) == words(alone, images, OPTIONS, bias)
            np.testing.assert_allclose(executor.boxes(), alone.boxes(), atol=1e-5)  # type: ignore[arg-type]
    executor.close()


def test_two_captioners_in_two_threads(bundle: Bundle, toy: Any) -> None:
    images = list(toy.images(12, seed=1))
    with Captioner.load(bundle.path, "cpu") as alone:
        expected = [alone.caption(image, "rgb", beams=3).words for image in images]
    wrong: list[object] = []

    def run() -> None:
        try:
            with Captioner.load(bundle.path, "tensorrt", "float32") as captioner:
                for _ in range(5):
                    found = [captioner.caption(image, "rgb", beams=3).words for image in images]
                    wrong.extend(one for one, other in zip(found, expected, strict=True) if one != other)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_one_captioner_in_many_threads(bundle: Bundle, toy: Any) -> None:
    images = list(toy.images(8, seed=2))
    with Captioner.load(bundle.path, "tensorrt", "float32") as captioner:
        expected = [captioner.caption(image, "rgb").words for image in images]
        found: dict[int, Any] = {}
        threads = [
            threading.Thread(target=lambda i=i: found.update({i: captioner.caption(images[i], "rgb").words}))
            for i in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [found[index] for index in range(8)] == expected


def test_beside_a_foreign_context_of_pycuda(bundle: Bundle, toy: Any) -> None:
    cuda = open_gpu().cuda
    own = cuda.Device(0).make_context()
    try:
        values = np.arange(1024, dtype=np.int32)
        place = cuda.mem_alloc(values.nbytes)
        cuda.memcpy_htod(place, values)
        with Captioner.load(bundle.path, "tensorrt", "float32") as captioner:
            first = captioner.caption(toy.images(1)[0], "rgb").words
            assert cuda.Context.get_current() == own
            assert captioner.caption(toy.images(1)[0], "rgb").words == first
        back = np.zeros_like(values)
        cuda.memcpy_dtoh(back, place)
        np.testing.assert_array_equal(back, values)
        place.free()
    finally:
        own.pop()
        own.detach()


def test_close_frees_memory_and_what_follows_is_an_error(bundle: Bundle, toy: Any) -> None:
    gpu, bias = open_gpu(), bundle.vocabulary.bias()
    free = []
    for _ in range(4):
        executor = open_tensorrt(bundle)
        for _ in range(3):
            words(executor, toy.images(4), OPTIONS, bias)
        executor.close()
        executor.close()
        free.append(gpu.free_bytes())
    # Libraries keep what they set up for themselves the first time; after that nothing may go.
    assert min(free[1:]) >= free[1] - (4 << 20)
    for call in (executor.step, executor.trace, lambda: executor.encode(toy.images(1), OPTIONS, bias)):
        with pytest.raises(EngineError, match="closed"):
            call()


def test_an_executor_that_is_forgotten_frees_its_memory(bundle: Bundle, toy: Any) -> None:
    import gc

    gpu = open_gpu()
    words(open_tensorrt(bundle), toy.images(1), OPTIONS, bundle.vocabulary.bias())
    gc.collect()
    free = gpu.free_bytes()
    words(open_tensorrt(bundle), toy.images(1), OPTIONS, bundle.vocabulary.bias())
    gc.collect()
    assert gpu.free_bytes() >= free - (4 << 20)


class OnGpu:
    """Memory of PyCUDA with a pitch, as a camera's library would show it."""

    def __init__(self, pixels: np.ndarray, pitch: int = 0) -> None:
        gpu = open_gpu()
        rows, self.pixels = pixels.shape[0], pixels
        line = pixels[0].size
        pitch = pitch or line
        padded = np.zeros((rows, pitch), np.uint8)
        padded[:, :line] = pixels.reshape(rows, line)
        with gpu.current("testing") as cuda:
            self.memory = cuda.mem_alloc(padded.nbytes)
            cuda.memcpy_htod(self.memory, padded)
        strides = (pitch, 1) if pixels.ndim == 2 else (pitch, 3, 1)
        self.__cuda_array_interface__ = {
            "shape": pixels.shape, "typestr": "|u1", "data": (int(self.memory), False), "strides": strides,
            "version": 3, "stream": None,
        }  # fmt: skip

    def free(self) -> None:
        with open_gpu().current("testing"):
            self.memory.free()


def test_images_on_the_gpu_give_the_words_of_those_on_the_host(bundle: Bundle, toy: Any) -> None:
    exact = toy.images(1, seed=3)[0]
    with Captioner.load(bundle.path, "tensorrt", "float32") as captioner:
        place = OnGpu(exact)
        for _ in range(3):
            assert captioner.caption(place, "rgb").words == captioner.caption(exact, "rgb").words  # type: ignore[arg-type]
        place.free()


@pytest.mark.parametrize("layout", ["rgb", "bgr", "grey", "nv12"])
def test_the_kernel_reduces_photographs_as_the_cpu_does(repository: Path, layout: str) -> None:
    from camscribe.runtime.cuda.arrays import device_image
    from camscribe.runtime.cuda.driver import Memory
    from camscribe.runtime.cuda.preprocess import Preprocessor
    from camscribe.runtime.images import as_rgb

    photo = read(repository / "examples" / "shepherd.jpg")
    color = layout if layout != "grey" else None
    pixels = {
        "rgb": photo,
        "bgr": np.ascontiguousarray(photo[:, :, ::-1]),
        "grey": np.ascontiguousarray(photo[:, :, 1]),
        "nv12": np.ascontiguousarray(photo[:, :, 1])[: photo.shape[0] // 6 * 6, : photo.shape[1] // 2 * 2],
    }[layout]
    gpu = open_gpu()
    for spec in (PixelSpec(224, 224), PixelSpec(224, 224, "crop"), PixelSpec(700, 224)):
        place = OnGpu(np.ascontiguousarray(pixels), pitch=4096)
        found = np.zeros((spec.height, spec.width, 3), np.uint8)
        with gpu.current("testing") as cuda:
            memory, stream, kernel = Memory(gpu), gpu.stream(), Preprocessor(gpu)
            target = memory.device(found.nbytes)
            kernel.reduce(device_image(place, color), spec, target, stream)
            stream.synchronize()
            cuda.memcpy_dtoh(found, target)
            kernel.close()
            memory.close()
        place.free()
        apart = np.abs(found.astype(int) - reduce(as_rgb(np.ascontiguousarray(pixels), color), spec).astype(int))  # type: ignore[arg-type]
        assert apart.max() <= 2
        assert apart.mean() < 0.35


def test_tensors_of_pytorch_are_read_where_they_lie(bundle: Bundle, toy: Any) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    exact = toy.images(1, seed=4)[0]
    large = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    with Captioner.load(bundle.path, "tensorrt", "float32") as captioner:
        side = torch.cuda.Stream()
        for pixels in (exact, large):
            with torch.cuda.stream(side):
                # Long work before the image is there: whoever does not wait reads zeros.
                tensor = torch.zeros(pixels.shape, dtype=torch.uint8, device="cuda")
                torch.cuda._sleep(50_000_000)
                tensor += torch.from_numpy(pixels).cuda(non_blocking=True)
                found = captioner.caption(tensor, "rgb").words
            assert found == captioner.caption(pixels, "rgb").words
        planes = torch.from_numpy(np.ascontiguousarray(large.transpose(2, 0, 1))).cuda()
        assert captioner.caption(planes.permute(1, 2, 0), "rgb").words == captioner.caption(large, "rgb").words
        assert captioner.caption([tensor, exact, planes.permute(1, 2, 0)], "rgb")[1].words == (
            captioner.caption(exact, "rgb").words
        )


_TRAP = """
import sys
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.cuda.driver import open_gpu
from camscribe.runtime.cuda.nvrtc import compile_cubin
from camscribe.runtime.errors import EngineError
from camscribe.runtime.tensorrt import device
import numpy as np

captioner = Captioner.load(sys.argv[1], "tensorrt", "float32")
side = captioner.bundle.manifest.pixels.height
image = np.zeros((side, side, 3), np.uint8)
captioner.caption(image, "rgb")
gpu = open_gpu()
with gpu.current("testing") as cuda:
    source = 'extern "C" __global__ void trap() { __trap(); }'
    module = cuda.module_from_buffer(compile_cubin(source, "trap.cu", gpu.info.compute_capability))
    trap = module.get_function("trap")
    trap.prepare("")
synchronize = device.CudaDevice.upload
def upload(self, *arguments):
    synchronize(self, *arguments)
    trap.prepared_async_call((1, 1), (1, 1, 1), self._stream)
device.CudaDevice.upload = upload
for _ in range(2):
    try:
        captioner.caption(image, "rgb")
    except EngineError as error:
        print("one line:", error)
captioner.close()
"""


def test_a_kernel_that_fails_in_the_loop_is_an_error_and_no_crash(bundle: Bundle) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _TRAP, bundle.path], capture_output=True, text=True, check=False, timeout=300
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("one line: ")]
    assert done.returncode == 0, done.stderr
    assert len(lines) == 2, done.stdout + done.stderr


@pytest.mark.slow
def test_the_bundled_model_gives_the_words_of_the_cpu(repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "default"
    shutil.copytree(DEFAULT_BUNDLE, folder)
    photos = [read(path) for path in sorted((repository / "examples").glob("*.jpg"))]
    with Captioner.load(folder, "cpu", "float32") as cpu, Captioner.load(folder, "tensorrt") as gpu:
        for one, other in zip(cpu.caption(photos, "rgb"), gpu.caption(photos, "rgb"), strict=True):
            assert one.words == other.words or abs(one.score - other.score) < 0.05
