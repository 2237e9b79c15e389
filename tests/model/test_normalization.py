# SPDX-License-Identifier: Apache-2.0
"""Statistics: undo is the inverse of apply, outliers come back unchanged, JSON keeps every bit.

Three episodes of 30 steps, 8 joints; the gripper (last) never moves.
"""

import json

import numpy as np
import pytest

from par_model.config import ActionFrame
from par_model.normalization import (
    Statistics,
    action_origin,
    fit_statistics,
    from_json_dict,
)

JOINTS = tuple(f"joint{i}" for i in range(8))


def episodes() -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(0)
    made = []
    for _ in range(3):
        joints = generator.normal(size=(31, 8)).cumsum(axis=0) * 0.02
        targets = joints[1:] + 0.01
        targets[:, -1] = -0.01
        made.append((targets, joints))
    return made


def fit(frame: ActionFrame) -> Statistics:
    return fit_statistics(
        episodes(), arm="panda", joint_names=JOINTS, action_frame=frame, num_actions=8
    )


@pytest.mark.parametrize("frame", ["relative", "absolute"])
def test_undo_is_the_inverse_of_apply_also_far_outside(frame: ActionFrame) -> None:
    statistics = fit(frame)
    generator = np.random.default_rng(1)
    targets = generator.normal(size=(5, 8, 8)) * 10.0
    joints = generator.normal(size=(5, 8))
    there = statistics.normalize_actions(targets, joints)
    assert np.abs(there).max() > 2.0
    np.testing.assert_allclose(statistics.denormalize_actions(there, joints), targets, atol=1e-9)


def test_relative_moves_with_the_arm_but_the_gripper_does_not() -> None:
    statistics = fit("relative")
    joints, targets = np.zeros(8), np.full((8, 8), 0.02)
    moved = np.full(8, 0.3)
    moved_targets = targets + 0.3
    moved_targets[:, -1] = targets[:, -1]
    np.testing.assert_allclose(
        statistics.normalize_actions(moved_targets, moved),
        statistics.normalize_actions(targets, joints),
        atol=1e-9,
    )


def test_the_data_has_unit_variance_and_later_steps_have_wider_ranges() -> None:
    statistics = fit("relative")
    chunks = [
        statistics.normalize_actions(targets[start : start + 8], joints[start])
        for targets, joints in episodes()
        for start in range(len(targets) - 7)
    ]
    moving = np.stack(chunks)[..., :-1]
    np.testing.assert_allclose(moving.mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(moving.std(axis=0), 1.0, atol=1e-9)
    widths = (statistics.action_high - statistics.action_low)[:, 0]
    assert widths[-1] > widths[0]


def test_a_joint_that_never_moves_is_not_blown_up() -> None:
    statistics = fit("relative")
    nearly = np.full((8, 8), -0.01)
    nearly[:, -1] += 1e-4
    there = statistics.normalize_actions(nearly, np.zeros(8))
    assert np.abs(there[:, -1]).max() < 0.05


def test_absolute_has_one_row() -> None:
    statistics = fit("absolute")
    assert (statistics.action_low == statistics.action_low[0]).all()
    assert statistics.num_actions == 8


def test_absolute_is_fitted_to_all_steps_of_all_chunks_of_a_joint() -> None:
    """Mean and deviation over starts and steps of the targets themselves, joint by joint."""
    statistics = fit("absolute")
    chunks = np.concatenate(
        [
            np.stack([targets[start : start + 8] for start in range(len(targets) - 7)])
            for targets, _ in episodes()
        ]
    ).reshape(-1, 8)
    middle = (statistics.action_low + statistics.action_high) / 2.0
    half = (statistics.action_high - statistics.action_low) / 2.0
    np.testing.assert_allclose(middle, np.tile(chunks.mean(axis=0), (8, 1)), atol=1e-12)
    np.testing.assert_allclose(half[:, :-1], np.tile(chunks.std(axis=0)[:-1], (8, 1)), atol=1e-12)


def test_an_episode_of_one_chunk_is_enough_and_chunks_may_be_longer_than_joints_are_many() -> None:
    """10 steps, chunks of 10, 8 joints, float32 targets; measured joints one longer or not."""
    generator = np.random.default_rng(3)
    targets = generator.normal(size=(10, 8)).astype(np.float32)
    for num_measured in (10, 11):
        statistics = fit_statistics(
            [(targets, np.zeros((num_measured, 8)))],
            arm="panda",
            joint_names=JOINTS,
            action_frame="absolute",
            num_actions=10,
        )
        assert statistics.action_low.shape == (10, 8)
        assert statistics.gripper_range.dtype == np.float64
        assert statistics.gripper_range.tolist() == [targets[:, -1].min(), targets[:, -1].max()]


def test_denormalised_targets_are_float64() -> None:
    statistics = fit("relative")
    single = np.full((8, 8), 0.1, dtype=np.float32)
    exact = statistics.denormalize_actions(single.astype(np.float64), np.zeros(8))
    found = statistics.denormalize_actions(single, np.zeros(8))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, exact)


