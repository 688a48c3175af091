"""The speed benchmark on a small bundle: what it compares, and the form of its results. No time is judged here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from camscribe.benchmarks import caption_speed
from camscribe.benchmarks.peers import bundle_weights
from camscribe.benchmarks.peers.tutorial import LAST_STEP
from camscribe.benchmarks.peers.tutorial_weights import Weights
from camscribe.benchmarks.raw import RawGraphs, cut_decoder
from camscribe.benchmarks.results import read_report
from camscribe.benchmarks.sections import banned, bias
from camscribe.export.command import main as export
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import BundleError, DataError
from camscribe.runtime.executor import open_executor
from camscribe.runtime.onnxruntime_executor import open_session
from camscribe.runtime.search import initial_score

pytestmark = pytest.mark.slow

KINDS = ["plain", "deep without stutter"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photos: np.ndarray) -> Path:
    """Photographs as files, larger than the models take them."""
    folder = tmp_path_factory.mktemp("photographs")
    for index, photo in enumerate(photos):
        large = cv2.resize(photo[:, :, ::-1], (96, 80), interpolation=cv2.INTER_CUBIC)
        assert cv2.imwrite(str(folder / f"{index}.png"), large)
    return folder


@pytest.fixture(scope="module")
def bundles(
    tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., Path], folder: Path
) -> dict[str, tuple[Path, Path]]:
    """Checkpoint and bundle of each kind of model, exported as a user would."""
    made = {}
    for seed, kind in enumerate(KINDS):
        checkpoint = make_checkpoint(kind, seed)
        bundle = tmp_path_factory.mktemp("bundles") / "bundle"
        arguments = [str(checkpoint), "--out", str(bundle), "--no-int8", "--parity-images", str(folder)]
        assert export([*arguments, "--max-words", "14"]) == 0
        made[kind] = (checkpoint, bundle)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_gives_back_the_weights_it_was_made_of(bundles: dict[str, tuple[Path, Path]], kind: str) -> None:
    checkpoint, path = bundles[kind]
    found, expected = bundle_weights.read(Bundle.load(path)), Weights.read(checkpoint).rounded()
    assert found.vocabulary.tokens == expected.vocabulary.tokens
    assert found.tensors.keys() == expected.tensors.keys() - {"backbone.mean", "backbone.std"}
    for name, value in found.tensors.items():
        assert value.equal(expected.tensors[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_captions_of_the_graphs_equal_the_tutorials(
    bundles: dict[str, tuple[Path, Path]], photos: np.ndarray, kind: str
) -> None:
    checkpoint, path = bundles[kind]
    peer = Weights.read(checkpoint).rounded().tutorial()
    texts = set()
    with Captioner.load(path, "cpu", "float32") as captioner:
        for image in photos:
            ours = captioner.caption(image, "rgb", beams=1, max_words=LAST_STEP + 1, stop="first_k")
            theirs = peer.caption(image, beams=1)
            assert ours.words == tuple(captioner.bundle.vocabulary.decode(theirs.tokens))
            assert ours.log_prob == pytest.approx(theirs.log_prob, abs=1e-3)
            np.testing.assert_allclose(ours.attention, theirs.attention, atol=1e-4)
            texts.add(ours.text)
    assert len(texts) > 1, "the images should differ in their captions"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beams", [3, 5])
def test_beams_of_the_graphs_equal_the_tutorials_with_our_stop_rule(
    bundles: dict[str, tuple[Path, Path]], photos: np.ndarray, kind: str, beams: int
) -> None:
    checkpoint, path = bundles[kind]
    peer = Weights.read(checkpoint).rounded().tutorial()
    with Captioner.load(path, "cpu", "float32") as captioner:
        options = captioner.options(beams=beams)
        for image in photos:
            theirs = peer.caption_as(image, options, banned(captioner.bundle))
            ours = captioner.caption(image, "rgb", beams=beams)
            assert ours.words == tuple(captioner.bundle.vocabulary.decode(theirs.tokens))
            assert ours.truncated == theirs.truncated


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_decoder_gives_the_same_log_probabilities_without_any_selection(
    bundles: dict[str, tuple[Path, Path]], photos: np.ndarray, tmp_path: Path, kind: str
) -> None:
    bundle = Bundle.load(bundles[kind][1])
    gone = cut_decoder(bundle.graph("float32", "decoder"), tmp_path / "cut.onnx")
    assert gone.count("TopK") == 2
    assert gone.count("GatherND") == 2
    left = onnx.load(tmp_path / "cut.onnx").graph
    assert not {"TopK", "GatherND", "GatherElements"} & {node.op_type for node in left.node}
    whole = open_session(bundle.graph("float32", "decoder"), "cpu")
    cut = open_session(tmp_path / "cut.onnx", "cpu")
    encoder = open_session(bundle.graph("float32", "encoder"), "cpu")
    names = [item.name for item in encoder.get_outputs()]
    made = dict(zip(names, encoder.run(names, {"image": photos[:1]}), strict=True))
    feeds = {name: value for name, value in made.items() if name.startswith("memory.")}
    feeds |= {name: np.stack([value] * 3, axis=1) for name, value in made.items() if name.startswith("state.")}
    feeds["token"] = np.array([[1, 5, 9]], np.int32)
    selection = {
        "parent": np.arange(3, dtype=np.int32)[None],
        "score": initial_score(1, 3),
        "step": np.zeros(1, np.int32),
        "min_words": np.zeros(1, np.int32),
        "bias": bias(bundle),
    }
    outputs = [item.name for item in cut.get_outputs()]
    assert {"log_prob", "attention", "next_state.h", "next_state.c"} == set(outputs)
    for mine, theirs in zip(cut.run(outputs, feeds), whole.run(outputs, {**feeds, **selection}), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_raw_steps_do_the_networks_work(
    bundles: dict[str, tuple[Path, Path]], photos: np.ndarray, tmp_path: Path
) -> None:
    """The states after raw greedy-free steps are those of the decoder fed with <s> again and again."""
    bundle, executor, _ = open_executor(bundles["plain"][1], "cpu", "float32")
    raw = RawGraphs(bundle, "float32", 2, tmp_path)
    raw.set_image(photos[0])
    session = open_session(tmp_path / "float32.cut.onnx", "cpu")
    names = [item.name for item in session.get_outputs()]
    feeds = {name: array.copy() for name, array in {**raw.states(0), **raw.memory()}.items()}
    feeds["token"] = np.full((1, 2), bundle.manifest.special_tokens.start, np.int32)
    raw.run(3)
    for _ in range(3):
        made = dict(zip(names, session.run(names, feeds), strict=True))
        feeds |= {name.removeprefix("next_"): value for name, value in made.items() if "state." in name}
    for name, array in raw.states(1).items():
        np.testing.assert_allclose(array, feeds[name], atol=1e-6)
    executor.close()


def test_a_decoder_whose_states_are_gathered_in_another_way_is_refused(
    bundles: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    bundle = Bundle.load(bundles["plain"][1])
    model = onnx.load(bundle.graph("float32", "decoder"))
    for node in model.graph.node:
        if node.op_type == "GatherND":
            node.op_type, node.domain = "Disguised", "elsewhere"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(BundleError, match="cannot be told from its selection: parent"):
        cut_decoder(tmp_path / "odd.onnx", tmp_path / "cut.onnx")


@pytest.fixture(scope="module")
def report(bundles: dict[str, tuple[Path, Path]], folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a whole run but for the models with random weights."""
    checkpoint, bundle = bundles["deep without stutter"]
    out = tmp_path_factory.mktemp("results") / "caption_speed.json"
    arguments = ["--bundle", str(bundle), "--checkpoint", str(checkpoint), "--rounds", "1", "--out", str(out)]
    images, more = [str(folder / "0.png"), str(folder / "1.png")], [str(folder / "*.png")]
    assert caption_speed.main([*arguments, "--images", *images, "--compare", *more]) == 0
    return out


