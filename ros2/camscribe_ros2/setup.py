"""Built by colcon: ``colcon build --packages-select camscribe_ros2``."""

from setuptools import setup

NAME = "camscribe_ros2"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", ["launch/captions.launch.py"]),
        (f"share/{NAME}/config", ["config/captions.yaml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="camscribe",
    maintainer_email="camscribe@example.org",
    description="Captions of a camera's images, as a lifecycle node",
    license="Apache-2.0",
    entry_points={"console_scripts": ["camscribe-ros2 = camscribe_ros2.node:main"]},
)
