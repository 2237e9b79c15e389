# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros limits`: the policy's chunks against the arm's published limits.

Either of the policy, in episodes of the simulator (--task, --episodes), or of a motion planner, in
a data set that par_model.collect wrote (--data-set). Each chunk is looked at after the one before:

- asked: velocity, acceleration and jerk as first, second and third differences of the targets, as
  shares of the limits;
- curve: the same of the smoothest curve through the chunk's targets (par_ros.control.knot_spline),
  which begins as the arm moves and ends slowly enough to stop: what the guard compares;
- answered: whether the guard passes the chunk unchanged, tracks it within the limits, or holds,
  with each share of the limits that it may plan with (--limit-shares; the first one commands the
  arm). A chunk that is not unchanged is motion that the guard takes away: of a motion planner's at
  least 99 % should pass unchanged.

With --commanded guarded the simulator's arm is sent what the guard made of the chunk, otherwise
what the policy asked for.
"""

import dataclasses
import datetime
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import arg

from par_model.command_line import default_is, output_file, parse, require_some
from par_model.json_file import read_object
from par_model.output_files import write_text
from par_ros.checkpoint_form import checkpoint_chunk
from par_ros.control import braking
from par_ros.control.arm_spec import ArmSpec
from par_ros.control.guard_settings import GuardSettings
from par_ros.control.hermite_curve import control_points
from par_ros.control.joint_trajectory import FloatArray, Motion, MotionState
from par_ros.control.knot_spline import knot_spline
from par_ros.control.safety_filter import Join, SafetyFilter, arm_trajectory
from par_ros.node_graph import checkpoint_folder
from par_ros.parameters import read_arm_spec
from par_ros.process import report_error
from par_ros.run_results import hardware

# As in `python -m par_ros sim`.
_MAX_STEPS = 200
_QUANTITIES = ("velocity", "acceleration", "jerk")
_OUTCOMES = ("unchanged", "tracked", "refused")
# As the guard: so far inside the position limits.
POSITION_MARGIN_RAD = 0.005
# What the guard plans with, and all of the limits.
LIMIT_SHARES = (GuardSettings().limit_share, 1.0)
# The target for a motion planner's chunks.
MIN_UNCHANGED_SHARE = 0.99
COMMAND = "python -m par_ros limits"


@dataclass(frozen=True)
class LimitsOptions:
    """The command line."""

    # folder that par_model.collect wrote
    data_set: Annotated[Path | None, arg(metavar="DIR"), default_is("episodes of the policy")] = (
        None
    )
    # of a data set: disturbed episodes too
    disturbed: bool = False
    # of the simulator's episodes
    task: str = "PushCube"
    # how many are looked at
    episodes: Annotated[int | None, default_is("25; of a data set: all")] = None
    # reset seed of the first episode
    first_seed: Annotated[int | None, default_is("the measurement seeds")] = None
    # folder of the policy; of a data set: its chunks are as long as this policy's
    checkpoint: Annotated[str, arg(metavar="DIR"), default_is("the policy that is shipped")] = ""
    # runtime of the network
    backend: str = "auto"
    # what the arm is sent: what the policy asked for, or what the guard made of it
    commanded: Literal["raw", "guarded"] = "guarded"
    # of the limits, what the guard may plan with [0 to 1]; the first one commands the arm
    limit_shares: Annotated[tuple[float, ...], arg(metavar="SHARE ...")] = LIMIT_SHARES
    # where to write the result
    json: Annotated[Path | None, output_file()] = None

    def __post_init__(self) -> None:
        require_some("--limit-shares", self.limit_shares)
        if not all(0.0 < share <= 1.0 for share in self.limit_shares):
            raise ValueError("--limit-shares must be above 0 and at most 1.")
        if self.episodes is not None and self.episodes < 1:
            raise ValueError(f"--episodes must be at least 1, got {self.episodes}.")


@dataclass
class Asked:
    """The chunks that were requested, and the guard's answers.

    Attributes:
        targets, curves: [chunks][3], the largest velocity, acceleration and jerk of any joint as a
            share of its limit; of the targets' differences, and of the curve.
        outcomes: how many chunks were unchanged, tracked, refused.
        deviations_rad: of the tracked chunks, the largest change of a target.
        reasons: of the refused ones.
        joints: which joint's share of the curve's was the largest, by quantity.
    """

    targets: list[list[float]] = field(default_factory=list)
    curves: list[list[float]] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    deviations_rad: list[float] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    joints: dict[str, Counter[str]] = field(
        default_factory=lambda: {quantity: Counter() for quantity in _QUANTITIES}
    )


class ChunkChain:
    """Chunks one after the other from a standing arm; `take` gives the targets as they are sent."""

    def __init__(
        self,
        spec: ArmSpec,
        asked: Asked,
        *,
        guarded: bool,
        limit_share: float = 1.0,
        num_actions: int = GuardSettings.num_actions,
        step_s: float = GuardSettings.step_s,
    ) -> None:
        """guarded: the next chunk starts where the answer ends, else where this one ends.

        limit_share: of the limits, what the guard plans with; what is asked is compared with all.
        """
        self._spec = spec
        planning = planning_spec(spec, limit_share)
        self._stop_limits = planning.limits
        self._filter = SafetyFilter(planning, num_actions=num_actions, step_s=step_s)
        self._spline = knot_spline(0.0, tuple(self._filter.knot_times_s.tolist()))
        self._limits = (
            spec.limits.max_velocity,
            spec.limits.max_acceleration,
            spec.limits.max_jerk,
        )
        self._asked = asked
        self._guarded = guarded
        self._state: MotionState | None = None
        self._finger_m = 0.0

    def start(self, positions: FloatArray) -> None:
        """The arm stands at `positions` [J + 1]."""
        self._state = MotionState.at_rest(positions[:-1])
        self._recent = np.tile(positions[:-1], (3, 1))
        self._finger_m = float(positions[-1])

    def take(self, knots: FloatArray) -> FloatArray:
        """The targets [L, J + 1] that the guard sends for `knots` [L, J + 1]."""
        assert self._state is not None
        start = self._state
        exact = self._spline.exact(start, knots[:, :-1])
        self._note_targets(knots[:, :-1])
        self._note_curve(control_points(exact).arrays()[1:])
        filtered = self._filter.apply(Join(start), knots, self._finger_m)
        self._asked.outcomes[filtered.outcome] += 1
        end_s = float(self._filter.knot_times_s[-1])
        if filtered.nodes is None:
            self._asked.reasons.append(filtered.reason)
            stop = arm_trajectory(self._spec, braking.stop(start, self._stop_limits))
            motion = Motion(stop, start)
            sent = knots.copy()
            sent[:, :-1] = motion.sample(self._filter.knot_times_s).positions
            sent[:, -1] = self._finger_m
        else:
            motion = Motion(arm_trajectory(self._spec, filtered.nodes), start)
            sent = filtered.knots
        if filtered.outcome == "tracked":
            self._asked.deviations_rad.append(float(np.abs(sent - knots)[:, :-1].max()))
        if self._guarded:
            self._state, self._finger_m = motion.state_at(end_s), float(sent[-1, -1])
        else:
            rows = (exact.positions[-1], exact.velocities[-1], exact.accelerations[-1])
            self._state, self._finger_m = MotionState(*rows), float(knots[-1, -1])
        self._recent = (sent if self._guarded else knots)[-3:, :-1]
        return sent

    def _note_targets(self, targets: FloatArray) -> None:
        line = np.concatenate((self._recent, targets))
        step_s = self._filter.step_s
        self._asked.targets.append(
            [
                float((np.abs(np.diff(line, n=order, axis=0)) / step_s**order / limit).max())
                for order, limit in enumerate(self._limits, start=1)
            ]
        )

    def _note_curve(self, curves: tuple[FloatArray, ...]) -> None:
        row = []
        for quantity, curve, limit in zip(_QUANTITIES, curves, self._limits, strict=True):
            shares = np.abs(curve).max(axis=(0, 1)) / limit
            joint = int(np.argmax(shares))
            row.append(float(shares[joint]))
            self._asked.joints[quantity][self._spec.arm_joint_names[joint]] += 1
        self._asked.curves.append(row)


def planning_spec(spec: ArmSpec, limit_share: float) -> ArmSpec:
    """The arm within whose limits the guard plans."""
    limits = spec.limits.scaled(limit_share).inside(POSITION_MARGIN_RAD)
    return dataclasses.replace(spec, limits=limits)


class WatchedPolicy:
    """A policy whose chunks go through ChunkChains; `guarded`: the first one's answer is sent."""

    def __init__(self, policy: Any, chains: list[ChunkChain], *, guarded: bool) -> None:
        self._policy = policy
        self._chains = chains
        self._guarded = guarded
        self._first = True
        self.spec = policy.spec

    def reset(self, instruction: str, seed: int) -> None:
        self._policy.reset(instruction, seed)
        self._first = True

    def observe(self, observation: Any) -> None:
        if self._first:
            for chain in self._chains:
                chain.start(observation.measured_joint_positions)
            self._first = False
        self._policy.observe(observation)

    def act(self) -> Any:
        chunk = self._policy.act()
        answers = [chain.take(chunk.joint_positions) for chain in self._chains]
        sent = answers[0]
        return dataclasses.replace(chunk, joint_positions=sent) if self._guarded else chunk


