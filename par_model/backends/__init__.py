# SPDX-License-Identifier: Apache-2.0
"""One graph contract, several runtimes. load_policy.py chooses one."""
