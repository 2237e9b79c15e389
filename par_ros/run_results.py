# SPDX-License-Identifier: Apache-2.0
"""Results of episodes through the ROS graph, and results.json."""

import dataclasses
import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from par_model.evaluation.limit_shares import LimitShares, share_beyond
from par_model.evaluation.smoothness import MotionFigures, SeamFigures
from par_model.evaluation.statistics import wilson_interval
from par_model.output_files import write_text
from par_model.weights_hash import weights_hash
from par_ros.chunk_ledger import LEDGER_FIELDS

RESULTS_FILE = "results.json"
SEAM_FIELDS = tuple(field.name for field in dataclasses.fields(SeamFigures))

# What the numbers depend on.
_PACKAGES = (
    "par_ros",
    "torch",
    "numpy",
    "mani-skill",
    "sapien",
    "rclpy",
    "ros-rclpy",
    "ros-rmw-fastrtps-cpp",
    "ruckig",
)


@dataclass(frozen=True)
class GuardChange:
    """One joint target that the guard changed.

    Attributes:
        step: control step of the episode, from 1; the row of its joint_targets.
        joint: name of the joint.
        asked, sent: rad; the gripper's in RunResults.gripper_unit.
    """

    step: int
    joint: str
    asked: float
    sent: float


@dataclass(frozen=True)
class GuardEvent:
    """The guard held or changed a chunk.

    Attributes:
        time_s: of its report, from the episode's start, the reset.
        kind: hold or change.
        reason: the guard's sentence.
    """

    time_s: float
    kind: str
    reason: str


@dataclass(frozen=True)
class SurpriseValue:
    """How badly one observation fits what was expected of it.

    Attributes:
        time_s: of the observation, from the episode's start.
        surprise: wire_records.Surprise's.
        first, second: its thresholds.
    """

    time_s: float
    surprise: float
    first: float
    second: float


@dataclass(frozen=True)
class EpisodeResult:
    """One finished episode.

    Attributes:
        success: whether the task's condition held at any step.
        steps: control steps until success, or until the limit.
        joint_targets: what was given to the simulator: steps x joints, rad, the gripper last in
            RunResults.gripper_unit.
        chunks, holds: chunks that the policy sent; of these, answered by standing still.
        guard_changes: every number that the guard changed.
        guard_reasons: reasons that the guard reported for its holds and changes.
        guard_events: each hold and change with its time.
        chunk_times_s: when the picture of each chunk was taken, from the episode's start.
        policy_latency_ms: picture received by policy_node to chunk sent, each chunk.
        camera_to_trajectory_ms: picture published to trajectory received by the arm, each chunk.
        ledger_ms: chunk_ledger.ChunkTimes of each chunk that the guard reported on, in the order
            of its fields; ms after the chunk's picture, None where nothing followed.
        missed_chunks: sent, and never reported on.
        seams: control steps, from 1, whose target is the first that a chunk changed.
        motion: of joint_targets without the gripper.
        limit_shares: of each chunk, its largest acceleration and jerk before the guard, the seam
            included, as shares of the arm's limits.
        predicted: whether pictures were predicted too (which slows the policy down).
        step_rate_hz: control steps a wall second; None where nothing moved.
        video: file name beside results.json.
        video_times_s: when each frame of the video was taken, from the episode's start.
        surprise_warnings, surprise_stops: observations above the first threshold only, and above
            the second.
        surprises: of each observation that was judged, in order of time.
        idle_s: from the episode's start, the reset, until steps are counted: step k is due at
            idle_s + k * step_s. In real time until the first trajectory; 0 in lockstep.
    """

    seed: int
    policy_seed: int
    success: bool
    steps: int
    joint_names: tuple[str, ...]
    joint_targets: list[list[float]]
    chunks: int
    holds: int
    guard_changes: tuple[GuardChange, ...]
    guard_reasons: tuple[str, ...]
    guard_events: tuple[GuardEvent, ...]
    chunk_times_s: tuple[float, ...]
    policy_latency_ms: tuple[float, ...]
    camera_to_trajectory_ms: tuple[float, ...]
    ledger_ms: tuple[tuple[float | None, ...], ...]
    missed_chunks: int
    seams: tuple[int, ...]
    motion: MotionFigures
    limit_shares: tuple[LimitShares, ...]
    predicted: bool
    step_rate_hz: float | None
    video: str | None
    video_times_s: tuple[float, ...]
    surprise_warnings: int = 0
    surprise_stops: int = 0
    surprises: tuple[SurpriseValue, ...] = ()
    idle_s: float = 0.0


