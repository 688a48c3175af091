"""The lifecycle node ``camscribe``: images in, captions out.

Everything but ROS itself is in ``camscribe.runtime.stream.ros_node``, where it is tested without ROS. Messages are
taken and given in their serialized form, so that no pixel becomes a Python number.
"""

from __future__ import annotations

from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from camscribe.runtime.errors import CamscribeError
from camscribe.runtime.stream.ros_node import CaptionNode, NodeParameters

NEWEST = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)
"""For images: fits reliable and best-effort cameras alike, and keeps none but the newest."""
CHECK_S = 0.5
"""Between two looks at whether captioning has ended by itself."""


class CamscribeNode(LifecycleNode):
    """Subscribes ``image``; publishes ``caption``, ``caption/stamped`` and ``/diagnostics``."""

    def __init__(self) -> None:
        super().__init__("camscribe")
        self.declare_parameter("autostart", True)
        for name, default in NodeParameters.defaults().items():
            self.declare_parameter(name, default)
        caption = self.resolve_topic_name("caption")
        self._caption = self.create_lifecycle_publisher(String, caption, 10)
        self._stamped = self.create_lifecycle_publisher(String, f"{caption}/stamped", 10)
        self._diagnostics = self.create_lifecycle_publisher(DiagnosticArray, "/diagnostics", 10)
        self._captions = CaptionNode(
            self._caption.publish, self._stamped.publish, self._diagnostics.publish, self.get_logger().warning
        )
        self._subscription: Any = None
        self._timer: Any = None
        self._compressed = False

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the bundle, or builds its engines."""
        try:
            parameters = NodeParameters(**{name: self.get_parameter(name).value for name in NodeParameters.defaults()})
            self.get_logger().info(self._captions.configure(parameters))
        except CamscribeError as error:
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        self._compressed = parameters.image_transport == "compressed"
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribes."""
        topic = self.resolve_topic_name("image") + ("/compressed" if self._compressed else "")
        done = super().on_activate(state)  # the publishers, before there is anything to publish
        try:
            self._captions.activate(topic)
        except CamscribeError as error:
            self.get_logger().error(str(error))
            super().on_deactivate(state)
            return TransitionCallbackReturn.FAILURE
        self._subscription = self.create_subscription(
            CompressedImage if self._compressed else Image, topic, self._captions.image, NEWEST, raw=True
        )
        self._timer = self.create_timer(CHECK_S, self._check)
        self.get_logger().info(f"captions of {topic} on {self._caption.topic_name}")
        return done

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribes."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Gives the model's memory back."""
        self._captions.cleanup()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Ends all of it."""
        self._stop()
        self._captions.cleanup()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Ends all of it, so that the node can be configured again."""
        self._stop()
        self._captions.cleanup()
        return super().on_error(state)

    def close(self) -> None:
        """Ends captioning, whatever state the node is in."""
        self._stop()
        self._captions.cleanup()

    def _stop(self) -> None:
        if self._timer is not None:
            self.destroy_timer(self._timer)
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
        self._timer = self._subscription = None
        self._captions.deactivate()

    def _check(self) -> None:
        """Says so and deactivates where the images cannot be captioned, such as those of a depth camera."""
        try:
            self._captions.check()
        except CamscribeError as error:
            self.get_logger().error(str(error))
            self.trigger_deactivate()


def main() -> None:
    """Runs the node; with the parameter ``autostart`` configures and activates it first."""
    rclpy.init()
    node = CamscribeNode()
    try:
        if node.get_parameter("autostart").value and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            node.trigger_activate()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
