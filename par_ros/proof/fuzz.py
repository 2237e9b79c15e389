# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros fuzz --num-chunks N --json F`: random and hostile chunks against the guard.

Each run puts a guard (every mode in turn) before the oracle of limit_oracle.py and sends it what a
policy could send and much that it never would: smooth motions, noise, steps, limits exceeded, NaN,
Inf, wrong shapes, names, orders, times and stamps, mutations of earlier chunks, at random delays,
with emergency stops, bad joint states and late pick-up in between. The verdict: no output outside a
limit, no number that is none, no exception. A seed gives the same run again.

With --json the sums so far are written every half minute, and --resume goes on from such a file, if
the guard is still the same: the file has a checksum of par_ros/control and of the arm's file.
"""

import argparse
import datetime
import hashlib
import json
import math
import multiprocessing
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from par_ros import control
from par_ros.control.action_schedule import ChunkStart
from par_ros.control.arm_spec import ArmSpec
from par_ros.control.guard import Command, Guard, GuardSettings, TrajectoryStamp
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray
from par_ros.control.joint_states import JointSample
from par_ros.control.safety_filter import RequestedChunk
from par_ros.parameters import read_arm_spec
from par_ros.process import report_error
from par_ros.proof.limit_oracle import ControllerOracle, Findings
from par_ros.run_results import hardware

_START_NS = 1_000 * NANOSECONDS
_CHUNKS_PER_RUN = 200
_SAVE_PERIOD_S = 30.0
# Joint states and the guard's ticks; slower than on an arm, to send more chunks.
_TICK_S = 0.15
_MODES: tuple[tuple[bool, TrajectoryStamp, ChunkStart], ...] = (
    (True, "start", "arrival"),
    (False, "start", "arrival"),
    (False, "start", "observation"),
)
Generator = np.random.Generator


@dataclass
class FuzzTotals:
    """Sums over runs."""

    num_runs: int = 0
    num_chunks: int = 0
    num_outputs: int = 0
    num_non_finite: int = 0
    exceptions: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    findings: Findings = field(default_factory=Findings)

    def add(self, other: "FuzzTotals") -> None:
        """Add the sums of another set of runs."""
        self.num_runs += other.num_runs
        self.num_chunks += other.num_chunks
        self.num_outputs += other.num_outputs
        self.num_non_finite += other.num_non_finite
        self.exceptions = (self.exceptions + other.exceptions)[:10]
        self.outcomes += other.outcomes
        self.kinds += other.kinds
        mine, theirs = self.findings, other.findings
        mine.num_samples += theirs.num_samples
        mine.violations += theirs.violations
        mine.examples = (mine.examples + theirs.examples)[:10]
        for kind, share in theirs.largest.items():
            mine.largest[kind] = max(mine.largest[kind], share)

    @property
    def passed(self) -> bool:
        """No violation, no non-finite number, no exception."""
        return not (self.findings.num_violations or self.num_non_finite or self.exceptions)


class FuzzRun:
    """One guard, one oracle, one stream of chunks."""

    def __init__(self, spec: ArmSpec, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._spec = spec
        lockstep, stamp, chunk_start = _MODES[seed % len(_MODES)]
        self._settings = GuardSettings(
            lockstep=lockstep, trajectory_stamp=stamp, chunk_start=chunk_start
        )
        self._guard = Guard(spec, self._settings)
        start = self._random_pose()
        self._oracle = ControllerOracle(spec, start, blends=lockstep)
        self._finger_m = 0.02
        self._now_s = 0.0
        # The node clock, which steps now and then, minus the time that passes.
        self._clock_ns = _START_NS
        self._chunk: RequestedChunk | None = None
        self.totals = FuzzTotals()
        self._see_joints()
        self._guard.engage(self._now_ns, self._now_s)

    def run(self, num_chunks: int) -> FuzzTotals:
        """Send `num_chunks` chunks; exceptions of the guard are findings, not ends of the run."""
        for _ in range(num_chunks):
            try:
                self._send_one()
            except Exception:  # noqa: BLE001 - any exception is what is looked for
                self.totals.exceptions.append(traceback.format_exc(limit=4))
        self._oracle.advance(self._now_s + 1.0)
        self.totals.num_runs = 1
        self.totals.findings = self._oracle.findings
        counters = self._guard.counters
        for outcome in ("unchanged", "tracked", "refused", "late", "duplicate", "reordered"):
            self.totals.outcomes[outcome] += counters[outcome]
        return self.totals

    @property
    def _now_ns(self) -> int:
        return self._clock_ns + round(self._now_s * NANOSECONDS)

    def _send_one(self) -> None:
        self._disturb()
        if not self._guard.engaged:
            self._recover()
        stamp_ns = self._now_ns
        self._pass_time(0.0 if self._settings.lockstep else self._random.choice(_LATENCIES_S))
        kind, make = _CHUNK_MAKERS[self._random.integers(len(_CHUNK_MAKERS))]
        chunk = make(self, stamp_ns)
        self._chunk = chunk
        self.totals.num_chunks += 1
        self.totals.kinds[kind] += 1
        self._take(self._guard.on_chunk(chunk, self._now_ns, self._now_s))
        self._pass_time(0.4)

    def _disturb(self) -> None:
        """Now and then: a stop, a broken joint state, a second policy, a clock step."""
        lot = self._random.random()
        now = (self._now_ns, self._now_s)
        if lot < 0.01:
            self._take(self._guard.e_stop(*now).command)
        elif lot < 0.015:
            self._take(self._guard.disengage(*now).command)
        elif lot < 0.02:
            self._take(self._guard.on_bad_joint_state("a joint is missing", *now))
        elif lot < 0.025:
            self._take(self._guard.on_tick(2, *now))
        elif lot < 0.03:
            noise = self._random.normal(0.0, 0.5, self._spec.num_arm_joints)
            self._see_joints(noise)
        elif lot < 0.035 and not self._settings.lockstep:
            step_s = self._random.choice([-100.0, -5.0, -0.1, 0.4, 5.0, 100.0])
            self._clock_ns += round(step_s * NANOSECONDS)
            self._see_joints()

    def _recover(self) -> None:
        """Wait for rest, then engage again, now and then from another pose."""
        self._pass_time(1.0)
        self._guard.reset_stop()
        self._see_joints()
        self._guard.engage(self._now_ns, self._now_s)

    def _pass_time(self, duration_s: float) -> None:
        """Joint states and ticks on the way."""
        end_s = self._now_s + duration_s
        for now_s in np.arange(self._now_s + _TICK_S, end_s + 1e-9, _TICK_S):
            self._now_s = float(now_s)
            self._see_joints()
            self._take(self._guard.on_tick(1, self._now_ns, self._now_s))
        self._now_s = max(self._now_s, end_s)
        self._see_joints()

    def _see_joints(self, noise: FloatArray | None = None) -> None:
        self._oracle.advance(self._now_s)
        positions = np.append(self._oracle.positions, self._finger_m)
        if noise is not None:
            positions[:-1] += noise
        velocities = np.append(self._oracle.velocities, 0.0)
        sample = JointSample(self._now_ns, positions, velocities)
        self._take(self._guard.on_joint_state(sample, self._now_ns, self._now_s))

    def _take(self, command: Command) -> None:
        """What the controller does with a command, after a delay within what is promised."""
        if command.executed is not None and not np.all(np.isfinite(command.executed.positions)):
            self.totals.num_non_finite += 1
        if command.gripper is not None:
            self._check_gripper(command.gripper.positions)
        if command.arm is None:
            return
        if self._settings.lockstep and command.stamp_ns != self._now_ns:
            # The bridge takes only what answers the observation that it waits with.
            return
        self.totals.num_outputs += 1
        stamp_s = None
        if command.stamp_ns != 0:
            stamp_s = (command.stamp_ns - self._clock_ns) / NANOSECONDS
        delay_s = 0.0 if self._settings.lockstep else float(self._random.uniform(0.0, 0.01))
        pickup_s = self._now_s + delay_s
        # A command that follows within the delay overtakes nothing: pick-ups keep their order.
        self._oracle.receive(command.arm, stamp_s, max(pickup_s, self._oracle.time_s))
        numbers = (command.arm.positions, command.arm.velocities, command.arm.accelerations)
        if not all(np.isfinite(values).all() for values in numbers if values is not None):
            self.totals.num_non_finite += 1

    def _check_gripper(self, commands: FloatArray) -> None:
        gripper = self._spec.gripper
        targets_m = gripper.target(commands)
        if not np.all(np.isfinite(targets_m)):
            self.totals.num_non_finite += 1
        outside = (targets_m < gripper.min_target_m - 1e-9) | (
            targets_m > gripper.max_target_m + 1e-9
        )
        if np.any(outside):
            self._oracle.findings.violations["gripper"] += 1

    # Chunks.

    def _random_pose(self) -> FloatArray:
        limits = self._spec.limits
        share = self._random.uniform(0.05, 0.95, self._spec.num_arm_joints)
        return limits.min_position + share * (limits.max_position - limits.min_position)

    def _make(
        self, stamp_ns: int, arm: FloatArray, gripper: FloatArray | None = None
    ) -> RequestedChunk:
        if gripper is None:
            gripper = self._random.uniform(-0.02, 0.05, 8)
        return RequestedChunk(
            stamp_ns,
            self._spec.joint_names,
            0.05 * np.arange(1, 9),
            np.column_stack((arm, gripper)),
        )

    def ramp(self, stamp_ns: int) -> RequestedChunk:
        """Constant velocity of up to the limit and beyond."""
        share = self._random.uniform(-1.2, 1.2, self._spec.num_arm_joints)
        share *= self._random.choice([0.05, 0.3, 1.0])
        step = 0.05 * share * self._spec.limits.max_velocity
        return self._make(stamp_ns, self._oracle.positions + np.outer(np.arange(1, 9), step))

    def continuation(self, stamp_ns: int) -> RequestedChunk:
        """The speed changes smoothly: what a good policy asks for."""
        acceleration = self._random.uniform(-0.3, 0.3, self._spec.num_arm_joints)
        acceleration *= self._spec.limits.max_acceleration * self._random.choice([0.03, 0.2, 1.0])
        times = 0.05 * np.arange(1, 9)[:, None]
        moved = self._oracle.velocities * times + 0.5 * acceleration * times**2
        return self._make(stamp_ns, self._oracle.positions + moved)

    def noisy(self, stamp_ns: int) -> RequestedChunk:
        """A ramp with sampling noise."""
        chunk = self.continuation(stamp_ns)
        sigma = 10.0 ** self._random.uniform(-4.0, -1.0)
        noise = self._random.normal(0.0, sigma, (8, self._spec.num_arm_joints))
        return self._make(stamp_ns, chunk.positions[:, :-1] + noise)

    def steps(self, stamp_ns: int) -> RequestedChunk:
        """Steps as large as is not yet a jump, at random knots."""
        size = self._spec.max_jump_rad * self._random.uniform(
            -1.0, 1.0, (8, self._spec.num_arm_joints)
        )
        taken = self._random.random((8, self._spec.num_arm_joints)) < 0.3
        return self._make(stamp_ns, self._oracle.positions + np.cumsum(size * taken, axis=0))

    def alternating(self, stamp_ns: int) -> RequestedChunk:
        """Back and forth at every knot: the most acceleration for the least motion."""
        size = self._random.uniform(0.0, 0.15, self._spec.num_arm_joints)
        sign = np.where(np.arange(8) % 2, 1.0, -1.0)
        return self._make(stamp_ns, self._oracle.positions + np.outer(sign, size))

    def towards_limit(self, stamp_ns: int) -> RequestedChunk:
        """Fast at a position limit, and past it."""
        limits = self._spec.limits
        high = self._random.random(self._spec.num_arm_joints) < 0.5
        goal = np.where(high, limits.max_position + 0.1, limits.min_position - 0.1)
        speed = self._random.uniform(0.2, 1.3) * limits.max_velocity
        way = np.minimum(
            0.05 * np.arange(1, 9)[:, None] * speed, np.abs(goal - self._oracle.positions)
        )
        return self._make(
            stamp_ns, self._oracle.positions + np.sign(goal - self._oracle.positions) * way
        )

    def anywhere(self, stamp_ns: int) -> RequestedChunk:
        """Poses at random."""
        return self._make(stamp_ns, np.array([self._random_pose() for _ in range(8)]))

    def not_finite(self, stamp_ns: int) -> RequestedChunk:
        """NaN, Inf or numbers near the end of the range, somewhere."""
        chunk = self.continuation(stamp_ns)
        positions = chunk.positions.copy()
        bad = [np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324]
        positions[self._random.integers(8), self._random.integers(positions.shape[1])] = bad[
            self._random.integers(len(bad))
        ]
        return RequestedChunk(stamp_ns, chunk.joint_names, chunk.times_s, positions)

    def wrong_form(self, stamp_ns: int) -> RequestedChunk:
        """Joints, shape or times that are not the arm's."""
        chunk = self.continuation(stamp_ns)
        names, times, positions = chunk.joint_names, chunk.times_s, chunk.positions
        lot = self._random.integers(7)
        if lot == 0:
            names = (*names[1:], names[0])
        elif lot == 1:
            names, positions = names[:-1], positions[:, :-1]
        elif lot == 2:
            times, positions = times[:5], positions[:5]
        elif lot == 3:
            times = times[::-1].copy()
        elif lot == 4:
            times = times * self._random.uniform(0.0, 2.0)
        elif lot == 5:
            times = times - 0.2
        else:
            names, times, positions = (), np.empty(0), np.empty((0, 0))
        return RequestedChunk(stamp_ns, names, times, positions)

    def wrong_stamp(self, stamp_ns: int) -> RequestedChunk:
        """Early, late, doubled, zero or negative stamps."""
        # A lockstep stamp a little ahead is what a chunk that outran its joint state has: the
        # guard must believe it, and a bridge would not have asked for it.
        ahead_s = 0.5 if self._settings.lockstep else 0.02
        offset_s = self._random.choice([-1e6, -10.0, -0.5, -0.41, -0.4, ahead_s, 0.5, 1e6])
        last_ns = stamp_ns if self._chunk is None else self._chunk.stamp_ns
        stamps = [stamp_ns + round(offset_s * NANOSECONDS), last_ns, last_ns - 1, 0]
        return self.continuation(int(stamps[self._random.integers(len(stamps))]))

    def mutation(self, stamp_ns: int) -> RequestedChunk:
        """The last chunk with a column or a row changed, or sent again as it was."""
        if self._chunk is None or self._chunk.positions.shape != (8, len(self._spec.joint_names)):
            return self.continuation(stamp_ns)
        positions = self._chunk.positions.copy()
        lot = self._random.integers(4)
        if lot == 0:
            positions[:, self._random.integers(positions.shape[1])] *= self._random.uniform(
                -2.0, 2.0
            )
        elif lot == 1:
            positions[self._random.integers(8)] += self._random.normal(0.0, 0.1)
        elif lot == 2:
            positions = positions[::-1].copy()
        return RequestedChunk(stamp_ns, self._chunk.joint_names, self._chunk.times_s, positions)


