"""Images that already lie on the GPU: ``__cuda_array_interface__`` and DLPack, described without a copy."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from camscribe.runtime.cuda.driver import open_gpu
from camscribe.runtime.errors import OptionError, SourceError
from camscribe.runtime.images import DLPACK_GPU, as_rgb
from camscribe.runtime.pixels import Pixels, PixelSpec, reduce

Layout = Literal["rgb", "bgr", "grey", "nv12"]

_LEGACY_STREAM = 1
"""The default stream, as both protocols write it."""
_DLPACK_UINT = 1
_ALIGNMENT = 256
_MAX_SIDE = 1 << 16


@dataclass(frozen=True)
class DeviceImage:
    """An image on the GPU. Its owner keeps the memory."""

    address: int
    """Of the first pixel."""
    height: int
    width: int
    strides: tuple[int, int, int]
    """Bytes from row to row, pixel to pixel, channel to channel. Of NV12 those of Y; the plane UV lies behind it."""
    layout: Layout
    stream: int | None
    """CUstream in which the image is written; None when it is known to be complete."""
    owner: object

    def is_input_of(self, spec: PixelSpec) -> bool:
        """Whether an engine can read it where it lies."""
        return (
            self.layout == "rgb"
            and (self.height, self.width) == (spec.height, spec.width)
            and self.strides == (3 * self.width, 3, 1)
            and self.address % _ALIGNMENT == 0
        )

    def download(self) -> Pixels:
        """The image as an array of the host, for a backend that cannot read it where it lies.

        Returns:
            uint8 [height, width, 3], RGB.

        Raises:
            EngineError: PyCUDA or the driver is missing, or the copy failed.
        """
        rows, shape = self.height, (self.height, self.width, 3)
        if self.layout == "nv12":
            rows, shape = self.height * 3 // 2, (self.height * 3 // 2, self.width, 1)
        elif self.layout == "grey":
            shape = (self.height, self.width, 1)
        reach = [(size - 1) * stride for size, stride in zip(shape, self.strides, strict=True)]
        first, last = sum(min(0, step) for step in reach), sum(max(0, step) for step in reach)
        block = np.empty(last - first + 1, np.uint8)
        with open_gpu().current("copying an image from the GPU") as cuda:
            cuda.Context.synchronize()
            cuda.memcpy_dtoh(block, self.address + first)
        pixels = np.lib.stride_tricks.as_strided(block[-first:], shape, self.strides)
        if self.layout in ("grey", "nv12"):
            return as_rgb(np.ascontiguousarray(pixels[:rows, :, 0]), "nv12" if self.layout == "nv12" else None)
        return as_rgb(pixels, "bgr" if self.layout == "bgr" else "rgb")


def on_host(image: Pixels | DeviceImage, spec: PixelSpec) -> Pixels:
    """An image as the encoder of a backend wants it that reads no memory of a GPU.

    Raises:
        EngineError: it cannot be copied from the GPU.
    """
    return reduce(image.download(), spec) if isinstance(image, DeviceImage) else image


def device_image(image: Any, color: str | None) -> DeviceImage:
    """Describes an image on the GPU.

    Args:
        image: offers DLPack (preferred, as it says when the memory is written) or ``__cuda_array_interface__``. uint8
            [h, w, 3], [h, w] for grey, or [h * 3 / 2, w] for NV12; strides of any kind.
        color: ``"rgb"``, ``"bgr"`` or ``"nv12"``; None for grey.

    Raises:
        SourceError: the array is not such an image.
        OptionError: ``color`` is missing.
    """
    try:
        if hasattr(image, "__dlpack__") and hasattr(image, "__dlpack_device__"):
            return _from_dlpack(image, color)
        return _from_interface(image, color)
    except (SourceError, OptionError):
        raise
    except Exception as error:  # whatever the other library raises: it needs a gradient, its memory is gone
        raise SourceError(
            f"image is a device array that cannot be read ({' '.join(str(error).split()):.200})"
        ) from error


def _from_interface(image: Any, color: str | None) -> DeviceImage:
    entry = image.__cuda_array_interface__
    if str(entry["typestr"])[1:] != "u1":
        raise SourceError(f"image is a device array of {entry['typestr']}; expected uint8, 0 to 255")
    if entry.get("mask") is not None:
        raise SourceError("image is a device array with a mask; expected one without")
    # Version 2 does not say where the memory is written: in the default stream, as far as one can know.
    stream = entry.get("stream") if int(entry.get("version", 0)) >= 3 else _LEGACY_STREAM
    return _describe(int(entry["data"][0]), entry["shape"], entry.get("strides"), color, stream, image)


def _from_dlpack(image: Any, color: str | None) -> DeviceImage:
    kind, number = map(int, image.__dlpack_device__())
    if kind not in DLPACK_GPU or number != 0:
        raise SourceError(f"image lies on device {number} of kind {kind} (DLPack); expected the first NVIDIA GPU")
    # The producer makes the default stream wait for what it has enqueued elsewhere.
    capsule = image.__dlpack__(stream=_LEGACY_STREAM)
    return _describe(*read_dlpack(capsule), color, _LEGACY_STREAM, (image, capsule))


class _Tensor(ctypes.Structure):
    """DLTensor of dlpack.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def read_dlpack(capsule: Any) -> tuple[int, tuple[int, ...], tuple[int, ...] | None]:
    """Address, shape and strides in bytes (None for contiguous) of the uint8 tensor in a DLPack capsule.

    The capsule is only looked into: it must be kept while the memory is used, and frees it when it is dropped.

    Raises:
        SourceError: the tensor is not of uint8.
    """
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _Tensor.from_address(get_pointer(capsule, b"dltensor"))
    if (tensor.code, tensor.bits, tensor.lanes) != (_DLPACK_UINT, 8, 1):
        raise SourceError(
            f"image is a device array of {tensor.bits}-bit numbers or not of uint8; expected uint8, 0 to 255"
        )
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None
    return (tensor.data or 0) + tensor.byte_offset, shape, strides


