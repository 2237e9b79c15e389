# SPDX-License-Identifier: Apache-2.0
"""What the texts of a status message mean: one dataclass for whoever writes and whoever reads it.

A diagnostic_msgs/DiagnosticStatus carries pairs of texts. `to_values()` gives them in the order in
which they are sent; `from_values()` reads them back and raises ValueError, one sentence, for a text
that is missing or is not what the field holds. Other keys are ignored. Stamps are integer
nanoseconds, flags "true" and "false", lists separated by spaces, None an empty text.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from par_model.json_file import shown
from par_ros import messages
from par_ros.control.joint_trajectory import FloatArray
from par_ros.control.reference_watch import ReferenceSample
from par_ros.control.timeline import Moment

# A stamp's seconds are an int32.
_MAX_STAMP_NS = 2**31 * messages.NANOSECONDS - 1


@dataclass(frozen=True)
class GuardState:
    """Topic guard_state.

    Attributes:
        holding: why the arm stands still though chunks may come; empty where it does not.
        fault: kind of the fault that disengaged the guard last; empty without.
    """

    engaged: bool
    stop_latched: bool
    holding: str
    fault: str

    def to_values(self) -> dict[str, str]:
        return {
            "engaged": _flag_text(self.engaged),
            "stop_latched": _flag_text(self.stop_latched),
            "holding": self.holding,
            "fault": self.fault,
        }

    @staticmethod
    def from_values(values: Mapping[str, str]) -> "GuardState":
        read = _Texts("guard_state", values)
        return GuardState(
            read.flag("engaged"),
            read.flag("stop_latched"),
            read.text("holding"),
            read.text("fault"),
        )


@dataclass(frozen=True)
class GuardStatus:
    """The guard's entry in /diagnostics, as far as programs read it.

    Attributes:
        holds, changes: chunks that were held, or tracked within the limits, since configuring.
        last_hold_reason: the last event's sentence.
    """

    engaged: bool
    stop_latched: bool
    holding: str
    holds: int
    changes: int
    last_hold_reason: str

    def to_values(self) -> dict[str, str]:
        return {
            "engaged": _flag_text(self.engaged),
            "stop_latched": _flag_text(self.stop_latched),
            "holding": self.holding,
            "holds": str(self.holds),
            "changes": str(self.changes),
            "last_hold_reason": self.last_hold_reason,
        }

    @staticmethod
    def from_values(values: Mapping[str, str]) -> "GuardStatus":
        read = _Texts("the guard's diagnostics", values)
        return GuardStatus(
            read.flag("engaged"),
            read.flag("stop_latched"),
            read.text("holding"),
            read.whole("holds"),
            read.whole("changes"),
            read.text("last_hold_reason"),
        )


@dataclass(frozen=True)
class GuardInput:
    """Topic guard_inputs: one thing that the guard was given.

    Joint states and ticks that changed nothing are left out: `joint_stamp_ns` is the last joint
    state that the guard had taken by then.

    Attributes:
        kind: configure, chunk, bad_chunk, joint_state, bad_joint_state, references, tick, withdraw,
            or a service.
        moment: both clocks when it was given.
        joint_stamp_ns, joint_moment: None before the first joint state.
        chunk_stamp_ns: of a chunk.
        reason: of a bad chunk or joint state.
        references: what the controller reported.
        last: of a withdrawal, whether it was the last attempt.
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

    def to_values(self) -> dict[str, str]:
        values = {
            "kind": self.kind,
            **_moment_texts(self.moment),
            "joint_stamp_ns": _optional_text(self.joint_stamp_ns),
        }
        if self.joint_moment is not None:
            values |= _moment_texts(self.joint_moment, "joint_")
        values["num_policies"] = str(self.num_policies)
        if self.chunk_stamp_ns is not None:
            values["chunk_stamp_ns"] = str(self.chunk_stamp_ns)
        if self.reason is not None:
            values["reason"] = self.reason
        if self.references:
            values["samples"] = _pack_references(self.references)
        if self.last is not None:
            values["last"] = _flag_text(self.last)
        return values

    @staticmethod
    def from_values(values: Mapping[str, str]) -> "GuardInput":
        read = _Texts("guard_inputs", values)
        kind = read.text("kind")
        joint_stamp_ns = read.optional_whole("joint_stamp_ns")
        return GuardInput(
            kind,
            read.moment(),
            joint_stamp_ns,
            None if joint_stamp_ns is None else read.moment("joint_"),
            read.whole("num_policies"),
            chunk_stamp_ns=read.whole("chunk_stamp_ns") if kind == "chunk" else None,
            reason=read.text("reason") if kind in ("bad_chunk", "bad_joint_state") else None,
            references=read.references("samples") if kind == "references" else (),
            last=read.flag("last") if kind == "withdraw" else None,
        )