_LATENCIES_S = (0.0, 0.02, 0.06, 0.1, 0.2, 0.39, 0.45, 0.8)

_CHUNK_MAKERS: tuple[tuple[str, Callable[[FuzzRun, int], RequestedChunk]], ...] = (
    ("continuation", FuzzRun.continuation),
    ("continuation", FuzzRun.continuation),
    ("continuation", FuzzRun.continuation),
    ("ramp", FuzzRun.ramp),
    ("ramp", FuzzRun.ramp),
    ("noisy", FuzzRun.noisy),
    ("noisy", FuzzRun.noisy),
    ("noisy", FuzzRun.noisy),
    ("steps", FuzzRun.steps),
    ("alternating", FuzzRun.alternating),
    ("towards_limit", FuzzRun.towards_limit),
    ("towards_limit", FuzzRun.towards_limit),
    ("anywhere", FuzzRun.anywhere),
    ("not_finite", FuzzRun.not_finite),
    ("wrong_form", FuzzRun.wrong_form),
    ("wrong_stamp", FuzzRun.wrong_stamp),
    ("mutation", FuzzRun.mutation),
)


def fuzz_once(spec: ArmSpec, seed: int, num_chunks: int) -> FuzzTotals:
    """One run of `num_chunks` chunks."""
    with np.errstate(all="ignore"):
        return FuzzRun(spec, seed).run(num_chunks)


