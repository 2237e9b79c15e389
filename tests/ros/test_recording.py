# SPDX-License-Identifier: Apache-2.0
"""A recording keeps what came before its end, however it ends, and can be replayed to the bit.

Chunks of 0.4 s from fixed_chunk_node; the recorder hands its data over twice a second.
"""

import os
import re
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState

from par_ros import messages
from par_ros.graph_arguments import SimArguments
from par_ros.node_graph import sim_graph
from par_ros.recording import RecordingWriter, message_definition, read_recording
from par_ros.replay import main as replay
from par_ros.topics import ACTION_CHUNK, JOINT_STATES, OBSERVED, TOPICS
from tests.ros.processes import children, finish, run, start_module, wait_for

SETTINGS = {"guard": {"arm": "panda"}}
TIMEOUT_S = 200.0
NUM_CHUNKS = 6
# What may be lost, and what a busy machine adds to it.
MAX_LOSS_S = 1.0
BUSY_S = 4.0


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A closed recording of 50 joint states."""
    path = tmp_path / "fifty.mcap"
    writer = RecordingWriter(path, SETTINGS)
    channel = writer.add_topic("/left/joint_states", JOINT_STATES.type_name)
    for number in range(50):
        writer.write(channel, serialize_message(JointState(name=["a"], position=[float(number)])))
    writer.close()
    return path


def positions(path: Path) -> list[float]:
    recording = read_recording(path)
    assert recording.settings == SETTINGS
    assert {message.topic for message in recording.messages} <= {"/left/joint_states"}
    return [
        deserialize_message(message.data, JointState).position[0] for message in recording.messages
    ]


def test_what_was_written_is_read(written: Path) -> None:
    assert positions(written) == [float(number) for number in range(50)]
    assert read_recording(written).is_closed


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9, 0.99])
def test_a_file_that_was_cut_off_holds_what_came_before(written: Path, share: float) -> None:
    data = written.read_bytes()
    written.write_bytes(data[: round(share * len(data))])
    got = positions(written)
    assert got == [float(number) for number in range(len(got))]
    assert not read_recording(written).is_closed


def test_every_message_but_the_one_that_was_cut_is_whole(written: Path) -> None:
    """Cut at each byte of the last 3 messages."""
    data = written.read_bytes()
    # Not the whole message: the bytes that pad it are not always the same.
    last = data.rfind(struct.pack("<d", 49.0))
    counts = []
    for end in range(last - 200, last):
        written.write_bytes(data[:end])
        counts.append(len(positions(written)))
    assert counts == sorted(counts)
    assert counts[-1] == 49
    assert counts[0] >= 46


def test_definitions_are_complete() -> None:
    for topic in TOPICS:
        text = message_definition(topic.type_name)
        assert text.count("MSG: ") == text.count("=" * 80)
    text = message_definition("trajectory_msgs/msg/JointTrajectory")
    for part in ("JointTrajectoryPoint", "builtin_interfaces/Duration", "std_msgs/Header"):
        assert f"{part}\n" in text


def test_other_programs_decode_it(written: Path) -> None:
    decoder = pytest.importorskip("mcap_ros2.decoder", reason="mcap-ros2-support is not installed")
    reader = pytest.importorskip("mcap.reader")
    with written.open("rb") as file:
        decoded = reader.make_reader(file, decoder_factories=[decoder.DecoderFactory()])
        values = [row.decoded_message.position[0] for row in decoded.iter_decoded_messages()]
    assert values == [float(number) for number in range(50)]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"not an mcap file", "is not an MCAP file"), (b"", "was not made by")],
)
def test_what_is_no_recording_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, sentence: str
) -> None:
    path = tmp_path / "odd.mcap"
    path.write_bytes(content)
    assert replay([str(path)]) == 1
    assert sentence in capsys.readouterr().err
    assert replay([str(tmp_path / "nowhere.mcap")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_nothing_is_overwritten(written: Path) -> None:
    with pytest.raises(ValueError, match="exists already"):
        RecordingWriter(written, SETTINGS)


def test_record_adds_the_recorder_with_what_a_replay_needs(tmp_path: Path) -> None:
    arguments = SimArguments(checkpoint=str(tmp_path), report=str(tmp_path), record=True)
    recorder = sim_graph(arguments).nodes[0]
    assert recorder.executable == "recorder_node"
    assert recorder.parameters["file"] == str(tmp_path / "recording.mcap")
    assert '"limit_checks": "warn"' in str(recorder.parameters["settings"])
    assert all(node.name != "recorder_node" for node in sim_graph(SimArguments()).nodes)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A light graph whose recorder was killed with SIGKILL while the arm moved."""
    path = tmp_path_factory.mktemp("recording") / "killed.mcap"
    domain = os.environ["ROS_DOMAIN_ID"]
    process = start_module(
        "tests.ros.light_graph", domain, "left", str(path), "needed", "", "", "topic"
    )
    try:
        wait_for(lambda: has_chunks(path) or process.poll() is not None, TIMEOUT_S, "chunks")
        assert process.poll() is None, process.communicate()[1]
        killed_ns = time.time_ns()
        os.kill(children(process.pid)["recorder_node"], signal.SIGKILL)
        assert process.stderr is not None
        reported = next(line for line in process.stderr if line.startswith("error: "))
        process.send_signal(signal.SIGINT)
        finish(process, TIMEOUT_S)
        yield SimpleNamespace(path=path, killed_ns=killed_ns, reported=reported)
    finally:
        process.kill()