@dataclass(frozen=True)
class Observed:
    """Topic observed: what one chunk was computed from.

    Attributes:
        stamp_ns: of the picture, and so of the chunk.
        joint_stamp_ns: of the joint state.
        executed_stamp_ns: of the chunk before, whose executed actions were shown; None without.
        recent_stamps_ns: of the pictures on the way, for a policy that sees in clips.
        reset: whether an episode, or a new context, began with it.
        instruction, policy_seed: what the policy was reset with.
    """

    stamp_ns: int
    joint_stamp_ns: int
    executed_stamp_ns: int | None
    recent_stamps_ns: tuple[int, ...]
    reset: bool
    instruction: str
    policy_seed: int

    def to_values(self) -> dict[str, str]:
        return {
            "stamp_ns": str(self.stamp_ns),
            "joint_stamp_ns": str(self.joint_stamp_ns),
            "executed_stamp_ns": _optional_text(self.executed_stamp_ns),
            "recent_stamps_ns": " ".join(map(str, self.recent_stamps_ns)),
            "reset": _flag_text(self.reset),
            "instruction": self.instruction,
            "policy_seed": str(self.policy_seed),
        }

    @staticmethod
    def from_values(values: Mapping[str, str]) -> "Observed":
        read = _Texts("observed", values)
        return Observed(
            read.whole("stamp_ns"),
            read.whole("joint_stamp_ns"),
            read.optional_whole("executed_stamp_ns"),
            read.wholes("recent_stamps_ns"),
            read.flag("reset"),
            read.text("instruction"),
            read.whole("policy_seed"),
        )


@dataclass(frozen=True)
class EpisodeState:
    """Topic episode_state: how far the simulator's episode is.

    Attributes:
        start_ns: ROS time of the episode's start.
        step: control steps done.
        success, success_once: now; at any step.
        camera_to_trajectory_ms: picture published to trajectory received, each chunk; to 1 us.
        step_rate_hz: control steps a wall second; None where nothing moved.
    """

    task: str
    seed: int
    start_ns: int
    step: int
    success: bool
    success_once: bool
    finished: bool
    camera_to_trajectory_ms: tuple[float, ...]
    step_rate_hz: float | None

    def to_values(self) -> dict[str, str]:
        return {
            "task": self.task,
            "seed": str(self.seed),
            "start_ns": str(self.start_ns),
            "step": str(self.step),
            "success": _flag_text(self.success),
            "success_once": _flag_text(self.success_once),
            "finished": _flag_text(self.finished),
            "camera_to_trajectory_ms": _milliseconds_text(self.camera_to_trajectory_ms),
            "step_rate_hz": rate_text(self.step_rate_hz),
        }

    @staticmethod
    def from_values(values: Mapping[str, str]) -> "EpisodeState":
        read = _Texts("episode_state", values)
        return EpisodeState(
            read.text("task"),
            read.whole("seed"),
            read.whole("start_ns"),
            read.whole("step"),
            read.flag("success"),
            read.flag("success_once"),
            read.flag("finished"),
            read.numbers("camera_to_trajectory_ms"),
            read.optional_number("step_rate_hz"),
        )


@dataclass(frozen=True)
class PolicyStatus:
    """The policy's entry in /diagnostics, as far as programs read it.

    Attributes:
        camera_fault: kind of the camera's fault; empty without.
        new_latency_ms: picture received to chunk sent, of the chunks since the last status.
    """

    active: bool
    camera_fault: str
    new_latency_ms: tuple[float, ...]

    def to_values(self) -> dict[str, str]:
        return {
            "active": _flag_text(self.active),
            "camera_fault": self.camera_fault,
            "new_latency_ms": _milliseconds_text(self.new_latency_ms),
        }

    @staticmethod
    def from_values(values: Mapping[str, str]) -> "PolicyStatus":
        read = _Texts("the policy's diagnostics", values)
        return PolicyStatus(
            read.flag("active"), read.text("camera_fault"), read.numbers("new_latency_ms")
        )


def rate_text(rate_hz: float | None) -> str:
    """To a hundredth of a hertz; empty for None."""
    return "" if rate_hz is None else f"{rate_hz:.2f}"


class _Texts:
    """The texts of one message of `source`; each is read as what it should be, or refused."""

    def __init__(self, source: str, values: Mapping[str, str]) -> None:
        self._source = source
        self._values = values

    def text(self, name: str) -> str:
        if name not in self._values:
            raise ValueError(f"a message of {self._source} lacks {name}.")
        return self._values[name]

    def flag(self, name: str) -> bool:
        text = self.text(name)
        if text not in ("true", "false"):
            raise self._odd(name, text)
        return text == "true"

    def whole(self, name: str) -> int:
        """A whole number from 0; of nanoseconds, as many as a stamp can hold."""
        return self._whole(name, self.text(name))

    def optional_whole(self, name: str) -> int | None:
        return self.whole(name) if self.text(name) else None

    def wholes(self, name: str) -> tuple[int, ...]:
        return tuple(self._whole(name, word) for word in self.text(name).split())

    def numbers(self, name: str) -> tuple[float, ...]:
        return tuple(self._number(name, word) for word in self.text(name).split())

    def optional_number(self, name: str) -> float | None:
        text = self.text(name)
        return self._number(name, text) if text else None

    def moment(self, prefix: str = "") -> Moment:
        return Moment(self.whole(f"{prefix}ros_ns"), self.whole(f"{prefix}steady_ns"))

    def references(self, name: str) -> tuple[ReferenceSample, ...]:
        text = self.text(name)
        try:
            return _unpack_references(text)
        except ValueError:
            raise self._odd(name, text) from None

    def _whole(self, name: str, text: str) -> int:
        is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(_MAX_STAMP_NS))
        if not is_number or int(text) > _MAX_STAMP_NS:
            raise self._odd(name, text)
        return int(text)

    def _number(self, name: str, text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise self._odd(name, text) from None

    def _odd(self, name: str, text: str) -> ValueError:
        return ValueError(f"{name} in a message of {self._source} is {shown(text)}.")


def _flag_text(flag: bool) -> str:
    return str(flag).lower()


def _optional_text(number: int | None) -> str:
    return "" if number is None else str(number)


def _milliseconds_text(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


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


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
