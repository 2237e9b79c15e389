# SPDX-License-Identifier: Apache-2.0
"""The model of the controller against closed forms: 0.1 rad in 0.5 s, from rest to rest.

1 kHz without jitter and a phase of 0.4 ms: cycle k happens at k + 0.4 ms.
"""

import numpy as np

from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.proof.hostile_arm import ArmSettings, HostileArm
from par_ros.proof.hostile_clock import RosClock
from par_ros.proof.hostile_controller import Block, HostileController, SentTrajectory
from par_ros.proof.hostile_cycles import ArmCycles
from tests.control.arms import arm

SPEC = arm("panda")
MS = 1_000_000
ROS_NS = 1_700_000_000_000_000_000
PHASE_NS = 400_000
NONE = np.zeros(1, np.int64)


def unit(share: np.ndarray) -> np.ndarray:
    """From 0 to 1, at rest at both ends."""
    share = np.clip(share, 0.0, 1.0)
    return 10 * share**3 - 15 * share**4 + 6 * share**5


class Rig:
    """A controller whose commands are kept; a perfect arm, or one that sags."""

    def __init__(self, *, sag_rad: float = 0.0, rule: str = "kilted", cmd_timeout_s: float = 0.0):
        self.clock = RosClock(ROS_NS)
        self.cycles = ArmCycles(self.clock, MS, PHASE_NS, NONE)
        settings = ArmSettings(0.0, None, np.full(7, sag_rad), 0.0)
        self.blocks: list[Block] = []
        self.controller = HostileController(
            self.cycles, HostileArm(settings, 1e-3, SPEC.home), SPEC.home, self.blocks.append,
            rule=rule, cmd_timeout_s=cmd_timeout_s,
        )  # fmt: skip

    def send(self, at_ms: float, stamp_ms: float | None, times_s: list, moved_rad: list) -> bool:
        """Points at rest, `moved_rad` from home; the stamp on the ROS clock, None: 0."""
        rows = SPEC.home + np.array(moved_rad)[:, None]
        trajectory = JointTrajectory(
            SPEC.arm_joint_names, np.array(times_s), rows, rows * 0.0, rows * 0.0
        )
        stamp_ns = 0 if stamp_ms is None else ROS_NS + round(stamp_ms * MS)
        sent = SentTrajectory(trajectory, stamp_ns, stamp_ns, stamp_ns - ROS_NS, 0, "test", 0)
        self.sent = sent
        return self.controller.receive(sent, round(at_ms * MS))

    def moved(self, until_ms: int) -> np.ndarray:
        """Joint 1's commands minus home, by cycle."""
        self.controller.finish(until_ms * MS)
        return np.concatenate([block.commands[:, 0] for block in self.blocks]) - SPEC.home[0]


def test_the_command_is_the_curve_one_period_ahead() -> None:
    """Stamp 10.2 ms; first point at the stamp, received at 12 ms: cycle 12 at 12.4 ms takes it."""
    rig = Rig()
    assert rig.send(12.0, 10.2, [0.0, 0.5], [0.0, 0.1])
    moved = rig.moved(700)
    cycle = np.arange(len(moved))
    time_s = (cycle + 1 + 0.4 - 10.2) * 1e-3
    expected = np.where(cycle < 12, 0.0, 0.1 * unit(time_s / 0.5))
    np.testing.assert_allclose(moved, expected, atol=1e-12)
    assert rig.sent.picked_up_ns == ROS_NS + 12 * MS + PHASE_NS


def test_stamp_zero_starts_at_the_pick_up_and_is_led_from_the_last_command() -> None:
    """The last command is taken to be of the cycle before: 1 ms earlier than the start."""
    rig = Rig()
    assert rig.send(20.0, None, [0.5], [0.1])
    moved = rig.moved(700)
    time_s = (np.arange(len(moved)) + 1 - 20) * 1e-3
    expected = 0.1 * unit((time_s + 1e-3) / 0.501)
    np.testing.assert_allclose(moved[20:], expected[20:], atol=1e-12)
    assert rig.sent.fate == {"ahead"}


def test_what_is_over_or_out_of_order_or_in_motion_at_the_end_is_rejected() -> None:
    rig = Rig()
    assert not rig.send(700.0, 100.0, [0.0, 0.5], [0.0, 0.1])
    assert not rig.send(701.0, 701.0, [0.5, 0.5], [0.0, 0.1])
    assert "rejected" in rig.sent.fate
    assert not rig.moved(1000).any()


def test_a_new_trajectory_replaces_the_old_one_as_a_whole() -> None:
    """Another curve from 300 ms on: the command jumps onto it, as the controller's does."""
    rig = Rig()
    assert rig.send(10.0, 10.0, [0.0, 0.5], [0.0, 0.1])
    assert rig.send(300.0, 200.0, [0.0, 0.5], [0.0, -0.1])
    moved = rig.moved(900)
    time_s = (np.arange(len(moved)) + 1 + 0.4) * 1e-3
    np.testing.assert_allclose(moved[299], 0.1 * unit((time_s[299] - 0.01) / 0.5), atol=1e-12)
    np.testing.assert_allclose(moved[300:], -0.1 * unit((time_s[300:] - 0.2) / 0.5), atol=1e-12)


