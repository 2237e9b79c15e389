# SPDX-License-Identifier: Apache-2.0
"""A real arm is ready, or the reasons are named; an engaged guard lets go of one that is not."""

from par_ros.control.supervision import CommandTopics, Supervision

TOPICS = ("/joint_trajectory", "/gripper_trajectory")
GUARD = "safety_node"


def view(listeners: int = 1, publishers: tuple[str, ...] = (GUARD,)) -> CommandTopics:
    return CommandTopics(dict.fromkeys(TOPICS, listeners), dict.fromkeys(TOPICS, publishers))


def ready(*, dry_run: bool = False) -> Supervision:
    """An arm with joint states at 100 Hz for a second, and a guard that has just reported."""
    supervision = Supervision(
        min_joint_state_rate_hz=20.0, max_guard_silence_s=3.0, dry_run=dry_run
    )
    for tick in range(100):
        supervision.on_joint_state(0.01 * tick)
    supervision.on_guard(True, 1.0)
    return supervision


def test_a_complete_arm_is_ready() -> None:
    supervision = ready()
    assert supervision.problems(view(), GUARD, 1.0) == ()
    assert not supervision.must_disengage(())


def test_lost_joint_states_controller_and_guard_are_named() -> None:
    problems = ready().problems(view(listeners=0), GUARD, 9.0)
    assert problems == (
        "no joint state for 8.01 s",
        "the guard has not reported for 8.0 s",
        "no controller listens on /joint_trajectory",
        "no controller listens on /gripper_trajectory",
    )


def test_a_dry_run_needs_no_controller() -> None:
    assert ready(dry_run=True).problems(view(listeners=0), GUARD, 1.0) == ()


def test_a_stranger_or_a_second_guard_on_the_command_topic_is_named() -> None:
    problems = ready().problems(view(publishers=(GUARD, "teleop")), GUARD, 1.0)
    assert problems[0] == "teleop publishes on /joint_trajectory, only safety_node may"
    problems = ready().problems(view(publishers=(GUARD, GUARD)), GUARD, 1.0)
    assert problems[0] == "2 guards publish on /joint_trajectory"


def test_slow_or_bad_joint_states_are_named() -> None:
    supervision = ready()
    for tick in range(50):
        supervision.on_joint_state(1.0 + 0.1 * tick)
    assert "joint states come at 10 Hz" in supervision.problems(view(), GUARD, 5.91)[0]
    supervision.on_bad_joint_state("panda_joint3 is missing")
    assert supervision.problems(view(), GUARD, 5.91)[0] == "panda_joint3 is missing"


def test_an_inactive_controller_is_named() -> None:
    supervision = ready()
    supervision.on_controllers({"arm": "active", "gripper": "inactive"}, 1.0)
    assert supervision.problems(view(), GUARD, 1.0) == ("controller gripper is inactive",)


def test_a_controller_manager_that_falls_silent_is_named_and_one_never_heard_is_not() -> None:
    supervision = ready()
    assert not supervision.controllers_known
    assert supervision.problems(view(), GUARD, 1.1) == ()
    supervision.on_controllers({"arm": "active"}, -6.5)
    assert supervision.controllers_known
    problems = supervision.problems(view(), GUARD, 1.1)
    assert problems == ("controller_manager has not answered for 7.6 s",)
    dry = ready(dry_run=True)
    dry.on_controllers({"arm": "inactive"}, -6.5)
    assert dry.problems(view(), GUARD, 1.1) == ()


def test_an_engaged_guard_is_disengaged_once() -> None:
    supervision = ready()
    problems = supervision.problems(view(listeners=0), GUARD, 1.0)
    assert supervision.must_disengage(problems)
    assert not supervision.must_disengage(problems)
    supervision.on_guard(True, 1.1)
    assert supervision.must_disengage(problems)


def test_why_there_are_no_joint_states_is_named() -> None:
    """The graph's reason before what a part of them lacks."""
    supervision = ready()
    supervision.on_missing_joints("joint states lack ['finger']")
    assert supervision.problems(view(), GUARD, 2.0)[0] == (
        "no joint state for 1.01 s: joint states lack ['finger']"
    )
    empty = CommandTopics(
        dict.fromkeys(TOPICS, 1), dict.fromkeys(TOPICS, (GUARD,)), "nobody publishes /joint_states"
    )
    assert supervision.problems(empty, GUARD, 2.0)[0] == (
        "no joint state for 1.01 s: nobody publishes /joint_states"
    )
    supervision.on_joint_state(2.0)
    assert supervision.problems(view(), GUARD, 2.0) == ()


def test_joint_states_at_20_hz_with_some_jitter_are_enough() -> None:
    supervision = ready()
    for tick in range(51):
        supervision.on_joint_state(1.0 + 0.0501 * tick)
    assert supervision.problems(view(), GUARD, 3.52) == ()


def test_simulated_time_needs_a_clock_that_runs() -> None:
    supervision = Supervision(
        min_joint_state_rate_hz=20.0, max_guard_silence_s=3.0, dry_run=True, use_sim_time=True
    )
    supervision.on_joint_state(1.0)
    supervision.on_guard(False, 1.0)
    supervision.on_clock(0, 1.0)
    assert supervision.problems(view(), GUARD, 1.0) == (
        "use_sim_time is true and nothing has come on /clock: start what publishes it",
    )
    supervision.on_clock(1, 1.0)
    assert supervision.problems(view(), GUARD, 1.0) == ()
    supervision.on_clock(1, 6.1)
    assert "/clock has stood for 5.1 s; check what publishes it" in (
        supervision.problems(view(), GUARD, 6.1)
    )
