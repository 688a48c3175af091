"""The engines of a bundle: from the cache, or built, checked and stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from camscribe.runtime.bundle import Bundle

if TYPE_CHECKING:
    from camscribe.runtime.cuda.driver import DeviceInfo

Progress = Callable[[str, float], None]
"""Told what is being done, in words, and its share that is done: 0 to 1, NaN where nobody knows."""


@dataclass(frozen=True)
class EnginePair:
    """The two engines of one precision, as TensorRT serialized them."""

    encoder: bytes
    decoder: bytes
    images: int
    """B that both are frozen for; smaller batches are padded."""
    beams: int
    """K that the decoder is frozen for; the encoder knows no beams."""


def open_engines(
    bundle: Bundle,
    precision: str,
    images: int,
    beams: int,
    device_info: DeviceInfo,
    *,
    build: bool,
    progress: Progress | None = None,
) -> EnginePair:
    """The engines of a bundle for B images and K beams on this device.

    Args:
        bundle: a loaded bundle.
        precision: one of its precisions: ``float32``, ``fp16`` or ``int8``.
        images, beams: B and K.
        device_info: the GPU, see ``camscribe.runtime.cuda.driver.device_info``.
        build: build what is missing, which takes minutes, check it and store it.
        progress: told what is being built.

    Raises:
        EngineError: an engine is missing and ``build`` is False; or it cannot be built, or is not what ONNX Runtime is.
        OptionError: the bundle has no such precision, or B or K has no meaning.
    """
    raise NotImplementedError