def _describe(
    address: int,
    shape: Sequence[int],
    strides: Sequence[int] | None,
    color: str | None,
    stream: int | None,
    owner: object,
) -> DeviceImage:
    shape = tuple(map(int, shape))
    text = "x".join(map(str, shape))
    if color not in (None, "rgb", "bgr", "nv12"):
        raise OptionError(f"color is {color!r}; expected 'rgb', 'bgr' or 'nv12'")
    flat = len(shape) == 2
    if not flat and not (len(shape) == 3 and shape[2] == 3):
        raise SourceError(
            f"image is a device array of shape {text}; expected height x width x 3, or height x width for grey"
        )
    if not all(1 <= side <= _MAX_SIDE for side in shape):
        raise SourceError(f"image is a device array of shape {text}; expected sides of 1 to {_MAX_SIDE}")
    if strides is None:
        strides = (shape[1], 1) if flat else (shape[1] * 3, 3, 1)
    row, column, channel = (*map(int, strides), 0)[:3]
    layout: Layout = "grey"
    height = shape[0]
    if color == "nv12":
        if not flat or shape[0] % 3 or shape[1] % 2:
            raise SourceError(
                f"image is a device array of shape {text}; expected (height * 3 / 2) x width with even sides for NV12"
            )
        layout, height = "nv12", shape[0] * 2 // 3
        if column != 1:
            raise SourceError("image is an NV12 device array whose rows are not contiguous; copy it first")
    elif not flat:
        if color is None:
            raise OptionError("color is not given; expected 'rgb' or 'bgr' for an array of three channels")
        layout = "bgr" if color == "bgr" else "rgb"
    return DeviceImage(address, height, shape[1], (row, column, channel), layout, stream, owner)