def of_policy(options: LimitsOptions) -> tuple[list[Asked], dict[str, Any]]:
    """Episodes of the shipped policy, or of --checkpoint, in the simulator, without ROS."""
    from par_model.evaluation.direct_loop import arm_for, run_episode
    from par_model.load_policy import load_policy
    from par_model.simulation.tasks import FIRST_MEASUREMENT_SEED, task

    guarded = options.commanded == "guarded"
    first_seed = FIRST_MEASUREMENT_SEED if options.first_seed is None else options.first_seed
    chosen = task(options.task)
    policy = load_policy(checkpoint_folder(options.checkpoint), backend=options.backend)
    every = [Asked() for _ in options.limit_shares]
    asked = every[0]
    chains = [
        ChunkChain(
            read_arm_spec(chosen.robot.name),
            one,
            guarded=guarded,
            limit_share=share,
            num_actions=policy.spec.num_actions,
            step_s=policy.spec.step_s,
        )
        for one, share in zip(every, options.limit_shares, strict=True)
    ]
    watched = WatchedPolicy(policy, chains, guarded=guarded)
    episodes = []
    with arm_for(chosen, policy.spec) as arm:
        for number in range(25 if options.episodes is None else options.episodes):
            held, begun = asked.outcomes["refused"], len(asked.targets)
            result = run_episode(arm, watched, first_seed + number, _MAX_STEPS)
            shares = np.array(asked.targets[begun:]).max(axis=0)
            episode = {
                "seed": result.seed,
                "success": result.success,
                "steps": result.num_steps,
                "holds": asked.outcomes["refused"] - held,
                "largest_target_shares": [round(float(share), 3) for share in shares],
            }
            episodes.append(episode)
            print(json.dumps(episode), file=sys.stderr, flush=True)
    return every, {
        "task": options.task,
        "commanded": options.commanded,
        "num_successes": sum(bool(episode["success"]) for episode in episodes),
        "episodes": episodes,
    }


