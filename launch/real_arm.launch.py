# SPDX-License-Identifier: Apache-2.0
"""ros2 launch par_ros real_arm.launch.py robot:=panda instruction:="..." (see --show-args)."""

from launch import LaunchDescription

from par_ros.launch_mapping import launch_description


def generate_launch_description() -> LaunchDescription:
    """Policy and guard for an arm under ros2_control, a dry run by default."""
    return launch_description("real_arm")
