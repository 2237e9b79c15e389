# SPDX-License-Identifier: Apache-2.0
"""The guard's status messages: /diagnostics, guard_state, and guard_inputs for a replay."""

import base64

import numpy as np

from par_ros import messages
from par_ros.control.guard import Guard
from par_ros.control.joint_trajectory import FloatArray
from par_ros.control.reference_watch import ReferenceSample
from par_ros.control.timeline import Moment


def state_of(guard: Guard) -> tuple[bytes, str]:
    """Diagnostic level and a sentence about the guard's state."""
    if guard.stop_latched:
        return messages.ERROR, "stopped; reset_stop, then engage"
    if guard.last_fault is not None:
        return messages.ERROR, f"disengaged: {guard.last_fault.reason}"
    if not guard.engaged:
        return messages.WARN, "disengaged"
    if guard.holding:
        return messages.WARN, f"holding: {guard.holding}"
    return messages.OK, "engaged"


def guard_state(name: str, guard: Guard) -> messages.Status:
    """The topic guard_state: engaged, stop_latched, holding and fault."""
    level, text = state_of(guard)
    fault = guard.last_fault
    values = {
        "engaged": _text(guard.engaged),
        "stop_latched": _text(guard.stop_latched),
        "holding": guard.holding,
        "fault": "" if fault is None else fault.kind,
    }
    return messages.Status(name, level, text, values)


def diagnostics(name: str, guard: Guard, last_event: str, more: dict[str, str]) -> messages.Status:
    """The same with the counters, for people and reports."""
    level, text = state_of(guard)
    values = {
        "engaged": _text(guard.engaged),
        "stop_latched": _text(guard.stop_latched),
        "holding": guard.holding,
        "holds": str(guard.counters["holds"]),
        "changes": str(guard.counters["tracked"]),
        "last_hold_reason": last_event,
        **more,
        **{name: str(count) for name, count in sorted(guard.counters.items()) if name != "holds"},
    }
    return messages.Status(name, level, text, values)


def moment_values(moment: Moment, prefix: str = "") -> dict[str, str]:
    """Both clocks, as ClockReader.now() gives them."""
    return {f"{prefix}ros_ns": str(moment.ros_ns), f"{prefix}steady_ns": str(moment.steady_ns)}


def pack_references(samples: list[ReferenceSample]) -> str:
    """Samples as text, to the bit."""
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


def unpack_references(text: str, num_joints: int) -> list[ReferenceSample]:
    """The inverse of pack_references(). Raises ValueError for any other text."""
    count, stamps_text, rows_text = text.split(" ")
    stamps = np.frombuffer(base64.b64decode(stamps_text, validate=True), dtype="<i8")
    numbers = np.frombuffer(base64.b64decode(rows_text, validate=True), dtype="<f8")
    rows: FloatArray = numbers.reshape(int(count), 3 * num_joints + 1).astype(np.float64)
    return [
        ReferenceSample(int(stamp), *np.split(row[:-1], 3), float(row[-1]))
        for stamp, row in zip(stamps, rows, strict=True)
    ]


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _text(flag: bool) -> str:
    return str(flag).lower()