def test_a_clock_step_moves_nothing_that_runs_but_what_comes_after() -> None:
    """ROS time steps by 5 ms at 200 ms; the same curve, sent again by the new time, is 5 ms on."""
    rig = Rig()
    assert rig.send(10.0, 10.0, [0.0, 0.5], [0.0, 0.1])
    rig.controller.change_clock(200 * MS, lambda: rig.clock.step(200 * MS, 5 * MS))
    assert rig.send(300.0, 10.0, [0.0, 0.5], [0.0, 0.1])
    moved = rig.moved(400)
    time_s = (np.arange(len(moved)) + 1 + 0.4) * 1e-3
    expected = 0.1 * unit((time_s + np.where(np.arange(len(moved)) < 300, 0, 0.005) - 0.01) / 0.5)
    np.testing.assert_allclose(moved[10:], expected[10:], atol=1e-12)


def test_after_a_step_back_nothing_is_commanded_until_the_clock_has_caught_up() -> None:
    """20 ms back just before the pick-up at 300.4 ms: the last command stays until 319 ms."""
    rig = Rig()
    assert rig.send(10.0, 10.0, [0.0, 0.5], [0.0, 0.1])
    at_ns = 300 * MS
    rig.controller.change_clock(at_ns, lambda: rig.clock.step(at_ns, -20 * MS))
    assert rig.send(300.1, 10.0, [0.0, 0.5], [0.0, 0.1])
    moved = rig.moved(400)
    # Cycle 299 read 299.4 ms; commands are sampled one period ahead of the cursor.
    assert (moved[300:318] == moved[299]).all()
    time_s = (np.arange(len(moved)) + 1 + 0.4 - 20) * 1e-3
    np.testing.assert_allclose(moved[318:], 0.1 * unit((time_s[318:] - 0.01) / 0.5), atol=1e-12)


def test_cmd_timeout_holds_where_a_sagging_arm_is() -> None:
    """The motion ends at 510 ms; 0.6 s later the controller holds 5 mrad lower."""
    rig = Rig(sag_rad=-0.005, cmd_timeout_s=0.6)
    assert rig.send(10.0, 10.0, [0.0, 0.5], [0.0, 0.1])
    moved = rig.moved(2000)
    (held,) = np.flatnonzero(np.abs(np.diff(moved)) > 0.004) + 1
    # The first cycle with a cursor more than 0.6 s after the end sets it, the next commands it.
    assert held == 1111
    np.testing.assert_allclose(moved[held:], 0.095, atol=1e-12)


def test_humble_samples_at_the_cycle_and_follows_the_clock() -> None:
    rig = Rig(rule="humble")
    assert rig.send(10.0, 10.0, [0.0, 0.25, 0.5], [0.0, 0.05, 0.1])
    rig.controller.change_clock(400 * MS, lambda: rig.clock.step(400 * MS, -200 * MS))
    moved = rig.moved(600)
    # The second segment ran; back in the first one's time, its last point is commanded.
    assert np.isclose(moved[399], 0.05 + 0.05 * unit(np.array((399.4 - 260) / 250)))
    assert (moved[400:] == 0.1).all() or np.allclose(moved[400:], 0.1)


def test_the_reference_is_the_curve_at_the_cursor() -> None:
    rig = Rig()
    assert rig.send(12.0, 10.2, [0.0, 0.5], [0.0, 0.1])
    stamp_ns, (positions, velocities, _) = rig.controller.reference(260 * MS)
    assert stamp_ns == ROS_NS + 259 * MS + PHASE_NS
    share = (259.4 - 10.2) / 500
    assert np.isclose(positions[0] - SPEC.home[0], 0.1 * unit(np.array(share)), atol=1e-12)
    slope = 30 * share**2 - 60 * share**3 + 30 * share**4
    assert np.isclose(velocities[0], 0.2 * slope)


def test_lags_end_where_the_command_ends() -> None:
    """First order: 63 % after one time constant. Second order: late by its time constant."""
    step = np.ones((3000, 1))
    first = HostileArm(ArmSettings(0.1, None, np.zeros(1), 0.0), 1e-3, np.zeros(1))
    places = first.follow(np.zeros((2, 1)), step)
    assert np.isclose(places[99, 0], 1 - np.exp(-1.0))
    second = HostileArm(ArmSettings(0.1, 0.7, np.zeros(1), 0.0), 1e-3, np.zeros(1))
    ramp = 1e-3 * np.arange(1, 3001)[:, None]
    places = second.follow(np.zeros((2, 1)), ramp)
    assert np.isclose(ramp[-1, 0] - places[-1, 0], 0.1, atol=2e-3)
