"""The plan and the loop of the TensorRT executor on host memory, with ONNX Runtime in place of the engines.

The addresses, the copies and their order are those of a GPU. Device memory is memory of its own here too, so what is
not copied is not seen.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from camscribe.benchmarks.schema import Missing
from camscribe.benchmarks.stages import Recorder, instrumented, record
from camscribe.benchmarks.variants import Opened
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.cuda.arrays import DeviceImage
from camscribe.runtime.cuda.driver import Shared
from camscribe.runtime.errors import EngineError, NoEngineError
from camscribe.runtime.executor import Choice
from camscribe.runtime.executor import search as search_with
from camscribe.runtime.guided.guide import Guide
from camscribe.runtime.guided.options import GuidedOptions
from camscribe.runtime.manifest import Graph, GraphPair
from camscribe.runtime.onnxruntime_executor import OnnxRuntimeExecutor, open_session
from camscribe.runtime.pixels import PixelSpec, reduce
from camscribe.runtime.search import Hypothesis, Progress, SearchOptions, Selection, hypotheses
from camscribe.runtime.tensorrt.batch import Batch
from camscribe.runtime.tensorrt.executor import EngineExecutor
from camscribe.runtime.tensorrt.plan import ALIGNMENT, Plan
from camscribe.runtime.tensorrt.toolchain import EnginePair


def aligned_bytes(size: int) -> np.ndarray:
    """uint8 [size] at an address that is a multiple of 256, filled with what makes NaN of every float."""
    whole = np.full(size + ALIGNMENT, 0xFF, np.uint8)
    begin = -whole.ctypes.data % ALIGNMENT
    return whole[begin : begin + size]


class HostDevice:
    """``Device`` on host memory; ONNX Runtime reads and writes at the addresses of the plan."""

    def __init__(self, bundle: Bundle, sizes: dict[str, int], *, mapped: bool = False, recorded: bool = False) -> None:
        self.pair = bundle.manifest.precisions["float32"]
        self.sessions = {name: open_session(bundle.graph("float32", name), "cpu", 1) for name in ("encoder", "decoder")}
        self.sizes, self.mapped, self.recorded = sizes, mapped, recorded
        self.blocks: list[np.ndarray] = []
        self.calls: Counter[str] = Counter()
        self.queue: list[Callable[[], None]] = []
        self.graphs: dict[Hashable, list[Callable[[], None]]] = {}

    def _block(self, size: int) -> np.ndarray:
        self.blocks.append(aligned_bytes(size))
        return self.blocks[-1]

    def _enqueue(self, name: str, work: Callable[[], None]) -> None:
        """Nothing runs before somebody waits, so that a read without waiting shows."""
        self.calls[name] += 1
        self.queue.append(work)

    def private(self, size: int) -> int:
        return int(self._block(size).ctypes.data)

    def shared(self, size: int) -> Shared:
        host = self._block(size)
        host[:] = 0
        return Shared(host, host.ctypes.data if self.mapped else self.private(size), self.mapped)

    def upload(self, memory: Shared, begin: int, end: int) -> None:
        if not memory.mapped:
            content = memory.host[begin:end].tobytes()
            self._enqueue("upload", lambda: ctypes.memmove(memory.address + begin, content, end - begin) and None)

    def download(self, memory: Shared, begin: int, end: int) -> None:
        if not memory.mapped:
            target = memory.host[begin:end].ctypes.data
            self._enqueue("download", lambda: ctypes.memmove(target, memory.address + begin, end - begin) and None)

    def copy(self, target: int, source: int, size: int) -> None:
        self._enqueue("copy", lambda: ctypes.memmove(target, source, size) and None)

    def reduce(self, image: DeviceImage, spec: PixelSpec, target: int) -> None:
        pixels = reduce(image.owner, spec)  # type: ignore[arg-type]
        self._enqueue("reduce", lambda: ctypes.memmove(target, pixels.ctypes.data, pixels.nbytes) and None)

    def wait_for(self, image: DeviceImage) -> None:
        self.calls["wait_for"] += 1

    def run(self, graph: Graph, addresses: Mapping[str, int]) -> None:
        addresses = dict(addresses)

        def work() -> None:
            session = self.sessions[graph]
            spec = getattr(self.pair, graph)
            binding = session.io_binding()
            for bind, tensors in ((binding.bind_input, spec.inputs), (binding.bind_output, spec.outputs)):
                for tensor in tensors:
                    assert addresses[tensor.name] % ALIGNMENT == 0, tensor.name
                    shape = [self.sizes[size] if isinstance(size, str) else size for size in tensor.shape]
                    bind(tensor.name, "cpu", 0, np.dtype(tensor.dtype), shape, addresses[tensor.name])
            assert set(addresses) == {tensor.name for tensor in (*spec.inputs, *spec.outputs)}
            session.run_with_iobinding(binding)

        self._enqueue(graph, work)

    def repeat(self, key: Hashable, work: Callable[[], None]) -> None:
        """Replays what was recorded, addresses and all, as a CUDA graph does."""
        if not self.recorded or key not in self.graphs:
            before = len(self.queue)
            work()
            self.graphs[key] = self.queue[before:]
        else:
            self.calls["replay"] += 1
            self.queue += self.graphs[key]

    def synchronize(self) -> None:
        self.calls["synchronize"] += 1
        for work in self.queue:
            work()
        self.queue.clear()

    def close(self) -> None:
        self.blocks.clear()


def make_batch(bundle: Bundle, images: int, beams: int, steps: int, **options: bool) -> tuple[Batch, HostDevice]:
    rows, columns = bundle.manifest.attention_grid
    sizes = {"B": images, "K": beams, "P": rows * columns, "V": bundle.manifest.vocabulary_size}
    device = HostDevice(bundle, sizes, **options)
    return Batch(device, bundle.manifest, bundle.manifest.precisions["float32"], images, beams, steps), device


def search(
    batch: Batch, device: HostDevice, images: Any, options: SearchOptions, bias: Any, poll: int
) -> list[list[Hypothesis]]:
    """The loop of ``camscribe.runtime.executor.search`` with the executor's intervals."""
    device.synchronize()
    batch.start(images, options.min_words, bias)
    progress = Progress(len(images), options)
    step = 0
    while step < options.max_words:
        last = min(step + poll, options.max_words)
        batch.step(step, last)
        step = last
        batch.fetch(step, attention=False)
        device.synchronize()
        if progress.finished(batch.trace(step, attention=False)):
            break
    batch.fetch(step, attention=True)
    device.synchronize()
    return hypotheses(batch.trace(step, attention=True), options, progress)


