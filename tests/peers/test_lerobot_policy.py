# SPDX-License-Identifier: Apache-2.0
"""LeRobotPolicy against a real child process that answers well, or fails: 8 actions, 8 joints.

The stand-in's actions: joint + 0.001 x (red share + a random number below 1 of the seed).
"""

import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from par_model.interface import Observation, PolicyEnded
from par_model.peers.lerobot_policy import LeRobotPolicy, lerobot_python, load_lerobot_policy
from par_model.peers.other_process import OtherProcess
from tests.peers.folders import INSTRUCTION, JOINTS, STAND_IN, lerobot_folder, stand_in_python


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lerobot_folder(tmp_path_factory.mktemp("lerobot"))


def make(folder: Path, mode: str = "well", timeout_s: float = 60.0) -> LeRobotPolicy:
    return LeRobotPolicy(folder, [sys.executable, str(STAND_IN), mode], timeout_s)


def seen(red: int = 255, stamp_s: float = 0.0) -> Observation:
    image = np.zeros((128, 128, 3), np.uint8)
    image[..., 0] = red
    return Observation(image, np.linspace(-1.0, 1.0, 8), JOINTS, stamp_s)


def answer(policy: LeRobotPolicy, observation: Observation) -> np.ndarray:
    policy.observe(observation)
    return policy.act().joint_positions


def test_picture_joints_and_numbers_arrive_unchanged(folder: Path) -> None:
    policy = make(folder)
    assert policy.spec.num_actions == 8
    assert policy.spec.step_s == 0.05
    assert policy.spec.instructions == (INSTRUCTION,)
    assert policy.backend == "lerobot 0, act"
    policy.reset(INSTRUCTION, 3)
    policy.observe(seen(stamp_s=0.4))
    chunk = policy.act()
    chunk.validate(policy.spec)
    assert chunk.stamp_s == 0.4
    offsets = chunk.joint_positions - np.linspace(-1.0, 1.0, 8)
    assert np.all((offsets >= 0.001) & (offsets < 0.002))
    assert np.all(answer(policy, seen(red=0)) - np.linspace(-1.0, 1.0, 8) < 0.001)


def test_a_seed_fixes_the_episode_and_two_policies_share_nothing(folder: Path) -> None:
    policy, other = make(folder), make(folder)
    chunks = []
    for _ in range(2):
        policy.reset(INSTRUCTION, 5)
        other.reset(INSTRUCTION, 6)
        chunks.append([answer(policy, seen()), answer(policy, seen())])
        answer(other, seen())
    np.testing.assert_array_equal(chunks[0], chunks[1])
    # The seed is sent once an episode, not with every question.
    assert not np.array_equal(chunks[0][0], chunks[0][1])


def test_what_does_not_fit_is_refused_before_it_is_sent(folder: Path) -> None:
    policy = make(folder)
    with pytest.raises(ValueError, match=r"instruction 'Fly\.' is unknown"):
        policy.reset("Fly.", 0)
    policy.reset(INSTRUCTION, 0)
    with pytest.raises(ValueError, match="act needs an observation"):
        policy.act()
    small = dataclasses.replace(seen(), image=np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=r"observation\.image must be uint8 \[128, 128, 3\]"):
        policy.observe(small)
    policy.observe(seen())
    with pytest.raises(ValueError, match="not trained to go on from committed actions"):
        policy.act(np.zeros((2, 8)))
    policy.reset(INSTRUCTION, 0)
    with pytest.raises(ValueError, match="act needs an observation"):
        policy.act()


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("die", "ended with exit code 7; its last line: 'Segmentation fault (made up)'"),
        ("killed", "was ended by SIGKILL"),
        ("hang", "gave no answer in 5 s and was stopped"),
        ("not_json", "broke the protocol: its answer is not valid JSON"),
        ("large", "closed its connection or sent more than 1 MiB"),
    ],
)
def test_a_process_that_ends_or_hangs_is_one_sentence_and_stays_ended(
    folder: Path, mode: str, sentence: str
) -> None:
    policy = make(folder, mode, timeout_s=5.0 if mode == "hang" else 60.0)
    policy.reset(INSTRUCTION, 0)
    answer(policy, seen())
    for _ in range(2):
        started_s = time.monotonic()
        with pytest.raises(PolicyEnded) as error:
            answer(policy, seen())
        assert time.monotonic() - started_s < 20.0
        assert str(error.value).startswith("the LeRobot process ")
        assert sentence in str(error.value)
        assert "\n" not in str(error.value)


def test_a_process_that_does_not_read_is_stopped_too(folder: Path) -> None:
    """A question larger than any socket's buffer: sending blocks until the process is stopped."""
    process = OtherProcess("the child", [sys.executable, str(STAND_IN), "deaf", str(folder)])
    assert process.ready(60.0) == {"version": "0"}
    with pytest.raises(PolicyEnded, match="the child gave no answer in 1 s and was stopped"):
        process.ask({}, bytes(2**24), 1.0)


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("short", r"action chunk.joint_positions must be float64 [8, 8], got float64 [7, 8]"),
        ("nothing", r"must be float64 [8, 8], got float64 [0]"),
        ("nan", "action chunk.joint_positions holds NaN or Inf"),
        ("joints", "the LeRobot process must answer lists of numbers"),
        ("text", "the LeRobot process must answer lists of numbers"),
        ("refuse", "the LeRobot process refused: RuntimeError: no such picture"),
    ],
)
def test_a_wrong_answer_is_refused(folder: Path, mode: str, sentence: str) -> None:
    policy = make(folder, mode)
    policy.reset(INSTRUCTION, 0)
    answer(policy, seen())
    with pytest.raises(ValueError) as error:
        answer(policy, seen())
    assert sentence in str(error.value)
    assert not isinstance(error.value, PolicyEnded)
    if mode == "refuse":
        assert answer(policy, seen()).shape == (8, 8)


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("refuse_load", "the LeRobot process refused: no weights"),
        ("die_at_load", "ended with exit code 3; its last line: 'no module named torch'"),
    ],
)
def test_a_policy_that_cannot_be_loaded_says_why(folder: Path, mode: str, sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        make(folder, mode)
    assert sentence in str(error.value)


def is_running(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_process_ends_with_its_policy(folder: Path) -> None:
    policy = make(folder)
    process_id = policy._process._process.pid
    assert is_running(process_id)
    del policy
    assert not is_running(process_id)


def test_the_interpreter_is_named_by_a_variable(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in ("", str(tmp_path / "nowhere")):
        monkeypatch.setenv("PAR_LEROBOT_PYTHON", value)
        with pytest.raises(ValueError, match="needs PAR_LEROBOT_PYTHON, the Python of the env"):
            lerobot_python()
    monkeypatch.setenv("PAR_LEROBOT_PYTHON", stand_in_python(tmp_path, "well"))
    policy = load_lerobot_policy(folder, num_threads=1, unused={"backend": "auto", "sampler": None})
    policy.reset(INSTRUCTION, 0)
    assert answer(policy, seen()).shape == (8, 8)
    with pytest.raises(ValueError, match="num_steps has no effect on a LeRobot policy"):
        load_lerobot_policy(folder, unused={"backend": "auto", "num_steps": 4})


def test_a_python_without_lerobot_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real program in this environment, which has no lerobot."""
    monkeypatch.setenv("PAR_LEROBOT_PYTHON", sys.executable)
    with pytest.raises(ValueError, match="refused: ModuleNotFoundError: No module named 'lerobot'"):
        load_lerobot_policy(folder, unused={})
