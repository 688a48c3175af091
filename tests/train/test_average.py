"""``camscribe average``: means of checkpoints, and what a training changed added to another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from camscribe.runtime.errors import DataError, OptionError
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.commands.average import average, main


def _checkpoint(path: Path, weight: float, words: tuple[str, ...] = ("<s>", "</s>", "a"), width: int = 3) -> Path:
    tensors = {
        "model.weight": torch.full((2, width), weight),
        "model.bias": torch.full((width,), -weight),
        "average.weight": torch.full((2, width), weight + 1),  # of a checkpoint that resumes: what validation uses
        "model.detector": torch.tensor([7, 8], dtype=torch.uint8),
    }
    Checkpoint(tensors, {"vocabulary": list(words), "progress": {"stage": 1, "epoch": 2}, "name": path.stem}).save(path)
    return path


def test_the_mean_counts_a_checkpoint_as_often_as_it_is_named(tmp_path: Path) -> None:
    one, two = _checkpoint(tmp_path / "one.safetensors", 1.0), _checkpoint(tmp_path / "two.safetensors", 4.0)
    made = average([one, two, two])
    torch.testing.assert_close(made.of("model.")["weight"], torch.full((2, 3), 4.0))  # (2 + 5 + 5) / 3
    torch.testing.assert_close(made.of("model.")["bias"], torch.full((3,), -3.0))
    assert made.of("model.")["detector"].tolist() == [7, 8]
    assert made.meta["name"] == "two"
    assert [Path(part["checkpoint"]).name for part in made.meta["averaged"]] == [one.name, two.name, two.name]
    assert "plus" not in made.meta


def test_what_a_training_changed_is_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {"a": 1.0, "b": 3.0, "c": 10.0, "d": 10.5}
    paths = [_checkpoint(tmp_path / f"{name}.safetensors", value) for name, value in values.items()]
    out = tmp_path / "out.safetensors"
    first, second, before, after = map(str, paths)
    assert main([first, second, "--plus", before, after, "--out", str(out)]) == 0
    made = Checkpoint.load(out)
    torch.testing.assert_close(made.of("model.")["weight"], torch.full((2, 3), 3.5))  # (2 + 4) / 2 + 11.5 - 11
    torch.testing.assert_close(made.of("model.")["bias"], torch.full((3,), -2.5))
    assert made.of("model.")["detector"].tolist() == [7, 8]
    assert made.meta["name"] == "b"
    assert [Path(part["checkpoint"]).name for part in made.meta["plus"]] == ["c.safetensors", "d.safetensors"]
    assert "the mean of 2 checkpoints, plus what changed from" in capsys.readouterr().out


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("other", [{"words": ("<s>", "</s>", "b")}, {"width": 4}])
def test_other_models_are_refused_wherever_they_stand(tmp_path: Path, where: int, other: dict[str, object]) -> None:
    kinds = [other if index == where else {} for index in range(3)]
    first, before, after = (
        _checkpoint(tmp_path / f"{index}.safetensors", 1.0, **kind)  # type: ignore[arg-type]
        for index, kind in enumerate(kinds)
    )
    with pytest.raises(DataError, match=r"is of another model or vocabulary than .*; average checkpoints of one run"):
        average([first], [before, after])


def test_models_that_differ_in_more_than_their_shapes_are_refused(tmp_path: Path) -> None:
    paths = []
    for heads, dropout in ((8, 0.5), (4, 0.1)):
        checkpoint = Checkpoint.load(_checkpoint(tmp_path / f"{heads}.safetensors", 1.0))
        checkpoint.meta["config"] = {"model": {"heads": heads, "dropout": dropout}}
        checkpoint.save(tmp_path / f"{heads}.safetensors")
        paths.append(tmp_path / f"{heads}.safetensors")
    with pytest.raises(
        DataError, match=r"4.safetensors: .*\[model\] differs in heads \(4, expected 8\); average check"
    ):
        average(paths)
    checkpoint.meta["config"]["model"]["heads"] = 8
    checkpoint.save(paths[1])
    average(paths)  # dropout is of the training alone


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    one = _checkpoint(tmp_path / "one.safetensors", 1.0)
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match=r"--out .*file: cannot be written into"):
        main([str(one), "--out", str(tmp_path / "file" / "out.safetensors")])
