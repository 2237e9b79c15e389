# SPDX-License-Identifier: Apache-2.0
"""Whatever a recording holds, its replay ends by a table or by one sentence, never by a traceback.

The sound one is made without DDS: 20 joint states in 1 s, engage, 3 chunks of fixed_chunk_node with
their pictures, and what the guard answered. 120 seeded damages of its bytes, 200 of its messages
and settings (with checksums that fit); a replay takes at most 20 s.
"""

import copy
import json
import random
import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.serialization import serialize_message

from par_ros import messages
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.control.timeline import Moment
from par_ros.fixed_chunk_node import IMAGE_SIZE, FixedChunkPolicy
from par_ros.guard_replay import GuardReplay
from par_ros.recorded_graph import RecordedGraph
from par_ros.recorded_messages import Recorded
from par_ros.recording import RecordedMessage, RecordingWriter, read_recording
from par_ros.replay import main as replay
from par_ros.topics import (
    ACTION_CHUNK,
    EXECUTED_ACTIONS,
    GRIPPER_TRAJECTORY,
    GUARD_INPUTS,
    IMAGE,
    JOINT_STATES,
    JOINT_TRAJECTORY,
    OBSERVED,
    TOPICS,
    Topic,
)
from par_ros.wire_records import GuardInput, Observed

NUM_DAMAGED_FILES = 120
NUM_DAMAGED_CONTENTS = 200
# Of processor time: the machine may be busy.
TIMEOUT_S = 20.0
CHUNK_NS = 400_000_000
START_NS = 100 * messages.NANOSECONDS
SETTINGS: dict[str, Any] = {
    "guard": {"arm": "panda", "mode": "lockstep"},
    "policy": {"instruction": FixedChunkPolicy().spec.instructions[0]},
    "policy_executable": "fixed_chunk_node",
    "checkpoint_sha256": "",
    "omp_num_threads": "",
    "topics": {topic.name: f"/{topic.name.lstrip('/')}" for topic in TOPICS},
}
REST = np.array([0.0, 0.4, 0.0, -2.0, 0.0, 2.4, 0.8, 0.03])
ODD_TEXTS = ("", "x", "-1", "nan", "inf", "1e400", "9" * 5000, "\u0663", "12 13", "true")
ODD_VALUES = (None, True, -1, 10**30, float("nan"), "", "x" * 300, [], {}, [[]], "../../etc/passwd")


def status(topic: Topic, **values: str) -> RecordedMessage:
    message = messages.status_message(messages.Status("node", messages.OK, "", values))
    return recorded(topic, message)


def recorded(topic: Topic, message: Any) -> RecordedMessage:
    name = SETTINGS["topics"][topic.name]
    return RecordedMessage(name, topic.type_name, serialize_message(message), 0)


def guard_input(kind: str, now_ns: int, joint_ns: int | None, **details: Any) -> RecordedMessage:
    joint_moment = None if joint_ns is None else Moment(joint_ns, joint_ns)
    given = GuardInput(kind, Moment(now_ns, now_ns), joint_ns, joint_moment, 1, **details)
    return status(GUARD_INPUTS, **given.to_values())


def inputs() -> list[RecordedMessage]:
    """What arm and policy said, and what the guard was given."""
    policy = FixedChunkPolicy()
    policy.reset(SETTINGS["policy"]["instruction"], 0)
    names = policy.spec.joint_names
    stamps = [START_NS + index * 50_000_000 for index in range(20)]
    found = [
        recorded(JOINT_STATES, messages.joint_state_message(names, REST, np.zeros(8), stamp))
        for stamp in stamps
    ]
    found.append(guard_input("configure", START_NS, None))
    found.append(guard_input("engage", stamps[-1], stamps[-1]))
    picture = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 90, dtype=np.uint8)
    before_ns: int | None = None
    for index in range(3):
        now_ns = stamps[-1] + index * CHUNK_NS
        joints = messages.joint_state_message(names, REST, np.zeros(8), now_ns)
        if index:
            found.append(recorded(JOINT_STATES, joints))
        found.append(recorded(IMAGE, messages.array_to_image(picture, "rgb8", now_ns, "camera")))
        asked = knots(policy, index, names)
        found.append(recorded(ACTION_CHUNK, messages.joint_trajectory_message(asked, now_ns)))
        observed = Observed(
            stamp_ns=now_ns,
            joint_stamp_ns=now_ns,
            executed_stamp_ns=before_ns,
            recent_stamps_ns=(),
            reset=before_ns is None,
            instruction=SETTINGS["policy"]["instruction"],
            policy_seed=0,
        )
        found.append(status(OBSERVED, **observed.to_values()))
        found.append(guard_input("chunk", now_ns, now_ns, chunk_stamp_ns=now_ns))
        before_ns = now_ns
    return found


