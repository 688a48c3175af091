"""Super-resolution for people and for the captioner: images in, larger and sharper images out."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import overload

from camscribe.runtime.enhancer_bundle import EnhancerBundle
from camscribe.runtime.enhancer_network import TILE, Backend, FallbackNetwork, Network, open_network
from camscribe.runtime.errors import EngineError, OptionError, SourceError
from camscribe.runtime.executor import Choice
from camscribe.runtime.images import MAX_PIXELS, Color, ImageLike, as_rgb
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.tiles import Stage, enlarge


@dataclass(frozen=True)
class Enhanced:
    """What enhancing an image gave."""

    pixels: Pixels
    """uint8 [H, W, 3], RGB, ``scale`` times as large in each axis."""
    read_ms: float
    """Decoding of the file, or conversion of the array."""
    enhance_ms: float
    """All tiles through the network."""


class Enhancer:
    """A loaded enhancer.

    Thread-safe: the network runs for one call at a time. Use it as a context manager, or ``close`` it, to give its
    memory back early.
    """

    def __init__(self, bundle: EnhancerBundle, network: Network, variant: str, choice: Choice) -> None:
        self.bundle = bundle
        self.choice = choice
        """Backend and precision taken, with the reasons."""
        self.variant = variant
        self._network: Network | None = network
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        backend: Backend = "auto",
        precision: str | None = None,
        threads: int | None = None,
        *,
        variant: str | None = None,
        tile: int = TILE,
    ) -> Enhancer:
        """Loads an enhancer's bundle.

        Args:
            path: the bundle's folder; None for the one that comes with the package.
            backend: where the network runs; ``auto`` takes the fastest that works here, see ``choice``: engines that
                ``camscribe build`` made, else ONNX Runtime. ``tensorrt`` first builds the engines it lacks.
            precision: one the bundle has, such as ``float32`` or ``int8``; None for its default on that device.
            threads: CPU threads; None for one per physical core.
            variant: ``psnr`` or ``gan``; None for the bundle's default.
            tile: rows and columns that go through the network at a time; engines have sizes of their own, and are built
                no larger than this unasked. Changes time and memory, never the result.

        Raises:
            BundleError: the bundle is missing, of another kind, or cannot be used.
            EngineError: the backend does not work here.
            OptionError: an argument has no meaning.
        """
        folder = None if path is None else Path(path)
        opened = open_network(folder, backend, variant, precision, threads, tile)
        return cls(opened.bundle, opened.network, opened.variant, opened.choice)

    @property
    def scale(self) -> int:
        """Enlargement in each axis."""
        return self.bundle.manifest.scale

    @overload
    def enhance(self, images: ImageLike, color: Color | None = None) -> Enhanced: ...

    @overload
    def enhance(
        self, images: list[ImageLike] | tuple[ImageLike, ...], color: Color | None = None
    ) -> list[Enhanced]: ...

    def enhance(
        self, images: ImageLike | list[ImageLike] | tuple[ImageLike, ...], color: Color | None = None
    ) -> Enhanced | list[Enhanced]:
        """Enhances an image, or each of a list of images.

        Args:
            images: one image or a list of them: paths, PIL images, uint8 numpy arrays [h, w, 3] or [h, w].
            color: ``"rgb"`` or ``"bgr"``, required for arrays of three channels; ``"nv12"`` for arrays [h * 3 / 2, w]
                of a camera; paths and PIL images know theirs.

        Raises:
            SourceError: an image cannot be read, is too small or too large; of a list, the first one is named.
            OptionError: ``color`` is missing or unknown.
            EngineError: the device failed, or the enhancer is closed.
        """
        if not isinstance(images, list | tuple):
            return self._enhance(images, color)
        made = []
        for index, result in enumerate(self.enhance_each(images, color)):
            if isinstance(result, SourceError):
                raise SourceError(f"image {index} of {len(images)}: {result}") from result
            made.append(result)
        return made

    def enhance_each(self, images: Iterable[ImageLike], color: Color | None = None) -> Iterator[Enhanced | SourceError]:
        """Enhances many images as they come; one that cannot be read gives its error.

        Raises:
            OptionError: ``color`` is missing or unknown.
            EngineError: the device failed, or the enhancer is closed.
        """
        for image in images:
            yield self._enhance_or_error(image, color)

    def enlarge(self, pixels: Pixels, stage: Stage = lambda name: nullcontext()) -> Pixels:
        """Enhances pixels: uint8 [h, w, 3] RGB -> [scale h, scale w, 3].

        Args:
            pixels: see above.
            stage: for benchmarks, see ``camscribe.runtime.tiles.enlarge``.

        Raises:
            SourceError: they are too few, or would become too many.
            EngineError: the device failed, or the enhancer is closed.
        """
        height, width = pixels.shape[:2]
        smallest = self.bundle.manifest.smallest
        if min(height, width) < smallest:
            raise SourceError(
                f"image is {width} x {height} pixels; this enhancer takes {smallest} x {smallest} or more"
            )
        if height * width * self.scale**2 > MAX_PIXELS:
            raise SourceError(
                f"image is {width} x {height} pixels; x{self.scale} that is more than {MAX_PIXELS} pixels in all"
            )
        with self._lock:
            if self._network is None:
                raise EngineError("this enhancer is closed; load it again")
            return self._run(self._network, pixels, stage)

    def close(self) -> None:
        """Gives memory and threads back. The enhancer cannot be used afterwards; closing it again does nothing."""
        with self._lock:
            network, self._network = self._network, None
            if network is not None:
                network.close()

    def __enter__(self) -> Enhancer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, network: Network, pixels: Pixels, stage: Stage) -> Pixels:
        try:
            window = network.window(pixels.shape[0], pixels.shape[1])
            return enlarge(pixels, network.run, self.scale, window, self.bundle.manifest.radius, stage)
        except EngineError as error:
            if not (isinstance(network, FallbackNetwork) and network.give_up(error)):
                raise
        return self._run(network, pixels, stage)

    def _enhance(self, image: ImageLike, color: Color | None) -> Enhanced:
        start = perf_counter()
        pixels = as_rgb(image, color)
        read = perf_counter()
        try:
            made = self.enlarge(pixels)
        except SourceError as error:
            where = f"{os.fspath(image)}: " if isinstance(image, str | os.PathLike) else ""
            raise SourceError(f"{where}{error}") from error
        return Enhanced(made, (read - start) * 1e3, (perf_counter() - read) * 1e3)

    def _enhance_or_error(self, image: ImageLike, color: Color | None) -> Enhanced | SourceError:
        try:
            return self._enhance(image, color)
        except SourceError as error:
            return error


class SmallImages:
    """Enhances images below a given size and passes others on: what ``--enhance`` puts before a captioner.

    Args:
        enhancer: stays the caller's.
        below: images whose shorter side has fewer pixels than this are enhanced.

    Raises:
        OptionError: ``below`` has no meaning.
    """

    def __init__(self, enhancer: Enhancer, below: int) -> None:
        if not 1 <= below <= 4096:
            raise OptionError(f"images below {below} pixels are to be enhanced; expected 1 to 4096")
        self.enhancer, self.below = enhancer, below

    def __call__(self, pixels: Pixels) -> tuple[Pixels, float]:
        """uint8 [h, w, 3] RGB -> the same or its enlargement, and the milliseconds that took.

        Images below the enhancer's smallest size are passed on: a captioner takes any.
        """
        side = min(pixels.shape[:2])
        if side >= self.below or side < self.enhancer.bundle.manifest.smallest:
            return pixels, 0.0
        start = perf_counter()
        return self.enhancer.enlarge(pixels), (perf_counter() - start) * 1e3
