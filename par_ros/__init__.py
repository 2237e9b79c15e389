# SPDX-License-Identifier: Apache-2.0
"""PAR on ROS 2: nodes, their topics and parameters, and the graphs that they make up."""

import os

# numpy's BLAS otherwise hands the guard's systems of 30 unknowns to threads of its own and waits
# for them: 26 ms instead of 1 on a busy machine. torch's threads are others.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
