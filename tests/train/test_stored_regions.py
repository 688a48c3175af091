"""Precomputed features: every format that is read, what is refused, and a captioner that is trained on them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from camscribe.runtime import cli
from camscribe.runtime.errors import DataError
from camscribe.train.captioning import caption_split
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.config import Config, ModelConfig, from_dict
from camscribe.train.feature_files import names_of
from camscribe.train.readers import CaptionedImage, read_dataset
from camscribe.train.stored_regions import StoredRegions
from camscribe.train.trainer import Trainer

WIDTH = 6
CONFIG = ModelConfig(encoder="features", regions=4, feature_width=WIDTH)
Floats = npt.NDArray[np.float32]
BOXES = np.array([[0, 0, 50, 40], [25, 10, 100, 20]], np.float32)
FRACTIONS = [[0, 0, 0.5, 0.5], [0.25, 0.125, 1, 0.25]]
"""Of an image of 100 x 80 pixels."""


def features(seed: int = 0, count: int = 2) -> Floats:
    return np.random.default_rng(seed).random((count, WIDTH), np.float32).astype(np.float16).astype(np.float32)


def images(*names: str, folder: Path = Path("nowhere")) -> list[CaptionedImage]:
    return [CaptionedImage(folder / name, ("a dog",), name, "train") for name in names]


def line(name: str, values: Floats, boxes: Floats = BOXES, count: int | None = None, size: str = "100\t80") -> str:
    coded = [base64.b64encode(each.tobytes()).decode() for each in (boxes, values)]
    return "\t".join([name, size, str(len(values) if count is None else count), *coded]) + "\r\n"


def read(path: Path, wanted: Sequence[CaptionedImage], cache: Path, **changes: Any) -> StoredRegions:
    return StoredRegions(path, wanted, replace(CONFIG, **changes), cache, show=False)


def check(
    stored: StoredRegions, wanted: Sequence[CaptionedImage], boxes: Sequence[Sequence[float]] = FRACTIONS
) -> None:
    """Whether image i has the features of seed i, two each, padded to four."""
    assert stored.problems == {}
    regions = stored.of(wanted).batch(range(len(wanted)), [0] * len(wanted))
    assert regions.shown.tolist() == [[1, 1, 0, 0]] * len(wanted)
    for index in range(len(wanted)):
        torch.testing.assert_close(regions.features[index, :2], torch.from_numpy(features(index)))
        torch.testing.assert_close(regions.boxes[index, :2], torch.tensor(boxes, dtype=torch.float32))
    assert not regions.features[:, 2:].any()


def test_a_tsv_is_matched_by_stem_and_by_number_in_any_order(tmp_path: Path) -> None:
    wanted = images("COCO_val2014_000000391895.jpg", "dog.jpg")
    other = line("7", features(9))
    (tmp_path / "a.tsv").write_text(line("dog", features(1)) + other + line("391895", features(0)), newline="")
    check(read(tmp_path / "a.tsv", wanted, tmp_path / "cache"), wanted)


def test_tsv_files_in_a_folder_are_one_set_and_an_image_twice_counts_once(tmp_path: Path) -> None:
    wanted = images("1.jpg", "2.jpg")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.tsv.0").write_text(line("1", features(0)), newline="")
    (tmp_path / "set" / "train.tsv.1").write_text(line("1", features(5)) + line("2", features(1)), newline="")
    check(read(tmp_path / "set", wanted, tmp_path / "cache"), wanted)


def test_an_image_may_be_called_by_its_number_only_where_no_other_is() -> None:
    assert names_of(images("COCO_train2014_000000000009.jpg", "dog.jpg", "007.jpg", "7.jpg")) == [
        ["COCO_train2014_000000000009", "COCO_train2014_000000000009.jpg", "9"],
        ["dog", "dog.jpg"],
        ["007", "007.jpg"],
        ["7", "7.jpg"],
    ]


def test_npz_files_with_boxes_in_pixels_beside_them(tmp_path: Path) -> None:
    wanted = images("1.png", "COCO_train2014_000000000002.png", folder=tmp_path)
    for index, image in enumerate(wanted):
        Image.new("RGB", (100, 80)).save(image.path)
        for kind in ("att", "box"):
            (tmp_path / f"cocobu_{kind}").mkdir(exist_ok=True)
        np.savez_compressed(tmp_path / "cocobu_att" / f"{index + 1}.npz", feat=features(index))
        np.save(tmp_path / "cocobu_box" / f"{index + 1}.npy", BOXES)
    check(read(tmp_path / "cocobu_att", wanted, tmp_path / "cache"), wanted)
    (tmp_path / "1.png").unlink()
    problems = read(tmp_path / "cocobu_att", wanted, tmp_path / "again").problems
    assert list(problems) == ["1.png"]
    assert "cannot be read for its size" in problems["1.png"]


def test_npz_files_that_stand_on_their_side_and_hold_their_boxes(tmp_path: Path) -> None:
    wanted = images("a.jpg", "b.jpg")
    rest = {"num_bbox": 2, "image_w": 100, "image_h": 80}
    np.savez(tmp_path / "a.npz", x=features(0).T, bbox=BOXES, info=np.array("anything"), **rest)
    coded = {name: base64.b64encode(each.tobytes()) for name, each in (("x", features(1)), ("bbox", BOXES))}
    np.savez(tmp_path / "b.npz", **coded, **rest)
    check(read(tmp_path, wanted, tmp_path / "cache"), wanted)


def test_npy_files_without_boxes_and_of_a_grid(tmp_path: Path) -> None:
    wanted = images("a.jpg", "b.jpg")
    np.save(tmp_path / "a.npy", features(0))
    np.save(tmp_path / "b.npy", features(1).reshape(1, 2, WIDTH))
    check(read(tmp_path, wanted, tmp_path / "cache"), wanted, [[0, 0, 0, 0]] * 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no features"),
        ("a\t100\t80\t2\n", "a.tsv:1: features of a.jpg: 4 columns; expected 6"),
        (line("a", features())[:-20], "a.tsv:1: features of a.jpg: "),  # cut
        (line("a", features(), count=3), "cannot reshape"),
        (line("a", features(), count=0), "no region"),
        (line("a", features(), size="0\t80"), "an image of 0 x 80 pixels"),
        (line("a", features(), size="wide\t80"), "invalid literal"),
        (line("a", features()[:, 1:]), "width 5; expected model.feature_width = 6"),
        (line("a", features(), BOXES[:, :3]), r"boxes of shape \(2, 3\)"),
        (line("a", features() * np.nan), "half precision"),
        (line("a", features() + 1e6), "half precision"),
        (line("a", features(0, 5), np.tile(BOXES[:1], (5, 1))), "has 5 regions; expected at most model.regions = 4"),
        ("a\t100\t80\t2\t!!!!\t????\n", "broken base64"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.tsv").write_text(content, newline="")
    wanted = images("a.jpg")
    stored = read(tmp_path / "a.tsv", wanted, tmp_path / "cache")
    assert list(stored.problems) == ["a.jpg"]
    with pytest.raises(AssertionError):
        check(stored, wanted)
    assert re.search(message, stored.problems["a.jpg"]), stored.problems


def test_broken_npz_files_are_named(tmp_path: Path) -> None:
    wanted = images("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    np.savez_compressed(tmp_path / "a.npz", feat=np.zeros((200, WIDTH), np.float32))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:40] + bytes(20) + whole[60:])
    (tmp_path / "b.npz").write_bytes(b"no zip")
    np.savez(tmp_path / "c.npz", other=features())
    np.save(tmp_path / "d.npy", np.array([{}]), allow_pickle=True)
    problems = read(tmp_path, wanted, tmp_path / "cache").problems
    assert sorted(problems) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert "c.npz: features of c.jpg: has other; expected one of feat, features, x" in problems["c.jpg"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_h": None}, "has no image_h"),
        ({"image_w": np.array([100, 100])}, r"image_w is \[100, 100\]; expected one whole number"),
        ({"image_w": np.array("wide")}, "image_w is 'wide'; expected one whole number"),
        ({"image_w": np.array(np.inf)}, "image_w is inf; expected one whole number"),
        ({"x": features().ravel(), "num_bbox": np.array([2, 2])}, r"num_bbox is \[2, 2\]; expected one whole number"),
    ],
)
def test_broken_numbers_beside_the_features_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arrays = {"x": features(), "bbox": BOXES, "image_w": 100, "image_h": 80, **changes}
    np.savez(tmp_path / "a.npz", **{name: value for name, value in arrays.items() if value is not None})
    problems = read(tmp_path, images("a.jpg"), tmp_path / "cache").problems
    assert re.search(f"a.npz: features of a.jpg: {message}", problems["a.jpg"]), problems


def test_the_content_of_a_file_decides_what_it_is(tmp_path: Path) -> None:
    wanted = images("a.jpg", "b.jpg")
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, features(0))
    with (tmp_path / "b.npy").open("wb") as file:
        np.savez(file, x=features(1))
    check(read(tmp_path, wanted, tmp_path / "cache"), wanted, [[0, 0, 0, 0]] * 2)


def test_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder; expected precomputed features"):
        read(tmp_path / "none.tsv", images("a.jpg"), tmp_path / "cache")


def test_the_cache_is_used_again_and_made_anew_for_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, file, cache = images("1.jpg"), tmp_path / "a.tsv", tmp_path / "cache"
    file.write_text(line("1", features(0)), newline="")
    check(read(file, wanted, cache), wanted)
    with monkeypatch.context() as patch:
        patch.setattr("camscribe.train.stored_regions.read_features", lambda *_: pytest.fail("read a second time"))
        check(read(file, wanted, cache), wanted)
    file.write_text(line("1", features(1)) + " ", newline="")
    regions = read(file, wanted, cache).of(wanted).batch([0], [0])
    torch.testing.assert_close(regions.features[0, :2], torch.from_numpy(features(1)))


# -- a captioner -------------------------------------------------------------------------------------------------------


def tsv(shapes: Path, path: Path, without: Sequence[str] = ()) -> Path:
    """Features of the shapes that tell their colour and side; as many regions as the colour's name has letters."""
    lines = []
    for split in ("train", "dev"):
        for image in read_dataset("flickr8k", shapes, split=split):
            _, colour, side = image.path.stem.split("-")
            count = len(colour) - 1
            values = np.zeros((count, WIDTH), np.float32)
            values[:, ["red", "green", "blue", "white"].index(colour)] = 2
            values[:, 4 + (side == "left")] = 2
            if image.path.stem not in without:
                lines.append(line(image.path.stem, values, np.tile(BOXES[:1], (count, 1))))
    path.write_text("".join(lines), newline="")
    return path


