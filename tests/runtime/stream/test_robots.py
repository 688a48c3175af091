"""What the robot's sources and sinks share; and what each says where its library is missing."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from camscribe.runtime.errors import EngineError
from camscribe.runtime.stream.mcap import McapSink
from camscribe.runtime.stream.robots import located, not_among
from camscribe.runtime.stream.source import FrameError
from camscribe.runtime.stream.uri import open_source


@pytest.fixture
def _without_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that has none of them."""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("cyclonedds", "zenoh", "mcap", "rosbags"):
            monkeypatch.delitem(sys.modules, name)
    for name in ("cyclonedds", "zenoh", "mcap", "rosbags"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("_without_libraries")
def test_a_missing_library_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    (tmp_path / "a.mcap").write_bytes(b"\x89MCAP0\r\n")
    (tmp_path / "a.bag").write_bytes(b"")
    for uri, package, extra in (
        ("ros2://camera", "cyclonedds", "ros2"),
        ("zenoh://camera", "zenoh", "zenoh"),
        (f"bag://{tmp_path}/a.mcap", "mcap", "mcap"),
        (f"bag://{tmp_path}/a.bag", "rosbags", "bag"),
    ):
        with pytest.raises(EngineError) as caught:
            open_source(uri)
        assert f"{uri} needs {package}, which cannot be imported" in str(caught.value)
        assert str(caught.value).endswith(f'pip install "camscribe[{extra}]"')
        assert "\n" not in str(caught.value)
    with pytest.raises(EngineError, match=r"--mcap b.mcap needs mcap.*camscribe\[mcap\]"):
        McapSink(Path("b.mcap"))


@pytest.mark.usefixtures("_without_libraries")
def test_on_arm_the_message_says_what_to_do_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(EngineError, match=r"no package of it for ARM; use the node camscribe-ros2 .* else zenoh://"):
        open_source("ros2://camera")


def test_a_topic_that_is_not_there_is_answered_with_those_that_are() -> None:
    assert not_among("/a", []) == "; there is no topic of images here"
    assert (
        not_among("/camera/rw", ["/camera/raw", "/b"])
        == "; did you mean /camera/raw?; topics of images here: /b, /camera/raw"
    )
    assert not_among("/z", ["/camera/raw"]) == "; topics of images here: /camera/raw"


def test_an_error_keeps_its_kind_with_its_place() -> None:
    error = located(FrameError("is cut off"), "bag://a")
    assert type(error) is FrameError
    assert str(error) == "bag://a: is cut off"
