"""What is said where CUDA cannot be used, and on a GPU that the host program's own context is left alone."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from typing import Any

import numpy as np
import pytest

from camscribe.runtime.cuda import driver
from camscribe.runtime.cuda.driver import Memory, device_info, open_gpu
from camscribe.runtime.errors import EngineError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'pycuda'", name="pycuda"), "PyCUDA is not installed: pip install"),
        (ImportError("libcuda.so.1: cannot open shared object file"), "no NVIDIA driver .*install the driver"),
        (ImportError("_driver.so: undefined symbol: cuFuture"), "does not fit this driver .*update the NVIDIA driver"),
        (ImportError("libcurand.so.10: cannot open\nshared object file"), "cannot be imported .*pip install --force"),
    ],
)
def test_an_import_that_fails_is_explained(error: ImportError, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(driver, "_gpus", {})
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(EngineError, match=message) as raised:
        device_info()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cuInit failed: no CUDA-capable device is detected", "there is no NVIDIA GPU, or it is hidden"),
        ("cuInit failed: CUDA driver version is insufficient for CUDA runtime version", "does not fit .*update it"),
        ("cuInit failed: system has unsupported display driver / cuda driver combination", "does not fit"),
        ("cuInit failed: unknown error", "does not start .*nvidia-smi"),
    ],
)
def test_a_driver_that_does_not_start_is_explained(text: str, message: str) -> None:
    assert importlib.import_module("re").search(message, driver._start_problem(text))


@pytest.mark.skipif(importlib.util.find_spec("pycuda") is not None, reason="PyCUDA is installed")
def test_without_pycuda_the_error_names_it() -> None:
    with pytest.raises(EngineError, match="PyCUDA is not installed: pip install"):
        open_gpu()


pycuda = pytest.mark.skipif(importlib.util.find_spec("pycuda") is None, reason="no PyCUDA")


@pytest.mark.gpu
@pycuda
def test_the_device_is_what_the_driver_says() -> None:
    info = device_info()
    assert info.name
    assert info.compute_capability >= (5, 0)
    assert info.total_bytes > 1 << 30


@pytest.mark.gpu
@pycuda
def test_shared_memory_goes_there_and_back_and_is_freed() -> None:
    gpu = open_gpu()
    values = np.random.default_rng(0).integers(0, 256, 1 << 16, dtype=np.uint8)
    with gpu.current("testing") as cuda:
        free = cuda.mem_get_info()[0]
        stream = gpu.stream()
        memory = Memory(gpu)
        first, second = memory.shared(values.size), memory.shared(values.size)
        first.host[:] = values
        if not first.mapped:
            cuda.memcpy_htod_async(first.address, first.host, stream)
        cuda.memcpy_dtod_async(second.address, first.address, values.size, stream)
        if not second.mapped:
            cuda.memcpy_dtoh_async(second.host, second.address, stream)
        stream.synchronize()
        np.testing.assert_array_equal(second.host, values)
        memory.device(64 << 20)
        assert cuda.mem_get_info()[0] < free
        del first, second
        memory.close()
        memory.close()
        assert cuda.mem_get_info()[0] >= free - (8 << 20)


@pytest.mark.gpu
@pycuda
def test_too_much_memory_is_one_line_that_names_the_bytes() -> None:
    gpu = open_gpu()
    wanted = gpu.info.total_bytes * 2
    with gpu.current("testing"), pytest.raises(EngineError, match=f"no room for {wanted:,} bytes of GPU memory"):
        Memory(gpu).device(wanted)


@pytest.mark.gpu
@pycuda
def test_a_foreign_context_stays_current() -> None:
    gpu = open_gpu()
    cuda: Any = gpu.cuda
    own = cuda.Device(0).make_context()
    try:
        before = cuda.Context.get_current()
        with gpu.current("testing"):
            memory = Memory(gpu)
            memory.device(1 << 20)
            memory.close()
        assert cuda.Context.get_current() == before
        assert int(cuda.mem_alloc(1 << 10)) > 0
    finally:
        own.pop()
        own.detach()


@pytest.mark.gpu
@pycuda
def test_memory_made_in_one_thread_is_freed_in_another(recwarn: pytest.WarningsRecorder) -> None:
    gpu = open_gpu()
    made: list[Memory] = []

    def make() -> None:
        with gpu.current("testing"):
            made.append(Memory(gpu))
            made[0].device(32 << 20)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    with gpu.current("testing") as cuda:
        free = cuda.mem_get_info()[0]
        made[0].close()
        assert cuda.mem_get_info()[0] > free
    assert not recwarn.list


@pytest.mark.gpu
@pycuda
def test_pytorch_goes_on_beside_it() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    values = torch.arange(1000, device="cuda")
    gpu = open_gpu()
    with gpu.current("testing"):
        memory = Memory(gpu)
        memory.device(1 << 20)
        memory.close()
    assert int((values + 1).sum()) == 500_500
    assert "pycuda" in sys.modules
