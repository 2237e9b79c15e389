# SPDX-License-Identifier: Apache-2.0
"""Camera and joint states in, action chunks out: the lifecycle node around a Policy.

configure loads the policy and warms it up, activate starts an episode, deactivate stops answering.
One worker thread owns the policy, so topics are read while it thinks; only ~/reset and deactivate
wait for it. One thread spins: rclpy's MultiThreadedExecutor costs half a core at 20 pictures/s. A
chunk answers the first picture taken after the running chunk has ended; what the guard really sent
(executed_actions) goes into the next observation. A camera that is silent, stalled, frozen, black
or of a wrong size or encoding gets no answer, and /diagnostics says why. In lockstep, a picture
that is refused ends the process: physics would wait for ever.
"""

import dataclasses
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_model.interface import (
    RECENT_IMAGE_STRIDE,
    RECENT_IMAGES,
    FloatArray,
    ImageArray,
    Observation,
    Policy,
    PolicySpec,
)
from par_ros import messages
from par_ros.control.camera_check import CAMERA_FAULTS, CameraCheck, CameraCheckSettings
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.control.observation_assembler import (
    AssembledObservation,
    AssemblerSettings,
    ObservationAssembler,
    Refusal,
)
from par_ros.control.recent_pictures import RecentPictures
from par_ros.leaving import leave_at_once_when_asked
from par_ros.parameters import PolicyNodeParameters, declare, read
from par_ros.process import (
    leaves_at_once,
    report_error,
    run_node,
    transition,
)
from par_ros.topics import (
    ACTION_CHUNK,
    DIAGNOSTICS,
    EXECUTED_ACTIONS,
    IMAGE,
    JOINT_STATES,
    OBSERVED,
    POLICY,
    PREDICTED_IMAGE,
    RESET_POLICY,
    sensor_qos,
)

LoadPolicy = Callable[[PolicyNodeParameters], Policy]

_DIAGNOSTICS_PERIOD_S = 1.0
_NUM_TIMES_KEPT = 1000
# Two positions closer than this are the same command.
_STANDSTILL = 1e-9
# What a later message can still complete: the picture stays.
_WAITING_KINDS = ("skew", "joints")
# So many pictures are kept for a policy that sees in clips: two seconds at 30 Hz.
_NUM_PICTURES_KEPT = 60


@runtime_checkable
class FramePredictor(Protocol):
    """A policy that can also draw what it expects to see next."""

    def predict_frame(self) -> ImageArray:
        """uint8 [H, W, 3]: the next observation after the chunk of the last act()."""


@dataclass(frozen=True)
class PendingImage:
    """A picture that waits for its turn, its joint states or the end of the running chunk."""

    message: Image
    stamp_ns: int
    received_s: float


@dataclass(frozen=True)
class SentChunk:
    """The last chunk published, and whether the guard has said what became of it."""

    stamp_ns: int
    positions: FloatArray
    acknowledged: bool


class Times:
    """Durations since the start and since they were last taken; its owner's lock guards it."""

    def __init__(self) -> None:
        self._all: deque[float] = deque(maxlen=_NUM_TIMES_KEPT)
        self._new: list[float] = []

    def add(self, duration_s: float) -> None:
        self._all.append(duration_s * 1e3)
        self._new.append(duration_s * 1e3)

    def take_new(self) -> list[float]:
        """What was added since the last call, ms."""
        new, self._new = self._new, []
        return new

    def percentile_text(self, percent: float) -> str:
        """Over the last thousand; empty without any."""
        return f"{np.percentile(self._all, percent):.2f}" if self._all else ""


