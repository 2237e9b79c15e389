# SPDX-License-Identifier: Apache-2.0
"""What a policy takes and gives: numpy arrays in SI units, no torch, no ROS.

Shapes: H, W image size in pixels; V views, the cameras of a policy; J joints of the arm, gripper
last; L actions in a slot, which is the context's unit; M actions between two observations; d
committed actions.
Units: joint positions are rad, the gripper's is the target position of one finger in metres.
`joint_names` states the joint order wherever joints appear; another order is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from par_model.camera_fit import CameraFit
from par_model.depth_view import DepthView

FloatArray = npt.NDArray[np.float64]
ImageArray = npt.NDArray[np.uint8]

# In observation mode "clip", a policy sees the pictures since its previous observation too: one
# every RECENT_IMAGE_STRIDE actions, RECENT_IMAGES of them, the newest last.
RECENT_IMAGES = 4
RECENT_IMAGE_STRIDE = 2

# The view of policies that name none.
DEFAULT_VIEWS = ("front",)

_DEFAULT_FIT = CameraFit()


@dataclass(frozen=True)
class PolicySpec:
    """What a policy expects to be given and what it will answer.

    Attributes:
        arm: name of the arm that the policy was trained on (a file of config/arms).
        joint_names: the J joints in the policy's order, gripper last.
        image_height, image_width: size in pixels of the picture of one view.
        num_actions: L, actions in one slot, and in one chunk of sequential inference.
        step_s: seconds between two actions.
        instructions: the instructions that the policy knows.
        observation_mode: "image", or "clip" for a policy that reads `recent_images` too.
        camera_fit: how a camera of another size is fitted to image_height x image_width.
        max_delay_steps: the most committed actions that the policy was trained to go on from; 0: it
            was not, and only sequential inference is possible.
        views: names of the V cameras, in the order in which their pictures are stacked.
        depth_views: those of them whose pictures are depth, as DepthView.to_grey gives them.
    """

    arm: str
    joint_names: tuple[str, ...]
    image_height: int
    image_width: int
    num_actions: int
    step_s: float
    instructions: tuple[str, ...]
    observation_mode: Literal["image", "clip"] = "image"
    camera_fit: CameraFit = _DEFAULT_FIT
    max_delay_steps: int = 0
    views: tuple[str, ...] = DEFAULT_VIEWS
    depth_views: tuple[DepthView, ...] = ()

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """Shape of an observation's image: [V H, W, 3]."""
        return len(self.views) * self.image_height, self.image_width, 3

    @property
    def horizon(self) -> int:
        """Actions in a chunk of overlapped inference: a slot and the largest delay."""
        return self.num_actions + self.max_delay_steps

    def steps_between(self, before_s: float, now_s: float) -> int | None:
        """Control steps from an observation to the next one, stamped in seconds: 1 or more, the
        nearest whole number; None where they are more than the horizon, and the policy must be
        reset. Without a largest delay they are a slot's, whatever the stamps."""
        if self.max_delay_steps == 0:
            return self.num_actions
        steps = round((now_s - before_s) / self.step_s)
        return None if steps > self.horizon else max(1, steps)

    def require_instruction(self, instruction: str) -> None:
        """Raise ValueError with the list of known instructions if `instruction` is not one."""
        if instruction not in self.instructions:
            known = "; ".join(repr(text) for text in self.instructions)
            raise ValueError(
                f"instruction {instruction!r} is unknown to this policy; it knows: {known}. "
                "Use one of these word for word, or train on the new one."
            )

    def require_prefixes(self) -> None:
        """Raise ValueError if the policy cannot go on from committed actions."""
        if self.max_delay_steps == 0:
            raise ValueError(
                "this policy was not trained to go on from committed actions (max_delay_steps is "
                "0); use sequential inference, or a checkpoint trained with prefixes."
            )


