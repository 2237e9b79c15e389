# SPDX-License-Identifier: Apache-2.0
"""PAR on ROS 2: nodes, their topics and parameters, and the graphs that they make up."""

import os

# numpy's BLAS otherwise hands the guard's small systems to threads of its own, and waiting for them
# takes longer than solving them (docs/guard.md, latency). torch's threads are others.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
