# SPDX-License-Identifier: Apache-2.0
"""A stop and the gripper of each kind: what the guard sends, and what the adapter makes of it.

An FR3 and a Robotiq on a UR5e have an adapter, the panda's gripper a trajectory controller.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.command import Command
from par_ros.control.gripper_adapter import AdapterSettings, GripperAdapter, Outcome, Server
from par_ros.control.joint_trajectory import FloatArray
from tests.control.arms import arm
from tests.control.guard_rig import ROS_BEGIN_NS, Rig, S

OPEN_M, SQUEEZE_M = 0.04, -0.01
WITH_A_DRIVER = ("fr3", "ur5e")
STEP_S = 0.01


class GripperRig(Rig):
    """A guard whose gripper trajectories an adapter, if any, turns into goals every 10 ms."""

    def __init__(self, spec: ArmSpec, **settings: object) -> None:
        super().__init__(spec=spec, **settings)
        gripper = self.spec.gripper
        has_adapter = gripper.driver is not None
        self.adapter = GripperAdapter(gripper, AdapterSettings()) if has_adapter else None
        self.goals: list[float] = []
        self.chunks: list[Command] = []

    def take(self, command: Command) -> Command:
        if command.gripper is not None and self.adapter is not None:
            start_s = (command.stamp_ns - ROS_BEGIN_NS) / S
            self.adapter.take(command.gripper, start_s, self.now_s)
        return super().take(command)

    def run(self, duration_s: float) -> None:
        assert self.adapter is not None
        for _ in range(round(duration_s / STEP_S)):
            self.wait(STEP_S)
            wanted = self.adapter.step(self.now_s, Server.READY)
            assert wanted != "cancel"
            if wanted is not None:
                self.goals.append(wanted.target_m)
                self.adapter.on_answer(wanted.number, accepted=True)
                self.adapter.on_result(wanted.number, Outcome.SUCCEEDED)

    def grips(self, *targets_m: float, speed: float = 0.05) -> None:
        """A chunk that moves every joint, with these targets of the gripper."""
        self.chunks.append(self.chunk(self.moving(targets_m, speed)))
        assert self.chunks[-1].arm is not None

    def moving(self, targets_m: tuple[float, ...], speed: float) -> FloatArray:
        now = self.guard.commanded_positions(self.moment)
        assert now is not None
        ramp = speed * np.outer((np.arange(1, 9) / 8.0) ** 2, np.ones(len(now)))
        return np.column_stack((now + ramp, np.array(targets_m)))


def holding(name: str, **settings: object) -> GripperRig:
    """It has closed, and stands."""
    rig = GripperRig(arm(name), **settings)
    rig.run(0.3)
    assert rig.call("engage").success
    rig.grips(*[SQUEEZE_M] * 8)
    rig.run(1.2)
    assert rig.goals[-1] <= 0.0
    rig.goals.clear()
    return rig


def let_go(rig: GripperRig, way: str) -> None:
    """One of the ways in which the guard stops the arm."""
    if way == "deadman":
        rig.take(rig.guard.on_deadman(True, rig.moment))
    elif way == "fault":
        rig.take(rig.guard.on_bad_chunk("unreadable", rig.moment))
    else:
        rig.call(way)
    assert rig.sent[-1] is not rig.chunks[-1]


@pytest.mark.parametrize("name", WITH_A_DRIVER)
@pytest.mark.parametrize("way", ["e_stop", "disengage", "fault", "deadman"])
def test_a_stop_before_a_chunk_opens_the_hand_keeps_it_closed(name: str, way: str) -> None:
    """Five targets hold, three open; the stop comes 0.12 s after the chunk."""
    rig = holding(name)
    rig.grips(*[SQUEEZE_M] * 5, *[OPEN_M] * 3)
    rig.run(0.12)
    let_go(rig, way)
    rig.run(1.5)
    assert rig.goals == []


def test_without_a_stop_the_same_chunk_opens_the_hand() -> None:
    rig = holding("fr3")
    rig.grips(*[SQUEEZE_M] * 5, *[OPEN_M] * 3)
    rig.run(1.5)
    assert rig.goals == [OPEN_M]


@pytest.mark.parametrize("has_driver", [True, False])
def test_an_arm_that_stands_while_its_hand_moves_is_stopped_too(has_driver: bool) -> None:
    """The chunk moves the gripper alone, from its sixth target on. At 0 rad nothing is rounded."""
    spec = arm("ur5e")
    gripper = spec.gripper if has_driver else dataclasses.replace(spec.gripper, driver=None)
    rig = GripperRig(dataclasses.replace(spec, home=np.zeros(6), gripper=gripper))
    rig.wait(0.3)
    assert rig.call("engage").success
    rig.grips(*[OPEN_M] * 5, *[0.02] * 3, speed=0.0)
    rig.wait(0.12)
    command = rig.call("e_stop").command
    assert command.arm is not None and command.gripper is not None
    targets_m = rig.spec.gripper.target(command.gripper.positions)
    np.testing.assert_allclose(targets_m, OPEN_M, atol=1e-12)
    assert command.gripper.times_s[-1] > 0.28
    rig.wait(0.5)
    assert not np.diff(rig.commands, axis=0).any()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(WITH_A_DRIVER),
    st.lists(st.sampled_from([SQUEEZE_M, 0.0, 0.02, OPEN_M]), min_size=16, max_size=16),
    st.integers(1, 80),
    st.booleans(),
)
def test_after_a_stop_at_any_moment_no_goal_is_sent(
    name: str, targets_m: list[float], tick: int, from_the_observation: bool
) -> None:
    """Two chunks of any targets, 0.4 s apart; the stop comes at any 10 ms of them. No chunk has a
    target that is due at its stamp, which tells a stop."""
    more = {"chunk_start": "observation"} if from_the_observation else {}
    rig = GripperRig(arm(name), **more)
    rig.run(0.3)
    assert rig.call("engage").success
    rig.grips(*targets_m[:8])
    rig.run(STEP_S * min(tick, 40))
    if tick > 40:
        rig.grips(*targets_m[8:])
        rig.run(STEP_S * (tick - 40))
    for chunk in rig.chunks:
        assert chunk.gripper is not None and chunk.gripper.times_s[0] > 0.0
    num_goals = len(rig.goals)
    rig.call("e_stop")
    rig.run(1.5)
    assert len(rig.goals) == num_goals


def test_the_chunk_after_a_stop_goes_on_from_the_target_that_was_due() -> None:
    """The stop comes between a target of 0.03 and one of 0.028 m; the finger goes to 0.03 m."""
    rig = GripperRig(arm("fr3"))
    rig.run(0.3)
    assert rig.call("engage").success
    rig.grips(*[0.03] * 4, *[0.028] * 4)
    rig.run(0.25)
    told = rig.call("disengage").command.gripper
    assert told is not None
    np.testing.assert_array_equal(told.positions, np.full_like(told.positions, 0.03))