def expected(bundle: Bundle, images: Any, options: SearchOptions) -> list[list[Hypothesis]]:
    executor = OnnxRuntimeExecutor(bundle, "float32", "cpu", 1)
    executor.encode(images, options, bundle.vocabulary.bias(options.ban))
    return search_with(executor, options)


def assert_same(found: list[list[Hypothesis]], wanted: list[list[Hypothesis]], *, exact: bool = True) -> None:
    assert [[h.tokens for h in image] for image in found] == [[h.tokens for h in image] for image in wanted]
    for one, other in zip(chain(*found), chain(*wanted), strict=True):
        assert one.truncated == other.truncated
        np.testing.assert_allclose(one.log_prob, other.log_prob, rtol=0 if exact else 1e-4)
        assert one.attention is not None
        assert other.attention is not None
        np.testing.assert_allclose(one.attention, other.attention, rtol=0, atol=0 if exact else 1e-4)


@pytest.mark.parametrize("poll", [1, 3, 4, 8, 20])
@pytest.mark.parametrize(("images", "beams"), [(1, 1), (1, 3), (3, 2), (2, 5)])
@pytest.mark.parametrize("mapped", [False, True])
def test_the_plan_gives_the_words_of_onnx_runtime(
    toy_bundle: Bundle, toy: Any, images: int, beams: int, poll: int, mapped: bool
) -> None:
    options = SearchOptions(beams=beams, max_words=9, nbest=beams, min_words=2, ban=("<unk>",))
    batch, device = make_batch(toy_bundle, images, beams, 9, mapped=mapped)
    bias = toy_bundle.vocabulary.bias(options.ban)
    for seed in (0, 1):  # the second search finds the memory as the first left it
        pixels = toy.images(images, seed=seed)
        assert_same(search(batch, device, pixels, options, bias, poll), expected(toy_bundle, pixels, options))


