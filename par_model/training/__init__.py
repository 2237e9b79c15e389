# SPDX-License-Identifier: Apache-2.0
"""From demonstrations to a checkpoint: frame codec, latents, clips, policy. See par_model.train."""
