# SPDX-License-Identifier: Apache-2.0
"""What the texts of a status message mean: one dataclass for whoever writes and whoever reads it.

A diagnostic_msgs/DiagnosticStatus carries pairs of texts. `to_values()` gives a record's in the
order in which they are sent; `from_values()` reads them back and raises ValueError, one sentence,
for a text that is missing or is not what the field holds. Other keys are ignored. Stamps are
integer nanoseconds, flags "true" and "false", lists separated by spaces, None an empty text;
stamps and counts are not negative.
"""

import base64
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from par_model.json_file import shown
from par_ros import messages
from par_ros.control.joint_trajectory import FloatArray
from par_ros.control.reference_watch import ReferenceSample
from par_ros.control.timeline import Moment

# A stamp's seconds are an int32.
_MAX_STAMP_NS = 2**31 * messages.NANOSECONDS - 1

RecordType = TypeVar("RecordType", bound="_Record")


class _Record:
    """A record whose fields are its keys; the field's type says how it is written. A field with a
    default may be missing: an older recording does not have it."""

    source: ClassVar[str]

    def to_values(self) -> dict[str, str]:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {field.name: _FORMS[field.type].write(getattr(self, field.name)) for field in fields}

    @classmethod
    def from_values(cls: type[RecordType], values: Mapping[str, str]) -> RecordType:
        read = _Texts(cls.source, values)
        return cls(
            **{
                field.name: read.of_type(field.type, field.name)
                for field in dataclasses.fields(cls)  # type: ignore[arg-type]
                if field.name in values or field.default is dataclasses.MISSING
            }
        )


@dataclass(frozen=True)
class GuardState(_Record):
    """Topic guard_state.

    Attributes:
        holding: why the arm stands still though chunks may come; empty where it does not.
        fault: kind of the fault that disengaged the guard last; empty without.
    """

    source = "guard_state"
    engaged: bool
    stop_latched: bool
    holding: str
    fault: str


@dataclass(frozen=True)
class GuardStatus(_Record):
    """The guard's entry in /diagnostics, as far as programs read it.

    Attributes:
        holds, changes: chunks that were held, or tracked within the limits, since configuring.
        last_hold_reason: the last event's sentence.
    """

    source = "the guard's diagnostics"
    engaged: bool
    stop_latched: bool
    holding: str
    holds: int
    changes: int
    last_hold_reason: str


@dataclass(frozen=True)
class PolicyStatus(_Record):
    """The policy's entry in /diagnostics, as far as programs read it.

    Attributes:
        camera_fault: kind of the camera's fault; empty without.
        new_latency_ms: picture received to chunk sent, of the chunks since the last status.
        new_ledger_ms: chunk_ledger.LEDGER_FIELDS of the chunks that were reported on since.
        missed_chunks: sent, and never reported on.
        surprise_warnings: observations above the first threshold only.
        surprise_stops: those above the second.
    """

    source = "the policy's diagnostics"
    active: bool
    camera_fault: str
    new_latency_ms: tuple[float, ...]
    new_ledger_ms: tuple[float, ...]
    missed_chunks: int
    surprise_warnings: int
    surprise_stops: int


@dataclass(frozen=True)
class Surprise(_Record):
    """Topic surprise.

    Attributes:
        stamp_ns: of the observation.
        surprise: par_model.surprise.surprise of it.
        first, second: the thresholds.
        cause: what surprises most, and where, in words; an older recording does not say.
    """

    source = "surprise"
    stamp_ns: int
    surprise: float
    first: float
    second: float
    cause: str = ""

    @property
    def level(self) -> int:
        """How many of the thresholds it is not below: 0, 1 or 2, which is also that of NaN."""
        return (not self.surprise <= self.first) + (not self.surprise <= self.second)

    def sentence(self) -> str:
        """What was found, and against which threshold."""
        which, limit = ("first", self.first) if self.level < 2 else ("second", self.second)
        why = f" ({self.cause})" if self.cause else ""
        return (
            f"the observation is unlike what the model expected{why}: its surprise is "
            f"{self.surprise:.3f}, the {which} threshold is {limit:.3f}; look at the scene, the "
            "arm, the camera and the light"
        )


