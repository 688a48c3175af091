"""What flows through a stream: frames, and frames with their captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from camscribe.runtime.caption import Caption
from camscribe.runtime.images import Color


@dataclass(frozen=True)
class Frame:
    """An image with its capture time and sequence number. Its pixels belong to it: nobody overwrites them."""

    pixels: npt.NDArray[np.uint8]
    """[h, w, 3]; [h, w] for grey; [h * 3 / 2, w] for NV12."""
    color: Color | None
    """Order of the channels: ``rgb``, ``bgr``, ``nv12``; None for grey."""
    sequence: int
    """Counts the frames of a source from 0, those that were dropped included."""
    captured_s: float
    """``time.monotonic()`` when the frame arrived here; the age of a frame is counted from it."""
    stamp_ns: int
    """Nanoseconds since 1970: the camera's or the recording's own time where it has one, else that of the arrival."""
    name: str = ""
    """What the source calls it: a file's path, a camera's frame id."""


@dataclass(frozen=True)
class Captioned:
    """A frame and its caption."""

    frame: Frame
    caption: Caption
    age_ms: float
    """From the frame's capture to its caption."""

    def to_dict(self, *, attention: bool = False) -> dict[str, Any]:
        """As JSON has it. The stamp is in nanoseconds since 1970."""
        return {
            "sequence": self.frame.sequence,
            "stamp_ns": self.frame.stamp_ns,
            "name": self.frame.name,
            **self.caption.to_dict(attention=attention),
            "age_ms": round(self.age_ms, 3),
        }
