# SPDX-License-Identifier: Apache-2.0
"""Numbers of policy_training.py, for whoever needs no torch."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Literal

from par_model.training.clip_config import ClipConfig


@dataclass(frozen=True)
class PolicyTrainingConfig:
    """Numbers of a policy's training."""

    # steps of the whole run; None: as many as fit into `hours`, fixed after the first steps
    num_steps: int | None = None
    hours: float | None = None
    learning_rate: float = 1e-3
    num_warmup_steps: int = 150
    weight_decay: float = 0.02
    gradient_clip: float = 1.0
    average_decay: float = 0.998
    seed: int = 0
    # weights of reading the scene and the chunk beside Eq. 11 (side_tasks.py); 0: not done
    scene_weight: float = 1.0
    chunk_weight: float = 0.3
    # where rendered scenes are given: weight of reading their positions, and how many a step
    picture_weight: float = 1.0
    pictures_per_step: int = 64
    # "all", or only what draws the next picture
    trained: Literal["all", "next_picture"] = "all"
    # share of the drawn clips by task
    task_shares: tuple[tuple[str, float], ...] = (("PushCube", 1.0),)
    clips: ClipConfig = field(default_factory=ClipConfig)
    log_every: int = 20
    save_every: int = 100
    validate_every: int = 250
    num_validation_clips: int = 24
    # closed-loop evaluation every so many steps, from `evaluate_from` on; None: at the end only
    evaluate_every: int | None = 1000
    evaluate_from: int = 1000
    # episodes per task; 0 switches closed-loop evaluation off
    num_evaluation_episodes: int = 25

    def identity(self) -> dict[str, object]:
        """What a resumed run must agree on, as plain JSON values."""
        values = dataclasses.asdict(self)
        for name in ("log_every", "save_every", "hours", "num_steps", "evaluate_every",
                     "evaluate_from", "num_evaluation_episodes"):  # fmt: skip
            del values[name]
        # Added later: runs of before are the same runs.
        added = ("random_span_share", "late_start_share", "slow_start_share", "on_policy_share",
                 "decisive_weight", "max_slots", "no_prefix_share")  # fmt: skip
        for name in added:
            if values["clips"][name] == getattr(ClipConfig(), name):
                del values["clips"][name]
        if values["trained"] == "all":
            del values["trained"]
        plain: dict[str, object] = json.loads(json.dumps(values))
        return plain
