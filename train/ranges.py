"""Which numbers in a captioner's configuration have a meaning, so that none is found out in the middle of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, NamedTuple


class Range(NamedTuple):
    """From ``low`` to ``high``."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        low = f"more than {self.low:g}" if self.open_low else f"{self.low:g}"
        if self.high == math.inf:
            return low if self.open_low else f"{low} or more"
        return f"{low} to {'less than ' if self.open_high else ''}{self.high:g}"


_FROM_ONE, _FROM_ZERO = Range(1), Range(0)
_SHARE, _LESS_THAN_ALL = Range(0, 1), Range(0, 1, open_high=True)
DATA = {"min_count": _FROM_ONE, "max_words": _FROM_ONE}
MODEL = {
    "image_height": Range(8, 4096),
    "image_width": Range(8, 4096),
    "region_threshold": _SHARE,
    "region_overlap": _SHARE,
    "attention_width": _FROM_ONE,
    "state_width": _FROM_ONE,
    "embedding_width": _FROM_ONE,
    "no_repeat": Range(0, 20),
    "dropout": _LESS_THAN_ALL,
}
STAGE = {
    "batch": _FROM_ONE,
    "variants": _FROM_ONE,
    "captions_per_image": _FROM_ONE,
    "learning_rate": _FROM_ZERO,
    "backbone_learning_rate": _FROM_ZERO,
    "final_learning_rate": _SHARE,
    "weight_decay": _FROM_ZERO,
    "label_smoothing": _LESS_THAN_ALL,
    "scheduled_sampling": _SHARE,
    "attention_regularisation": _FROM_ZERO,
    "gradient_clip": _FROM_ZERO,
    "average_decay": _LESS_THAN_ALL,
    "sample_temperature": Range(0, open_low=True),
    "bleu4_weight": _FROM_ZERO,
    "ending_penalty": _FROM_ZERO,
    "dropout": _LESS_THAN_ALL,
}
VALIDATION = {
    "beams": Range(1, 64),
    "length_penalty": Range(0, 10),
    "max_words": Range(1, 200),
    "batch": _FROM_ONE,
}


def out_of_range(table: Any, ranges: Mapping[str, Range], where: str) -> Iterator[str]:
    """A line for each number of a table (a dataclass) that is out of its range; one that is absent is in it."""
    for item in fields(table):
        value = getattr(table, item.name)
        if item.name in ranges and value is not None and not ranges[item.name].holds(value):
            yield f"{where}: {item.name} is {value:g}; expected {ranges[item.name]}"
