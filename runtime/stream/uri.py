"""One grammar for all sources.

``scheme://path?option=value&option=value``, or without a scheme a camera's number, a device, a file, a folder or a
glob, with options likewise. Where what follows the scheme is in another's language (a server's address, a pipeline) the
options come after a ``#``, which no server sees: ``rtsp://camera/live?profile=1#transport=tcp``. In paths, ``%20`` and
the like mean the character; topics, keys and what has no scheme are taken as they are.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from camscribe.runtime.errors import OptionError, SourceError
from camscribe.runtime.stream.plugs import Plug
from camscribe.runtime.stream.source import Source

_WAIT = "seconds to wait for the topic (default: 5; inf: for ever)"
_PLAYBACK = {
    "realtime": "1 plays at the recorded pace and drops what nobody takes; else the file waits for the captioner",
    "loop": "1 begins again at the end",
}


class Scheme(NamedTuple):
    """A kind of source."""

    plug: Plug
    """Called with the ``SourceUri``; returns a ``Source``."""
    example: str
    help: str
    options: Mapping[str, str]
    """Name and meaning."""
    foreign: bool = False
    """Whether what follows ``://`` is in another's language, so that options come after ``#``."""


def _ours(module: str, extra: str = "cpu", function: str = "open_source") -> Plug:
    return Plug(f"camscribe.runtime.stream.{module}:{function}", extra)


SCHEMES: dict[str, Scheme] = {
    "v4l2": Scheme(
        _ours("camera"),
        "v4l2:///dev/video0?width=1280&height=720",
        "a USB camera; its number or device alone will do: 0, /dev/video0",
        {
            "width": "pixels (default: the camera's)",
            "height": "rows (default: the camera's)",
            "fps": "frames a second (default: the camera's)",
            "format": "four letters, such as YUYV (default: MJPG from 720 rows on, else the camera's)",
        },
    ),
    "csi": Scheme(
        _ours("gstreamer", function="open_csi"),
        "csi://0?width=1280&height=720&fps=30",
        "a Jetson's CSI camera, through gst-launch-1.0",
        {
            "width": "pixels (default: 1280)",
            "height": "rows (default: 720)",
            "fps": "frames a second (default: 30)",
            "flip": "nvvidconv's flip-method, 0 to 7 (default: 0)",
        },
    ),
    "gst": Scheme(
        _ours("gstreamer"),
        "gst://videotestsrc is-live=true ! video/x-raw,width=640,height=480",
        "any GStreamer pipeline that ends in video, through gst-launch-1.0",
        {"live": "0 makes the pipeline wait for the captioner (default: 1)"},
        foreign=True,
    ),
    "rtsp": Scheme(
        _ours("camera"),
        "rtsp://user:password@camera/live#transport=tcp",
        "a network camera",
        {"transport": "udp, tcp or auto, which tries UDP and then TCP (default: auto)"},
        foreign=True,
    ),
    "http": Scheme(
        _ours("camera"),
        "http://camera:8080/stream.mjpg",
        "MJPEG from a web server, or any video that FFmpeg plays from there; https too",
        {},
        foreign=True,
    ),
    "file": Scheme(
        _ours("files"),
        "file://clip.mp4?realtime=1",
        "a video file, an image, a folder or a glob of images; the path alone will do",
        {**_PLAYBACK, "fps": "frames a second to take of a video (default: all), or to show images at (default: 1)"},
    ),
    "bag": Scheme(
        _ours("bags", "bag"),
        "bag://drive.mcap?topic=/camera/image_raw",
        "a recorded topic: a rosbag2 folder, an MCAP file or a bag of ROS 1",
        {**_PLAYBACK, "topic": "the topic (default: the only one with images)"},
    ),
    "ros2": Scheme(
        _ours("dds", "ros2"),
        "ros2://camera/image_raw",
        "a ROS 2 topic with images, over DDS; no ROS needed",
        {"domain": "ROS_DOMAIN_ID (default: the environment's, else 0)", "wait": _WAIT},
    ),
    "zenoh": Scheme(
        _ours("zenoh", "zenoh"),
        "zenoh://camera/image_raw?connect=tcp/robot:7447",
        "a Zenoh key with images",
        {"connect": "a router's or peer's endpoint", "mode": "peer or client", "wait": _WAIT},
    ),
    "test": Scheme(
        _ours("synthetic"),
        "test://?rate=30&size=640x480",
        "a moving synthetic scene",
        {
            "rate": "frames a second; 0 waits for the captioner (default: 30)",
            "size": "WIDTHxHEIGHT (default: 640x480)",
            "frames": "ends after so many; 0 never (default: 0)",
        },
    ),
}
"""All kinds of sources, by scheme."""
_ALIASES = {"https": "http", "rtsps": "rtsp"}
_BAG_SUFFIXES = (".mcap", ".bag", ".db3")
_SECRET = re.compile(r"(pass|pwd|token|secret|key|auth)", re.IGNORECASE)


