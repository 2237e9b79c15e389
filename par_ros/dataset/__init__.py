# SPDX-License-Identifier: Apache-2.0
"""Recordings as a LeRobot data set: `python -m par_ros to_dataset`."""
