# SPDX-License-Identifier: Apache-2.0
"""policy_node's status without a node."""

import time

import pytest

from par_ros import messages
from par_ros.chunk_ledger import ChunkLedger
from par_ros.control.observation_assembler import Refusal
from par_ros.policy_inputs import InputState
from par_ros.policy_report import PolicyReport


def status(report: PolicyReport, *, is_active: bool = True) -> messages.Status:
    return report.status("left/policy_node", "eager", is_active=is_active)


def test_a_report_without_events() -> None:
    quiet = status(PolicyReport(ChunkLedger()))
    assert (quiet.name, quiet.level, quiet.message) == (
        "left/policy_node",
        messages.OK,
        "answering",
    )
    assert quiet.values["backend"] == "eager"
    assert quiet.values["chunks"] == quiet.values["refused_observations"] == "0"
    assert quiet.values["latency_ms_p50"] == quiet.values["new_latency_ms"] == ""
    assert status(PolicyReport(ChunkLedger()), is_active=False).message == "not active"


def test_each_duration_is_new_once() -> None:
    report = PolicyReport(ChunkLedger())
    report.ask(0.07, starts_anew=True)
    report.answer(inference_s=0.01, latency_s=0.02)
    report.answer(inference_s=0.03, latency_s=0.04)
    values = status(report).values
    assert (values["chunks"], values["context_resets"]) == ("2", "1")
    assert values["observation_age_ms"] == "70.0"
    assert values["new_inference_ms"] == "10.000 30.000"
    assert values["new_latency_ms"] == "20.000 40.000"
    values = status(report).values
    assert values["new_latency_ms"] == ""
    assert values["latency_ms_p50"] == "30.00"


def test_refusals_are_counted_by_kind() -> None:
    report = PolicyReport(ChunkLedger())
    assert not report.refuse(Refusal("skew", "too far apart."))
    assert not report.refuse(Refusal("skew", "still."))
    told = status(report)
    assert (told.level, told.message) == (messages.WARN, "2 observations refused")
    assert (told.values["refused_skew"], told.values["last_refusal"]) == ("2", "still.")
    assert told.values["camera_fault"] == ""


def test_a_camera_fault_is_new_once_and_ends_with_an_answer() -> None:
    report = PolicyReport(ChunkLedger())
    assert report.refuse(Refusal("black", "no light."))
    assert not report.refuse(Refusal("black", "no light."))
    assert report.note_camera_fault(Refusal("silent", "no picture."))
    told = status(report)
    assert (told.level, told.message) == (messages.ERROR, "no chunk is sent: no picture.")
    assert told.values["camera_fault"] == "silent"
    assert told.values["refused_observations"] == "2"
    report.ask(0.0, starts_anew=False)
    assert status(report).values["camera_fault"] == ""
    assert status(report).level == messages.WARN


def test_what_the_graph_lacks_comes_first_and_a_lasting_refusal_is_a_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A refusal of 1 s is none yet: pictures come before their joint states."""
    now_s = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    report = PolicyReport(ChunkLedger())
    report.refuse(Refusal("skew", "too far apart."))
    now_s[0] = 1.0
    assert status(report).level == messages.WARN
    now_s[0] = 1.1
    told = status(report)
    assert (told.level, told.message) == (messages.ERROR, "no chunk is sent: too far apart.")
    report.inputs = InputState("", ("nobody publishes /joint_states",), ("the guard is missing",))
    assert status(report).message == (
        "no chunk is sent: nobody publishes /joint_states; too far apart.; the guard is missing"
    )
    report.ask(0.0, starts_anew=False)
    report.inputs = InputState("", (), ("the guard is missing",))
    told = status(report)
    assert (told.level, told.message) == (messages.WARN, "the guard is missing")