def of_data_set(options: LimitsOptions) -> tuple[list[Asked], dict[str, Any]]:
    """The planner's targets of a LeRobot data set, cut into chunks; each episode from rest.

    Episodes that were disturbed while they were recorded are left out unless --disturbed: the
    planner looks where the arm has been pushed to, and its targets step there.
    """
    every = [Asked() for _ in options.limit_shares]
    chunk = checkpoint_chunk(checkpoint_folder(options.checkpoint))
    num_actions = int(chunk.get("num_actions", GuardSettings.num_actions))
    chains = [
        ChunkChain(_arm(options.data_set), one, guarded=True, limit_share=share, **chunk)
        for one, share in zip(every, options.limit_shares, strict=True)
    ]
    num_episodes = 0
    for actions in _episodes(options.data_set, disturbed=options.disturbed):
        if options.episodes is not None and num_episodes == options.episodes:
            break
        num_episodes += 1
        for chain in chains:
            # The first target is where the arm stands: the planner's paths begin there.
            chain.start(actions[0])
            for begin in range(0, len(actions) - num_actions + 1, num_actions):
                chain.take(actions[begin : begin + num_actions])
    return every, {
        "data_set": options.data_set.name,
        "disturbed": options.disturbed,
        "num_episodes": num_episodes,
    }


def _arm(folder: Path) -> ArmSpec:
    """The arm of a data set, by its description."""
    if not (folder / "meta/info.json").is_file():
        raise ValueError(
            f"--data-set needs a folder that par_model.collect wrote, got {str(folder)!r}, which "
            "holds no meta/info.json; check the path."
        )
    return read_arm_spec(
        str(read_object(folder / "meta/info.json", "record it anew")["robot_type"])
    )


