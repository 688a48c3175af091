"""A caption as JSON: one form for the command line and the web page."""

from __future__ import annotations

from typing import Any

from camscribe.runtime.caption import Caption, Sentence
from camscribe.runtime.captioner import Captioner


def caption_json(captioner: Captioner, caption: Caption, *, attention: bool = False) -> dict[str, Any]:
    """A caption with all its hypotheses, its times and what made it.

    Args:
        captioner: what made it.
        caption: of any image.
        attention: adds where the model looked: for each sentence words, rows, columns.
    """

    def sentence(item: Sentence) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "caption": item.text,
            "words": list(item.words),
            "log_prob": item.log_prob,
            "score": item.score,
            "truncated": item.truncated,
        }
        if attention:
            entry["attention"] = item.attention.astype(float).round(5).tolist()
        return entry

    timings = caption.timings
    return {
        **sentence(caption.hypotheses[0]),
        "hypotheses": [sentence(item) for item in caption.hypotheses],
        "timings_ms": {
            "read": round(timings.read_ms, 3),
            "reduce": round(timings.reduce_ms, 3),
            "encode": round(timings.encode_ms, 3),
            "decode": round(timings.decode_ms, 3),
            "words": round(timings.words_ms, 3),
            "total": round(timings.total_ms, 3),
        },
        "bundle": captioner.bundle.manifest.name,
        "backend": captioner.choice.backend,
        "precision": captioner.choice.precision,
    }