def knots(policy: FixedChunkPolicy, index: int, names: tuple[str, ...]) -> JointTrajectory:
    from par_model.interface import Observation

    policy.observe(
        Observation(
            image=np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 90, dtype=np.uint8),
            measured_joint_positions=REST,
            joint_names=names,
            stamp_s=float(index),
            executed_actions=np.tile(REST, (8, 1)) if index else None,
        )
    )
    return JointTrajectory(names, 0.05 * np.arange(1, 9), policy.act().joint_positions)


def write(
    path: Path, contents: Iterable[RecordedMessage], settings: dict[str, Any] = SETTINGS
) -> None:
    path.unlink(missing_ok=True)
    writer = RecordingWriter(path, settings)
    channels: dict[tuple[str, str], int] = {}
    for message in contents:
        key = message.topic, message.type_name
        if key not in channels:
            channels[key] = writer.add_topic(*key)
        writer.write(channels[key], message.data)
    writer.close()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "sound.mcap"
    contents = inputs()
    write(path, contents)
    recording = read_recording(path)
    given = Recorded(recording, RecordedGraph.from_json(recording.settings))
    guard = GuardReplay(given)
    noted = given.records(GUARD_INPUTS, GuardInput.from_values)
    answers = [answer for one in noted for answer in guard.take(one)]
    for topic, part, stamp in (
        (EXECUTED_ACTIONS, "executed", "executed_stamp_ns"),
        (JOINT_TRAJECTORY, "arm", "stamp_ns"),
        (GRIPPER_TRAJECTORY, "gripper", "stamp_ns"),
    ):
        for answer in answers:
            if (trajectory := getattr(answer, part)) is not None:
                message = messages.joint_trajectory_message(trajectory, getattr(answer, stamp))
                contents.append(recorded(topic, message))
    write(path, contents)
    return path


