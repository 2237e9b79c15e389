# SPDX-License-Identifier: Apache-2.0
"""The graph contract, and what lies beside exported graphs: below backends/ and export/."""
