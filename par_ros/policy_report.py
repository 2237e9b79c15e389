# SPDX-License-Identifier: Apache-2.0
"""What policy_node reports of itself: refusals, the camera's fault, latencies, and its status."""

import time
from collections import Counter, deque
from typing import Any

import numpy as np

from par_ros import messages
from par_ros.chunk_ledger import ChunkLedger
from par_ros.control.camera_check import CAMERA_FAULTS
from par_ros.control.joint_trajectory import FloatArray
from par_ros.control.latency_budget import LatencyBudget
from par_ros.control.observation_assembler import Refusal
from par_ros.control.policy_turn import Question
from par_ros.drawn_pictures import ATTENTION, PREDICTION
from par_ros.policy_inputs import InputState
from par_ros.wire_records import PolicyStatus, Surprise

_NUM_TIMES_KEPT = 1000
# A picture often comes before its joint states: a refusal for less than this is no fault.
_MAX_REFUSING_S = 1.0


class Times:
    """Durations since the start and since they were last taken; its owner's lock guards it."""

    def __init__(self) -> None:
        self._all: deque[float] = deque(maxlen=_NUM_TIMES_KEPT)
        self._new: list[float] = []

    def add(self, duration_s: float) -> None:
        self._all.append(duration_s * 1e3)
        self._new.append(duration_s * 1e3)

    def take_new(self) -> list[float]:
        """What was added since the last call, ms."""
        new, self._new = self._new, []
        return new

    def percentile_text(self, percent: float) -> str:
        """Over the last thousand; empty without any."""
        return f"{np.percentile(self._all, percent):.2f}" if self._all else ""


