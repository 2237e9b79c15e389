# SPDX-License-Identifier: Apache-2.0
"""PAR on ROS 2: nodes, their topics and parameters, and the graphs that they make up."""
