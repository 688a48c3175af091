"""Checkpoints of ruotianluo's repository become bundles that caption as its equations do.

The models here are transcriptions of these equations over tensors that have its names and random values; none of its
code runs.
"""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from camscribe.export.graphs import rounded
from camscribe.export.import_command import main
from camscribe.export.importing import import_checkpoint
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import DataError, OptionError
from camscribe.runtime.images import read
from camscribe.runtime.pixels import reduce
from camscribe.runtime.search import SearchOptions
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.decoders.base import spread
from camscribe.train.executor import TorchExecutor

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.jpg"))[:5]
WORDS = 24
"""Without token 0."""
E_, H, A, C = 12, 16, 10, 512
"""Widths of words, states, attention and of a ResNet-18's features."""
KINDS = [("updown", 0), ("updown", 1), ("updown", 2), ("att2in2", 0), ("att2in2", 2), ("show_attend_tell", 0)]
Named = dict[str, Tensor]


def _linear(name: str, out: int, inside: int, gain: float = 1.5) -> Named:
    return {f"{name}.weight": torch.randn(out, inside) * gain / inside**0.5, f"{name}.bias": torch.randn(out) * 0.3}


def _norm(name: str, width: int, mean: float) -> Named:
    return {
        f"{name}.weight": torch.rand(width) + 0.5,
        f"{name}.bias": torch.randn(width) * 0.3,
        f"{name}.running_mean": torch.rand(width) * mean,
        f"{name}.running_var": torch.rand(width) + 0.3,
        f"{name}.num_batches_tracked": torch.tensor(7),
    }


def _lstm(name: str, inside: int) -> Named:
    return {
        f"{name}.weight_ih": torch.randn(4 * H, inside) * 2 / inside**0.5,
        f"{name}.weight_hh": torch.randn(4 * H, H) * 2 / H**0.5,
        f"{name}.bias_ih": torch.randn(4 * H) * 0.3,
        f"{name}.bias_hh": torch.randn(4 * H) * 0.3,
    }


def make_tensors(kind: str, use_bn: int = 0) -> Named:
    """The ``state_dict`` of a model by the repository's names."""
    torch.manual_seed(5)
    tensors = _linear("logit", WORDS + 1, H, 6.0)
    tensors["logit.bias"][0] -= 2.0  # else most captions would end at once
    tensors["logit.bias"][WORDS] = -1e4  # UNK, which we never say
    if kind == "show_attend_tell":
        tensors |= {"embed.weight": torch.randn(WORDS + 1, E_), **_linear("linear", H, C)}
        tensors |= {"core.rnn.weight_ih_l0": torch.randn(4 * H, E_ + C) / (E_ + C) ** 0.5}
        tensors |= {"core.rnn.weight_hh_l0": torch.randn(4 * H, H) / H**0.5}
        return (
            tensors | _linear("core.ctx2att", A, C) | _linear("core.h2att", A, H) | _linear("core.alpha_net", 1, A, 2)
        )
    tensors |= {"embed.0.weight": torch.randn(WORDS + 1, E_)}
    tensors |= _linear(f"att_embed.{1 if use_bn else 0}", H, C, 3.0)
    if use_bn:
        tensors |= _norm("att_embed.0", C, 1.0)
    if use_bn == 2:
        tensors |= _norm("att_embed.4", H, 0.3)
    tensors |= _linear("ctx2att", A, H) | _linear("core.attention.h2att", A, H)
    tensors |= _linear("core.attention.alpha_net", 1, A, 4.0 if kind == "updown" else 1.5)
    if kind == "updown":
        tensors |= _linear("fc_embed.0", H, C, 3.0)
        return tensors | _lstm("core.att_lstm", E_ + 2 * H) | _lstm("core.lang_lstm", 2 * H)
    return tensors | _linear("core.a2c", 2 * H, H, 4.0) | _linear("core.i2h", 5 * H, E_) | _linear("core.h2h", 5 * H, H)


