"""Sinks: where frames and captions go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from camscribe.runtime.search import SearchOptions
from camscribe.runtime.stream.frame import Captioned, Frame

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from camscribe.runtime.captioner import Captioner
    from camscribe.runtime.search import SearchChanges
    from camscribe.runtime.stream.counters import Counts


class Control(Protocol):
    """What a sink may ask of the stream that feeds it, from any thread."""

    @property
    def captioner(self) -> Captioner:
        """For images from elsewhere, such as an upload."""

    @property
    def source(self) -> str:
        """The source's URI, without a password."""

    @property
    def options(self) -> SearchOptions:
        """How the next frame is searched."""

    def change(self, **changes: Unpack[SearchChanges]) -> None:
        """Changes ``options``.

        Raises:
            OptionError: the options would have no meaning.
        """

    @property
    def paused(self) -> bool:
        """True while no frame is captioned. Frames are captured all the same."""

    def pause(self, paused: bool) -> None:
        """Stops captioning, or goes on."""

    def counts(self) -> Counts:
        """The counters as they are now."""


class Sink(Protocol):
    """Takes what a stream gives.

    Each sink has a thread of its own, which makes all of these calls: none is made twice at a time, and a slow sink
    slows neither the captioner nor another sink. Captions wait for it, within bounds; frames that it does not take in
    time are dropped.

    A sink that fails raises ``SinkError``: that is said once, the sink is closed, and the others go on.
    """

    @property
    def name(self) -> str:
        """As it was asked for on the command line, such as ``--jsonl captions.jsonl``."""

    @property
    def wants_frames(self) -> bool:
        """Whether ``frame`` is called with every captured frame."""

    def open(self, control: Control) -> None:
        """Begins: opens files and ports.

        Raises:
            SinkError: it cannot work. The stream starts without it, unless it has no other one.
        """

    def frame(self, frame: Frame) -> None:
        """Takes a captured frame, captioned or not. Of a source that waits, a frame comes after its own caption."""

    def caption(self, item: Captioned) -> None:
        """Takes a caption."""

    def counts(self, counts: Counts) -> None:
        """Takes the counters, once a second and at the end."""

    def close(self) -> None:
        """Ends: what was written is complete. Again does nothing."""
