"""What the C++ code decides by itself, asked of a sanitized build; Python's answers are the definition."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from camscribe.runtime.bundle import DEFAULT_BUNDLE, Bundle
from camscribe.runtime.errors import BundleError, OptionError
from camscribe.runtime.manifest import read_manifest
from camscribe.runtime.pixels import PixelSpec, reduce, resizes, visible_box
from camscribe.runtime.search import DEAD, Progress, SearchOptions, Trace, hypotheses
from camscribe.runtime.tensorrt.engine_cache import EngineCache, EngineKey, graph_sha256
from camscribe.runtime.threads import physical_cores

Ask = Callable[..., dict[str, Any]]
many = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
sides = st.integers(1, 5000)
specs = st.builds(PixelSpec, st.integers(8, 640), st.integers(8, 640), st.sampled_from(["squash", "crop"]))


@many
@given(height=sides, width=sides, spec=specs)
def test_images_are_resized_in_the_same_steps(ask: Ask, height: int, width: int, spec: PixelSpec) -> None:
    steps = ask("resizes", height=height, width=width, spec=spec.to_dict())["answer"]
    assert [tuple(step) for step in steps] == resizes(height, width, spec)
    assert tuple(ask("box", height=height, width=width, spec=spec.to_dict())["answer"]) == visible_box(
        height, width, spec
    )


@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize("size", [(480, 640), (1080, 1920), (224, 224), (300, 250), (224, 500), (97, 131), (3, 900)])
def test_reduced_pixels_are_those_of_python(ask: Ask, tmp_path: Path, size: tuple[int, int], fit: Any) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 2)
    spec = PixelSpec(224, 224, fit)
    image.tofile(tmp_path / "in")
    question = {"file": str(tmp_path / "in"), "out": str(tmp_path / "out"), "format": 1, "spec": spec.to_dict()}
    assert ask("reduce", height=size[0], width=size[1], **question)["answer"] == [224, 224]
    found = np.fromfile(tmp_path / "out", np.uint8).reshape(224, 224, 3)
    # Two builds of OpenCV shrink alike to the bit. Enlarging differs by rounding where one uses Intel's library.
    enlarges = any(name == "cubic" for _, _, name in resizes(*visible_box(*size, spec)[2:], spec))
    difference = np.abs(found.astype(int) - reduce(image, spec))
    assert difference.max() <= (1 if enlarges else 0)


@st.composite
def searches(draw: st.DrawFn) -> tuple[Trace, SearchOptions]:
    """A trace as a decoder might leave it, and options."""
    beams = draw(st.integers(1, 5))
    max_words = draw(st.integers(1, 8))
    stop = draw(st.sampled_from(["optimal", "first_k"]))
    penalty = draw(st.floats(0 if stop == "optimal" else -2, 2))
    options = SearchOptions(
        beams, max_words, 0, penalty, draw(st.integers(1, beams)), (), stop, draw(st.integers(1, max_words))
    )  # type: ignore[arg-type]
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    steps, positions, shape = draw(st.integers(1, max_words)), 3, (max_words, 1, beams)
    live = -np.sort(rng.gamma(2, 1, shape), axis=2).astype(np.float32).cumsum(axis=0)
    live[rng.random(shape) < draw(st.sampled_from([0, 0.2]))] = DEAD
    live = -np.sort(-live, axis=2)
    # Quarters, so that ties happen.
    ended = np.where(rng.random(shape) < 0.3, np.round(-rng.gamma(4, 1, shape) * 4) / 4, DEAD).astype(np.float32)
    integers = [rng.integers(0, high, shape).astype(np.int32) for high in (9, beams, beams)]
    attention = rng.random((*shape, positions)).astype(np.float32)
    rows = slice(0, steps)
    return (
        Trace(integers[0][rows], integers[1][rows], live[rows], ended[rows], integers[2][rows], attention[rows]),
        options,
    )


@many
@given(search=searches())
def test_hypotheses_are_read_from_a_trace_as_in_python(ask: Ask, search: tuple[Trace, SearchOptions]) -> None:
    trace, options = search
    progress = Progress(1, options)
    expected = hypotheses(trace, options, progress)[0]
    arrays = {name: getattr(trace, name).ravel().tolist() for name in ("token", "parent", "score", "ended_score")}
    answer = ask(
        "hypotheses",
        **arrays,
        ended_parent=trace.ended_parent.ravel().tolist(),
        attention=np.asarray(trace.attention).ravel().tolist(),
        steps=trace.steps,
        positions=3,
        options={**options.__dict__, "ban": []},
    )["answer"]
    assert answer["steps"] == progress.states[0].steps
    assert [tuple(found["tokens"]) for found in answer["hypotheses"]] == [item.tokens for item in expected]
    for found, item in zip(answer["hypotheses"], expected, strict=True):
        assert (found["log_prob"], found["truncated"]) == (item.log_prob, item.truncated)
        assert found["score"] == pytest.approx(item.score, rel=1e-12)
        np.testing.assert_array_equal(np.float32(found["attention"]), np.asarray(item.attention).ravel())


def test_a_trace_that_names_no_beam_is_refused(ask: Ask) -> None:
    options = {**SearchOptions(beams=1, max_words=1).__dict__, "ban": []}
    numbers: dict[str, Any] = {"token": [4], "score": [-1.0], "ended_score": [float(DEAD)], "ended_parent": [0]}
    refused = ask("hypotheses", parent=[7], attention=[1.0], steps=1, positions=1, options=options, **numbers)
    assert "continues beam 7 of 1" in refused["error"]


integers = st.integers(-3, 210)


@many
@given(integers, integers, integers, integers, integers, st.floats(-12, 12), st.sampled_from(["optimal", "first_k"]))
def test_options_are_refused_with_the_words_of_python(
    ask: Ask, beams: int, max_words: int, min_words: int, nbest: int, poll: int, penalty: float, stop: Any
) -> None:
    options = {"beams": beams, "max_words": max_words, "min_words": min_words, "nbest": nbest, "poll": poll}
    answer = ask("options", options={**options, "length_penalty": penalty, "stop": stop})
    expected = None
    try:
        SearchOptions(**options, length_penalty=penalty, stop=stop)
    except OptionError as error:
        expected = str(error)
    if expected is not None and "length_penalty is" in expected:  # numbers are written otherwise
        assert answer["error"].startswith("length_penalty is")
    else:
        assert answer.get("error") == expected


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything in a JSON value, lists by their first two items."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    return [path, *(found for key, item in items for found in paths_of(item, (*path, key)))]


WHOLE = json.loads((DEFAULT_BUNDLE / "bundle.json").read_text())
WHOLE = {
    **WHOLE,
    "provenance": {},
    "quality": {},
    "architecture": {},
    "parity": {"images": [], "tokens": {}, "figures": {}},
}
# C++ does not read what only people and the exporter read.
PATHS = [
    path for path in paths_of(WHOLE) if path and path[0] not in ("provenance", "quality", "architecture", "parity")
]
WILD = st.sampled_from([None, True, -1, 0, 3, 7.5, "", "x", "B", "int32", [], [1], {}, {"a": 1}, "DELETE", "ADD"])


@many
@given(path=st.sampled_from(PATHS), wild=WILD)
def test_a_manifest_is_refused_exactly_where_python_refuses_it(ask: Ask, path: tuple[Any, ...], wild: Any) -> None:
    value = copy.deepcopy(WHOLE)
    place = value
    for key in path[:-1]:
        place = place[key]
    if wild == "DELETE":
        del place[path[-1]]
    elif wild == "ADD" and isinstance(place[path[-1]], dict):
        place[path[-1]]["surplus"] = 1
    else:
        place[path[-1]] = wild
    text = json.dumps(value)
    try:
        read_manifest(text)
        expected = None
    except BundleError as error:
        expected = str(error)
    answer = ask("manifest", text=text)
    if expected is None and answer.get("error", "").count("expected the images first"):
        return  # a free size of another name, which Python leaves to ONNX Runtime
    assert ("error" in answer) == (expected is not None), (expected, answer)
    if expected is not None:
        assert "\n" not in answer["error"]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"shape": ["B", "P", 4]},
        {"shape": ["B", "N", 4]},
        {"shape": ["B", "5", 4]},
        {"shape": [1, 5, 4]},
        {"shape": ["B", 5]},
        {"shape": []},
        {"shape": ["B", 4, 4]},
        {"dtype": "float16"},
        {"name": "box"},
        {"grid": [5, 1]},
        {"copy": "with"},
        {"copy": "without"},
    ],
    ids=str,
)
def test_boxes_are_refused_exactly_where_python_refuses_them(
    ask: Ask, boxes_bundle: Bundle, change: dict[str, Any]
) -> None:
    value = json.loads((boxes_bundle.path / "bundle.json").read_text())
    value["parity"] = {"images": [], "tokens": {}, "figures": {}}
    value["attention_grid"] = change.pop("grid", value["attention_grid"])
    outputs = value["precisions"]["float32"]["encoder"]["outputs"]
    copied = change.pop("copy", None)
    if copied is not None:
        value["precisions"]["int8"] = copy.deepcopy(value["precisions"]["float32"])
    if copied == "without":
        outputs[:] = [spec for spec in outputs if spec["name"] != "boxes"]
    next((spec for spec in outputs if spec["name"] == "boxes"), {}).update(change)
    text = json.dumps(value)
    expected = None
    try:
        read_manifest(text)
    except BundleError as error:
        expected = str(error)
    answer = ask("manifest", text=text)
    assert ("error" in answer) == (expected is not None), (expected, answer)
    if expected is not None:
        # Shapes and pairs of numbers are written alike, too.
        assert answer["error"] == expected


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"schema": NaN}', '{"schema": "1"}', "[" * 100_000, '"\\ud800"', "nul"]
)
def test_what_is_no_manifest_is_refused_in_one_line(ask: Ask, text: str) -> None:
    answer = ask("manifest", text=text)
    assert answer["status"] == 2
    assert "\n" not in answer["error"]


KEY = EngineKey("0" * 64, "10.3.0", "NVIDIA Test", "8.7", "fp16", "decoder", 1, 3)


def key_of(**changes: Any) -> dict[str, Any]:
    return {**KEY.__dict__, **changes}


def test_engines_are_found_where_camscribe_build_put_them(
    ask: Ask, toy_bundle: Bundle, make_toy: Callable[..., Path], tmp_path: Path
) -> None:
    import hashlib

    bundle = Bundle.load(make_toy(tmp_path / "my bundle"))
    cache = EngineCache(bundle)
    path = cache.store(KEY, b"engine\nof bytes", {"note": 1.5})
    found = ask("engine", bundle=str(bundle.path), key=key_of())
    assert found["answer"] == hashlib.sha256(b"engine\nof bytes").hexdigest()
    other = ask("engine", bundle=str(bundle.path), key=key_of(tensorrt="10.9.0", gpu="Orin"))
    assert other["status"] == 4
    assert (
        "was built for TensorRT 10.3.0, NVIDIA Test; this is TensorRT 10.9.0, Orin: run camscribe build"
        in other["error"]
    )
    missing = ask("engine", bundle=str(bundle.path), key=key_of(beams=5))
    assert "no engine was built here for fp16 decoder, batch 1, 5 beams" in missing["error"]
    assert "--precision fp16 --batch 1 --beams 5" in missing["error"]
    path.write_bytes(path.read_bytes()[:-1])
    assert "is truncated or altered" in ask("engine", bundle=str(bundle.path), key=key_of())["error"]
    path.write_bytes(b"no sealed file")
    assert "no engine was built" in ask("engine", bundle=str(bundle.path), key=key_of())["error"]


def test_graphs_have_the_digests_of_python(ask: Ask) -> None:
    bundle = Bundle.load()
    for precision in bundle.manifest.precisions:
        found = ask("graph_sha256", manifest=str(bundle.path / "bundle.json"), precision=precision)["answer"]
        assert found == [graph_sha256(bundle, precision, graph) for graph in ("encoder", "decoder")]


def test_as_many_threads_are_started_as_in_python(ask: Ask) -> None:
    assert ask("cores")["answer"] == physical_cores()