def has_chunks(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size == 0:
        return False
    names = [message.topic for message in read_recording(path).messages]
    return names.count("/left/observed") >= NUM_CHUNKS


@pytest.mark.ros
def test_a_killed_recorder_loses_at_most_the_last_second(killed: SimpleNamespace) -> None:
    recording = read_recording(killed.path)
    assert not recording.is_closed
    loss_s = (killed.killed_ns - recording.messages[-1].time_ns) / messages.NANOSECONDS
    assert loss_s < MAX_LOSS_S + BUSY_S
    assert killed.reported == (
        "error: recorder_node has ended, the other processes continue: recorder_node ended "
        "unexpectedly (signal SIGKILL).\n"
    )


@pytest.mark.ros
def test_a_replay_is_the_same_to_the_bit(killed: SimpleNamespace) -> None:
    """In a process of its own: threads of numpy's BLAS, if this one has any, round otherwise."""
    finished = run("replay", str(killed.path))
    shown = finished.output
    assert "the same to the bit" in shown
    assert finished.code == 0
    assert "was cut off" in shown
    for topic in ("action_chunk", "executed_actions", "joint_trajectory", "gripper_trajectory"):
        assert topic in shown


@pytest.mark.ros
def test_a_replay_finds_one_changed_number(killed: SimpleNamespace, tmp_path: Path) -> None:
    """The third chunk's first number is moved by one unit in the last place."""
    recording = read_recording(killed.path)
    names = recording.settings["topics"]
    path = tmp_path / "changed.mcap"
    writer = RecordingWriter(path, recording.settings)
    channels = {
        names[topic.name]: writer.add_topic(names[topic.name], topic.type_name) for topic in TOPICS
    }
    num_chunks = 0
    for message in recording.messages:
        data = message.data
        if message.topic == names[ACTION_CHUNK.name]:
            num_chunks += 1
            if num_chunks == 3:
                chunk = deserialize_message(data, ACTION_CHUNK.message_type)
                chunk.points[0].positions[0] += 1e-16 + abs(chunk.points[0].positions[0]) * 2e-16
                data = serialize_message(chunk)
        writer.write(channels[message.topic], data)
    writer.close()
    assert names[OBSERVED.name] == "/left/observed"
    finished = run("replay", str(path))
    assert finished.code == 1
    assert "not the same" in finished.output
    identical = re.search(r"action_chunk.* (\d+) of (\d+) ", finished.output)
    assert identical is not None
    assert int(identical[1]) == int(identical[2]) - 1
