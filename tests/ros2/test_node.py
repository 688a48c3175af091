"""The ROS 2 package, as far as that goes without ROS: its node on stand-ins for rclpy, with the real captioner."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import cv2
import pytest

from camscribe.runtime.stream.cdr import CompressedImage, DiagnosticArray, Image, String
from camscribe.runtime.stream.ros_node import NodeParameters

HERE = Path(__file__).parent
NAMES = ("rclpy", "diagnostic_msgs", "sensor_msgs", "std_msgs")


@pytest.fixture
def package(repository: Path) -> Path:
    return repository / "ros2" / "camscribe_ros2"


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stub() -> Iterator[ModuleType]:
    """The stand-ins, installed."""
    if importlib.util.find_spec("rclpy") is not None:
        pytest.skip("ROS is here: use the real rclpy")
    module = load(HERE / "ros_stub.py", "ros_stub")
    module.install(lambda node: None)
    yield module
    for name in [name for name in sys.modules if name.partition(".")[0] in NAMES]:
        del sys.modules[name]


@pytest.fixture
def node(stub: ModuleType, package: Path) -> Iterator[Callable[..., Any]]:
    """Makes the node with these parameters."""
    made = []

    def make(**parameters: Any) -> Any:
        stub.PARAMETERS.update(parameters)
        made.append(load(package / "camscribe_ros2" / "node.py", "camscribe_node").CamscribeNode())
        return made[-1]

    yield make
    for item in made:
        item.close()


def photo(repository: Path) -> bytes:
    pixels = cv2.imread(str(repository / "examples" / "shepherd.jpg"))
    height, width = pixels.shape[:2]
    return Image(5 * 10**9 + 7, "front camera", height, width, "bgr8", False, width * 3, pixels.tobytes()).encode()


def until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    end_s = time.monotonic() + seconds
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.02)
    return condition()


def test_images_become_captions(node: Callable[..., Any], stub: ModuleType, repository: Path) -> None:
    stub.REMAPPINGS.update(image="/camera/image_raw", caption="robot/caption")
    made = node(backend="cpu", beams=2, threads=1)
    assert made.trigger_configure() == stub.TransitionCallbackReturn.SUCCESS
    assert made.subscriptions == []
    assert made.trigger_activate() == stub.TransitionCallbackReturn.SUCCESS
    (subscription,) = made.subscriptions
    assert (subscription.topic, subscription.raw, subscription.msg_type.__name__) == (
        "/camera/image_raw",
        True,
        "Image",
    )
    assert (subscription.qos.depth, subscription.qos.reliability) == (1, "best effort")
    caption, stamped, diagnostics = (
        made.publishers[name].sent for name in ("/robot/caption", "/robot/caption/stamped", "/diagnostics")
    )
    subscription.callback(photo(repository))
    assert until(lambda: bool(stamped and diagnostics))
    assert "shepherd" in String.decode(caption[0]).data
    record = json.loads(String.decode(stamped[0]).data)
    assert record["caption"] == String.decode(caption[0]).data
    assert (record["stamp"], record["frame_id"]) == ({"sec": 5, "nanosec": 7}, "front camera")
    assert len(record["hypotheses"]) == 1
    status = DiagnosticArray.decode(diagnostics[0]).status[0]
    assert dict(status.values)["source"] == "/camera/image_raw"
    assert made.trigger_deactivate() == stub.TransitionCallbackReturn.SUCCESS
    assert (made.subscriptions, made.timers) == ([], [])
    assert made.trigger_activate() == stub.TransitionCallbackReturn.SUCCESS  # and once more
    made.subscriptions[0].callback(photo(repository))
    assert until(lambda: len(caption) == 2)
    made.trigger_deactivate()
    made.trigger_cleanup()
    assert made.state == "unconfigured"


def test_compressed_images_come_on_a_topic_of_their_own(
    node: Callable[..., Any], stub: ModuleType, repository: Path
) -> None:
    made = node(image_transport="compressed", backend="cpu")
    made.trigger_configure()
    made.trigger_activate()
    (subscription,) = made.subscriptions
    assert (subscription.topic, subscription.msg_type.__name__) == ("/image/compressed", "CompressedImage")
    file = (repository / "examples" / "shepherd.jpg").read_bytes()
    subscription.callback(CompressedImage(1, "camera", "jpeg", file).encode())
    assert until(lambda: bool(made.publishers["/caption"].sent))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"bundle": "/nowhere"}, "/nowhere"),
        ({"backend": "gpu"}, "parameter backend is 'gpu'; expected auto"),
        ({"image_transport": "theora"}, "parameter image_transport is 'theora'; expected raw or compressed"),
        ({"rate": -1.0}, "parameter rate is -1.0; expected 0 or more"),
        ({"beams": 100}, "beams is 100; expected 1 to 64"),
        ({"precision": "int7"}, "int7"),
    ],
)
def test_a_wrong_parameter_fails_the_transition_with_one_line(
    node: Callable[..., Any], stub: ModuleType, parameters: dict[str, Any], message: str
) -> None:
    made = node(**parameters)
    assert made.trigger_configure() == stub.TransitionCallbackReturn.FAILURE
    assert made.state == "unconfigured"
    ((level, text),) = stub.LOG
    assert level == "error"
    assert message in text
    assert "\n" not in text


def test_images_that_cannot_be_captioned_end_it_and_say_so(node: Callable[..., Any], stub: ModuleType) -> None:
    made = node(backend="cpu")
    made.trigger_configure()
    made.trigger_activate()
    made.subscriptions[0].callback(Image(1, "depth", 2, 2, "16UC1", False, 4, bytes(8)).encode())
    timer = made.timers[0]

    def ended() -> bool:
        if made.timers:
            timer.callback()
        return bool(made.state == "inactive")

    assert until(ended)
    assert [text for level, text in stub.LOG if level == "error"] == [
        "/image: the images have the encoding '16UC1'; it is a depth image, not a picture"
    ]


def test_main_starts_and_ends_the_node(stub: ModuleType, package: Path) -> None:
    seen = []

    def spin(node: Any) -> None:
        seen.append(node.state)
        raise KeyboardInterrupt

    stub.install(spin)
    stub.PARAMETERS["backend"] = "cpu"
    load(package / "camscribe_ros2" / "node.py", "camscribe_node").main()
    stub.PARAMETERS["autostart"] = False
    load(package / "camscribe_ros2" / "node.py", "camscribe_node").main()
    assert seen == ["active", "unconfigured"]


def test_the_file_of_parameters_has_all_of_them_with_their_defaults(package: Path) -> None:
    yaml = pytest.importorskip("ruamel.yaml", reason="ruamel.yaml is not installed")
    text = (package / "config" / "captions.yaml").read_text()
    ((_, node),) = yaml.YAML(typ="safe").load(text).items()
    expected = {"autostart": True, **NodeParameters.defaults()}
    assert node["ros__parameters"] == expected
    for name, value in node["ros__parameters"].items():
        assert type(value) is type(expected[name]), name  # a parameter's type is that of its default


def test_the_package_is_complete(package: Path) -> None:
    """What colcon needs: names that agree, files that exist, and each ROS package that is imported is required."""
    manifest = ElementTree.parse(package / "package.xml").getroot()
    assert manifest.findtext("name") == package.name
    required = {item.text for item in manifest.findall("exec_depend")}
    imported = set()
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))  # also: it compiles
        for item in ast.walk(tree):
            if isinstance(item, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in item.names}
            elif isinstance(item, ast.ImportFrom):
                imported.add(str(item.module).partition(".")[0])
    assert imported - set(sys.stdlib_module_names) - {"camscribe", "setuptools", "camscribe_ros2"} <= required
    setup = (package / "setup.py").read_text()
    for name in ("launch/captions.launch.py", "config/captions.yaml", "package.xml", "resource/camscribe_ros2"):
        assert (package / name).is_file()
        assert name.replace(package.name, "{NAME}") in setup
    assert f"$base/lib/{package.name}" in (package / "setup.cfg").read_text()
