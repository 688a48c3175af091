"""What captioning an image gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from camscribe.runtime.search import Floats


@dataclass(frozen=True)
class Timings:
    """Where the time of one caption went. Stages of a batch are shared out evenly among its images."""

    read_ms: float
    """Decoding of the file, or conversion of the array."""
    reduce_ms: float
    """Resizing to the encoder's input."""
    encode_ms: float
    decode_ms: float
    """All decoder steps, the stop rule and reading the hypotheses back."""
    words_ms: float
    """From ids to words."""
    enhance_ms: float = 0.0
    """Enlarging an image that is below the size from which on it is good enough; 0 for others."""
    select_ms: float = 0.0
    """Of ``decode_ms``, what a guided search or an ensemble took to select on the host; 0 where the graph selects."""

    @property
    def total_ms(self) -> float:
        """All stages."""
        return self.read_ms + self.enhance_ms + self.reduce_ms + self.encode_ms + self.decode_ms + self.words_ms

    def to_dict(self) -> dict[str, float]:
        """As JSON has it, in milliseconds; ``select`` is a part of ``decode``."""
        return {
            "read": round(self.read_ms, 3),
            "enhance": round(self.enhance_ms, 3),
            "reduce": round(self.reduce_ms, 3),
            "encode": round(self.encode_ms, 3),
            "decode": round(self.decode_ms, 3),
            "select": round(self.select_ms, 3),
            "words": round(self.words_ms, 3),
            "total": round(self.total_ms, 3),
        }


@dataclass(frozen=True)
class Sentence:
    """One hypothesis for an image."""

    text: str
    words: tuple[str, ...]
    log_prob: float
    """Natural logarithm of the probability of the whole sentence, its end included."""
    score: float
    """``log_prob / length**length_penalty``; hypotheses are ranked by it."""
    truncated: bool
    """True when ``max_words`` came before the end."""
    attention: Floats
    """float32 [words, rows, columns]: where the model looked for each word; each grid sums to 1. One row, with a column
    for each box, where the caption has ``boxes``."""

    def to_dict(self, *, attention: bool = False) -> dict[str, Any]:
        """As JSON has it, with where the model looked if asked for."""
        entry: dict[str, Any] = {
            "caption": self.text,
            "words": list(self.words),
            "log_prob": self.log_prob,
            "score": self.score,
            "truncated": self.truncated,
        }
        if attention:
            entry["attention"] = self.attention.astype(float).round(5).tolist()
        return entry


@dataclass(frozen=True)
class Caption:
    """What was found for an image: its best sentence, and the others."""

    hypotheses: tuple[Sentence, ...]
    """The n best, best first."""
    timings: Timings
    boxes: Floats | None = None
    """float32 [P, 4]: where the columns of the attention's one row lie, as fractions of the image: left, top, right,
    bottom. The first is all that the model sees; zeros are none. None where the attention is on the cells of a grid."""

    @property
    def text(self) -> str:
        """The best sentence."""
        return self.hypotheses[0].text

    @property
    def words(self) -> tuple[str, ...]:
        """Its words."""
        return self.hypotheses[0].words

    @property
    def log_prob(self) -> float:
        """See ``Sentence``."""
        return self.hypotheses[0].log_prob

    @property
    def score(self) -> float:
        """See ``Sentence``."""
        return self.hypotheses[0].score

    @property
    def truncated(self) -> bool:
        """See ``Sentence``."""
        return self.hypotheses[0].truncated

    @property
    def attention(self) -> Floats:
        """See ``Sentence``."""
        return self.hypotheses[0].attention

    def to_dict(self, *, attention: bool = False) -> dict[str, Any]:
        """As JSON has it: the best sentence, all of them, and the timings; boxes beside the attention on them."""
        boxes = {} if self.boxes is None or not attention else {"boxes": self.boxes.astype(float).round(5).tolist()}
        return {
            **self.hypotheses[0].to_dict(attention=attention),
            **boxes,
            "hypotheses": [item.to_dict(attention=attention) for item in self.hypotheses],
            "timings_ms": self.timings.to_dict(),
        }
