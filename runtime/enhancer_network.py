"""An enhancer's network on one device, and how a device is chosen."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

from camscribe.runtime.enhancer_bundle import EnhancerBundle
from camscribe.runtime.errors import BundleError, EngineError, NoEngineError, OptionError
from camscribe.runtime.executor import BuildTold, Choice, has_nvidia_gpu, why_not
from camscribe.runtime.fallback import Fallback
from camscribe.runtime.manifest import Device
from camscribe.runtime.onnxruntime_executor import open_session, providers_for, tensor_specs
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.threads import check_threads

Backend = Literal["auto", "cpu", "cuda", "tensorrt", "ort-tensorrt"]
"""``tensorrt`` runs engines made by ``camscribe build``. ``ort-tensorrt`` is ONNX Runtime with its TensorRT provider,
which builds an engine for every size of image it meets: minutes the first time, kept in the user's cache folder."""
TILE = 384
"""Rows and columns that go through the network at a time; a frame of 320x240 goes in one piece."""

_LOG = logging.getLogger(__name__)


class Network(Protocol):
    """One graph of an enhancer on one device. For one thread at a time.

    ``window`` is asked first for each image, then its tiles are run.
    """

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user may want to know of how it runs."""

    def window(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns at a time that an image of that size is best run in.

        Raises:
            NoEngineError: it takes no image of that size.
        """

    def run(self, images: Pixels) -> Pixels:
        """uint8 [1, h, w, 3] -> [1, scale h, scale w, 3], the caller's.

        Of the window's size, or of less on an axis where the image has less.

        Raises:
            EngineError: the device failed, for want of memory as a rule.
        """

    def close(self) -> None:
        """Gives memory and threads back."""


