# SPDX-License-Identifier: Apache-2.0
"""What the disk refuses is one sentence with an exit code, and what came before is kept.

A limit on the size of a process's files (prlimit) stands for a full disk: the write fails where it
would, with another error number. A process that is not root meets a folder that is not its own.
"""

import itertools
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState

from par_model.output_files import make_folder, require_place, write_text, written_to_disk
from par_model.video_file import FAST, write_video
from par_ros.__main__ import main
from par_ros.recording import RecordingWriter, read_recording
from par_ros.topics import ACTION_CHUNK, JOINT_STATES
from tests.ros.processes import ROOT, children, finish, run, start_module, wait_for

TIMEOUT_S = 200.0


@pytest.fixture
def small_disk():
    """Files of this process may have 64 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("text")
    return path


def test_a_folder_below_a_file(file: Path) -> None:
    for folder in (file, file / "reports" / "today"):
        with pytest.raises(ValueError) as caught:
            make_folder("the report folder", folder)
        assert str(caught.value).startswith(f"the report folder {folder} cannot be written: ")
        assert "a part of this path is a file; choose another folder" in str(caught.value)


def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    program = (
        "import os, sys; from pathlib import Path\n"
        "from par_model.output_files import make_folder\n"
        "os.getuid() or os.setuid(65534)\n"
        "try: make_folder('the report folder', Path(sys.argv[1]))\n"
        "except ValueError as error: print(error)"
    )
    for folder in (tmp_path, tmp_path / "new"):
        told = subprocess.run(
            [sys.executable, "-c", program, str(folder)],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip
        assert told == (
            f"the report folder {folder} cannot be written: Permission denied; choose a folder "
            "that you may write to.\n"
        )
    tmp_path.chmod(0o755)


def test_a_text_that_does_not_fit_leaves_the_old_one(tmp_path: Path, small_disk: None) -> None:
    path = tmp_path / "results.json"
    write_text("the results file", path, "old")
    with pytest.raises(ValueError, match=r"the results file .*results.json cannot be written: "):
        write_text("the results file", path, "new" * 100_000)
    assert path.read_text() == "old"
    assert "MB are free there; make room, or choose another disk." in _refusal(path)


def _refusal(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        write_text("the results file", path, "new" * 100_000)
    return str(caught.value)


def test_a_video_that_does_not_fit_is_one_sentence(tmp_path: Path, small_disk: None) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (30, 128, 128, 3), np.uint8)
    path = tmp_path / "episode.mp4"
    sentence = "make room, or choose another disk"
    with pytest.raises(ValueError, match=sentence), written_to_disk("the video", path):
        write_video(path, pictures, 20, FAST)


def test_a_recording_that_does_not_fit_keeps_what_came_before(
    tmp_path: Path, small_disk: None
) -> None:
    path = tmp_path / "full.mcap"
    writer = RecordingWriter(path, {"guard": {}})
    channel = writer.add_topic("/joint_states", JOINT_STATES.type_name)
    message = serialize_message(JointState(name=["a"] * 50, position=[0.0] * 50))

    def write_one() -> bool:
        try:
            writer.write(channel, message)
            writer.sync()
        except ValueError as error:
            return not str(error).endswith("What came before is in it.")
        return True

    num_synced = len(list(itertools.takewhile(bool, (write_one() for _ in range(1000)))))
    writer.close()
    recording = read_recording(path)
    assert not recording.is_closed
    assert 1000 > len(recording.messages) == num_synced > 10


def test_a_recorder_that_cannot_open_its_file_says_only_that(file: Path, free_domain: str) -> None:
    process = start_module("par_ros.recorder_node", "--ros-args", "-p", f"file:={file / 'a.mcap'}")
    ended = finish(process, TIMEOUT_S)
    assert ended.code == 1
    assert ended.error.splitlines() == ended.sentences
    assert ended.sentences == [
        f"error: the recording's folder {file} cannot be written: File exists; a part of this path "
        "is a file; choose another folder."
    ]


def test_a_run_whose_report_cannot_be_written_does_not_begin(file: Path, free_domain: str) -> None:
    began_s = time.monotonic()
    ended = run("sim", f"report:={file / 'here'}", "episodes:=1")
    assert ended.code == 1
    assert ended.sentences == [
        f"error: the folder of the logs {file / 'here' / 'logs'} cannot be written: Not a "
        "directory; a part of this path is a file; choose another folder."
    ]
    assert "Traceback" not in ended.error
    assert time.monotonic() - began_s < 60.0


@pytest.mark.ros
def test_a_full_disk_ends_the_recorder_and_not_the_arm(tmp_path: Path, free_domain: str) -> None:
    """Its file may not grow from then on."""
    path = tmp_path / "run.mcap"
    process = start_module("tests.ros.light_graph", free_domain, "", str(path))
    try:
        wait_for(lambda: _num_chunks(path) > 2, TIMEOUT_S, "a recorded chunk")
        recorder = children(process.pid)["recorder_node"]
        resource.prlimit(recorder, resource.RLIMIT_FSIZE, (path.stat().st_size,) * 2)
        assert process.stderr is not None
        reported = next(line for line in process.stderr if line.startswith("error: "))
        assert process.poll() is None
        assert "safety_node" in children(process.pid)
        process.send_signal(signal.SIGINT)
        ended = finish(process, TIMEOUT_S)
    finally:
        process.kill()
    assert ended.code == 130
    assert reported.startswith(
        "error: recorder_node has ended, the other processes continue: recording "
    )
    assert "What came before is in it." in reported
    assert "Traceback" not in ended.error
    assert _num_chunks(path) > 2
    assert not children(process.pid)


def _num_chunks(path: Path) -> int:
    if not path.is_file() or not os.path.getsize(path):
        return 0
    found = [message.topic for message in read_recording(path).messages]
    return found.count(f"/{ACTION_CHUNK.name}")


def test_a_result_goes_into_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    """A command accepts such a path before its work, so it must not fail after it."""
    path = tmp_path / "new" / "folder" / "result.json"
    assert require_place(path, is_folder=False) == path
    write_text("the result", path, "{}")
    assert path.read_text() == "{}"
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def test_a_proof_writes_into_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "new" / "latency.json"
    assert main(["guard_latency", "--chunks", "1", "--in-process", "--json", str(path)]) == 0
    assert path.is_file()
