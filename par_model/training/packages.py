# SPDX-License-Identifier: Apache-2.0
"""Imports of the extra `train`; a missing package raises an error that names the extra."""

try:
    import pyarrow as pa
    import pyarrow.compute as compute
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError(
        f"data sets need the extra `train` ({error}): pip install 'par_ros[train]', or run the "
        "command as ./par python -m ..., which installs it."
    ) from error

__all__ = ["compute", "pa", "pq"]
