# SPDX-License-Identifier: Apache-2.0
"""An arm as the guard needs it: joints, limits, gripper, names. Files: config/arms/*.yaml.

This file takes plain mappings; parameters.py reads the YAML. Shapes: J arm joints (without the
gripper). Units: rad, m, s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np

from par_ros.control.collision_geometry import CollisionGeometry
from par_ros.control.gripper_driver import (
    DRIVER_ENTRIES,
    DriverKind,
    GripperDriver,
    KnuckleLinkage,
)
from par_ros.control.joint_limits import JointLimits, PositionDependentVelocity
from par_ros.control.joint_trajectory import FloatArray

Check = Literal["none", "warn", "enforce"]
CHECKS: tuple[Check, ...] = ("none", "warn", "enforce")

_POSITION_DEPENDENT = "position_dependent_velocity"
_JOINT_ENTRIES = (
    "min_position_rad", "max_position_rad", "max_velocity_rad_s", "max_acceleration_rad_s2",
    "max_jerk_rad_s3", "stop_jerk_rad_s3", "home_rad", _POSITION_DEPENDENT,
)  # fmt: skip
_GRIPPER_ENTRIES = (
    "joint", "min_target_m", "max_target_m", "max_target_speed_m_s", "command_joint",
    "command_scale", "command_offset", "driver",
)  # fmt: skip
_TRAJECTORY = "trajectory"
_DRIVER_ENTRIES = (
    "kind", "action", "grasp_below_m", "dead_band_m", "closed_m", "effort",
)  # fmt: skip
# In the order of KnuckleLinkage's fields behind `joint`.
_LINKAGE_NUMBERS = ("crank_across_m", "crank_along_m", "open_m", "closed_rad")
# In the order of PositionDependentVelocity's fields; of a joint without the section.
_UNLIMITED: Mapping[str, float] = {
    "lower_position_rad": -np.inf,
    "upper_position_rad": np.inf,
    "slope_rad_s2": 1.0,
    "offset_rad_s": 0.0,
}

# The guard must bring the arm to rest within this from any speed that it lets through.
MAX_STOP_TIME_S = 0.5


@dataclass(frozen=True)
class GripperSpec:
    """One finger joint with a controller of its own.

    Attributes:
        joint_name: its name in joint states and action chunks; target positions in metres.
        min_target_m, max_target_m: range of targets. A target may lie beyond the finger's reach: it
            then squeezes, so no tracking error is checked.
        max_target_speed_m_s: how fast a target may move; the gripper's controller limits the
            finger's own speed.
        command_joint_name: the joint's name in the gripper controller.
        command_scale, command_offset: command = scale * target + offset, in the controller's unit.
        driver: the action that drives it; None: a trajectory controller of its own.
    """

    joint_name: str
    min_target_m: float
    max_target_m: float
    max_target_speed_m_s: float
    command_joint_name: str
    command_scale: float
    command_offset: float
    driver: GripperDriver | None = None

    def command(self, target_m: FloatArray) -> FloatArray:
        """Finger targets in metres as the gripper controller's command."""
        return self.command_scale * target_m + self.command_offset

    def target(self, command: FloatArray) -> FloatArray:
        """The inverse of command()."""
        return (command - self.command_offset) / self.command_scale

    def validate(self, name: str) -> None:
        """Raise ValueError naming the arm `name` where the numbers contradict each other."""
        _require(
            self.min_target_m < self.max_target_m and self.max_target_speed_m_s > 0.0,
            name, "gripper", "min_target_m below max_target_m and a positive speed",
            [self.min_target_m, self.max_target_m, self.max_target_speed_m_s],
        )  # fmt: skip
        _require(self.command_scale != 0.0, name, "gripper.command_scale", "not 0", 0.0)
        if self.driver is not None:
            self._validate_driver(name, self.driver)

    def _validate_driver(self, name: str, driver: GripperDriver) -> None:
        for entry in ("dead_band_m", "effort", "speed_m_s", "epsilon_m"):
            value = getattr(driver, entry)
            _require(
                value is None or value > 0.0, name, f"gripper.driver.{entry}", "positive", value
            )
        for entry, value, lowest in (
            ("closed_m", driver.closed_m, self.min_target_m),
            ("grasp_below_m", driver.grasp_below_m, driver.closed_m),
        ):
            _require(
                lowest <= value < self.max_target_m - driver.dead_band_m,
                name, f"gripper.driver.{entry}",
                f"from {lowest:g} to a dead band below {self.max_target_m:g}", value,
            )  # fmt: skip
        if driver.linkage is not None:
            reach_m = driver.linkage.open_m - self.max_target_m
            _require(
                driver.linkage.joint != self.joint_name,
                name, "gripper.driver.linkage.joint", "another name than gripper.joint",
                driver.linkage.joint,
            )  # fmt: skip
            _require(
                abs(reach_m) < driver.dead_band_m and driver.linkage.closed_rad > 0.0,
                name, "gripper.driver.linkage",
                f"open_m equal to max_target_m {self.max_target_m:g} and closed_rad positive",
                [driver.linkage.open_m, driver.linkage.closed_rad],
            )  # fmt: skip


