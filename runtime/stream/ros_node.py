"""All of a ROS 2 node but ROS: what ``ros2/camscribe_ros2`` does between its subscription and its publishers.

Messages come and go as CDR, which rclpy gives and takes where it is asked for raw messages: its own conversion would
turn each pixel into a Python number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_args

from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import OptionError
from camscribe.runtime.executor import Backend
from camscribe.runtime.stream.cdr import CompressedImage, Image, String
from camscribe.runtime.stream.change import THRESHOLD
from camscribe.runtime.stream.counters import Counts
from camscribe.runtime.stream.frame import Captioned, Frame
from camscribe.runtime.stream.push import PushSource
from camscribe.runtime.stream.ros_topics import diagnostics, stamped_json
from camscribe.runtime.stream.sink import Control
from camscribe.runtime.stream.stream import CaptionStream

ImageType = type[Image] | type[CompressedImage]
Publish = Callable[[bytes], None]
"""Takes a message in CDR."""


@dataclass(frozen=True)
class NodeParameters:
    """The node's parameters. ROS knows no None: an empty text and 0 stand for the default."""

    bundle: str = ""
    """The captioner's folder; empty: the one that comes with camscribe."""
    backend: str = "auto"
    """Where the graphs run: auto, tensorrt (builds the engines it lacks), cuda, cuda-graph, ort-tensorrt or cpu."""
    precision: str = ""
    """A precision of the bundle; empty: the bundle's."""
    threads: int = 0
    """CPU threads; 0: one per physical core."""
    beams: int = 0
    """Live hypotheses; 0: the bundle's."""
    rate: float = 0.0
    """Captions a second at most; 0: as many as can be made."""
    max_age_ms: float = 0.0
    """Frames that are older are dropped, and /diagnostics warns when captions are; 0: none."""
    on_change: bool = False
    """Caption only when the scene has changed."""
    change_threshold: float = THRESHOLD
    """Levels of 255 by which the tenth of the scene that changed most must differ."""
    image_transport: str = "raw"
    """raw: sensor_msgs/msg/Image; compressed: sensor_msgs/msg/CompressedImage, on the same topic's /compressed."""

    def __post_init__(self) -> None:
        if self.backend not in get_args(Backend):
            raise OptionError(f"parameter backend is {self.backend!r}; expected {', '.join(get_args(Backend))}")
        if self.image_transport not in ("raw", "compressed"):
            raise OptionError(f"parameter image_transport is {self.image_transport!r}; expected raw or compressed")
        for name in ("threads", "beams", "rate", "max_age_ms"):
            if getattr(self, name) < 0:
                raise OptionError(f"parameter {name} is {getattr(self, name)}; expected 0 or more")

    @classmethod
    def defaults(cls) -> dict[str, str | int | float | bool]:
        """Each parameter's default, to declare them with."""
        return {field.name: getattr(cls, field.name) for field in fields(cls)}

    @property
    def image_type(self) -> ImageType:
        """The type of the messages that come in."""
        return Image if self.image_transport == "raw" else CompressedImage


class PublishSink:
    """Hands captions and counters to functions that publish them; see ``ros_topics``."""

    wants_frames = False

    def __init__(
        self, caption: Publish, stamped: Publish, diagnostics: Publish, source: str, max_age_ms: float | None
    ) -> None:
        self.name = "ROS topics"
        self._publish, self._publish_stamped, self._publish_diagnostics = caption, stamped, diagnostics
        self._source, self._max_age_ms = source, max_age_ms
        self._counts: Counts | None = None

    def open(self, control: Control) -> None:
        """See ``Sink``. Does nothing: the publishers are there."""

    def frame(self, frame: Frame) -> None:
        """See ``Sink``. Does nothing: the camera's own topic has the frames."""

    def caption(self, item: Captioned) -> None:
        """See ``Sink``."""
        self._publish(String(item.caption.text).encode())
        self._publish_stamped(String(stamped_json(item, self._counts)).encode())

    def counts(self, counts: Counts) -> None:
        """See ``Sink``."""
        self._counts = counts
        self._publish_diagnostics(diagnostics(counts, self._source, self._max_age_ms).encode())

    def close(self) -> None:
        """See ``Sink``."""


class CaptionNode:
    """The node's life: ``configure`` loads, ``activate`` captions, ``deactivate`` stops, ``cleanup`` forgets.

    Args:
        caption: publishes a ``std_msgs/msg/String``, the sentence.
        stamped: publishes a ``std_msgs/msg/String``, see ``stamped_json``.
        diagnostics: publishes a ``diagnostic_msgs/msg/DiagnosticArray``.
        report: takes a line for people. It and the functions before are called from other threads.
    """

    def __init__(self, caption: Publish, stamped: Publish, diagnostics: Publish, report: Callable[[str], None]) -> None:
        self._publishers = caption, stamped, diagnostics
        self._report = report
        self._parameters = NodeParameters()
        self._captioner: Captioner | None = None
        self._stream: CaptionStream | None = None
        self._source: PushSource | None = None

    def configure(self, parameters: NodeParameters) -> str:
        """Loads the bundle; with the backend ``tensorrt`` builds the engines it lacks, which takes minutes.

        Returns:
            What was loaded, for people to read.

        Raises:
            BundleError: the bundle is missing or cannot be used.
            EngineError: the backend does not work here.
            OptionError: a parameter has no meaning.
        """
        self.cleanup()
        captioner = Captioner.load(
            Path(parameters.bundle) if parameters.bundle else None,
            parameters.backend,  # type: ignore[arg-type]  # checked by NodeParameters
            parameters.precision or None,
            parameters.threads or None,
        )
        try:
            captioner.options(beams=parameters.beams or None)
        except BaseException:
            captioner.close()
            raise
        self._captioner, self._parameters = captioner, parameters
        return f"{captioner.bundle.manifest.name} on {captioner.choice.backend}, {captioner.choice.precision}"

    def activate(self, topic: str) -> None:
        """Begins to caption what ``image`` is given.

        Args:
            topic: where images come from, for people to read.

        Raises:
            OptionError: a parameter has no meaning, or ``configure`` was not called.
        """
        if self._captioner is None:
            raise OptionError("the node is not configured; configure it first")
        self.deactivate()
        given = self._parameters
        source = PushSource(topic, given.image_type.decode)
        max_age_ms = given.max_age_ms or None
        stream = CaptionStream(
            self._captioner,
            source,
            [PublishSink(*self._publishers, topic, max_age_ms)],
            search=self._captioner.options(beams=given.beams or None),
            rate=given.rate or None,
            on_change=given.change_threshold if given.on_change else None,
            max_age_ms=max_age_ms,
            report=self._report,
        )
        stream.start()
        self._source, self._stream = source, stream

    def image(self, data: bytes) -> None:
        """Takes an image message in CDR, of ``NodeParameters.image_type``. Does nothing while not active."""
        source = self._source
        if source is not None:
            source.put(data)

    def check(self) -> None:
        """Tells what ended the captions, if anything has.

        Raises:
            CamscribeError: such as an encoding that is not known.
        """
        if self._stream is not None and self._stream.wait(0):
            self._stream = None

    def deactivate(self) -> None:
        """Ends captioning, within a second. Again does nothing."""
        stream, self._stream, self._source = self._stream, None, None
        if stream is not None:
            stream.close()

    def cleanup(self) -> None:
        """Gives the captioner's memory back. Again does nothing."""
        self.deactivate()
        captioner, self._captioner = self._captioner, None
        if captioner is not None:
            captioner.close()
