"""Training throughput: the tutorial's loop has our loss on the same batch, and both sides run on a small data set."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from camscribe.benchmarks import training_speed
from camscribe.benchmarks.peers.tutorial_training import Samples, Training
from camscribe.benchmarks.peers.tutorial_weights import Weights
from camscribe.benchmarks.time_to_cider import Course, train_ours
from camscribe.benchmarks.training_speed import Setting, configuration, read_samples
from camscribe.runtime.errors import DataError, EngineError, OptionError
from camscribe.runtime.pixels import PixelSpec
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.config import load_config
from camscribe.train.features import Seen
from camscribe.train.losses import CaptionLoss
from camscribe.train.readers import read_dataset
from camscribe.train.text import words

SIDE = 64
CAPTIONS = ("word4 word5 word6 .", "Word7 word8 word9 word10 word11 .", "word12 , word13 .", "word4 word5", "word6")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, photos: np.ndarray) -> Path:
    """Flickr8k's layout: six photographs with five captions each."""
    folder = tmp_path_factory.mktemp("flickr8k")
    (folder / "images").mkdir()
    lines = []
    for index, photo in enumerate(photos):
        Image.fromarray(photo).save(folder / "images" / f"{index}.png")
        lines += [f"{index}.png#{row}\t{CAPTIONS[(row + index) % 5]}" for row in range(5)]
    (folder / "captions.train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_the_samples_are_those_that_training_reads(data: Path, make_checkpoint: Callable[..., Path]) -> None:
    vocabulary = Weights.read(make_checkpoint("deep", 0)).vocabulary
    found = read_samples(data, 4, PixelSpec(SIDE, SIDE), vocabulary)
    theirs = read_dataset("flickr8k", data, split="train[:4]")
    assert found.images.shape == (4, SIDE, SIDE, 3)
    for image, captions in zip(theirs, found.captions, strict=True):
        assert [list(caption) for caption in captions] == [
            vocabulary.encode(words(caption)) for caption in image.captions
        ]
    assert len(found.pairs(1)) == 4
    assert len(found.pairs(9)) == 20


@pytest.mark.parametrize("kind", ["plain", "deep", "deep without stutter"])
def test_the_tutorials_loss_is_ours(make_checkpoint: Callable[..., Path], photos: np.ndarray, kind: str) -> None:
    """Same weights, photographs and words, without dropout and smoothing: the same cross-entropy, step for step."""
    checkpoint = make_checkpoint(kind, 0)
    weights = Weights.read(checkpoint)
    training = Training(weights.tutorial(), weights.vocabulary.pad_id, dropout=0.0)
    captions = [(5, 6, 7), (9,), (4, 8, 12, 13, 14), (), (20, 21), (30, 31, 32)]
    theirs, _ = training.loss(photos, captions)
    loss = CaptionLoss(Checkpoint.load(checkpoint).model().eval(), 0, weights.vocabulary)
    inputs = torch.full((6, 1, 6), weights.vocabulary.pad_id)
    targets = inputs.clone()
    for row, caption in enumerate(captions):
        inputs[row, 0, : len(caption) + 1] = torch.tensor([weights.vocabulary.start_id, *caption])
        targets[row, 0, : len(caption) + 1] = torch.tensor([*caption, weights.vocabulary.end_id])
    made = loss.cross_entropy(
        Seen(torch.from_numpy(photos), None), inputs, targets, smoothing=0.0, sampling=0.0, doubly=0.0
    )
    assert float(theirs.detach()) == pytest.approx(float(made.loss.detach()), abs=1e-4)


@pytest.mark.parametrize("trained", [0, 2])
def test_the_tutorials_loop_learns_what_it_may(
    make_checkpoint: Callable[..., Path], photos: np.ndarray, trained: int
) -> None:
    torch.manual_seed(0)
    weights = Weights.read(make_checkpoint("plain", 0))
    training = Training(weights.tutorial(), weights.vocabulary.pad_id, trained, dropout=0.0)
    parts = list(training.model.encoder.features.children())
    before = [[parameter.clone() for parameter in part.parameters()] for part in parts]
    samples = Samples(photos, tuple(((5 + index, 6, 7),) for index in range(6)))
    batches = list(training.batches(samples, 4, 1, np.random.default_rng(0)))
    assert [len(captions) for _, captions in batches] == [4, 2]
    losses = [training.step(photos, [(5, 6, 7)] * 6) for _ in range(20)]
    assert losses[-1] < losses[0]
    for index, (part, old) in enumerate(zip(parts, before, strict=True)):
        moved = any(not torch.equal(a, b) for a, b in zip(part.parameters(), old, strict=True))
        if index < len(parts) - trained:
            assert not moved
        elif old:
            assert moved


def test_the_configuration_is_one_that_training_takes(
    tmp_path: Path, data: Path, make_checkpoint: Callable[..., Path]
) -> None:
    checkpoint = make_checkpoint("deep", 0)
    text = configuration(checkpoint, Weights.read(checkpoint), data, "train[:4]", "train[:2]", Setting(2, 1, 3), 2)
    (tmp_path / "speed.toml").write_text(text, encoding="utf-8")
    config = load_config(tmp_path / "speed.toml")
    assert config.start == str(checkpoint)
    assert config.stage[0].trained_backbone_stages == 2
    assert (config.stage[0].batch, config.stage[0].captions_per_image, config.stage[0].epochs) == (3, 1, 2)
    assert config.model.image_height == SIDE


@pytest.mark.slow
def test_both_sides_are_timed_in_turn(
    tmp_path: Path, data: Path, make_checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "training_speed.json"
    arguments = ["--checkpoint", str(make_checkpoint("deep", 0)), "--data", str(data), "--images", "6", "--batch", "3"]
    arguments += ["--trained", "0", "--captions", "2", "--rounds", "1", "--epochs", "2", "--out", str(out)]
    assert training_speed.main(arguments) == 0
    made = json.loads(out.read_text(encoding="utf-8"))
    (row,) = made["throughput"]
    assert row["setting"] == {"trained": 0, "captions": 2, "batch": 3}
    assert len(row["ours_samples_per_s"]) == len(row["tutorial_samples_per_s"]) == 1
    assert row["ratio"] > 0
    assert made["time_to_cider"] is None
    assert "times as fast" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["plain", "deep"])
def test_weights_come_back_from_the_tutorial_s_names(make_checkpoint: Callable[..., Path], kind: str) -> None:
    weights = Weights.read(make_checkpoint(kind, 0))
    again = weights.taken_from(weights.tutorial())
    assert again.tensors.keys() == weights.tensors.keys() - {"backbone.mean", "backbone.std"}
    for name, value in again.tensors.items():
        torch.testing.assert_close(value, weights.tensors[name])


def test_a_new_decoder_leaves_the_encoder_as_it_is(make_checkpoint: Callable[..., Path]) -> None:
    weights = Weights.read(make_checkpoint("deep", 0))
    new, again = weights.forgotten(), weights.forgotten()
    for name, value in new.tensors.items():
        assert value.equal(again.tensors[name]), name
        if name.startswith("backbone."):
            assert value.equal(weights.tensors[name]), name
        elif value.dim() > 1:
            assert not value.equal(weights.tensors[name]), name
    assert float(new.tensors["decoder.embedding.weight"].abs().max()) <= 0.1


LOGGING = """
import json, pathlib, time
log = []
def write(**entry):
    log.append(entry)
    pathlib.Path("metrics.jsonl").write_text("".join(json.dumps(each) + "\\n" for each in log))
for cider in (0.1, 0.3, 0.5):
    time.sleep(0.3)
    write(images_per_s=1.0)
    time.sleep(0.6)
    write(tune_cider=cider)
time.sleep(60)
"""


def watch(folder: Path, code: str, cider: float, limit_s: float) -> Course:
    process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, stderr=subprocess.PIPE, text=True)
    return train_ours(process, folder, cider, limit_s, look_s=0.02)


