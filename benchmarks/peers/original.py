"""Compares our writing of the tutorial's loop with the original, from a checkout of it: captions, attention and time.

    python -m camscribe.benchmarks.peers.original --original CHECKOUT --out benchmarks/results/tutorial_fidelity.json

CHECKOUT is sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning. Its files are read as they are, but for what no longer
runs: ``/`` between integer tensors has become ``//``, and the image readers of old SciPy, scikit-image and matplotlib
are replaced by ones that hand an array through. Weights are random; ImageNet's are not fetched.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from camscribe.benchmarks import scripts
from camscribe.benchmarks.measure import environment, interleave, merge, ratio
from camscribe.benchmarks.peers.tutorial import Decoder, Encoder, Tutorial
from camscribe.benchmarks.peers.tutorial_training import Training
from camscribe.benchmarks.peers.tutorial_weights import set_apart
from camscribe.runtime.errors import DataError
from camscribe.runtime.threads import physical_cores

_UNUSED = ("scipy.misc", "skimage", "skimage.transform", "matplotlib", "matplotlib.pyplot", "matplotlib.cm")


class Original:
    """The tutorial's own modules and loop.

    Args:
        checkout: folder with its ``models.py`` and ``caption.py``.

    Raises:
        DataError: the folder is not such a checkout.
    """

    def __init__(self, checkout: Path) -> None:
        self._models = _load(checkout / "models.py", [])
        # PyTorch divided integers like Python 2 when the tutorial was written.
        self._caption = _load(checkout / "caption.py", [("top_k_words / vocab_size", "top_k_words // vocab_size")])

    def build(self, side: int, words: int, width: int) -> tuple[nn.Module, nn.Module]:
        """The original's encoder (ResNet-101, random weights) and decoder, in evaluation mode."""
        network = _resnet101()
        with _replaced(torchvision.models, "resnet101", lambda pretrained: network):
            encoder = self._models["Encoder"](side)
        decoder = self._models["DecoderWithAttention"](width, width, width, words)
        return encoder.eval(), decoder.eval()

    def caption(
        self, encoder: nn.Module, decoder: nn.Module, pixels: Any, words: dict[str, int], beams: int
    ) -> tuple[list[int], Any]:
        """The original's loop: ids with ``<start>`` and ``<end>``, attention of each."""
        found: tuple[list[int], Any] = self._caption["caption_image_beam_search"](
            encoder, decoder, pixels, words, beams
        )
        return found


def peer_of(encoder: Any, decoder: Any, side: int, words: dict[str, int]) -> Tutorial:
    """Our writing of the tutorial with the weights of the original."""
    vocabulary, width = decoder.embedding.weight.shape
    ours = Decoder(width, width, width, vocabulary, decoder.encoder_dim)
    ours.load_state_dict(decoder.state_dict())
    return Tutorial(Encoder(encoder.resnet, side), ours, words["<start>"], words["<end>"])


