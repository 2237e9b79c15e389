# SPDX-License-Identifier: Apache-2.0
"""Settings of clips.py, importable without the data set packages."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ClipConfig:
    """How clips are drawn and batched."""

    # slots of a batch, padding included: batches of short clips hold more clips
    slots_per_batch: int = 144
    # clips are drawn by this many batches' worth, sorted by length, then batched
    batches_per_round: int = 8
    # share of clips that start in an episode's first L steps; the others start anywhere
    from_start_share: float = 0.3
    # most slots of a clip; None: those of the model
    max_slots: int | None = None
    # share of clips whose first slot is a random one; the others start at slot 0
    offset_share: float = 0.3
    # share of clips that are cut after their first slot: one observation, no history to copy
    single_slot_share: float = 0.95
    # models with a largest delay: share of clips whose pictures are not a slot apart but 1 to the
    # longer of slot and largest delay, evenly
    random_span_share: float = 0.0
    # models with a largest delay: share of clips from an episode's start before which the arm
    # stands for up to the largest delay, as before the first chunk arrives
    late_start_share: float = 0.0
    # models with a largest delay: share of the other clips at whose beginning the arm is slow or
    # stands, for up to the largest delay, so that a prefix is not merely continued at its speed
    slow_start_share: float = 0.0
    # models with a largest delay: share of clips whose chunks are learnt without a prefix, as after
    # a rest; the others with 0 to the largest delay of actions given, evenly
    no_prefix_share: float = 0.0
    # standard deviation of noise on the history's normalised actions
    context_noise: float = 0.8
    # of the draws of each task, the share from episodes with labels (on-policy, an expert's), where
    # there are any
    on_policy_share: float = 0.25
    # how much more often a clip starts with a chunk that closes or opens the gripper
    decisive_weight: float = 1.0
    seed: int = 0
