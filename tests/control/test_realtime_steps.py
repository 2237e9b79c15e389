# SPDX-License-Identifier: Apache-2.0
"""A realtime simulation without DDS: guard, policy's turn and the bridge's pace as `sim` sets them.

Control steps of 50 ms; what the sensors say comes 15 ms after a step, a message is 3 ms on its way,
and the policy's answer reaches the guard `answer_ms` after the picture. One loop a millisecond.
"""

import heapq
import itertools
from collections.abc import Callable

import numpy as np
import pytest

from par_ros.control.camera_check import CameraCheckSettings
from par_ros.control.command import Command
from par_ros.control.guard import Guard, StopLatch
from par_ros.control.joint_states import JointReading, JointSample
from par_ros.control.joint_trajectory import FloatArray
from par_ros.control.observation_assembler import AssemblerSettings, ImageArray, Refusal
from par_ros.control.policy_turn import PolicyTurn, Question, TurnSettings
from par_ros.control.reference_watch import ReferenceSample
from par_ros.control.safety_filter import RequestedChunk
from par_ros.control.step_pace import StepPace
from par_ros.control.timeline import Moment
from par_ros.control.trajectory_follower import TrajectoryFollower
from par_ros.graph_arguments import SimArguments
from par_ros.guarded_arm import read_guarded_arm
from par_ros.node_graph import sim_graph
from par_ros.parameters import SafetyNodeParameters, guard_settings
from par_ros.topics import BRIDGE, GUARD

STEP_NS = 50_000_000
DRAWING_MS = 15
WAY_MS = 3
TIMES_S = 0.05 * np.arange(1, 9)
HOME_M = 0.04


