"""Checkpoints of sgrvinod's tutorial become bundles that caption as the tutorial's algorithm does."""

from __future__ import annotations

import json
import pickle
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from camscribe.benchmarks.peers.tutorial import Decoder, Encoder, Tutorial
from camscribe.benchmarks.peers.tutorial_weights import set_apart
from camscribe.export.import_command import main
from camscribe.export.importing import import_checkpoint
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import DataError
from camscribe.runtime.images import read
from camscribe.runtime.pixels import reduce

EXAMPLES = Path(__file__).parents[2] / "examples"
WORDS = 30


@pytest.fixture(scope="module")
def tutorial() -> Tutorial:
    """The tutorial's captioner with a small ResNet and random weights whose captions tell images apart."""
    torch.manual_seed(2)
    resnet = torchvision.models.resnet18(weights=None, norm_layer=partial(nn.BatchNorm2d, momentum=None))
    decoder = Decoder(24, 20, 32, WORDS, 512)
    set_apart(decoder, WORDS - 1, 4)
    with torch.no_grad():
        decoder.fc.bias[[0, WORDS - 2, WORDS - 3]] = -1e4
        decoder.attention.full_att.bias += 0.7
        # Statistics of batch norms that are not 0 and 1, and keep the features at a size that tells images apart.
        resnet.train()
        resnet(nn.functional.interpolate(torch.randn(8, 3, 6, 6), size=96))
        resnet(nn.functional.interpolate(torch.randn(8, 3, 12, 12), size=96))
    encoder = Encoder(nn.Sequential(*list(resnet.children())[:-2]))
    return Tutorial(encoder, decoder, WORDS - 2, WORDS - 1)


@pytest.fixture
def word_map(tmp_path: Path) -> Path:
    """As the tutorial's ``create_input_files`` writes it: words from 1, then the special ones, <pad> is 0."""
    words = {f"word{index}": index for index in range(1, WORDS - 3)}
    words |= {"<unk>": WORDS - 3, "<start>": WORDS - 2, "<end>": WORDS - 1, "<pad>": 0}
    path = tmp_path / "WORDMAP_test.json"
    path.write_text(json.dumps(words))
    return path


def state_dicts(tutorial: Tutorial) -> dict[str, dict[str, torch.Tensor]]:
    encoder = {name.replace("features.", "resnet."): value for name, value in tutorial.encoder.state_dict().items()}
    return {"encoder": encoder, "decoder": dict(tutorial.decoder.state_dict())}


@pytest.fixture
def pickled(tutorial: Tutorial, tmp_path: Path) -> Path:
    """Whole modules of classes that nobody can import any more, as ``save_checkpoint`` writes them."""
    source = types.ModuleType("models")
    code = "from torch import nn\nclass Encoder(nn.Module): pass\nclass DecoderWithAttention(nn.Module): pass\n"
    code += "class Attention(nn.Module): pass\n"
    exec(code, source.__dict__)
    encoder, decoder = source.Encoder(), source.DecoderWithAttention()
    encoder.resnet, encoder.enc_image_size = tutorial.encoder.features, 14
    attention = source.Attention()
    for name, child in tutorial.decoder.attention.named_children():
        attention.add_module(name, child)
    for name, child in tutorial.decoder.named_children():
        decoder.add_module(name, attention if name == "attention" else child)
    sys.modules["models"] = source
    path = tmp_path / "BEST_checkpoint_test.pth.tar"
    torch.save({"epoch": 3, "bleu-4": 0.2, "encoder": encoder, "decoder": decoder}, path)
    del sys.modules["models"]
    return path


