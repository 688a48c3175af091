"""Frames, captions and counters as a stream gives them, without a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from camscribe.runtime.caption import Caption, Sentence, Timings
from camscribe.runtime.stream.counters import Counts
from camscribe.runtime.stream.frame import Captioned, Frame

STAMP_NS = 1_700_000_000_123_456_789


def _sentence(text: str, score: float) -> Sentence:
    words = tuple(text.split())
    return Sentence(text, words, score * (len(words) + 1), score, False, np.zeros((len(words), 2, 2), np.float32))


@pytest.fixture
def captioned() -> Callable[..., Captioned]:
    """Makes a caption of a frame: ``captioned(text, sequence)``."""

    def make(text: str = "a man rides a wave", sequence: int = 0) -> Captioned:
        pixels = np.full((48, 64, 3), (10 * sequence) % 256, np.uint8)
        frame = Frame(pixels, "bgr", sequence, 1000.0 + sequence, STAMP_NS + sequence * 10**8, "front camera")
        caption = Caption((_sentence(text, -0.5), _sentence("a dog", -0.9)), Timings(1, 2, 3, 4, 0.5))
        return Captioned(frame, caption, 33.3)

    return make


@pytest.fixture
def counts() -> Callable[..., Counts]:
    """Makes counters: ``counts(captured=10)``."""

    def make(**changes: Any) -> Counts:
        values: dict[str, Any] = dict.fromkeys(Counts.__dataclass_fields__, 0)
        values |= {"seconds": 2.0, "captured": 60, "captioned": 20, "dropped": 40}
        values |= {"age_p50_ms": 30.0, "age_p95_ms": 55.0, "latency_p50_ms": math.nan}
        values |= {"captured_per_s": 30.0, "captioned_per_s": 10.0}
        return Counts(**(values | changes))

    return make


@pytest.fixture
def control() -> Any:
    """What a sink is opened with."""
    return SimpleNamespace(source="test://")
