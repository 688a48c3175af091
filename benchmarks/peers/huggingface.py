"""Hugging Face ``generate`` on a vision encoder-decoder as large as the bundle: what a model off the shelf costs.

A vision transformer whose patches are the cells of the bundle's grid, and a small GPT-2 with cross-attention over the
bundle's vocabulary. Weights are random and are not the bundle's, so its captions say nothing; ``</s>`` is suppressed
until the number of words of an ordinary caption of the bundle is reached, so that both take as many steps. Keys and
values of earlier words are cached, as ``generate`` does by default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from camscribe.benchmarks.peers import Run, missing, usual_steps
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import SearchOptions

_WIDTHS = (192, 384, 768)
"""Of both transformers, with heads of 64: those of ViT-Ti, ViT-S and ViT-B."""
_DECODER_LAYERS = 2
_HALF = 2
"""Bytes of a weight in a bundle's shared file of weights."""


def why_not(bundle: Bundle, checkpoint: Path | None) -> str | None:
    """See ``Peer``. It needs no checkpoint."""
    return missing("torch", "transformers")


def open_peer(bundle: Bundle, checkpoint: Path | None, options: SearchOptions, threads: int) -> Run:
    """See ``Peer``."""
    import torch

    torch.set_num_threads(threads)
    model = build(bundle)
    steps = usual_steps(bundle)
    search = {
        "num_beams": options.beams,
        "do_sample": False,
        "length_penalty": options.length_penalty,
        "early_stopping": False,
        # The last step is the one that may say </s>.
        "min_new_tokens": steps - 1,
        "max_new_tokens": steps,
        "use_cache": True,
    }
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

    @torch.no_grad()
    def run(pixels: Pixels) -> list[int]:
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float() / 255
        found = model.generate(((image - mean) / std).unsqueeze(0), **search)
        tokens: list[int] = found[0, 1:].tolist()
        end = bundle.manifest.special_tokens.end
        return tokens[: tokens.index(end)] if end in tokens else tokens

    return run


def build(bundle: Bundle, seed: int = 0) -> Any:
    """The model: of ViT's widths and any depth, the one whose number of weights is nearest to the bundle's.

    Args:
        bundle: whose image, grid, vocabulary and size it takes.
        seed: of the random weights.
    """
    import torch
    from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    manifest, tokens = bundle.manifest, bundle.manifest.special_tokens
    width, layers = nearest(weights_of(bundle), manifest.vocabulary_size)
    rows, columns = manifest.attention_grid
    heads = width // 64
    encoder = ViTConfig(
        image_size=(manifest.pixels.height, manifest.pixels.width),
        patch_size=(manifest.pixels.height // rows, manifest.pixels.width // columns),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    decoder = GPT2Config(
        vocab_size=manifest.vocabulary_size,
        n_positions=256,
        n_embd=width,
        n_layer=_DECODER_LAYERS,
        n_head=heads,
        add_cross_attention=True,
        is_decoder=True,
        bos_token_id=tokens.start,
        eos_token_id=tokens.end,
        pad_token_id=tokens.pad,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VisionEncoderDecoderModel(config).eval()
    model.generation_config.decoder_start_token_id = tokens.start
    model.generation_config.bos_token_id = tokens.start
    model.generation_config.eos_token_id = tokens.end
    model.generation_config.pad_token_id = tokens.pad
    return model


def weights_of(bundle: Bundle) -> int:
    """How many weights the bundle has: by the size of its float32 pair's shared file, else of the graphs themselves."""
    pair, files = bundle.manifest.precisions["float32"], bundle.manifest.files
    shared = {name for graph in (pair.encoder, pair.decoder) for name in graph.external}
    if shared:
        return sum(files[name].bytes for name in shared) // _HALF
    return sum(files[graph.file].bytes for graph in (pair.encoder, pair.decoder)) // 4


def nearest(weights: int, words: int) -> tuple[int, int]:
    """Width and encoder layers (2 to 12) of the model whose number of weights is nearest to ``weights``."""
    choices = [(width, layers) for width in _WIDTHS for layers in range(2, 13)]
    return min(choices, key=lambda choice: abs(_size(*choice, words) - weights))


def _size(width: int, layers: int, words: int) -> int:
    """Roughly: matrices of all layers (a decoder's has a second attention), the embedding, patches of 32 x 32."""
    return 12 * width**2 * layers + 16 * width**2 * _DECODER_LAYERS + words * width + 3 * 32**2 * width