@dataclass(frozen=True)
class SourceUri:
    """A source's address, taken apart."""

    scheme: str
    """A key of ``SCHEMES``."""
    path: str
    """What stands between ``scheme://`` and the options: a path, a topic with its leading slash if it has one, a
    pipeline; for ``rtsp`` and ``http`` the whole address."""
    options: Mapping[str, str]
    text: str
    """As the user wrote it. May hold a password; ``str()`` of this does not."""

    def __str__(self) -> str:
        return redact(self.text)

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """An option that is a whole number from ``low`` to ``high``.

        Raises:
            OptionError: it is not.
        """
        text = self.options.get(name)
        if text is None:
            return default
        if not re.fullmatch(r"-?\d{1,9}", text) or not low <= int(text) <= high:
            raise OptionError(f"{self}: {name} is {text!r}; expected a whole number from {low} to {high}")
        return int(text)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """An option that is a number from ``low`` to ``high``.

        Raises:
            OptionError: it is not.
        """
        text = self.options.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise OptionError(f"{self}: {name} is {text!r}; expected a number from {low:g} to {high:g}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """An option that is 1 or 0.

        Raises:
            OptionError: it is neither.
        """
        return self.choice(name, "01"[default], ("0", "1")) == "1"

    def choice(self, name: str, default: str, choices: Iterable[str]) -> str:
        """An option that is one of ``choices``.

        Raises:
            OptionError: it is not.
        """
        text = self.options.get(name, default)
        if text not in tuple(choices):
            raise OptionError(f"{self}: {name} is {text!r}; expected {' or '.join(choices)}{_hint(text, choices)}")
        return text


def parse(text: str) -> SourceUri:
    """Takes a source's address apart.

    Raises:
        SourceError: there is no such kind of source, or no such file.
        OptionError: an option is unknown or has no value.
    """
    if not text or "\0" in text:
        raise SourceError(f"source is {text!r}; expected {', '.join(_examples())}")
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):(/{0,2})", text)
    if found and not Path(text).exists():
        name, slashes = found[1].lower(), found[2]
        scheme = _ALIASES.get(name, name)
        if scheme in SCHEMES and slashes == "//":
            return _parsed(name, scheme, text, text[found.end() :])
        if scheme in SCHEMES or slashes == "//":
            raise SourceError(_wrong_scheme(name, text, text[found.end() :].lstrip("/")))
    return _plain(text)


def opener(text: str) -> Callable[[], Source]:
    """What opens a source, any number of times. The address is checked now, the source is touched when it is called.

    Raises:
        SourceError: there is no such kind of source, or no such file.
        OptionError: an option is unknown or has no value.
    """
    uri = parse(text)
    plug = SCHEMES[uri.scheme].plug
    return lambda: plug(f"{uri.scheme}://", uri)


def open_source(text: str) -> Source:
    """Opens the source with this address.

    Raises:
        SourceError: there is no such source, or it cannot be opened.
        OptionError: an option has no meaning.
        EngineError: a library is missing.
    """
    return opener(text)()


def redact(text: str) -> str:
    """An address without its password, and without values of options that sound like one."""
    text = re.sub(r"(://[^/@:\s]*):\S*@", r"\1:***@", text)
    return re.sub(
        r"([?&#])([^=&#?\s]+)=([^&#\s]+)",
        lambda part: f"{part[1]}{part[2]}=***" if _SECRET.search(part[2]) else part[0],
        text,
    )


def describe() -> str:
    """The kinds of sources with their options, for the command's help."""
    lines = []
    for name, scheme in SCHEMES.items():
        lines.append(f"  {name + '://':<9} {scheme.help}")
        lines.append(f"            {scheme.example}")
        lines += [f"              {option}: {meaning}" for option, meaning in scheme.options.items()]
    return "\n".join(lines)


def _parsed(name: str, scheme: str, text: str, rest: str) -> SourceUri:
    foreign = SCHEMES[scheme].foreign
    path, mark, query = rest.rpartition("#") if foreign else rest.partition("?")
    if foreign and not mark:
        path, query = rest, ""
    if scheme in ("rtsp", "http"):
        path = f"{name}://{path}"
    elif not foreign:
        path = unquote(path)
    return SourceUri(scheme, path, _options(scheme, query, text), text)


def _plain(text: str) -> SourceUri:
    """An address without a scheme."""
    path, options = text, ""
    found = re.fullmatch(r"(.+?)\?([A-Za-z]\w*=[^&]*(?:&[A-Za-z]\w*=[^&]*)*)", text, re.DOTALL)
    if found and not Path(text).exists():
        path, options = found[1], found[2]
    scheme = _kind_of(path)
    return SourceUri(scheme, path, _options(scheme, options, text), text)


def _kind_of(path: str) -> str:
    if re.fullmatch(r"\d{1,3}", path) or re.fullmatch(r"/dev/(video\d+|v4l/.+)", path):
        return "v4l2"
    place = Path(path)
    if place.suffix.lower() in _BAG_SUFFIXES or (place / "metadata.yaml").is_file():
        return "bag"
    if place.exists() or any(mark in path for mark in "*?["):
        return "file"
    raise SourceError(f"{path}: no such file, folder or camera{_similar(place)}; expected {', '.join(_examples())}")


def _examples() -> list[str]:
    return ["a camera's number", "a file", "a folder", *(f"{name}://" for name in SCHEMES)]


def _similar(path: Path) -> str:
    """A file or camera with nearly this name."""
    try:
        names = [item.name for item in path.parent.iterdir()]
    except OSError:
        return ""
    return _hint(path.name, names, "".join((str(path.parent), "/")) if str(path.parent) != "." else "")


def _wrong_scheme(name: str, text: str, rest: str) -> str:
    known = [*SCHEMES, *_ALIASES]
    close = [name] if name in known else difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {redact(f'{close[0]}://{rest}')}?" if close else f"expected {', '.join(_examples())}"
    return f"{redact(text)}: is not a source; {hint}"


def _options(scheme: str, query: str, text: str) -> dict[str, str]:
    known = SCHEMES[scheme].options
    options = {}
    for part in filter(None, query.split("&")):
        name, mark, value = part.partition("=")
        if name not in known:
            expected = f"expected {', '.join(known)}" if known else f"{scheme}:// has none"
            raise OptionError(f"{redact(text)}: {name} is not an option{_hint(name, known) or f'; {expected}'}")
        if not mark or not value:
            raise OptionError(f"{redact(text)}: {name} has no value; expected {name}=VALUE ({known[name]})")
        options[name] = unquote(value)
    return options


def _hint(word: str, known: Iterable[str], before: str = "") -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {before}{close[0]}?" if close else ""
