"""The ensemble's decoder is the mean of its members, and ``camscribe join`` makes one of nothing that cannot be one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camscribe.runtime import cli
from camscribe.runtime.errors import DataError
from camscribe.runtime.search import DEAD
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.commands.join import join
from camscribe.train.config import MemberConfig, from_dict
from camscribe.train.decoders import make_decoder
from camscribe.train.decoders.base import HIDDEN, spread
from camscribe.train.decoders.ensemble import EnsembleDecoder, log_mean
from camscribe.train.model import Captioner

MODEL = {
    "backbone": "shufflenet_v2_x0_5",
    "weights": "none",
    "image_height": 64,
    "image_width": 64,
    "memory_width": 24,
    "attention_width": 16,
    "state_width": 32,
    "embedding_width": 16,
    "layers": 2,
    "heads": 4,
    "window": 8,
    "no_stutter": True,
}
WORDS = ["<pad>", "<s>", "</s>", "<unk>", *(f"word{index}" for index in range(30))]
Make = Callable[..., Path]


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(-1e4, 0, width=32)),
    st.booleans(),
)
@settings(max_examples=60)
def test_the_mean_is_that_of_the_probabilities_and_finite(log_probs: np.ndarray, one_is_dead: bool) -> None:
    if one_is_dead:
        log_probs[0, 0] = DEAD
    given_ = torch.from_numpy(log_probs).requires_grad_()
    found = log_mean(list(given_))
    wanted = np.logaddexp.reduce(log_probs.astype(np.float64), axis=0) - np.log(len(log_probs))
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-5, atol=1e-5)
    assert (found <= 0).all()
    (gradient,) = torch.autograd.grad(found.sum(), given_)
    np.testing.assert_allclose(
        gradient, np.exp(log_probs - wanted) / len(log_probs), atol=1e-2 if one_is_dead else 1e-3
    )


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_step_is_the_mean_of_the_members_steps(seed: int, hides: bool) -> None:
    torch.manual_seed(seed)
    members = [MemberConfig("soft_attention"), MemberConfig("updown", state_width=20), MemberConfig("transformer")]
    members += [MemberConfig("soft_attention", memory_width=12), MemberConfig("att2in2", embedding_width=8)]
    config = from_dict({"data": {"root": "x"}, "stage": [{"name": "a", "epochs": 1}], "model": MODEL}).model
    config = replace(config, decoder="ensemble", members=tuple(members))
    decoder = make_decoder(len(WORDS), 12, config).eval()
    assert isinstance(decoder, EnsembleDecoder)
    found, hidden = torch.randn(2, 9, 12), torch.zeros(2, 9)
    hidden[:, 6:] = HIDDEN
    tokens = torch.randint(4, len(WORDS), (2, 3, 10))
    with torch.no_grad():
        for module in decoder.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
                module.weight *= 3
        memory, state = decoder.memory(found, hidden if hides else None)
        alone = [member.memory(found, hidden if hides else None) for member in decoder.members]
        assert ("mask" in memory) == hides
        assert len(memory) == sum(len(own) - hides for own, _ in alone) + hides
        state = spread(state, 3)
        states = [spread(first, 3) for _, first in alone]
        for position in range(tokens.shape[2]):
            token = tokens[:, :, position]
            log_prob, state, attention = decoder.step(token, state, memory)
            each = []
            for index, member in enumerate(decoder.members):
                own, states[index], seen = member.step(token, states[index], alone[index][0])
                each.append((own.double().exp(), seen))
            torch.testing.assert_close(log_prob.double().exp(), torch.stack([p for p, _ in each]).mean(0))
            torch.testing.assert_close(attention, torch.stack([seen for _, seen in each]).mean(0))
            assert (log_prob.gather(2, token.unsqueeze(2)) == DEAD).all(), "no word follows itself"
            assert log_prob.isfinite().all()
            if hides:
                assert (attention[:, :, 6:] == 0).all()


def _save(path: Path, model: Captioner, table: dict[str, object], words: list[str], stage: str = "only") -> Path:
    config = from_dict({"data": {"root": "x"}, "stage": [{"name": stage, "epochs": 1}], "model": table})
    meta = {
        "config": config.to_dict(),
        "vocabulary": words,
        "progress": {"stage": 0, "epoch": 3},
        "history": [{"stage": stage, "epoch": 3, "tune_cider": 0.5, "time": "then"}],
    }
    Checkpoint({f"model.{name}": value for name, value in model.state_dict().items()}, meta).save(path)
    return path


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """``make(name, seed, encoder_seed, words, **changes)``: a checkpoint of random weights."""

    def checkpoint(
        name: str, seed: int = 1, encoder_seed: int = 0, words: list[str] = WORDS, **changes: object
    ) -> Path:
        table = {**MODEL, **changes}
        config = from_dict({"data": {"root": "x"}, "stage": [{"name": "a", "epochs": 1}], "model": table}).model
        torch.manual_seed(seed)
        model = Captioner(len(words), config)
        torch.manual_seed(encoder_seed)
        model.backbone.load_state_dict(Captioner(len(words), config).backbone.state_dict())
        return _save(tmp_path / f"{name}.safetensors", model, table, words, stage=f"stage of {name}")

    return checkpoint


def test_join_keeps_weights_and_provenance(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Keys that mean nothing to a grid, and the dropout of training, may differ.
    paths = [make("a"), make("b", 2, decoder="updown", state_width=20, regions=20, dropout=0.1), make("c", 3)]
    out = tmp_path / "joined.safetensors"
    assert cli.main(["join", *map(str, paths), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "member 1: updown, " in said
    joined = Checkpoint.load(out)
    assert [member.decoder for member in joined.config.model.members] == ["soft_attention", "updown", "soft_attention"]
    assert [member.state_width for member in joined.config.model.members] == [32, 20, 32]
    assert [member["checkpoint"] for member in joined.meta["members"]] == [
        f"{tmp_path.name}/{name}.safetensors" for name in "abc"
    ]
    for number, (path, origin) in enumerate(zip(paths, joined.meta["members"], strict=True)):
        alone = Checkpoint.load(path)
        assert origin["history"] == alone.meta["history"]
        assert origin["config"] == alone.meta["config"]
        assert "vocabulary" not in origin
        for name, value in alone.model().decoder.state_dict().items():
            assert torch.equal(joined.of("model.")[f"decoder.members.{number}.{name}"], value)
    assert joined.model().encode(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))[1].keys() >= {"h.0", "h1.1", "c.2"}
    # The members of one that is joined already, and another.
    more = join([out, make("d", 4)])
    assert [member["checkpoint"][-13:] for member in more.meta["members"]] == [f"{name}.safetensors" for name in "abcd"]
    assert len(more.config.model.members) == 4
    for name, value in joined.of("model.").items():
        assert torch.equal(more.of("model.")[name], value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"words": [*WORDS[:-1], "other"]}, "has other words than .*a.safetensors"),
        ({"encoder_seed": 9}, "its encoder is not that of .*: backbone.stages.0.0.weight differs"),
        ({"image_height": 96, "image_width": 80}, "differs from that of .* in image_height, image_width"),
        ({"backbone": "squeezenet1_1"}, "differs from that of .* in backbone"),
        ({"no_stutter": False}, "differs from that of .* in no_stutter"),
        ({"seed": 1}, "has the decoder of .*a.safetensors once more; a member counts once"),
    ],
)
def test_what_is_no_ensemble_is_refused_in_one_line(make: Make, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        join([make("a"), make("b", **{"seed": 2, **changes})])
    assert "\n" not in str(caught.value)


def test_regions_of_other_detectors_are_refused(make: Make, tmp_path: Path) -> None:
    """The detector's file is a tensor of the checkpoint, compared as such."""
    paths = []
    for name, content in (("a", b"one"), ("b", b"two")):
        checkpoint = Checkpoint.load(make(name, seed=len(paths)))
        checkpoint.meta["config"]["model"] |= {"encoder": "regions", "regions": 6}
        checkpoint.tensors["model.regions.detector.model"] = torch.tensor(list(content), dtype=torch.uint8)
        checkpoint.save(tmp_path / f"{name}.safetensors")
        paths.append(tmp_path / f"{name}.safetensors")
    with pytest.raises(DataError, match=r"regions\.detector\.model differs"):
        join(paths)
    checkpoint.meta["config"]["model"]["regions"] = 7
    checkpoint.save(paths[1])
    with pytest.raises(DataError, match=r"differs from that of .* in regions;"):
        join(paths)


def test_one_checkpoint_alone_is_refused(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["join", str(make("a")), "--out", str(tmp_path / "out.safetensors")]) == 2
    assert "alone is no ensemble; expected two or more checkpoints" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_a_folder_that_cannot_be_made_is_one_line(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out.safetensors"
    assert cli.main(["join", str(make("a")), str(make("b", 2)), "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert f"--out {tmp_path / 'file'}: cannot be written into" in message
    assert message.count("\n") == 1
