# SPDX-License-Identifier: Apache-2.0
"""Camera and joint states in, action chunks out: the lifecycle node around a Policy.

configure loads the policy and warms it up, activate starts an episode, deactivate stops answering.
Which picture is answered when, and with which past, is decided in control/policy_turn.py; this file
takes messages, calls it and the policy, and publishes. One worker thread owns the policy, so topics
are read while it thinks; only ~/reset and deactivate wait for it. One thread spins: rclpy's
MultiThreadedExecutor costs half a core at 20 pictures/s. A camera that is silent, stalled, frozen,
black or of a wrong size or encoding gets no answer, and /diagnostics says why. In lockstep, a
picture that is refused ends the process: physics would wait for ever.
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_model.interface import (
    RECENT_IMAGE_STRIDE,
    RECENT_IMAGES,
    Observation,
    Policy,
    PolicyEnded,
    PolicySpec,
)
from par_model.seam import NUM_BEFORE
from par_ros import messages
from par_ros.answer_delay import AnswerDelay
from par_ros.chunk_ledger import ChunkLedger
from par_ros.control.camera_check import CameraCheckSettings
from par_ros.control.camera_set import ViewSettings
from par_ros.control.observation_assembler import (
    AssembledObservation,
    AssemblerSettings,
    Refusal,
)
from par_ros.control.overlapped_turn import OverlappedTurn, OverlapSettings
from par_ros.control.policy_turn import (
    ClipSettings,
    PolicyTurn,
    Question,
    TurnSettings,
)
from par_ros.control.timeline import Moment
from par_ros.drawn_pictures import draw, require_pictures, wanted_pictures
from par_ros.joined_chunk import joined
from par_ros.leaving import leave, leave_at_once_when_asked
from par_ros.lifecycle import ManagedNode
from par_ros.messages import Picture
from par_ros.parameters import PolicyNodeParameters, declare, read
from par_ros.policy_inputs import PolicyInputs
from par_ros.policy_outputs import PolicyOutputs
from par_ros.policy_report import PolicyReport
from par_ros.policy_source import (
    check_changes,
    checkpoint_policy,
    require_inference,
    require_same_chunk,
)
from par_ros.process import (
    leaves_at_once,
    report_error,
    run_node,
    transition,
)
from par_ros.surprise_watch import SurpriseWatch
from par_ros.timed_policy import act, clocks_agree, latency_budget, warm_up
from par_ros.topics import POLICY, RESET_POLICY
from par_ros.view_reader import ViewReader

LoadPolicy = Callable[[PolicyNodeParameters], Policy]

_DIAGNOSTICS_PERIOD_S = 1.0


class PolicyNode(ManagedNode):
    """`load_policy` makes the policy from the parameters; it runs in configure."""

    def __init__(self, load_policy: LoadPolicy) -> None:
        super().__init__(POLICY)
        self._load_policy = load_policy
        self._settings = declare(self, PolicyNodeParameters)
        self.add_on_set_parameters_callback(
            lambda changes: check_changes(self._policy, self._settings, changes)
        )
        self._policy: Policy | None = None
        self._turn: PolicyTurn[Picture] | None = None
        self._report = PolicyReport(ChunkLedger(keeps_times=clocks_agree(self._settings)))
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._failure: BaseException | None = None
        self._delay = AnswerDelay(
            self._settings.policy_delay, self._settings.delay_jitter, self._settings.policy_seed
        )
        self._failed = self.create_guard_condition(self._raise_failure)

    # Lifecycle

    @transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._settings = read(self, PolicyNodeParameters)
            with leaves_at_once():
                self._policy = self._load_policy(self._settings)
                require_same_chunk(self._policy.spec, self._settings)
                require_inference(self._policy.spec, self._settings)
                require_pictures(self._policy, self._settings)
                budget = latency_budget(self._policy, self._settings)
                warm_up(self._policy, self._settings, budget)
                self._watch = SurpriseWatch(self, self._policy, self._settings, self._report)
        except (ValueError, FileNotFoundError) as error:
            report_error(error)
            self._policy = None
            return TransitionCallbackReturn.FAILURE
        self._report.budget = budget
        self._turn = _make_turn(self._policy.spec, self._settings, self._now())
        self._create_interfaces()
        return TransitionCallbackReturn.SUCCESS

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._start_episode()
        except ValueError as error:
            report_error(error)
            return TransitionCallbackReturn.FAILURE
        result = super().on_activate(state)
        assert self._turn is not None
        with self._lock:
            self._turn.activate()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        assert self._turn is not None
        with self._lock:
            self._turn.deactivate()
            self._begin_episode(self._turn)
        # A chunk that is being computed belongs to the episode that has just been forgotten.
        self._worker.submit(lambda: None).result()
        self._publish_diagnostics()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        for part in (self._inputs, self._outputs, self._watch):
            part.destroy()
        self.destroy_timer(self._diagnostics_timer)
        self.destroy_service(self._reset_service)
        self._policy = self._turn = None
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._turn is not None:
            with self._lock:
                self._turn.deactivate()
        return TransitionCallbackReturn.SUCCESS

    def _make_outputs(self) -> PolicyOutputs:
        return PolicyOutputs(self)

    def _create_interfaces(self) -> None:
        self._outputs = self._make_outputs()
        self._inputs = PolicyInputs(
            self,
            views=self._policy.spec.views,
            reliable=self._settings.mode == "lockstep",
            transport=self._settings.image_transport,
            on_picture=self._on_image,
            on_joint_state=self._on_joint_state,
            on_executed_actions=self._on_executed_actions,
        )
        self._reset_service = self.create_service(
            Trigger, RESET_POLICY.private_name, self._on_reset
        )
        self._diagnostics_timer = self.create_timer(
            _DIAGNOSTICS_PERIOD_S,
            self._on_diagnostics_timer,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    # Callbacks

    def _on_image(self, message: Picture, publisher: str, view: str) -> None:
        now, turn = self._now(), self._turn
        with self._lock:
            if turn is None or not turn.is_active:
                return
            pixels, stamp_ns = messages.image_bytes(message), messages.stamp_ns(message)
            self._act_on(turn.take_picture(message, pixels, stamp_ns, now, publisher, view))

    def _on_joint_state(self, message: JointState) -> None:
        turn = self._turn
        with self._lock:
            if turn is not None and turn.is_active:
                reading = messages.read_joint_state(message)
                self._act_on(turn.take_joint_state(reading, self._now()))

    def _on_executed_actions(self, message: JointTrajectoryMessage) -> None:
        turn = self._turn
        stamp_ns = messages.stamp_ns(message)
        with self._lock:
            if turn is None or not turn.awaits_executed_actions(stamp_ns):
                return
            try:
                executed = messages.read_joint_trajectory(message)
            except ValueError as error:
                self._refuse(Refusal("executed_actions", str(error)))
                return
            now = self._now()
            self._report.take(stamp_ns, now.steady_ns / messages.NANOSECONDS, executed.times_s)
            holds = messages.tells_hold(message)
            self._act_on(turn.take_executed_actions(stamp_ns, executed, now, holds=holds))

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            self._start_episode()
            response.success, response.message = True, "waiting for the first picture"
        except ValueError as error:
            response.success, response.message = False, str(error)
        self._publish_diagnostics()
        return response

    # Episode

    def _start_episode(self) -> None:
        """Reset the policy with the parameters as they are now. Raises ValueError for them."""
        parameters = read(self, PolicyNodeParameters)
        turn = self._turn
        assert turn is not None
        with self._lock:
            self._begin_episode(turn)
            reset = self._submit_reset(parameters)
        reset.result()
        self._settings = parameters
        with self._lock:
            # No picture was taken in while this thread waited.
            turn.restart_camera(self._now())

    def _begin_episode(self, turn: PolicyTurn[Picture]) -> None:
        """Drop what waits and what is being computed. Under the lock."""
        turn.begin_episode(self._now())
        self._report.begin_episode()
        # Behind what the worker still does for the episode before.
        self._worker.submit(self._watch.begin_episode)

    def _submit_reset(self, parameters: PolicyNodeParameters) -> "Future[None]":
        assert self._policy is not None
        return self._worker.submit(
            self._policy.reset, parameters.instruction, parameters.policy_seed
        )

    def _act_on(self, outcome: Question[Picture] | Refusal | None) -> None:
        """Hand a question to the worker, report a refusal. Under the lock."""
        if isinstance(outcome, Refusal):
            self._refuse(outcome)
        elif outcome is not None:
            self._report.ask(outcome.age_s, starts_anew=outcome.starts_anew)
            if outcome.starts_anew:
                # The same noise would give the same chunks as at the episode's start.
                seed = _seed_of_next_context(self._settings.policy_seed)
                self._settings = dataclasses.replace(self._settings, policy_seed=seed)
                self._submit_reset(self._settings)
            self._worker.submit(self._answer, outcome)

    def _now(self) -> Moment:
        return Moment(self.get_clock().now().nanoseconds, time.monotonic_ns())

    # Worker thread

    def _answer(self, question: Question[Picture]) -> None:
        turn = self._turn
        assert turn is not None
        try:
            self._compute_and_publish(question, turn)
        except PolicyEnded as error:
            self._fail(error)
        except ValueError as error:
            with self._lock:
                # A new episode has nothing to do with what happened in the one before.
                if turn.wants(question):
                    self._refuse(Refusal(getattr(error, "kind", "policy"), str(error)))
                    turn.lose_context()
        except BaseException as error:
            # Nobody waits for this thread: hand the error to the one that spins.
            self._fail(error)
            raise
        finally:
            with self._lock:
                self._act_on(turn.free(self._now()))

    def _compute_and_publish(self, question: Question[Picture], turn: PolicyTurn[Picture]) -> None:
        policy, pending, started_s = self._policy, question.pending, time.monotonic()
        assert policy is not None
        with self._lock:
            age_s = (self._now().ros_ns - pending.stamp_ns) / messages.NANOSECONDS
            num_steps = self._report.budget.choose_steps(age_s)

        def is_wanted() -> bool:
            with self._lock:
                return turn.wants(question)

        policy.observe(_observation(question.assembled, policy.spec))
        self._watch.look(pending.stamp_ns, self._settings.instruction, is_wanted)
        chunk = act(policy, question.committed, num_steps)
        chunk.validate(policy.spec)
        ended_s = time.monotonic()
        self._delay.wait(pending.stamp_ns, lambda: self._now().ros_ns, is_wanted)
        with self._lock:
            followed = turn.followed_until(question, self._now())
            chunk = joined(chunk, followed, self._settings.seam_smoothness)
            if not turn.send(question, chunk.joint_positions):
                return
            self._outputs.publish_chunk(chunk, question, self._settings, num_steps, followed)
            sent_s = time.monotonic()
            self._report.sent(question, (started_s, ended_s, sent_s), num_steps)
        self._watch.foretell()
        for kind in wanted_pictures(self._settings):
            with self._lock:
                fits = self._report.budget.may_draw(kind, _left_s(policy.spec, sent_s))
            if fits:
                picture = draw(policy, kind, self._report.budget)
                self._outputs.publish_drawn(picture, kind, pending, policy.spec)

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._failed.trigger()

    def _raise_failure(self) -> None:
        """In the spinning thread: end the process with the worker's error."""
        if self._failure is not None:
            raise self._failure

    # Diagnostics

    def _refuse(self, refusal: Refusal) -> None:
        """Count and report an observation that is not answered; in lockstep, where nobody would
        send another one, end the process. Under the lock."""
        if self._settings.mode == "lockstep":
            self._fail(ValueError(refusal.reason))
        is_new_fault = self._report.refuse(refusal)
        self.get_logger().warning(
            f"observation refused: {refusal.reason}", throttle_duration_sec=1.0
        )
        if is_new_fault:
            self._report_camera_fault(refusal)

    def _report_camera_fault(self, refusal: Refusal) -> None:
        """At once, and once for each kind. Under the lock."""
        self.get_logger().error(f"no chunk is sent: {refusal.reason}")
        self._publish_status()

    def _on_diagnostics_timer(self) -> None:
        assert self._turn is not None
        inputs = self._inputs.look()
        with self._lock:
            self._report.inputs = inputs
            silent = self._turn.check_silence(self._now())
            if silent is not None and inputs.camera:
                silent = dataclasses.replace(silent, reason=inputs.camera)
            if silent is not None and self._report.note_camera_fault(silent):
                self._report_camera_fault(silent)
            self._publish_status()

    def _publish_diagnostics(self) -> None:
        with self._lock:
            self._publish_status()

    def _publish_status(self) -> None:
        """Under the lock."""
        status = self._report.status(
            self._outputs.name,
            str(getattr(self._policy, "backend", "")),
            is_active=self._turn is not None and self._turn.is_active,
        )
        self._outputs.publish_status(status)