class Simulation:
    """What the bridge applied at each step, and what the policy was told of it."""

    def __init__(self, answer_ms: int) -> None:
        graph = {entry.name: entry for entry in sim_graph(SimArguments(mode="realtime")).nodes}
        given = dict(graph[GUARD].parameters)
        del given["use_sim_time"]
        parameters = SafetyNodeParameters(**given)
        self.spec = read_guarded_arm(parameters)
        settings = guard_settings(parameters, use_sim_time=True)
        self.guard = Guard(self.spec, settings, StopLatch())
        names = self.spec.joint_names
        turn = TurnSettings(names, 0.4, False, AssemblerSettings(), CameraCheckSettings())
        self.turn: PolicyTurn[ImageArray] = PolicyTurn(
            turn, lambda picture, view: picture, lambda picture, view: picture, Moment(0, 0)
        )
        self.turn.activate()
        self.pace = StepPace(0.05, float(graph[BRIDGE].parameters["clock_lead_s"]), 0.0)
        self.arm = TrajectoryFollower(names[:-1], self.spec.home)
        self.gripper = TrajectoryFollower(names[-1:], np.array([HOME_M]))
        self.answer_ms = answer_ms
        self.wall_ms = 0
        # Simulated time: the bridge's, and what /clock shows.
        self.time_ns = self.clock_ns = 1_000_000_000
        self._later: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._wanted = self.spec.home
        self._noise = np.random.default_rng(1)
        # By the time at which they are due, [J].
        self.applied: dict[int, FloatArray] = {}
        self.reported: dict[int, FloatArray] = {}
        self.chunk_stamps_ns: list[int] = []

    def run(self, num_steps: int) -> None:
        while len(self.applied) < num_steps:
            while self._later and self._later[0][0] <= self.wall_ms:
                heapq.heappop(self._later)[2]()
            if self.wall_ms % 20 == 0:
                self._send(self.guard.on_tick(1, self.moment()))
            due = self.pace.take(self.wall_ms / 1e3)
            if due == "announce":
                self._after(1, self._show_clock)
            elif due == "step":
                self._step()
            self.wall_ms += 1

    def moment(self) -> Moment:
        return Moment(self.clock_ns, self.wall_ms * 1_000_000)

    def _after(self, delay_ms: int, call: Callable[[], None]) -> None:
        heapq.heappush(self._later, (self.wall_ms + delay_ms, next(self._order), call))

    def _show_clock(self) -> None:
        self.clock_ns = self.time_ns + STEP_NS

    def _step(self) -> None:
        due_ns = self.time_ns + STEP_NS
        arm, gripper = self.arm.sample(due_ns), self.gripper.sample(due_ns)
        self.applied[due_ns] = np.append(arm.positions, gripper.positions)
        self.time_ns = due_ns
        self._after(DRAWING_MS, lambda: self._sense(due_ns, self.applied[due_ns]))
        reference = ReferenceSample(due_ns, arm.positions, arm.velocities, arm.accelerations)
        self._after(
            DRAWING_MS, lambda: self._send(self.guard.on_reference(reference, self.moment()))
        )

    def _sense(self, stamp_ns: int, joints: FloatArray) -> None:
        now = self.moment()
        sample = JointSample(stamp_ns, joints, np.zeros(len(joints)))
        self._send(self.guard.on_joint_state(sample, now))
        if not self.guard.engaged:
            self._send(self.guard.engage(now).command)
        reading = JointReading(stamp_ns, self.spec.joint_names, joints, None)
        self._ask(self.turn.take_joint_state(reading, now))
        picture = self._noise.integers(80, 100, (8, 8, 3), np.uint8)
        if self.guard.engaged:
            self._ask(self.turn.take_picture(picture, picture.reshape(-1), stamp_ns, now))

    def _ask(self, outcome: Question[ImageArray] | Refusal | None) -> None:
        assert not isinstance(outcome, Refusal), outcome
        if outcome is not None:
            self._after(self.answer_ms, lambda: self._answer(outcome))

    def _answer(self, question: Question[ImageArray]) -> None:
        """A chunk that goes on from the one before, at a speed of its own."""
        speed = 0.1 + 0.1 * len(self.chunk_stamps_ns) % 0.3
        knots = self._wanted + speed * TIMES_S[:, None]
        self._wanted = knots[-1]
        positions = np.column_stack((knots, np.full(8, HOME_M)))
        assert self.turn.send(question, positions)
        self._ask(self.turn.free(self.moment()))
        stamp_ns = question.pending.stamp_ns
        self.chunk_stamps_ns.append(stamp_ns)
        chunk = RequestedChunk(stamp_ns, self.spec.joint_names, TIMES_S, positions)
        self._send(self.guard.on_chunk(chunk, self.moment()))

    def _send(self, command: Command) -> None:
        assert self.guard.last_fault is None, self.guard.last_fault
        self._after(WAY_MS, lambda: self._deliver(command))

    def _deliver(self, command: Command) -> None:
        for follower, trajectory in ((self.arm, command.arm), (self.gripper, command.gripper)):
            if trajectory is not None:
                follower.follow(trajectory, command.stamp_ns, self.time_ns)
                follower.pick_up(self.time_ns)
        if command.executed is not None:
            stamp_ns, executed = command.executed_stamp_ns, command.executed
            for time_s, positions in zip(executed.times_s, executed.positions, strict=True):
                self.reported[stamp_ns + round(time_s * 1e9)] = positions
            self._ask(self.turn.take_executed_actions(stamp_ns, executed, self.moment()))

    def moving(self) -> list[int]:
        """The times of the steps from the first chunk's first action on."""
        return [due_ns for due_ns in self.applied if due_ns >= min(self.reported)]


@pytest.mark.parametrize("answer_ms", [1, 10, 20])
def test_an_answer_within_a_step_costs_no_step(answer_ms: int) -> None:
    """Chunks follow each other every eight steps, as in lockstep."""
    simulation = Simulation(answer_ms)
    simulation.run(60)
    assert set(np.diff(simulation.chunk_stamps_ns)) == {8 * STEP_NS}
    assert len(simulation.moving()) > 5 * 8
    assert all(due_ns in simulation.reported for due_ns in simulation.moving())


@pytest.mark.parametrize("answer_ms", [40, 60])
def test_an_answer_in_the_next_step_costs_one(answer_ms: int) -> None:
    """All eight actions run; the arm comes to rest for one step between them."""
    simulation = Simulation(answer_ms)
    simulation.run(60)
    assert set(np.diff(simulation.chunk_stamps_ns)) == {9 * STEP_NS}


@pytest.mark.parametrize("answer_ms", range(1, 121, 3))
def test_what_is_executed_is_what_the_policy_is_told(answer_ms: int) -> None:
    """Each target is the reported knot of its moment, however the answer lies to the steps."""
    simulation = Simulation(answer_ms)
    simulation.run(60)
    told = [due_ns for due_ns in simulation.moving() if due_ns in simulation.reported]
    assert len(told) > 4 * 8
    for due_ns in told:
        np.testing.assert_allclose(
            simulation.applied[due_ns], simulation.reported[due_ns], rtol=0, atol=1e-9
        )
    assert simulation.guard.counters["picked_up_late"] == 0
