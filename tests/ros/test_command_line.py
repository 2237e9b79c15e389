# SPDX-License-Identifier: Apache-2.0
"""python -m par_ros refuses wrong words with one sentence and code 2, and starts nothing."""

from pathlib import Path

import pytest

from par_model.simulation.tasks import TASKS
from par_ros.__main__ import BAD_USE, main, split_assignments
from tests.ros.processes import run

PUSH = TASKS["PushCube"].instruction


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    for command in ("sim:", "real_arm:", "loopback:", "bench:"):
        assert command in output


def test_help_of_a_command_lists_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "--help"]) == 0
    output = capsys.readouterr().out
    assert f"task  (one of {', '.join(TASKS)}; default: PushCube)" in output
    assert "episodes  (a whole number from 1 to 100000; default: 3)" in output


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fly"], "'fly' is not a command; the commands are sim, real_arm, loopback, bench"),
        (["sim", "task:=OpenDoor"], f"sim: task must be one of {', '.join(TASKS)}, got"),
        (["sim", "PushCube"], "sim: arguments are written name:=value, got 'PushCube'; see"),
        (["sim", "task=PushCube"], "sim: arguments are written name:=value, got 'task=PushCube'"),
        (["sim", "seed:=1"], "sim: 'seed' is not an argument; the arguments are task, episodes"),
        (["sim", "task:=PushCube", "task:=PushCube"], "sim: task is given twice; leave one out."),
        (["sim", "checkpoint:=/nowhere"], "checkpoint '/nowhere' is not a folder; check"),
        (["bench", "steps:=1"], "bench: steps must be a whole number from 8 to 100000, got 1"),
        (["bench", "task:=PushCubeSO100"], "bench: task must be one of PushCube, PickCube, StackC"),
        (["real_arm", "dry_run:=maybe"], "real_arm: dry_run must be true or false, got 'maybe'"),
        (
            ["real_arm", "controller_topic:="],
            "real_arm: controller_topic must be the name of a topi",
        ),
        (["real_arm", "camera_topic:=a b"], "real_arm: camera_topic must be the name of a topic"),
        (
            ["real_arm", f"instruction:={PUSH}", "further_cameras:=right=/right/"],
            "real_arm: further_cameras must be the name of a topic",
        ),
        (["doctor", "camera_topic:=a//b"], "doctor: camera_topic must be the name of a topic"),
        (["doctor", "joint_states_topic:=/"], "doctor: joint_states_topic must be the name of a t"),
        (["sim", "namespace:=a b"], "sim: namespace must be letters, digits and _, parts separat"),
        (["loopback", "namespace:=2nd"], "loopback: namespace must be letters, digits and _"),
    ],
)
def test_wrong_words_are_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == BAD_USE
    error = capsys.readouterr().err
    assert error.startswith(f"error: {sentence}")
    assert error.count("\n") == 1


def test_no_words_at_all_shows_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == BAD_USE
    assert "usage: python -m par_ros COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["real_arm", "loopback"])
def test_the_help_says_where_the_guards_limits_are(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Of motion (position, velocity, acceleration, jerk" in shown
    assert "docs/reference/parameters.md" in shown
    assert "the name of a file in config/arms of this package" in shown


def test_values_may_hold_anything() -> None:
    assert split_assignments("sim", ["instruction:=Say: a:=b"]) == {"instruction": "Say: a:=b"}


def test_unknown_task_in_a_real_process(tmp_path: Path) -> None:
    finished = run("sim", "task:=OpenDoor", f"report:={tmp_path / 'report'}")
    assert finished.code == BAD_USE
    assert len(finished.sentences) == 1
    assert "Traceback" not in finished.error + finished.output
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fuzz", "--num-chunks", "0"], "--num-chunks and --num-processes must be at least 1."),
        (["fuzz", "--num-processes", "-1"], "--num-chunks and --num-processes must be at least 1."),
        (["guard_latency", "--chunks", "0"], "--chunks must be at least 1, got 0."),
        (["limits", "--episodes", "0"], "--episodes must be at least 1, got 0."),
        (["limits", "--limit-shares", "0"], "--limit-shares must be above 0 and at most 1."),
        (["soak", "--duration", "-1"], "--duration must be at least 10 s."),
        (["soak", "--duration", "nan"], "'nan' is not a finite number."),
        (
            ["same_targets", "--graph", "g", "--direct", "d", "--tolerance", "-1"],
            "--tolerance must be 0 or more, got -1.",
        ),
        (
            ["same_targets", "--graph", "g", "--direct", "d", "--tolerance", "nan"],
            "'nan' is not a finite number.",
        ),
    ],
)
def test_a_proof_of_nothing_is_refused(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of these ran nothing and passed, or ended with a traceback."""
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == BAD_USE
    assert sentence in capsys.readouterr().err