def compare(original: Original, images: int, rounds: int, seed: int = 0) -> dict[str, Any]:
    """Captions and attention with several models and beams, and the time with the tutorial's own sizes."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    compared, same, worst, steps = 0, 0, 0.0, []
    parts = []
    for words, width in ((60, 32), (500, 64), (9490, 512)):
        names = {"<start>": 0, "<end>": 1, **{f"word{index}": index for index in range(2, words)}}
        encoder, decoder = original.build(14, words, width)
        set_apart(decoder, names["<end>"], length=10)
        peer = peer_of(encoder, decoder, 14, names)
        for _ in range(images):
            pixels = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
            for beams in (1, 3, 5):
                with torch.no_grad():
                    theirs, attention = original.caption(encoder, decoder, pixels, names, beams)
                ours = peer.caption(pixels, beams)
                compared += 1
                same += theirs[1:-1] == list(ours.tokens)
                steps.append(ours.steps)
                if theirs[1:-1] == list(ours.tokens) and ours.tokens:
                    worst = max(worst, float(np.abs(np.asarray(attention)[1:-1] - ours.attention).max()))
            if words == 9490:
                parts.append(interleave(_variants(original, peer, encoder, decoder, pixels, names), rounds, warm_up=1))
    seconds = merge(parts)
    return {
        "captions": {
            "compared": compared,
            "identical": same,
            "steps_min": min(steps),
            "steps_max": max(steps),
            "largest_attention_difference": worst,
        },
        "ratios": [
            dataclasses.asdict(ratio("peer / original without gradients", seconds, "peer", "plain", "at most", 1.05)),
            dataclasses.asdict(ratio("peer / original as it is", seconds, "peer", "as it is", "at most", 1.05)),
        ],
    }


def compare_training(original: Original, rounds: int, seed: int = 0) -> dict[str, Any]:
    """Loss and time of a training step of the decoder, encoder excluded, with the tutorial's own widths, 4 at a time.

    The original's step is its decoder's ``forward`` and what its ``train`` does with it: loss, clamped gradients, Adam.
    """
    rng, batch, places = np.random.default_rng(seed), 4, 52
    torch.manual_seed(seed)
    names = {"<start>": 0, "<end>": 1, **{f"word{index}": index for index in range(2, 9490)}}
    encoder, decoder = original.build(14, 9490, 512)
    grid = torch.randn(batch, 14, 14, 2048).relu()
    captions = [tuple(rng.integers(2, 9490, length).tolist()) for length in rng.integers(6, 20, batch)]
    padded, lengths = torch.full((batch, places), 2), torch.tensor([[len(caption) + 2] for caption in captions])
    for row, caption in enumerate(captions):
        padded[row, : len(caption) + 2] = torch.tensor([0, *caption, 1])
    training = Training(peer_of(encoder, decoder, 14, names), pad_id=2, dropout=0.0)
    decoder.dropout.p = 0.0
    optimizer = torch.optim.Adam(decoder.parameters(), lr=4e-4)

    def theirs() -> float:
        scores, sorted_captions, steps, attention, _ = decoder(grid, padded, lengths)
        packed = pack_padded_sequence(scores, steps, batch_first=True).data
        targets = pack_padded_sequence(sorted_captions[:, 1:], steps, batch_first=True).data
        loss = nn.functional.cross_entropy(packed, targets) + ((1.0 - attention.sum(dim=1)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        for parameter in decoder.parameters():
            parameter.grad.clamp_(-5.0, 5.0)
        optimizer.step()
        packed.topk(5, 1, True, True)  # its top-5 accuracy
        return float(loss.detach())

    def ours() -> float:
        return training.update(*training.decoder_loss(grid, captions))

    difference = max(abs(theirs() - ours()) for _ in range(3))
    seconds = interleave({"peer": ours, "original": theirs}, rounds, warm_up=1)
    timed = ratio("training step, peer / original", seconds, "peer", "original", "at most", 1.05)
    return {"largest_loss_difference": difference, "ratio": dataclasses.asdict(timed)}


def _variants(
    original: Original, peer: Tutorial, encoder: nn.Module, decoder: nn.Module, pixels: Any, names: dict[str, int]
) -> dict[str, Callable[[], object]]:
    def without_gradients() -> None:
        with torch.no_grad():
            original.caption(encoder, decoder, pixels, names, 3)

    return {
        "peer": lambda: peer.caption(pixels, 3),
        "plain": without_gradients,
        "as it is": lambda: original.caption(encoder, decoder, pixels, names, 3),
    }


def _resnet101() -> nn.Module:
    """With batch norms in which random weights neither grow nor vanish, so that images differ in their features."""
    model: nn.Module = torchvision.models.resnet101(weights=None)
    for module in model.modules():
        if isinstance(module, torchvision.models.resnet.Bottleneck):
            nn.init.constant_(module.bn3.weight, 0.2)
    return model


def _load(path: Path, repairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Runs a file of the checkout as a module and returns its names."""
    try:
        source = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a checkout of the tutorial") from error
    for old, new in repairs:
        if old not in source:
            raise DataError(f"{path}: has no {old!r}; expected the tutorial as of 2020 or later")
        source = source.replace(old, new)
    names: dict[str, Any] = {"__name__": "original"}
    stand_ins = {name: types.ModuleType(name) for name in _UNUSED}
    stand_ins["scipy.misc"].imread = lambda image: image  # type: ignore[attr-defined]
    stand_ins["scipy.misc"].imresize = lambda image, size: image  # type: ignore[attr-defined]
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        exec(compile(source, str(path), "exec"), names)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return names


@contextmanager
def _replaced(module: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _revision(checkout: Path) -> str:
    run = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


def main() -> int:
    """Runs the comparison; returns the exit status, 1 where captions differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, required=True, help="checkout of the tutorial")
    parser.add_argument("--revision", help="commit of the checkout, where it is no git repository")
    parser.add_argument("--images", type=int, default=4, help="random images for each model (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each image (default: 3)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(physical_cores())
    where = environment()
    result = compare(Original(options.original), options.images, options.rounds)
    report = {
        "schema": 1,
        "original": options.revision or _revision(options.original),
        "environment": dataclasses.asdict(where),
        **result,
        "training": compare_training(Original(options.original), options.rounds),
    }
    options.out.write_text(f"{json.dumps(report, indent=1)}\n", encoding="utf-8")
    print(json.dumps({**result, "training": report["training"]}, indent=1))
    return 0 if result["captions"]["identical"] == result["captions"]["compared"] else 1


if __name__ == "__main__":
    scripts.end(main, "original")
