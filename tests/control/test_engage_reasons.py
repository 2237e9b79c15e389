# SPDX-License-Identifier: Apache-2.0
"""What engage says of joint states that it cannot use: the first cause. 50 Hz where nothing else is
said; the arm stands at home; the rig's controller and reference are good."""

import numpy as np
import pytest

from par_ros.control.joint_states import (
    JointReading,
    JointSample,
    JointStateSelector,
    MissingJoints,
)
from tests.control.guard_rig import PERIOD_S, ROS_BEGIN_NS, Rig, S


def feed(rig: Rig, selector: JointStateSelector, make, rate_hz: float, duration_s: float) -> None:
    """As safety_node does: each reading through the selector to the guard."""
    rig.sends_joints = False
    every = max(1, round(1.0 / rate_hz / PERIOD_S))
    for _ in range(round(duration_s / PERIOD_S / every)):
        rig.wait(every * PERIOD_S)
        for reading in make(rig.ros_ns):
            try:
                taken = selector.take(reading)
            except ValueError as error:
                rig.guard.on_bad_joint_state(str(error), rig.moment)
                continue
            if isinstance(taken, MissingJoints):
                rig.guard.on_missing_joints(taken.reason)
            elif isinstance(taken, JointSample):
                rig.guard.on_joint_state(taken, rig.moment)


def whole(rig: Rig, stamp_ns: int, **changes) -> JointReading:
    sample = rig.sample()
    fields = {
        "stamp_ns": stamp_ns,
        "names": rig.spec.joint_names,
        "positions": sample.positions,
        "velocities": np.zeros(8),
    }
    return JointReading(**(fields | changes))


@pytest.mark.parametrize("rate_hz", [20, 50, 100, 1000])
@pytest.mark.parametrize("velocities", ["all", "none", "finger NaN", "arm NaN"])
def test_engage_at_every_rate_whatever_the_velocities(rate_hz: float, velocities: str) -> None:
    speeds = None if velocities == "none" else np.zeros(8)
    if speeds is not None and velocities != "all":
        speeds[-1 if velocities == "finger NaN" else 2] = np.nan
    rig = Rig()
    selector = JointStateSelector(rig.spec.joint_names)
    feed(rig, selector, lambda now: [whole(rig, now, velocities=speeds)], rate_hz, 0.6)
    reply = rig.guard.engage(rig.moment)
    assert reply.success, reply.message
    # And it stays so.
    feed(rig, selector, lambda now: [whole(rig, now, velocities=speeds)], rate_hz, 0.5)
    assert rig.guard.engaged, rig.guard.last_fault


@pytest.mark.parametrize("gripper_hz", [20, 100])
def test_engage_on_two_publishers(gripper_hz: float) -> None:
    """The arm at 100 Hz, the gripper's 3 ms behind."""
    rig = Rig()
    selector = JointStateSelector(rig.spec.joint_names)
    names, count = rig.spec.joint_names, [0]

    def parts(now_ns: int) -> list[JointReading]:
        sample = rig.sample()
        readings = [JointReading(now_ns, names[:-1], sample.positions[:-1], np.zeros(7))]
        if count[0] % round(100 / gripper_hz) == 0:
            finger = JointReading(now_ns - 3_000_000, names[-1:], sample.positions[-1:], None)
            readings.append(finger)
        count[0] += 1
        return readings

    feed(rig, selector, parts, 100, 0.6)
    reply = rig.guard.engage(rig.moment)
    assert reply.success, reply.message


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"positions": np.append(np.zeros(7), np.nan)}, "joint state positions must be finite"),
        ({"velocities": np.append(np.zeros(7), np.inf)}, "joint state velocities must be finite"),
        ({"positions": np.zeros(7)}, "must have one entry for each of 8 names, got 7"),
    ],
)
def test_a_rejected_joint_state_is_the_reason_until_a_good_one(changes, sentence: str) -> None:
    rig = Rig()
    selector = JointStateSelector(rig.spec.joint_names)
    feed(rig, selector, lambda now: [whole(rig, now)], 50, 0.5)
    feed(rig, selector, lambda now: [whole(rig, now, **changes)], 50, 0.5)
    reply = rig.guard.engage(rig.moment)
    assert not reply.success
    assert "no joint state can be used: " in reply.message and sentence in reply.message
    assert "stale" not in reply.message
    feed(rig, selector, lambda now: [whole(rig, now)], 50, 0.5)
    assert rig.guard.engage(rig.moment).success


def test_a_prefix_is_the_reason() -> None:
    rig = Rig()
    names = tuple(f"left_{name}" for name in rig.spec.joint_names)
    selector = JointStateSelector(rig.spec.joint_names)
    feed(rig, selector, lambda now: [whole(rig, now, names=names)], 50, 0.5)
    reply = rig.guard.engage(rig.moment)
    assert "no joint state can be used: joint states lack panda_joint1 and have left_panda" in (
        reply.message
    )
    assert "set joint_prefix:=left_" in reply.message


def test_a_gripper_that_is_too_slow_is_the_reason() -> None:
    """4 Hz."""
    rig = Rig()
    selector = JointStateSelector(rig.spec.joint_names)
    names, sent = rig.spec.joint_names, [0]

    def parts(now_ns: int) -> list[JointReading]:
        sample = rig.sample()
        readings = [JointReading(now_ns, names[:-1], sample.positions[:-1], np.zeros(7))]
        if now_ns - sent[0] >= S // 4:
            sent[0] = now_ns
            readings.append(JointReading(now_ns, names[-1:], sample.positions[-1:], None))
        return readings

    feed(rig, selector, parts, 100, 0.7)
    reply = rig.guard.engage(rig.moment)
    assert not reply.success
    assert "of ['panda_finger_joint1'] may be 0.05 s older than the others'" in reply.message


@pytest.mark.parametrize("off_s", [-0.6, 60.0, -ROS_BEGIN_NS / S])
def test_stamps_of_another_clock_are_the_reason(off_s: float) -> None:
    rig = Rig()
    selector = JointStateSelector(rig.spec.joint_names)
    feed(rig, selector, lambda now: [whole(rig, now + round(off_s * S))], 50, 0.5)
    reply = rig.guard.engage(rig.moment)
    assert "no joint state can be used: joint states must be stamped within" in reply.message
    assert "check the driver's clock and use_sim_time" in reply.message
