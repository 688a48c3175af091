"""Training runs: they learn, resume exactly, run on two processes, and leave their folder in order."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lightning_fabric
import pytest
import torch
from lightning_fabric.plugins.precision.amp import MixedPrecision
from PIL import Image

from camscribe.runtime import cli
from camscribe.runtime.errors import DataError
from camscribe.runtime.pixels import PixelSpec
from camscribe.train.backbone import Backbone
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.commands.join import join
from camscribe.train.config import Config, MemberConfig, from_dict
from camscribe.train.features import FeatureCache, PixelSource, open_rows
from camscribe.train.readers import CaptionedImage
from camscribe.train.run import Interval
from camscribe.train.trainer import Trainer

MODEL = {
    "backbone": "shufflenet_v2_x0_5",
    "weights": "none",
    "image_height": 64,
    "image_width": 64,
    "memory_width": 48,
    "attention_width": 32,
    "state_width": 64,
    "embedding_width": 32,
    "dropout": 0.1,
}
STAGES = [
    {"name": "decoder", "epochs": 2, "batch": 8, "captions_per_image": 2, "warm_up_steps": 2},
    {"name": "all", "epochs": 1, "batch": 8, "trained_backbone_stages": 6, "variants": 3, "captions_per_image": 2},
    {"name": "tail", "epochs": 1, "batch": 8, "trained_backbone_stages": 2, "scheduled_sampling": 0.5},
    {"name": "reward", "epochs": 1, "batch": 8, "objective": "self_critical", "captions_per_image": 3},
]


def _config(shapes: Path, stages: list[dict[str, object]] | None = None, **rest: object) -> Config:
    data = {"root": str(shapes), "train": "train", "tune": "dev", "min_count": 1, "max_words": 9}
    table = {"data": data, "model": MODEL, "stage": STAGES if stages is None else stages, **rest}
    return from_dict({"validation": {"max_words": 9}, **table})


def _trainer(config: Config, folder: Path) -> Trainer:
    folder.mkdir(exist_ok=True)
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return Trainer(config, folder, fabric, folder / "cache")


def test_a_small_decoder_learns_to_look(shapes: Path, tmp_path: Path) -> None:
    # Random features of a network without batch norms tell colours and sides well enough for a decoder to learn them.
    stage = {**STAGES[0], "epochs": 40, "variants": 2, "learning_rate": 8e-3, "warm_up_steps": 4}
    stage |= {"label_smoothing": 0.0, "average_decay": 0.5}
    config = _config(shapes, [stage])
    config = replace(config, model=replace(config.model, backbone="squeezenet1_1"))
    best = _trainer(config, tmp_path).run()
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    scored = [entry for entry in entries if "tune_cider" in entry]
    assert len(scored) == 40
    top = max(scored, key=lambda entry: entry["tune_cider"])
    assert top["tune_cider"] > 2.5, "one caption for all images scores 2.3 at most"
    assert top["different"] > 1
    assert Checkpoint.load(best).meta["progress"]["best"] == pytest.approx(top["tune_cider"])


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("kill_at", [3, 9, 17])
def test_a_killed_run_resumes_exactly(
    shapes: Path, tmp_path: Path, kill_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(shapes, checkpoint_seconds=0)
    _trainer(config, tmp_path / "whole").run()

    steps = 0
    update = Trainer._update_average

    def killing(self: Trainer, decay: float, done: int) -> None:
        nonlocal steps
        steps += 1
        if steps == kill_at:
            raise _Killed
        update(self, decay, done)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update_average", killing)
        with pytest.raises(_Killed):
            _trainer(config, tmp_path / "broken").run()
    _trainer(config, tmp_path / "broken").run()

    whole, broken = (Checkpoint.load(tmp_path / name / "last.safetensors") for name in ("whole", "broken"))
    assert set(whole.tensors) == set(broken.tensors)
    assert [name for name, value in whole.tensors.items() if not torch.equal(value, broken.tensors[name])] == []

    def scores(checkpoint: Checkpoint) -> list[float]:
        return [entry["tune_cider"] for entry in checkpoint.meta["history"] if "tune_cider" in entry]

    assert scores(whole) == scores(broken)


def test_a_folder_of_another_configuration_is_refused(shapes: Path, tmp_path: Path) -> None:
    config = _config(shapes, [{"name": "a", "epochs": 1}])
    _trainer(config, tmp_path).run()
    with pytest.raises(DataError, match="another configuration"):
        _trainer(replace(config, seed=2), tmp_path)


def test_more_stages_than_the_backbone_has_are_refused(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="stage all: trained_backbone_stages is 7; backbone shufflenet_v2_x0_5 has 6"):
        _trainer(_config(shapes, [STAGES[0], {**STAGES[1], "trained_backbone_stages": 7}]), tmp_path)


def test_patience_ends_a_stage(shapes: Path, tmp_path: Path) -> None:
    stage = {"name": "still", "epochs": 9, "learning_rate": 0.0, "patience": 2, "average_decay": 0.0}
    _trainer(_config(shapes, [stage]), tmp_path).run()
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum("tune_cider" in entry for entry in entries) == 3


def test_a_run_killed_after_patience_ended_a_stage_goes_on_with_the_next(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = {**STAGES[0], "name": "still", "epochs": 9, "learning_rate": 0.0, "patience": 1, "average_decay": 0.0}
    begin = Trainer._begin_stage

    def killing(self: Trainer, index: int) -> Checkpoint | None:
        if index == 1:
            raise _Killed
        return begin(self, index)

    config = _config(shapes, [still, {**STAGES[0], "epochs": 1}])
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_begin_stage", killing)
        with pytest.raises(_Killed):
            _trainer(config, tmp_path).run()
    _trainer(config, tmp_path).run()
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [entry["stage"] for entry in entries if "tune_cider" in entry] == ["still", "still", "decoder"]


def test_images_that_cannot_be_decoded_are_named_before_training_and_left_out_on_demand(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(shapes, tmp_path / "data")
    for name in ("train0-red-left.png", "dev0-blue-right.png"):
        path = root / "images" / name
        path.write_bytes(path.read_bytes()[:-40])
    model = "\n".join(f"{key} = {json.dumps(value)}" for key, value in MODEL.items())
    config = tmp_path / "run.toml"
    config.write_text(
        f'[data]\nroot = "data"\nmin_count = 1\n[model]\n{model}\n[[stage]]\nname = "a"\nepochs = 1\nvariants = 1\n'
    )
    command = ["train", str(config), "--out", str(tmp_path / "run"), "--accelerator", "cpu"]
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    for part in ("1 bad entry", "train0-red-left.png: is a damaged", "--skip-bad"):
        assert part in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run" / "last.safetensors").exists()
    assert cli.main([*command, "--skip-bad"]) == 0
    said = capsys.readouterr().out
    assert "training: 31 images with 62 captions; skipped 1 bad entry: " in said
    assert "tuning: 7 images with 14 captions; skipped 1 bad entry: " in said


def test_regions_without_a_detector_are_refused(shapes: Path, tmp_path: Path) -> None:
    config = _config(shapes, [STAGES[0]])
    with pytest.raises(DataError, match=r"needs a detector, and model\.detector is missing; expected the file of"):
        _trainer(replace(config, model=replace(config.model, encoder="regions")), tmp_path)


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder; expected a file such as best\.safetensors in it"):
        Checkpoint.load(tmp_path)


def test_a_checkpoint_that_contradicts_itself_is_named(tmp_path: Path) -> None:
    table = _config(tmp_path).to_dict()
    path = tmp_path / "odd.safetensors"
    Checkpoint({"model.a": torch.ones(3)}, {"config": table, "vocabulary": ["<pad>", "<s>", "</s>", "a"]}).save(path)
    with pytest.raises(DataError, match=r"odd\.safetensors: does not fit its own configuration"):
        Checkpoint.load(path).model()
    Checkpoint({}, {"config": {**table, "other": 1}}).save(path)
    with pytest.raises(DataError, match=r"odd\.safetensors: its configuration: "):
        _ = Checkpoint.load(path).config


def test_an_accelerator_whose_package_is_missing_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fabric(**_: object) -> None:
        raise ModuleNotFoundError("install\ntorch_xla")

    monkeypatch.setattr("camscribe.train.commands.train.Fabric", fabric)
    config = tmp_path / "a.toml"
    config.write_text('[data]\nroot = "x"\n[[stage]]\nname = "a"\nepochs = 1\n')
    assert cli.main(["train", str(config), "--out", str(tmp_path / "run"), "--accelerator", "tpu"]) == 2
    message = capsys.readouterr().err
    assert "--accelerator tpu, precision " in message
    assert message.endswith("install torch_xla\n")
    assert message.count("\n") == 1


def test_tuning_images_that_are_trained_on_too_are_told(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(shapes, [STAGES[0]])
    _trainer(config, tmp_path / "apart")
    assert "note:" not in capsys.readouterr().out
    _trainer(replace(config, data=replace(config.data, tune="train[:5]")), tmp_path / "same")
    assert "note: 5 of 5 tuning images are trained on too" in capsys.readouterr().out


def test_a_run_that_diverges_ends_with_a_line_and_a_sound_checkpoint(shapes: Path, tmp_path: Path) -> None:
    for clip in (0.0, 1.0):
        wild = {**STAGES[0], "epochs": 9, "learning_rate": 1e20, "warm_up_steps": 1, "gradient_clip": clip}
        config = _config(shapes, [wild], checkpoint_seconds=0)
        with pytest.raises(DataError, match=r"stage decoder, step \d+: the gradient is (nan|inf); lower"):
            _trainer(config, tmp_path / f"{clip}").run()
        last = Checkpoint.load(tmp_path / f"{clip}" / "last.safetensors")
        assert all(value.isfinite().all() for value in last.of("model.").values())


def test_a_checkpoint_without_room_leaves_the_one_before_it(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    Checkpoint({"model.a": torch.ones(3)}, {"config": {}}).save(path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(DataError, match=r"last\.safetensors: cannot be written .*the checkpoint before it is kept"):
            Checkpoint({"model.a": torch.ones(100_000)}, {"config": {}}).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_cache_takes_its_room_on_the_disk_at_once(tmp_path: Path) -> None:
    """A page of a mapped file for which the disk turns out to have no room would end the process by a signal."""
    open_rows(tmp_path / "rows.npy", (1000, 1000))
    assert (tmp_path / "rows.npy").stat().st_blocks * 512 >= 2_000_000


def test_a_cache_that_was_cut_off_where_it_began_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "rows.npy").write_bytes(b"")
    assert open_rows(tmp_path / "rows.npy", (4, 2)).shape == (4, 2)


def test_networks_whose_weights_fit_each_other_have_caches_of_their_own(tmp_path: Path) -> None:
    plain, caffe = Backbone("resnet50"), Backbone("caffe_resnet50")
    caffe.stages.load_state_dict(plain.stages.state_dict())
    Image.new("RGB", (64, 64)).save(tmp_path / "image.png")
    source = PixelSource([CaptionedImage(tmp_path / "image.png", ("x",), "image", "train")], PixelSpec(64, 64), 1, 1)
    for backbone in (plain, caffe):
        FeatureCache(backbone, 0, source, tmp_path / "cache", show=False)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2


def test_only_the_first_process_s_clock_counts() -> None:
    assert Interval(3600.0, lambda mine: True).due()
    assert not Interval(0.0, lambda mine: False).due()


def test_the_scale_of_a_half_precision_loss_goes_on_where_it_was(shapes: Path, tmp_path: Path) -> None:
    config = replace(_config(shapes, [STAGES[0]]), precision="16-mixed")

    def trainer(scale: float) -> tuple[Trainer, torch.amp.GradScaler]:
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1, plugins=[plugin])
        fabric.launch()
        return Trainer(config, tmp_path, fabric, tmp_path / "cache"), scaler

    first, before = trainer(2.0**12)
    first.run()
    again, after = trainer(2.0**5)
    last = Checkpoint.load(tmp_path / "last.safetensors")
    kept = {name: value for name, value in last.tensors.items() if name.startswith("precision.")}
    again._restore(Checkpoint(kept, last.meta), {})
    assert after.state_dict() == before.state_dict()


def test_what_is_taken_from_a_checkpoint_is_the_average_that_was_validated(shapes: Path, tmp_path: Path) -> None:
    _trainer(_config(shapes, [{**STAGES[0], "epochs": 1, "average_decay": 0.5}]), tmp_path).run()
    last = Checkpoint.load(tmp_path / "last.safetensors")
    found, raw = last.model().state_dict(), last.of("model.")
    average = last.of("average.")
    assert average
    assert all(torch.equal(found[name], value) for name, value in average.items())
    assert any(not torch.equal(raw[name], value) for name, value in average.items())


def test_two_processes_train_the_same_weights(shapes: Path, tmp_path: Path) -> None:
    model = "\n".join(f"{key} = {json.dumps(value)}" for key, value in MODEL.items())
    # What a clock decides, or a score that the first process alone knows, is decided for both: else they wait for ever.
    waiting = {**STAGES[0], "name": "waiting", "epochs": 20, "learning_rate": 0.0, "average_decay": 0.0, "patience": 1}
    stages = "\n".join(
        "[[stage]]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in stage.items())
        for stage in (STAGES[0], waiting, STAGES[3])
    )
    config = tmp_path / "run.toml"
    config.write_text(
        f'checkpoint_seconds = 1\n[data]\nroot = "{shapes}"\nmin_count = 1\nmax_words = 9\n[model]\n{model}\n'
        f"[validation]\nmax_words = 9\n{stages}\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["camscribe.train.commands.train", str(config), "--out", str(tmp_path / "run"), "--accelerator", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "waiting: no better CIDEr in 1 validations" in done.stdout
    last = Checkpoint.load(tmp_path / "run" / "last.safetensors")
    assert {name for name in last.tensors if name.startswith("rng.")} == {"rng.0", "rng.1"}
    assert len([entry for entry in last.meta["history"] if "tune_cider" in entry]) == 5
    assert done.stdout.count("best checkpoint") == 1


def test_a_run_starts_from_a_checkpoint_with_its_vocabulary(shapes: Path, tmp_path: Path) -> None:
    first = _config(shapes, [{**STAGES[0], "epochs": 1}])
    best = _trainer(first, tmp_path / "first").run()
    # Of the same images but with rarer words left out, were the vocabulary not the checkpoint's.
    second = _config(shapes, [{**STAGES[3], "learning_rate": 0.0, "average_decay": 0.0}], start=str(best))
    second = replace(second, data=replace(second.data, min_count=1000))
    again = Checkpoint.load(_trainer(second, tmp_path / "second").run())
    assert again.vocabulary.tokens == Checkpoint.load(best).vocabulary.tokens
    for name, value in Checkpoint.load(best).of("model.").items():
        torch.testing.assert_close(again.of("model.")[name], value)
    larger = replace(second, model=replace(second.model, image_height=72, image_width=80))
    third = Checkpoint.load(_trainer(larger, tmp_path / "larger").run())
    assert (third.config.model.image_height, third.config.model.image_width) == (72, 80)
    for name, value in Checkpoint.load(best).of("model.").items():
        torch.testing.assert_close(third.of("model.")[name], value)
    other = replace(second, model=replace(second.model, state_width=32))
    with pytest.raises(DataError, match=r"another model: \[model\] differs in state_width"):
        _trainer(other, tmp_path / "third")


@pytest.mark.parametrize("decoder", ["updown", "transformer"])
def test_other_decoders_train_through_every_kind_of_stage(shapes: Path, tmp_path: Path, decoder: str) -> None:
    greedy = {**STAGES[3], "baseline": "greedy", "bleu4_weight": 2.0, "captions_per_image": 1}
    config = _config(shapes, [STAGES[0], STAGES[2], greedy])
    config = replace(config, model=replace(config.model, decoder=decoder, layers=2, heads=4, window=12))
    best = Checkpoint.load(_trainer(config, tmp_path).run())
    assert best.config.model.decoder == decoder
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum("tune_cider" in entry for entry in entries) == 4
    assert any({"reward", "greedy_reward"} <= entry.keys() for entry in entries)


def test_an_ensemble_is_joined_and_then_trained_on_as_one(shapes: Path, tmp_path: Path) -> None:
    first = _config(shapes, [{**STAGES[0], "epochs": 1}])
    one = _trainer(first, tmp_path / "first").run()
    # A frozen backbone is what makes two runs have one encoder.
    model = replace(first.model, decoder="updown", weights=str(one), state_width=32)
    other = _trainer(replace(first, model=model), tmp_path / "second").run()
    joined = join([one, other])
    joined.save(tmp_path / "joined.safetensors")
    members = (MemberConfig("soft_attention"), MemberConfig("updown", state_width=32))
    table = _config(shapes, [STAGES[2], STAGES[3]], start=str(tmp_path / "joined.safetensors")).to_dict()
    table["model"] |= {"decoder": "ensemble", "members": [vars(member) for member in members]}
    table["model"]["members"] = [{k: v for k, v in each.items() if v is not None} for each in table["model"]["members"]]
    best = Checkpoint.load(_trainer(from_dict(table), tmp_path / "third").run())
    assert best.config.model.members == joined.config.model.members
    assert [member["checkpoint"] for member in best.meta["start"]["members"]] == [
        "first/best.safetensors",
        "second/best.safetensors",
    ]
    for number in range(2):
        name = f"decoder.members.{number}.output.weight"
        assert not torch.equal(best.of("model.")[name], joined.of("model.")[name])
    entries = [json.loads(line) for line in (tmp_path / "third" / "metrics.jsonl").read_text().splitlines()]
    assert any("reward" in entry for entry in entries)
