# SPDX-License-Identifier: Apache-2.0
"""What counts as the same targets: every step before the guard's first change."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from par_ros.proof.same_targets import compare, main

TARGETS = np.arange(24.0).reshape(8, 3) / 10


def files(
    graph_targets: np.ndarray,
    direct_targets: np.ndarray | None,
    changed_steps: tuple[int, ...] = (),
    **others: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    direct = None if direct_targets is None else direct_targets.tolist()
    graph = {
        "seed": 7,
        "policy_seed": 0,
        "joint_targets": graph_targets.tolist(),
        "guard_changes": [{"step": step, "joint": "a"} for step in changed_steps],
    }
    about = {"task": "PushCube", "mode": "lockstep", "command": "sim", **others}
    return (
        {**about, "episodes": [graph]},
        {
            "task": "PushCube",
            "command": "evaluate",
            "episodes": [{"seed": 7, "policy_seed": 0, "joint_targets": direct}],
        },
    )


def moved(step: int, by: float) -> np.ndarray:
    """TARGETS with one number of `step` (from 1) moved."""
    targets = TARGETS.copy()
    targets[step - 1, 1] += by
    return targets


@pytest.mark.parametrize(
    ("direct", "changed", "compared", "difference"),
    [
        (TARGETS, (), 8, None),
        (moved(5, 5e-7), (), 8, None),
        (moved(5, 5e-6), (), 8, 5),
        (moved(5, 5e-6), (5, 6), 4, None),
        (moved(5, 5e-6), (7,), 6, 5),
        (TARGETS[:6], (), 8, 7),
        (TARGETS[:6], (6,), 5, None),
        (np.concatenate((TARGETS, TARGETS)), (), 8, 9),
        (TARGETS, (1,), 0, None),
    ],
)
def test_steps_count_until_the_guard_changes_one(
    direct: np.ndarray, changed: tuple[int, ...], compared: int, difference: int | None
) -> None:
    (found,) = compare(*files(TARGETS, direct, changed), tolerance=1e-6)
    assert found.num_compared == compared
    assert found.first_difference == difference
    assert found.first_change == min(changed, default=None)


def test_the_command_fails_where_targets_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = tmp_path / "graph.json", tmp_path / "direct.json", tmp_path / "found.json"
    words = ["--graph", str(paths[0]), "--direct", str(paths[1]), "--json", str(paths[2])]
    for direct, code in ((TARGETS, 0), (moved(3, 1.0), 1)):
        for path, content in zip(paths, files(TARGETS, direct), strict=False):
            path.write_text(json.dumps(content))
        assert main(words) == code
        assert json.loads(paths[2].read_text())["num_different"] == code
    assert "DIFFERENT from step 3 on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (files(TARGETS, None), "--record-targets"),
        (files(TARGETS, TARGETS, task="PickCube"), "PickCube"),
        (files(TARGETS, TARGETS, mode="realtime"), "lockstep"),
        (({}, {}), "'task' is missing"),
    ],
)
def test_files_that_cannot_be_compared_are_refused_in_a_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: tuple[dict[str, Any], dict[str, Any]],
    words: str,
) -> None:
    paths = tmp_path / "graph.json", tmp_path / "direct.json"
    for path, part in zip(paths, content, strict=True):
        path.write_text(json.dumps(part))
    assert main(["--graph", str(paths[0]), "--direct", str(paths[1])]) == 1
    assert words in capsys.readouterr().err


def test_other_seeds_have_nothing_in_common() -> None:
    graph, direct = files(TARGETS, TARGETS)
    direct["episodes"][0]["seed"] = 8
    with pytest.raises(ValueError, match="no episode in common"):
        compare(graph, direct, 1e-6)