def test_the_clock_stands_still_while_captions_are_scored(tmp_path: Path) -> None:
    course = watch(tmp_path, LOGGING, 0.3, 50)
    assert course.ciders == (0.1, 0.3)
    assert course.why_not is None
    assert course.reached_s == course.epochs_s[1]
    between = course.epochs_s[1] - course.epochs_s[0]
    assert between >= 0.25
    # A busy machine may stretch it; the 0.6 s of scoring would come on top.
    assert course.epochs_s[1] >= course.epochs_s[0] > 0.25


def test_a_limit_ends_a_course_and_a_failure_is_an_error(tmp_path: Path) -> None:
    course = watch(tmp_path, LOGGING, 9.0, 0.01)
    assert course.reached_s is None
    assert "limit 0.01 s" in (course.why_not or "")
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(EngineError, match=r"camscribe train failed: .*broken"):
        watch(tmp_path, "import sys; sys.exit('broken')", 1.0, 1.0)


@pytest.mark.slow
def test_both_sides_train_until_a_cider(tmp_path: Path, data: Path, make_checkpoint: Callable[..., Path]) -> None:
    out = tmp_path / "training_speed.json"
    arguments = ["--checkpoint", str(make_checkpoint("deep", 0)), "--data", str(data), "--batch", "3", "--rounds", "0"]
    arguments += ["--until-cider", "0", "--until-images", "6", "--tune", "train[:3]", "--out", str(out)]
    assert training_speed.main(arguments) == 0
    made = json.loads(out.read_text(encoding="utf-8"))["time_to_cider"]
    for side in (made["ours"], made["tutorial"]):
        assert side["reached_s"] == side["epochs_s"][0] > 0
        assert len(side["ciders"]) == 1
    assert made["ratio"] == pytest.approx(made["tutorial"]["reached_s"] / made["ours"]["reached_s"], abs=1e-4)


def test_bad_data_and_options_are_refused_in_one_line(tmp_path: Path, make_checkpoint: Callable[..., Path]) -> None:
    vocabulary = Weights.read(make_checkpoint("deep", 0)).vocabulary
    with pytest.raises(DataError, match=r"captions\.train\.tsv: cannot be read"):
        read_samples(tmp_path, 1, PixelSpec(SIDE, SIDE), vocabulary)
    (tmp_path / "captions.train.tsv").write_text("no tab\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"captions\.train\.tsv:1: is 'no tab'"):
        read_samples(tmp_path, 1, PixelSpec(SIDE, SIDE), vocabulary)
    for wrong, message in (
        (["--epochs", "1"], "--epochs is 1; expected at least 2"),
        (["--rounds", "0"], "--rounds 0 leaves nothing to measure"),
        (["--until-cider", "nan"], "--until-cider is nan; expected a score"),
        (["--limit", "0"], "--limit is 0; expected seconds"),
    ):
        with pytest.raises(OptionError, match=message):
            training_speed.main(["--data", str(tmp_path), *wrong])
