"""What the page is told, as JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from camscribe.runtime.captioner import Captioner
from camscribe.runtime.search import Floats
from camscribe.runtime.stream.counters import Counts
from camscribe.runtime.stream.frame import Captioned
from camscribe.runtime.stream.sink import Control


def hello(control: Control, history: Sequence[tuple[float, float]]) -> str:
    """What stays as it is while the stream runs, and (age, latency) in ms of the captions before."""
    return _dump(
        {
            "type": "hello",
            "source": control.source,
            **made_by(control.captioner),
            "pixels": control.captioner.bundle.manifest.pixels.to_dict(),
            "history": [[round(age, 1), round(latency, 1)] for age, latency in history],
        }
    )


def state(control: Control, counts: Counts, viewers: int) -> str:
    """What changes: counters, options, whether it pauses."""
    return _dump({"type": "state", **settings(control), "counts": counts.to_dict(), "viewers": viewers})


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
            "boxes": None if caption.boxes is None else caption.boxes.astype(float).round(4).tolist(),
        }
    )


def latest(control: Control, item: Captioned, *, attention: bool) -> dict[str, Any]:
    """A caption as programs get it."""
    return {"source": control.source, **item.to_dict(attention=attention), **made_by(control.captioner)}


def made_by(captioner: Captioner) -> dict[str, str]:
    """What captions."""
    choice = captioner.choice
    return {"bundle": captioner.bundle.manifest.name, "backend": choice.backend, "precision": choice.precision}


def settings(control: Control) -> dict[str, Any]:
    """What can be changed, as it is now."""
    return {"paused": control.paused, "options": asdict(control.options)}


def _compact(attention: Floats) -> str:
    """Weights [words, rows, columns] in base64, one byte each; 255 is the greatest of the caption."""
    brightest = max(float(attention.max(initial=0)), 1e-9)
    return base64.b64encode(np.rint(attention * (255 / brightest)).astype(np.uint8).tobytes()).decode()


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
