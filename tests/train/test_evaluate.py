"""``camscribe evaluate``: a checkpoint, a bundle or a file of captions is scored, and the report says how."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed")

from camscribe.runtime import cli
from camscribe.runtime.bundle import DEFAULT_BUNDLE
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import DataError
from camscribe.train.captioning import read_results
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.config import from_dict
from camscribe.train.metrics import METRICS
from camscribe.train.model import Captioner as Model
from camscribe.train.readers import read_dataset
from camscribe.train.text import build_vocabulary, words

MODEL = {
    "backbone": "shufflenet_v2_x0_5",
    "weights": "none",
    "image_height": 64,
    "image_width": 64,
    "memory_width": 24,
    "attention_width": 16,
    "state_width": 32,
    "embedding_width": 16,
}


@pytest.fixture(autouse=True)
def _without_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """METEOR takes seconds to start, and what it gives is tested with the metrics."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A tiny model is slower on many threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoint(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioner of random weights for the words of the shapes."""
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    config = from_dict(
        {"data": {"root": "unused"}, "model": MODEL, "stage": [{"name": "a", "epochs": 1}], "validation": {"beams": 2}}
    )
    texts = (words(caption) for image in read_dataset("flickr8k", shapes, split="train") for caption in image.captions)
    vocabulary = build_vocabulary(texts, 1)
    torch.manual_seed(3)
    model = Model(len(vocabulary), config.model, "none")
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    meta = {"config": config.to_dict(), "vocabulary": list(vocabulary.tokens), "progress": {}, "history": []}
    Checkpoint(tensors, meta).save(path)
    return path


