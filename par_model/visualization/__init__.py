# SPDX-License-Identifier: Apache-2.0
"""Figures by command, from a checkpoint or stored results. The model never imports this."""