@dataclass(frozen=True)
class Observed(_Record):
    """Topic observed: what one chunk was computed from.

    Attributes:
        stamp_ns: of the picture, and so of the chunk.
        joint_stamp_ns: of the joint state.
        executed_stamp_ns: of the chunk before, whose executed actions were shown; None without.
        recent_stamps_ns: of the pictures on the way, for a policy that sees in clips.
        reset: whether an episode, or a new context, began with it.
        instruction, policy_seed: what the policy was reset with.
        executed, committed: overlapped inference: the executed actions that were shown [M, J], and
            the committed ones [d, J]; None in sequential inference, and for what was not shown.
        view_stamps_ns: of the pictures of a policy's further views, in their order.
        num_steps: sampling steps of the answer; None: the policy's own number.
        seam_followed, seam_smoothness: overlapped inference: what the answer was joined to and how,
            as par_model.seam.join takes it; None where it was not.
    """

    source = "observed"
    stamp_ns: int
    joint_stamp_ns: int
    executed_stamp_ns: int | None
    recent_stamps_ns: tuple[int, ...]
    reset: bool
    instruction: str
    policy_seed: int
    executed: FloatArray | None = None
    committed: FloatArray | None = None
    num_steps: int | None = None
    view_stamps_ns: tuple[int, ...] = ()
    seam_followed: FloatArray | None = None
    seam_smoothness: float = 0.0

    # A record of a policy with one view has no field view_stamps_ns; one of a chunk that was not
    # joined to anything none of a seam.

    def to_values(self) -> dict[str, str]:
        values = super().to_values()
        if not self.view_stamps_ns:
            del values["view_stamps_ns"]
        if self.seam_followed is None:
            del values["seam_followed"], values["seam_smoothness"]
        return values


@dataclass(frozen=True)
class EpisodeState(_Record):
    """Topic episode_state: how far the simulator's episode is.

    Attributes:
        start_ns: ROS time of the episode's start, the reset.
        step: control steps done, from the first trajectory on.
        success, success_once: now; at any step.
        camera_to_trajectory_ms: picture published to trajectory received, each chunk.
        step_rate_hz: control steps a wall second; None where nothing moved.
        idle_steps: control steps from the start until the first that counts in `step`; 0 in
            lockstep. None: an older recording does not say.
    """

    source = "episode_state"
    task: str
    seed: int
    start_ns: int
    step: int
    success: bool
    success_once: bool
    finished: bool
    camera_to_trajectory_ms: tuple[float, ...]
    step_rate_hz: float | None
    idle_steps: int | None = None


@dataclass(frozen=True)
class EpisodeMark(_Record):
    """Topic episode_marks: one call of the recorder's services.

    Attributes:
        time_ns: the node's clock at the call.
        is_start: whether an episode starts; else it ends.
        success: of one that ends.
    """

    source = "episode_marks"
    time_ns: int
    is_start: bool
    success: bool


# What some kinds of the guard's inputs carry: field, key, type, kinds.
_INPUT_DETAILS: tuple[tuple[str, str, Any, tuple[str, ...]], ...] = (
    ("chunk_stamp_ns", "chunk_stamp_ns", int, ("chunk", "teleop_chunk")),
    ("reason", "reason", str, ("bad_chunk", "bad_teleop_chunk", "bad_joint_state")),
    ("held", "held", bool, ("deadman",)),
    ("references", "samples", tuple[ReferenceSample, ...], ("references",)),
    ("last", "last", bool, ("withdraw",)),
)


@dataclass(frozen=True)
class GuardInput:
    """Topic guard_inputs: one thing that the guard was given.

    Joint states and ticks that changed nothing are left out: `joint_stamp_ns` is the last joint
    state that the guard had taken by then.

    Attributes:
        kind: configure, chunk, bad_chunk, teleop_chunk, bad_teleop_chunk, deadman, joint_state,
            bad_joint_state, references, tick, withdraw, or a service.
        moment: both clocks when it was given.
        joint_stamp_ns, joint_moment: None before the first joint state.
        chunk_stamp_ns: of a chunk.
        reason: of a bad chunk or joint state.
        references: what the controller reported.
        last: of a withdrawal, whether it was the last attempt.
        held: of the operator's deadman switch.
    """

    kind: str
    moment: Moment
    joint_stamp_ns: int | None
    joint_moment: Moment | None
    num_policies: int
    chunk_stamp_ns: int | None = None
    reason: str | None = None
    references: tuple[ReferenceSample, ...] = ()
    last: bool | None = None
    held: bool | None = None

    def to_values(self) -> dict[str, str]:
        values = {
            "kind": self.kind,
            **_moment_texts(self.moment),
            "joint_stamp_ns": "" if self.joint_stamp_ns is None else str(self.joint_stamp_ns),
        }
        if self.joint_moment is not None:
            values |= _moment_texts(self.joint_moment, "joint_")
        values["num_policies"] = str(self.num_policies)
        for field, key, of_type, kinds in _INPUT_DETAILS:
            if self.kind in kinds:
                values[key] = _FORMS[of_type].write(getattr(self, field))
        return values

    @staticmethod
    def from_values(values: Mapping[str, str]) -> "GuardInput":
        read = _Texts("guard_inputs", values)
        kind = read.of_type(str, "kind")
        joint_stamp_ns = read.of_type(int | None, "joint_stamp_ns")
        return GuardInput(
            kind,
            read.moment(),
            joint_stamp_ns,
            None if joint_stamp_ns is None else read.moment("joint_"),
            read.of_type(int, "num_policies"),
            **{
                field: read.of_type(of_type, key)
                for field, key, of_type, kinds in _INPUT_DETAILS
                if kind in kinds
            },
        )


