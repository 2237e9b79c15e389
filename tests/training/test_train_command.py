# SPDX-License-Identifier: Apache-2.0
"""`python -m par_model.train`: users' mistakes give one sentence and an exit code."""

from pathlib import Path

import pytest

from par_model.train import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["latents", "--codec", "{tmp}", "--data", "{tmp}"], "no finished frame codec"),
        (["codec", "--out", "{tmp}/c", "--data", "{tmp}/none"], "holds no data set"),
        (
            ["policy", "--codec", "{tmp}", "--data", "{tmp}", "--out", "{tmp}/r", "--steps", "1"],
            "no finished frame codec",
        ),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([part.format(tmp=tmp_path) for part in arguments]) == 1
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message


def test_an_unknown_preset_is_refused_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["probe", "--codec", "x", "--preset", "huge"])
    assert exit_info.value.code == 2
    assert "par_small" in capsys.readouterr().err