def replayed(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """(exit code, its sentence or nothing); fails where it says more than one sentence."""
    started_s = time.process_time()
    code = replay([str(path)])
    assert time.process_time() - started_s < TIMEOUT_S
    error = capsys.readouterr().err.splitlines()
    assert len(error) <= code
    assert all(line.startswith("error: ") for line in error)
    return code, "".join(error)


def test_the_sound_one_is_the_same_to_the_bit(
    sound: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert replay([str(sound)]) == 0
    shown = capsys.readouterr().out
    assert "the same to the bit" in shown
    for topic in (ACTION_CHUNK, EXECUTED_ACTIONS, JOINT_TRAJECTORY, GRIPPER_TRAJECTORY):
        assert topic.name in shown


def flipped(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def cut(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data))]


def with_a_length(data: bytearray, rng: random.Random) -> bytearray:
    """A number where another one may be a length: huge, or a little wrong."""
    at = rng.randrange(max(1, len(data) - 8))
    value = rng.choice((2**64 - 1, 2**63, 2**32 - 1, 2**31, 2**20, 0, 1))
    data[at : at + 8] = struct.pack("<Q", value)
    return data


def with_a_hole(data: bytearray, rng: random.Random) -> bytearray:
    at = rng.randrange(len(data))
    del data[at : at + rng.randint(1, 300)]
    return data


DAMAGES: tuple[Callable[[bytearray, random.Random], bytearray], ...] = (
    flipped, cut, with_a_length, with_a_hole,
)  # fmt: skip


def test_damaged_bytes_are_refused_or_harmless(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A closed file: what is read of it is what was written, never something else in silence."""
    path = tmp_path / "damaged.mcap"
    written = read_recording(sound).messages
    for seed in range(NUM_DAMAGED_FILES):
        rng = random.Random(seed)
        path.write_bytes(rng.choice(DAMAGES)(bytearray(sound.read_bytes()), rng))
        code, sentence = outcome(path, capsys, seed)
        if not sentence:
            read = read_recording(path).messages
            assert read == written[: len(read)], seed
            assert code in (0, 1)


def test_damaged_bytes_of_a_recording_that_was_cut_off(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No checksum protects it: what is read may be anything."""
    path = tmp_path / "damaged.mcap"
    whole = sound.read_bytes()
    for seed in range(NUM_DAMAGED_FILES):
        rng = random.Random(seed)
        data = bytearray(whole[: round(0.8 * len(whole))])
        path.write_bytes(rng.choice(DAMAGES)(data, rng))
        outcome(path, capsys, seed)


def outcome(path: Path, capsys: pytest.CaptureFixture[str], seed: int) -> tuple[int, str]:
    try:
        return replayed(path, capsys)
    except Exception as error:
        raise AssertionError(f"seed {seed}: {error!r}") from error


def with_damaged_message(
    contents: list[RecordedMessage], rng: random.Random
) -> list[RecordedMessage]:
    """One message, of a topic drawn first, has damaged bytes, none, or those of another one."""
    topic = rng.choice(sorted({message.topic for message in contents}))
    index = rng.choice([i for i, message in enumerate(contents) if message.topic == topic])
    message = contents[index]
    kind = rng.choice(("flipped", "flipped", "cut", "length", "empty", "another"))
    data = bytearray(message.data)
    if kind == "empty":
        data = bytearray()
    elif kind == "another":
        data = bytearray(rng.choice(contents).data)
    else:
        data = {"flipped": flipped, "cut": cut, "length": with_a_length}[kind](data, rng)
    contents[index] = RecordedMessage(message.topic, message.type_name, bytes(data), 0)
    return contents


def with_odd_text(contents: list[RecordedMessage], rng: random.Random) -> list[RecordedMessage]:
    """One value of a status is another text, or is not there."""
    from rclpy.serialization import deserialize_message

    topic = rng.choice((OBSERVED, GUARD_INPUTS))
    name = SETTINGS["topics"][topic.name]
    index = rng.choice([i for i, message in enumerate(contents) if message.topic == name])
    message = deserialize_message(contents[index].data, topic.message_type)
    pair = rng.choice(message.values)
    if rng.random() < 0.3:
        message.values = [other for other in message.values if other is not pair]
    else:
        pair.value = rng.choice(ODD_TEXTS)
    contents[index] = recorded(topic, message)
    return contents


def without_a_topic(contents: list[RecordedMessage], rng: random.Random) -> list[RecordedMessage]:
    topic = rng.choice(sorted({message.topic for message in contents}))
    return [message for message in contents if message.topic != topic]


def of_another_type(contents: list[RecordedMessage], rng: random.Random) -> list[RecordedMessage]:
    topic = rng.choice(sorted({message.topic for message in contents}))
    other = rng.choice(TOPICS).type_name
    return [RecordedMessage(m.topic, other, m.data, 0) if m.topic == topic else m for m in contents]


def with_odd_settings(rng: random.Random) -> dict[str, Any]:
    settings = copy.deepcopy(SETTINGS)
    parent = rng.choice((settings, settings["guard"], settings["policy"], settings["topics"]))
    name = rng.choice(sorted(parent))
    if rng.random() < 0.3:
        del parent[name]
    else:
        parent[name] = rng.choice(ODD_VALUES)
    return settings


def test_damaged_contents_are_refused_or_harmless(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "damaged.mcap"
    whole = read_recording(sound).messages
    changes = (with_damaged_message, with_odd_text, without_a_topic, of_another_type)
    codes = set()
    for seed in range(NUM_DAMAGED_CONTENTS):
        rng = random.Random(seed)
        if rng.random() < 0.3:
            write(path, whole, with_odd_settings(rng))
        else:
            write(path, rng.choice(changes)(list(whole), rng))
        code, sentence = outcome(path, capsys, seed)
        assert not sentence or code != 0, f"seed {seed}: exit code 0, but {sentence!r}"
        codes.add(code)
    assert {0, 1} <= codes


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ([], "must hold a JSON object"),
        ({}, "lacks the graph's setting topics"),
        (SETTINGS | {"topics": {}}, "lacks the name of topic action_chunk"),
        (SETTINGS | {"guard": {"step_s": -1.0}}, "the recorded guard: step_s must be"),
        (SETTINGS | {"guard": {"arm": "hal9000"}}, "arm 'hal9000' is unknown"),
        (SETTINGS | {"policy": {"checkpoint": 7}}, "the recorded policy: checkpoint must be"),
        (SETTINGS | {"policy": {"checkpoint": "/nowhere"}}, "'/nowhere' is not a folder"),
    ],
)
def test_odd_settings_are_one_sentence(
    sound: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
    sentence: str,
) -> None:
    path = tmp_path / "odd.mcap"
    text = json.dumps(settings)
    monkeypatch.setattr("par_ros.recording.json.dumps", lambda _: text)
    write(path, read_recording(sound).messages)
    monkeypatch.undo()
    code, said = replayed(path, capsys)
    assert code == 1
    assert sentence in said


def test_a_folder_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, sentence = replayed(tmp_path, capsys)
    assert code == 1
    assert "cannot be read" in sentence