@pytest.mark.parametrize(("mapped", "recorded"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("images", [1, 3])
def test_boxes_come_to_the_host_with_the_words_of_onnx_runtime(
    boxes_bundle: Bundle, boxes_toy: Any, images: int, mapped: bool, recorded: bool
) -> None:
    options, bias = SearchOptions(beams=3, max_words=8, nbest=3), boxes_bundle.vocabulary.bias()
    batch, device = make_batch(boxes_bundle, images, 3, 8, mapped=mapped, recorded=recorded)
    alone = OnnxRuntimeExecutor(boxes_bundle, "float32", "cpu", 1)
    for seed in (0, 1, 2):
        pixels = boxes_toy.images(images, seed=seed)
        found = search(batch, device, pixels, options, bias, 4)
        assert_same(found, expected(boxes_bundle, pixels, options))
        batch.fetch_boxes()
        device.synchronize()
        alone.encode(pixels, options, bias)
        boxes = batch.boxes()
        assert boxes is not None
        np.testing.assert_array_equal(boxes, alone.boxes())  # type: ignore[arg-type]
    # TensorRT waits for the number of boxes, so that only the steps can be recorded.
    assert device.calls["encoder"] == 3
    assert (device.calls["replay"] > 0) == recorded


def test_boxes_cost_others_nothing(toy_bundle: Bundle, toy: Any) -> None:
    batch, device = make_batch(toy_bundle, 1, 3, 8)
    assert batch.plan.boxes is None
    device.calls.clear()
    batch.fetch_boxes()
    assert batch.boxes() is None
    assert not device.calls


@pytest.mark.parametrize("mapped", [False, True])
def test_replayed_work_sees_new_images_and_options(toy_bundle: Bundle, toy: Any, mapped: bool) -> None:
    batch, device = make_batch(toy_bundle, 2, 3, 8, mapped=mapped, recorded=True)
    for seed, options in enumerate(
        [
            SearchOptions(beams=3, max_words=8, nbest=3),
            SearchOptions(beams=3, max_words=8, nbest=3, min_words=5),
            SearchOptions(beams=3, max_words=8, nbest=3, ban=("word5", "word6")),
        ]
    ):
        pixels = toy.images(2, seed=seed)
        found = search(batch, device, pixels, options, toy_bundle.vocabulary.bias(options.ban), 4)
        assert_same(found, expected(toy_bundle, pixels, options))
    assert device.calls["replay"] >= 4


def test_a_smaller_batch_leaves_a_part_idle(toy_bundle: Bundle, toy: Any) -> None:
    options = SearchOptions(beams=3, max_words=8, nbest=2)
    batch, device = make_batch(toy_bundle, 4, 3, 8)
    bias = toy_bundle.vocabulary.bias()
    for count in (4, 1, 3):
        pixels = toy.images(count, seed=count)
        found = search(batch, device, pixels, options, bias, 4)
        assert len(found) == count
        assert_same(found, expected(toy_bundle, pixels, options), exact=False)


def test_nothing_is_copied_to_the_host_or_waited_for_between_two_looks(toy_bundle: Bundle, toy: Any) -> None:
    batch, device = make_batch(toy_bundle, 1, 3, 8)
    device.calls.clear()
    batch.start(toy.images(1), 0, toy_bundle.vocabulary.bias())
    assert device.calls == {"upload": 1, "encoder": 1, "copy": 6}  # two states, three beams
    device.calls.clear()
    batch.step(0, 4)
    assert device.calls == {"decoder": 4}
    batch.fetch(4, attention=False)
    assert device.calls == {"decoder": 4, "download": 1}
    batch.step(4, 8)
    batch.fetch(8, attention=True)
    assert device.calls == {"decoder": 8, "download": 3}  # the attention comes once, at the end


def test_images_on_the_device_are_read_where_they_lie_or_reduced_there(toy_bundle: Bundle, toy: Any) -> None:
    options, bias = SearchOptions(beams=2, max_words=8), toy_bundle.vocabulary.bias()
    large = np.random.default_rng(3).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    exact = aligned_bytes(toy.side * toy.side * 3).reshape(toy.side, toy.side, 3)
    exact[:] = toy.images(1, seed=5)[0]

    def on_device(pixels: np.ndarray) -> DeviceImage:
        return DeviceImage(pixels.ctypes.data, *pixels.shape[:2], pixels.strides, "rgb", None, pixels)  # type: ignore[arg-type]

    spec = toy_bundle.manifest.pixels
    assert on_device(exact).is_input_of(spec)
    assert not on_device(exact[:, ::-1]).is_input_of(spec)
    batch, device = make_batch(toy_bundle, 1, 2, 8)
    device.calls.clear()
    found = search(batch, device, [on_device(exact)], options, bias, 4)
    assert_same(found, expected(toy_bundle, exact[None], options))
    assert (device.calls["reduce"], device.calls["upload"]) == (0, 1)  # the upload is that of the options
    found = search(batch, device, [on_device(large)], options, bias, 4)
    assert_same(found, expected(toy_bundle, reduce(large, spec)[None], options))
    assert device.calls["reduce"] == 1
    batch, device = make_batch(toy_bundle, 3, 2, 8)
    mixed = [exact, on_device(large), on_device(exact)]
    found = search(batch, device, mixed, options, bias, 4)
    assert_same(found, expected(toy_bundle, np.stack([exact, reduce(large, spec), exact]), options), exact=False)


def halved(model: onnx.ModelProto, names: tuple[str, ...]) -> onnx.ModelProto:
    """The graph with some inputs and outputs in half precision, computed in float32."""
    nodes = list(model.graph.node)
    for value in (*model.graph.input, *model.graph.output):
        if value.name not in names:
            continue
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
        inner = f"{value.name}.float32"
        for node in nodes:
            node.input[:] = [inner if name == value.name else name for name in node.input]
            node.output[:] = [inner if name == value.name else name for name in node.output]
        if value in model.graph.input:
            nodes.insert(0, helper.make_node("Cast", [value.name], [inner], to=TensorProto.FLOAT))
        else:
            nodes.append(helper.make_node("Cast", [inner], [value.name], to=TensorProto.FLOAT16))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(scope="module")
def half_bundle(toy_bundle: Bundle, make_toy: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The toy with its memory and a state in half precision, as the FP16 graphs may have them."""
    import dataclasses
    import hashlib
    import json
    import shutil

    from camscribe.runtime import typed_json

    folder = tmp_path_factory.mktemp("half") / "bundle"
    shutil.copytree(toy_bundle.path, folder)
    names = ("memory.features", "memory.keys", "state.h", "next_state.h")
    pair = toy_bundle.manifest.precisions["float32"]
    specs = {}
    manifest = json.loads((folder / "bundle.json").read_text())
    for graph in ("encoder", "decoder"):
        spec = getattr(pair, graph)
        content = halved(onnx.load(folder / spec.file), names).SerializeToString()
        (folder / spec.file).write_bytes(content)
        manifest["files"][spec.file] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        sides = [
            tuple(dataclasses.replace(item, dtype="float16") if item.name in names else item for item in side)
            for side in (spec.inputs, spec.outputs)
        ]
        specs[graph] = dataclasses.replace(spec, inputs=sides[0], outputs=sides[1])
    manifest["precisions"]["float32"] = typed_json.encode(GraphPair(**specs))
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return Bundle.load(folder)


@pytest.mark.parametrize("images", [1, 2])
def test_half_precision_tensors_are_sized_and_spread_by_their_own_type(
    half_bundle: Bundle, toy: Any, images: int
) -> None:
    options = SearchOptions(beams=3, max_words=8, nbest=3)
    batch, device = make_batch(half_bundle, images, 3, 8)
    pixels = toy.images(images)
    found = search(batch, device, pixels, options, half_bundle.vocabulary.bias(), 4)
    assert_same(found, expected(half_bundle, pixels, options))


@pytest.mark.parametrize(("images", "beams", "steps"), [(1, 1, 1), (1, 3, 20), (8, 5, 30), (3, 64, 7)])
def test_no_two_tensors_of_a_step_share_memory(toy_bundle: Bundle, images: int, beams: int, steps: int) -> None:
    pair = toy_bundle.manifest.precisions["float32"]
    plan = Plan(toy_bundle.manifest, pair, images, beams, steps)
    private, shared = 1 << 40, 1 << 20
    specs = {spec.name: spec for side in (pair.decoder.inputs, pair.decoder.outputs) for spec in side}
    for step in range(steps):
        spans = []
        for name, address in plan.decoder(private, shared, step).items():
            size = int(np.prod(plan.shape(specs[name]), dtype=np.int64)) * np.dtype(specs[name].dtype).itemsize
            base, room = (private, plan.private_bytes) if address >= private else (shared, plan.shared_bytes)
            assert base <= address
            assert address + size <= base + room
            assert address % ALIGNMENT == 0
            spans.append((address, address + size))
        spans.sort()
        assert all(one[1] <= other[0] for one, other in pairwise(spans))
        if step:
            for name in ("token", "parent", "score", "state.h", "state.last"):
                assert plan.decoder(0, 0, step)[name] == plan.decoder(0, 0, step - 1)[f"next_{name}"]


class HostMachine:
    """``Machine`` on host memory. Its engines are nothing but their sizes: ONNX Runtime stands in for them."""

    def __init__(self, bundle: Bundle, *, integrated: bool = False) -> None:
        self.integrated = integrated
        self.bundle = bundle
        self.sizes: dict[tuple[int, int], dict[str, int]] = {}
        self.devices: list[HostDevice] = []
        self.inside = 0
        self.closed = False
        self.failing = False

    @contextlib.contextmanager
    def current(self, doing: str) -> Iterator[None]:
        self.inside += 1
        try:
            if self.failing:
                raise EngineError(f"CUDA failed {doing}")
            yield
        finally:
            self.inside -= 1

    def open(self, engines: EnginePair, sizes: Mapping[str, int]) -> None:
        assert self.inside
        assert engines.encoder == b"encoder"
        self.sizes[engines.images, engines.beams] = dict(sizes)

    def device(self, images: int, beams: int) -> HostDevice:
        assert self.inside
        self.devices.append(HostDevice(self.bundle, self.sizes[images, beams], mapped=self.integrated, recorded=True))
        return self.devices[-1]

    def synchronize(self) -> None:
        assert self.inside
        for device in self.devices:
            device.synchronize()

    def close(self) -> None:
        self.closed = True


def engines(images: int, beams: int) -> EnginePair:
    return EnginePair(b"encoder", b"decoder", images, beams)


def make_executor(
    bundle: Bundle, more: Callable[[int, int], EnginePair] | None = None, **options: bool
) -> tuple[EngineExecutor, HostMachine]:
    machine = HostMachine(bundle, **options)
    pair = bundle.manifest.precisions["float32"]
    return EngineExecutor(bundle.manifest, pair, machine, engines(1, 3), more), machine


@pytest.mark.parametrize("integrated", [False, True])
def test_batches_larger_than_an_engine_are_searched_side_by_side(
    toy_bundle: Bundle, toy: Any, integrated: bool
) -> None:
    executor, machine = make_executor(toy_bundle, integrated=integrated)
    options, bias = SearchOptions(beams=3, max_words=8, nbest=3), toy_bundle.vocabulary.bias()
    for count in (1, 5, 2, 20, 1, 20):
        pixels = toy.images(count, seed=count)
        executor.encode(pixels, options, bias)
        found = search_with(executor, options)
        alone = [expected(toy_bundle, image[None], options)[0] for image in pixels]
        assert_same(found, alone)
    assert len(machine.devices) == 20  # made once each, as many as are needed together
    executor.close()
    assert machine.closed


@pytest.mark.parametrize("integrated", [False, True])
def test_boxes_of_batches_side_by_side_are_those_of_their_images(
    boxes_bundle: Bundle, boxes_toy: Any, integrated: bool
) -> None:
    executor, _ = make_executor(boxes_bundle, integrated=integrated)
    with pytest.raises(EngineError, match="boxes was called without encode"):
        executor.boxes()
    captioner = Captioner(boxes_bundle, executor, Choice("tensorrt", "float32", (), surprising=False))
    with Captioner.load(boxes_bundle.path, backend="cpu", threads=1) as plain:
        for count in (5, 1, 3):
            images = list(boxes_toy.images(count, seed=count))
            for one, other in zip(captioner.caption(images, "rgb"), plain.caption(images, "rgb"), strict=True):
                assert one.words == other.words
                np.testing.assert_array_equal(one.boxes, other.boxes)  # type: ignore[arg-type]
    executor.encode(boxes_toy.images(1), SearchOptions(beams=3, max_words=8), boxes_bundle.vocabulary.bias())
    held = executor.boxes()
    assert held is not None
    before = held.copy()
    executor.close()
    np.testing.assert_array_equal(held, before)  # a copy, which outlives the memory it came from
    with pytest.raises(EngineError, match="this executor is closed"):
        executor.boxes()


@pytest.mark.parametrize("integrated", [False, True])
def test_a_host_that_selects_gets_the_words_of_onnx_runtime(toy_bundle: Bundle, toy: Any, integrated: bool) -> None:
    executor, _ = make_executor(toy_bundle, integrated=integrated)
    plain = OnnxRuntimeExecutor(toy_bundle, "float32", "cpu", 1)
    options, bias = GuidedOptions(beams=3, max_words=8, nbest=3, no_repeat=1), toy_bundle.vocabulary.bias()
    for count in (1, 3, 2):
        pixels = toy.images(count, seed=count)
        found = []
        for each in (executor, plain):
            guide = Guide(options, toy_bundle.vocabulary, count)
            each.encode(pixels, guide.executor_options, bias)
            found.append(search_with(each, options, guide))
        assert_same(*found, exact=False)
        # The next search is the graph's own again, in the same memory.
        executor.encode(pixels, options, bias)
        assert_same(search_with(executor, options), expected(toy_bundle, pixels, options), exact=False)
    executor.encode(toy.images(1), options, bias)
    with pytest.raises(EngineError, match="choose was called without a step"):
        executor.choose(Selection(*[np.zeros((1, 3), np.int32)] * 5))


def test_engines_of_other_sizes_are_asked_for_once_and_used(toy_bundle: Bundle, toy: Any) -> None:
    asked = []

    def more(images: int, beams: int) -> EnginePair:
        asked.append((images, beams))
        if (images, beams) in ((8, 3), (1, 5)):
            return engines(images, beams)
        raise EngineError(f"no engine for {beams} beams: camscribe build --beams {beams}")

    executor, machine = make_executor(toy_bundle, more)
    bias = toy_bundle.vocabulary.bias()

    def run(count: int, beams: int) -> None:
        options, pixels = SearchOptions(beams=beams, max_words=8), toy.images(count)
        executor.encode(pixels, options, bias)
        assert_same(search_with(executor, options), expected(toy_bundle, pixels, options), exact=False)

    run(2, 3)
    run(8, 3)
    run(3, 3)  # the engine for 8 holds them
    run(1, 3)
    run(4, 5)
    run(4, 5)
    assert asked == [(2, 3), (8, 3), (4, 5), (1, 5)]
    assert sorted(machine.sizes) == [(1, 3), (1, 5), (8, 3)]
    for _ in range(2):
        with pytest.raises(NoEngineError, match="no engine for 2 beams: camscribe build --beams 2"):
            executor.encode(toy.images(1), SearchOptions(beams=2, max_words=8), bias)
    assert asked[4:] == [(1, 2)]
    run(1, 3)  # goes on as before


def test_steps_are_enqueued_in_intervals_and_read_to_any_point(toy_bundle: Bundle, toy: Any) -> None:
    executor, machine = make_executor(toy_bundle)
    options, bias = SearchOptions(beams=3, max_words=8), toy_bundle.vocabulary.bias()
    executor.encode(toy.images(1), options, bias)
    alone = OnnxRuntimeExecutor(toy_bundle, "float32", "cpu", 1)
    alone.encode(toy.images(1), options, bias)
    for step in range(8):
        executor.step()
        alone.step()
        assert machine.devices[0].calls["decoder"] == (4 if step < 4 else 8)
        for attention in (False, True):
            found, wanted = executor.trace(attention=attention), alone.trace(attention=attention)
            assert found.steps == step + 1
            for name in ("token", "parent", "score", "ended_score", "ended_parent", "attention"):
                np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    with pytest.raises(EngineError, match="more than max_words"):
        executor.step()


def test_a_failure_in_the_loop_ends_the_search_but_not_the_executor(toy_bundle: Bundle, toy: Any) -> None:
    executor, machine = make_executor(toy_bundle)
    options, bias, pixels = SearchOptions(beams=3, max_words=8), toy_bundle.vocabulary.bias(), toy.images(1)
    executor.encode(pixels, options, bias)
    machine.failing = True
    with pytest.raises(EngineError, match="CUDA failed decoding"):
        executor.step()
    with pytest.raises(EngineError, match="without encode"):
        executor.trace()
    machine.failing = False
    executor.encode(pixels, options, bias)
    assert_same(search_with(executor, options), expected(toy_bundle, pixels, options))
    assert machine.inside == 0


def test_a_closed_executor_says_so(toy_bundle: Bundle, toy: Any) -> None:
    executor, _ = make_executor(toy_bundle)
    options, bias = SearchOptions(beams=3, max_words=8), toy_bundle.vocabulary.bias()
    executor.encode(toy.images(1), options, bias)
    executor.step()
    held = executor.trace(attention=True)
    executor.close()
    executor.close()
    assert held.token.shape == (1, 1, 3)  # a copy, which outlives the memory it came from
    for call in (executor.step, executor.trace, lambda: executor.encode(toy.images(1), options, bias)):
        with pytest.raises(EngineError, match="this executor is closed"):
            call()


class QueueStamps:
    """Moments in the queue of a ``HostDevice``, as events are on a stream."""

    def __init__(self, device: HostDevice) -> None:
        self.queue = device.queue

    def now(self) -> list[float]:
        moment: list[float] = []
        self.queue.append(lambda: moment.append(time.perf_counter()))
        return moment

    def between(self, start: list[float], end: list[float]) -> float:
        return (end[0] - start[0]) * 1e3


@pytest.mark.parametrize("integrated", [False, True])
def test_the_benchmark_sees_every_stage_and_leaves_the_executor_as_it_was(
    toy_bundle: Bundle, toy: Any, tmp_path: Path, integrated: bool
) -> None:
    executor, machine = make_executor(toy_bundle, integrated=integrated)
    captioner = Captioner(toy_bundle, executor, Choice("tensorrt", "float32", (), surprising=False))
    variant = Opened("toy", None, "tensorrt", "float32", captioner, executor)
    file = tmp_path / "image.png"
    Image.fromarray(toy.images(1, seed=3)[0]).save(file)
    before, recorder = captioner.caption(file).text, Recorder()
    with instrumented(variant, recorder, QueueStamps):
        record(variant, file, recorder)
        recorder.clear()
        for _ in range(3):
            record(variant, file, recorder)
    stages = recorder.stages()
    assert not isinstance(stages, Missing)
    copies = set() if integrated else {"h2d", "d2h"}
    assert {"decode", "preprocess", "encoder", "spread", "decoder step", "words"} | copies <= set(stages)
    assert all(min(each) >= 0 for each in recorder.samples.values())
    assert stages["decoder step"].where == "device"
    assert stages["decode"].where == "host"
    assert stages["encoder"].per_caption == 1
    assert stages["decoder step"].per_caption % executor.poll in (
        0,
        toy_bundle.manifest.search.max_words % executor.poll,
    )
    assert len(recorder.enqueue_ms) >= 3
    assert executor._machine is machine
    assert captioner.caption(file).text == before