def config(shapes: Path, file: Path, **data: Any) -> Config:
    model = {"encoder": "features", "feature_width": WIDTH, "regions": 5, "memory_width": 48, "attention_width": 32}
    table = {
        "data": {"root": str(shapes), "features": str(file), "min_count": 1, "max_words": 9, **data},
        "model": {**model, "state_width": 64, "embedding_width": 32, "dropout": 0.1},
        "validation": {"max_words": 9},
    }
    stages: list[dict[str, Any]] = [
        {"name": "words", "epochs": 20, "learning_rate": 8e-3, "label_smoothing": 0.0, "average_decay": 0.5},
        {"name": "reward", "epochs": 1, "objective": "self_critical", "captions_per_image": 3},
    ]
    rest = {"batch": 8, "warm_up_steps": 4, "variants": 1}
    return from_dict({**table, "stage": [{**rest, **stage} for stage in stages]})


def train(configuration: Config, folder: Path) -> Path:
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    folder.mkdir(exist_ok=True)
    return Trainer(configuration, folder, fabric, folder / "cache").run()


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best checkpoint of a captioner of precomputed features."""
    folder = tmp_path_factory.mktemp("features")
    return train(config(shapes, tsv(shapes, folder / "shapes.tsv")), folder / "run")


def test_a_captioner_learns_from_features_alone(trained: Path) -> None:
    entries = [json.loads(each) for each in (trained.parent / "metrics.jsonl").read_text().splitlines()]
    assert max(entry.get("tune_cider", 0) for entry in entries) > 2.5, "one caption for all images scores 2.3 at most"
    assert any("reward" in entry for entry in entries)
    assert not [name for name in Checkpoint.load(trained).tensors if not name.startswith("model.decoder.")]


def test_it_is_scored_on_the_same_features_and_on_others(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed")
    arguments = ["evaluate", str(trained), "--data", str(shapes), "--tokenizer", "words", "--backend", "cpu"]
    assert cli.main([*arguments, "--out", str(tmp_path / "own.json"), "--sheet", str(tmp_path / "sheet.png")]) == 0
    report = json.loads((tmp_path / "own.json").read_text())
    assert report["data"]["scored"] == 8
    assert report["scores"]["cider"] > 2.5
    assert (tmp_path / "sheet.png").exists()
    fewer = tsv(shapes, tmp_path / "fewer.tsv", without=["dev0-red-left"])
    assert cli.main([*arguments, "--features", str(fewer)]) == 2
    assert "dev0-red-left.png: no features" in capsys.readouterr().err
    out = tmp_path / "fewer.json"
    assert cli.main([*arguments, "--features", str(fewer), "--skip-bad", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["data"]["scored"] == 7
    # As good, where no image of one batch has features.
    assert cli.main([*arguments, "--features", str(fewer), "--skip-bad", "--out", str(out), "--batch", "1"]) == 0
    assert json.loads(out.read_text())["data"]["scored"] == 7


def test_images_need_not_be_there(trained: Path, shapes: Path) -> None:
    dataset = read_dataset("flickr8k", shapes, split="dev")
    away = [replace(image, path=Path("nowhere") / image.path.name) for image in dataset]
    seen, unseen = (caption_split(trained, images_) for images_ in (dataset.images, away))
    assert seen.by_image == unseen.by_image
    assert len({each.text for each in seen.by_image.values()}) > 4


def test_it_cannot_be_exported(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(trained), "--out", str(tmp_path / "bundle")]) == 2
    message = capsys.readouterr().err
    assert "trained on precomputed features and has no encoder of pixels" in message
    assert message.count("\n") == 1
    assert not (tmp_path / "bundle").exists()


def test_missing_features_are_refused_or_skipped(shapes: Path, tmp_path: Path) -> None:
    file = tsv(shapes, tmp_path / "fewer.tsv", without=["train1-red-left", "dev0-blue-right"])
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    with pytest.raises(DataError, match=r"1 bad entry: train1-red-left.png: no features; .*skip them with --skip-bad"):
        Trainer(config(shapes, file), tmp_path, fabric, tmp_path / "cache")
    trainer = Trainer(config(shapes, file, skip_bad=True), tmp_path, fabric, tmp_path / "cache")
    assert (len(trainer.train), len(trainer.tune)) == (31, 7)
    assert "skipped 1 bad entry: train1-red-left.png: no features" in trainer.train.report()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": [{"name": "a", "epochs": 1}]}, "stage a: variants is 2; precomputed features are of images as they"),
        ({"stage": [{"name": "a", "epochs": 1, "variants": 1, "trained_backbone_stages": 2}]}, "no backbone to train"),
        ({"model": {"encoder": "grid"}}, "need each other"),
        ({"model": {"encoder": "features", "cells": True, "feature_width": WIDTH}}, "has no backbone"),
    ],
)
def test_what_has_no_meaning_is_refused(shapes: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    table = {**config(shapes, tsv(shapes, tmp_path / "a.tsv")).to_dict(), **changes}
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    with pytest.raises(DataError, match=message):
        Trainer(from_dict(table), tmp_path, fabric, tmp_path / "cache")
