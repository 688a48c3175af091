"""Images on a GPU are described right, whatever library they come from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from camscribe.runtime.captioner import Captioner
from camscribe.runtime.cuda.arrays import device_image, read_dlpack
from camscribe.runtime.errors import CamscribeError, EngineError, OptionError, SourceError
from camscribe.runtime.images import as_rgb, is_on_gpu
from camscribe.runtime.pixels import PixelSpec


class OnGpu:
    """What a library shows of an array on the GPU, without a GPU."""

    def __init__(self, shape: tuple[int, ...], version: int = 3, **fields: Any) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape, "typestr": "|u1", "data": (1 << 20, False), "version": version, **fields,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("array", "color", "expected"),
    [
        (OnGpu((4, 6, 3)), "rgb", (4, 6, (18, 3, 1), "rgb", None)),
        (OnGpu((4, 6, 3), strides=None, stream=7), "bgr", (4, 6, (18, 3, 1), "bgr", 7)),
        (OnGpu((4, 6, 3), strides=(64, 3, 1), stream=1), "rgb", (4, 6, (64, 3, 1), "rgb", 1)),
        (OnGpu((4, 6, 3), strides=(6, 1, 24)), "rgb", (4, 6, (6, 1, 24), "rgb", None)),
        (OnGpu((4, 6), strides=(-8, 1)), None, (4, 6, (-8, 1, 0), "grey", None)),
        (OnGpu((6, 6), strides=(32, 1)), "nv12", (4, 6, (32, 1, 0), "nv12", None)),
        # Version 2 says nothing of streams: the default one is waited for.
        (OnGpu((4, 6, 3), version=2), "rgb", (4, 6, (18, 3, 1), "rgb", 1)),
    ],
)
def test_the_cuda_array_interface_is_read(array: Any, color: str | None, expected: tuple[Any, ...]) -> None:
    assert is_on_gpu(array)
    image = device_image(array, color)
    assert (image.height, image.width, image.strides, image.layout, image.stream) == expected
    assert image.address == 1 << 20
    assert image.owner is array


@pytest.mark.parametrize(
    ("array", "color", "error", "message"),
    [
        (OnGpu((4, 6, 3)), None, OptionError, "color is not given; expected 'rgb' or 'bgr'"),
        (OnGpu((4, 6, 3)), "rgba", OptionError, "color is 'rgba'"),
        (OnGpu((4, 6, 4)), "rgb", SourceError, "shape 4x6x4; expected height x width x 3"),
        (OnGpu((4,)), "rgb", SourceError, "shape 4; expected"),
        (OnGpu((0, 6, 3)), "rgb", SourceError, "shape 0x6x3; expected sides of 1 to"),
        (OnGpu((1 << 17, 6)), None, SourceError, "expected sides of 1 to 65536"),
        (OnGpu((5, 6)), "nv12", SourceError, "even sides for NV12"),
        (OnGpu((6, 5)), "nv12", SourceError, "even sides for NV12"),
        (OnGpu((6, 6), strides=(64, 2)), "nv12", SourceError, "rows are not contiguous"),
        (OnGpu((4, 6), typestr="<f4"), None, SourceError, "device array of <f4; expected uint8"),
        (OnGpu((4, 6), mask=OnGpu((4, 6))), None, SourceError, "mask"),
        (OnGpu((4, 6), data=None), None, SourceError, "device array that cannot be read"),
    ],
)
def test_what_is_no_image_is_refused(array: Any, color: str | None, error: type[CamscribeError], message: str) -> None:
    with pytest.raises(error, match=message):
        device_image(array, color)


def test_dlpack_capsules_of_a_real_library_are_read() -> None:
    whole = torch.arange(8 * 10 * 3, dtype=torch.uint8).reshape(8, 10, 3)
    for tensor in (whole, whole[2:6, 1:9:2], whole.permute(2, 0, 1), whole[:, :, 0]):
        capsule = tensor.__dlpack__()
        address, shape, strides = read_dlpack(capsule)
        assert address == tensor.data_ptr()
        assert shape == tuple(tensor.shape)
        assert strides == tensor.stride()
        # Only looked into: the capsule can still be consumed.
        assert torch.equal(torch.utils.dlpack.from_dlpack(capsule), tensor)
    with pytest.raises(SourceError, match="expected uint8"):
        read_dlpack(torch.zeros(2, 2).__dlpack__())
    with pytest.raises(SourceError, match="expected uint8"):
        read_dlpack(torch.zeros(2, 2, dtype=torch.int8).__dlpack__())


def test_arrays_of_the_host_are_not_taken_for_the_gpus() -> None:
    for image in (np.zeros((2, 2), np.uint8), torch.zeros(2, 2, dtype=torch.uint8), "a.jpg", None):
        assert not is_on_gpu(image)


def test_an_engine_reads_an_image_where_it_lies_only_if_it_can() -> None:
    spec = PixelSpec(8, 16)
    assert device_image(OnGpu((8, 16, 3)), "rgb").is_input_of(spec)
    for array, color in (
        (OnGpu((8, 16, 3)), "bgr"),
        (OnGpu((8, 17, 3)), "rgb"),
        (OnGpu((8, 16, 3), strides=(64, 3, 1)), "rgb"),
        (OnGpu((8, 16, 3), data=((1 << 20) + 48, False)), "rgb"),  # TensorRT wants multiples of 256
        (OnGpu((8, 16)), None),
    ):
        assert not device_image(array, color).is_input_of(spec)


def test_a_cpu_says_in_one_line_why_it_cannot_have_the_image(toy_bundle: Any) -> None:
    with Captioner.load(toy_bundle.path, "cpu", threads=1) as captioner:
        with pytest.raises(SourceError, match="shape 4x6x4"):
            captioner.caption(OnGpu((4, 6, 4)), "rgb")
        if not torch.cuda.is_available():
            with pytest.raises(EngineError, match=r"PyCUDA|driver|GPU") as error:
                captioner.caption(OnGpu((4, 6, 3)), "rgb")
            assert "\n" not in str(error.value)


def test_nv12_arrays_of_the_host_are_captioned_too() -> None:
    frame = np.full((6, 4), 128, np.uint8)
    frame[:4] = 81
    frame[4:, 0::2], frame[4:, 1::2] = 90, 240  # red, as BT.601 writes it
    assert as_rgb(frame, "nv12").shape == (4, 4, 3)
    np.testing.assert_allclose(as_rgb(frame, "nv12")[0, 0], (255, 0, 0), atol=2)
    for shape in ((5, 4), (6, 5), (6, 4, 3)):
        with pytest.raises(SourceError, match="even sides for NV12"):
            as_rgb(np.zeros(shape, np.uint8), "nv12")
