# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros doctor`: a checkup of machine, graph, camera and arm before a first run.

A check is a function that returns what it found, or raises ValueError with the sentence for the
user: what is wrong, and the next step. What the nodes check, they and the checks share.
"""
