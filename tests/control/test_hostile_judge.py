# SPDX-License-Identifier: Apache-2.0
"""The judge finds what is planted: a step, a late stop, a wrong engage; and nothing else."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.proof.guard_adapter import GuardMode, Instant, make_guard
from par_ros.proof.hostile_clock import NANOSECONDS
from par_ros.proof.hostile_controller import Block, SentTrajectory
from par_ros.proof.hostile_disturbances import Choice
from par_ros.proof.hostile_judge import LimitJudge, StopWatch
from par_ros.proof.hostile_run import HostileRun
from tests.control.arms import arm

SPEC = arm("panda")
MS = 1_000_000


def block(begin: int, joint_1: np.ndarray, jitter_ns: np.ndarray | int = 0) -> Block:
    """Cycles of a millisecond, home but for joint 1."""
    times_ns = MS * np.arange(begin, begin + len(joint_1)) + jitter_ns
    commands = np.repeat(SPEC.home[None], len(joint_1), axis=0)
    commands[:, 0] += joint_1
    return Block(begin, times_ns, times_ns, commands, commands, None)


def test_a_motion_at_its_limits_with_jittering_cycles_breaks_none() -> None:
    """99.9 % of joint 1's acceleration, then of its velocity; cycles up to 0.1 ms off."""
    random = np.random.default_rng(3)
    jitter_ns = random.integers(-100_000, 100_000, 300)
    time_s = (MS * np.arange(300) + jitter_ns) * 1e-9
    acceleration, top = 0.999 * 15.0, 0.999 * 2.175
    ramp_s = top / acceleration
    moved = np.where(time_s < ramp_s, acceleration * time_s**2 / 2, top * (time_s - ramp_s / 2))
    judge = LimitJudge(SPEC, MS, SPEC.home)
    judge.feed(block(0, np.full(300, moved[0]), 0))
    judge.restart(SPEC.home + moved[0] * np.eye(7)[0])
    judge.broken.clear()
    judge.feed(block(300, moved, jitter_ns))
    # Jerk: a jump of acceleration is one.
    assert {broken.kind for broken in judge.broken} <= {"jerk"}
    assert judge.largest["velocity"] == pytest.approx(0.999, abs=1e-3)
    assert judge.largest["acceleration"] == pytest.approx(0.999, abs=1e-3)


@pytest.mark.parametrize(("step_rad", "share"), [(3e-5, 2.0), (1e-3, 66.7), (0.1, 6667.0)])
def test_a_step_is_measured_in_multiples_of_the_acceleration_limit(
    step_rad: float, share: float
) -> None:
    """In one cycle: step / (1 ms)^2 against 15 rad/s^2; also where two blocks meet."""
    judge = LimitJudge(SPEC, MS, SPEC.home)
    judge.feed(block(0, np.zeros(50)))
    judge.feed(block(50, np.full(50, step_rad)))
    (broken,) = judge.broken
    assert broken.acceleration_share == pytest.approx(share, rel=1e-2)
    assert broken.at_steady_ns == 50 * MS


def test_half_an_acceleration_limit_of_step_is_none() -> None:
    judge = LimitJudge(SPEC, MS, SPEC.home)
    judge.feed(block(0, np.zeros(50)))
    judge.feed(block(50, np.full(50, 1e-6)))
    assert not judge.broken


def test_a_number_that_is_not_finite_and_a_position_outside_are_found() -> None:
    judge = LimitJudge(SPEC, MS, SPEC.home)
    judge.feed(block(0, np.full(5, np.nan)))
    outside = SPEC.limits.max_position[0] - SPEC.home[0] + 1e-3
    judge.restart(SPEC.home + (outside - 2e-3) * np.eye(7)[0])
    judge.feed(block(5, np.array([outside])))
    assert [broken.kind for broken in judge.broken][:2] == ["finite", "position"]