@dataclass(frozen=True)
class WorkspaceBox:
    """A box in the base frame that the tool must stay in, checked by forward kinematics (pin)."""

    urdf: str
    tool_frame: str
    min_corner_m: FloatArray
    max_corner_m: FloatArray


@dataclass(frozen=True)
class ArmSpec:
    """Everything about one arm that is not code.

    Attributes:
        name: the file's name, for logs and status messages.
        source: where the limits were published.
        arm_joint_names: J names, in the order of the policy and of the arm's controller.
        limits: of those joints.
        home: float64 [J], a pose to start from.
        gripper: the last joint of an action chunk.
        acceleration_check, jerk_check: enforce tracks or holds; warn only reports; none is silent.
        max_jump_rad: a target further than this from the one before it is a fault, not a motion.
        max_tracking_deviation_rad: how far the last tracked knot may lie from the policy's; beyond:
            hold. On the way the arm may lag by max_jump_rad.
        max_tracking_error_rad, tracking_lag_s: measured may differ from commanded by the first plus
            the second times the commanded speed (a soft arm lags).
        arm_controller, gripper_controller: names of the ros2_control controllers; a gripper that
            has none (driver franka) is served by no other than the arm's.
        base_frame, tool_frame, camera_frame: frame ids.
        workspace: None where no box is checked.
        collision: None where no collisions are checked.
    """

    name: str
    source: str
    arm_joint_names: tuple[str, ...]
    limits: JointLimits
    home: FloatArray
    gripper: GripperSpec
    acceleration_check: Check
    jerk_check: Check
    max_jump_rad: float
    max_tracking_deviation_rad: float
    max_tracking_error_rad: float
    tracking_lag_s: float
    arm_controller: str
    gripper_controller: str
    base_frame: str
    tool_frame: str
    camera_frame: str
    workspace: WorkspaceBox | None = None
    collision: CollisionGeometry | None = None

    @property
    def num_arm_joints(self) -> int:
        """J."""
        return len(self.arm_joint_names)

    @property
    def joint_names(self) -> tuple[str, ...]:
        """The J + 1 joints of an action chunk, gripper last."""
        return (*self.arm_joint_names, self.gripper.joint_name)

    @staticmethod
    def from_mapping(name: str, content: Mapping[str, object], folder: Path = Path()) -> "ArmSpec":
        """Build and check a spec of a file in `folder`.

        Raises ValueError naming the entry, and what was expected.
        """
        return _ArmReader(name, content, folder).read()

    def validate(self) -> None:
        """Raise ValueError where the numbers cannot be those of an arm that the guard can stop."""
        limits = self.limits
        for label, values in (
            ("max_velocity", limits.max_velocity),
            ("max_acceleration", limits.max_acceleration),
            ("max_jerk", limits.max_jerk),
            ("stop_jerk", limits.stop_jerk),
        ):
            _require(bool(np.all(values > 0.0)), self.name, label, "positive", values.tolist())
        _require(
            bool(np.all(limits.min_position < limits.max_position)),
            self.name, "positions", "min below max",
            [limits.min_position.tolist(), limits.max_position.tolist()],
        )  # fmt: skip
        _require(
            bool(np.all((self.home > limits.min_position) & (self.home < limits.max_position))),
            self.name, "home", "inside the position limits", self.home.tolist(),
        )  # fmt: skip
        _require(
            bool(np.all(limits.stop_jerk <= limits.max_jerk)),
            self.name, "stop_jerk", "at most max_jerk", limits.stop_jerk.tolist(),
        )  # fmt: skip
        _require(
            limits.stop_time_s() <= MAX_STOP_TIME_S,
            self.name, "max_velocity",
            f"low enough to stop within {MAX_STOP_TIME_S:g} s at max_acceleration and stop_jerk",
            f"a stop of {limits.stop_time_s():.3f} s",
        )  # fmt: skip
        self._validate_position_dependent_velocity()
        self.gripper.validate(self.name)
        _require(
            len(set(self.joint_names)) == len(self.joint_names),
            self.name, "joint names", "unique", list(self.joint_names),
        )  # fmt: skip
        for label, number in (
            ("max_jump_rad", self.max_jump_rad),
            ("max_tracking_deviation_rad", self.max_tracking_deviation_rad),
            ("max_tracking_error_rad", self.max_tracking_error_rad),
        ):
            _require(number > 0.0, self.name, label, "positive", number)
        _require(self.tracking_lag_s >= 0.0, self.name, "lag_s", "0 or more", self.tracking_lag_s)

    def _validate_position_dependent_velocity(self) -> None:
        dependent = self.limits.position_dependent_velocity
        if dependent is None:
            return
        lowest, highest = self.limits.velocity_bounds(self.home)
        for condition, label, expected, got in (
            (dependent.slope > 0.0, "slope_rad_s2", "positive", dependent.slope),
            (dependent.offset <= 0.0, "offset_rad_s", "0 or negative", dependent.offset),
            (
                (lowest < 0.0) & (highest > 0.0),
                _POSITION_DEPENDENT, "above 0 both ways at home", (lowest, highest),
            ),
        ):  # fmt: skip
            _require(bool(np.all(condition)), self.name, label, expected, got)


