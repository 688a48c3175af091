"""An enhancer's network on TensorRT: engines for tiles of fixed sizes; the cheapest that fits takes an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from camscribe.runtime.enhancer_bundle import EnhancerBundle
from camscribe.runtime.errors import EngineError, NoEngineError
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.tensorrt.batch import Device
from camscribe.runtime.tensorrt.device import CudaMachine
from camscribe.runtime.tensorrt.enhancer_engines import sizes_of
from camscribe.runtime.tensorrt.executor import Machine
from camscribe.runtime.tensorrt.plan import Block
from camscribe.runtime.tensorrt.toolchain import TileEngine
from camscribe.runtime.tiles import spans

Size = tuple[int, int]
"""Rows and columns of a tile."""
Load = Callable[[int, int], TileEngine]
"""Gives the engine for a tile; raises EngineError where there is none."""


class EngineNetwork:
    """Runs an enhancer's engines on a machine. See ``camscribe.runtime.enhancer_network.Network``.

    Tiles always have an engine's very size: padding an image would change its borders. So an image takes engines that
    are no larger than it is; there may be none for a small one.

    Args:
        bundle: a loaded bundle.
        machine: owned from now on.
        sizes: of the engines that there are.
        load: gives them; each is opened when it is first needed, the first one at once.
        build: gives an engine for an image, its rows and columns, that none is for; None where these are all.
        command: how an engine for an image is made, for messages.

    Raises:
        EngineError: the first engine does not load.
    """

    notes: tuple[str, ...] = ()

    def __init__(
        self,
        bundle: EnhancerBundle,
        machine: Machine,
        sizes: Sequence[Size],
        load: Load,
        build: Load | None = None,
        command: Callable[[int, int], str] = lambda height, width: "camscribe build",
    ) -> None:
        self._bundle, self._sizes, self._load, self._build = bundle, list(sizes), load, build
        self._command = command
        self._machine: Machine | None = machine
        self._windows: dict[Size, _Window] = {}
        try:
            for size in self._sizes[:1]:
                self._open(machine, load(*size))
        except BaseException:
            self.close()
            raise

    def window(self, height: int, width: int) -> Size:
        """See ``Network``: of the engines that fit, the one that computes least.

        Raises:
            NoEngineError: none fits.
            EngineError: an engine cannot be built, or the enhancer is closed.
        """
        machine = self._running()
        radius = self._bundle.manifest.radius
        fitting = [size for size in self._sizes if _fits(height, size[0], radius) and _fits(width, size[1], radius)]
        if fitting:
            return min(fitting, key=lambda size: _cost(height, size[0], radius) * _cost(width, size[1], radius))
        if self._build is None:
            raise NoEngineError(
                f"there is no engine for an image of {width} x {height} pixels: {self._command(height, width)}"
            )
        engine = self._build(height, width)
        self._open(machine, engine)
        self._sizes.append(engine.key)
        return engine.key

    def run(self, images: Pixels) -> Pixels:
        """See ``Network``; of a size that ``window`` gave.

        Raises:
            EngineError: the device failed, or the enhancer is closed.
        """
        machine = self._running()
        size = (images.shape[1], images.shape[2])
        if size not in self._windows:
            self._open(machine, self._load(*size))
        with machine.current("enhancing"):
            return self._windows[size].run(images)

    def close(self) -> None:
        """Frees everything on the device. Closing again does nothing; other calls are errors from then on."""
        machine, self._machine = self._machine, None
        self._windows.clear()
        if machine is not None:
            machine.close()

    def _running(self) -> Machine:
        if self._machine is None:
            raise EngineError("this enhancer is closed; load it again")
        return self._machine

    def _open(self, machine: Machine, engine: TileEngine) -> None:
        scale = self._bundle.manifest.scale
        with machine.current("opening an engine"):
            machine.open(engine, sizes_of(self._bundle, *engine.key))
            self._windows[engine.key] = _Window(machine.device(*engine.key), scale, *engine.key)


class TensorRTNetwork(EngineNetwork):
    """Runs an enhancer's engines with TensorRT. See ``EngineNetwork``.

    Args:
        bundle, sizes, load, build, command: see ``EngineNetwork``.
        variant, precision: of the engines.

    Raises:
        EngineError: PyCUDA, TensorRT or the GPU is missing, or the first engine does not load.
    """

    def __init__(
        self,
        bundle: EnhancerBundle,
        variant: str,
        precision: str,
        sizes: Sequence[Size],
        load: Load,
        build: Load | None,
        command: Callable[[int, int], str],
    ) -> None:
        machine = CudaMachine({"enhancer": bundle.manifest.variants[variant][precision]})
        self.notes = machine.notes
        super().__init__(bundle, machine, sizes, load, build, command)


class _Window:
    """Memory and work of one engine. Call within ``Machine.current``."""

    def __init__(self, device: Device, scale: int, height: int, width: int) -> None:
        block = Block()
        self._image = block.add("uint8", (1, height, width, 3))
        self._enhanced = block.add("uint8", (1, scale * height, scale * width, 3))
        self._device, self._memory = device, device.shared(block.bytes)
        begin = self._memory.address
        self._addresses = {"image": begin + self._image.offset, "enhanced": begin + self._enhanced.offset}

    def run(self, images: Pixels) -> Pixels:
        """uint8 [1, h, w, 3] -> [1, scale h, scale w, 3], a copy."""
        host = self._memory.host
        host[self._image.offset : self._image.end] = images.reshape(-1)
        self._device.upload(self._memory, self._image.offset, self._image.end)
        self._device.repeat("enhance", lambda: self._device.run("enhancer", self._addresses))
        self._device.download(self._memory, self._enhanced.offset, self._enhanced.end)
        self._device.synchronize()
        made: Pixels = host[self._enhanced.offset : self._enhanced.end].reshape(self._enhanced.shape).copy()
        return made


def _fits(size: int, window: int, radius: int) -> bool:
    """Whether an axis can be cut into windows of exactly that size."""
    return window == size or 2 * radius < window < size


def _cost(size: int, window: int, radius: int) -> int:
    """Pixels along an axis that go through the network."""
    return sum(span.stop - span.start for span in spans(size, window, radius))
