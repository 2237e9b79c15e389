# SPDX-License-Identifier: Apache-2.0
"""Policies of other projects, to measure beside ours: each answers from a process of its own."""
