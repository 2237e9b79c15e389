# SPDX-License-Identifier: Apache-2.0
"""The fault suite's judge and controller: curves whose derivatives are known, and broken ones."""

from pathlib import Path

import numpy as np
import pytest

from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.parameters import read_arm_spec
from par_ros.proof.fault_clock import SharedOffset
from par_ros.proof.fault_controller import PERIOD_NS, FaultController, Waiting
from par_ros.proof.fault_judge import CycleLog, judge
from par_ros.proof.fault_world import ArmWorld

SPEC = read_arm_spec("panda")
S = 1_000_000_000


def swing(num: int = 1000) -> np.ndarray:
    """Joint 1 by 0.1 rad and back within a second; rows of a log."""
    times = np.arange(num) / 1000
    rows = np.column_stack((np.arange(num), np.tile(SPEC.home, (num, 1))))
    rows[:, 1] += 0.1 * (1 - np.cos(2 * np.pi * times)) / 2
    return rows


def test_shares_are_those_of_the_motion() -> None:
    """0.05 rad at 2 pi rad/s: 0.314 rad/s of 2.175, 1.97 rad/s^2 of 15, 12.4 rad/s^3 of 7500."""
    found = judge(SPEC, swing(), 0, ())
    assert found.num_violations == 0
    omega = 2 * np.pi
    for name, order, limit in (("velocity", 1, 2.175), ("acceleration", 2, 15.0)):
        assert found.largest[name] == pytest.approx(0.05 * omega**order / limit, rel=0.01)
    assert not found.is_at_rest


@pytest.mark.parametrize("step_rad", [2e-5, 1e-3, 0.1])
def test_one_step_is_seen(step_rad: float) -> None:
    """20 microradians in a millisecond are 20 rad/s^2; the acceleration limit is 15."""
    rows = swing()
    rows[500:, 1] += step_rad
    found = judge(SPEC, rows, 0, ())
    assert found.num_violations > 0
    assert found.largest["acceleration"] > 1.0
    assert found.largest_step_rad == pytest.approx(step_rad, rel=0.15)
    # The same as a step of the controller's own, or while the arm was away, is none of the guard's.
    assert judge(SPEC, rows, 0, (500,)).num_violations == 0
    rows[500:, 0] += 100
    assert judge(SPEC, rows, 0, ()).num_violations == 0


def test_rest_is_the_last_cycle_in_which_a_joint_moved() -> None:
    rows = swing()
    rows[400:, 1:] = rows[399, 1:]
    found = judge(SPEC, rows, 0, ())
    assert found.last_motion == 399
    assert found.is_at_rest
    rows[:, 1:] = SPEC.home
    rows[:, 3] = SPEC.limits.max_position[2] + 0.01
    assert judge(SPEC, rows, 0, ()).num_violations == len(rows)


def test_a_log_is_read_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "cycles"
    log = CycleLog(path, 7)
    assert log.num_rows == 0
    assert log.newest() is None
    data = swing(10).tobytes()
    path.write_bytes(data + b"half a row")
    assert log.num_rows == 10
    np.testing.assert_array_equal(log.rows(8), swing(10)[8:])
    newest = log.newest()
    assert newest is not None
    assert newest[-1, 0] == 9


def ramp(duration_s: float = 0.5) -> JointTrajectory:
    zeros = np.zeros((2, 7))
    positions = np.stack((SPEC.home, SPEC.home + 0.1))
    return JointTrajectory(
        SPEC.arm_joint_names, np.array([0.0, duration_s]), positions, zeros, zeros
    )


@pytest.mark.parametrize("batches", [1, 7])
def test_cycles_that_were_missed_are_run_as_they_would_have_been(batches: int) -> None:
    """Taken at cycle 13, stamped at 10 ms: the curve at 3 ms, whenever the process looks."""
    offset_ns = 7 * S
    controller = FaultController(SPEC.arm_joint_names, SPEC.home, 0)
    stamp_ns = offset_ns + 10 * PERIOD_NS
    controller.take(Waiting(ramp(), stamp_ns, 0, 12 * PERIOD_NS + 1))
    parts, taken = [], []
    for now in np.linspace(0, 700, batches + 1)[1:]:
        rows, some = controller.run_until(int(now) * PERIOD_NS, offset_ns, 1.0)
        parts.append(rows)
        taken += some
    positions = np.concatenate(parts)
    assert [cycle for _, cycle in taken] == [13]
    assert len(positions) == 700
    np.testing.assert_array_equal(positions[11], SPEC.home)
    share = 3 / 500
    expected = 0.1 * (10 * share**3 - 15 * share**4 + 6 * share**5)
    assert positions[12, 0] - SPEC.home[0] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(positions[-1], SPEC.home + 0.1)


def test_a_clock_that_is_set_moves_only_what_is_taken_later() -> None:
    controller = FaultController(SPEC.arm_joint_names, SPEC.home, 0)
    controller.take(Waiting(ramp(), 0, 0, PERIOD_NS))
    before, _ = controller.run_until(100 * PERIOD_NS, 0, 1.0)
    after, _ = controller.run_until(200 * PERIOD_NS, S, 1.0)
    assert np.abs(np.diff(np.concatenate((before, after)), axis=0)).max() < 5e-4
    controller.take(Waiting(ramp(), 0, 0, 201 * PERIOD_NS))
    stepped, _ = controller.run_until(210 * PERIOD_NS, S, 1.0)
    assert np.abs(stepped[0] - after[-1]).max() > 0.05


def test_a_world_is_the_same_after_its_way(tmp_path: Path) -> None:
    world = ArmWorld(number=3, pickup_s=(0.05, 0.05), joint_states="foreign", doubled_s=0.04)
    assert ArmWorld.of_text(world.text()) == world
    offset = SharedOffset(tmp_path / "clock")
    offset.value_ns = -5
    assert SharedOffset(tmp_path / "clock").value_ns == -5
