# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is: which picture the policy answers, when, and with which past.

A chunk answers the first picture taken at or after the end of the running chunk, once what the
guard did with that chunk is known and a joint state matches the picture. A picture that comes
before its joint states waits for them; a newer picture takes its place. The policy starts anew with
an empty context where the arm stood for a whole chunk that asked for motion, where a picture comes
more than a chunk after the running chunk's end or further from the one before than the policy can
be told of, where nothing was heard of a chunk for two chunks' time, and where the policy refused an
observation.

Nothing here blocks, and nothing is thread-safe: the caller holds a lock. Times are given with each
call as a Moment: ROS time for stamps, steady time for the camera's silence. Shapes: H, W image;
J joints (gripper last); L actions of a chunk.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from par_ros.control.camera_check import CameraCheckSettings
from par_ros.control.camera_set import CameraSet, ViewSettings
from par_ros.control.joint_states import JointReading
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray, JointTrajectory
from par_ros.control.observation_assembler import (
    AssembledObservation,
    AssemblerSettings,
    ImageArray,
    ObservationAssembler,
    Refusal,
)
from par_ros.control.recent_pictures import RecentPictures
from par_ros.control.timeline import Moment

PictureType = TypeVar("PictureType")
# None where they are more than the policy can be told of: it has to start anew.
StepsBetween = Callable[[float, float], int | None]

# Two positions closer than this are the same command.
_STANDSTILL = 1e-9
# What a later message can still complete: the picture stays.
_WAITING_KINDS = ("skew", "joints")
# So many pictures are kept for a policy that sees in clips: two seconds at 30 Hz.
_NUM_PICTURES_KEPT = 60
_ONE_VIEW = ViewSettings()


@dataclass(frozen=True)
class ClipSettings:
    """How a policy that sees in clips wants the pictures on the way to an observation.

    Attributes:
        num_pictures: of a clip, the observation's own picture counted.
        spacing_s: from one picture to the next.
        max_skew_s: how far a picture may lie from where it should.
    """

    num_pictures: int
    spacing_s: float
    max_skew_s: float


@dataclass(frozen=True)
class TurnSettings:
    """What is answered, and within which limits.

    Attributes:
        joint_names: the J joints of the policy.
        chunk_s: duration of a chunk, L times the control step.
        lockstep: physics waits, so the picture's stamp is "now", and a picture without its joint
            states waits without being refused.
        clip: for a policy that sees in clips; None for one that sees single pictures.
        joint_prefix: what the driver puts before the joints' names.
        views: the policy's cameras.
        steps_between: control steps from an observation to the next one, stamped in seconds, as the
            policy counts them (PolicySpec.steps_between); None: it counts none.
    """

    joint_names: tuple[str, ...]
    chunk_s: float
    lockstep: bool
    assembler: AssemblerSettings
    camera: CameraCheckSettings
    clip: ClipSettings | None = None
    joint_prefix: str = ""
    views: ViewSettings = _ONE_VIEW
    steps_between: StepsBetween | None = None

    def steps(self, shown_ns: int | None, stamp_ns: int) -> int | None:
        """Control steps from the picture that the policy was shown last to this one: 0 where there
        is none or they are not counted, None where they are too many."""
        if self.steps_between is None or shown_ns is None:
            return 0
        return self.steps_between(shown_ns / NANOSECONDS, stamp_ns / NANOSECONDS)


@dataclass(frozen=True)
class PendingPicture(Generic[PictureType]):
    """A picture that waits for its turn, its joint states or the end of the running chunk.

    Attributes:
        pictures, stamps_ns: of each view.
        received_ns: when the last of them came, steady time.
    """

    pictures: tuple[PictureType, ...]
    stamps_ns: tuple[int, ...]
    received_ns: int

    @property
    def stamp_ns(self) -> int:
        """The observation's: the first view's."""
        return self.stamps_ns[0]


@dataclass(frozen=True)
class SentChunk:
    """The last chunk sent, [L, J], and whether the guard has reported what became of it."""

    stamp_ns: int
    positions: FloatArray
    acknowledged: bool