class PolicyReport:
    """Counts since the start; what is at fault since the last answer. Its owner locks.

    Attributes:
        inputs: what the graph had to offer when it was looked at last.
    """

    def __init__(self, ledger: ChunkLedger, budget: LatencyBudget | None = None) -> None:
        self.latency = Times()
        self.inference = Times()
        self.ledger = ledger
        self.budget = budget or LatencyBudget(None)
        self._observation_age_s = 0.0
        self._num_chunks = 0
        self._num_context_resets = 0
        self._refusals: Counter[str] = Counter()
        self._last_refusal = ""
        self._camera_fault: Refusal | None = None
        self._refusing_since_s: float | None = None
        self.inputs = InputState()
        self._surprise: Surprise | None = None
        self._num_surprise_warnings = 0
        self._num_surprise_stops = 0

    def note_surprise(self, found: Surprise | None) -> None:
        """How unlikely the newest observation was; None where nothing was expected. One thread
        calls it, without the lock."""
        self._surprise = found
        if found is None:
            return
        self._num_surprise_warnings += found.level == 1
        self._num_surprise_stops += found.level == 2

    def refuse(self, refusal: Refusal) -> bool:
        """Count an observation that is not answered; True where the camera has a new fault."""
        self._refusals[refusal.kind] += 1
        self._last_refusal = refusal.reason
        if self._refusing_since_s is None:
            self._refusing_since_s = time.monotonic()
        return refusal.kind in CAMERA_FAULTS and self.note_camera_fault(refusal)

    def note_camera_fault(self, refusal: Refusal) -> bool:
        """The camera is at fault; True where this kind of fault is new."""
        is_new = self._camera_fault is None or self._camera_fault.kind != refusal.kind
        self._camera_fault = refusal
        return is_new

    def begin_episode(self) -> None:
        """Forget the camera's fault and the chunks of the episode before."""
        self._clear_refusals()
        self._surprise = None
        self.ledger.begin_episode()

    def _clear_refusals(self) -> None:
        self._camera_fault = None
        self._refusing_since_s = None

    def ask(self, age_s: float, *, starts_anew: bool) -> None:
        """An observation of this age is answered, with an empty context if it starts anew."""
        self._clear_refusals()
        self._observation_age_s = age_s
        self._num_context_resets += starts_anew

    def sent(
        self, question: Question[Any], moments_s: tuple[float, float, float], num_steps: int | None
    ) -> None:
        """The question's chunk was sent; moments_s: when the policy began, when it had its answer
        and when that was sent, steady time; num_steps: as in answer()."""
        started_s, ended_s, sent_s = moments_s
        received_s = question.pending.received_ns / messages.NANOSECONDS
        self.answer(ended_s - started_s, sent_s - received_s, num_steps)
        picture_s = question.asked_ns / messages.NANOSECONDS - question.age_s
        self.ledger.send(question.pending.stamp_ns, picture_s, (received_s, *moments_s))

    def answer(self, inference_s: float, latency_s: float, num_steps: int | None = None) -> None:
        """A chunk was sent: time in the policy, and from the picture's arrival; num_steps: as the
        budget chose."""
        self.budget.answered(num_steps, inference_s)
        self.inference.add(inference_s)
        self.latency.add(latency_s)
        self._num_chunks += 1

    def take(self, stamp_ns: int, now_s: float, executed_times_s: FloatArray) -> None:
        """The guard has reported on a chunk, as ChunkLedger.take."""
        sent_s = self.ledger.take(stamp_ns, now_s, executed_times_s)
        if sent_s is not None:
            self.budget.taken(now_s - sent_s)

    def status(self, name: str, backend: str, *, is_active: bool) -> messages.Status:
        """The node's entry in /diagnostics; takes the new durations."""
        refused = sum(self._refusals.values())
        fault, found = self._camera_fault, self._surprise
        known = PolicyStatus(
            is_active,
            "" if fault is None else fault.kind,
            tuple(self.latency.take_new()),
            self.ledger.take_new(),
            self.ledger.num_missed,
            self._num_surprise_warnings,
            self._num_surprise_stops,
        )
        values = {
            **known.to_values(),
            "backend": backend,
            "chunks": str(self._num_chunks),
            "context_resets": str(self._num_context_resets),
            "refused_observations": str(refused),
            "last_refusal": self._last_refusal,
            "observation_age_ms": f"{self._observation_age_s * 1e3:.1f}",
            "inference_ms_p50": self.inference.percentile_text(50),
            "inference_ms_p99": self.inference.percentile_text(99),
            "latency_ms_p50": self.latency.percentile_text(50),
            "latency_ms_p99": self.latency.percentile_text(99),
            **dict(self.ledger.percentile_texts()),
            "latency_budget_ms": _milliseconds(self.budget.budget_s),
            "answers_in_fewer_steps": str(self.budget.num_reduced),
            "pictures_not_predicted": str(self.budget.num_skipped[PREDICTION]),
            "attention_not_drawn": str(self.budget.num_skipped[ATTENTION]),
            "surprise": "" if found is None else f"{found.surprise:.4f}",
            "new_inference_ms": _list_text(self.inference.take_new()),
        }
        values |= {f"refused_{kind}": str(count) for kind, count in self._refusals.items()}
        level, text = self._summary(is_active)
        return messages.Status(name, level, text, values)

    def _summary(self, is_active: bool) -> tuple[bytes, str]:
        causes = list(self.inputs.missing)
        if self._camera_fault is not None:
            causes.append(self._camera_fault.reason)
        elif self._is_refusing():
            causes.append(self._last_refusal)
        if causes and is_active:
            reasons = dict.fromkeys((*causes, *self.inputs.warnings))
            return messages.ERROR, f"no chunk is sent: {'; '.join(reasons)}"
        refused = sum(self._refusals.values())
        if self.inputs.warnings and is_active:
            return messages.WARN, "; ".join(self.inputs.warnings)
        found = self._surprise
        if found is not None and found.level:
            return messages.WARN, found.sentence()
        if refused:
            return messages.WARN, f"{refused} observations refused"
        return messages.OK, "answering" if is_active else "not active"

    def _is_refusing(self) -> bool:
        since_s = self._refusing_since_s
        return since_s is not None and time.monotonic() - since_s > _MAX_REFUSING_S


def _milliseconds(duration_s: float | None) -> str:
    return "" if duration_s is None else f"{duration_s * 1e3:.1f}"


def _list_text(values: list[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)
