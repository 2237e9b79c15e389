# SPDX-License-Identifier: Apache-2.0
"""Policies measured in the simulator, without ROS. The model never imports this."""