class PolicyNode(LifecycleNode):
    """`load_policy` makes the policy from the parameters; it runs in configure."""

    def __init__(self, load_policy: LoadPolicy) -> None:
        super().__init__(POLICY)
        self._load_policy = load_policy
        self._settings = declare(self, PolicyNodeParameters)
        self.add_on_set_parameters_callback(self._check_changes)
        self._policy: Policy | None = None
        self._assembler: ObservationAssembler | None = None
        self._camera = CameraCheck(CameraCheckSettings(), time.monotonic())
        # The pictures on the way, for a policy that sees in clips.
        self._recent: RecentPictures[Image] | None = None
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._episode = 0
        self._active = False
        self._busy = False
        self._pending: PendingImage | None = None
        self._sent: SentChunk | None = None
        self._context_lost = False
        self._failure: BaseException | None = None
        self._failed = self.create_guard_condition(self._raise_failure)
        self._latency = Times()
        self._inference = Times()
        self._observation_age_s = 0.0
        self._num_chunks = 0
        self._num_context_resets = 0
        self._refusals: dict[str, int] = {}
        self._last_refusal = ""
        self._camera_fault: Refusal | None = None

    def _check_changes(self, changes: "list[Parameter[Any]]") -> SetParametersResult:
        """Refuse what the policy cannot do when it is set: the next episode would fail by it."""
        policy = self._policy
        try:
            for change in changes:
                if policy is not None and change.name == "instruction":
                    policy.spec.require_instruction(change.value)
                elif policy is not None and change.name == "predict_images" and change.value:
                    _require_predictor(policy)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    # Lifecycle

    @transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._settings = read(self, PolicyNodeParameters)
            with leaves_at_once():
                self._policy = self._load_policy(self._settings)
                if self._settings.predict_images:
                    _require_predictor(self._policy)
                _warm_up(self._policy, self._settings)
        except (ValueError, FileNotFoundError) as error:
            report_error(error)
            self._policy = None
            return TransitionCallbackReturn.FAILURE
        self._assembler = ObservationAssembler(
            self._policy.spec.joint_names, self._assembler_settings()
        )
        self._camera = CameraCheck(self._camera_settings(), time.monotonic())
        self._recent = self._make_recent_pictures(self._policy.spec)
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
        with self._lock:
            self._active = True
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        with self._lock:
            self._active = False
            self._forget_episode()
        # A chunk that is being computed belongs to the episode that has just been forgotten.
        self._worker.submit(lambda: None).result()
        self._publish_diagnostics()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        for subscription in self._sensor_subscriptions:
            self.destroy_subscription(subscription)
        for publisher in (self._chunks, self._predicted_images):
            self.destroy_lifecycle_publisher(publisher)
        self.destroy_publisher(self._observed)
        self.destroy_publisher(self._diagnostics)
        self.destroy_timer(self._diagnostics_timer)
        self.destroy_service(self._reset_service)
        self._policy = None
        self._assembler = None
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        with self._lock:
            self._active = False
        return TransitionCallbackReturn.SUCCESS

    def _assembler_settings(self) -> AssemblerSettings:
        if self._settings.mode == "lockstep":
            # Picture and joint states of one moment carry one stamp, and time stands still.
            return AssemblerSettings(max_joint_skew_s=0.0)
        return AssemblerSettings(
            max_image_age_s=self._settings.max_image_age_s,
            max_joint_skew_s=self._settings.max_skew_s,
            max_future_s=self._settings.max_future_s,
        )

    def _camera_settings(self) -> CameraCheckSettings:
        settings = self._settings
        # In lockstep the first picture is repeated, and a slow policy makes a slow camera.
        waits = settings.mode == "lockstep"
        return CameraCheckSettings(
            max_silence_s=None if waits else settings.max_camera_silence_s,
            max_stall_s=None if waits else settings.max_stamp_stall_s,
            frozen_motion_rad=settings.frozen_motion_rad,
            min_brightness=settings.min_brightness,
        )

    def _make_recent_pictures(self, spec: PolicySpec) -> RecentPictures[Image] | None:
        if spec.observation_mode != "clip":
            return None
        return RecentPictures(
            num_pictures=RECENT_IMAGES,
            spacing_s=RECENT_IMAGE_STRIDE * spec.step_s,
            max_skew_s=0.0 if self._settings.mode == "lockstep" else self._settings.max_skew_s,
            num_kept=_NUM_PICTURES_KEPT,
        )

    def _create_interfaces(self) -> None:
        reliable = self._settings.mode == "lockstep"
        self._chunks = self.create_lifecycle_publisher(
            JointTrajectoryMessage, ACTION_CHUNK.name, ACTION_CHUNK.writer_qos.profile()
        )
        self._predicted_images = self.create_lifecycle_publisher(
            Image, PREDICTED_IMAGE.name, PREDICTED_IMAGE.writer_qos.profile()
        )
        self._observed = self.create_publisher(
            OBSERVED.message_type, OBSERVED.name, OBSERVED.writer_qos.profile()
        )
        self._diagnostics = self.create_publisher(
            DIAGNOSTICS.message_type, DIAGNOSTICS.name, DIAGNOSTICS.writer_qos.profile()
        )
        self._sensor_subscriptions = [
            self.create_subscription(
                topic.message_type,
                topic.name,
                callback,
                sensor_qos(topic, reliable=reliable),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for topic, callback in ((IMAGE, self._on_image), (JOINT_STATES, self._on_joint_state))
        ]
        self._sensor_subscriptions.append(
            self.create_subscription(
                JointTrajectoryMessage,
                EXECUTED_ACTIONS.name,
                self._on_executed_actions,
                EXECUTED_ACTIONS.reader_qos.profile(),
            )
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

    def _on_image(self, message: Image) -> None:
        image = PendingImage(message, messages.stamp_ns(message), time.monotonic())
        with self._lock:
            if not self._active:
                return
            assert self._assembler is not None
            self._camera.see(
                messages.image_bytes(message),
                image.stamp_ns,
                self._assembler.newest_arm_positions,
                image.received_s,
            )
            # At once: a picture whose stamp has stalled is never due.
            untrusted = self._camera.check_stream(image.received_s)
            if untrusted is not None:
                self._pending = None
                self._refuse(untrusted)
                return
            if self._recent is not None:
                self._recent.add(image.stamp_ns, message)
            self._pending = image
            self._answer_if_ready()

    def _on_joint_state(self, message: JointState) -> None:
        with self._lock:
            if not self._active:
                return
            assert self._assembler is not None
            if not set(message.name) & set(self._assembler.joint_names):
                # Another robot's joints, or another part's: on some systems all share one topic.
                return
            try:
                sample = messages.read_joint_state(message)
                self._assembler.add_joint_state(
                    sample.stamp_ns, sample.joint_names, sample.positions, sample.velocities
                )
            except ValueError as error:
                self._refuse(Refusal("joints", str(error)))
                return
            self._answer_if_ready()

    def _on_executed_actions(self, message: JointTrajectoryMessage) -> None:
        stamp_ns = messages.stamp_ns(message)
        with self._lock:
            sent = self._sent
            if not self._active or sent is None or sent.stamp_ns != stamp_ns:
                return
            assert self._assembler is not None
            try:
                executed = messages.read_joint_trajectory(message).reordered(
                    self._assembler.joint_names
                )
                _require_same_length(executed.positions, sent.positions)
            except ValueError as error:
                self._refuse(Refusal("executed_actions", str(error)))
                return
            self._sent = SentChunk(stamp_ns, sent.positions, acknowledged=True)
            # Held for a whole chunk: what the model remembers of the motion is over.
            self._context_lost = _stood_still(executed.positions, sent.positions)
            end_ns = stamp_ns + messages.seconds_to_ns(executed.duration_s)
            self._assembler.add_executed_actions(executed.positions, end_ns)
            self._answer_if_ready()

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
        with self._lock:
            self._forget_episode()
            reset = self._submit_reset(parameters)
        reset.result()
        self._settings = parameters
        with self._lock:
            # No picture was taken in while this thread waited.
            self._camera.reset(time.monotonic())

    def _forget_episode(self) -> None:
        """Drop what waits and what is being computed. Under the lock."""
        self._episode += 1
        self._pending = None
        self._sent = None
        self._context_lost = False
        self._camera_fault = None
        self._camera.reset(time.monotonic())
        if self._recent is not None:
            self._recent.reset()
        if self._assembler is not None:
            self._assembler.reset()

    def _submit_reset(self, parameters: PolicyNodeParameters) -> "Future[None]":
        policy = self._policy
        if policy is None:
            raise ValueError("policy_node is not configured; configure it first.")
        return self._worker.submit(policy.reset, parameters.instruction, parameters.policy_seed)

    def _answer_if_ready(self) -> None:
        """Hand the pending picture to the worker if it is this picture's turn. Under the lock."""
        image = self._pending
        if image is None or self._busy or not self._is_due(image.stamp_ns):
            return
        lockstep = self._settings.mode == "lockstep"
        now_ns = image.stamp_ns if lockstep else self.get_clock().now().nanoseconds
        assembled = self._assemble(image, now_ns)
        if isinstance(assembled, Refusal):
            if assembled.kind not in _WAITING_KINDS:
                self._pending = None
                self._refuse(assembled)
            elif not lockstep:
                self._refuse(assembled)
            return
        self._camera_fault = None
        self._pending = None
        self._busy = True
        self._observation_age_s = (now_ns - image.stamp_ns) / messages.NANOSECONDS
        if self._context_lost:
            self._context_lost = False
            self._num_context_resets += 1
            self._submit_reset(self._settings)
        self._worker.submit(self._answer, self._episode, image, assembled)

    def _assemble(self, image: PendingImage, now_ns: int) -> AssembledObservation | Refusal:
        """What the policy is shown for `image`, or why it is shown nothing. Under the lock."""
        assert self._assembler is not None
        picture = self._fitted(image.message)
        if isinstance(picture, Refusal):
            return picture
        refusal = self._camera.check_brightness(picture)
        if refusal is not None:
            return refusal
        assembled = self._assembler.assemble(picture, image.stamp_ns, now_ns)
        if isinstance(assembled, Refusal):
            return assembled
        if self._context_lost:
            assembled = dataclasses.replace(assembled, executed_actions=None)
        if self._recent is None or assembled.executed_actions is None:
            return assembled
        return self._with_recent_images(assembled, self._recent)

    def _fitted(self, message: Image) -> ImageArray | Refusal:
        """The picture in the policy's size, by the checkpoint's rule. Under the lock."""
        assert self._policy is not None
        spec = self._policy.spec
        try:
            picture = messages.image_to_rgb(message)
        except ValueError as error:
            return Refusal("encoding", str(error))
        refusal = self._camera.check_size(*picture.shape[:2])
        if refusal is not None:
            return refusal
        try:
            fitted = spec.camera_fit.fit(picture, spec.image_height, spec.image_width)
        except ValueError as error:
            return Refusal("size", str(error))
        return np.ascontiguousarray(fitted)

    def _with_recent_images(
        self, assembled: AssembledObservation, recent: RecentPictures[Image]
    ) -> AssembledObservation | Refusal:
        """The observation with the pictures on the way to it. Under the lock."""
        assert self._assembler is not None
        assert self._assembler.chunk_end_ns is not None
        chosen = recent.choose(self._assembler.chunk_end_ns, assembled.stamp_ns)
        if isinstance(chosen, Refusal):
            return chosen
        pictures = []
        for _, message in chosen:
            picture = self._fitted(message)
            if isinstance(picture, Refusal):
                return picture
            pictures.append(picture)
        return dataclasses.replace(
            assembled,
            recent_images=np.stack(pictures),
            recent_stamps_ns=tuple(stamp_ns for stamp_ns, _ in chosen),
        )

    def _is_due(self, stamp_ns: int) -> bool:
        """Whether a picture of this stamp answers the running chunk. Under the lock.

        Notes a lost context where the arm has stood, or nothing was heard of the last chunk, for
        longer than a chunk.
        """
        sent = self._sent
        if sent is None:
            return True
        assert self._assembler is not None
        assert self._policy is not None
        spec = self._policy.spec
        chunk_ns = messages.seconds_to_ns(spec.num_actions * spec.step_s)
        end_ns = self._assembler.chunk_end_ns
        if not sent.acknowledged or end_ns is None:
            lost = stamp_ns > sent.stamp_ns + 2 * chunk_ns
            self._context_lost = self._context_lost or lost
            return lost
        if not self._assembler.is_due(stamp_ns):
            return False
        self._context_lost = self._context_lost or stamp_ns > end_ns + chunk_ns
        return True

    # Worker thread

    def _answer(self, episode: int, image: PendingImage, assembled: AssembledObservation) -> None:
        try:
            self._compute_and_publish(episode, image, assembled)
        except ValueError as error:
            with self._lock:
                self._refuse(Refusal("policy", str(error)))
                self._context_lost = True
        except BaseException as error:
            # Nobody waits for this thread: hand the error to the one that spins.
            self._fail(error)
            raise
        finally:
            with self._lock:
                self._busy = False
                if self._active:
                    self._answer_if_ready()

    def _compute_and_publish(
        self, episode: int, image: PendingImage, assembled: AssembledObservation
    ) -> None:
        policy = self._policy
        assert policy is not None
        started_s = time.monotonic()
        policy.observe(_observation(assembled))
        chunk = policy.act()
        chunk.validate(policy.spec)
        inference_s = time.monotonic() - started_s
        trajectory = JointTrajectory(
            chunk.joint_names,
            chunk.step_s * np.arange(1, len(chunk.joint_positions) + 1),
            chunk.joint_positions,
        )
        message = messages.joint_trajectory_message(trajectory, assembled.stamp_ns)
        with self._lock:
            if episode != self._episode or not self._active:
                return
            before = self._sent
            self._sent = SentChunk(assembled.stamp_ns, chunk.joint_positions, acknowledged=False)
            self._chunks.publish(message)
            self._observed.publish(self._observed_message(assembled, before))
            self._inference.add(inference_s)
            self._latency.add(time.monotonic() - image.received_s)
            self._num_chunks += 1
        if self._settings.predict_images and isinstance(policy, FramePredictor):
            self._publish_prediction(policy, policy.spec, image, assembled.stamp_ns)

    def _observed_message(
        self, assembled: AssembledObservation, before: SentChunk | None
    ) -> DiagnosticStatus:
        """What the chunk that has just been sent was computed from, for replay.

        Reset, where it says so, with instruction and seed; `executed_stamp_ns` is the chunk before.
        """
        is_first = assembled.executed_actions is None
        values = {
            "stamp_ns": str(assembled.stamp_ns),
            "joint_stamp_ns": str(assembled.joint_stamp_ns),
            "executed_stamp_ns": "" if is_first or before is None else str(before.stamp_ns),
            "recent_stamps_ns": " ".join(str(stamp) for stamp in assembled.recent_stamps_ns),
            "reset": str(is_first).lower(),
            "instruction": self._settings.instruction,
            "policy_seed": str(self._settings.policy_seed),
        }
        return messages.status_message(
            messages.Status(messages.status_name(self), messages.OK, "observed", values)
        )

    def _publish_prediction(
        self, policy: FramePredictor, spec: PolicySpec, image: PendingImage, stamp_ns: int
    ) -> None:
        predicted_ns = stamp_ns + messages.seconds_to_ns(spec.num_actions * spec.step_s)
        frame_id = image.message.header.frame_id
        self._predicted_images.publish(
            messages.array_to_image(policy.predict_frame(), "rgb8", predicted_ns, frame_id)
        )

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._failed.trigger()

    def _raise_failure(self) -> None:
        """In the spinning thread: end the process with the worker's error."""
        if self._failure is not None:
            raise self._failure

    # Diagnostics

    def _refuse(self, refusal: Refusal) -> None:
        """Count and report an observation that is not answered. Under the lock.

        In lockstep it ends the process: nobody would ever send another one.
        """
        if self._settings.mode == "lockstep":
            self._fail(ValueError(refusal.reason))
        self._refusals[refusal.kind] = self._refusals.get(refusal.kind, 0) + 1
        self._last_refusal = refusal.reason
        self.get_logger().warning(
            f"observation refused: {refusal.reason}", throttle_duration_sec=1.0
        )
        if refusal.kind in CAMERA_FAULTS:
            self._note_camera_fault(refusal)

    def _note_camera_fault(self, refusal: Refusal) -> None:
        """Say at once what is wrong with the camera, once for each kind. Under the lock."""
        is_new = self._camera_fault is None or self._camera_fault.kind != refusal.kind
        self._camera_fault = refusal
        if is_new:
            self.get_logger().error(f"no chunk is sent: {refusal.reason}")
            self._publish_status()

    def _on_diagnostics_timer(self) -> None:
        with self._lock:
            silent = self._camera.check_silence(time.monotonic()) if self._active else None
            if silent is not None:
                self._note_camera_fault(silent)
            self._publish_status()

    def _publish_diagnostics(self) -> None:
        with self._lock:
            self._publish_status()

    def _publish_status(self) -> None:
        """Under the lock."""
        refused = sum(self._refusals.values())
        fault = self._camera_fault
        values = {
            "active": str(self._active).lower(),
            "backend": str(getattr(self._policy, "backend", "")),
            "camera_fault": "" if fault is None else fault.kind,
            "chunks": str(self._num_chunks),
            "context_resets": str(self._num_context_resets),
            "refused_observations": str(refused),
            "last_refusal": self._last_refusal,
            "observation_age_ms": f"{self._observation_age_s * 1e3:.1f}",
            "inference_ms_p50": self._inference.percentile_text(50),
            "inference_ms_p99": self._inference.percentile_text(99),
            "latency_ms_p50": self._latency.percentile_text(50),
            "latency_ms_p99": self._latency.percentile_text(99),
            "new_inference_ms": _list_text(self._inference.take_new()),
            "new_latency_ms": _list_text(self._latency.take_new()),
        }
        values |= {f"refused_{kind}": str(count) for kind, count in self._refusals.items()}
        if fault is not None:
            level, text = messages.ERROR, f"no chunk is sent: {fault.reason}"
        elif refused:
            level, text = messages.WARN, f"{refused} observations refused"
        else:
            level, text = messages.OK, "answering" if self._active else "not active"
        status = messages.Status(messages.status_name(self), level, text, values)
        now_ns = self.get_clock().now().nanoseconds
        self._diagnostics.publish(messages.diagnostics_message((status,), now_ns))


def _require_predictor(policy: Policy) -> None:
    """Raise ValueError where `policy` cannot draw what it expects."""
    if not isinstance(policy, FramePredictor):
        raise ValueError(
            "predict_images is true, but this policy cannot predict pictures; set "
            "predict_images:=false."
        )


def _observation(assembled: AssembledObservation) -> Observation:
    return Observation(
        image=assembled.image,
        measured_joint_positions=assembled.measured_joint_positions,
        joint_names=assembled.joint_names,
        stamp_s=assembled.stamp_ns / messages.NANOSECONDS,
        executed_actions=assembled.executed_actions,
        recent_images=assembled.recent_images,
    )


def _require_same_length(executed: FloatArray, asked: FloatArray) -> None:
    if executed.shape != asked.shape:
        raise ValueError(
            f"executed_actions has {len(executed)} points and the chunk it answers {len(asked)}; "
            "check the guard's num_actions."
        )


def _stood_still(executed: FloatArray, asked: FloatArray) -> bool:
    """Whether the arm was held during a whole chunk that asked for motion."""
    held = float(np.ptp(executed, axis=0).max()) < _STANDSTILL
    return held and float(np.abs(asked - executed).max()) > _STANDSTILL


def _warm_up(policy: Policy, parameters: PolicyNodeParameters) -> None:
    """Answer a grey picture a few times, so that the first real answer is not the slow one.

    Raises ValueError for an instruction that the policy does not know.
    """
    spec = policy.spec
    executed = np.zeros((spec.num_actions, len(spec.joint_names)))
    grey = np.full((spec.image_height, spec.image_width, 3), 128, dtype=np.uint8)
    on_the_way = np.stack([grey] * RECENT_IMAGES) if spec.observation_mode == "clip" else None
    policy.reset(parameters.instruction, parameters.policy_seed)
    for index in range(parameters.num_warm_up):
        policy.observe(
            Observation(
                image=grey,
                measured_joint_positions=np.zeros(len(spec.joint_names)),
                joint_names=spec.joint_names,
                stamp_s=index * spec.num_actions * spec.step_s,
                executed_actions=executed if index > 0 else None,
                recent_images=on_the_way if index > 0 else None,
            )
        )
        policy.act()


def _list_text(values: list[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def main() -> int:
    """The executable policy_node."""
    leave_at_once_when_asked()
    # Here, not above: only the process that loads a checkpoint needs torch.
    from par_model.load_policy import load_policy

    def load(parameters: PolicyNodeParameters) -> Policy:
        return load_policy(
            Path(parameters.checkpoint),
            backend=parameters.backend,
            num_steps=parameters.num_steps,
            device=parameters.device,
            engines=Path(parameters.engines) if parameters.engines else None,
        )

    # Which runtime answers and why, and what is compiled or exported first.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("par_model").setLevel(logging.INFO)
    return run_node(lambda: PolicyNode(load))


if __name__ == "__main__":
    sys.exit(main())