def _episodes(folder: Path, *, disturbed: bool) -> Iterator[FloatArray]:
    """float64 [steps, J + 1] of each episode, the column `action`; `disturbed`: of those too."""
    import pyarrow.parquet as parquet

    files = sorted(folder.glob("data/*/*.parquet"))
    if not files:
        raise ValueError(
            f"--data-set needs a folder that par_model.collect wrote, got {str(folder)!r}, which "
            "holds no data/*/*.parquet; check the path."
        )
    for file in files:
        table = parquet.read_table(file, columns=["action", "executed_action", "episode_index"])
        actions = np.array(table["action"].to_pylist(), dtype=np.float64)
        executed = np.array(table["executed_action"].to_pylist(), dtype=np.float64)
        index = table["episode_index"].to_numpy()
        for episode in np.unique(index):
            rows = index == episode
            if disturbed or np.array_equal(actions[rows], executed[rows]):
                yield actions[rows]


def report(
    every: list[Asked], limit_shares: tuple[float, ...], about: dict[str, Any], command: str
) -> dict[str, Any]:
    """What goes into the JSON file; `every`: by limit share, the first one in detail."""
    asked = every[0]
    total = len(asked.targets)
    deviations = asked.deviations_rad
    return {
        "command": command,
        **about,
        "num_chunks": total,
        "asked": _percentiles(asked.targets),
        "curve": _percentiles(asked.curves),
        "curve_mostly_of": {
            quantity: counts.most_common(1)[0][0] for quantity, counts in asked.joints.items()
        },
        "outcomes": {name: asked.outcomes[name] for name in _OUTCOMES},
        "unchanged_share": asked.outcomes["unchanged"] / total,
        "liveness": [
            {
                "limit_share": share,
                **{name: one.outcomes[name] for name in _OUTCOMES},
                "unchanged_share": one.outcomes["unchanged"] / len(one.targets),
            }
            for share, one in zip(limit_shares, every, strict=True)
        ],
        "tracked_deviation_rad": {
            "p50": float(np.percentile(deviations, 50)) if deviations else None,
            "largest": max(deviations, default=None),
        },
        "refused_because": asked.reasons,
        "hardware": hardware(),
        "date": datetime.date.today().isoformat(),
    }


def _percentiles(rows: list[list[float]]) -> dict[str, dict[str, float]]:
    """p50, p99 and maximum of each quantity's shares."""
    shares = np.array(rows)
    return {
        quantity: {
            "p50": float(np.percentile(shares[:, column], 50)),
            "p90": float(np.percentile(shares[:, column], 90)),
            "p99": float(np.percentile(shares[:, column], 99)),
            "largest": float(shares[:, column].max()),
            "chunks_beyond": int((shares[:, column] > 1.0).sum()),
        }
        for column, quantity in enumerate(_QUANTITIES)
    }


def markdown_table(result: dict[str, Any]) -> str:
    """Print the requested shares of the limits, and the guard's answers."""
    rows = [
        "| Share of the limit | p50 | p90 | p99 | largest | chunks beyond |",
        "|---|---|---|---|---|---|",
    ]
    for label, part in (("targets", "asked"), ("curve", "curve")):
        for quantity, values in result[part].items():
            numbers = " | ".join(
                f"{100 * values[key]:.0f} %" for key in ("p50", "p90", "p99", "largest")
            )
            beyond = f"{values['chunks_beyond']} of {result['num_chunks']}"
            rows.append(f"| {label}: {quantity} | {numbers} | {beyond} |")
    for one in result["liveness"]:
        rows.append("")
        rows.append(
            f"With {100 * one['limit_share']:g} % of the limits, {result['num_chunks']} chunks: "
            f"{one['unchanged']} unchanged ({100 * one['unchanged_share']:.2f} %), "
            f"{one['tracked']} tracked, {one['refused']} held."
        )
    return "\n".join(rows)


def main(arguments: list[str]) -> int:
    """The command; returns the exit code."""
    options = parse(LimitsOptions, COMMAND, __doc__, arguments)
    try:
        if options.data_set is not None:
            every, about = of_data_set(options)
        else:
            every, about = of_policy(options)
    except ValueError as error:
        return report_error(error)
    command = f"{COMMAND} {' '.join(arguments)}"
    result = report(every, options.limit_shares, about, command)
    if options.json is not None:
        write_text("the result", options.json, json.dumps(result, indent=1) + "\n")
    print(markdown_table(result))
    if options.data_set is not None and result["unchanged_share"] < MIN_UNCHANGED_SHARE:
        print(f"Fewer than {100 * MIN_UNCHANGED_SHARE:g} % pass unchanged.")
    for reason in every[0].reasons:
        print(f"held: {reason}")
    return 0
