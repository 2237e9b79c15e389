# SPDX-License-Identifier: Apache-2.0
"""What the report's page draws: rows of one time axis for each episode, beside its film.

A row is a small plot with series of points; the page draws whatever rows it is given. Times are
seconds from the episode's start, the reset; steps are counted from `idle_s` on.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from par_ros.run_results import EpisodeResult, RunResults

# Of a long run's episodes, so that the page stays small.
MAX_STORIES = 50
_DECIMALS = 4


def stories(results: RunResults) -> list[dict[str, Any]]:
    """The first MAX_STORIES episodes, as plain values."""
    step_s, unit = results.step_s, results.gripper_unit
    return [story(episode, step_s, unit) for episode in results.episodes[:MAX_STORIES]]


def story(episode: EpisodeResult, step_s: float, gripper_unit: str) -> dict[str, Any]:
    """One episode: its film and the rows of its time axis; `gripper_unit`: of its targets."""
    outcome = "success" if episode.success else "failure"
    return {
        "title": f"seed {episode.seed}: {outcome} after {episode.steps} steps",
        "duration_s": _rounded([episode.idle_s + step_s * episode.steps])[0],
        "video": episode.video,
        "video_times_s": _rounded(episode.video_times_s),
        "rows": [
            _speed_row(episode, step_s),
            _gripper_row(episode, step_s, gripper_unit),
            _chunk_row(episode),
            _guard_row(episode, step_s),
            *_surprise_rows(episode),
        ],
    }


def latencies(results: RunResults) -> list[dict[str, Any]]:
    """Latencies of every chunk of the run, one series each."""
    return [
        {
            "name": name,
            "y": [time for episode in results.episodes for time in getattr(episode, attribute)],
            "text": [
                f"seed {episode.seed}, chunk {number}"
                for episode in results.episodes
                for number in range(1, 1 + len(getattr(episode, attribute)))
            ],
        }
        for name, attribute in (
            ("policy: picture received to chunk sent", "policy_latency_ms"),
            ("picture published to trajectory received", "camera_to_trajectory_ms"),
        )
    ]


def _speed_row(episode: EpisodeResult, step_s: float) -> dict[str, Any]:
    """Joint speed of the targets; a mark where a chunk changed what the arm was going to do."""
    targets = np.array(episode.joint_targets).reshape(-1, len(episode.joint_names))
    arm = targets[:, :-1]
    speeds = np.linalg.norm(np.diff(arm, axis=0), axis=1) / step_s
    seams = np.array([seam for seam in episode.seams if 2 <= seam <= len(arm)], dtype=int)
    times_s, seams_s = (
        episode.idle_s + step_s * steps for steps in (np.arange(2, len(speeds) + 2), seams)
    )
    line = _series("joint speed", "line", times_s, speeds)
    return _row("joint speed", "rad/s", line, _series("seam", "mark", seams_s, speeds[seams - 2]))


def _gripper_row(episode: EpisodeResult, step_s: float, unit: str) -> dict[str, Any]:
    values = [targets[-1] for targets in episode.joint_targets]
    times_s = episode.idle_s + step_s * np.arange(1, len(values) + 1)
    return _row("gripper target", unit, _series("gripper target", "line", times_s, values))


def _chunk_row(episode: EpisodeResult) -> dict[str, Any]:
    """How long the policy took for each chunk, at the time of the chunk's picture."""
    known = list(zip(episode.chunk_times_s, episode.policy_latency_ms, strict=False))
    series = _series("chunk", "bar", [time for time, _ in known], [late for _, late in known])
    return _row("policy latency", "ms", series)


def _guard_row(episode: EpisodeResult, step_s: float) -> dict[str, Any]:
    """Holds above changes; a joint target that was changed stands at the step that it is for."""
    rows = []
    for kind, height in (("hold", 1.0), ("change", 0.0)):
        events = [event for event in episode.guard_events if event.kind == kind]
        texts = [event.reason for event in events]
        times_s = [event.time_s for event in events]
        rows.append(_series(kind, "event", times_s, [height] * len(events), texts))
    changes = episode.guard_changes
    texts = [f"{one.joint}: {one.asked:.4f} asked, {one.sent:.4f} sent" for one in changes]
    steps_s = [episode.idle_s + step_s * change.step for change in changes]
    rows.append(_series("changed target", "event", steps_s, [0.0] * len(changes), texts))
    return _row("guard", "", *rows)


def _surprise_rows(episode: EpisodeResult) -> list[dict[str, Any]]:
    """How badly each observation fits, and the thresholds; nothing where none was judged. A
    value that is no finite number stops the arm and has no place on an axis."""
    values = [value for value in episode.surprises if math.isfinite(value.surprise)]
    if not values:
        return []
    times_s = [value.time_s for value in values]
    names = (("surprise", "surprise"), ("stop", "second"), ("warning", "first"))
    return [
        _row(
            "surprise",
            "error",
            *(
                _series(name, "line", times_s, [getattr(value, field) for value in values])
                for name, field in names
            ),
        )
    ]


def _row(title: str, unit: str, *series: dict[str, Any]) -> dict[str, Any]:
    return {"title": title, "unit": unit, "series": list(series)}


def _series(
    name: str, kind: str, x: Iterable[float], y: Iterable[float], text: Iterable[str] = ()
) -> dict[str, Any]:
    """kind: line, mark (on a line), bar or event."""
    return {"name": name, "kind": kind, "x": _rounded(x), "y": _rounded(y), "text": list(text)}


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), _DECIMALS) for value in values]
