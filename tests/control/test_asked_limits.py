# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros limits`: shares of a motion whose velocity and acceleration are known."""

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest

from par_ros.proof.asked_limits import Asked, ChunkChain, main, markdown_table, report
from tests.control.arms import arm

TIMES_S = 0.05 * np.arange(1, 9)


def knots(begin_s: float, speed_rad_s: float) -> np.ndarray:
    """Joint 1 speeds up to `speed_rad_s` within a second (a cosine), the others stand."""
    spec = arm("panda")
    times = np.minimum(begin_s + TIMES_S, 1.0)
    positions = np.tile(np.append(spec.home, 0.04), (8, 1))
    positions[:, 0] += speed_rad_s * (times / 2 - np.sin(np.pi * times) / (2 * np.pi))
    return positions


def test_a_gentle_motion_passes_and_its_shares_are_those_of_the_motion() -> None:
    """0.5 rad/s within a second: the acceleration's peak is pi / 4 = 0.785 rad/s^2 of 15."""
    spec = arm("panda")
    asked = Asked()
    chain = ChunkChain(spec, asked, guarded=True)
    chain.start(np.append(spec.home, 0.04))
    for number in range(2):
        chunk = knots(0.4 * number, 0.5)
        np.testing.assert_array_equal(chain.take(chunk), chunk)
    result = report([asked], (1.0,), {}, "")
    assert result["outcomes"] == {"unchanged": 2, "tracked": 0, "refused": 0}
    largest = {name: values["largest"] for name, values in result["asked"].items()}
    # At 0.775 s, the middle of the last step.
    assert np.isclose(largest["velocity"], 0.25 * (1 - np.cos(0.775 * np.pi)) / 2.175, rtol=0.01)
    assert np.isclose(largest["acceleration"], np.pi / 4 / 15.0, rtol=0.01)
    table = markdown_table(result)
    assert "100 % of the limits, 2 chunks: 2 unchanged (100.00 %), 0 tracked, 0 held." in table


def test_what_needs_all_of_a_limit_is_tracked_with_a_share_of_it() -> None:
    """The second chunk asks for 97 % of joint 2's acceleration limit."""
    spec = arm("panda")
    outcomes = []
    for share in (0.95, 1.0):
        asked = Asked()
        chain = ChunkChain(spec, asked, guarded=False, limit_share=share)
        chain.start(np.append(spec.home - 0.5, 0.04))
        for number in range(2):
            chunk = knots(0.4 * number, 2.2)
            chunk[:, :7] -= 0.5
            chain.take(chunk)
        result = report([asked], (share,), {}, "")
        assert result["liveness"][0]["limit_share"] == share
        outcomes.append(result["liveness"][0]["unchanged"])
    assert outcomes[0] < outcomes[1]


def test_what_cannot_be_followed_is_counted_as_held() -> None:
    spec = arm("panda")
    asked = Asked()
    chain = ChunkChain(spec, asked, guarded=True)
    chain.start(np.append(spec.home, 0.04))
    far = np.tile(np.append(spec.home, 0.04), (8, 1))
    far[:, :7] += np.outer(np.arange(1, 9), np.full(7, 0.25))
    sent = chain.take(far)
    np.testing.assert_allclose(sent[:, :7], np.tile(spec.home, (8, 1)))
    assert asked.outcomes["refused"] == 1
    assert len(asked.reasons) == 1


def test_a_data_set_of_a_planner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two episodes of 16 actions in one file, and one that was disturbed."""
    folder = tmp_path / "data" / "chunk-000"
    folder.mkdir(parents=True)
    actions = np.concatenate([knots(0.0, 0.5), knots(0.4, 0.5)] * 3)
    executed = actions.copy()
    executed[32:40, 0] += 0.05
    table = pyarrow.table(
        {
            "action": actions.tolist(),
            "executed_action": executed.tolist(),
            "episode_index": [0] * 16 + [1] * 16 + [2] * 16,
        }
    )
    parquet.write_table(table, folder / "file-000.parquet")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text('{"robot_type": "panda"}', encoding="utf-8")
    assert main(["--data-set", str(tmp_path)]) == 0
    assert "95 % of the limits, 4 chunks: 4 unchanged" in capsys.readouterr().out
    assert main(["--data-set", str(tmp_path), "--disturbed"]) == 0
    assert "6 chunks: " in capsys.readouterr().out
    assert main(["--data-set", str(tmp_path / "none")]) == 1
    assert "holds no meta/info.json" in capsys.readouterr().err
