# SPDX-License-Identifier: Apache-2.0
"""What the graph's topics tell of an episode: listened to in one thread, asked for in another."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import Image

from par_model.evaluation.limit_shares import MotionLimits
from par_model.interface import ImageArray
from par_ros import messages
from par_ros.chunk_ledger import ledger_rows
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.episode_motion import asked_shares, guard_changes, motion_of, seam_steps
from par_ros.run_results import EpisodeResult, GuardEvent, SurpriseValue
from par_ros.topics import (
    ACTION_CHUNK,
    APPLIED_TARGETS,
    ATTENTION_IMAGE,
    DIAGNOSTICS,
    EPISODE_STATE,
    EXECUTED_ACTIONS,
    GUARD,
    POLICY,
    PREDICTED_IMAGE,
    SURPRISE,
    Topic,
    camera_topics,
    sensor_qos,
)
from par_ros.view_reader import picture_to_show
from par_ros.wire_records import EpisodeState, GuardStatus, PolicyStatus, Surprise

# The bridge's most steps an episode; applied_targets has a point for each.
_MOST_STEPS = 100_000


@dataclass
class ObservedEpisode:
    """What was heard during the episode of `seed`. Stamps in ns; pictures by view."""

    seed: int | None = None
    pictures: dict[str, dict[int, ImageArray]] = field(default_factory=dict)
    predictions: dict[int, ImageArray] = field(default_factory=dict)
    attention: dict[int, ImageArray] = field(default_factory=dict)
    surprises: dict[int, Surprise] = field(default_factory=dict)
    asked: dict[int, JointTrajectory] = field(default_factory=dict)
    executed: dict[int, JointTrajectory] = field(default_factory=dict)
    held: set[int] = field(default_factory=set)
    policy_latency_ms: list[float] = field(default_factory=list)
    ledger_ms: list[float] = field(default_factory=list)
    missed_chunks: int = 0
    surprise_warnings: int = 0
    surprise_stops: int = 0
    policy_is_quiet: bool = False
    guard_is_quiet: bool = False
    holds: int = 0
    # In the order of their first appearance.
    guard_reasons: dict[str, None] = field(default_factory=dict)
    # Stamp, hold or change, reason.
    guard_events: list[tuple[int, str, str]] = field(default_factory=list)
    state: EpisodeState | None = None
    applied: tuple[int, JointTrajectory] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the bridge's targets and the last words of policy and guard have come."""
        if self.state is None or self.applied is None:
            return False
        is_quiet = self.policy_is_quiet and self.guard_is_quiet
        return is_quiet and self.applied[0] == self.state.start_ns

    def result(
        self,
        *,
        step_s: float,
        limits: MotionLimits,
        policy_seed: int,
        predicted: bool,
        video: str | None,
    ) -> EpisodeResult:
        """The episode in numbers, once it is complete; `step_s`: of a control step; `limits`: of
        the arm. The other arguments go into it as they are.

        Times are from the reset, and steps from when the bridge counts them."""
        assert self.seed is not None
        assert self.state is not None
        assert self.applied is not None
        state = self.state
        start_ns, applied = self.applied
        idle_steps, step_ns = state.idle_steps or 0, messages.seconds_to_ns(step_s)
        begin_ns = start_ns + idle_steps * step_ns
        end_ns = begin_ns + state.step * step_ns
        asked, reports = (_ordered(one, applied.joint_names) for one in (self.asked, self.executed))
        steps = seam_steps(reports, begin_ns, step_s)
        seams = tuple(seam for seam in steps if 1 <= seam <= state.step)
        chunk_stamps = sorted(stamp_ns for stamp_ns in self.asked if stamp_ns < end_ns)
        return EpisodeResult(
            seed=self.seed,
            policy_seed=policy_seed,
            success=state.success_once,
            steps=state.step,
            joint_names=applied.joint_names,
            joint_targets=applied.positions.tolist(),
            chunks=len(chunk_stamps),
            holds=self.holds,
            guard_changes=guard_changes(asked, reports, self.held, state.step, begin_ns),
            guard_reasons=tuple(self.guard_reasons),
            guard_events=self._events(start_ns),
            chunk_times_s=tuple(_since_s(stamp_ns, start_ns) for stamp_ns in chunk_stamps),
            policy_latency_ms=tuple(self.policy_latency_ms),
            camera_to_trajectory_ms=state.camera_to_trajectory_ms,
            ledger_ms=ledger_rows(self.ledger_ms),
            missed_chunks=self.missed_chunks,
            seams=seams,
            motion=motion_of(applied.positions, step_s, seams),
            limit_shares=asked_shares(
                asked, reports, self.held, applied.positions, begin_ns, limits
            ),
            predicted=predicted,
            step_rate_hz=state.step_rate_hz,
            video=video,
            # The film has a frame for each picture of the first view.
            video_times_s=tuple(
                _since_s(stamp_ns, start_ns)
                for stamp_ns in sorted(next(iter(self.pictures.values())))
            ),
            surprise_warnings=self.surprise_warnings,
            surprise_stops=self.surprise_stops,
            surprises=self._surprises(start_ns),
            idle_s=idle_steps * step_s,
        )

    def _events(self, start_ns: int) -> tuple[GuardEvent, ...]:
        return tuple(
            GuardEvent(_since_s(stamp_ns, start_ns), kind, reason)
            for stamp_ns, kind, reason in self.guard_events
        )

    def _surprises(self, start_ns: int) -> tuple[SurpriseValue, ...]:
        return tuple(
            SurpriseValue(_since_s(stamp_ns, start_ns), one.surprise, one.first, one.second)
            for stamp_ns, one in sorted(self.surprises.items())
        )


