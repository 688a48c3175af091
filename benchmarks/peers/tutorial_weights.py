"""The same weights for camscribe's captioner and for the tutorial's: checkpoints read, written and made at random.

camscribe merges what the tutorial keeps apart: one matrix of the state makes attention query, gate and LSTM gates, and
one bias of the LSTM is the sum of the tutorial's two. Batch norms are folded into the convolutions, which the tutorial
does not do; the peer runs the folded network and so is the faster for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from camscribe.benchmarks.peers.tutorial import PIXEL_MEAN, PIXEL_STD, Decoder, Encoder, Tutorial
from camscribe.runtime.errors import DataError
from camscribe.runtime.vocab import SPECIAL_TOKENS, Vocabulary

_MODEL_DEFAULTS: dict[str, Any] = {
    "grid": 0,
    "memory_width": 512,
    "deep_output": True,
    "no_stutter": False,
    "no_repeat": 0,
}
HALF_FROM = 256
_TIMM = "timm/"
"""Before the name of a backbone that is timm's."""
_SAME = {"attention.encoder_att": "keys", "attention.full_att": "energy", "embedding": "embedding"}
"""The tutorial's name of a layer: camscribe's."""


@dataclass(frozen=True)
class Weights:
    """A checkpoint of camscribe: what the model is, and its tensors."""

    model: dict[str, Any]
    """The ``model`` table of the configuration."""
    vocabulary: Vocabulary
    tensors: dict[str, Tensor]
    """By camscribe's names, ``decoder.keys.weight`` and so on."""

    @classmethod
    def read(cls, path: Path) -> Weights:
        """Reads a checkpoint.

        Raises:
            DataError: it cannot be read, or is not a checkpoint of camscribe.
        """
        try:
            with safe_open(path, framework="pt") as file:
                meta = json.loads((file.metadata() or {})["camscribe"])
                tensors = {
                    name.removeprefix("model."): file.get_tensor(name)
                    for name in file.keys()  # noqa: SIM118 (not a mapping)
                    if name.startswith("model.")
                }
        except Exception as error:
            raise DataError(f"{path}: cannot be read as a checkpoint of camscribe ({error!r})") from error
        return cls(meta["config"]["model"], Vocabulary(meta["vocabulary"]), tensors)

    def write(self, path: Path) -> None:
        """Writes a checkpoint that ``camscribe export`` and ``camscribe evaluate`` take."""
        config = {
            "seed": 0,
            "data": {"root": "none"},
            "stage": [{"name": "random", "epochs": 0}],
            "model": self.model,
        }
        meta = {
            "schema": 1,
            "config": config,
            "vocabulary": list(self.vocabulary.tokens),
            "progress": {},
            "history": [],
        }
        tensors = {f"model.{name}": tensor.contiguous() for name, tensor in self.tensors.items()}
        save_file(tensors, path, metadata={"camscribe": json.dumps(meta)})

    def rounded(self) -> Weights:
        """As bundles hold them: matrices and kernels of ``HALF_FROM`` numbers or more rounded to half precision."""
        tensors = {
            name: value.half().float() if value.dim() > 1 and value.numel() >= HALF_FROM else value
            for name, value in self.tensors.items()
        }
        return replace(self, tensors=tensors)

    def taken_from(self, tutorial: Tutorial) -> Weights:
        """The same model with the weights of a tutorial's, as after training it."""
        tensors = {f"backbone.stages.{name}": value for name, value in tutorial.encoder.features.state_dict().items()}
        project = tutorial.encoder.project.state_dict()
        tensors |= {f"decoder.project.{name}": value for name, value in project.items()}
        tensors |= {f"decoder.{name}": value for name, value in merge(tutorial.decoder.state_dict()).items()}
        return replace(self, tensors={name: value.detach().clone() for name, value in tensors.items()})

    def forgotten(self, seed: int = 0) -> Weights:
        """The same encoder with a new decoder, whose weights are those the tutorial begins with."""
        tutorial = self.tutorial()
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            for module in (*tutorial.encoder.project.modules(), *tutorial.decoder.modules()):
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            decoder = tutorial.decoder
            decoder.embedding.weight.uniform_(-0.1, 0.1)
            if decoder.deep_output:
                decoder.word_bias.zero_()
            else:
                decoder.fc.weight.uniform_(-0.1, 0.1)
                decoder.fc.bias.zero_()
        return self.taken_from(tutorial)

    def of(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under ``prefix``, without it."""
        return {name[len(prefix) :]: value for name, value in self.tensors.items() if name.startswith(prefix)}

    def tutorial(self) -> Tutorial:
        """The tutorial's captioner with these weights."""
        model, tensors = {**_MODEL_DEFAULTS, **self.model}, self.of("decoder.")
        features = folded_features(model["backbone"])
        features.load_state_dict(self.of("backbone.stages."))
        project = None
        if model["memory_width"]:
            project = nn.Sequential(nn.Linear(tensors["project.0.weight"].shape[1], model["memory_width"]))
            project.append(nn.LayerNorm(model["memory_width"]))
            project.load_state_dict(self.of("decoder.project."))
        parts = split(tensors)
        words, embedding_width = tensors["embedding.weight"].shape
        decoder = Decoder(
            attention_dim=len(tensors["keys.weight"]),
            embed_dim=embedding_width,
            decoder_dim=parts["init_h.weight"].shape[0],
            vocab_size=words,
            encoder_dim=tensors["keys.weight"].shape[1],
            deep_output=model["deep_output"],
            no_stutter=model["no_stutter"] and not model["no_repeat"],  # which has it too
        )
        decoder.load_state_dict(parts)
        mean, std = pixel_statistics(model["backbone"])
        encoder = Encoder(features, side=model["grid"], project=project, mean=mean, std=std)
        start_id, end_id = self.vocabulary.start_id, self.vocabulary.end_id
        return Tutorial(encoder, decoder, start_id, end_id, model["no_repeat"])


def split(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """camscribe's decoder tensors -> the tutorial's."""
    attention, width = tensors["keys.weight"].shape
    state = tensors["from_state.weight"].shape[1]
    parts: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        query, gate, recurrent = torch.split(tensors[f"from_state.{kind}"], [attention, width, 4 * state])
        parts |= {f"attention.decoder_att.{kind}": -query, f"f_beta.{kind}": gate, f"decode_step.{kind}_hh": recurrent}
        parts[f"init_h.{kind}"], parts[f"init_c.{kind}"] = tensors[f"initial.{kind}"].chunk(2)
        for theirs, ours in _SAME.items():
            if f"{ours}.{kind}" in tensors:
                parts[f"{theirs}.{kind}"] = tensors[f"{ours}.{kind}"]
    parts["attention.full_att.bias"] = torch.zeros(1)  # Ours has none: the softmax ignores it.
    parts["decode_step.weight_ih"] = tensors["from_input.weight"]
    parts["decode_step.bias_ih"] = torch.zeros_like(parts["decode_step.bias_hh"])
    if "word_bias" in tensors:
        parts |= {name: tensors[name] for name in ("word_bias", "output.weight", "output.bias")}
    else:
        parts |= {f"fc.{kind}": tensors[f"words.{kind}"] for kind in ("weight", "bias")}
    return parts


def merge(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tutorial's decoder tensors -> camscribe's, but for the projection of the features."""
    tensors: dict[str, Tensor] = {"from_input.weight": parts["decode_step.weight_ih"]}
    recurrent = {
        "weight": parts["decode_step.weight_hh"],
        "bias": parts["decode_step.bias_ih"] + parts["decode_step.bias_hh"],
    }
    for kind in ("weight", "bias"):
        tensors[f"from_state.{kind}"] = torch.cat(
            [-parts[f"attention.decoder_att.{kind}"], parts[f"f_beta.{kind}"], recurrent[kind]]
        )
        tensors[f"initial.{kind}"] = torch.cat([parts[f"init_h.{kind}"], parts[f"init_c.{kind}"]])
        if f"fc.{kind}" in parts:
            tensors[f"words.{kind}"] = parts[f"fc.{kind}"]
        for theirs, ours in _SAME.items():
            if f"{theirs}.{kind}" in parts and f"{ours}.{kind}" != "energy.bias":
                tensors[f"{ours}.{kind}"] = parts[f"{theirs}.{kind}"]
    tensors |= {name: value for name, value in parts.items() if name == "word_bias" or name.startswith("output.")}
    return tensors


def pixel_statistics(backbone: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of RGB in 0..1 that a network was trained with."""
    if not backbone.startswith(_TIMM):
        return PIXEL_MEAN, PIXEL_STD
    import timm

    found = timm.get_pretrained_cfg(backbone.removeprefix(_TIMM))
    return found.mean, found.std


def folded_features(backbone: str) -> nn.Sequential:
    """A network of torchvision or timm up to its grid, its batch norms taken out and a bias put into its convolutions.

    Args:
        backbone: a network whose every convolution is followed by a batch norm, such as a ResNet or a MobileNet.
    """
    if backbone.startswith(_TIMM):
        import timm

        model = timm.create_model(backbone.removeprefix(_TIMM), num_classes=0)
        head = [model.conv_stem, model.bn1, *(block for stage in model.blocks for block in stage)]
        features = nn.Sequential(*head, model.conv_head, model.bn2)
    else:
        model = torchvision.models.get_model(backbone, weights=None)
        # The tutorial cuts off pooling and classifier in this way, too.
        features = model.features if hasattr(model, "features") else nn.Sequential(*list(model.children())[:-2])
    for module in list(features.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, getattr(child, "act", nn.Identity()))  # timm's norms hold what follows them
            elif isinstance(child, nn.Conv2d):
                child.bias = nn.Parameter(torch.zeros(child.out_channels))
    return features


@torch.no_grad()
def _normalise(features: nn.Sequential) -> None:
    """Scales random convolutions as batch norms trained on random images would, so that images differ in the grid."""

    def scale(conv: Any, _: Any, made: Tensor) -> Tensor:
        mean, std = made.mean(dim=(0, 2, 3)), made.std(dim=(0, 2, 3)).clamp(min=1e-3)
        conv.weight /= std.view(-1, 1, 1, 1)
        conv.bias.copy_((conv.bias - mean) / std)
        return (made - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)

    handles = [module.register_forward_hook(scale) for module in features.modules() if isinstance(module, nn.Conv2d)]
    features.eval()(nn.functional.interpolate(torch.randn(4, 3, 8, 8), size=128))
    for handle in handles:
        handle.remove()


@torch.no_grad()
def set_apart(decoder: Any, end_id: int, length: int) -> None:
    """Makes the random decoder of a tutorial one whose captions differ from image to image, and end.

    With plain random weights, each further word makes a caption less likely and the empty one wins.

    Args:
        decoder: of the tutorial's parameter names.
        end_id: of ``<end>``.
        length: captions end after about so many words; 0 leaves that to chance.
    """
    # Words wide enough apart that rounding cannot change their order.
    nn.init.uniform_(decoder.embedding.weight, -1, 1)
    nn.init.uniform_(decoder.fc.weight, -1, 1)
    if not length:
        return
    # One unit of the state becomes a clock, which adds the same at every step; the score of <end> hangs on it alone.
    lstm, states = decoder.decode_step, decoder.decode_step.hidden_size
    for gate, bias in enumerate((10.0, 10.0, 0.7 / length, 10.0)):
        for kind in ("ih", "hh"):
            getattr(lstm, f"weight_{kind}")[gate * states] = 0
            getattr(lstm, f"bias_{kind}")[gate * states] = bias / 2
    decoder.fc.weight[:, 0] = 0
    decoder.fc.weight[end_id] = 0
    decoder.fc.weight[end_id, 0] = 60
    decoder.fc.bias[end_id] = -60 * 0.6  # tanh(0.7)


def random_weights(
    backbone: str = "resnet101",
    side: int = 256,
    grid: int = 14,
    words: int = 9490,
    width: int = 512,
    seed: int = 0,
    length: int = 0,
) -> Weights:
    """Random weights of the tutorial's model, of its own size unless said otherwise.

    Args:
        backbone: see ``folded_features``.
        side: of the input image, pixels.
        grid: side of the grid that the backbone's is averaged to; 0 keeps the backbone's.
        words: size of the vocabulary.
        width: of attention, embedding and state.
        seed: of the random numbers.
        length: captions end after about so many words; 0 leaves that to chance.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        features = folded_features(backbone)
        _normalise(features)
        with torch.no_grad():
            channels = features.eval()(torch.zeros(1, 3, 64, 64)).shape[1]
        decoder = Decoder(width, width, width, words, channels)
        vocabulary = Vocabulary([*SPECIAL_TOKENS, *(f"word{index}" for index in range(4, words))])
        set_apart(decoder, vocabulary.end_id, length)
        decoder.fc.bias.data[[vocabulary.pad_id, vocabulary.start_id]] = -1e4
    model = {
        "backbone": backbone,
        "weights": "none",
        "image_height": side,
        "image_width": side,
        "grid": grid,
        "memory_width": 0,
        "attention_width": width,
        "state_width": width,
        "embedding_width": width,
        "deep_output": False,
    }
    tensors = {f"backbone.stages.{name}": value.detach() for name, value in features.state_dict().items()}
    tensors |= {f"decoder.{name}": value.detach() for name, value in merge(decoder.state_dict()).items()}
    return Weights(model, vocabulary, tensors)
