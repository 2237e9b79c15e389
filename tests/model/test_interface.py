# SPDX-License-Identifier: Apache-2.0
"""What may cross the border to a policy: one wrong field, one sentence with what came instead.

A policy of 2 joints, chunks of 3 actions 0.05 s apart, pictures of 4 x 6.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from par_model.interface import ActionChunk, Observation, PolicySpec

SPEC = PolicySpec(
    arm="panda",
    joint_names=("elbow", "finger"),
    image_height=4,
    image_width=6,
    num_actions=3,
    step_s=0.05,
    instructions=("push", "pick"),
)
CLIP_SPEC = dataclasses.replace(SPEC, observation_mode="clip")
IMAGE = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
RECENT = np.stack([IMAGE + 1, IMAGE + 2, IMAGE + 3, IMAGE])
FIRST = Observation(IMAGE, np.array([0.1, 0.2]), SPEC.joint_names, 0.0)
LATER = dataclasses.replace(FIRST, executed_actions=np.zeros((3, 2)))
CHUNK = ActionChunk(np.zeros((3, 2)), SPEC.joint_names, 0.05, 0.0)


def refusal(check: Callable[[], object]) -> str:
    """The sentence with which a value is refused; empty if it is accepted."""
    try:
        check()
    except ValueError as error:
        return str(error)
    return ""


def test_what_fits_is_accepted() -> None:
    clip = dataclasses.replace(LATER, recent_images=RECENT)
    assert refusal(lambda: FIRST.validate(SPEC)) == ""
    assert refusal(lambda: LATER.validate(SPEC)) == ""
    assert refusal(lambda: FIRST.validate(CLIP_SPEC)) == ""
    assert refusal(lambda: clip.validate(CLIP_SPEC)) == ""
    assert refusal(lambda: CHUNK.validate(SPEC)) == ""
    assert refusal(lambda: SPEC.require_instruction("push")) == ""
    assert refusal(lambda: SPEC.require_instruction("pick")) == ""
    assert "unknown" in refusal(lambda: SPEC.require_instruction("stack"))


def test_an_unknown_instruction_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError) as caught:
        SPEC.require_instruction("stack")
    assert str(caught.value) == (
        "instruction 'stack' is unknown to this policy; it knows: 'push'; 'pick'. Use one of these "
        "word for word, or train on the new one."
    )


CAMERA = "check the camera's size and encoding."
JOINTS = "check the joint_states topic."
ACTIONS = "check the executed_actions topic."
ORDER = (
    "joints must be ['elbow', 'finger'] in this order; {}. Check the arm's configuration file "
    "against the checkpoint's."
)
NAMES = "observation: " + ORDER


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"image": IMAGE[:3]},
            f"observation.image must be uint8 [4, 6, 3], got uint8 [3, 6, 3]; {CAMERA}",
        ),
        (
            {"image": IMAGE.astype(np.float32)},
            f"observation.image must be uint8 [4, 6, 3], got float32 [4, 6, 3]; {CAMERA}",
        ),
        (
            {"measured_joint_positions": np.zeros(3)},
            "observation.measured_joint_positions must be float64 [2], got float64 [3]; " + JOINTS,
        ),
        (
            {"measured_joint_positions": np.array([0.0, np.nan])},
            f"observation.measured_joint_positions holds NaN or Inf; {JOINTS}",
        ),
        (
            {"executed_actions": np.zeros((2, 2))},
            f"observation.executed_actions must be float64 [3, 2], got float64 [2, 2]; {ACTIONS}",
        ),
        (
            {"executed_actions": np.full((3, 2), np.inf)},
            f"observation.executed_actions holds NaN or Inf; {ACTIONS}",
        ),
        (
            {"joint_names": ("finger", "elbow")},
            NAMES.format("the order is ['finger', 'elbow']"),
        ),
        (
            {"joint_names": ("elbow", "thumb")},
            NAMES.format("missing ['finger'], unknown ['thumb']"),
        ),
        ({"joint_names": ("elbow",)}, NAMES.format("missing ['finger'], unknown []")),
        (
            {"joint_names": ("elbow", "finger", "wheel")},
            NAMES.format("missing [], unknown ['wheel']"),
        ),
        (
            {"stamp_s": float("nan")},
            "observation.stamp_s must be finite, got nan; check the camera's clock.",
        ),
    ],
)
def test_an_observation_that_does_not_fit_names_the_field(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(LATER, **changes).validate(SPEC)
    assert str(caught.value) == sentence


MODE = (
    "observation.recent_images must be given with every later observation of a policy of mode "
    '"clip" and with no other; the policy\'s mode is "{}". Check what the checkpoint was trained '
    "on."
)


@pytest.mark.parametrize(
    ("spec", "observation", "recent", "sentence"),
    [
        (SPEC, LATER, RECENT, MODE.format("image")),
        (CLIP_SPEC, LATER, None, MODE.format("clip")),
        (CLIP_SPEC, FIRST, RECENT, MODE.format("clip")),
        (
            CLIP_SPEC,
            LATER,
            RECENT[1:],
            "observation.recent_images must be uint8 [4, 4, 6, 3], got uint8 [3, 4, 6, 3]; check "
            "the camera's size and rate.",
        ),
        (
            CLIP_SPEC,
            LATER,
            RECENT[[3, 0, 1, 2]],
            "observation.recent_images must end with observation.image; it ends with another "
            "picture. Check what assembles the observation.",
        ),
    ],
)
def test_recent_images_come_with_later_observations_of_clip_policies(
    spec: PolicySpec, observation: Observation, recent: np.ndarray | None, sentence: str
) -> None:
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(observation, recent_images=recent).validate(spec)
    assert str(caught.value) == sentence


CONFIG = "the policy and its checkpoint disagree; check the checkpoint's config.json."


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"joint_positions": np.zeros((4, 2))},
            f"action chunk.joint_positions must be float64 [3, 2], got float64 [4, 2]; {CONFIG}",
        ),
        (
            {"joint_positions": np.full((3, 2), np.nan)},
            f"action chunk.joint_positions holds NaN or Inf; {CONFIG}",
        ),
        (
            {"joint_names": ("finger", "elbow")},
            "action chunk: " + ORDER.format("the order is ['finger', 'elbow']"),
        ),
        (
            {"step_s": 0.1},
            "action chunk.step_s must be 0.05 s, got 0.1 s; check the checkpoint's control rate.",
        ),
    ],
)
def test_a_chunk_that_does_not_fit_names_the_field(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(CHUNK, **changes).validate(SPEC)
    assert str(caught.value) == sentence


DELAY_SPEC = dataclasses.replace(SPEC, max_delay_steps=2)


@pytest.mark.parametrize(("num_rows", "fits"), [(0, False), (1, True), (5, True), (6, False)])
def test_a_policy_with_prefixes_may_be_told_any_number_of_rows_of_its_horizon(
    num_rows: int, fits: bool
) -> None:
    told = dataclasses.replace(FIRST, executed_actions=np.zeros((num_rows, 2)))
    assert (refusal(lambda: told.validate(DELAY_SPEC)) == "") == fits


@pytest.mark.parametrize(("num_rows", "fits"), [(2, False), (3, True), (4, False), (5, True)])
def test_a_chunk_has_the_slots_length_or_the_whole_horizon(num_rows: int, fits: bool) -> None:
    chunk = dataclasses.replace(CHUNK, joint_positions=np.zeros((num_rows, 2)))
    assert (refusal(lambda: chunk.validate(DELAY_SPEC)) == "") == fits


def test_only_a_policy_that_was_trained_with_prefixes_is_asked_to_go_on() -> None:
    DELAY_SPEC.require_prefixes()
    dataclasses.replace(DELAY_SPEC, max_delay_steps=1).require_prefixes()
    sentence = refusal(SPEC.require_prefixes)
    assert sentence.startswith("this policy was not trained to go on from committed actions")
    assert sentence.endswith("or a checkpoint trained with prefixes.")


@pytest.mark.parametrize(
    ("passed_s", "steps"),
    [(-1.0, 1), (0.0, 1), (0.05, 1), (0.076, 2), (0.399, 8), (0.672, 13), (0.676, None)],
)
def test_steps_between_two_observations_are_the_nearest_whole_number(
    passed_s: float, steps: int | None
) -> None:
    """3 actions and up to 10 committed ones; without a largest delay always a slot's 3."""
    late = dataclasses.replace(SPEC, max_delay_steps=10)
    assert late.steps_between(100.0, 100.0 + passed_s) == steps
    assert SPEC.steps_between(100.0, 100.0 + passed_s) == 3