class EpisodeObserver:
    """Subscriptions of a node that another thread spins; every method returns at once."""

    def __init__(self, node: Node, *, keeps_pictures: bool, views: tuple[str, ...]) -> None:
        self._node = node
        self._keeps_pictures = keeps_pictures
        self._lock = threading.Lock()
        self._views = views
        self._episode = self._no_episode()
        # The guard's counters of holds and changed chunks, since it was configured.
        self._guard_counts = (0, 0)
        self._missed_chunks = 0
        self._surprise_counts = (0, 0)
        for topic, callback in (
            *(
                (image, partial(self._on_image, view))
                for view, (image, _) in camera_topics(views).items()
            ),
            (PREDICTED_IMAGE, self._on_predicted_image),
            (ATTENTION_IMAGE, self._on_attention_image),
            (SURPRISE, self._on_surprise),
            (ACTION_CHUNK, self._on_action_chunk),
            (EXECUTED_ACTIONS, self._on_executed_actions),
            (EPISODE_STATE, self._on_episode_state),
            (APPLIED_TARGETS, self._on_applied_targets),
            (DIAGNOSTICS, self._on_diagnostics),
        ):
            node.create_subscription(topic.message_type, topic.name, callback, _reader_qos(topic))

    # Running thread

    def begin(self, seed: int) -> None:
        """Forget what was heard; the episode of `seed` begins."""
        with self._lock:
            self._episode = self._no_episode()
            self._episode.seed = seed

    def take(self) -> ObservedEpisode:
        """What was heard; what comes from now on belongs to no episode."""
        with self._lock:
            episode, self._episode = self._episode, self._no_episode()
        return episode

    def _no_episode(self) -> ObservedEpisode:
        return ObservedEpisode(pictures={view: {} for view in self._views})

    def state(self) -> EpisodeState | None:
        """The bridge's newest state of the episode; None before the first."""
        with self._lock:
            return self._episode.state

    def await_quiet(self) -> None:
        """Policy and guard are about to be quieted; what they said before does not count."""
        with self._lock:
            self._episode.policy_is_quiet = False
            self._episode.guard_is_quiet = False

    @property
    def is_complete(self) -> bool:
        """Whether all of the episode has come."""
        with self._lock:
            return self._episode.is_complete

    # Spinning thread

    def _on_image(self, view: str, message: Any) -> None:
        self._keep_picture(lambda episode: episode.pictures[view], message)

    def _on_predicted_image(self, message: Any) -> None:
        self._keep_picture(lambda episode: episode.predictions, message)

    def _on_attention_image(self, message: Any) -> None:
        self._keep_picture(lambda episode: episode.attention, message)

    def _on_surprise(self, message: Any) -> None:
        found = Surprise.from_values(messages.read_status(message).values)
        with self._lock:
            self._episode.surprises[found.stamp_ns] = found

    def _keep_picture(
        self, pictures_of: Callable[[ObservedEpisode], dict[int, ImageArray]], message: Any
    ) -> None:
        if not self._keeps_pictures:
            return
        picture = picture_to_show(message)
        with self._lock:
            pictures_of(self._episode).setdefault(messages.stamp_ns(message), picture)

    def _on_action_chunk(self, message: Any) -> None:
        with self._lock:
            self._episode.asked[messages.stamp_ns(message)] = messages.read_joint_trajectory(
                message
            )

    def _on_executed_actions(self, message: Any) -> None:
        with self._lock:
            # Of a chunk's reports the first one counts: with overlapped inference the stop at the
            # end of the episode is reported under the last chunk's stamp as well.
            stamp_ns = messages.stamp_ns(message)
            if stamp_ns in self._episode.executed:
                return
            self._episode.executed[stamp_ns] = messages.read_joint_trajectory(message)
            if messages.tells_hold(message):
                self._episode.held.add(stamp_ns)

    def _on_episode_state(self, message: Any) -> None:
        state = EpisodeState.from_values(messages.read_status(message).values)
        with self._lock:
            # The last episode's state may still be on its way.
            if state.seed == self._episode.seed:
                self._episode.state = state

    def _on_applied_targets(self, message: Any) -> None:
        trajectory = messages.read_joint_trajectory(message, _MOST_STEPS)
        with self._lock:
            self._episode.applied = (messages.stamp_ns(message), trajectory)

    def _on_diagnostics(self, message: Any) -> None:
        for status in messages.read_diagnostics(message):
            with self._lock:
                if status.name == self._beside(POLICY):
                    self._note_policy(PolicyStatus.from_values(status.values))
                elif status.name == self._beside(GUARD):
                    self._note_guard(
                        GuardStatus.from_values(status.values), messages.stamp_ns(message)
                    )

    def _beside(self, name: str) -> str:
        """How node `name` of this graph calls itself on /diagnostics, which all graphs share."""
        return messages.status_name(self._node).removesuffix(self._node.get_name()) + name

    def _note_policy(self, status: PolicyStatus) -> None:
        """Under the lock."""
        self._episode.policy_latency_ms += status.new_latency_ms
        self._episode.ledger_ms += status.new_ledger_ms
        self._episode.missed_chunks += status.missed_chunks - self._missed_chunks
        self._missed_chunks = status.missed_chunks
        counts = (status.surprise_warnings, status.surprise_stops)
        self._episode.surprise_warnings += counts[0] - self._surprise_counts[0]
        self._episode.surprise_stops += counts[1] - self._surprise_counts[1]
        self._surprise_counts = counts
        self._episode.policy_is_quiet = not status.active

    def _note_guard(self, status: GuardStatus, stamp_ns: int) -> None:
        """Under the lock."""
        counts = (status.holds, status.changes)
        if counts != self._guard_counts:
            self._episode.holds += counts[0] - self._guard_counts[0]
            self._episode.guard_reasons[status.last_hold_reason] = None
            kind = "hold" if counts[0] > self._guard_counts[0] else "change"
            self._episode.guard_events.append((stamp_ns, kind, status.last_hold_reason))
        self._guard_counts = counts
        self._episode.guard_is_quiet = not status.engaged


def _since_s(stamp_ns: int, start_ns: int) -> float:
    return (stamp_ns - start_ns) / messages.NANOSECONDS


def _ordered(
    trajectories: dict[int, JointTrajectory], joint_names: tuple[str, ...]
) -> dict[int, JointTrajectory]:
    return {stamp: one.reordered(joint_names) for stamp, one in trajectories.items()}


def _reader_qos(topic: Topic) -> Any:
    if topic.message_type is Image and topic not in (PREDICTED_IMAGE, ATTENTION_IMAGE):
        return sensor_qos(topic, reliable=True)
    return topic.reader_qos.profile()
