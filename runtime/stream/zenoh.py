"""ROS 2 topics over Zenoh, as ``zenoh-bridge-ros2dds`` carries them: the key is the topic's name, the payload is CDR.

A payload that is a JPEG or PNG file is taken as well, because many cameras on Zenoh send just that. Where ROS itself
runs on Zenoh (rmw_zenoh), keys and attachments are its own and change between its releases: put the bridge between, or
use the node ``camscribe-ros2``.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from camscribe.runtime.errors import CamscribeError, OptionError, SinkError, SourceError
from camscribe.runtime.stream.cdr import CompressedImage, Image, Message, String, image_of
from camscribe.runtime.stream.counters import Counts
from camscribe.runtime.stream.frame import Captioned, Frame
from camscribe.runtime.stream.push import PushSource
from camscribe.runtime.stream.robots import need, not_among
from camscribe.runtime.stream.ros_topics import DIAGNOSTICS, STAMPED, diagnostics, stamped_json
from camscribe.runtime.stream.sink import Control
from camscribe.runtime.stream.source import FrameError
from camscribe.runtime.stream.uri import SourceUri, parse

WAIT_S = 5.0
"""How long the first image is waited for; ``?wait=SECONDS``."""
_LISTEN_S = 0.5
"""How long all keys are listened to, to say which ones have images, where the one asked for has none."""
_FILES = (b"\xff\xd8\xff", b"\x89PNG")


def open_source(uri: SourceUri) -> ZenohSource:
    """Opens ``zenoh://KEY``: ``sensor_msgs/msg/Image`` or ``CompressedImage`` in CDR, or image files.

    Options: ``connect`` (an endpoint such as ``tcp/robot:7447``), ``mode`` (``peer`` or ``client``), and ``wait``, the
    seconds for which the first image is waited for (default 5; ``inf`` for ever). ZENOH_CONFIG names a configuration
    file for all else.

    Raises:
        SourceError: nothing is reached, nothing arrives on the key, or it is no image.
        OptionError: the key is none, or an option has no meaning.
        EngineError: Zenoh is not installed.
    """
    return ZenohSource(uri)


class ZenohSource:
    """The newest image of a key."""

    def __init__(self, uri: SourceUri) -> None:
        self._uri = uri
        key = _key(uri)
        wait_s = uri.number("wait", WAIT_S, 0.0, float("inf"))
        self._slot = PushSource(str(uri), _image)
        self._session = _session(uri, SourceError)
        try:
            self._subscriber = self._session.declare_subscriber(
                key, lambda sample: self._slot.put(sample.payload.to_bytes())
            )
            if wait_s < float("inf"):
                self._expect(key, wait_s)
        except BaseException:
            self.close()
            raise

    @property
    def live(self) -> bool:
        """See ``Source``."""
        return True

    def read(self) -> Frame | None:
        """See ``Source``. A publisher that goes and comes back is heard again without more ado."""
        return self._slot.read()

    def close(self) -> None:
        """See ``Source``."""
        self._slot.close()
        self._session.close()

    def _expect(self, key: str, wait_s: float) -> None:
        """Waits for the first payload, and looks at it.

        Raises:
            SourceError: none comes, or it is no image.
        """
        first = self._slot.wait(wait_s)
        if first is None:
            raise SourceError(f"{self._uri}: nothing arrived on {key} for {wait_s:g} s{not_among(key, self._images())}")
        try:
            _image(first)
        except FrameError as error:
            raise SourceError(
                f"{self._uri}: what arrives on {key} ({len(first)} bytes) is no image: expected {Image.TYPE} or "
                f"{CompressedImage.TYPE} in CDR, a JPEG or a PNG file{not_among(key, self._images())}"
            ) from error

    def _images(self) -> list[str]:
        """Keys on which images are heard now."""
        heard: dict[str, bytes] = {}
        listener = self._session.declare_subscriber(
            "**", lambda sample: heard.setdefault(str(sample.key_expr), sample.payload.to_bytes())
        )
        time.sleep(_LISTEN_S)
        listener.undeclare()
        return [key for key, payload in heard.items() if _is_image(payload)]


class ZenohSink:
    """Publishes captions on a key, as ``zenoh-bridge-ros2dds`` takes them to ROS: see ``ros_topics``.

    ``caption`` and ``caption/stamped`` have ``std_msgs/msg/String``, ``diagnostics`` has
    ``diagnostic_msgs/msg/DiagnosticArray``, all in CDR.
    """

    def __init__(self, key: str) -> None:
        """Args:
            key: of the sentences; ``?connect=ENDPOINT`` and ``mode=`` may follow it, as in a source's address.

        Raises:
            OptionError: the key is none, or an option has no meaning.
            EngineError: Zenoh is not installed.
        """
        self._uri = parse(f"zenoh://{key}")
        self._key = _key(self._uri)
        self._name = f"--zenoh {key}"
        self._counts: Counts | None = None
        self._source = ""
        self._session: Any = None

    @property
    def name(self) -> str:
        """See ``Sink``."""
        return self._name

    @property
    def wants_frames(self) -> bool:
        """See ``Sink``."""
        return False

    def open(self, control: Control) -> None:
        """See ``Sink``."""
        self._source = control.source
        self._session = _session(self._uri, SinkError)

    def frame(self, frame: Frame) -> None:
        """See ``Sink``. Does nothing."""

    def caption(self, item: Captioned) -> None:
        """See ``Sink``."""
        self._publish(self._key, String(item.caption.text))
        self._publish(f"{self._key}/{STAMPED}", String(stamped_json(item, self._counts)))

    def counts(self, counts: Counts) -> None:
        """See ``Sink``."""
        self._counts = counts
        self._publish(DIAGNOSTICS.removeprefix("/"), diagnostics(counts, self._source))

    def close(self) -> None:
        """See ``Sink``."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _publish(self, key: str, message: Message) -> None:
        zenoh = need("zenoh", self._name, "zenoh")
        if self._session is None:
            return
        try:
            self._session.put(key, message.encode(), encoding=zenoh.Encoding.APPLICATION_CDR)
        except zenoh.ZError as error:
            raise SinkError(f"{self._name}: {key} cannot be published ({error})") from error


