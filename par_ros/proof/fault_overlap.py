# SPDX-License-Identifier: Apache-2.0
"""The cases of the fault suite with overlapped inference: chunks of 18 actions for pictures 0.15 s
ago, every 0.4 s, each replacing the one before while it runs."""

import itertools

from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_ros.proof import fault_actions as do
from par_ros.proof import fault_chunks as chunks
from par_ros.proof.fault_case import Fault
from par_ros.proof.fault_rig import GUARD_PARAMETERS, OVERLAPPED_ACTIONS, FaultRig
from par_ros.proof.fault_world import ArmWorld

_GUARD = (
    *GUARD_PARAMETERS,
    "inference:=overlapped",
    "chunk_start:=observation",
    f"num_actions:={OVERLAPPED_ACTIONS}",
    "max_observation_age_s:=0.8",
)
# From a chunk's picture its actions last 0.9 s, and then the tail.
_OWN_END_S = 0.9


def _case(
    name: str,
    expected: tuple[str, ...],
    act: do.Action,
    watch_s: float = 0.0,
    *,
    holds: bool | None = True,
    world: ArmWorld | None = None,
    late: bool = False,
) -> Fault:
    return Fault(
        f"overlapped: {name}", expected, act, watch_s, holds=holds, guard=_GUARD, late=late,
        world=ArmWorld() if world is None else world, overlapped=True,
    )  # fmt: skip


def _goes_on(name: str, expected: tuple[str, ...], act: do.Action) -> Fault:
    """The arm must not stop."""
    return _case(name, expected, act, holds=False)


def _delayed(delay_s: float) -> do.Action:
    """From now on every chunk answers a picture of so long ago."""

    def act(rig: FaultRig) -> None:
        rig.delay_s = delay_s

    return act


def _one_delayed(delay_s: float) -> do.Action:
    """One chunk more, for a picture of so long ago."""

    def act(rig: FaultRig) -> None:
        usual_s, rig.delay_s = rig.delay_s, delay_s
        rig.publish_chunk()
        rig.delay_s = usual_s

    return act


def _jittered(rig: FaultRig) -> None:
    """The pictures are 20 to 500 ms old, which turns the order of some chunks round."""
    ages_s = itertools.cycle((0.02, 0.5, 0.1, 0.3, 0.05, 0.45))

    def change(message: JointTrajectoryMessage) -> JointTrajectoryMessage:
        rig.delay_s = next(ages_s)
        return message

    rig.mangle_chunk = change


def _every_third_lost(rig: FaultRig) -> None:
    numbers = itertools.count()
    rig.mangle_chunk = lambda message: None if next(numbers) % 3 == 0 else message


def _two_in_the_wrong_order(rig: FaultRig) -> None:
    """A chunk, and right behind it that of a picture 0.1 s before."""
    rig.publish_chunk()
    _one_delayed(rig.delay_s + 0.1)(rig)


OVERLAPPED_FAULTS: tuple[Fault, ...] = (
    _goes_on("undisturbed", (), do.nothing),
    _goes_on("chunk: early, after 0.2 s", (), lambda rig: rig.publish_chunk()),
    _goes_on("chunk: sent twice", ("duplicate",), do.send_again),
    _goes_on("chunk: older than the last", ("reordered",), _one_delayed(0.6)),
    _goes_on("chunk: two in the wrong order", ("reordered",), _two_in_the_wrong_order),
    _goes_on("chunks: from now on 0.5 s late", (), _delayed(0.5)),
    _goes_on("chunks: 20 to 500 ms late", (), _jittered),
    _goes_on("chunks: every third is lost", (), _every_third_lost),
    _case("chunks: from now on 1 s late", ("late", "fault_dead_policy"), _delayed(1.0), _OWN_END_S),
    _case("policy: silent", ("fault_dead_policy",), do.every_chunk(lambda _: None), _OWN_END_S),
    _case("chunk: NaN", ("fault_not_finite",),
          do.next_chunk(chunks.with_positions(chunks.put(2, 3, float("nan"))))),
    _case("chunk: jump of 1 rad", ("fault_jump",),
          do.next_chunk(chunks.with_positions(chunks.put(12, 1, 1.5)))),
    _case("chunk: of a policy without look-ahead", ("fault_shape",),
          do.next_chunk(chunks.five_points)),
    _case("trajectory: lost", ("fault_not_taken",), do.next_trajectory(ArmWorld(lose_next=1)), 0.2),
    # A chunk that goes on as the one before is the same curve: taken late, it changes nothing.
    _case("trajectory: taken 0.15 s late", ("picked_up_late|fault_not_taken|small_step",),
          do.late_trajectory, 0.55, holds=None, late=True),
    _case("controller: silent", ("fault_reference_silent",),
          do.arm(ArmWorld(reference_silent=True)), 0.3),
    _case("joint states: stopped", ("fault_joint_states_stale",),
          do.arm(ArmWorld(joint_states="stopped")), 0.25),
    _case("stop: service", ("e_stops",), do.service(do.STOP_SERVICE)),
    _case("stop: 9 ms after a chunk", ("e_stops",), do.stop_after_chunk(0.009)),
    _case("clock: 20 ms forward", ("fault_clock",), do.step_clock(0.02), _OWN_END_S),
    _case("clock: 40 ms back", ("fault_clock",), do.step_clock(-0.04), _OWN_END_S),
)  # fmt: skip
