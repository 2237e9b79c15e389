# SPDX-License-Identifier: Apache-2.0
"""ros2 launch par_ros sim.launch.py task:=PushCube (see --show-args)."""

from launch import LaunchDescription

from par_ros.launch_mapping import launch_description


def generate_launch_description() -> LaunchDescription:
    """ManiSkill, policy, guard and the episodes, from par_ros/node_graph.py."""
    return launch_description("sim")
