# SPDX-License-Identifier: Apache-2.0
"""What the live view shows, as entities of a Rerun recording: pictures, joints, latency, events.

Joints: measured as a line; the actions of a chunk, and those that the guard sent for it, as points
at the times at which they are due; the limits as two lines. Time is that of the messages' stamps,
since the first one (view_times.py).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import rerun as rr
import rerun.blueprint as rrb

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.joint_states import JointReading
from par_ros.control.joint_trajectory import FloatArray, JointTrajectory
from par_ros.picture_encodings import ImageArray
from par_ros.view_times import ViewTimes

CAMERA, PREDICTED, ATTENTION = (f"pictures/{name}" for name in ("camera", "predicted", "attention"))
LATENCY, EVENTS, JOINTS = "latency", "events", "joints"
TIMELINE = "time"
_MEASURED, _ASKED, _SENT, _LIMIT = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40),
)  # fmt: skip
_JPEG_QUALITY = 80


class ViewerLog:
    """Writes into `stream`; each method takes one thing that a message carried."""

    def __init__(self, stream: rr.RecordingStream, arm: ArmSpec) -> None:
        self._stream = stream
        limits = zip(arm.limits.min_position, arm.limits.max_position, strict=True)
        self._limits = dict(zip(arm.arm_joint_names, limits, strict=True))
        gripper = arm.gripper
        self._limits[gripper.joint_name] = (gripper.min_target_m, gripper.max_target_m)
        self._times = ViewTimes()
        stream.send_blueprint(_blueprint(list(self._limits)))
        for joint in self._limits:
            self._style(joint)

    def note_time(self, stamp_ns: int) -> None:
        """A message of this stamp came. With the first stamp the events before it are shown."""
        self._times.note(stamp_ns)
        self._show_events()

    def show_picture(self, entity: str, picture: ImageArray, stamp_ns: int) -> None:
        """picture: uint8 [H, W, 3]."""
        self._set_time(stamp_ns)
        self._stream.log(entity, rr.Image(picture).compress(jpeg_quality=_JPEG_QUALITY))

    def show_joints(self, reading: JointReading, prefix: str) -> None:
        """Measured positions; joints that the arm does not have are left out."""
        self._times.note_joints(reading.stamp_ns)
        self._set_time(reading.stamp_ns)
        for name, position in zip(reading.names, reading.positions, strict=False):
            joint = name.removeprefix(prefix)
            if joint in self._limits:
                self._stream.log(f"{JOINTS}/{joint}/measured", rr.Scalars(position))

    def show_actions(self, kind: str, trajectory: JointTrajectory, stamp_ns: int) -> None:
        """A chunk (kind: chunk) or what was sent for it (kind: executed)."""
        self.note_time(stamp_ns)
        due_s = self._times.since_start_s(stamp_ns) + trajectory.times_s
        for column, joint in enumerate(trajectory.joint_names):
            if joint not in self._limits:
                continue
            self._send(f"{JOINTS}/{joint}/{kind}", due_s, trajectory.positions[:, column])
            for end, limit in zip(("lowest", "highest"), self._limits[joint], strict=True):
                self._send(f"{JOINTS}/{joint}/{end}", due_s[[0, -1]], np.full(2, limit))

    def show_latencies(self, times_ms: Sequence[float], stamp_ns: int) -> None:
        """How long the policy took for each of its last chunks."""
        self._set_time(stamp_ns)
        for time_ms in times_ms:
            self._stream.log(LATENCY, rr.Scalars(time_ms))

    def show_event(self, level: str, text: str) -> None:
        """level: INFO, WARN or ERROR; at the time of the newest joint state, before the first one
        of the last stamp. Kept until there is a stamp."""
        self._times.add_event((level, text))
        self._show_events()

    def _show_events(self) -> None:
        for time_s, (level, text) in self._times.take_events():
            self._stream.set_time(TIMELINE, duration=time_s)
            self._stream.log(EVENTS, rr.TextLog(text, level=level))

    def _style(self, joint: str) -> None:
        folder = f"{JOINTS}/{joint}"
        for name, colour in (("measured", _MEASURED), ("lowest", _LIMIT), ("highest", _LIMIT)):
            style: Any = rr.SeriesLines(colors=colour, names=name, widths=1.0)
            self._stream.log(f"{folder}/{name}", style, static=True)
        for name, colour in (("chunk", _ASKED), ("executed", _SENT)):
            style = rr.SeriesPoints(colors=colour, names=name, marker_sizes=2.0)
            self._stream.log(f"{folder}/{name}", style, static=True)

    def _send(self, entity: str, times_s: FloatArray, values: FloatArray) -> None:
        self._stream.send_columns(
            entity, [rr.TimeColumn(TIMELINE, duration=times_s)], rr.Scalars.columns(scalars=values)
        )

    def _set_time(self, stamp_ns: int) -> None:
        self.note_time(stamp_ns)
        self._stream.set_time(TIMELINE, duration=self._times.since_start_s(stamp_ns))


def _blueprint(joints: Iterable[str]) -> rrb.Blueprint:
    pictures = rrb.Vertical(
        rrb.Spatial2DView(origin=CAMERA, name="camera"),
        rrb.Spatial2DView(origin=PREDICTED, name="predicted picture"),
        rrb.Spatial2DView(origin=ATTENTION, name="attention"),
        rrb.TimeSeriesView(origin=LATENCY, name="policy latency, ms"),
        rrb.TextLogView(origin=EVENTS, name="guard and nodes"),
    )
    views = [rrb.TimeSeriesView(origin=f"{JOINTS}/{joint}", name=joint) for joint in joints]
    return rrb.Blueprint(
        rrb.Horizontal(pictures, rrb.Grid(*views, grid_columns=2), column_shares=[1, 2]),
        collapse_panels=True,
    )