@dataclass(frozen=True)
class Question(Generic[PictureType]):
    """What the policy is to answer now.

    Attributes:
        episode: the number of the episode; an answer to an earlier one is not sent.
        pending: the picture as it came.
        assembled: what the policy is shown.
        starts_anew: the policy must be reset before it is shown this.
        age_s: of the picture when it was handed over.
        asked_ns: when that was, steady time.
        previous_stamp_ns: sequential inference: stamp of the chunk whose executed actions are
            shown; None without any.
        committed: float64 [d, J], overlapped inference: what the arm follows in the first d steps
            after the picture, whatever the answer is; None: sequential inference.
    """

    episode: int
    pending: PendingPicture[PictureType]
    assembled: AssembledObservation
    starts_anew: bool
    age_s: float
    asked_ns: int
    previous_stamp_ns: int | None
    committed: FloatArray | None = None


class PolicyTurn(Generic[PictureType]):
    """The cameras of one arm, one policy; answers one question at a time.

    Calls that take something return what follows from it: a question that the policy is to answer
    (until free() no other is asked), a refusal to be reported, or None.
    """

    def __init__(
        self,
        settings: TurnSettings,
        read_picture: Callable[[PictureType, str], ImageArray],
        fit_picture: Callable[[ImageArray, str], ImageArray],
        now: Moment,
    ) -> None:
        """Not active until activate().

        Args:
            read_picture: makes a view's picture uint8 [H, W, 3], RGB or levels of depth; raises
                ValueError for an encoding that is not the view's.
            fit_picture: makes it the policy's size; raises ValueError where that is impossible.
        """
        self.settings = settings
        self._chunk_ns = round(settings.chunk_s * NANOSECONDS)
        self._assembler = ObservationAssembler(
            settings.joint_names, settings.assembler, settings.joint_prefix
        )
        self._cameras = CameraSet(
            settings.views, settings.camera, read_picture, fit_picture, _seconds(now)
        )
        self._recent: RecentPictures[PictureType] | None = _recent_pictures(settings.clip)
        self.is_active = False
        self.episode = 0
        self._is_busy = False
        self.begin_episode(now)

    # Episode

    def begin_episode(self, now: Moment) -> None:
        """Forget what waits, what is being answered and what was seen before."""
        self.episode += 1
        self._pending: PendingPicture[PictureType] | None = None
        self._waits_for: Refusal | None = None
        self._image: tuple[PendingPicture[PictureType], ImageArray] | None = None
        self._context_lost = False
        self._forget_motion()
        self.restart_camera(now)

    def _forget_motion(self) -> None:
        """Forget all that has a stamp: what was sent, seen and measured."""
        self._sent: SentChunk | None = None
        self._shown_ns: int | None = None
        self._assembler.reset()
        if self._recent is not None:
            self._recent.reset()

    def restart_camera(self, now: Moment) -> None:
        """The cameras' silence counts from now, and their next picture's size is the episode's."""
        self._cameras.reset(_seconds(now))

    def activate(self) -> None:
        """From now on pictures are answered."""
        self.is_active = True

    def deactivate(self) -> None:
        """Until activate() nothing is taken, asked or sent."""
        self.is_active = False

    # What comes in

    def take_picture(
        self,
        picture: PictureType,
        pixels: npt.NDArray[np.uint8],
        stamp_ns: int,
        now: Moment,
        source: str = "",
        view: str | None = None,
    ) -> Question[PictureType] | Refusal | None:
        """Take a picture of a view (None: the first); pixels: uint8 [N], its bytes as they came;
        source: who published it."""
        if not self.is_active:
            return None
        now_s, view = _seconds(now), view or self.settings.views.names[0]
        arm_positions = self._assembler.newest_arm_positions
        # At once: a picture whose stamp has stalled or went back is never due.
        untrusted = self._cameras.see(view, pixels, stamp_ns, arm_positions, now_s, source)
        if untrusted is None and (disorder := self._check_order(stamp_ns, now)) is not None:
            untrusted = self._cameras.named(disorder, view)
        if untrusted is not None:
            self._pending = None
            self._cameras.forget(view)
            return untrusted
        if self._recent is not None:
            self._recent.add(stamp_ns, picture)
        matched = self._cameras.match(view, picture, stamp_ns, now_s)
        if matched is None or isinstance(matched, Refusal):
            return matched
        self._pending = PendingPicture(matched.pictures, matched.stamps_ns, now.steady_ns)
        self._waits_for = None
        return self._ask(now)

    def _check_order(self, stamp_ns: int, now: Moment) -> Refusal | None:
        """Whether a picture is from before the one that was answered last, as far as no delay
        explains: the camera's clock or the node's was set back.

        After the node's clock was, the policy starts anew with the next picture.
        """
        if self._sent is None or self.settings.lockstep:
            return None
        back_s = (self._sent.stamp_ns - stamp_ns) / NANOSECONDS
        if back_s <= self.settings.assembler.max_image_age_s:
            return None
        if (too_old := self._assembler.check_age(stamp_ns, now.ros_ns)) is not None:
            return too_old
        self._forget_motion()
        self._context_lost = True
        return _clock_set_back(back_s)

    def take_joint_state(
        self, reading: JointReading, now: Moment
    ) -> Question[PictureType] | Refusal | None:
        """Take a joint state, or a part of one; another robot's is ignored."""
        if not self.is_active:
            return None
        try:
            is_ours = self._assembler.add_joint_state(reading)
        except ValueError as error:
            return Refusal("joints", str(error))
        return self._ask(now) if is_ours else None

    def awaits_executed_actions(self, stamp_ns: int) -> bool:
        """Whether these belong to the last chunk sent; others are ignored."""
        return self.is_active and self._sent is not None and self._sent.stamp_ns == stamp_ns

    def take_executed_actions(
        self, stamp_ns: int, executed: JointTrajectory, now: Moment, *, holds: bool = False
    ) -> Question[PictureType] | Refusal | None:
        """Take what the guard did with a chunk, by its stamp, from which times count; holds: it is
        not, or no longer, followed."""
        if not self.awaits_executed_actions(stamp_ns):
            return None
        try:
            ordered = executed.reordered(self.settings.joint_names)
            self._note_executed(stamp_ns, ordered, now, holds=holds)
        except ValueError as error:
            return Refusal("executed_actions", str(error))
        return self._ask(now)

    def _note_executed(
        self, stamp_ns: int, executed: JointTrajectory, now: Moment, *, holds: bool
    ) -> None:
        """Raises ValueError for a report that does not answer the chunk."""
        sent = self._sent
        assert sent is not None
        _require_same_length(executed.positions, sent.positions)
        self._sent = dataclasses.replace(sent, acknowledged=True)
        # Held for a whole chunk: what the model remembers of the motion is over.
        self._context_lost = _stood_still(executed.positions, sent.positions)
        end_ns = stamp_ns + round(executed.duration_s * NANOSECONDS)
        self._assembler.add_executed_actions(executed.positions, end_ns)

    def check_silence(self, now: Moment) -> Refusal | None:
        """Why no picture can be answered; None where one came lately, or while not active."""
        return self._cameras.check_silence(_seconds(now)) if self.is_active else None

    # What the policy did

    def wants(self, question: Question[PictureType]) -> bool:
        """Whether an answer to the question may still be sent."""
        return self.is_active and question.episode == self.episode

    def send(self, question: Question[PictureType], positions: FloatArray) -> bool:
        """Note that `positions` [L, J] answer the question; False: it must not be sent any more."""
        if not self.wants(question):
            return False
        self._sent = SentChunk(question.pending.stamp_ns, positions, acknowledged=False)
        return True

    def followed_until(self, question: Question[PictureType], now: Moment) -> FloatArray | None:
        """What an answer that is sent now is joined to; None: to nothing."""
        return None

    def lose_context(self) -> None:
        """The policy refused an observation: it starts anew with the next one."""
        self._context_lost = True

    def free(self, now: Moment) -> Question[PictureType] | Refusal | None:
        """The policy has answered, or failed to: it may be asked again."""
        self._is_busy = False
        return self._ask(now) if self.is_active else None

    # Decisions

    def _ask(self, now: Moment) -> Question[PictureType] | Refusal | None:
        """The pending picture as a question, if it is its turn."""
        pending = self._pending
        if pending is None or self._is_busy or not self._is_due(pending.stamp_ns):
            return None
        if self._assembler.awaits_joints(pending.stamp_ns, now.steady_ns):
            return None
        now_ns = pending.stamp_ns if self.settings.lockstep else now.ros_ns
        self._context_lost |= self.settings.steps(self._shown_ns, pending.stamp_ns) is None
        assembled = self._assemble(pending, now_ns)
        if isinstance(assembled, Refusal):
            return self._not_asked(assembled)
        self._shown_ns = pending.stamp_ns
        self._pending, self._is_busy = None, True
        starts_anew, self._context_lost = self._context_lost, False
        is_first = assembled.executed_actions is None
        return Question(
            episode=self.episode,
            pending=pending,
            assembled=assembled,
            starts_anew=starts_anew,
            age_s=(now_ns - pending.stamp_ns) / NANOSECONDS,
            asked_ns=now.steady_ns,
            previous_stamp_ns=None if is_first or self._sent is None else self._sent.stamp_ns,
            committed=self._committed(assembled),
        )

    def _committed(self, assembled: AssembledObservation) -> FloatArray | None:
        """None: a sequential policy is asked when no chunk runs."""
        return None

    def _not_asked(self, refusal: Refusal) -> Refusal | None:
        """What to report of a picture that is not shown: of one that waits the reason, once."""
        reported, self._waits_for = self._waits_for, refusal
        if refusal.kind not in _WAITING_KINDS:
            self._pending = None
            # It has become old while it waited for something else, which is the cause.
            return None if reported is not None and refusal.kind == "stale" else refusal
        is_known = reported is not None and reported.kind == refusal.kind
        return None if is_known or self.settings.lockstep else refusal

    def _is_due(self, stamp_ns: int) -> bool:
        """Whether a picture of this stamp answers the running chunk.

        Notes a lost context where the arm has stood, or nothing was heard of the last chunk, for
        longer than a chunk.
        """
        sent = self._sent
        if sent is None:
            return True
        end_ns = self._assembler.chunk_end_ns
        if not sent.acknowledged or end_ns is None:
            is_lost = stamp_ns > sent.stamp_ns + 2 * self._chunk_ns
            self._context_lost |= is_lost
            return is_lost
        is_due = self._assembler.is_due(stamp_ns)
        self._context_lost |= is_due and stamp_ns > end_ns + self._chunk_ns
        return is_due

    def _assemble(
        self, pending: PendingPicture[PictureType], now_ns: int
    ) -> AssembledObservation | Refusal:
        """What the policy is shown for a picture, or why it is shown nothing."""
        image = self._pending_image(pending)
        if isinstance(image, Refusal):
            return image
        assembled = self._assembler.assemble(image, pending.stamp_ns, now_ns)
        if isinstance(assembled, Refusal):
            return assembled
        self._context_lost |= self._cameras.accept_sizes()
        if self._context_lost:
            assembled = dataclasses.replace(assembled, executed_actions=None)
        if self._recent is None or assembled.executed_actions is None:
            return assembled
        return self._with_recent_images(assembled, self._recent, pending.received_ns)

    def _pending_image(self, pending: PendingPicture[PictureType]) -> ImageArray | Refusal:
        """The picture in the policy's size, converted once however often it is looked at."""
        if self._image is not None and self._image[0] is pending:
            return self._image[1]
        image = self._cameras.image(pending.pictures, pending.received_ns / NANOSECONDS)
        if not isinstance(image, Refusal):
            self._image = pending, image
        return image

    def _with_recent_images(
        self,
        assembled: AssembledObservation,
        recent: RecentPictures[PictureType],
        received_ns: int,
    ) -> AssembledObservation | Refusal:
        """The observation with the pictures on the way to it."""
        assert self._assembler.chunk_end_ns is not None
        chosen = recent.choose(self._assembler.chunk_end_ns, assembled.stamp_ns)
        if isinstance(chosen, Refusal):
            return chosen
        images = []
        for _, picture in chosen:
            image = self._cameras.fitted(picture, received_ns / NANOSECONDS)
            if isinstance(image, Refusal):
                return image
            images.append(image)
        return dataclasses.replace(
            assembled,
            recent_images=np.stack(images),
            recent_stamps_ns=tuple(stamp_ns for stamp_ns, _ in chosen),
        )


def _recent_pictures(clip: ClipSettings | None) -> RecentPictures[Any] | None:
    if clip is None:
        return None
    return RecentPictures(num_kept=_NUM_PICTURES_KEPT, **dataclasses.asdict(clip))


def _clock_set_back(back_s: float) -> Refusal:
    return Refusal(
        "clock",
        f"the clock went back by {back_s:.3f} s or more; the policy starts anew with the next "
        "picture. Check the time synchronisation, and a player that publishes /clock.",
    )


def _seconds(now: Moment) -> float:
    return now.steady_ns / NANOSECONDS


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
