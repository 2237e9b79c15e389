# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to graph files and engines: export, check, build, verify."""