class _ArmReader:
    """Reads one mapping; every error message names the entry."""

    def __init__(self, name: str, content: Mapping[str, object], folder: Path) -> None:
        self._name, self._folder = name, folder
        self._content = content

    def read(self) -> ArmSpec:
        known = {
            "source", "joints", "gripper", "checks", "jump", "tracking", "controllers", "frames",
            "workspace", "collision",
        }  # fmt: skip
        self._known(self._content, tuple(known), "entries")
        joints = self._mapping(self._content, "joints")
        rows = [self._mapping(joints, name, "joints.") for name in joints]
        for name, row in zip(joints, rows, strict=True):
            self._known(row, _JOINT_ENTRIES, f"joints.{name}")
        checks = self._section("checks", "acceleration", "jerk")
        jump = self._section("jump", "max_jump_rad", "max_tracking_deviation_rad")
        tracking = self._section("tracking", "max_error_rad", "lag_s")
        controllers = self._section("controllers", "arm", "gripper")
        frames = self._section("frames", "base", "tool", "camera")
        spec = ArmSpec(
            name=self._name,
            source=self._text(self._content, "source"),
            arm_joint_names=tuple(joints),
            limits=self._limits(rows),
            home=self._column(rows, "home_rad"),
            gripper=self._gripper(),
            acceleration_check=self._check(checks, "acceleration"),
            jerk_check=self._check(checks, "jerk"),
            max_jump_rad=self._number(jump, "max_jump_rad"),
            max_tracking_deviation_rad=self._number(jump, "max_tracking_deviation_rad"),
            max_tracking_error_rad=self._number(tracking, "max_error_rad"),
            tracking_lag_s=self._number(tracking, "lag_s"),
            arm_controller=self._text(controllers, "arm"),
            gripper_controller=self._gripper_controller(controllers),
            base_frame=self._text(frames, "base"),
            tool_frame=self._text(frames, "tool"),
            camera_frame=self._text(frames, "camera"),
            workspace=self._workspace(),
            collision=self._collision(),
        )
        spec.validate()
        return spec

    def _limits(self, rows: list[Mapping[str, object]]) -> JointLimits:
        return JointLimits(
            min_position=self._column(rows, "min_position_rad"),
            max_position=self._column(rows, "max_position_rad"),
            max_velocity=self._column(rows, "max_velocity_rad_s"),
            max_acceleration=self._column(rows, "max_acceleration_rad_s2"),
            max_jerk=self._column(rows, "max_jerk_rad_s3"),
            stop_jerk=self._column(rows, "stop_jerk_rad_s3"),
            position_dependent_velocity=self._position_dependent_velocity(rows),
        )

    def _position_dependent_velocity(
        self, rows: list[Mapping[str, object]]
    ) -> PositionDependentVelocity | None:
        if not any(_POSITION_DEPENDENT in row for row in rows):
            return None
        sections = [
            self._mapping(row, _POSITION_DEPENDENT) if _POSITION_DEPENDENT in row else _UNLIMITED
            for row in rows
        ]
        for section in sections:
            self._known(section, tuple(_UNLIMITED), _POSITION_DEPENDENT)
        return PositionDependentVelocity(
            *(np.array([self._limit(section, key) for section in sections]) for key in _UNLIMITED)
        )

    def _limit(self, section: Mapping[str, object], key: str) -> float:
        return _UNLIMITED[key] if section is _UNLIMITED else self._number(section, key)

    def _gripper(self) -> GripperSpec:
        gripper = self._mapping(self._content, "gripper")
        self._known(gripper, _GRIPPER_ENTRIES, "gripper")
        return GripperSpec(
            joint_name=self._text(gripper, "joint"),
            min_target_m=self._number(gripper, "min_target_m"),
            max_target_m=self._number(gripper, "max_target_m"),
            max_target_speed_m_s=self._number(gripper, "max_target_speed_m_s"),
            command_joint_name=self._text(gripper, "command_joint"),
            command_scale=self._number(gripper, "command_scale"),
            command_offset=self._number(gripper, "command_offset"),
            driver=self._driver(gripper),
        )

    def _driver(self, gripper: Mapping[str, object]) -> GripperDriver | None:
        if "driver" not in gripper:
            return None
        driver = self._mapping(gripper, "driver", "gripper.")
        kind, kinds = driver.get("kind"), (_TRAJECTORY, *DRIVER_ENTRIES)
        _require(kind in kinds, self._name, "gripper.driver.kind", f"one of {kinds}", kind)
        if kind == _TRAJECTORY:
            self._known(driver, ("kind",), "gripper.driver")
            return None
        own = DRIVER_ENTRIES[cast(DriverKind, kind)]
        linked = () if kind == "franka" else ("linkage",)
        self._known(driver, (*_DRIVER_ENTRIES, *own, *linked), "gripper.driver")
        return GripperDriver(
            kind=cast(DriverKind, kind),
            action=self._text(driver, "action"),
            grasp_below_m=self._number(driver, "grasp_below_m"),
            dead_band_m=self._number(driver, "dead_band_m"),
            closed_m=self._number(driver, "closed_m"),
            effort=self._number(driver, "effort"),
            speed_m_s=self._number(driver, "speed_m_s") if "speed_m_s" in own else None,
            epsilon_m=self._number(driver, "epsilon_m") if "epsilon_m" in own else None,
            linkage=self._linkage(driver) if "linkage" in driver else None,
        )

    def _linkage(self, driver: Mapping[str, object]) -> KnuckleLinkage:
        linkage = self._mapping(driver, "linkage", "gripper.driver.")
        self._known(linkage, ("joint", *_LINKAGE_NUMBERS), "gripper.driver.linkage")
        numbers = (self._number(linkage, entry) for entry in _LINKAGE_NUMBERS)
        return KnuckleLinkage(self._text(linkage, "joint"), *numbers)

    def _gripper_controller(self, controllers: Mapping[str, object]) -> str:
        driver = self._gripper().driver
        has_none = driver is not None and driver.kind == "franka"
        return self._text(controllers, "arm" if has_none else "gripper")

    def _workspace(self) -> WorkspaceBox | None:
        if self._content.get("workspace") is None:
            return None
        box = self._section("workspace", "urdf", "tool_frame", "min_corner_m", "max_corner_m")
        low, high = self._corner(box, "min_corner_m"), self._corner(box, "max_corner_m")
        _require(
            bool(np.all(low < high)), self._name, "workspace", "min_corner_m below max_corner_m",
            [low.tolist(), high.tolist()],
        )  # fmt: skip
        return WorkspaceBox(self._text(box, "urdf"), self._text(box, "tool_frame"), low, high)

    def _collision(self) -> CollisionGeometry | None:
        if self._content.get("collision") is None:
            return None
        section = self._mapping(self._content, "collision")
        return CollisionGeometry.from_mapping(self._name, section, self._folder)

    def _corner(self, box: Mapping[str, object], key: str) -> FloatArray:
        values = box.get(key)
        entry = f"workspace.{key}"
        right = isinstance(values, list) and len(values) == 3
        _require(right, self._name, entry, "three numbers", values)
        return np.array([self._number({entry: one}, entry) for one in cast(list[object], values)])

    def _column(self, rows: list[Mapping[str, object]], key: str) -> FloatArray:
        return np.array([self._number(row, key) for row in rows])

    def _check(self, section: Mapping[str, object], key: str) -> Check:
        value = section.get(key)
        # YAML reads a bare `none` as text but `no` and `off` as false.
        _require(value in CHECKS, self._name, f"checks.{key}", f"one of {CHECKS}", value)
        return cast(Check, value)

    def _known(self, section: Mapping[str, object], known: tuple[str, ...], label: str) -> None:
        """Refuse unknown optional entries: a misspelt limit would not be enforced."""
        unknown = sorted(set(section) - set(known))
        _require(not unknown, self._name, label, f"among {sorted(known)}", unknown)

    def _section(self, key: str, *known: str) -> Mapping[str, object]:
        """The mapping of the file's entry `key`, which has no other entries than `known`."""
        section = self._mapping(self._content, key)
        self._known(section, known, key)
        return section

    def _mapping(
        self, section: Mapping[str, object], key: str, prefix: str = ""
    ) -> Mapping[str, object]:
        value = section.get(key)
        _require(
            isinstance(value, dict) and bool(value), self._name, prefix + key, "a mapping", value
        )
        return cast(Mapping[str, object], value)

    def _number(self, section: Mapping[str, object], key: str) -> float:
        value = section.get(key)
        right = isinstance(value, int | float) and not isinstance(value, bool)
        _require(
            right and bool(np.isfinite(cast(float, value))), self._name, key, "a number", value
        )
        return float(cast(float, value))

    def _text(self, section: Mapping[str, object], key: str) -> str:
        value = section.get(key)
        _require(isinstance(value, str) and value != "", self._name, key, "text", value)
        return cast(str, value)


def _require(condition: bool, name: str, entry: str, expected: str, got: object) -> None:
    if not condition:
        raise ValueError(
            f"arm {name!r}: {entry} must be {expected}, got {got}; compare with "
            "config/arms/template.yaml."
        )
