# SPDX-License-Identifier: Apache-2.0
"""A checkpoint with random weights whose chunks move the arm a little: for what is around it."""

from pathlib import Path
from typing import Any

import numpy as np

from par_model.checkpoint import save_checkpoint
from par_model.instruction import code_table
from par_model.simulation.tasks import TASKS
from tests.model.fixtures import random_checkpoint_parts

# Targets stay this near to the measured joints: 0.04 rad/s, far below every limit.
_REACH = 0.001


def save_random_checkpoint(folder: Path, **changes: Any) -> None:
    """par_small with all its shapes but for `changes` of its configuration; targets within _REACH
    rad (or m) of the joints."""
    parts = random_checkpoint_parts("par_small", **changes)
    config, statistics = parts["config"], parts["statistics"]
    statistics.action_low[:] = -_REACH
    statistics.action_high[:] = _REACH
    assert np.all(statistics.action_low < statistics.action_high)
    instructions = tuple(task.instruction for task in TASKS.values())
    parts["instructions"] = code_table(instructions, config.num_text_tokens, config.text_width)
    save_checkpoint(folder, **parts)
