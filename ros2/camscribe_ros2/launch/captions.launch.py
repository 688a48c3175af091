"""``ros2 launch camscribe_ros2 captions.launch.py image:=/camera/image_raw``."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode


def generate_launch_description() -> LaunchDescription:
    """The node, with the topics and the file of parameters that were asked for."""
    config = Path(get_package_share_directory("camscribe_ros2")) / "config" / "captions.yaml"
    arguments = {
        "image": ("image", "topic with sensor_msgs/msg/Image; for compressed images the same, without /compressed"),
        "caption": ("caption", "topic for the captions"),
        "namespace": ("", "namespace of the node"),
        "params_file": (str(config), "file with the node's parameters"),
        "log_level": ("info", "debug, info, warn or error"),
    }
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, (default, text) in arguments.items()
            ),
            LifecycleNode(
                package="camscribe_ros2",
                executable="camscribe-ros2",
                name="camscribe",
                namespace=LaunchConfiguration("namespace"),
                parameters=[LaunchConfiguration("params_file")],
                remappings=[
                    ("image", LaunchConfiguration("image")),
                    ("caption", LaunchConfiguration("caption")),
                ],
                ros_arguments=["--log-level", LaunchConfiguration("log_level")],
                output="screen",
            ),
        ]
    )
