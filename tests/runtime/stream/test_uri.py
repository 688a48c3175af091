"""The grammar of sources."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camscribe.runtime.errors import CamscribeError, OptionError, SourceError
from camscribe.runtime.stream.uri import SCHEMES, describe, parse, redact


@pytest.mark.parametrize(
    ("text", "scheme", "path", "options"),
    [
        ("0", "v4l2", "0", {}),
        ("/dev/video3?width=1280&height=720", "v4l2", "/dev/video3", {"width": "1280", "height": "720"}),
        ("v4l2:///dev/video0?format=YUYV", "v4l2", "/dev/video0", {"format": "YUYV"}),
        ("v4l2://0", "v4l2", "0", {}),
        ("csi://0?flip=2", "csi", "0", {"flip": "2"}),
        ("gst://a x=1 ! b caps='c?d=1'", "gst", "a x=1 ! b caps='c?d=1'", {}),
        ("gst://a ! b#live=0", "gst", "a ! b", {"live": "0"}),
        ("rtsp://u:p@cam/live?ch=1", "rtsp", "rtsp://u:p@cam/live?ch=1", {}),
        ("rtsp://cam/live?ch=1#transport=tcp", "rtsp", "rtsp://cam/live?ch=1", {"transport": "tcp"}),
        ("https://cam/x.mjpg", "http", "https://cam/x.mjpg", {}),
        ("RTSP://cam", "rtsp", "rtsp://cam", {}),
        ("file://my%20clip.mp4?realtime=1", "file", "my clip.mp4", {"realtime": "1"}),
        ("bag://drive.mcap?topic=/camera/image", "bag", "drive.mcap", {"topic": "/camera/image"}),
        ("bag:///data/drive", "bag", "/data/drive", {}),
        ("ros2://camera/image?domain=7", "ros2", "camera/image", {"domain": "7"}),
        ("zenoh://robot/cam?connect=tcp/host:7447", "zenoh", "robot/cam", {"connect": "tcp/host:7447"}),
        ("test://", "test", "", {}),
        ("test://?rate=5", "test", "", {"rate": "5"}),
        ("photos/**/*.jpg", "file", "photos/**/*.jpg", {}),
        ("p?.jpg?fps=2", "file", "p?.jpg", {"fps": "2"}),
        ("drive.mcap", "bag", "drive.mcap", {}),
    ],
)
def test_every_form_is_taken_apart(text: str, scheme: str, path: str, options: dict[str, str]) -> None:
    uri = parse(text)
    assert (uri.scheme, uri.path, uri.options) == (scheme, path, options)


def test_what_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("clip.mp4", "a?b=c.jpg", "test:odd"):
        Path(name).touch()
        assert (parse(name).scheme, parse(name).path) == ("file", name)
    assert parse("clip.mp4?loop=1").options == {"loop": "1"}
    Path("drive").mkdir()
    Path("drive/metadata.yaml").touch()
    assert parse("drive").scheme == "bag"
    assert parse(str(tmp_path)).scheme == "file"


@pytest.mark.parametrize(
    ("text", "error", "expected"),
    [
        ("rtps://u:secret@cam/live", SourceError, r"rtps://u:\*\*\*@cam/live: is not a source; did you mean rtsps?://"),
        ("tset://", SourceError, "did you mean test://?"),
        ("rtsp:/cam", SourceError, "did you mean rtsp://cam?"),
        ("test:", SourceError, "did you mean test://?"),
        ("wxyz://a", SourceError, "expected a camera's number, a file, a folder, v4l2://"),
        ("", SourceError, "source is ''; expected"),
        ("no-such-thing", SourceError, "no such file, folder or camera; expected"),
        ("test://?rat=3", OptionError, "rat is not an option; did you mean rate?"),
        ("test://?colour=3", OptionError, "colour is not an option; expected rate, size, frames"),
        ("http://cam#x=3", OptionError, "x is not an option; http:// has none"),
        ("test://?rate", OptionError, "rate has no value; expected rate=VALUE"),
        ("test://?rate=", OptionError, "rate has no value"),
    ],
)
def test_mistakes_are_named(text: str, error: type[CamscribeError], expected: str) -> None:
    with pytest.raises(error) as caught:
        parse(text)
    import re

    assert re.search(expected if "\\" in expected else re.escape(expected), str(caught.value))
    assert "secret" not in str(caught.value)


def test_a_mistyped_file_is_guessed(tmp_path: Path) -> None:
    (tmp_path / "drive.mp4").touch()
    with pytest.raises(SourceError, match=r"did you mean .*/drive\.mp4\?"):
        parse(str(tmp_path / "dirve.mp4"))


def test_values_are_checked() -> None:
    uri = parse("v4l2://0?width=12&fps=fast&height=999999")
    for call, expected in (
        (lambda: uri.integer("width", 0, 16, 100), "width is '12'; expected a whole number from 16 to 100"),
        (lambda: uri.integer("height", 0, 16, 100), "height is '999999'"),
        (lambda: uri.number("fps", 0, 1, 100), "fps is 'fast'; expected a number from 1 to 100"),
        (lambda: uri.choice("fps", "slow", ("fest", "slow")), "expected fest or slow; did you mean fest?"),
        (lambda: uri.flag("fps"), "expected 0 or 1"),
    ):
        with pytest.raises(OptionError) as caught:
            call()
        assert expected in str(caught.value)
    assert uri.integer("format", 7, 0, 9) == 7
    assert parse("test://?rate=nan").options["rate"] == "nan"
    with pytest.raises(OptionError):
        parse("test://?rate=nan").number("rate", 1, 0, 10)


def test_secrets_are_not_shown() -> None:
    assert redact("rtsp://me:pa@ss@cam/x?a=1&token=abc#b") == "rtsp://me:***@cam/x?a=1&token=***#b"
    assert str(parse("rtsp://me:word@cam/x")) == "rtsp://me:***@cam/x"


def test_help_has_every_kind_with_its_options() -> None:
    text = describe()
    for name, scheme in SCHEMES.items():
        assert f"{name}://" in text
        assert all(f"{option}: " in text for option in scheme.options)
        assert parse(scheme.example).scheme == name


@given(st.one_of(st.text(), st.builds("{}://{}".format, st.sampled_from(list(SCHEMES)), st.text())))
def test_no_text_is_a_bug(text: str) -> None:
    try:
        uri = parse(text)
    except CamscribeError:
        return
    assert uri.scheme in SCHEMES
