# SPDX-License-Identifier: Apache-2.0
"""One run of the hostile world, and its verdicts. A seed gives the same run again."""

import traceback
from typing import Any

import numpy as np

from par_ros.control.arm_spec import ArmSpec
from par_ros.proof.hostile_clock import NANOSECONDS
from par_ros.proof.hostile_controller import SentTrajectory
from par_ros.proof.hostile_disturbances import Choice, Disturbances
from par_ros.proof.hostile_judge import Broken, StopWatch
from par_ros.proof.hostile_modes import MODES, mode_of_seed
from par_ros.proof.hostile_operator import HostileOperator
from par_ros.proof.hostile_policy import HostilePolicy
from par_ros.proof.hostile_sensors import HostileSensors
from par_ros.proof.hostile_totals import HostileTotals
from par_ros.proof.hostile_verdicts import CLOCK_STEP, LATE
from par_ros.proof.hostile_weather import HostileWeather
from par_ros.proof.hostile_world import HostileWorld

_MAX_EXCEPTIONS = 5
# Differences over four commands see two hand-overs at once.
_LOOK_PERIODS = 4


class HostileRun:
    """A world with everybody in it."""

    def __init__(
        self, spec: ArmSpec, seed: int, choice: Choice, num_chunks: int, mode: str | None = None
    ) -> None:
        self.seed = seed
        self.mode = mode or mode_of_seed(seed)
        random = np.random.default_rng([seed, 0])
        self.world = HostileWorld(spec, MODES[self.mode], Disturbances(choice, seed), random)
        sensors = HostileSensors(self.world)
        self.operator = HostileOperator(self.world, sensors)
        weather = HostileWeather(self.world)
        self._policy = HostilePolicy(self.world, num_chunks)
        self._policy.listeners = (self.operator.on_chunk, weather.on_chunk)

    def run(self) -> HostileTotals:
        """Let everything happen; exceptions of the guard are findings, not ends of the run."""
        world = self.world
        num_exceptions = 0
        end_ns: int | None = None
        while end_ns is None or world.now_ns < end_ns:
            if end_ns is None and (self._policy.is_done or world.is_over):
                end_ns = world.now_ns + 2 * NANOSECONDS
            try:
                world.step()
            except Exception:  # noqa: BLE001 - any exception is what is looked for
                num_exceptions += 1
                text = f"seed {self.seed}, mode {self.mode}: {traceback.format_exc(limit=-4)}"
                world.totals.exceptions.append(text)
                if num_exceptions >= _MAX_EXCEPTIONS:
                    break
        return self._finish()

    def _finish(self) -> HostileTotals:
        world = self.world
        world.close_watches()
        world.controller.finish(world.now_ns)
        totals = world.totals
        before: tuple[Broken, str] | None = None
        for broken in world.judge.broken:
            reason = self._excuse(broken, before)
            before = broken, reason
            self._judge_limits(broken, reason)
        for watch in world.closed_watches:
            self._judge_rest(watch)
        for sent in world.history.sent:
            self._judge_sent(sent)
        totals.num_runs = 1
        totals.num_samples = world.judge.num_samples
        totals.simulated_s = world.now_ns / NANOSECONDS
        totals.modes[self.mode] += 1
        totals.largest = dict(world.judge.largest)
        totals.outcomes.update(world.guard.counters)
        for example in (*totals.examples, *totals.excused_examples):
            example.update(seed=self.seed, mode=self.mode)
        return totals

    def _excuse(self, broken: Broken, before: tuple[Broken, str] | None) -> str:
        """The reason; that of the hand-over just before, where one look sees both."""
        if before is not None and broken.before is not None:
            apart_ns = broken.at_steady_ns - before[0].at_steady_ns
            is_one_look = apart_ns <= _LOOK_PERIODS * self.world.cycles.period_ns
            if is_one_look and broken.before is before[0].source and before[1]:
                return before[1]
        return self.world.history.excuse(broken)

    def _judge_limits(self, broken: Broken, reason: str) -> None:
        world = self.world
        source = broken.source
        text = (
            f"{world.spec.arm_joint_names[broken.joint]}: {broken.kind} "
            f"{broken.share:.4g} of its limit, {'at' if broken.at_handover else 'after'} the "
            f"hand-over to {'the own hold' if source is None else source.origin}"
        )
        example: dict[str, Any] = {
            "at_s": round(broken.at_steady_ns / NANOSECONDS, 4),
            "text": text,
            "share": broken.share if np.isfinite(broken.share) else None,
            "sent": [] if source is None else self._told(source),
        }
        if source is not None and "late" in source.fate and broken.at_handover:
            self._count_late(source)
        if reason:
            world.totals.excuse(reason, broken.acceleration_share, example)
        else:
            kind = "finite" if broken.kind == "finite" else f"{broken.kind}"
            where = "step" if broken.at_handover and broken.share > 2.0 else kind
            world.totals.violate(where, example)

    def _told(self, source: SentTrajectory) -> list[str]:
        """The trajectory and the two before it."""
        sent = self.world.history.sent
        return [
            f"{one.origin} given {one.given_steady_ns / NANOSECONDS:.4f} s, published "
            f"{(one.published_steady_ns - one.given_steady_ns) / 1e6:.1f} ms later, picked up "
            + (
                "never"
                if one.picked_up_steady_ns is None
                else f"{(one.picked_up_steady_ns - one.given_steady_ns) / 1e6:.1f} ms after given"
            )
            + (f", {', '.join(sorted(one.fate))}" if one.fate else "")
            for one in sent[max(source.number - 2, 0) : source.number + 1]
        ]

    def _count_late(self, source: SentTrajectory) -> None:
        late = self.world.totals.late
        if not self.world.mode.has_reference:
            late["unreported"] = late.get("unreported", 0) + 1
            return
        late["with_a_broken_limit"] = late.get("with_a_broken_limit", 0) + 1
        # It can be seen from the end of the splice on.
        noticed_s = self.world.history.noticed_s(
            source.given_steady_ns + self.world.history.splice_ns
        )
        if noticed_s is not None:
            late["noticed"] = late.get("noticed", 0) + 1
            late["noticed_sum_s"] = late.get("noticed_sum_s", 0.0) + noticed_s
            late["most_noticed_s"] = max(late.get("most_noticed_s", 0.0), noticed_s)

    def _judge_rest(self, watch: StopWatch) -> None:
        totals = self.world.totals
        totals.stops[f"watched_{watch.label}"] += 1
        if not watch.is_late:
            totals.rest_s[watch.label] = max(totals.rest_s.get(watch.label, 0.0), watch.rest_s)
            return
        example = {
            "at_s": round(watch.stop_ns / NANOSECONDS, 4),
            "text": f"{watch.label}: in motion {watch.rest_s:.3f} s after it",
        }
        reason = self.world.history.excuse_of_rest(watch)
        if reason:
            totals.excuse(reason, 0.0, example)
        else:
            totals.violate(f"rest_after_{watch.label}", example)

    def _judge_sent(self, sent: SentTrajectory) -> None:
        totals, history = self.world.totals, self.world.history
        if sent.picked_up_ns is not None:
            totals.num_picked_up += 1
        if "late" in sent.fate:
            totals.late["picked_up"] = totals.late.get("picked_up", 0) + 1
        end_ns = sent.picked_up_steady_ns or sent.published_steady_ns + NANOSECONDS // 10
        moved = history.stepped_ns(sent.given_steady_ns, end_ns)
        example = {
            "at_s": round(sent.given_steady_ns / NANOSECONDS, 4),
            "text": f"trajectory of {sent.origin}",
            "sent": self._told(sent),
        }
        before = history.sent[max(sent.number - 1, 0)]
        led = before.origin == "engage" and not self.world.mode.has_reference
        settles = sent.origin == "engage" or led or self.world.is_simulated
        for fate, kind in (("ahead", "ahead"), ("rejected", "rejected")):
            if fate not in sent.fate or (fate == "ahead" and settles):
                continue
            if moved:
                totals.excuse(CLOCK_STEP, 0.0, example)
            elif "late" in sent.fate:
                totals.excuse(LATE, 0.0, example)
            else:
                totals.violate(kind, example)


def hostile_run(
    spec: ArmSpec, seed: int, choice: Choice, num_chunks: int, mode: str | None = None
) -> HostileTotals:
    """One run of `num_chunks` chunks."""
    with np.errstate(all="ignore"):
        return HostileRun(spec, seed, choice, num_chunks, mode).run()
