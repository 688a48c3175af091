"""Images on the GPU to the encoder's input, by one kernel: ``camscribe.runtime.pixels.reduce`` without the CPU."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from camscribe.runtime.cuda.arrays import DeviceImage
from camscribe.runtime.cuda.driver import Gpu, Memory
from camscribe.runtime.cuda.nvrtc import compile_cubin
from camscribe.runtime.cuda.weights import Band, bands
from camscribe.runtime.pixels import PixelSpec

SOURCE = Path(__file__).with_name("preprocess.cu")
COMPILED = Path(__file__).with_name("preprocess.fatbin")
"""Made ahead of time by CMake (``-DCAMSCRIBE_CUDA=ON``); without it NVRTC compiles the source."""
LAYOUTS = {"rgb": 0, "bgr": 1, "grey": 2, "nv12": 3}
"""Their numbers in the source."""
_ARGUMENTS = "PPqqqiPPiPPiPii"
_BLOCK = (16, 8, 1)
_SIZES_KEPT = 8
"""Sizes of images whose weights stay on the GPU: one for each camera, with a few to spare."""


class Preprocessor:
    """Reduces images on a GPU. Call within ``Gpu.current``.

    Raises:
        EngineError: the kernel cannot be compiled or loaded.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        if COMPILED.is_file():
            code = COMPILED.read_bytes()
        else:
            newest = int(gpu.cuda.get_driver_version()) // 1000
            code = compile_cubin(SOURCE.read_text(encoding="utf-8"), SOURCE.name, gpu.info.compute_capability, newest)
        self._module = gpu.cuda.module_from_buffer(code)
        self._kernel = self._module.get_function("camscribe_reduce")
        self._kernel.prepare(_ARGUMENTS)
        self._weights: collections.OrderedDict[tuple[int, int, PixelSpec], tuple[Memory, list[Any]]] = (
            collections.OrderedDict()
        )

    def reduce(self, image: DeviceImage, spec: PixelSpec, target: int, stream: Any) -> None:
        """Enqueues the reduction of an image to an address, uint8 [spec.height, spec.width, 3] RGB."""
        rows, columns = self._weights_of(image, spec, stream)
        chroma = image.address + image.height * image.strides[0]
        grid = (-(-spec.width // _BLOCK[0]), -(-spec.height // _BLOCK[1]), 1)
        self._kernel.prepared_async_call(
            grid,
            _BLOCK,
            stream,
            image.address,
            chroma,
            *image.strides,
            LAYOUTS[image.layout],
            *rows,
            *columns,
            target,
            spec.height,
            spec.width,
        )

    def close(self) -> None:
        """Frees the weights and the kernel; nothing on the GPU may still use them."""
        while self._weights:
            self._weights.popitem()[1][0].close()
        self._module = self._kernel = None

    def _weights_of(self, image: DeviceImage, spec: PixelSpec, stream: Any) -> list[Any]:
        key = (image.height, image.width, spec)
        if key in self._weights:
            self._weights.move_to_end(key)
            return self._weights[key][1]
        if len(self._weights) >= _SIZES_KEPT:
            stream.synchronize()
            self._weights.popitem(last=False)[1][0].close()
        memory = Memory(self._gpu)
        try:
            places = [self._place(memory, band) for band in bands(image.height, image.width, spec)]
            # From pageable memory a copy may still be on its way, and this stream would not wait for it.
            self._gpu.cuda.Context.synchronize()
        except BaseException:
            memory.close()
            raise
        self._weights[key] = (memory, places)
        return places

    def _place(self, memory: Memory, band: Band) -> tuple[int, int, int]:
        """Address of the first indices, address of the weights, and how many for each result."""

        def put(values: npt.NDArray[Any]) -> int:
            address = memory.device(values.nbytes)
            self._gpu.cuda.memcpy_htod(address, np.ascontiguousarray(values))
            return address

        return put(band.first), put(band.weights.astype(np.float32)), band.weights.shape[1]