@dataclass(frozen=True)
class FuzzPlan:
    """What is run: runs of 200 chunks with seeds from `seed` on, the last one shorter."""

    arm: str
    num_chunks: int
    seed: int

    def jobs(self) -> list[tuple[str, int, int]]:
        """Arm, seed and number of chunks of each run."""
        num_runs = math.ceil(self.num_chunks / _CHUNKS_PER_RUN)
        return [
            (
                self.arm,
                self.seed + run,
                min(_CHUNKS_PER_RUN, self.num_chunks - run * _CHUNKS_PER_RUN),
            )
            for run in range(num_runs)
        ]


def fuzz(
    plan: FuzzPlan, num_processes: int, totals: FuzzTotals, save: Callable[[FuzzTotals], None]
) -> FuzzTotals:
    """The runs of `plan` that `totals` does not hold yet, with a progress line on stderr."""
    jobs = plan.jobs()[totals.num_runs :]
    begin_s = saved_s = time.monotonic()
    before = totals.num_chunks
    with multiprocessing.get_context("spawn").Pool(num_processes) as pool:
        # In order, so that a count of runs says which are done.
        for done in pool.imap(_fuzz_job, jobs, chunksize=1):
            totals.add(done)
            now_s = time.monotonic()
            if now_s - saved_s > _SAVE_PERIOD_S:
                saved_s = now_s
                save(totals)
            rate = (totals.num_chunks - before) / (now_s - begin_s)
            print(
                f"\r{totals.num_chunks}/{plan.num_chunks} chunks, {rate:.0f}/s, "
                f"{totals.findings.num_violations} violations",
                end="", file=sys.stderr, flush=True,
            )  # fmt: skip
    print(file=sys.stderr)
    return totals