@dataclass(frozen=True)
class RunResults:
    """Finished episodes, and what they were run with.

    Attributes:
        gripper_unit: of the gripper's targets, m or rad.
        weights_sha256: `weights_hash` of the checkpoint. Not given, it is read from the folder
            `checkpoint`; None where that has no manifest of weights.
    """

    task: str
    instruction: str
    mode: str
    checkpoint: str
    command: str
    started: str
    episodes_asked: int
    step_s: float
    gripper_unit: str
    episodes: tuple[EpisodeResult, ...]
    weights_sha256: str | None = None

    def __post_init__(self) -> None:
        if self.weights_sha256 is None:
            object.__setattr__(self, "weights_sha256", _weights_of(Path(self.checkpoint)))

    @property
    def num_successes(self) -> int:
        return sum(episode.success for episode in self.episodes)

    def success_interval(self) -> dict[str, float]:
        """low and high of the success rate at 95 %; 0 and 1 without episodes."""
        if not self.episodes:
            return {"low": 0.0, "high": 1.0}
        return dataclasses.asdict(wilson_interval(self.num_successes, len(self.episodes)))

    def timed_episodes(self) -> tuple[EpisodeResult, ...]:
        """Episodes whose latencies count: those without predicted pictures, if there are any."""
        plain = tuple(episode for episode in self.episodes if not episode.predicted)
        return plain or self.episodes

    def policy_latency_ms(self) -> list[float]:
        """All that count."""
        return [time for episode in self.timed_episodes() for time in episode.policy_latency_ms]

    def camera_to_trajectory_ms(self) -> list[float]:
        """All that count."""
        return [
            time for episode in self.timed_episodes() for time in episode.camera_to_trajectory_ms
        ]

    def ledger(self) -> dict[str, dict[str, float | int | None]]:
        """Percentiles of the chunks' times after their pictures [ms], by what happened then."""
        rows = [row for episode in self.timed_episodes() for row in episode.ledger_ms]
        columns = zip(*rows, strict=True) if rows else [()] * len(LEDGER_FIELDS)
        return {
            name: percentiles(value for value in column if value is not None)
            for name, column in zip(LEDGER_FIELDS, columns, strict=True)
        }

    def smoothness(self) -> dict[str, Any]:
        """Of all episodes: medians, and of the seams 95th percentiles too; None without any."""
        motions = [episode.motion for episode in self.episodes if episode.motion.moving_s]
        seams = [seam for motion in motions for seam in motion.seams]
        chunks = [chunk for episode in self.episodes for chunk in episode.limit_shares]
        whole = ("spectral_arc_length", "log_dimensionless_jerk", "rest_s", "moving_s")
        return {
            name: _quantile([getattr(motion, name) for motion in motions], 0.5) for name in whole
        } | {
            "limits": share_beyond(chunks),
            "num_seams": len(seams),
            "seams": {
                name: {
                    "median": _quantile([getattr(seam, name) for seam in seams], 0.5),
                    "p95": _quantile([getattr(seam, name) for seam in seams], 0.95),
                }
                for name in SEAM_FIELDS
            },
        }

    def to_json(self) -> dict[str, Any]:
        """The content of results.json."""
        interval = self.success_interval()
        return {
            "task": self.task,
            "instruction": self.instruction,
            "mode": self.mode,
            "checkpoint": self.checkpoint,
            "weights_sha256": self.weights_sha256,
            "command": self.command,
            "started": self.started,
            "episodes_asked": self.episodes_asked,
            "step_s": self.step_s,
            "gripper_unit": self.gripper_unit,
            "num_episodes": len(self.episodes),
            "num_successes": self.num_successes,
            "interval": {**interval, "confidence": 0.95, "method": "Wilson"},
            "policy_latency_ms": percentiles(self.policy_latency_ms()),
            "camera_to_trajectory_ms": percentiles(self.camera_to_trajectory_ms()),
            "ledger_ms": self.ledger(),
            "missed_chunks": sum(episode.missed_chunks for episode in self.episodes),
            "surprise_warnings": sum(episode.surprise_warnings for episode in self.episodes),
            "surprise_stops": sum(episode.surprise_stops for episode in self.episodes),
            "smoothness": self.smoothness(),
            "versions": package_versions(),
            "hardware": hardware(),
            "episodes": [dataclasses.asdict(episode) for episode in self.episodes],
        }

    def write(self, folder: Path) -> None:
        """Write results.json whole or not at all. Raises ValueError for what the disk refuses."""
        text = json.dumps(self.to_json(), indent=1) + "\n"
        write_text("the results file", folder / RESULTS_FILE, text)


def _weights_of(checkpoint: Path) -> str | None:
    try:
        return weights_hash(checkpoint)
    except ValueError:
        return None


def _quantile(values: list[float], share: float) -> float | None:
    return float(np.quantile(values, share)) if values else None


def percentiles(values: Iterable[float]) -> dict[str, float | int | None]:
    """count, p50, p99, p99.9 and worst; None where there is nothing."""
    numbers = list(values)
    if not numbers:
        return {"count": 0, "p50": None, "p99": None, "p99.9": None, "worst": None}
    p50, p99, p999 = np.percentile(numbers, [50, 99, 99.9])
    return {
        "count": len(numbers),
        "p50": round(float(p50), 3),
        "p99": round(float(p99), 3),
        "p99.9": round(float(p999), 3),
        "worst": round(max(numbers), 3),
    }


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that are installed."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, str | int]:
    """The machine, in words."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 0,
        "machine": platform.machine(),
        "system": platform.platform(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
