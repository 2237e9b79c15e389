# SPDX-License-Identifier: Apache-2.0
"""Which stops of a soak are explained: a lost trajectory within 0.5 s before, a lost chunk, report
or picture within 2 s before, engaging within 2 s before."""

from pathlib import Path

import numpy as np

from par_model.interface import ActionChunk, Observation, Policy, PolicySpec
from par_ros.fixed_chunk_node import FixedChunkPolicy
from par_ros.proof.losses import Loss, losses_of
from par_ros.proof.paced_policy import PacedPolicy
from par_ros.proof.soak_stops import StopList
from par_ros.wire_records import GuardState

ENGAGED = GuardState(True, False, "", "")


def holding(why: str) -> GuardState:
    return GuardState(True, False, why, "")


def disengaged(fault: str) -> GuardState:
    return GuardState(False, False, fault, fault)


def stops_of(*states: tuple[float, GuardState], losses: tuple[Loss, ...] = ()):
    found = StopList()
    for time_s, state in states:
        found.note(state, "because", time_s)
    return [(stop.time_s, stop.kind, stop.explained_by) for stop in found.explained(losses)]


def test_a_stop_is_explained_by_the_newest_loss_that_leads_to_it() -> None:
    losses = (Loss(9.0, "trajectory"), Loss(9.8, "trajectory"), Loss(9.9, "picture"))
    states = (0.0, ENGAGED), (10.0, disengaged("not_taken"))
    assert stops_of(*states, losses=losses) == [
        (10.0, "fault not_taken", "trajectory lost 0.20 s before")
    ]
    late = (0.0, ENGAGED), (11.5, holding("late"))
    assert stops_of(*late, losses=losses)[0][2] == "picture lost 1.60 s before"


def test_what_nothing_explains_stays_so() -> None:
    """A loss of another kind, too long ago, or afterwards; a fault that no loss leads to."""
    losses = (Loss(9.0, "trajectory"), Loss(9.9, "picture"), Loss(10.1, "trajectory"))
    for state in (disengaged("not_taken"), disengaged("jump"), holding("limits"), holding("slow")):
        ((_, _, explained_by),) = stops_of((0.0, ENGAGED), (10.0, state), losses=losses)
        assert explained_by == ""


def test_a_hold_right_after_engaging_is_explained_and_each_stop_counts_once() -> None:
    states = (
        (0.0, disengaged("")), (1.0, ENGAGED), (1.5, holding("settling")),
        (1.6, holding("settling")), (1.7, ENGAGED), (9.0, holding("late")), (9.1, ENGAGED),
        (12.0, disengaged("clock")), (12.5, disengaged("clock")),
    )  # fmt: skip
    assert stops_of(*states) == [
        (1.5, "hold settling", "engaging"), (9.0, "hold late", ""), (12.0, "fault clock", "")
    ]  # fmt: skip


def test_with_sequential_inference_a_delay_explains_a_late_chunk_and_no_other_stop() -> None:
    found = StopList()
    for time_s, state in ((0.0, ENGAGED), (9.0, holding("late")), (9.1, ENGAGED),
                          (12.0, disengaged("dead_policy"))):  # fmt: skip
        found.note(state, "because", time_s)
    assert [stop.explained_by for stop in found.explained((), waits=True)] == ["delay", ""]
    assert [stop.explained_by for stop in found.explained(())] == ["", ""]


def test_losses_are_read_from_the_logs(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(
        "[INFO] [1732612346.500000000] [policy_node]: injected loss: chunk\nother\n"
    )
    (tmp_path / "b.log").write_text(
        "[INFO] [1732612345.250000000] [loopback_arm_node]: injected loss: trajectory\n"
    )
    assert losses_of(tmp_path) == [Loss(1732612345.25, "trajectory"), Loss(1732612346.5, "chunk")]


class LookAhead(FixedChunkPolicy):
    """18 actions that stand still, told of the committed ones."""

    @property
    def spec(self) -> PolicySpec:
        import dataclasses

        return dataclasses.replace(super().spec, max_delay_steps=10)

    def act(self, committed=None) -> ActionChunk:
        rows = np.tile(np.append(np.full(7, 0.1), 0.04), (18, 1))
        if committed is not None:
            rows[: len(committed)] = committed
        return ActionChunk(rows, self.spec.joint_names, 0.05, stamp_s=self.stamp_s)

    def observe(self, observation: Observation) -> None:
        self.stamp_s = observation.stamp_s


def test_a_fault_before_the_first_state_that_was_heard_is_a_stop() -> None:
    assert stops_of((1.0, disengaged("jump"))) == [(1.0, "fault jump", "")]
    assert stops_of((1.0, GuardState(False, False, "", ""))) == []


def test_an_overlapped_soaks_chunks_go_on_from_each_other_within_limits() -> None:
    """From rest, 5 actions committed; accelerations below 7.5 rad/s^2, joint 2's limit."""
    inner: Policy = LookAhead()
    policy = PacedPolicy(inner, 1.0)
    policy.reset(inner.spec.instructions[0], 0)
    # As policy_node warms it up: at the joints' zero, at time 0.
    policy.observe(_observation(inner, np.zeros(8), 0.0))
    policy.act(np.zeros((5, 8)))
    policy.reset(inner.spec.instructions[0], 0)
    here = np.append(np.full(7, 0.3), 0.04)
    line = [here] * 3
    running = np.tile(here, (18, 1))
    for slot in range(20):
        policy.observe(_observation(inner, line[-1], 1e9 + 0.4 * slot))
        committed = running[8:13] if slot else running[:5]
        running = policy.act(committed).joint_positions
        np.testing.assert_array_equal(running[:5], committed)
        line.extend(running[:8])
    arm = np.array(line)[:, :7]
    assert np.abs(np.diff(arm, 2, axis=0)).max() / 0.05**2 < 7.5
    assert np.ptp(arm, axis=0).min() > 0.2


def _observation(policy: Policy, joints: np.ndarray, stamp_s: float) -> Observation:
    return Observation(
        image=np.zeros((128, 128, 3), np.uint8),
        measured_joint_positions=joints,
        joint_names=policy.spec.joint_names,
        stamp_s=stamp_s,
        executed_actions=None,
    )
