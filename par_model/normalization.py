# SPDX-License-Identifier: Apache-2.0
"""Statistics of actions and joints: fit, apply, undo. Numpy only; saved in the checkpoint.

Shapes: L actions of a chunk (the model's horizon), M the first of them; D numbers of an action; J
joints; T steps of an episode; `...` any.
Units outside: rad, and metres for the gripper (the last number); inside: zero mean and unit
variance for actions and joints, the size that the noise of the diffusion loss has. Neither way
clips a value beyond what was seen; a policy keeps its gripper's targets within what was seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from par_model.config import ActionFrame
from par_model.interface import FloatArray
from par_model.json_file import shown

# A number that hardly moves is not blown up: least deviation (rad or metres).
_MIN_DEVIATION = 0.005

_FIELDS = ("action_low", "action_high", "gripper_range", "joint_mean", "joint_deviation")


@dataclass(frozen=True)
class Statistics:
    """What maps an arm's actions and joints to the model's numbers and back.

    In frame "relative", an arm action is its target minus the measured position of the same joint
    at the observation that the chunk answers; the gripper stays absolute. In frame "absolute" all
    are absolute, and the rows of `action_low` and `action_high` are equal.

    Attributes:
        arm: the arm that the numbers belong to (a file of config/arms).
        joint_names: the J joints in order, gripper last.
        action_frame: what an action is relative to.
        action_low, action_high: float64 [L, D], mapped to -1 and 1; a fit puts them one standard
            deviation below and above the mean.
        gripper_range: float64 [2], the least and the greatest gripper target seen, metres.
        joint_mean, joint_deviation: float64 [J].
    """

    arm: str
    joint_names: tuple[str, ...]
    action_frame: ActionFrame
    action_low: FloatArray
    action_high: FloatArray
    gripper_range: FloatArray
    joint_mean: FloatArray
    joint_deviation: FloatArray

    def __post_init__(self) -> None:
        num_joints = len(self.joint_names)
        gripper = self.gripper_range
        if gripper.shape != (2,) or not np.isfinite(gripper).all() or gripper[0] > gripper[1]:
            raise ValueError(
                "statistics.gripper_range must be the least and the greatest target, both finite, "
                f"got {gripper.tolist()}; check statistics.json."
            )
        for name in (field for field in _FIELDS if field != "gripper_range"):
            values = getattr(self, name)
            shape = (*values.shape[:-1], num_joints) if name.startswith("action") else (num_joints,)
            num_axes = 2 if name.startswith("action") else 1
            if values.ndim != num_axes or values.shape != shape or not np.isfinite(values).all():
                raise ValueError(
                    f"statistics.{name} must be {num_axes}-dimensional, finite and end in "
                    f"{num_joints} joints, got shape {list(values.shape)}; check statistics.json."
                )
        if self.action_low.shape != self.action_high.shape:
            raise ValueError(
                f"statistics.action_low {list(self.action_low.shape)} and action_high "
                f"{list(self.action_high.shape)} must have one shape; check statistics.json."
            )
        if (self.action_high <= self.action_low).any() or (self.joint_deviation <= 0).any():
            raise ValueError(
                "statistics: action_high must be above action_low and joint_deviation above zero; "
                "check statistics.json."
            )
        if self.action_frame not in ("relative", "absolute"):
            raise ValueError(
                f"statistics.action_frame must be 'relative' or 'absolute', got "
                f"{shown(self.action_frame)}; check statistics.json."
            )

    @property
    def num_actions(self) -> int:
        """L, actions in a chunk."""
        return len(self.action_low)

    def longer(self, other: "Statistics") -> "Statistics":
        """These, with the later actions of `other`, which knows more of a chunk."""
        known = self.num_actions
        return replace(
            self,
            action_low=np.concatenate((self.action_low, other.action_low[known:])),
            action_high=np.concatenate((self.action_high, other.action_high[known:])),
        )

    def normalize_actions(self, targets: FloatArray, measured_joints: FloatArray) -> FloatArray:
        """Joint targets [..., M, D] of chunks that answer observations with `measured_joints`
        [..., J] -> normalised actions [..., M, D]."""
        low, high = self._ends(targets.shape[-2])
        framed = targets - self._origin(measured_joints)
        return 2.0 * (framed - low) / (high - low) - 1.0

    def denormalize_actions(self, actions: FloatArray, measured_joints: FloatArray) -> FloatArray:
        """The inverse of `normalize_actions`: joint targets, float64 [..., M, D]."""
        values = np.asarray(actions, dtype=np.float64)
        low, high = self._ends(values.shape[-2])
        framed = (values + 1.0) / 2.0 * (high - low) + low
        return framed + self._origin(measured_joints)

    def within_gripper_range(self, targets: FloatArray) -> FloatArray:
        """Joint targets [..., D] with the gripper's kept within `gripper_range`: a sampled target
        of an opened or closed gripper lies as often outside as inside."""
        kept = targets.copy()
        kept[..., -1] = np.clip(targets[..., -1], *self.gripper_range)
        return kept

    def normalize_joints(self, measured_joints: FloatArray) -> FloatArray:
        """Measured joint positions [..., J] -> zero mean, unit variance."""
        return (measured_joints - self.joint_mean) / self.joint_deviation

    def to_json_dict(self) -> dict[str, object]:
        """Plain values for statistics.json."""
        values: dict[str, object] = {
            "arm": self.arm,
            "joint_names": list(self.joint_names),
            "action_frame": self.action_frame,
        }
        return values | {name: getattr(self, name).tolist() for name in _FIELDS}

    def _ends(self, num_actions: int) -> tuple[FloatArray, FloatArray]:
        return self.action_low[:num_actions], self.action_high[:num_actions]

    def _origin(self, measured_joints: FloatArray) -> FloatArray:
        return action_origin(measured_joints, self.action_frame)


def action_origin(measured_joints: FloatArray, action_frame: ActionFrame) -> FloatArray:
    """What is subtracted from the targets of a chunk, [..., 1, J]: zero for the gripper."""
    origin = np.array(measured_joints, dtype=np.float64)[..., None, :]
    if action_frame == "absolute":
        return np.zeros_like(origin)
    origin[..., -1] = 0.0
    return origin


def from_json_dict(values: object) -> Statistics:
    """Read what `Statistics.to_json_dict` wrote.

    Raises:
        ValueError: a field is missing, unknown, or does not fit.
    """
    expected = {"arm", "joint_names", "action_frame", *_FIELDS}
    if not isinstance(values, dict) or set(values) != expected:
        got = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise ValueError(
            f"statistics must have the fields {sorted(expected)}, got {shown(got, 200)}; "
            "was statistics.json written by another version?"
        )
    arm, names = values["arm"], values["joint_names"]
    if not isinstance(arm, str) or not _are_names(names):
        raise ValueError(
            "statistics.arm must be a text and joint_names a list of different texts, got "
            f"{shown(arm)} and {shown(names)}; check statistics.json."
        )
    arrays = {name: _array(values[name], name) for name in _FIELDS}
    return Statistics(
        arm=arm, joint_names=tuple(names), action_frame=values["action_frame"], **arrays
    )


def _are_names(values: object) -> bool:
    return (
        isinstance(values, list)
        and all(isinstance(name, str) for name in values)
        and 0 < len(set(values)) == len(values)
    )


def _array(values: object, name: str) -> FloatArray:
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"statistics.{name} must be a list of numbers ({error}); check statistics.json."
        ) from error


def fit_statistics(
    episodes: Sequence[tuple[FloatArray, FloatArray]],
    *,
    arm: str,
    joint_names: tuple[str, ...],
    action_frame: ActionFrame,
    num_actions: int,
) -> Statistics:
    """Fit to episodes of (targets [T, D], measured joints [T + 1, J] or [T, J]).

    Every step of an episode counts as the start of a chunk, so the statistics do not depend on how
    clips are cut later.

    Raises:
        ValueError: no episode is as long as a chunk.
    """
    framed = [
        _framed_chunks(targets, joints, action_frame, num_actions)
        for targets, joints in episodes
        if len(targets) >= num_actions
    ]
    if not framed:
        raise ValueError(
            f"none of {len(episodes)} episodes has {num_actions} steps; check the data set."
        )
    chunks = np.concatenate(framed)
    # An absolute target means the same at each step of a chunk, a relative one does not.
    axes = (0, 1) if action_frame == "absolute" else (0,)
    shape = (num_actions, chunks.shape[-1])
    mean = np.broadcast_to(chunks.mean(axis=axes), shape)
    deviation = np.broadcast_to(np.maximum(chunks.std(axis=axes), _MIN_DEVIATION), shape)
    joints = np.concatenate([joints for _, joints in episodes])
    gripper = np.concatenate([targets[:, -1] for targets, _ in episodes])
    return Statistics(
        arm=arm,
        joint_names=joint_names,
        action_frame=action_frame,
        action_low=mean - deviation,
        action_high=mean + deviation,
        gripper_range=np.array([gripper.min(), gripper.max()], dtype=np.float64),
        joint_mean=joints.mean(axis=0),
        joint_deviation=np.maximum(joints.std(axis=0), _MIN_DEVIATION),
    )


def _framed_chunks(
    targets: FloatArray, joints: FloatArray, action_frame: ActionFrame, num_actions: int
) -> FloatArray:
    num_starts = len(targets) - num_actions + 1
    windows = np.lib.stride_tricks.sliding_window_view(targets, num_actions, axis=0)
    chunks: FloatArray = windows.transpose(0, 2, 1) - action_origin(
        joints[:num_starts], action_frame
    )
    return chunks