def _image(payload: bytes) -> Image | CompressedImage:
    """A payload as an image message.

    Raises:
        FrameError: it is none.
    """
    if payload.startswith(_FILES):
        return CompressedImage(0, "", "", payload)
    return image_of(payload)


def _is_image(payload: bytes) -> bool:
    try:
        _image(payload)
    except FrameError:
        return False
    return True


def _key(uri: SourceUri) -> str:
    """The key of an address. A leading slash, as ROS has it, is none of Zenoh's.

    Raises:
        OptionError: it is no key.
    """
    zenoh = need("zenoh", str(uri), "zenoh")
    key = uri.path.removeprefix("/")
    try:
        zenoh.KeyExpr(key)
    except zenoh.ZError as error:
        raise OptionError(f"{uri}: {key!r} is not a key of Zenoh ({_line(error)})") from error
    return key


def _session(uri: SourceUri, failed: type[CamscribeError]) -> Any:
    """Joins the network.

    Raises:
        CamscribeError: of the class ``failed``: it cannot be joined.
        OptionError: an option has no meaning.
    """
    zenoh = need("zenoh", str(uri), "zenoh")
    zenoh.init_log_from_env_or("error")
    mode = uri.choice("mode", "", ("", "peer", "client"))
    try:
        config = zenoh.Config.from_env() if "ZENOH_CONFIG" in os.environ else zenoh.Config()
        if mode:
            config.insert_json5("mode", json.dumps(mode))
        if endpoint := uri.options.get("connect"):
            config.insert_json5("connect/endpoints", json.dumps([endpoint]))
            config.insert_json5("connect/exit_on_failure", "true")
            config.insert_json5("connect/timeout_ms", "5000")
        return zenoh.open(config)
    except zenoh.ZError as error:
        raise failed(f"{uri}: Zenoh cannot be joined ({_line(error)})") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
