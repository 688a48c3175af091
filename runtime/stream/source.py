"""Sources: where frames come from. One URI names any of them; each scheme is imported when it is asked for."""

from __future__ import annotations

from typing import Protocol

from camscribe.runtime.errors import SourceError
from camscribe.runtime.stream.frame import Frame


class FrameError(SourceError):
    """Raised by ``Source.read`` when one frame is damaged and the next may be good. It is counted as failed."""


class Source(Protocol):
    """A camera, a file, a topic: frames, one after the other. For one thread at a time, but for ``close``."""

    @property
    def live(self) -> bool:
        """True where frames come at their own pace and those nobody takes are lost; False where they wait (files)."""

    def read(self) -> Frame | None:
        """Waits for the next frame; None when the source has ended or was closed.

        Raises:
            FrameError: this frame cannot be read; the source goes on.
            SourceError: the source was lost. One that is live may come back when it is opened again.
        """

    def close(self) -> None:
        """Gives the device back, from any thread; a ``read`` that waits ends within a second. Again does nothing."""