def _left_s(spec: PolicySpec, since_s: float) -> float:
    """Of a chunk's duration, what is left of it since then."""
    return since_s + spec.num_actions * spec.step_s - time.monotonic()


def _make_turn(
    spec: PolicySpec, parameters: PolicyNodeParameters, now: Moment
) -> PolicyTurn[Picture]:
    """Whose turn it is, for this policy and these limits."""
    lockstep = parameters.mode == "lockstep"
    # In lockstep picture and joint states of one moment carry one stamp, and time stands still.
    max_skew_s = 0.0 if lockstep else parameters.max_skew_s
    overlap = None
    if parameters.inference == "overlapped":
        overlap = OverlapSettings(
            spec.num_actions,
            spec.max_delay_steps,
            spec.step_s,
            parameters.max_prefix_steps,
            num_joined=NUM_BEFORE if parameters.seam_smoothness > 0.0 else 0,
        )
    assembler = AssemblerSettings(max_joint_skew_s=0.0)
    if not lockstep:
        assembler = AssemblerSettings(
            max_image_age_s=overlap.max_image_age_s if overlap else parameters.max_image_age_s,
            max_joint_skew_s=max_skew_s,
            max_future_s=parameters.max_future_s,
        )
    camera = CameraCheckSettings(
        # In lockstep the first picture is repeated, and a slow policy makes a slow camera.
        max_silence_s=None if lockstep else parameters.max_camera_silence_s,
        max_stall_s=None if lockstep else parameters.max_stamp_stall_s,
        frozen_motion_rad=parameters.frozen_motion_rad,
        min_brightness=parameters.min_brightness,
    )
    clip = ClipSettings(RECENT_IMAGES, RECENT_IMAGE_STRIDE * spec.step_s, max_skew_s)
    settings = TurnSettings(
        joint_names=spec.joint_names,
        chunk_s=spec.num_actions * spec.step_s,
        lockstep=lockstep,
        assembler=assembler,
        camera=camera,
        clip=clip if spec.observation_mode == "clip" else None,
        joint_prefix=parameters.joint_prefix,
        views=ViewSettings(
            spec.views,
            0.0 if lockstep else parameters.max_view_skew_s,
            depth=tuple(view.name for view in spec.depth_views),
        ),
        steps_between=spec.steps_between,
    )

    reader = ViewReader.of(spec)
    if overlap is not None:
        return OverlappedTurn(settings, overlap, reader.read, reader.fit, now)
    return PolicyTurn(settings, reader.read, reader.fit, now)


def _seed_of_next_context(seed: int) -> int:
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


def _observation(assembled: AssembledObservation, spec: PolicySpec) -> Observation:
    return Observation(
        image=assembled.image,
        measured_joint_positions=assembled.measured_joint_positions,
        joint_names=assembled.joint_names,
        stamp_s=assembled.stamp_ns / messages.NANOSECONDS,
        executed_actions=assembled.executed_actions,
        recent_images=assembled.recent_images,
        views=spec.views,
    )


def main() -> int:
    """The executable policy_node."""
    leave_at_once_when_asked()
    # Which runtime answers and why, and what is compiled or exported first.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("par_model").setLevel(logging.INFO)
    return run_node(lambda: PolicyNode(checkpoint_policy))


if __name__ == "__main__":
    leave(main())
