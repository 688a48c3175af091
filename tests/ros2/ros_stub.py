"""Stand-ins for the modules of ROS 2 that the node imports, for machines without ROS.

They have the names and signatures of rclpy, as its source has them, and a life cycle like its own; topics are lists.
What they cannot show is that the node runs on ROS: nobody has run it there yet.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

PARAMETERS: dict[str, Any] = {}
"""What a file of parameters would set."""
REMAPPINGS: dict[str, str] = {}
LOG: list[tuple[str, str]] = []


class TransitionCallbackReturn(enum.Enum):
    SUCCESS, FAILURE, ERROR = range(3)


class LifecycleState(NamedTuple):
    label: str
    state_id: int


class Publisher:
    def __init__(self, topic: str) -> None:
        self.topic_name, self.sent, self.enabled = topic, [], False

    def publish(self, msg: bytes) -> None:
        if self.enabled:
            self.sent.append(msg)


class Node:
    def __init__(self, node_name: str, *, namespace: str | None = None) -> None:
        self.name, self.state = node_name, "unconfigured"
        self.parameters: dict[str, Any] = {}
        self.publishers: dict[str, Publisher] = {}
        self.subscriptions: list[SimpleNamespace] = []
        self.timers: list[SimpleNamespace] = []

    def declare_parameter(
        self, name: str, value: Any = None, descriptor: Any = None, ignore_override: bool = False
    ) -> None:
        given = PARAMETERS.get(name, value)
        if type(given) is not type(value):  # as rclpy: a parameter's type is that of its default
            raise TypeError(f"{name} is {given!r}")
        self.parameters[name] = given

    def get_parameter(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(value=self.parameters[name])

    def resolve_topic_name(self, topic: str, *, only_expand: bool = False) -> str:
        name = REMAPPINGS.get(topic, topic)
        return name if name.startswith("/") else f"/{name}"

    def create_lifecycle_publisher(self, msg_type: type, topic: str, qos_profile: int) -> Publisher:
        return self.publishers.setdefault(topic, Publisher(topic))

    def create_subscription(
        self, msg_type: type, topic: str, callback: Callable[[bytes], None], qos_profile: Any, *, raw: bool = False
    ) -> SimpleNamespace:
        made = SimpleNamespace(msg_type=msg_type, topic=topic, callback=callback, qos=qos_profile, raw=raw)
        self.subscriptions.append(made)
        return made

    def create_timer(self, timer_period_sec: float, callback: Callable[[], None]) -> SimpleNamespace:
        self.timers.append(SimpleNamespace(callback=callback))
        return self.timers[-1]

    def destroy_timer(self, timer: SimpleNamespace) -> bool:
        self.timers.remove(timer)
        return True

    def destroy_subscription(self, subscription: SimpleNamespace) -> bool:
        self.subscriptions.remove(subscription)
        return True

    def destroy_node(self) -> None:
        self.state = "destroyed"

    def get_logger(self) -> SimpleNamespace:
        levels = ("info", "warning", "error")
        return SimpleNamespace(**{level: lambda text, level=level: LOG.append((level, text)) for level in levels})

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return TransitionCallbackReturn.SUCCESS

    on_cleanup = on_shutdown = on_error = on_configure

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._enable(True)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._enable(False)

    def _enable(self, enabled: bool) -> TransitionCallbackReturn:
        for publisher in self.publishers.values():
            publisher.enabled = enabled
        return TransitionCallbackReturn.SUCCESS

    def _change(self, before: str, after: str, callback: Callable[[Any], Any]) -> TransitionCallbackReturn:
        if self.state != before:
            raise RuntimeError(f"no such transition from {self.state}")
        result: TransitionCallbackReturn = callback(LifecycleState(before, 0))
        if result == TransitionCallbackReturn.SUCCESS:
            self.state = after
        return result

    def trigger_configure(self) -> TransitionCallbackReturn:
        return self._change("unconfigured", "inactive", self.on_configure)

    def trigger_activate(self) -> TransitionCallbackReturn:
        return self._change("inactive", "active", self.on_activate)

    def trigger_deactivate(self) -> TransitionCallbackReturn:
        return self._change("active", "inactive", self.on_deactivate)

    def trigger_cleanup(self) -> TransitionCallbackReturn:
        return self._change("inactive", "unconfigured", self.on_cleanup)


class QoSProfile:
    def __init__(self, *, history: str, depth: int, reliability: str, durability: str) -> None:
        self.history, self.depth, self.reliability, self.durability = history, depth, reliability, durability


def install(spin: Callable[[Node], None]) -> None:
    """Puts the stand-ins where the node imports them from. ``spin`` is what runs while the node does."""
    PARAMETERS.clear()
    REMAPPINGS.clear()
    LOG.clear()
    names = {
        "rclpy": {"init": lambda: None, "spin": spin, "try_shutdown": lambda: None},
        "rclpy.executors": {"ExternalShutdownException": type("ExternalShutdownException", (Exception,), {})},
        "rclpy.lifecycle": {
            "LifecycleNode": Node,
            "LifecycleState": LifecycleState,
            "TransitionCallbackReturn": TransitionCallbackReturn,
        },
        "rclpy.qos": {
            "QoSProfile": QoSProfile,
            "HistoryPolicy": SimpleNamespace(KEEP_LAST="keep last"),
            "ReliabilityPolicy": SimpleNamespace(BEST_EFFORT="best effort"),
            "DurabilityPolicy": SimpleNamespace(VOLATILE="volatile"),
        },
        "diagnostic_msgs.msg": {"DiagnosticArray": type("DiagnosticArray", (), {})},
        "sensor_msgs.msg": {"Image": type("Image", (), {}), "CompressedImage": type("CompressedImage", (), {})},
        "std_msgs.msg": {"String": type("String", (), {})},
    }
    for name, content in names.items():
        module = ModuleType(name)
        vars(module).update(content)
        sys.modules[name] = module
