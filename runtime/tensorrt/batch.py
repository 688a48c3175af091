"""One batch on engines of fixed sizes: the work of a search as a plan has it, on any device that can do six things."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from camscribe.runtime.cuda.arrays import DeviceImage
from camscribe.runtime.cuda.driver import Shared
from camscribe.runtime.manifest import Graph, GraphPair, Manifest
from camscribe.runtime.pixels import Pixels, PixelSpec
from camscribe.runtime.search import Floats, Selection, Trace, initial_score
from camscribe.runtime.tensorrt.plan import TRACE, Plan, Span


class Device(Protocol):
    """What a batch needs. Everything but ``synchronize`` only enqueues, and happens in the order of the calls."""

    def private(self, size: int) -> int:
        """Allocates memory that only the device sees; returns its address."""

    def shared(self, size: int) -> Shared:
        """Allocates memory that both see."""

    def upload(self, memory: Shared, begin: int, end: int) -> None:
        """Makes the device see what the host wrote."""

    def download(self, memory: Shared, begin: int, end: int) -> None:
        """Makes the host see what the device wrote, after the next ``synchronize``."""

    def copy(self, target: int, source: int, size: int) -> None:
        """Copies on the device."""

    def reduce(self, image: DeviceImage, spec: PixelSpec, target: int) -> None:
        """``camscribe.runtime.pixels.reduce`` of an image on the device, to an address."""

    def wait_for(self, image: DeviceImage) -> None:
        """Lets what follows wait until whoever made the image has written it."""

    def run(self, graph: Graph, addresses: Mapping[str, int]) -> None:
        """Runs an engine on tensors at these addresses."""

    def repeat(self, key: Hashable, work: Callable[[], None]) -> None:
        """Does work that is always the same for this key, so that a device may record and replay it."""

    def synchronize(self) -> None:
        """Waits until all is done."""

    def close(self) -> None:
        """Frees all memory."""


class Batch:
    """Memory and work of searches for up to B images with K beams in at most T steps.

    Args:
        device: owned from now on.
        manifest: of the bundle.
        pair: the tensors of the engines.
        images, beams, steps: B, K and T.
    """

    def __init__(
        self, device: Device, manifest: Manifest, pair: GraphPair, images: int, beams: int, steps: int
    ) -> None:
        self.plan = plan = Plan(manifest, pair, images, beams, steps)
        self._device, self._pixels = device, manifest.pixels
        self._shared, self._private = device.shared(plan.shared_bytes), device.private(plan.private_bytes)
        shared, private = self._shared.address, self._private
        self._image, self._bias, self._min_words = (
            self._view(plan.image),
            self._view(plan.bias),
            self._view(plan.min_words),
        )
        self._rows, self._attention = self._view(plan.rows), self._view(plan.attention)
        self._view(plan.step_numbers)[:] = np.arange(steps, dtype=np.int32)[:, None]
        self._column("token")[0] = manifest.special_tokens.start
        self._column("parent")[0] = np.arange(beams)
        self._column("score")[0] = initial_score(images, beams)
        device.upload(self._shared, 0, plan.shared_bytes)
        self._spread = plan.spread(private)
        self._steps = [plan.decoder(private, shared, step) for step in range(steps)]
        self._fetched = 0
        self.count = 0
        """Images of the search that runs."""

    def start(self, images: Sequence[Pixels | DeviceImage], min_words: int, bias: Floats) -> None:
        """Encodes images and gives their states to the beams. Nothing may be running that reads its inputs.

        Args:
            images: 1 to B of them: uint8 [H, W, 3] RGB, reduced; or images on the device, of any size.
            min_words: input of the decoder.
            bias: input of the decoder, float32 [V].
        """
        self.count, self._fetched = len(images), 0
        self._min_words[0] = min_words
        self._bias[:] = bias
        for place, image in zip(self._image, images, strict=False):
            if not isinstance(image, DeviceImage):
                place[...] = image
        on_device = [image for image in images if isinstance(image, DeviceImage)]
        for image in on_device:
            self._device.wait_for(image)
        self._device.upload(self._shared, *self.plan.inputs(image=len(on_device) < len(images)))
        address = None
        if self.plan.images == 1 and on_device and on_device[0].is_input_of(self._pixels):
            address = on_device[0].address
        elif on_device:
            size = self.plan.image.bytes // self.plan.images
            begin = self._shared.address + self.plan.image.offset
            for index, image in enumerate(images):
                if isinstance(image, DeviceImage):
                    self._device.reduce(image, self._pixels, begin + index * size)
        if self.plan.boxes is None:
            self._device.repeat(("encode", address), lambda: self._encode(address))
        else:
            # How many boxes overlap depends on the image. TensorRT waits for that number, which cannot be recorded.
            self._encode(address)

    def step(self, first: int, last: int) -> None:
        """Runs steps ``first`` to ``last - 1``."""
        self._device.repeat((first, last), lambda: self._decode(first, last))

    def propose(self, step: int) -> None:
        """Runs a step, and lets the host see its ``log_prob`` after the device's next ``synchronize``."""
        self.step(step, step + 1)
        source, target = self.plan.unread["log_prob"], self.plan.log_prob
        self._device.copy(self._shared.address + target.offset, self._private + source.offset, target.bytes)
        self._device.download(self._shared, target.offset, target.end)

    def log_prob(self) -> Floats:
        """Of the step proposed last, float32 [B, K, V]; a view."""
        return self._view(self.plan.log_prob)[: self.count]

    def choose(self, step: int, selection: Selection) -> None:
        """Writes a selection over that of step ``step``. Nothing may be running that reads it."""
        self._device.download(self._shared, *self.plan.rows_of(step, step + 1))
        self._device.synchronize()
        for name, value in zip(TRACE, selection, strict=True):
            self._column(name)[step + 1, : self.count] = value
        self._device.upload(self._shared, *self.plan.rows_of(step, step + 1))

    def fetch(self, steps: int, *, attention: bool) -> None:
        """Lets the host see the first ``steps`` steps, after the device's next ``synchronize``."""
        if self._fetched < steps:
            self._device.download(self._shared, *self.plan.rows_of(self._fetched, steps))
            self._fetched = steps
        if attention and steps:
            self._device.download(self._shared, *self.plan.attention_of(steps))

    def trace(self, steps: int, *, attention: bool) -> Trace:
        """The first ``steps`` steps, fetched before. Copies: the memory may be freed while a caller holds them."""
        rows = slice(1, steps + 1)
        columns = [self._column(name)[rows, : self.count].copy() for name in TRACE]
        plan, weights = self.plan, None
        if attention:
            used = self._attention[:steps, : plan.images * plan.beams * plan.positions]
            weights = used.reshape(steps, plan.images, plan.beams, plan.positions)[:, : self.count].copy()
        return Trace(columns[0], columns[1], columns[2], columns[3], columns[4], weights)

    def fetch_boxes(self) -> None:
        """Lets the host see the encoder's boxes, after the device's next ``synchronize``."""
        if self.plan.boxes is not None:
            self._device.download(self._shared, self.plan.boxes.offset, self.plan.boxes.end)

    def boxes(self) -> Floats | None:
        """The boxes fetched before, float32 [B, P, 4]; a copy. None where the encoder makes none."""
        return None if self.plan.boxes is None else self._view(self.plan.boxes)[: self.count].copy()

    def close(self) -> None:
        """Frees the memory."""
        self._device.close()

    def _encode(self, image: int | None) -> None:
        self._device.run("encoder", self.plan.encoder(self._private, self._shared.address, image))
        for target, source, size in self._spread:
            self._device.copy(target, source, size)

    def _decode(self, first: int, last: int) -> None:
        for addresses in self._steps[first:last]:
            self._device.run("decoder", addresses)

    def _view(self, span: Span) -> npt.NDArray[Any]:
        return self._shared.host[span.offset : span.end].view(span.dtype).reshape(span.shape)

    def _column(self, name: str) -> npt.NDArray[Any]:
        """[T + 1, B, K] of one column of the trace; row 0 is the start."""
        plan = self.plan
        numbers = self._rows[:, TRACE.index(name)].view(np.float32 if "score" in name else np.int32)
        return numbers[:, : plan.images * plan.beams].reshape(-1, plan.images, plan.beams)