def test_a_run_answers_every_question_it_was_given(report: Path) -> None:
    made = read_report(report.read_text(encoding="utf-8"))
    assert set(made.sections) == {"overhead", "beams", "startup", "tutorial"}
    assert set(made.left_out) == {"mobilenet", "resnet"}
    assert all(
        item.limit is not None for name in ("overhead", "beams", "tutorial") for item in made.sections[name].ratios
    )
    tokens = made.sections["tutorial"].details["bundle"]["float32_tokens"]
    assert tokens == {"compared": 6, "identical": 6, "different": []}
    images = made.sections["overhead"].details["float32"]["images"]
    assert len(images) == 2
    assert all(image["size"] == "96x80" and image["steps"] >= 1 for image in images.values())
    assert made.sections["startup"].details["float32"]["peak_memory_mb"] > 30


def test_results_name_no_folders_of_the_machine(report: Path) -> None:
    assert_portable(report)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda data: data.pop("bundle"), "report.bundle is missing"),
        (lambda data: data.update(extra=1), "report.extra is unknown"),
        (lambda data: data.update(schema=99), "schema is 99"),
        (lambda data: data["sections"]["beams"]["ratios"][0].update(median="fast"), "expected a number"),
        (lambda data: data["sections"]["beams"]["ratios"][0].update(median=-1.0), "outside p10"),
        (lambda data: data["sections"]["beams"]["ratios"][0].update(met=None), "says met None"),
    ],
    ids=["missing", "unknown", "schema", "type", "order", "verdict"],
)
def test_a_report_of_another_form_is_refused(report: Path, change: Callable[[dict], object], complaint: str) -> None:
    data = json.loads(report.read_text(encoding="utf-8"))
    change(data)
    with pytest.raises(DataError, match=complaint):
        read_report(json.dumps(data))


def test_a_peer_with_another_vocabulary_is_refused(bundles: dict[str, tuple[Path, Path]], folder: Path) -> None:
    checkpoint, bundle = bundles["plain"][0], bundles["deep without stutter"][1]
    arguments = ["--bundle", str(bundle), "--checkpoint", str(checkpoint), "--only", "tutorial", "--rounds", "1"]
    with pytest.raises(DataError, match="another vocabulary"):
        caption_speed.main([*arguments, "--images", str(folder / "0.png")])


def test_kept_results_have_the_form_and_name_no_folders(repository: Path) -> None:
    kept = sorted((repository / "benchmarks" / "results").glob("*.json"))
    for path in kept:
        assert_portable(path)
        if path.name.startswith("caption_speed"):
            read_report(path.read_text(encoding="utf-8"))
        else:
            assert isinstance(json.loads(path.read_text(encoding="utf-8")), dict)


def assert_portable(path: Path) -> None:
    """No absolute path stands in the file, but those that every Linux has."""
    found = re.findall(r'(?:^|[\s"\'=])/(?!sys/|proc/|dev/)\w[^\s"]*', path.read_text(encoding="utf-8"))
    assert found == []