def evaluate(*arguments: str | Path) -> int:
    return cli.main(["evaluate", *map(str, arguments)])


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_checkpoint_is_scored_and_the_report_says_how(
    checkpoint: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, lines, sheet = tmp_path / "a" / "report.json", tmp_path / "captions.jsonl", tmp_path / "samples.png"
    arguments = ["--data", shapes, "--max-words", "6", "--out", out, "--captions-out", lines, "--sheet", sheet]
    assert evaluate(checkpoint, *arguments) == 0
    report = read(out)
    assert report["model"]["kind"] == "checkpoint"
    assert len(report["model"]["sha256"]) == 64
    assert report["search"]["beams"] == 2  # the checkpoint's own
    assert report["search"]["max_words"] == 6
    assert report["data"] == {
        "format": "flickr8k",
        "split": "dev",
        "images": 8,
        "scored": 8,
        "references": 16,
        "skipped": [],
    }
    assert set(report["scores"]) == set(METRICS) - {"meteor"}
    assert report["tokenizer"] == "words"
    assert len(report["missing"]) == 2
    assert report["quality"]["captions"] == 8
    assert report["command"][:2] == ["camscribe", "evaluate"]
    assert {"camscribe", "torch", "pycocoevalcap"} <= set(report["versions"])
    assert sheet.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr()
    assert "BLEU-4" in printed.out
    assert f"{report['scores']['cider']:7.3f}" in printed.out
    assert "METEOR: no 'java'" in printed.err
    # The captions written are the captions scored.
    again = tmp_path / "again.json"
    assert evaluate("--results", lines, "--data", shapes, "--out", again) == 0
    assert read(again)["scores"] == report["scores"]


def test_the_batch_changes_no_caption_and_a_part_of_a_split_is_that_part(
    checkpoint: Path, shapes: Path, tmp_path: Path
) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    assert evaluate(checkpoint, "--data", shapes, "--captions-out", whole) == 0
    arguments = ["--split", "dev[3:]", "--batch", "2", "--captions-out", part]
    assert evaluate(checkpoint, "--data", shapes, *arguments) == 0
    expected = read_results(whole)
    found = read_results(part)
    assert list(found) == sorted(expected)[3:]
    assert found.items() <= expected.items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int8"], "export it for others"),
        (["--backend", "tensorrt"], "runs in PyTorch"),
        (["--ban", "xylophone"], "not a word of this model"),
        (["--batch", "0"], "expected 1 to 1024"),
        (["--beams", "0"], "beams is 0"),
        (["--threads", "0"], "threads is 0"),
        (["--tokenizer", "ptb"], "install a Java runtime"),
        (["--split", "test"], "captions.test.tsv"),
        (["--results", "x.json"], "leave out models"),
        (["--ensemble", "x"], "an ensemble is of bundles"),
        (["--border", "2"], "--border is an enhancer's"),
        (["--no-repeat", "3", "--groups", "3"], "no_repeat and groups: a bundle's search can do that"),
    ],
)
def test_options_without_a_meaning_are_refused_in_one_line(
    checkpoint: Path, shapes: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(checkpoint, "--data", shapes, *arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_a_broken_checkpoint_is_refused(
    shapes: Path, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    assert evaluate(path, "--data", shapes) == 2
    assert "broken.safetensors: cannot be read as a checkpoint" in capsys.readouterr().err


def test_a_broken_image_is_named_and_left_out_only_when_asked(
    checkpoint: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "shapes"
    shutil.copytree(shapes, root)
    (root / "images" / "dev0-blue-left.png").write_bytes(b"no image")
    lines, out = tmp_path / "captions.jsonl", tmp_path / "report.json"
    assert evaluate(checkpoint, "--data", root, "--captions-out", lines, "--out", out) == 2
    assert "dev0-blue-left.png" in (error := capsys.readouterr().err)
    assert "1 images cannot be read, so there are no scores" in error
    assert not lines.exists()
    assert not out.exists()
    assert evaluate(checkpoint, "--data", root, "--skip-bad", "--out", out, "--captions-out", lines) == 0
    assert capsys.readouterr().err.count("dev0-blue-left.png") == 1
    assert len(read_results(lines)) == 7  # the rest of the batch was done
    report = read(out)
    assert report["data"]["scored"] == 7
    assert "dev0-blue-left.png" in report["data"]["skipped"][0]


RESULTS = [{"image_id": "dev0-red-left.png", "caption": "a red square on the left"}]


def results(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_images_without_a_caption_are_counted_and_said(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = [*RESULTS, {"image_id": "dev0-blue-left.png", "caption": "a green square"}]
    out = tmp_path / "report.json"
    assert evaluate("--results", results(tmp_path / "r.json", two), "--data", shapes, "--out", out) == 0
    assert "6 of 8 images have no caption and are not scored" in capsys.readouterr().out
    assert read(out)["data"]["scored"] == 2
    assert read(out)["model"] == {"kind": "results", "name": "r.json"}


def test_cocos_results_are_scored_without_images(tmp_path: Path) -> None:
    annotations = [
        {"image_id": 7, "caption": "A dog on a mat."},
        {"image_id": 9, "caption": "Two cats sit on the red sofa."},
    ]
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in (7, 9)]
    captions = results(tmp_path / "captions.json", {"images": images, "annotations": annotations})
    copies = [{"image_id": entry["image_id"], "caption": entry["caption"].lower()} for entry in annotations]
    found = results(tmp_path / "results.json", copies)
    out = tmp_path / "report.json"
    assert evaluate("--results", found, "--captions", captions, "--format", "coco", "--out", out) == 0
    assert read(out)["scores"]["bleu4"] == pytest.approx(1.0)
    assert read(out)["scores"]["cider"] == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no captions"),
        ("[]", "holds no captions"),
        ("{", "neither JSON nor JSON lines"),
        ("[" * 100_000, "neither JSON nor JSON lines"),
        ([7], "entry 1 of 1 has no image_id and caption"),
        ([{"image_id": 3}], "entry 1 of 1 has no image_id and caption"),
        ([*RESULTS, *RESULTS], "entry 2 of 2 captions image dev0-red-left.png a second time"),
    ],
)
def test_broken_results_are_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_results(results(tmp_path / "r.json", content))


def test_captions_of_other_images_are_refused(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = results(tmp_path / "r.json", [*RESULTS, {"image_id": "elsewhere.png", "caption": "a dog"}])
    assert evaluate("--results", path, "--data", shapes) == 2
    assert "1 captioned images are not in split dev, the first is elsewhere.png" in capsys.readouterr().err
    assert evaluate("--results", path) == 2
    assert "--data is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [
        ["--beams", "2"],
        ["--max-words", "3"],
        ["--ban", "a"],
        ["--batch", "2"],
        ["--no-repeat", "3"],
        ["--sample"],
        ["--backend", "cpu"],
        ["--precision", "int8"],
        ["--verbose"],
        ["--features", "x"],
    ],
)
def test_options_of_models_are_refused_where_captions_exist_already(
    shapes: Path, tmp_path: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = results(tmp_path / "r.json", RESULTS)
    assert evaluate("--results", path, "--data", shapes, *option) == 2
    printed = capsys.readouterr().err
    assert f"{option[0]} is given, but --results scores captions that exist already" in printed
    assert "leave it out" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("option", ["--out", "--captions-out", "--sheet"])
def test_a_folder_is_no_file_to_write(
    checkpoint: Path, shapes: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    others = {"--out": "a.json", "--captions-out": "a.jsonl", "--sheet": "a.png", option: "folder"}
    outputs = [each for name, file in others.items() for each in (name, tmp_path / file)]
    assert evaluate(checkpoint, "--data", shapes, *outputs) == 2
    printed = capsys.readouterr().err
    assert f"{option} {tmp_path / 'folder'}: is a folder; expected the name of a file" in printed
    assert printed.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_two_outputs_are_two_files(
    checkpoint: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = ["--out", tmp_path / "a.json", "--captions-out", tmp_path / "b" / ".." / "a.json"]
    assert evaluate(checkpoint, "--data", shapes, *outputs) == 2
    assert "is the file of --out too; expected two files" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_verbose_says_where_a_model_runs(checkpoint: Path, shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device = ["--backend", "cpu", "--threads", "1", "--beams", "1", "--verbose"]
    for model in (checkpoint, DEFAULT_BUNDLE):
        assert evaluate(model, "--data", shapes, *device) == 0
        assert "camscribe: backend " in capsys.readouterr().err


def test_a_bundle_is_captioned_by_the_runtime_and_scored(shapes: Path, tmp_path: Path) -> None:
    lines, out = tmp_path / "captions.jsonl", tmp_path / "report.json"
    arguments = ["--data", shapes, "--precision", "float32", "--backend", "cpu", "--threads", "1", "--beams", "2"]
    assert evaluate(DEFAULT_BUNDLE, *arguments, "--captions-out", lines, "--out", out) == 0
    report = read(out)
    assert report["model"]["kind"] == "bundle"
    assert (report["model"]["backend"], report["model"]["precision"]) == ("cpu", "float32")
    assert report["search"]["beams"] == 2
    with Captioner.load(DEFAULT_BUNDLE, "cpu", "float32", threads=1) as captioner:
        images = read_dataset("flickr8k", shapes, split="dev")
        expected = {image.image_id: captioner.caption(image.path, beams=2).text for image in images}
    assert read_results(lines) == expected
    guided = ["--contain", "cat"]
    assert evaluate(DEFAULT_BUNDLE, *arguments, *guided, "--captions-out", lines, "--out", out) == 0
    assert read(out)["search"]["contain"] == ["cat"]
    assert all("cat" in caption.split() for caption in read_results(lines).values())


def test_an_ensemble_of_bundles_is_scored_and_named(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = []
    load = Captioner.load
    monkeypatch.setattr(Captioner, "load", lambda path, *rest: loaded.append(path) or load(path, *rest))
    other = tmp_path / "other"
    shutil.copytree(DEFAULT_BUNDLE, other)
    alone, both, out = tmp_path / "alone.jsonl", tmp_path / "both.jsonl", tmp_path / "both.json"
    assert evaluate("--data", shapes, "--captions-out", alone) == 0
    assert evaluate("--data", shapes, "--ensemble", other, "--captions-out", both, "--out", out) == 0
    assert loaded == [None, [DEFAULT_BUNDLE, other]]
    assert read_results(both) == read_results(alone)  # the mean of a model and itself
    model = read(out)["model"]
    assert model["ensemble"] == [{"name": model["name"], "sha256": model["sha256"]}]
    assert f"{model['name']} + {model['name']} (bundle" in capsys.readouterr().out