def _fuzz_job(job: tuple[str, int, int]) -> FuzzTotals:
    arm, seed, num_chunks = job
    return fuzz_once(read_arm_spec(arm), seed, num_chunks)


@cache
def guard_checksum(arm: str) -> str:
    """sha256 of what is judged: the sources of par_ros/control and what the arm's file says.

    Of what they are when it is first asked for: main() asks before anything is judged.
    """
    digest = hashlib.sha256(repr(read_arm_spec(arm)).encode())
    for path in sorted(Path(control.__path__[0]).glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def report(totals: FuzzTotals, plan: FuzzPlan) -> dict[str, Any]:
    """What goes into the JSON file."""
    return {
        "command": (
            f"python -m par_ros fuzz --arm {plan.arm} --num-chunks {plan.num_chunks} "
            f"--seed {plan.seed}"
        ),
        "arm": plan.arm,
        "seed": plan.seed,
        "guard_sha256": guard_checksum(plan.arm),
        "passed": totals.passed,
        "num_runs": totals.num_runs,
        "num_chunks": totals.num_chunks,
        "num_outputs": totals.num_outputs,
        "num_samples": totals.findings.num_samples,
        "violations": dict(totals.findings.violations),
        "num_violations": totals.findings.num_violations,
        "num_non_finite": totals.num_non_finite,
        "num_exceptions": len(totals.exceptions),
        "examples": totals.findings.examples,
        "exceptions": totals.exceptions,
        "outcomes": dict(totals.outcomes),
        "chunk_kinds": dict(totals.kinds),
        "largest_share_of_limit": totals.findings.largest,
        "hardware": hardware(),
        "date": datetime.date.today().isoformat(),
    }


def read_report(path: Path, plan: FuzzPlan) -> FuzzTotals:
    """The sums of an earlier, unfinished run of `plan`. Raises ValueError for another plan's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"--resume needs the JSON file of an earlier run, got {str(path)!r} ({error}); check "
            "the path, or leave --resume out."
        ) from None
    if (content["arm"], content["seed"]) != (plan.arm, plan.seed):
        raise ValueError(
            f"{path} holds arm {content['arm']!r} from seed {content['seed']}, not {plan.arm!r} "
            f"from seed {plan.seed}; name another file or the same --arm and --seed."
        )
    if content.get("guard_sha256") != guard_checksum(plan.arm):
        raise ValueError(
            f"{path} judged another guard (par_ros/control or the arm's file has changed since), "
            "so its counts say nothing about this one; leave --resume out to begin again."
        )
    if content["num_chunks"] % _CHUNKS_PER_RUN or content["num_runs"] > len(plan.jobs()):
        raise ValueError(
            f"{path} has {content['num_chunks']} chunks, which is no part of {plan.num_chunks}; "
            f"give a larger --num-chunks (files that can be gone on from end at a multiple of "
            f"{_CHUNKS_PER_RUN})."
        )
    return FuzzTotals(
        num_runs=content["num_runs"],
        num_chunks=content["num_chunks"],
        num_outputs=content["num_outputs"],
        num_non_finite=content["num_non_finite"],
        exceptions=content["exceptions"],
        outcomes=Counter(content["outcomes"]),
        kinds=Counter(content["chunk_kinds"]),
        findings=Findings(
            num_samples=content["num_samples"],
            violations=Counter(content["violations"]),
            largest=content["largest_share_of_limit"],
            examples=content["examples"],
        ),
    )


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: a run that is killed leaves the file before it."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def main(arguments: list[str]) -> int:
    """The command; 0 where nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m par_ros fuzz", description=__doc__)
    parser.add_argument("--num-chunks", type=int, default=10_000)
    parser.add_argument("--arm", default="panda", help="name in config/arms, or a path")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-processes", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--resume", action="store_true", help="go on from the file of --json")
    options = parser.parse_args(arguments)
    if options.resume and options.json is None:
        parser.error("--resume goes on from the file of --json; name it")
    plan = FuzzPlan(options.arm, options.num_chunks, options.seed)
    try:
        guard_checksum(options.arm)
        totals = read_report(options.json, plan) if options.resume else FuzzTotals()
    except ValueError as error:
        return report_error(error)

    def save(totals: FuzzTotals) -> None:
        if options.json is not None:
            _write(options.json, report(totals, plan))

    totals = fuzz(plan, options.num_processes, totals, save)
    save(totals)
    print(json.dumps(report(totals, plan), indent=2))
    return 0 if totals.passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