def test_a_joint_that_runs_into_the_end_of_its_range_is_found() -> None:
    """FR3's joint 1 at half its speed, 1 mrad before the end of its range."""
    spec = arm("fr3")
    end = spec.limits.max_position[0] - 1e-3
    for speed_rad_s, kinds in ((-1.3, set()), (1.3, {"velocity_at_end"})):
        start = spec.home.copy()
        start[0] = end - 0.05 * speed_rad_s
        judge = LimitJudge(spec, MS, start)
        commands = np.repeat(start[None], 51, axis=0)
        commands[:, 0] += 1e-3 * speed_rad_s * np.arange(51)
        times_ns = MS * np.arange(51)
        judge.feed(Block(0, times_ns, times_ns, commands, commands, None))
        found = {broken.kind for broken in judge.broken} - {"acceleration", "jerk"}
        assert found == kinds


def test_a_stop_that_goes_on_moving_is_late() -> None:
    """Asked for at 0.1 s; in motion until 0.65 s, 0.5 s are allowed."""
    judge = LimitJudge(SPEC, MS, SPEC.home)
    home = JointTrajectory(SPEC.arm_joint_names, np.ones(1), SPEC.home[None])
    source = SentTrajectory(home, 0, 0, 0, 0, "chunk", 0)

    def moving(begin: int, joint_1: np.ndarray) -> Block:
        return replace(block(begin, joint_1), source=source)

    judge.feed(moving(0, 1e-4 * np.arange(100)))
    judge.watches.append(StopWatch(100 * MS, 500 * MS, "e_stop"))
    judge.feed(moving(100, 1e-4 * np.arange(100, 651)))
    judge.feed(moving(651, np.full(100, 1e-4 * 650)))
    (watch,) = judge.watches
    assert watch.is_late and watch.rest_s == pytest.approx(0.55)


class Planted:
    """A guard with something wrong."""

    def __init__(self, guard: Any) -> None:
        self._guard = guard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guard, name)


class Yielding(Planted):
    """It says that it is engaged whenever it is asked."""

    def engage(self, now: Instant) -> Any:
        return replace(self._guard.engage(now), success=True)


class Deaf(Planted):
    """Its emergency stop does nothing."""

    def e_stop(self, now: Instant) -> Any:
        return self._guard.on_tick(1, now)


def run_with(planted: type, only: tuple[str, ...]) -> HostileRun:
    """A run of 25 chunks before a planted guard."""
    run = HostileRun(SPEC, 0, Choice.of(only=only), 25, "arm")
    run.world.guard = planted(make_guard(SPEC, GuardMode(False, False, "arrival", True)))
    run.run()
    return run


def test_a_planted_engage_is_found() -> None:
    """While the arm brakes, and with the stop latched."""
    run = HostileRun(SPEC, 0, Choice.of(only=()), 40, "arm")
    world = run.world
    world.guard = Yielding(make_guard(SPEC, GuardMode(False, False, "arrival", True)))
    while not (world.guard.engaged and world.is_commanded_to_move()):
        world.step()
    run.operator.e_stop()
    run.operator.engage()
    assert set(world.totals.violations) == {"engage_latched", "engage_moving"}


@pytest.mark.parametrize(("stood_ms", "found"), [(1, set()), (3, {"engage_clock"})])
def test_an_engage_without_a_running_clock_is_found(stood_ms: int, found: set[str]) -> None:
    """A clock that stands for less than a clock step cannot be told from a running one."""
    run = HostileRun(SPEC, 0, Choice.of(only=()), 40, "arm")
    world = run.world
    while not world.guard.engaged:
        world.step()
    run.operator.disengage()
    while world.is_commanded_to_move():
        world.step()
    world.guard = Yielding(world.guard)
    world.ros_moves_since_ns = -1
    world.ros_stands_since_ns = world.now_ns - stood_ms * MS
    run.operator.engage()
    assert set(world.totals.violations) == found


def test_a_planted_deaf_stop_is_found() -> None:
    found = run_with(Deaf, ("stops_after_chunks",)).world.totals.violations
    assert found["rest_after_e_stop"] > 0


def test_the_verdict_is_none_where_nothing_was_planted() -> None:
    run = HostileRun(SPEC, 0, Choice.of(only=("stops_after_chunks",)), 25, "arm")
    totals = run.run()
    assert totals.passed, totals.examples
    assert totals.stops["e_stop"] > 0
    assert totals.simulated_s * NANOSECONDS > 0