class SessionNetwork:
    """A graph in ONNX Runtime. See ``Network``.

    Args:
        session: of the graph.
        tile: rows and columns at a time.
        device: for messages.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, session: Any, tile: int, device: str) -> None:
        self._session: Any = session
        self._tile, self._device = tile, device

    def window(self, height: int, width: int) -> tuple[int, int]:
        """See ``Network``."""
        return self._tile, self._tile

    def run(self, images: Pixels) -> Pixels:
        """See ``Network``."""
        try:
            made: Pixels = self._session.run(["enhanced"], {"image": images})[0]
        except Exception as error:  # the errors of ONNX Runtime have no base of their own
            line = " ".join(str(error).split())[:300]
            raise EngineError(f"ONNX Runtime failed on {self._device}: {line}") from error
        return made

    def close(self) -> None:
        """See ``Network``."""
        self._session = None


class FallbackNetwork(Fallback[Network]):
    """Runs images in the first network or the second. See ``Network`` and ``Fallback``."""

    work = "images"

    def __init__(self, first: Network, second: Callable[[], Network]) -> None:
        super().__init__(first, second)
        self.notes = first.notes

    def window(self, height: int, width: int) -> tuple[int, int]:
        """See ``Network``."""
        return self._begin(lambda network: network.window(height, width))

    def run(self, images: Pixels) -> Pixels:
        """See ``Network``."""
        return self._active.run(images)


class Opened(NamedTuple):
    """What ``open_network`` gives."""

    bundle: EnhancerBundle
    network: Network
    variant: str
    choice: Choice


class _Wish(NamedTuple):
    """What a user asks for."""

    folder: Path | None
    variant: str | None
    precision: str | None
    threads: int | None
    tile: int


def open_network(
    folder: Path | None, backend: Backend, variant: str | None, precision: str | None, threads: int | None, tile: int
) -> Opened:
    """Opens one of a bundle's networks on the fastest backend that works here, or on the one that is asked for.

    Args:
        folder, backend, variant, precision, threads, tile: see ``camscribe.runtime.enhancer.Enhancer.load``.

    Raises:
        BundleError, EngineError, OptionError: see ``Enhancer.load``.
    """
    if backend not in get_args(Backend):
        raise OptionError(f"backend is {backend!r}; an enhancer runs on {', '.join(get_args(Backend))}")
    check_threads(threads)
    wish = _Wish(folder, variant, precision, threads, tile)
    if backend == "auto":
        return _open_fastest(wish)
    missing = None if backend == "cpu" else why_not(backend)
    if missing is not None:
        raise EngineError(f"backend {backend} cannot be used: {missing}")
    opened = _open_tensorrt(wish, build=True) if backend == "tensorrt" else _open_session(wish, backend)
    return opened._replace(choice=_chosen(opened, (f"{backend}: asked for",), surprising=False))


def _open_fastest(wish: _Wish) -> Opened:
    """Tries one backend after the other, the fastest first."""
    without, surprising = why_not("tensorrt"), False
    if without is None:
        try:
            opened = _open_tensorrt(wish, build=False)
        except EngineError as error:
            # All that TensorRT needs is here, so it is worth a word that a build is missing or does not load.
            without, surprising = str(error), True
        else:
            network = FallbackNetwork(opened.network, lambda: _next_fastest(wish).network)
            choice = _chosen(opened, ("tensorrt: taken, the fastest that works here",), surprising=False)
            return opened._replace(network=network, choice=choice)
    elif not has_nvidia_gpu():
        without = "there is no NVIDIA GPU here"
    opened = _next_fastest(wish)
    reasons = (f"tensorrt: {without}", *opened.choice.reasons)
    return opened._replace(choice=_chosen(opened, reasons, surprising=surprising or opened.choice.surprising))


def _next_fastest(wish: _Wish) -> Opened:
    """ONNX Runtime on the GPU, else on the CPU."""
    missing = why_not("cuda")
    # A GPU that stays idle is worth a word, a machine without one is not.
    surprising = missing is not None and has_nvidia_gpu()
    if missing is None:
        try:
            opened = _open_session(wish, "cuda")
        except EngineError as error:
            missing, surprising = str(error), True
        else:
            network = FallbackNetwork(opened.network, lambda: _open_session(wish, "cpu").network)
            return opened._replace(network=network, choice=_chosen(opened, ("cuda: taken",), surprising=False))
    opened = _open_session(wish, "cpu")
    return opened._replace(choice=_chosen(opened, (f"cuda: {missing}", "cpu: taken"), surprising=surprising))


def _open_session(wish: _Wish, backend: Literal["cpu", "cuda", "ort-tensorrt"]) -> Opened:
    """ONNX Runtime with one of its providers."""
    device: Device = "cpu" if backend == "cpu" else "cuda"
    bundle = EnhancerBundle.load(wish.folder, device, wish.variant, wish.precision)
    _check_tile(bundle, wish.tile)
    name, taken, graph = bundle.manifest.graph_for(device, wish.variant, wish.precision)
    providers = providers_for(device, tensorrt=backend == "ort-tensorrt")
    session = open_session(bundle.path / graph.file, device, wish.threads, providers)
    problems = graph.differences(tensor_specs(session.get_inputs()), tensor_specs(session.get_outputs()))
    if problems:
        raise BundleError(f"{bundle.path}: {'; '.join(problems)}: fetch or export the bundle again")
    return Opened(bundle, SessionNetwork(session, wish.tile, backend), name, Choice(backend, taken, (), False))


def _open_tensorrt(wish: _Wish, *, build: bool) -> Opened:
    """Engines of our own.

    Args:
        wish: see ``_Wish``. Its tile is the largest that is built unasked.
        build: build what is missing, which takes minutes.

    Raises:
        NoEngineError: ``build`` is False, and there is no engine.
        EngineError: TensorRT, PyCUDA or the GPU is missing, or an engine cannot be built or loaded.
    """
    from camscribe.runtime.cuda.driver import device_info
    from camscribe.runtime.tensorrt import enhancer_engines as engines
    from camscribe.runtime.tensorrt.enhancer_network import TensorRTNetwork
    from camscribe.runtime.tensorrt.toolchain import TileEngine

    info = device_info()
    bundle = EnhancerBundle.load(wish.folder, "cuda", wish.variant, wish.precision)
    _check_tile(bundle, wish.tile)
    variant = bundle.manifest.graph_for("cuda", wish.variant, None)[0]
    precision = engines.precision_for(bundle, variant, wish.precision)
    bundle = EnhancerBundle.load(wish.folder, "cuda", variant, precision)

    def load(height: int, width: int) -> TileEngine:
        return engines.open_engine(bundle, variant, precision, height, width, info)

    def made(height: int, width: int) -> TileEngine:
        size = (min(height, wish.tile), min(width, wish.tile))
        return engines.build_engine(bundle, variant, precision, *size, info, progress=BuildTold()).engines

    def command(height: int, width: int) -> str:
        return engines.command(bundle, variant, precision, min(height, wish.tile), min(width, wish.tile))

    sizes = engines.sizes_there(bundle, variant, precision, info)
    if not sizes:
        try:
            sizes = [made(wish.tile, wish.tile).key] if build else [load(wish.tile, wish.tile).key]
        except NoEngineError as error:
            raise NoEngineError(f"{error}, which makes pictures faster") from error
    network = TensorRTNetwork(bundle, variant, precision, sizes, load, made if build else None, command)
    return Opened(bundle, network, variant, Choice("tensorrt", precision, (), False))


def _check_tile(bundle: EnhancerBundle, tile: int) -> None:
    if tile <= 2 * bundle.manifest.radius:
        raise OptionError(f"tile is {tile}; expected more than {2 * bundle.manifest.radius}, the tiles' overlap")


def _chosen(opened: Opened, reasons: tuple[str, ...], *, surprising: bool) -> Choice:
    taken = opened.choice
    notes = tuple(f"{taken.backend}: {note}" for note in opened.network.notes)
    return Choice(taken.backend, taken.precision, (*reasons, *notes), surprising)
