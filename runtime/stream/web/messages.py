"""What the page is told, as JSON."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from camscribe.runtime.caption_json import caption_json
from camscribe.runtime.search import Floats
from camscribe.runtime.stream.counters import Counts
from camscribe.runtime.stream.frame import Captioned
from camscribe.runtime.stream.sink import Control


def hello(control: Control, history: Sequence[tuple[float, float]]) -> str:
    """What stays as it is while the stream runs, and (age, latency) in ms of the captions before."""
    captioner = control.captioner
    manifest = captioner.bundle.manifest
    return _dump(
        {
            "type": "hello",
            "source": control.source,
            "bundle": manifest.name,
            "backend": captioner.choice.backend,
            "precision": captioner.choice.precision,
            "pixels": manifest.pixels.to_dict(),
            "history": [[round(age, 1), round(latency, 1)] for age, latency in history],
        }
    )


def state(control: Control, counts: Counts, viewers: int) -> str:
    """What changes: counters, options, whether it pauses."""
    return _dump({"type": "state", **settings(control), "counts": counts_json(counts), "viewers": viewers})


def shown(item: Captioned) -> str:
    """A caption, with where the model looked for the words of the best sentence."""
    caption = item.caption
    return _dump(
        {
            "type": "caption",
            "sequence": item.frame.sequence,
            "name": item.frame.name,
            "age_ms": round(item.age_ms, 1),
            "latency_ms": round(caption.timings.total_ms, 1),
            "words": caption.words,
            "hypotheses": [
                {"text": each.text, "score": each.score, "log_prob": each.log_prob, "truncated": each.truncated}
                for each in caption.hypotheses
            ],
            "grid": caption.attention.shape[1:],
            "attention": _compact(caption.attention),
        }
    )


def latest(control: Control, item: Captioned, *, attention: bool) -> dict[str, Any]:
    """A caption as programs get it: as ``camscribe caption --json`` prints it, and which frame it is of."""
    frame = item.frame
    return {
        "source": control.source,
        "sequence": frame.sequence,
        "name": frame.name,
        "stamp_ns": frame.stamp_ns,
        "age_ms": round(item.age_ms, 3),
        **caption_json(control.captioner, item.caption, attention=attention),
    }


def settings(control: Control) -> dict[str, Any]:
    """What can be changed, as it is now."""
    return {"paused": control.paused, "options": asdict(control.options)}


def counts_json(counts: Counts) -> dict[str, float | None]:
    """The counters; null for what is not known, as JSON has no NaN."""
    return {name: None if math.isnan(value) else round(value, 3) for name, value in asdict(counts).items()}


def _compact(attention: Floats) -> str:
    """Weights [words, rows, columns] in base64, one byte each; 255 is the greatest of the caption."""
    brightest = max(float(attention.max(initial=0)), 1e-9)
    return base64.b64encode(np.rint(attention * (255 / brightest)).astype(np.uint8).tobytes()).decode()


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