@dataclass(frozen=True)
class Observation:
    """One moment of the arm and its cameras.

    Attributes:
        image: uint8 [V H, W, 3], RGB: the pictures of `views`, one above the other.
        measured_joint_positions: float64 [J].
        joint_names: names of those joints.
        stamp_s: when the image was taken, seconds on the caller's clock.
        executed_actions: float64 [M, J], the joint targets that the arm was really sent since the
            previous observation, one a step, the last due at `stamp_s`; M is L, or 1 to the horizon
            where the policy's max_delay_steps is above 0. None for the first observation of an
            episode.
        recent_images: uint8 [4, H, W, 3], what the camera saw after every second of these actions,
            `image` last; given where the policy's observation mode is "clip" and not for the
            first observation, else None.
        views: names of the cameras in `image`, from top to bottom.
    """

    image: ImageArray
    measured_joint_positions: FloatArray
    joint_names: tuple[str, ...]
    stamp_s: float
    executed_actions: FloatArray | None = None
    recent_images: ImageArray | None = None
    views: tuple[str, ...] = DEFAULT_VIEWS

    def validate(self, spec: PolicySpec) -> None:
        """Raise ValueError, naming the field, what was expected and what came."""
        _require_joint_names("observation", self.joint_names, spec.joint_names)
        require_views("observation", self.views, spec.views)
        _require_array(
            "observation.image",
            self.image,
            np.dtype(np.uint8),
            spec.picture_shape,
            "check the camera's size and encoding",
        )
        num_joints = len(spec.joint_names)
        _require_array(
            "observation.measured_joint_positions",
            self.measured_joint_positions,
            np.dtype(np.float64),
            (num_joints,),
            "check the joint_states topic",
        )
        if self.executed_actions is not None:
            _require_array(
                "observation.executed_actions",
                self.executed_actions,
                np.dtype(np.float64),
                (_num_executed(self.executed_actions, spec), num_joints),
                "check the executed_actions topic",
            )
        self._require_recent_images(spec)
        if not np.isfinite(self.stamp_s):
            raise ValueError(
                f"observation.stamp_s must be finite, got {self.stamp_s}; check the camera's clock."
            )

    def _require_recent_images(self, spec: PolicySpec) -> None:
        expected = spec.observation_mode == "clip" and self.executed_actions is not None
        if expected != (self.recent_images is not None):
            raise ValueError(
                "observation.recent_images must be given with every later observation of a policy "
                'of mode "clip" and with no other; the policy\'s mode is '
                f'"{spec.observation_mode}". Check what the checkpoint was trained on.'
            )
        if self.recent_images is None:
            return
        _require_array(
            "observation.recent_images",
            self.recent_images,
            np.dtype(np.uint8),
            (RECENT_IMAGES, spec.image_height, spec.image_width, 3),
            "check the camera's size and rate",
        )
        if not np.array_equal(self.recent_images[-1], self.image):
            raise ValueError(
                "observation.recent_images must end with observation.image; it ends with another "
                "picture. Check what assembles the observation."
            )


@dataclass(frozen=True)
class ActionChunk:
    """L joint targets of sequential inference, or as many as the horizon of overlapped inference.

    The first is due `step_s` after the chunk starts: after it arrives, or (overlapped) after
    `stamp_s`.

    Attributes:
        joint_positions: float64 [L or horizon, J], absolute targets.
        joint_names: names of those joints.
        step_s: seconds between two targets.
        stamp_s: stamp of the observation that this chunk answers.
    """

    joint_positions: FloatArray
    joint_names: tuple[str, ...]
    step_s: float
    stamp_s: float

    def validate(self, spec: PolicySpec) -> None:
        """Raise ValueError, naming the field, what was expected and what came."""
        _require_joint_names("action chunk", self.joint_names, spec.joint_names)
        length = len(self.joint_positions)
        expected = length if length in (spec.num_actions, spec.horizon) else spec.num_actions
        _require_array(
            "action chunk.joint_positions",
            self.joint_positions,
            np.dtype(np.float64),
            (expected, len(spec.joint_names)),
            "the policy and its checkpoint disagree; check the checkpoint's config.json",
        )
        if self.step_s != spec.step_s:
            raise ValueError(
                f"action chunk.step_s must be {spec.step_s} s, got {self.step_s} s; "
                "check the checkpoint's control rate."
            )


