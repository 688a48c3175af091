"""Decoders: one step from a word to the next. All have one interface, so that training, export and search know none."""

from __future__ import annotations

from camscribe.train.config import ModelConfig
from camscribe.train.decoders.base import Decoder
from camscribe.train.decoders.ensemble import EnsembleDecoder
from camscribe.train.decoders.luo import Att2InDecoder, ShowAttendTellDecoder, TopDownDecoder
from camscribe.train.decoders.soft_attention import SoftAttentionDecoder
from camscribe.train.decoders.transformer import TransformerDecoder
from camscribe.train.decoders.updown import UpDownDecoder

DECODERS: dict[str, type[Decoder]] = {
    "soft_attention": SoftAttentionDecoder,
    "updown": UpDownDecoder,
    "transformer": TransformerDecoder,
    "topdown": TopDownDecoder,
    "att2in2": Att2InDecoder,
    "show_attend_tell": ShowAttendTellDecoder,
}
"""All but ``ensemble``, which is made of several of these."""


def make_decoder(words: int, found_width: int, config: ModelConfig) -> Decoder:
    """The decoder that a configuration names.

    Args:
        words: size of the vocabulary V.
        found_width: width C of the encoder's features.
        config: the model's table.

    Raises:
        DataError: sizes of the configuration do not go together.
    """
    if config.decoder == "ensemble":
        return EnsembleDecoder(config, [make_decoder(words, found_width, member) for member in config.of_members()])
    return DECODERS[config.decoder](words, found_width, config)
