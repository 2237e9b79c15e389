# SPDX-License-Identifier: Apache-2.0
"""The light graph by ROS 2's own launch; ended and judged as `ros2 launch` is.

`python -m tests.ros.launched_graph DOMAIN [NAMESPACE [RECORDING [POLICY]]]`; prints its launch's
exit code.
"""

import sys

from launch import LaunchDescription, LaunchService

from par_ros.launch_mapping import graph_actions
from tests.ros.light_graph import light_graph
from tests.ros.operator_thread import operator


def main() -> int:
    service = LaunchService(noninteractive=True)
    graph = light_graph(int(sys.argv[1]), *sys.argv[2:])
    service.include_launch_description(LaunchDescription(graph_actions(graph)))
    with operator(int(sys.argv[1]), graph.namespace):
        return int(service.run())


if __name__ == "__main__":
    sys.exit(main())
