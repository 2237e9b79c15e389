# SPDX-License-Identifier: Apache-2.0
"""PAR, the Physical Autoregressive Model, in PyTorch. Knows nothing of ROS."""