def test_only_the_grippers_own_target_is_kept_in_range() -> None:
    statistics = fit("relative")
    targets = np.arange(64.0).reshape(8, 8)
    kept = statistics.within_gripper_range(targets)
    np.testing.assert_array_equal(kept[:, :-1], targets[:, :-1])
    np.testing.assert_array_equal(kept[:, -1], targets[:, -1].clip(*statistics.gripper_range))
    low, high = statistics.gripper_range
    targets[:, -1] = np.linspace(low, high, 8)
    np.testing.assert_array_equal(statistics.within_gripper_range(targets), targets)


def test_the_gripper_keeps_to_what_was_seen_and_the_arm_does_not() -> None:
    generator = np.random.default_rng(2)
    seen = [(generator.uniform(-0.01, 0.04, size=(30, 8)), np.zeros((31, 8)))]
    statistics = fit_statistics(
        seen, arm="panda", joint_names=JOINTS, action_frame="relative", num_actions=8
    )
    gripper = seen[0][0][:, -1]
    targets = np.full((8, 8), 0.2)
    targets[3:] = -0.2
    kept = statistics.within_gripper_range(targets)
    np.testing.assert_array_equal(kept[:, :-1], targets[:, :-1])
    np.testing.assert_array_equal(kept[:3, -1], gripper.max())
    np.testing.assert_array_equal(kept[3:, -1], gripper.min())
    np.testing.assert_array_equal(statistics.within_gripper_range(kept), kept)


def test_json_keeps_every_bit() -> None:
    statistics = fit("relative")
    read = from_json_dict(json.loads(json.dumps(statistics.to_json_dict())))
    assert read.arm == "panda"
    assert read.joint_names == JOINTS
    for name in ("action_low", "action_high", "gripper_range", "joint_mean", "joint_deviation"):
        np.testing.assert_array_equal(getattr(read, name), getattr(statistics, name))


def test_bad_statistics_are_refused() -> None:
    values = fit("relative").to_json_dict()
    with pytest.raises(ValueError, match="joint_mean"):
        from_json_dict({key: value for key, value in values.items() if key != "joint_mean"})
    with pytest.raises(ValueError, match="action_frame"):
        from_json_dict(values | {"action_frame": "sideways"})
    with pytest.raises(ValueError, match="action_high must be above"):
        from_json_dict(values | {"action_high": values["action_low"]})
    for bad in ([0.04, -0.01], [0.0], [0.0, float("nan")], [-float("inf"), 0.04]):
        with pytest.raises(ValueError, match="gripper_range must be the least and the greatest"):
            from_json_dict(values | {"gripper_range": bad})
    with pytest.raises(ValueError, match="end in 8 joints"):
        from_json_dict(values | {"joint_mean": [0.0]})
    with pytest.raises(ValueError, match="none of 1 episodes has 8 steps"):
        fit_statistics(
            [(np.zeros((3, 8)), np.zeros((4, 8)))],
            arm="panda",
            joint_names=JOINTS,
            action_frame="relative",
            num_actions=8,
        )


