# SPDX-License-Identifier: Apache-2.0
"""Records of status messages: the texts are those of every recording so far, and read back."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from par_ros.control.reference_watch import ReferenceSample
from par_ros.control.timeline import Moment
from par_ros.proof.fault_world import (
    ArmEvent,
    OwnStep,
    PickUp,
    Stall,
    WorldTaken,
    event_of_text,
    event_text,
)
from par_ros.wire_records import (
    EpisodeState,
    GuardInput,
    GuardState,
    GuardStatus,
    Observed,
    PolicyStatus,
    Surprise,
)

OBSERVED = Observed(5, 4, None, (1, 2, 3, 5), True, "push the cube", 7)
OBSERVED_TEXTS = {
    "stamp_ns": "5",
    "joint_stamp_ns": "4",
    "executed_stamp_ns": "",
    "recent_stamps_ns": "1 2 3 5",
    "reset": "true",
    "instruction": "push the cube",
    "policy_seed": "7",
    "executed": "",
    "committed": "",
    "num_steps": "",
}
INPUT_TEXTS = {
    "kind": "chunk",
    "ros_ns": "10",
    "steady_ns": "20",
    "joint_stamp_ns": "8",
    "joint_ros_ns": "9",
    "joint_steady_ns": "19",
    "num_policies": "1",
}
STATE_TEXTS = {"engaged": "true", "stop_latched": "false", "holding": "no chunk", "fault": "nan"}
CASES: list[tuple[Any, Callable[[Mapping[str, str]], Any], dict[str, str]]] = [
    (OBSERVED, Observed.from_values, OBSERVED_TEXTS),
    (
        dataclasses.replace(OBSERVED, view_stamps_ns=(6, 7)),
        Observed.from_values,
        OBSERVED_TEXTS | {"view_stamps_ns": "6 7"},
    ),
    (GuardState(True, False, "no chunk", "nan"), GuardState.from_values, STATE_TEXTS),
    (
        GuardStatus(False, True, "", 3, 4, "late"),
        GuardStatus.from_values,
        {
            "engaged": "false",
            "stop_latched": "true",
            "holding": "",
            "holds": "3",
            "changes": "4",
            "last_hold_reason": "late",
        },
    ),
    (
        PolicyStatus(True, "frozen", (1.5, 20.125), (1.0, 2.5), 3, 2, 1),
        PolicyStatus.from_values,
        {
            "active": "true",
            "camera_fault": "frozen",
            "new_latency_ms": "1.500 20.125",
            "new_ledger_ms": "1.000 2.500",
            "missed_chunks": "3",
            "surprise_warnings": "2",
            "surprise_stops": "1",
        },
    ),
    (
        Surprise(5, 0.1, 0.5, 1.25),
        Surprise.from_values,
        {"stamp_ns": "5", "surprise": "0.1", "first": "0.5", "second": "1.25", "cause": ""},
    ),
    (
        EpisodeState("PushCube", 1, 2, 3, False, True, True, (12.25,), 19.5, 9),
        EpisodeState.from_values,
        {
            "task": "PushCube",
            "seed": "1",
            "start_ns": "2",
            "step": "3",
            "success": "false",
            "success_once": "true",
            "finished": "true",
            "camera_to_trajectory_ms": "12.250",
            "step_rate_hz": "19.50",
            "idle_steps": "9",
        },
    ),
    (
        EpisodeState("PushCube", 1, 2, 0, False, False, False, (), None),
        EpisodeState.from_values,
        {
            "task": "PushCube",
            "seed": "1",
            "start_ns": "2",
            "step": "0",
            "success": "false",
            "success_once": "false",
            "finished": "false",
            "camera_to_trajectory_ms": "",
            "step_rate_hz": "",
            "idle_steps": "",
        },
    ),
    (
        GuardInput("configure", Moment(1, 2), None, None, 0),
        GuardInput.from_values,
        {
            "kind": "configure",
            "ros_ns": "1",
            "steady_ns": "2",
            "joint_stamp_ns": "",
            "num_policies": "0",
        },
    ),
    *(
        (
            GuardInput(kind, Moment(10, 20), 8, Moment(9, 19), 1, **details),
            GuardInput.from_values,
            INPUT_TEXTS | {"kind": kind} | texts,
        )
        for kind, details, texts in (
            ("chunk", {"chunk_stamp_ns": 6}, {"chunk_stamp_ns": "6"}),
            ("bad_chunk", {"reason": "too long"}, {"reason": "too long"}),
            ("bad_joint_state", {"reason": ""}, {"reason": ""}),
            ("withdraw", {"last": False}, {"last": "false"}),
            ("tick", {}, {}),
            ("e_stop", {}, {}),
        )
    ),
]


@pytest.mark.parametrize(("record", "from_values", "texts"), CASES)
def test_a_record_is_these_texts_and_back(
    record: Any, from_values: Callable[[Mapping[str, str]], Any], texts: dict[str, str]
) -> None:
    assert list(record.to_values().items()) == list(texts.items())
    assert from_values(texts | {"a later version's": "x"}) == record


def test_an_older_recording_does_not_say_how_long_the_arm_stood() -> None:
    state = EpisodeState("PushCube", 1, 2, 3, False, True, True, (12.25,), 19.5)
    texts = state.to_values()
    del texts["idle_steps"]
    assert EpisodeState.from_values(texts) == state


def test_what_an_overlapped_policy_was_told_is_carried_to_the_bit() -> None:
    """No executed actions in a first observation; committed ones may be none of 8 joints."""
    rows = np.random.default_rng(0).standard_normal((11, 8))
    for executed, committed in ((rows, rows[:3]), (None, rows[:0])):
        told = dataclasses.replace(OBSERVED, executed=executed, committed=committed)
        read = Observed.from_values(told.to_values())
        for name in ("executed", "committed"):
            before, after = getattr(told, name), getattr(read, name)
            assert (before is None and after is None) or before.tobytes() == after.tobytes()
        assert read.committed is not None
        assert read.committed.shape == committed.shape
    with pytest.raises(ValueError, match="committed"):
        Observed.from_values(OBSERVED_TEXTS | {"committed": "2 8 AAAAAAAA8D8="})


def test_a_seam_is_carried_to_the_bit() -> None:
    """A chunk that was joined to nothing has no word of it, as in an older recording."""
    rows = np.random.default_rng(0).standard_normal((11, 8))
    joined = dataclasses.replace(OBSERVED, seam_followed=rows, seam_smoothness=0.1)
    read = Observed.from_values(joined.to_values())
    assert read.seam_followed is not None
    assert read.seam_followed.tobytes() == rows.tobytes()
    assert read.seam_smoothness == 0.1
    assert not any(name.startswith("seam") for name in OBSERVED.to_values())


def test_references_are_carried_to_the_bit() -> None:
    """Two samples of 7 joints, with numbers that have no short decimal text."""
    rng = np.random.default_rng(0)
    samples = tuple(
        ReferenceSample(stamp_ns, *rng.normal(size=(3, 7)), speed_scaling=0.1)
        for stamp_ns in (1, 2**62)
    )
    given = GuardInput("references", Moment(10, 20), 8, Moment(9, 19), 1, references=samples)
    texts = given.to_values()
    assert list(texts)[-1] == "samples"
    for sent, read in zip(samples, GuardInput.from_values(texts).references, strict=True):
        assert (read.stamp_ns, read.speed_scaling) == (sent.stamp_ns, 0.1)
        for name in ("positions", "velocities", "accelerations"):
            assert getattr(read, name).tobytes() == getattr(sent, name).tobytes()


def test_samples_of_an_earlier_recording_are_read() -> None:
    """One joint at stamp 7: position 1, velocity 2, acceleration 3, full speed."""
    text = "1 BwAAAAAAAAA= AAAAAAAA8D8AAAAAAAAAQAAAAAAAAAhAAAAAAAAA8D8="
    read = GuardInput.from_values(INPUT_TEXTS | {"kind": "references", "samples": text})
    (sample,) = read.references
    assert (sample.stamp_ns, sample.speed_scaling) == (7, 1.0)
    assert [float(x[0]) for x in (sample.positions, sample.velocities, sample.accelerations)] == [
        1.0,
        2.0,
        3.0,
    ]


@pytest.mark.parametrize(
    ("from_values", "texts", "sentence"),
    [
        (GuardState.from_values, {"engaged": "true"}, "guard_state lacks stop_latched"),
        (GuardState.from_values, STATE_TEXTS | {"engaged": "yes"}, "engaged in a message .* 'yes'"),
        (Observed.from_values, OBSERVED_TEXTS | {"stamp_ns": "-1"}, "stamp_ns in a .* '-1'"),
        (Observed.from_values, OBSERVED_TEXTS | {"stamp_ns": ""}, "stamp_ns in a .* ''"),
        (Observed.from_values, OBSERVED_TEXTS | {"recent_stamps_ns": "1 x"}, "'1 x'"),
        (GuardInput.from_values, INPUT_TEXTS, "guard_inputs lacks chunk_stamp_ns"),
        (GuardInput.from_values, INPUT_TEXTS | {"kind": "withdraw"}, "lacks last"),
        *(
            (
                GuardInput.from_values,
                INPUT_TEXTS | {"kind": "references", "samples": samples},
                "samples in a message of guard_inputs is",
            )
            for samples in (
                "", "1 2", "0  ", "1 BwAAAAAAAAA= ", "1 BwAAAAAAAAA= AAAAAAAA8D8=", "x x x",
            )
        ),
        (
            PolicyStatus.from_values,
            {"active": "true", "camera_fault": "", "new_latency_ms": "a"},
            "'a'",
        ),
    ],
)  # fmt: skip
def test_other_texts_are_refused_in_a_sentence(
    from_values: Callable[[Mapping[str, str]], Any], texts: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        from_values(texts)


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (PickUp("lost", 1, 2), '{"kind": "lost", "sent_ns": 1, "taken_ns": 2}'),
        (WorldTaken(3), '{"number": 3, "kind": "world"}'),
        (OwnStep(4), '{"cycle": 4, "kind": "own_step"}'),
        (Stall(0.5), '{"stall_s": 0.5, "kind": "stall"}'),
    ],
)
def test_events_of_the_fault_suites_arm_there_and_back(event: ArmEvent, text: str) -> None:
    assert event_text(event) == text
    assert event_of_text(text) == event
