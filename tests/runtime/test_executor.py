"""The executor runs the search of the definition: its trace equals NumPy's over the same log-probabilities."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys
import types
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from camscribe.runtime import executor as executor_module
from camscribe.runtime import onnxruntime_executor
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import BundleError, EngineError, NoEngineError, OptionError
from camscribe.runtime.executor import open_executor, search
from camscribe.runtime.fallback import FallbackExecutor
from camscribe.runtime.onnxruntime_executor import OnnxRuntimeExecutor, open_session, providers_for, tensor_specs
from camscribe.runtime.search import DEAD, SearchOptions, Trace, hypotheses, initial_score, select

Make = Callable[..., Path]
has_gpu = executor_module.has_nvidia_gpu


def test_ctrl_c_while_onnx_runtime_is_imported_is_no_broken_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "onnxruntime":
                try:
                    raise KeyboardInterrupt
                except KeyboardInterrupt as error:  # as NumPy's C code does
                    raise ImportError("numpy._core.multiarray failed to import") from error

    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    with pytest.raises(KeyboardInterrupt):
        onnxruntime_executor.onnxruntime()


def numpy_search(
    bundle: Bundle, images: np.ndarray, options: SearchOptions, bias: np.ndarray, precision: str = "float32"
) -> Trace:
    """The search in NumPy around plain runs of the graphs, which give only log-probabilities, states and attention."""
    encoder, decoder = (open_session(bundle.graph(precision, graph), "cpu", 1) for graph in ("encoder", "decoder"))
    count, beams, end = len(images), options.beams, bundle.vocabulary.end_id
    made = dict(zip([item.name for item in encoder.get_outputs()], encoder.run(None, {"image": images}), strict=True))
    memory = {name: value for name, value in made.items() if name.startswith("memory.")}
    state = {
        name: np.repeat(value[:, None], beams, axis=1) for name, value in made.items() if name.startswith("state.")
    }
    token = np.full((count, beams), bundle.vocabulary.start_id, np.int32)
    parent = np.tile(np.arange(beams, dtype=np.int32), (count, 1))
    score = initial_score(count, beams)
    names = ["log_prob", "attention", *(f"next_{name}" for name in state)]
    rows: list[tuple[np.ndarray, ...]] = []
    for step in range(options.max_words):
        feeds = {
            "token": token, "parent": parent, "score": score, "step": np.array([step], np.int32),
            "min_words": np.array([options.min_words], np.int32), "bias": bias, **state, **memory,
        }  # fmt: skip
        log_prob, attention, *states = decoder.run(names, feeds)
        state = dict(zip(state, states, strict=True))
        chosen = select(log_prob, score, step, options.min_words, bias, end)
        token, parent, score = chosen.next_token, chosen.next_parent, chosen.next_score
        rows.append((*chosen, attention))
    return Trace(*(np.stack(column) for column in zip(*rows, strict=True)))


def run(
    bundle: Bundle, images: np.ndarray, options: SearchOptions, bias: np.ndarray, precision: str = "float32"
) -> Trace:
    executor = OnnxRuntimeExecutor(bundle, precision, "cpu", threads=1)
    executor.encode(images, options, bias)
    for _ in range(options.max_words):
        executor.step()
    trace = executor.trace(attention=True)
    executor.close()
    return trace


@pytest.mark.parametrize("beams", [1, 2, 3, 5, 12])
@pytest.mark.parametrize(
    ("end_bonus", "min_words", "ban"), [(0, 0, ()), (3, 2, ("word5", "<unk>")), (-30, 0, ()), (8, 0, ()), (8, 7, ())]
)
def test_the_trace_equals_the_definition(
    make_toy: Make, toy: Any, tmp_path: Path, beams: int, end_bonus: float, min_words: int, ban: tuple[str, ...]
) -> None:
    toy = dataclasses.replace(toy, end_bonus=end_bonus, seed=beams)
    bundle = Bundle.load(make_toy(tmp_path / "toy", toy))
    options = SearchOptions(beams=beams, max_words=8, min_words=min_words)
    images, bias = toy.images(3), bundle.vocabulary.bias(ban)
    expected = numpy_search(bundle, images, options, bias)
    found = run(bundle, images, options, bias)
    assert found.steps == 8
    for field in ("token", "parent", "ended_parent"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field), err_msg=field)
    for field in ("score", "ended_score", "attention"):
        np.testing.assert_allclose(getattr(found, field), getattr(expected, field), rtol=1e-5, atol=1e-5)
    if min_words:
        assert (found.ended_score[:min_words] == DEAD).all()
    banned = np.flatnonzero(bias)
    assert not (np.isin(found.token, banned) & (found.score > DEAD / 2)).any()


@pytest.mark.parametrize("beams", [1, 3])
def test_states_and_memories_may_be_half(make_toy: Make, toy: Any, tmp_path: Path, beams: int) -> None:
    from camscribe.export.command import main

    folder = make_toy(tmp_path / "toy", toy)
    assert main(["--update", str(folder), "--add", "fp16"]) == 0
    bundle = Bundle.load(folder)
    dtypes = {spec.name: spec.dtype for spec in bundle.manifest.precisions["fp16"].decoder.inputs}
    assert dtypes["memory.features"] == dtypes["state.h"] == "float16"
    assert (dtypes["score"], dtypes["state.last"]) == ("float32", "int32")
    options, images, bias = SearchOptions(beams=beams, max_words=8), toy.images(3), bundle.vocabulary.bias()
    expected = numpy_search(bundle, images, options, bias, "fp16")
    found = run(bundle, images, options, bias, "fp16")
    for field in ("token", "parent", "ended_parent"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field), err_msg=field)
    for field in ("score", "ended_score", "attention"):
        np.testing.assert_allclose(getattr(found, field), getattr(expected, field), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stop", ["optimal", "first_k"])
def test_no_result_depends_on_how_often_the_host_looks(toy_bundle: Bundle, toy: Any, stop: str) -> None:
    executor = OnnxRuntimeExecutor(toy_bundle, "float32", "cpu", threads=1)
    bias, results = toy_bundle.vocabulary.bias(), []
    for poll in (1, 2, 3, 5, 8):
        options = SearchOptions(beams=3, max_words=8, nbest=3, stop=stop, poll=poll)  # type: ignore[arg-type]
        executor.encode(toy.images(4), options, bias)
        found = search(executor, options)
        results.append([[(h.tokens, h.log_prob, h.score, h.truncated) for h in image] for image in found])
    assert all(result == results[0] for result in results)
    assert any(len(hypothesis[0]) < 8 for image in results[0] for hypothesis in image)


@pytest.mark.parametrize("beams", [1, 3, 5])
def test_an_image_alone_and_in_a_batch_gives_the_same_words(
    make_toy: Make, toy: Any, tmp_path: Path, beams: int
) -> None:
    bundle = Bundle.load(make_toy(tmp_path / "toy", dataclasses.replace(toy, words=40, width=16)))
    executor = OnnxRuntimeExecutor(bundle, "float32", "cpu", threads=1)
    options, bias, images = (
        SearchOptions(beams=beams, max_words=8, nbest=beams),
        bundle.vocabulary.bias(),
        toy.images(7),
    )

    def words(batch: np.ndarray) -> list[Any]:
        executor.encode(batch, options, bias)
        return [[(h.tokens, h.truncated) for h in image] for image in search(executor, options)]

    together = words(images)
    assert [words(image[None])[0] for image in images] == together
    assert words(images[[3, 0]]) == [together[3], together[0]]


def test_attention_of_a_word_is_that_of_the_beam_it_was_drawn_from(toy_bundle: Bundle, toy: Any) -> None:
    options, bias, images = SearchOptions(beams=4, max_words=8, nbest=4), toy_bundle.vocabulary.bias(), toy.images(2)
    reference = hypotheses(numpy_search(toy_bundle, images, options, bias), options)
    executor = OnnxRuntimeExecutor(toy_bundle, "float32", "cpu", threads=1)
    executor.encode(images, options, bias)
    found = search(executor, options)
    for mine, theirs in zip(chain(*found), chain(*reference), strict=True):
        assert mine.tokens == theirs.tokens
        assert mine.attention is not None
        assert theirs.attention is not None
        assert mine.attention.shape == (len(mine.tokens), toy.positions)
        np.testing.assert_allclose(mine.attention, theirs.attention, atol=1e-5)
        np.testing.assert_allclose(mine.attention.sum(axis=1), 1, atol=1e-5)


def test_results_outlive_the_next_search(toy_bundle: Bundle, toy: Any) -> None:
    options, bias = SearchOptions(beams=2, max_words=8), toy_bundle.vocabulary.bias()
    executor = OnnxRuntimeExecutor(toy_bundle, "float32", "cpu", threads=1)
    executor.encode(toy.images(1), options, bias)
    first = search(executor, options)[0][0]
    assert first.attention is not None
    kept = first.attention.copy()
    executor.encode(toy.images(1, seed=5), options, bias)
    search(executor, options)
    np.testing.assert_array_equal(first.attention, kept)


def test_sizes_may_change_between_searches(toy_bundle: Bundle, toy: Any) -> None:
    executor = OnnxRuntimeExecutor(toy_bundle, "float32", "cpu", threads=1)
    bias, expected = toy_bundle.vocabulary.bias(), {}
    for repeat in range(2):
        for count, beams, steps in ((1, 1, 8), (3, 2, 5), (2, 5, 8), (1, 3, 3), (4, 1, 8), (1, 2, 8)):
            options = SearchOptions(beams=beams, max_words=steps)
            executor.encode(toy.images(count), options, bias)
            found = [image[0].tokens for image in search(executor, options)]
            assert expected.setdefault((count, beams, steps), found) == found, repeat


def test_a_step_copies_and_allocates_no_arrays(toy_bundle: Bundle, toy: Any) -> None:
    executor = OnnxRuntimeExecutor(toy_bundle, "float32", "cpu", threads=1)
    executor.encode(toy.images(1), SearchOptions(beams=3, max_words=8), toy_bundle.vocabulary.bias())
    executor.step()
    before = executor.trace(attention=True)
    for _ in range(7):
        executor.step()
    after = executor.trace(attention=True)
    for field in dataclasses.fields(Trace):
        old, new = getattr(before, field.name), getattr(after, field.name)
        assert old.base is not None
        assert new.__array_interface__["data"] == old.__array_interface__["data"]


def test_steps_without_an_encode_or_beyond_the_last_are_refused(toy_bundle: Bundle, toy: Any) -> None:
    executor = OnnxRuntimeExecutor(toy_bundle, "float32", "cpu", threads=1)
    with pytest.raises(EngineError, match="without encode"):
        executor.step()
    with pytest.raises(EngineError, match="without encode"):
        executor.trace()
    executor.encode(toy.images(1), SearchOptions(max_words=1), toy_bundle.vocabulary.bias())
    executor.step()
    with pytest.raises(EngineError, match="max_words"):
        executor.step()


def test_specs_of_the_toy_graphs_are_those_of_its_manifest(toy_bundle: Bundle) -> None:
    for graph in ("encoder", "decoder"):
        session = open_session(toy_bundle.graph("float32", graph), "cpu", 1)
        spec = getattr(toy_bundle.manifest.precisions["float32"], graph)
        assert spec.differences(tensor_specs(session.get_inputs()), tensor_specs(session.get_outputs())) == []


def test_only_the_threads_of_the_decoder_stay_awake_between_runs(toy_bundle: Bundle) -> None:
    executor: Any = OnnxRuntimeExecutor(toy_bundle, "float32", "cpu", threads=2)
    stops = "session.force_spinning_stop"
    assert executor._encoder.get_session_options().get_session_config_entry(stops) == "1"
    decoder = executor._decoder.get_session_options()
    if onnxruntime_executor._limits_spinning(onnxruntime):
        with pytest.raises(RuntimeError, match=stops):  # it has no such entry
            decoder.get_session_config_entry(stops)
    else:
        assert decoder.get_session_config_entry(stops) == "1"
    executor.close()


@pytest.mark.parametrize(("version", "limits"), [("1.23.2", False), ("1.26.0", True), ("2.0.0+cpu", True)])
def test_how_long_threads_spin_can_be_said_since_1_26(version: str, limits: bool) -> None:
    runtime = types.ModuleType("onnxruntime")
    runtime.__version__ = version  # type: ignore[attr-defined]
    assert onnxruntime_executor._limits_spinning(runtime) is limits


@pytest.mark.parametrize("backend", ["auto", "cpu"])
def test_something_else_is_done_once_while_the_graphs_are_opened(toy_bundle: Bundle, backend: Any) -> None:
    calls: list[int] = []
    _, opened, _ = open_executor(toy_bundle.path, backend, meanwhile=lambda: calls.append(1))
    opened.close()
    assert calls == [1]

    def fail() -> None:
        raise EngineError("OpenCV cannot be imported")

    with pytest.raises(EngineError, match="OpenCV cannot be imported"):
        open_executor(toy_bundle.path, backend, meanwhile=fail)


def resealed(source: Bundle, target: Path, name: str, content: bytes) -> Path:
    """A copy whose manifest vouches for a changed file."""
    shutil.copytree(source.path, target)
    (target / name).write_bytes(content)
    manifest = json.loads((target / "bundle.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (target / "bundle.json").write_text(json.dumps(manifest))
    return target


def test_graphs_with_other_tensors_are_refused_all_at_once(
    make_toy: Make, toy: Any, toy_bundle: Bundle, tmp_path: Path
) -> None:
    other = make_toy(tmp_path / "other", dataclasses.replace(toy, width=6))
    decoder = (other / "decoder.onnx").read_bytes()
    with pytest.raises(BundleError) as error:
        open_executor(resealed(toy_bundle, tmp_path / "b", "decoder.onnx", decoder), "cpu")
    message = str(error.value)
    assert "decoder.onnx has input state.h float32[B,K,6]; expected state.h float32[B,K,8]" in message
    assert "memory.keys" in message
    assert "\n" not in message


def test_a_graph_that_is_none_is_refused_in_one_line(toy_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"encoder\.onnx: ONNX Runtime .* cannot open it") as error:
        open_executor(resealed(toy_bundle, tmp_path / "b", "encoder.onnx", b"not a graph"), "cpu")
    assert "\n" not in str(error.value)


def test_auto_says_what_it_took_and_why_not_the_others(toy_bundle: Bundle) -> None:
    _, executor, choice = open_executor(toy_bundle.path, "auto", threads=1)
    executor.close()
    assert choice.backend in ("cpu", "cuda", "tensorrt")
    assert choice.precision == "float32"
    assert choice.reasons[0].startswith("tensorrt: ")
    assert any("taken" in reason for reason in choice.reasons)
    if not has_gpu():
        assert choice.reasons[0] == "tensorrt: there is no NVIDIA GPU here"
        assert [reason.split(":")[0] for reason in choice.reasons] == ["tensorrt", "cuda", "cpu"]


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this one has CUDA")
def test_auto_is_surprised_by_a_gpu_that_stays_idle(toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module, "has_nvidia_gpu", lambda: True)
    assert open_executor(toy_bundle.path, "auto")[2].surprising
    monkeypatch.setattr(executor_module, "has_nvidia_gpu", lambda: False)
    assert not open_executor(toy_bundle.path, "auto")[2].surprising


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this one has CUDA")
def test_auto_falls_back_from_a_gpu_that_does_not_start_and_says_so(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_module, "why_not_cuda", lambda: None)
    _, executor, choice = open_executor(toy_bundle.path, "auto", threads=1)
    executor.close()
    assert (choice.backend, choice.surprising) == ("cpu", True)
    assert any(reason.startswith("cuda: ") and "cannot open it on cuda" in reason for reason in choice.reasons)


def test_auto_says_that_engines_would_be_faster_where_only_they_are_missing(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise NoEngineError("no engine was built here; camscribe build makes it, and captions faster")

    asked = executor_module.why_not
    monkeypatch.setattr(executor_module, "why_not", lambda name: None if name == "tensorrt" else asked(name))
    monkeypatch.setattr(executor_module, "_open_tensorrt", missing)
    _, executor, choice = open_executor(toy_bundle.path, "auto", threads=1)
    executor.close()
    assert choice.surprising
    assert choice.backend in ("cpu", "cuda")
    assert choice.reasons[0].startswith("tensorrt: no engine was built here; camscribe build")


def test_a_search_without_engines_goes_to_the_next_backend_which_is_said_once(
    toy_bundle: Bundle, toy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class ThreeBeams(OnnxRuntimeExecutor):
        poll = 4

        def encode(self, images: Any, options: SearchOptions, bias: Any) -> None:
            if options.beams != 3:
                raise NoEngineError(f"there is no engine for {options.beams} beams")
            super().encode(images, options, bias)

    opened: list[OnnxRuntimeExecutor] = []

    def second() -> OnnxRuntimeExecutor:
        opened.append(OnnxRuntimeExecutor(toy_bundle, "float32", "cpu", 1))
        return opened[-1]

    executor = FallbackExecutor(ThreeBeams(toy_bundle, "float32", "cpu", 1), second)
    bias, images = toy_bundle.vocabulary.bias(), toy.images(2)
    alone = OnnxRuntimeExecutor(toy_bundle, "float32", "cpu", 1)
    for beams in (3, 2, 3, 5, 2):
        options = SearchOptions(beams=beams, max_words=8, nbest=2)
        executor.encode(images, options, bias)
        assert executor.poll == (4 if beams == 3 else 1)
        found = search(executor, options)
        alone.encode(images, options, bias)
        assert [[h.tokens for h in image] for image in found] == [
            [h.tokens for h in image] for image in search(alone, options)
        ]
    assert len(opened) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "camscribe: there is no engine for 2 beams; the next fastest backend takes such searches"
    ]
    executor.close()
    with pytest.raises(EngineError):
        executor.step()


@pytest.mark.parametrize("where", ["encode", "step", "propose", "trace"])
def test_auto_goes_on_with_the_next_backend_when_a_device_fails_and_says_so_once(
    toy_bundle: Bundle, toy: Any, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """From one device to the next, and an error when the last one fails, too."""

    def plain() -> OnnxRuntimeExecutor:
        return OnnxRuntimeExecutor(toy_bundle, "float32", "cpu", 1)

    def breaks(executor: OnnxRuntimeExecutor, said: str) -> OnnxRuntimeExecutor:
        work, calls = getattr(executor, where), iter(range(100))

        def fails_from_the_second_on(*arguments: Any, **options: Any) -> Any:
            if next(calls):
                raise EngineError(said)
            return work(*arguments, **options)

        setattr(executor, where, fails_from_the_second_on)
        return executor

    last = plain()
    cuda = FallbackExecutor(breaks(plain(), "CUDA failed"), lambda: last)
    executor = FallbackExecutor(breaks(plain(), "TensorRT failed"), lambda: cuda)
    choice = executor_module.Choice("tensorrt", "float32", (), surprising=False)
    changes: dict[str, Any] = {"max_words": 5, "stop": "first_k"} | ({"no_repeat": 2} if where == "propose" else {})
    with Captioner(toy_bundle, plain(), choice) as alone, Captioner(toy_bundle, executor, choice) as captioner:
        for seed in range(4):
            image = toy.images(seed + 1)[-1]
            expected, found = (each.caption(image, "rgb", **changes) for each in (alone, captioner))
            assert (found.text, found.log_prob) == (expected.text, expected.log_prob)
        assert [record.getMessage() for record in caplog.records] == [
            "camscribe: TensorRT failed; the next fastest backend goes on",
            "camscribe: CUDA failed; the next fastest backend goes on",
        ]
        last.close()
        with pytest.raises(EngineError, match="this executor is closed; open it again"):
            captioner.caption(image, "rgb", **changes)
    assert len(caplog.records) == 2


def test_backends_that_do_not_work_here_say_so(toy_bundle: Bundle) -> None:
    if not has_gpu():
        with pytest.raises(EngineError, match=r"backend tensorrt cannot be used: .*(PyCUDA|driver|GPU)"):
            open_executor(toy_bundle.path, "tensorrt")
    with pytest.raises(OptionError, match="expected auto, cpu, cuda, cuda-graph, tensorrt, ort-tensorrt"):
        open_executor(toy_bundle.path, "npu")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="threads is 0"):
        open_executor(toy_bundle.path, "cpu", threads=0)
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(EngineError, match="built without CUDA"):
            open_executor(toy_bundle.path, "cuda")
        with pytest.raises(EngineError, match=r"backend cuda-graph cannot be used: .* built without CUDA"):
            open_executor(toy_bundle.path, "cuda-graph")
    if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(EngineError, match=r"backend ort-tensorrt cannot be used: .* built without TensorRT"):
            open_executor(toy_bundle.path, "ort-tensorrt")


def test_steps_with_a_graph_number_of_their_own_run_as_ever(toy_bundle: Bundle, toy: Any) -> None:
    """A CPU ignores the numbers; that every step of every plan has another one is what a GPU needs."""
    executor = OnnxRuntimeExecutor(toy_bundle, "float32", "cpu", threads=1)
    recorded = OnnxRuntimeExecutor(toy_bundle, "float32", "cpu", threads=1)
    recorded._graphs = True
    bias, numbers = toy_bundle.vocabulary.bias(), []
    for count, beams in ((1, 3), (2, 2), (1, 3)):
        options = SearchOptions(beams=beams, max_words=8)
        found = []
        for each in (executor, recorded):
            each.encode(toy.images(count), options, bias)
            found.append([image[0].tokens for image in search(each, options)])
        assert found[0] == found[1]
    for plan in recorded._plans.values():
        numbers += [option.get_run_config_entry("gpu_graph_id") for option in plan.options]
    assert len(set(numbers)) == len(numbers) == 16
    assert not {"-1", "0"} & set(numbers)  # "do not record" and the default


def test_providers_are_named_best_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert providers_for("cpu", tensorrt=True, graphs=True) == ["CPUExecutionProvider"]
    assert "enable_cuda_graph" not in providers_for("cuda")[0][1]
    assert providers_for("cuda", graphs=True)[0][1]["enable_cuda_graph"] == "1"
    names = [item if isinstance(item, str) else item[0] for item in providers_for("cuda", tensorrt=True)]
    assert names == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert (tmp_path / "cache" / "camscribe" / "onnxruntime").is_dir()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(EngineError, match="set XDG_CACHE_HOME"):
        providers_for("cuda", tensorrt=True)


@pytest.mark.gpu
@pytest.mark.skipif("CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="no CUDA provider")
@pytest.mark.parametrize("options_of", [{}, {"graphs": True}, {"tensorrt": True}], ids=str)
def test_a_gpu_gives_the_words_of_the_cpu(toy_bundle: Bundle, toy: Any, options_of: dict[str, bool]) -> None:
    if "tensorrt" in options_of and executor_module.why_not("ort-tensorrt") is not None:
        pytest.skip("no TensorRT provider")
    options, bias = SearchOptions(beams=3, max_words=8, nbest=3), toy_bundle.vocabulary.bias()
    alone = OnnxRuntimeExecutor(toy_bundle, "float32", "cpu")
    executor = OnnxRuntimeExecutor(toy_bundle, "float32", "cuda", **options_of)
    for seed in range(3):
        images, results = toy.images(4, seed=seed), []
        for each in (alone, executor):
            each.encode(images, options, bias)
            results.append([[h.tokens for h in image] for image in search(each, options)])
        assert results[0] == results[1]