def test_joints_of_the_data_have_zero_mean_and_unit_variance() -> None:
    joints = np.concatenate([measured for _, measured in episodes()])
    shown = fit("relative").normalize_joints(joints)
    np.testing.assert_allclose(shown.mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(shown[:, :-1].std(axis=0), 1.0, atol=1e-9)


def test_part_of_a_chunk_is_normalised_with_its_own_rows() -> None:
    statistics = fit("relative")
    targets, joints = np.random.default_rng(2).normal(size=(8, 8)), np.zeros(8)
    whole = statistics.normalize_actions(targets, joints)
    np.testing.assert_array_equal(statistics.normalize_actions(targets[:3], joints), whole[:3])
    np.testing.assert_allclose(
        statistics.denormalize_actions(whole[:3], joints), targets[:3], atol=1e-9
    )


def test_the_grippers_target_has_no_origin_and_each_joint_its_own() -> None:
    joints = np.array([[0.5, -0.25, 0.04]], dtype=np.float32)
    origin = action_origin(joints, "relative")
    np.testing.assert_array_equal(origin, [[[0.5, -0.25, 0.0]]])
    assert origin.dtype == np.float64
    np.testing.assert_array_equal(action_origin(joints, "absolute"), np.zeros((1, 1, 3)))


def test_longer_statistics_take_the_later_actions_of_others() -> None:
    short, more = fit("relative"), fit_statistics(
        [(targets * 1.5, joints) for targets, joints in episodes()],
        arm="panda", joint_names=JOINTS, action_frame="relative", num_actions=12,
    )  # fmt: skip
    longer = short.longer(more)
    assert longer.num_actions == 12
    np.testing.assert_array_equal(longer.action_low[:8], short.action_low)
    np.testing.assert_array_equal(longer.action_high[:8], short.action_high)
    np.testing.assert_array_equal(longer.action_low[8:], more.action_low[8:])
    np.testing.assert_array_equal(longer.action_high[8:], more.action_high[8:])
    np.testing.assert_array_equal(longer.joint_mean, short.joint_mean)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"arm": 3}, "must be a text and joint_names a list of different texts, got 3 and"),
        ({"joint_names": "joint0"}, "got 'panda' and 'joint0'; check statistics.json."),
        ({"joint_names": ["a", "a"]}, "must be a text and joint_names a list of different texts"),
        ({"joint_names": []}, "must be a text and joint_names a list of different texts"),
        ({"joint_names": [1, 2]}, "must be a text and joint_names a list of different texts"),
        ({"joint_mean": "x"}, "statistics.joint_mean must be a list of numbers ("),
        ({"joint_deviation": [0.0] * 8}, "statistics: action_high must be above action_low and "
         "joint_deviation above zero; check statistics.json."),
        ({"action_low": [[0.0] * 8] * 3}, "statistics.action_low [3, 8] and action_high [8, 8] "
         "must have one shape; check statistics.json."),
        ({"joint_mean": [0.0] * 7}, "statistics.joint_mean must be 1-dimensional, finite and "
         "end in 8 joints, got shape [7]"),
        ({"action_frame": "tool"}, "must be 'relative' or 'absolute', got 'tool'"),
        ({"gripper_range": [1.0, 0.0]}, "statistics.gripper_range must be the least and the "
         "greatest target, both finite, got [1.0, 0.0]; check statistics.json."),
        ({"colour": 1}, "'colour'"),
    ],
)  # fmt: skip
def test_each_wrong_field_is_named_with_what_came(
    changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError) as caught:
        from_json_dict(fit("relative").to_json_dict() | changes)
    assert sentence in str(caught.value)


def test_what_is_no_object_is_named_by_its_type() -> None:
    with pytest.raises(ValueError, match=r"got 'list'; was statistics.json written by another"):
        from_json_dict([1])