class PolicyEnded(ValueError):
    """The policy's own process has ended or hangs: it will answer no observation any more."""


class Policy(Protocol):
    """Answers each observation of an episode with a chunk of actions.

    An episode is `reset`, then `observe` and `act` in turn. Two instances share nothing.
    """

    @property
    def spec(self) -> PolicySpec: ...

    def reset(self, instruction: str, seed: int) -> None:
        """Forget the episode. `seed` fixes all sampling until the next reset.

        Raises ValueError for an instruction that the policy does not know.
        """

    def observe(self, observation: Observation) -> None:
        """Take in what happened. Raises ValueError for an observation that does not fit `spec`."""

    def act(self, committed: FloatArray | None = None) -> ActionChunk:
        """Sample the chunk that answers the last observation.

        Args:
            committed: float64 [d, J], the targets that the arm follows in the first d steps after
                the observation, whatever the answer is; the chunk begins with them and goes on from
                them, over the whole horizon. None: sequential inference, L actions.

        Raises:
            ValueError: no observation yet; more than max_delay_steps committed actions, or any
                where it is 0.
        """


def _num_executed(actions: FloatArray, spec: PolicySpec) -> int:
    """M, where these may be so many."""
    is_possible = spec.max_delay_steps > 0 and 1 <= len(actions) <= spec.horizon
    return len(actions) if is_possible else spec.num_actions


def stack_views(pictures: Mapping[str, ImageArray], views: tuple[str, ...]) -> ImageArray:
    """uint8 [V H, W, 3]: the pictures of `views`, each [H, W, 3], one above the other.

    Raises ValueError naming the views that are missing.
    """
    if missing := [view for view in views if view not in pictures]:
        raise ValueError(
            f"no picture of the view {', '.join(map(repr, missing))}; check the cameras."
        )
    return pictures[views[0]] if len(views) == 1 else np.concatenate([pictures[v] for v in views])


def split_views(image: ImageArray, views: tuple[str, ...]) -> dict[str, ImageArray]:
    """The pictures [..., H, W, 3] in a stack [..., V H, W, 3], by name."""
    return dict(zip(views, np.split(image, len(views), axis=-3), strict=True))


def require_views(what: str, got: tuple[str, ...], expected: tuple[str, ...]) -> None:
    """Raise ValueError naming the views that are missing, or unknown to the policy."""
    if got == expected:
        return
    missing = [view for view in expected if view not in got]
    unknown = [view for view in got if view not in expected]
    raise ValueError(
        f"{what}: views must be {list(expected)} in this order, got {list(got)}; missing "
        f"{missing}, unknown {unknown}. Check the cameras against the checkpoint's views."
    )


def _require_joint_names(what: str, got: tuple[str, ...], expected: tuple[str, ...]) -> None:
    if got == expected:
        return
    missing = sorted(set(expected) - set(got))
    unknown = sorted(set(got) - set(expected))
    if missing or unknown:
        detail = f"missing {missing}, unknown {unknown}"
    else:
        detail = f"the order is {list(got)}"
    raise ValueError(
        f"{what}: joints must be {list(expected)} in this order; {detail}. "
        "Check the arm's configuration file against the checkpoint's."
    )


def _require_array(
    what: str,
    array: npt.NDArray[np.generic],
    dtype: np.dtype[np.generic],
    shape: tuple[int, ...],
    next_check: str,
) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(
            f"{what} must be {dtype} {list(shape)}, got {array.dtype} {list(array.shape)}; "
            f"{next_check}."
        )
    if np.issubdtype(dtype, np.floating) and not np.isfinite(array).all():
        raise ValueError(f"{what} holds NaN or Inf; {next_check}.")