class Transcription:
    """One image's captions by the repository's equations, in evaluation mode.

    Args:
        tensors: see ``make_tensors``.
        fc: [C], the mean feature.
        att: [14, 14, C], the grid.
    """

    def __init__(self, tensors: Named, fc: Tensor, att: Tensor) -> None:
        self.t, cells = tensors, att.reshape(-1, C)
        self.old = "linear.weight" in tensors
        if self.old:
            start = self._apply("linear", fc)
            self.features, self.h, self.c = cells, [start], [start]
            self.keys = self._apply("core.ctx2att", cells)
            return
        if "att_embed.0.running_mean" in tensors:
            cells = self._normed("att_embed.0", cells)
        cells = torch.relu(self._apply("att_embed.1" if "att_embed.1.weight" in tensors else "att_embed.0", cells))
        self.features = self._normed("att_embed.4", cells) if "att_embed.4.weight" in tensors else cells
        self.keys = self._apply("ctx2att", self.features)
        self.fc = torch.relu(self._apply("fc_embed.0", fc)) if "fc_embed.0.weight" in tensors else None
        self.h, self.c = [torch.zeros(H)] * 2, [torch.zeros(H)] * 2

    def step(self, token: int) -> Tensor:
        """Log-probabilities [WORDS + 1] of what follows; the states go on."""
        if self.old:
            word = self.t["embed.weight"][token]
            context = self._attend("core.h2att", "core.alpha_net", self.h[0])
            self._lstm(0, torch.cat([word, context]), "core.rnn.weight_ih_l0", "core.rnn.weight_hh_l0")
            return self._words(self.h[0])
        word = torch.relu(self.t["embed.0.weight"][token])
        names = "core.attention.h2att", "core.attention.alpha_net"
        if self.fc is not None:
            self._lstm(0, torch.cat([self.h[1], self.fc, word]), *self._parts("core.att_lstm"))
            context = self._attend(*names, self.h[0])
            self._lstm(1, torch.cat([context, self.h[0]]), *self._parts("core.lang_lstm"))
            return self._words(self.h[1])
        context = self._attend(*names, self.h[0])
        sums = self._apply("core.i2h", word) + self._apply("core.h2h", self.h[0])
        gate_in, forget, gate_out = (torch.sigmoid(sums[place * H : (place + 1) * H]) for place in range(3))
        candidates = sums[3 * H :] + self._apply("core.a2c", context)
        self.c[0] = forget * self.c[0] + gate_in * torch.maximum(candidates[:H], candidates[H:])
        self.h[0] = gate_out * torch.tanh(self.c[0])
        return self._words(self.h[0])

    def greedy(self, most: int) -> tuple[list[int], float]:
        """Token ids before the first 0, and the log-probability of all with it."""
        tokens, total, token = [], 0.0, 0
        while len(tokens) < most:
            log_prob = self.step(token)
            token = int(log_prob.argmax())
            total += float(log_prob[token])
            if token == 0:
                break
            tokens.append(token)
        return tokens, total

    def _apply(self, name: str, values: Tensor) -> Tensor:
        return values @ self.t[f"{name}.weight"].T + self.t[f"{name}.bias"]

    def _normed(self, name: str, values: Tensor) -> Tensor:
        kinds = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(values, *(self.t[f"{name}.{kind}"] for kind in kinds), training=False)

    def _parts(self, name: str) -> tuple[str, ...]:
        return tuple(f"{name}.{kind}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))

    def _lstm(self, layer: int, inputs: Tensor, *names: str) -> None:
        weights = [self.t[name] for name in names] + [torch.zeros(4 * H)] * (4 - len(names))
        h, c = torch.lstm_cell(inputs[None], (self.h[layer][None], self.c[layer][None]), *weights)
        self.h[layer], self.c[layer] = h[0], c[0]

    def _attend(self, query: str, energy: str, h: Tensor) -> Tensor:
        energies = self._apply(energy, torch.tanh(self.keys + self._apply(query, h)))
        return torch.softmax(energies[:, 0], dim=0) @ self.features

    def _words(self, h: Tensor) -> Tensor:
        return torch.log_softmax(self._apply("logit", h), dim=0)


class Resnet(nn.Module):
    """The repository's feature extractor on a ResNet-18: strides as in Caffe, pooling that rounds up."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        net = torchvision.models.resnet18(weights=None, norm_layer=partial(nn.BatchNorm2d, momentum=None))
        net.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=0, ceil_mode=True)
        # Statistics of batch norms that are not 0 and 1, and keep the features at a size that tells images apart.
        net.train()
        with torch.no_grad():
            net(F.interpolate(torch.randn(8, 3, 6, 6), size=96))
            net(F.interpolate(torch.randn(8, 3, 12, 12), size=96))
        self.net = net.eval()

    @torch.no_grad()
    def forward(self, pixels: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
        """uint8 [h, w, 3] -> fc [C], att [14, 14, C]."""
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            x = getattr(self.net, name)(x)
        return x.mean(dim=(2, 3))[0], F.adaptive_avg_pool2d(x, 14)[0].permute(1, 2, 0)


@pytest.fixture(scope="module")
def resnet() -> Resnet:
    return Resnet()


@pytest.fixture(scope="module")
def encoder(resnet: Resnet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(resnet.net.state_dict(), path)
    return path


def words_json(folder: Path) -> Path:
    """As the repository's preprocessing writes ``cocotalk.json``."""
    names = {str(number): f"word{number}" for number in range(1, WORDS)} | {str(WORDS): "UNK"}
    path = folder / "cocotalk.json"
    path.write_text(json.dumps({"ix_to_word": names, "images": []}))
    return path


def infos(folder: Path, **options: Any) -> Path:
    """As the repository's training writes ``infos_*.pkl``."""
    names = json.loads(words_json(folder).read_text())["ix_to_word"]
    opt = argparse.Namespace(caption_model="updown", input_att_dir="data/cocotalk_att", seq_length=16, **options)
    path = folder / "infos_test.pkl"
    path.write_bytes(pickle.dumps({"iter": 9, "opt": opt, "vocab": names}, protocol=2))
    return path


def saved(folder: Path, tensors: Named) -> Path:
    path = folder / "model-best.pth"
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize(
    ("kind", "use_bn", "side"),
    [*((*kind, 64) for kind in KINDS), *((name, 0, 448) for name in ("updown", "att2in2", "show_attend_tell"))],
)
def test_every_word_has_the_log_probability_of_the_equations(
    kind: str, use_bn: int, side: int, resnet: Resnet, encoder: Path, tmp_path: Path
) -> None:
    tensors = make_tensors(kind, use_bn)
    path = saved(tmp_path, tensors)
    checkpoint = import_checkpoint(path, words_json(tmp_path), encoder=encoder, side=None if side == 448 else side)
    assert checkpoint.config.model.image_height == side
    model, vocabulary = checkpoint.model(), checkpoint.vocabulary
    for file in EXAMPLES[: 3 if side == 64 else 1]:
        pixels = reduce(read(file), _spec(checkpoint))
        theirs = Transcription(tensors, *resnet(pixels))
        with torch.no_grad():
            memory, state = model.encode(torch.from_numpy(pixels)[None])
            assert memory["features"].shape[1] == 14 * 14
            state, token = spread(state, 1), vocabulary.start_id
            for following in (3, 17, 9, 3):
                wanted = theirs.step(0 if token == vocabulary.start_id else token)
                found, state, _ = model.decoder.step(torch.tensor([[token]]), state, memory)
                torch.testing.assert_close(found[0, 0, : WORDS + 1], wanted, rtol=1e-4, atol=2e-4)
                assert (found[0, 0, WORDS + 1 :] < -900).all(), "<s> and <pad> are never said"
                token = following


def _spec(checkpoint: Checkpoint) -> Any:
    from camscribe.runtime.pixels import PixelSpec

    model = checkpoint.config.model
    return PixelSpec(model.image_height, model.image_width, model.fit)


@pytest.mark.parametrize(("kind", "use_bn"), KINDS)
def test_captions_are_those_of_the_equations(
    kind: str, use_bn: int, resnet: Resnet, encoder: Path, tmp_path: Path
) -> None:
    tensors = make_tensors(kind, use_bn)
    checkpoint = import_checkpoint(saved(tmp_path, tensors), words_json(tmp_path), encoder=encoder, side=64)
    pixels = [reduce(read(file), _spec(checkpoint)) for file in EXAMPLES]
    executor = TorchExecutor(checkpoint.model(), checkpoint.vocabulary)
    options = SearchOptions(beams=1, max_words=20, length_penalty=0.0, ban=("<unk>",))
    said = set()
    for found, each in zip(executor.caption(np.stack(pixels), options), pixels, strict=True):
        tokens, log_prob = Transcription(tensors, *resnet(each)).greedy(20)
        assert list(found[0].tokens) == tokens
        assert found[0].log_prob == pytest.approx(log_prob, abs=1e-2)
        said.add(tuple(tokens))
    assert len(said) > 1, "images differ"


@pytest.mark.parametrize(("kind", "use_bn"), [("att2in2", 2), ("show_attend_tell", 0)])
def test_the_command_writes_a_bundle_that_says_what_the_checkpoint_says(
    kind: str, use_bn: int, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # As saved on several GPUs.
    path = saved(tmp_path, {f"module.{name}": value for name, value in make_tensors(kind, use_bn).items()})
    arguments = [str(path), "--word-map", str(infos(tmp_path)), "--encoder", str(encoder), "--side", "64"]
    if kind == "att2in2":
        arguments += ["--calibration", str(EXAMPLES[0].parent)]
    assert main([*arguments, "--out", str(tmp_path / "bundle"), "--trust-pickle"]) == 0
    assert "caffe_resnet18, 27 words" in capsys.readouterr().out
    with Captioner.load(tmp_path / "bundle", backend="cpu", precision="float32") as captioner:
        manifest = captioner.bundle.manifest
        assert set(manifest.precisions) == {"float32", "fp16", *(["int8"] if kind == "att2in2" else [])}
        assert (manifest.search.length_penalty, manifest.search.max_words, manifest.search.stop) == (0, 16, "optimal")
        assert "ruotianluo" in manifest.architecture["decoder"]
        photos = [read(file) for file in EXAMPLES]
        ours = captioner.caption(photos, "rgb", beams=1)
        checkpoint = import_checkpoint(path, words_json(tmp_path), encoder=encoder, side=64)
        # A bundle's weights are rounded to half precision, which changes what random models say.
        executor = TorchExecutor(rounded(checkpoint.model()), checkpoint.vocabulary)
        pixels = np.stack([reduce(photo, manifest.pixels) for photo in photos])
        theirs = executor.caption(pixels, replace(manifest.search, beams=1))
        for caption, (wanted, *_) in zip(ours, theirs, strict=True):
            assert checkpoint.vocabulary.encode(caption.words) == list(wanted.tokens)
            assert caption.log_prob == pytest.approx(wanted.log_prob, abs=1e-3)


def test_a_checkpoint_without_its_encoder_says_what_to_do(encoder: Path, tmp_path: Path) -> None:
    path = saved(tmp_path, make_tensors("updown"))
    with pytest.raises(DataError, match=r"has no image encoder, .*; add --encoder resnet101\.pth"):
        import_checkpoint(path, words_json(tmp_path))
    for options in ({"use_box": 1}, {"input_att_dir": "data/cocobu_att"}):
        file = infos(tmp_path)
        content = pickle.loads(file.read_bytes())
        vars(content["opt"]).update(options)
        file.write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=r"was trained on bottom-up features .* has no image encoder") as caught:
            import_checkpoint(path, file, encoder=encoder, trust_pickle=True)
        assert "\n" not in str(caught.value)


def test_pickles_are_not_opened_without_trust(encoder: Path, tmp_path: Path) -> None:
    path = saved(tmp_path, make_tensors("att2in2"))
    with pytest.raises(DataError, match=r"infos_test\.pkl: holds pickled objects, .* add --trust-pickle .*cocotalk"):
        import_checkpoint(path, infos(tmp_path), encoder=encoder)
    safe = import_checkpoint(path, words_json(tmp_path), encoder=encoder, side=64)
    trusted = import_checkpoint(path, infos(tmp_path), encoder=encoder, side=64, trust_pickle=True)
    assert all(torch.equal(value, trusted.tensors[name]) for name, value in safe.tensors.items())


def _renamed(old: str, new: str) -> Callable[[Named], object]:
    return lambda tensors: tensors.update({new: tensors.pop(old)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _renamed("core.att_lstm.weight_ih", "core.lstm.w2h"),
            "is none of updown .* it has core.att_lstm, core.attent",
        ),
        (_renamed("logit.weight", "logit.0.weight"), "expected 'encoder' and 'decoder' in it, .* or 'logit.weight'"),
        (_renamed("ctx2att.bias", "other"), "its topdown has no 'ctx2att.bias'"),
        (lambda tensors: tensors.update(extra=3), "is dict; expected a module or its state_dict"),
        (
            lambda tensors: tensors.update({"att_embed.0.weight": torch.zeros(H, 2053)}),
            "features of width 2053, but those of resnet18 .* have 512",
        ),
        (lambda tensors: tensors.update({"fc_embed.0.bias": torch.zeros(3)}), "its decoder does not fit"),
        (lambda tensors: tensors.update({"logit.weight": torch.zeros(9, H)}), "has 24 words, but .* has 8"),
    ],
)
def test_other_checkpoints_are_one_line(
    change: Callable[[Any], object], message: str, encoder: Path, tmp_path: Path
) -> None:
    tensors = make_tensors("updown")
    change(tensors)
    with pytest.raises(DataError, match=message) as caught:
        import_checkpoint(saved(tmp_path, tensors), words_json(tmp_path), encoder=encoder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not a word map"),
        (b'{"ix_to_word": {"0": "a", "1": "b"}}', "are not 1 to 2, each once"),
        (b'{"ix_to_word": [1]}', "has no word map"),
        (b'{"1": "dow@@", "2": "b"}', "has 2 words, but"),
        (pickle.dumps([1]), "has no word map"),
        (pickle.dumps({"vocab": {"1": "a"}, "opt": 3}), "has 1 words, but"),
        (b"hello", "cannot be unpickled"),
        (b"<html>", "is not a word map"),
        (b"", "is not a word map"),
        (b'["a", "b"]', "has no word map"),
        (b'\xef\xbb\xbf{"1": "a", "2": "b"}', "has 2 words, but"),
    ],
)
def test_other_word_maps_are_one_line(content: bytes, message: str, encoder: Path, tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        import_checkpoint(saved(tmp_path, make_tensors("updown")), path, encoder=encoder, trust_pickle=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_att_feat": 1}, "norm_att_feat 1; only 0"),
        ({"eos_idx": 4}, "eos_idx 4; only 0 can be imported"),
        ({"max_length": "many"}, "has captions of 'many' words; expected 1 to 200"),
        ({"max_length": 500}, "has captions of 500 words; expected 1 to 200"),
    ],
)
def test_runs_that_no_bundle_can_repeat_are_refused(
    options: dict[str, Any], message: str, encoder: Path, tmp_path: Path
) -> None:
    path = saved(tmp_path, make_tensors("updown"))
    with pytest.raises(DataError, match=message):
        import_checkpoint(path, infos(tmp_path, **options), encoder=encoder, trust_pickle=True)


def test_pieces_of_words_are_refused(encoder: Path, tmp_path: Path) -> None:
    file = words_json(tmp_path)
    file.write_text(file.read_text().replace("word7", "wor@@"))
    with pytest.raises(DataError, match="the words are pieces of words, such as 'wor@@'"):
        import_checkpoint(saved(tmp_path, make_tensors("updown")), file, encoder=encoder)


def test_options_without_meaning_are_refused(encoder: Path, tmp_path: Path) -> None:
    path = saved(tmp_path, make_tensors("updown"))
    with pytest.raises(OptionError, match="--side is 100; expected a multiple of 32"):
        import_checkpoint(path, words_json(tmp_path), encoder=encoder, side=100)
    torch.save({"encoder": {}, "decoder": {}}, path)
    with pytest.raises(OptionError, match="has its own encoder: leave it out"):
        import_checkpoint(path, words_json(tmp_path), encoder=encoder)