def rate_text(rate_hz: float | None) -> str:
    """To a hundredth of a hertz; empty for None."""
    return "" if rate_hz is None else f"{rate_hz:.2f}"


class _Texts:
    """The texts of one message of `source`; each is read as what it should be, or refused."""

    def __init__(self, source: str, values: Mapping[str, str]) -> None:
        self._source = source
        self._values = values

    def of_type(self, kind: Any, name: str) -> Any:
        """The value of a field of this type, one of _FORMS or the references."""
        if name not in self._values:
            raise ValueError(f"a message of {self._source} lacks {name}.")
        text = self._values[name]
        try:
            return _FORMS[kind].read(text)
        except ValueError:
            raise ValueError(f"{name} in a message of {self._source} is {shown(text)}.") from None

    def moment(self, prefix: str = "") -> Moment:
        names = (f"{prefix}ros_ns", f"{prefix}steady_ns")
        return Moment(*(self.of_type(int, name) for name in names))


def _flag_text(flag: bool) -> str:
    return str(flag).lower()


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("not a flag")
    return text == "true"


def _whole(text: str) -> int:
    """At most what a stamp can hold: more digits than that take long to read."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(_MAX_STAMP_NS))
    if not is_number or int(text) > _MAX_STAMP_NS:
        raise ValueError("not a whole number from 0")
    return int(text)


def _moment_texts(moment: Moment, prefix: str = "") -> dict[str, str]:
    return {f"{prefix}ros_ns": str(moment.ros_ns), f"{prefix}steady_ns": str(moment.steady_ns)}


def _pack_references(samples: tuple[ReferenceSample, ...]) -> str:
    """Samples as text, to the bit: their number, stamps [N], rows [N, 3 J + 1]."""
    stamps = np.array([sample.stamp_ns for sample in samples], dtype="<i8")
    rows = np.array(
        [
            np.concatenate(
                (
                    sample.positions,
                    sample.velocities,
                    sample.accelerations,
                    [sample.speed_scaling],
                )
            )
            for sample in samples
        ],
        dtype="<f8",
    )
    return f"{len(samples)} {_encoded(stamps.tobytes())} {_encoded(rows.tobytes())}"


def _unpack_references(text: str) -> tuple[ReferenceSample, ...]:
    """The inverse of _pack_references(). Raises ValueError for any other text."""
    count_text, stamps_text, rows_text = text.split(" ")
    stamps = np.frombuffer(base64.b64decode(stamps_text, validate=True), dtype="<i8")
    numbers = np.frombuffer(base64.b64decode(rows_text, validate=True), dtype="<f8")
    count = int(count_text)
    if count < 1 or len(stamps) != count or len(numbers) % count:
        raise ValueError("stamps and rows must be as many as samples")
    if len(numbers) // count % 3 != 1 or len(numbers) < 4 * count:
        raise ValueError("a row must hold 3 numbers of each joint and the speed scaling")
    rows: FloatArray = numbers.reshape(count, -1).astype(np.float64)
    return tuple(
        ReferenceSample(int(stamp), *np.split(row[:-1], 3), float(row[-1]))
        for stamp, row in zip(stamps, rows, strict=True)
    )


def _pack_rows(rows: FloatArray | None) -> str:
    """Rows [M, J] as text, to the bit: M, J and the numbers."""
    if rows is None:
        return ""
    return f"{len(rows)} {rows.shape[1]} {_encoded(rows.astype('<f8').tobytes())}"


def _unpack_rows(text: str) -> FloatArray | None:
    """The inverse of _pack_rows(). Raises ValueError for any other text."""
    if not text:
        return None
    count, width, numbers = text.split(" ")
    values = np.frombuffer(base64.b64decode(numbers, validate=True), dtype="<f8")
    rows: FloatArray = values.reshape(_whole(count), _whole(width)).astype(np.float64)
    return rows


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@dataclass(frozen=True)
class _Form:
    """How values of a type are written and read; `read` raises ValueError for another text."""

    write: Callable[[Any], str]
    read: Callable[[str], Any]


_FORMS: dict[Any, _Form] = {
    str: _Form(str, str),
    bool: _Form(_flag_text, _flag),
    int: _Form(str, _whole),
    float: _Form(repr, float),
    int | None: _Form(
        lambda value: "" if value is None else str(value),
        lambda text: _whole(text) if text else None,
    ),
    # hertz
    float | None: _Form(rate_text, lambda text: float(text) if text else None),
    tuple[int, ...]: _Form(
        lambda values: " ".join(map(str, values)),
        lambda text: tuple(_whole(word) for word in text.split()),
    ),
    # milliseconds
    tuple[float, ...]: _Form(
        lambda values: " ".join(f"{value:.3f}" for value in values),
        lambda text: tuple(float(word) for word in text.split()),
    ),
    FloatArray | None: _Form(_pack_rows, _unpack_rows),
    tuple[ReferenceSample, ...]: _Form(_pack_references, _unpack_references),
}
