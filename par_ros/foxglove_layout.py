# SPDX-License-Identifier: Apache-2.0
"""Write the Foxglove layout of an arm: its topics, joints and limits as panels.

    python -m par_ros.foxglove_layout panda > config/foxglove/panda.json

A test resolves every message path of the layouts in config/foxglove against a recording.
Foxglove's message paths and panel settings: https://docs.foxglove.dev/docs.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from par_ros.control.arm_spec import ArmSpec
from par_ros.parameters import read_arm_spec
from par_ros.process import report_error
from par_ros.topics import (
    ACTION_CHUNK,
    ATTENTION_IMAGE,
    CAMERA_INFO,
    DIAGNOSTICS,
    EPISODE_STATE,
    EXECUTED_ACTIONS,
    GUARD_STATE,
    IMAGE,
    JOINT_STATES,
    POLICY,
    PREDICTED_IMAGE,
    Topic,
)

_MEASURED, _ASKED, _SENT, _LIMIT = "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728"
_LATENCIES = ("latency_ms_p50", "latency_ms_p99", "inference_ms_p50", "observation_age_ms")
_STATES = (
    (GUARD_STATE, ("engaged", "stop_latched", "holding", "fault")),
    (EPISODE_STATE, ("success_once", "finished")),
)


def layout(arm: ArmSpec) -> dict[str, Any]:
    """What Foxglove imports: each panel's settings by name, and where the panels stand.

    Topics have the names that they have without a namespace and without remaps.
    """
    # Pictures and curves of what the policy sees are rows of this table.
    seen = {
        "Image!camera": _image("Camera", IMAGE, CAMERA_INFO),
        "Image!predicted": _image("Predicted picture", PREDICTED_IMAGE),
        "Image!attention": _image("Attention", ATTENTION_IMAGE),
    }
    told = {
        "StateTransitions!guard": _states(),
        "Plot!latency": _latency(),
        "DiagnosticSummary!nodes": {"topicToRender": _name(DIAGNOSTICS), "minLevel": 0},
    }
    joints = list(_joint_limits(arm))
    over_time = {f"Plot!time{row}": _over_time(row, *joint) for row, joint in enumerate(joints)}
    by_knot = {f"Plot!chunk{row}": _by_knot(row, *joint) for row, joint in enumerate(joints)}
    tabs = [
        {"title": "Joints over time", "layout": _stack("column", list(over_time))},
        {"title": "Chunk and executed actions", "layout": _stack("column", list(by_knot))},
    ]
    left = _stack("column", [*seen, *told])
    return {
        "configById": {
            **seen,
            **told,
            **over_time,
            **by_knot,
            "Tab!joints": {"activeTabIdx": 0, "tabs": tabs},
        },
        "globalVariables": {},
        "userNodes": {},
        "playbackConfig": {"speed": 1},
        "layout": _split("row", left, "Tab!joints", 40.0),
    }


def layout_text(arm: ArmSpec) -> str:
    """The layout as the text of a file."""
    return json.dumps(layout(arm), indent=1) + "\n"


def _joint_limits(arm: ArmSpec) -> Iterator[tuple[str, float, float, str]]:
    """Name, least and greatest position and unit of each joint, in the order of a chunk."""
    limits = arm.limits
    ends = zip(limits.min_position, limits.max_position, strict=True)
    for name, (least, greatest) in zip(arm.arm_joint_names, ends, strict=True):
        yield name, float(least), float(greatest), "rad"
    gripper = arm.gripper
    yield gripper.joint_name, gripper.min_target_m, gripper.max_target_m, "m"


def _over_time(index: int, name: str, least: float, greatest: float, unit: str) -> dict[str, Any]:
    """Measured, asked and sent position of one joint over time, between its limits."""
    series = (
        (f"{_name(JOINT_STATES)}.position[{index}]", "measured", _MEASURED),
        (f"{_name(ACTION_CHUNK)}.points[0].positions[{index}]", "chunk's first action", _ASKED),
        (f"{_name(EXECUTED_ACTIONS)}.points[0].positions[{index}]", "executed", _SENT),
        *_band(least, greatest),
    )
    return _plot(f"{name}, {unit}", series, "timestamp")


def _by_knot(index: int, name: str, least: float, greatest: float, unit: str) -> dict[str, Any]:
    """All actions of the newest chunk beside those that the guard sent for it."""
    series = (
        (f"{_name(ACTION_CHUNK)}.points[:].positions[{index}]", "chunk", _ASKED),
        (f"{_name(EXECUTED_ACTIONS)}.points[:].positions[{index}]", "executed", _SENT),
        *_band(least, greatest),
    )
    return _plot(f"{name}, {unit}, by action", series, "index")


def _band(least: float, greatest: float) -> tuple[tuple[str, str, str], ...]:
    """Two lines: a number in place of a path is a line at that value."""
    return (f"{least:g}", "lowest", _LIMIT), (f"{greatest:g}", "highest", _LIMIT)


def _latency() -> dict[str, Any]:
    status = f'{_name(DIAGNOSTICS)}.status[:]{{name=="{POLICY}"}}'
    series = [(_value(status, key), key, None) for key in _LATENCIES]
    return _plot("Latency of the policy, ms", series, "timestamp")


def _states() -> dict[str, Any]:
    paths = [
        {"value": _value(_name(topic), key), "label": key, "timestampMethod": "receiveTime"}
        for topic, keys in _STATES
        for key in keys
    ]
    return {"paths": paths, "isSynced": True}


def _value(status: str, key: str) -> str:
    """Path of one text of a diagnostic_msgs/DiagnosticStatus."""
    return f'{status}.values[:]{{key=="{key}"}}.value'


def _image(title: str, topic: Topic, calibration: Topic | None = None) -> dict[str, Any]:
    mode = {"imageTopic": _name(topic)}
    if calibration is not None:
        mode["calibrationTopic"] = _name(calibration)
    return {"foxglovePanelTitle": title, "imageMode": mode, "synchronize": False}


def _plot(title: str, series: Iterable[tuple[str, str, str | None]], x_axis: str) -> dict[str, Any]:
    paths = [
        {
            "value": path,
            "label": label,
            "enabled": True,
            "timestampMethod": "receiveTime",
            **({} if colour is None else {"color": colour}),
        }
        for path, label, colour in series
    ]
    return {
        "foxglovePanelTitle": title,
        "paths": paths,
        "xAxisVal": x_axis,
        "isSynced": x_axis == "timestamp",
        "showLegend": True,
        "legendDisplay": "floating",
        "showXAxisLabels": True,
        "showYAxisLabels": True,
    }


def _stack(direction: str, panels: list[str]) -> Any:
    """The panels in a row or column, all of one size."""
    first, *rest = panels
    return _split(direction, first, _stack(direction, rest), 100 / len(panels)) if rest else first


def _split(direction: str, first: Any, second: Any, percentage: float) -> dict[str, Any]:
    return {
        "direction": direction,
        "first": first,
        "second": second,
        "splitPercentage": round(percentage, 2),
    }


def _name(topic: Topic) -> str:
    return "/" + topic.name.lstrip("/")


def main(words: list[str]) -> int:
    """Print the layout of the arm `words[0]`; gives the exit code."""
    if len(words) != 1:
        print("usage: python -m par_ros.foxglove_layout ARM > LAYOUT.json", file=sys.stderr)
        return 2
    try:
        sys.stdout.write(layout_text(read_arm_spec(words[0])))
    except ValueError as error:
        return report_error(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
