"""The configuration file: what is refused, and how it is said."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from camscribe.runtime.errors import DataError
from camscribe.train.config import Config, from_dict, load_config, read_table
from camscribe.train.superres.config import load_config as load_superres

STAGE = {"name": "only", "epochs": 1}
ENSEMBLE = {
    "decoder": "ensemble",
    "state_width": 64,
    "members": [{"decoder": "updown"}, {"decoder": "transformer", "state_width": 32, "deep_output": False}],
}


def test_a_configuration_survives_json() -> None:
    config = from_dict({"data": {"root": "x"}, "stage": [STAGE], "precision": "bf16-mixed"})
    assert from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_what_a_member_of_an_ensemble_does_not_say_is_the_model_s() -> None:
    config = from_dict({"data": {"root": "x"}, "stage": [STAGE], "model": ENSEMBLE})
    assert from_dict(json.loads(json.dumps(config.to_dict()))) == config
    first, second = config.model.of_members()
    assert (first.decoder, first.state_width, first.deep_output, first.members) == ("updown", 64, True, ())
    assert (second.decoder, second.state_width, second.deep_output) == ("transformer", 32, False)
    written = {**ENSEMBLE, "members": [{**ENSEMBLE["members"][0], "state_width": 64}, ENSEMBLE["members"][1]]}
    assert from_dict({"data": {"root": "x"}, "stage": [STAGE], "model": written}) == config
    older = config.to_dict()
    older["model"] = {key: value for key, value in older["model"].items() if key != "members"} | {"decoder": "updown"}
    assert from_dict(older).model.members == ()


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        '[data]\nroot = "photos"\n[model]\nweights = "net.safetensors"\n[[stage]]\nname = "a"\nepochs = 1\n'
    )
    config = load_config(path)
    assert config.data.root == str(tmp_path.resolve() / "photos")
    assert config.model.weights == str(tmp_path.resolve() / "net.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"rot": "x"}}, "unknown key 'rot'; did you mean 'root'"),
        ({"data": {}}, "root is missing; expected text"),
        ({"seed": -1}, "seed: is -1; expected a whole number"),
        ({"seed": True}, "seed: is True; expected a whole number"),
        ({"precision": "half"}, "expected one of '32-true'"),
        ({"stage": []}, "no [[stage]]"),
        ({"stage": [{**STAGE, "epochs": "many"}]}, "stage[0]: epochs: is 'many'; expected a whole number"),
        ({"stage": [{**STAGE, "objective": "rl"}]}, "expected one of 'cross_entropy', 'self_critical'"),
        ({"model": 3}, "model: expected a table"),
        ({"model": {"decoder": "ensemble"}}, "[[model.members]], its decoders, need each other"),
        ({"model": {"members": ENSEMBLE["members"]}}, "[[model.members]], its decoders, need each other"),
        ({"model": {**ENSEMBLE, "members": ENSEMBLE["members"][:1]}}, "one member; expected two or more"),
        ({"model": {**ENSEMBLE, "members": [ENSEMBLE] * 2}}, "members[0]: unknown key 'members'"),
        ({"model": {**ENSEMBLE, "members": [{"decoder": "ensemble"}] * 2}}, "expected one of 'soft_attention'"),
        (
            {"model": {**ENSEMBLE, "members": [{"decoder": "updown", "layers": -1}] * 2}},
            "layers: is -1; expected a whole",
        ),
        ({"stage": [{**STAGE, "bleu4_weight": -1}]}, "stage only: bleu4_weight is -1; expected 0 or more"),
        ({"stage": [{**STAGE, "bleu4_weight": math.nan}]}, "bleu4_weight: is nan; expected a number"),
        ({"stage": [{**STAGE, "ending_penalty": -1}]}, "stage only: ending_penalty is -1; expected 0 or more"),
        ({"stage": [{**STAGE, "learning_rate": math.inf}]}, "learning_rate: is inf; expected a number"),
        ({"stage": [{**STAGE, "sample_temperature": 0}]}, "sample_temperature is 0; expected more than 0"),
        ({"stage": [{**STAGE, "batch": 0}]}, "stage only: batch is 0; expected 1 or more"),
        ({"stage": [{**STAGE, "captions_per_image": 0}]}, "captions_per_image is 0; expected 1 or more"),
        ({"stage": [{**STAGE, "dropout": 2}]}, "stage only: dropout is 2; expected 0 to less than 1"),
        ({"model": {"region_overlap": 1.5}}, "model: region_overlap is 1.5; expected 0 to 1"),
        ({"model": {"state_width": 0}}, "model: state_width is 0; expected 1 or more"),
        (
            {"stage": [{**STAGE, "objective": "self_critical", "captions_per_image": 1}]},
            "stage only: captions_per_image is 1; expected 2 or more",
        ),
    ],
)
def test_what_has_no_meaning_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError) as caught:
        from_dict({"data": {"root": "x"}, "stage": [STAGE], **change})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_without_meaning_are_all_listed_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        '[data]\nroot = "photos"\nmin_count = 0\n[model]\nimage_height = 7\ndropout = 1.0\n'
        "[validation]\nbeams = 0\nlength_penalty = -1.0\n"
        '[[stage]]\nname = "a"\nepochs = 0\nbatch = 0\nlearning_rate = -1\n'
        '[[stage]]\nname = "b"\nepochs = 1\nsample_temperature = 0.0\ndropout = 2.0\n'
    )
    with pytest.raises(DataError) as caught:
        load_config(path)
    assert str(caught.value) == (
        f"{path}: data: min_count is 0; expected 1 or more; model: image_height is 7; expected 8 to 4096; "
        "model: dropout is 1; expected 0 to less than 1; validation: beams is 0; expected 1 to 64; "
        "validation: length_penalty is -1; expected 0 to 10; stage a: epochs is 0; expected 1 or more; "
        "stage a: batch is 0; expected 1 or more; stage a: learning_rate is -1; expected 0 or more; "
        "stage b: sample_temperature is 0; expected more than 0; stage b: dropout is 2; expected 0 to less than 1"
    )


@pytest.mark.parametrize("content", [b"[data", b"\xff\xfe", None])
def test_an_unreadable_file_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_shipped_configurations_load(repository: Path) -> None:
    found = sorted((repository / "train" / "configs").glob("*.toml"))
    assert found
    tasks = {path: read_table(path).get("task", "captioning") for path in found}
    assert set(tasks.values()) == {"captioning", "super_resolution"}
    assert all(isinstance(load_config(path), Config) for path, task in tasks.items() if task == "captioning")
    assert all(load_superres(path).stage for path, task in tasks.items() if task == "super_resolution")


def test_keys_are_changed_from_outside(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('seed = 1\n[data]\nroot = "data"\n[[stage]]\nname = "only"\nepochs = 1\n')
    changes = ["seed=7", "model.decoder=updown", "model.dropout = 0.25", "data.tune='dev[:5]'", "stage.only.epochs=3"]
    changed = load_config(path, changes)
    assert (changed.seed, changed.model.decoder, changed.model.dropout, changed.data.tune) == (
        7,
        "updown",
        0.25,
        "dev[:5]",
    )
    assert [(stage.name, stage.epochs) for stage in changed.stage] == [("only", 3)]
    for change, message in (
        ("seed", "expected KEY=VALUE"),
        ("=7", "expected KEY=VALUE"),
        ("stage.epochs=2", "stage is a list of tables; expected one of them by its name: stage.only"),
        ("stage.first.epochs=2", "expected one of them by its name: stage.only"),
        ("stage=[]", "stage"),
        ("seed.epochs=2", "seed is no table"),
        ("model.decoder=3", "decoder"),
        ("model.decodr=updown", "decodr"),
    ):
        with pytest.raises(DataError, match=message):
            load_config(path, [change])
