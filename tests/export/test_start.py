"""Training goes on from a bundle: its weights come back as they were exported, and what is exported then says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from camscribe.export.command import main
from camscribe.export.graphs import rounded
from camscribe.runtime import cli
from camscribe.runtime.bundle import Bundle, content_sha256
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import BundleError, DataError
from camscribe.runtime.images import read
from camscribe.runtime.pixels import reduce
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.config import SHIPPED, from_dict, load_config
from camscribe.train.executor import TorchExecutor
from camscribe.train.model import Captioner as Model
from camscribe.train.start import bundle_checkpoint, load_start

from .conftest import CONFIG, EXAMPLES


@pytest.fixture(scope="module")
def trained(checkpoint: Path) -> Checkpoint:
    """The checkpoint with biases in its convolutions, as training leaves them; an exporter drops those that are 0."""
    made = Checkpoint.load(checkpoint)
    generator = torch.Generator().manual_seed(5)
    for name, value in made.tensors.items():
        if name.startswith("model.backbone.stages.") and name.endswith(".bias"):
            value.normal_(std=0.01, generator=generator)
    return made


@pytest.fixture(scope="module")
def bundle(trained: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("start")
    trained.save(folder / "best.safetensors")
    arguments = ["--out", str(folder / "bundle"), "--no-int8", "--no-fp16", "--parity-images", str(EXAMPLES)]
    assert main([str(folder), *arguments]) == 0
    return Bundle.load(folder / "bundle")


def test_a_bundle_gives_back_the_checkpoint_that_it_was_made_of(bundle: Bundle, trained: Checkpoint) -> None:
    found = bundle_checkpoint(bundle.path)
    assert found.vocabulary.tokens == trained.vocabulary.tokens
    expected = rounded(trained.model()).state_dict()
    for name, value in found.model().state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_run_starts_from_a_bundle_and_its_export_says_so(bundle: Bundle, shapes: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    table = "\n".join(f"{name} = {json.dumps(value)}" for name, value in CONFIG["model"].items())
    stage = "trained_backbone_stages = 2\nlearning_rate = 0.0\nbackbone_learning_rate = 0.0\naverage_decay = 0.0\n"
    config.write_text(
        f'start = "{bundle.path}"\n[data]\nroot = "{shapes}"\nmin_count = 1\n[model]\n{table}\n'
        f'[validation]\nmax_words = 8\n[[stage]]\nname = "tail"\nepochs = 1\n{stage}'
    )
    assert cli.main(["train", str(config), "--out", str(tmp_path / "run"), "--threads", "1"]) == 0
    before, after = bundle_checkpoint(bundle.path), Checkpoint.load(tmp_path / "run" / "best.safetensors")
    assert after.vocabulary.tokens == bundle.vocabulary.tokens
    for name, value in before.of("model.").items():
        torch.testing.assert_close(after.of("model.")[name], value, msg=name)
    arguments = ["--out", str(tmp_path / "again"), "--no-int8", "--no-fp16", "--parity-images", str(EXAMPLES)]
    assert main([str(tmp_path / "run"), *arguments]) == 0
    start = Bundle.load(tmp_path / "again").manifest.provenance["start"]["bundle"]
    assert (start["name"], start["sha256"]) == (bundle.manifest.name, content_sha256(bundle.path))
    assert start["seed"] == bundle.manifest.provenance["seed"]


def test_the_shipped_captioner_is_what_own_toml_starts_from(repository: Path) -> None:
    found = load_start(SHIPPED, load_config(repository / "train" / "configs" / "own.toml"))
    executor, spec = TorchExecutor(found.model(), found.vocabulary), Bundle.load().manifest.pixels
    photographs = [read(path) for path in sorted(EXAMPLES.glob("*.jpg"))[:3]]
    with Captioner.load(None, "cpu", "float32") as captioner:
        texts = [caption.text for caption in captioner.caption(photographs, "rgb")]
        options = captioner.options()
    made = executor.caption(np.stack([reduce(photograph, spec) for photograph in photographs]), options)
    assert [" ".join(found.vocabulary.decode(best.tokens)) for best, *_ in made] == texts


def test_what_cannot_be_started_from_is_one_line(bundle: Bundle, tmp_path: Path) -> None:
    config = from_dict(CONFIG)
    with pytest.raises(
        DataError, match=r"\[model\] differs in state_width \(32, expected 160\); start needs the same$"
    ):
        load_start(str(bundle.path), replace(config, model=replace(config.model, state_width=32)))
    with pytest.raises(DataError, match="cannot be read as a checkpoint"):
        load_start(str(tmp_path / "none"), config)
    with pytest.raises(BundleError, match="is not a bundle: it has no bundle"):
        load_start(str(tmp_path), config)
    grid = from_dict({**CONFIG, "model": {**CONFIG["model"], "decoder": "att2in2"}})
    tensors = {f"model.{name}": value for name, value in Model(12, grid.model).state_dict().items()}
    meta = {"config": grid.to_dict(), "vocabulary": ["<pad>"], "progress": {}, "history": []}
    Checkpoint(tensors, meta).save(tmp_path / "grid.safetensors")
    regions = replace(grid, model=replace(grid.model, encoder="regions", detector="yolox.onnx"))
    with pytest.raises(DataError, match=r"differs in encoder \('regions', expected 'grid'\)"):
        load_start(str(tmp_path / "grid.safetensors"), regions)
    other = from_dict({**CONFIG, "model": {**CONFIG["model"], "decoder": "updown", "backbone": "squeezenet1_1"}})
    tensors = Model(len(bundle.vocabulary), other.model).state_dict()
    meta = {"config": other.to_dict(), "vocabulary": list(bundle.vocabulary.tokens), "progress": {}, "history": []}
    Checkpoint({f"model.{name}": value for name, value in tensors.items()}, meta).save(tmp_path / "updown.safetensors")
    arguments = ["--out", str(tmp_path / "updown"), "--no-int8", "--no-fp16", "--parity-images", str(EXAMPLES)]
    assert main([str(tmp_path / "updown.safetensors"), *arguments]) == 0
    with pytest.raises(BundleError, match=r"hold no decoder\.from_state\.weight.*soft attention over a grid alone"):
        load_start(str(tmp_path / "updown"), other)