def test_the_bundle_says_what_the_tutorial_says(
    tutorial: Tutorial, pickled: Path, word_map: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "imported"
    assert main([str(pickled), "--word-map", str(word_map), "--out", str(bundle), "--trust-pickle"]) == 0
    assert "resnet18, 30 words" in capsys.readouterr().out
    with Captioner.load(bundle, backend="cpu", precision="float32") as captioner:
        spec = captioner.bundle.manifest.pixels
        assert (spec.height, spec.width, spec.fit) == (256, 256, "squash")
        assert captioner.bundle.manifest.provenance["imported"]["file"] == pickled.name
        captions = set()
        for path in sorted(EXAMPLES.glob("*.jpg"))[:5]:
            pixels = reduce(read(path), spec)
            theirs = tutorial.caption(pixels, beams=1)
            ours = captioner.caption(path, beams=1)
            assert captioner.bundle.vocabulary.encode(ours.words) == list(theirs.tokens)
            assert ours.log_prob == pytest.approx(theirs.log_prob, abs=0.1)  # weights are rounded to half precision
            captions.add(ours.text)
        assert len(captions) > 1


def test_tensors_need_no_trust_and_are_the_same(
    tutorial: Tutorial, pickled: Path, word_map: Path, tmp_path: Path
) -> None:
    path = tmp_path / "tensors.pt"
    torch.save(state_dicts(tutorial), path)
    safe, trusted = import_checkpoint(path, word_map), import_checkpoint(pickled, word_map, trust_pickle=True)
    assert safe.tensors.keys() == trusted.tensors.keys()
    assert all(torch.equal(value, trusted.tensors[name]) for name, value in safe.tensors.items())
    # Of several GPUs, and of a PyTorch that did not count batches.
    parts = {
        name: {f"module.{key}": value for key, value in part.items() if "num_batches" not in key}
        for name, part in state_dicts(tutorial).items()
    }
    torch.save(parts, path)
    assert all(
        torch.equal(value, safe.tensors[name]) for name, value in import_checkpoint(path, word_map).tensors.items()
    )


class _Bomb:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return print, ("code of a stranger has run",)


def test_pickles_are_not_opened_without_trust(
    pickled: Path, word_map: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=r"can run any code .* add --trust-pickle"):
        import_checkpoint(pickled, word_map)
    bomb = tmp_path / "bomb.pt"
    torch.save({"encoder": _Bomb(), "decoder": _Bomb()}, bomb)
    with pytest.raises(DataError, match="--trust-pickle"):
        import_checkpoint(bomb, word_map)
    assert "stranger" not in capsys.readouterr().out


def _without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda parts: parts["decoder"].pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts.pop("decoder"), "expected 'encoder' and 'decoder' in it"),
        (_without("f_beta.weight"), "its decoder has no 'f_beta.weight'"),
        (lambda parts: parts["encoder"].pop("resnet.0.weight"), "its encoder is none of resnet18"),
        (lambda parts: parts["encoder"].update(vgg=torch.zeros(1)), "its encoder has vgg"),
        (lambda parts: parts.update(encoder=7), "'encoder' is int; expected a module"),
        (lambda parts: parts["decoder"].update({"init_h.bias": torch.zeros(3)}), "its decoder does not fit"),
        (
            lambda parts: parts["decoder"].update({"embedding.weight": torch.zeros(9, 20)}),
            "has 30 words, but .* has 9; they belong to other models",
        ),
    ],
)
def test_other_checkpoints_are_one_line(
    tutorial: Tutorial, word_map: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    parts: dict[str, Any] = state_dicts(tutorial)
    change(parts)
    path = tmp_path / "other.pt"
    torch.save(parts, path)
    with pytest.raises(DataError, match=message) as caught:
        import_checkpoint(path, word_map)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a word map"),
        ("[1]", "is not a word map"),
        ("[" * 100_000, "is not a word map"),
        ('{"a": 0, "b": 5}', "are not 0 to 1"),
        ('{"a": 0, "b": 1}', "has no <pad>, <start>, <end>, <unk>"),
    ],
)
def test_other_word_maps_are_one_line(tutorial: Tutorial, tmp_path: Path, text: str, message: str) -> None:
    path, words = tmp_path / "tensors.pt", tmp_path / "words.json"
    torch.save(state_dicts(tutorial), path)
    words.write_text(text)
    with pytest.raises(DataError, match=message):
        import_checkpoint(path, words)


def test_files_that_are_no_checkpoints_are_one_line(word_map: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.pt: cannot be read \(No such file"):
        import_checkpoint(tmp_path / "missing.pt", word_map)
    for content in (b"", b"hello", pickle.dumps([1])):
        path = tmp_path / "broken.pt"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"broken\.pt: "):
            import_checkpoint(path, word_map)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("content", [b"<!DOCTYPE html>", bytes(range(60, 200)), b"hello"])
def test_a_damaged_download_is_no_matter_of_trust(content: bytes, trust: bool, word_map: Path, tmp_path: Path) -> None:
    path = tmp_path / "download.pth.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a checkpoint of PyTorch") as caught:
        import_checkpoint(path, word_map, trust_pickle=trust)
    assert "trust" not in str(caught.value)
