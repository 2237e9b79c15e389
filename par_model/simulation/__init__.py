# SPDX-License-Identifier: Apache-2.0
"""ManiSkill as an arm with a camera, and its motion planners as a source of demonstrations."""
