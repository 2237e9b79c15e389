# SPDX-License-Identifier: Apache-2.0
"""What decides what an arm is commanded: numpy, the standard library, ruckig and pin only.

No ROS, no torch, no clock of its own: times come in as integer nanoseconds of the caller's clock.
"""
