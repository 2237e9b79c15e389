# SPDX-License-Identifier: Apache-2.0
"""Two cells of four paired episodes with known successes, times and seams."""

import dataclasses

import pytest

from par_model.evaluation.delay_protocol import cells, delay_content, table_lines
from par_model.evaluation.rollouts import RolloutResult
from tests.evaluation.scripted_loop import ScriptedPolicy

SEAM = {"speed_lost": 1.0, "rest_s": 0.2, "jerk_rad_s3": 50.0, "jump_rad": 0.01}
MOTION = {
    "spectral_arc_length": -2.0,
    "log_dimensionless_jerk": -7.0,
    "rest_s": 0.5,
    "moving_s": 2.0,
    "seams": [SEAM, SEAM | {"rest_s": 0.0, "speed_lost": 0.0}],
}


def results(inference, delay_s, successes, steps):
    return [
        RolloutResult(
            task="PushCube", seed=seed, policy_seed=0, success=success, steps=steps,
            chunk_latencies_ms=[1.0], inference=inference, policy_delay_s=delay_s, num_late=1,
            motion=MOTION, limit_shares=[(0.5, 0.1), (1.2, 0.1), (0.5, 1.1), (0.2, 0.2)],
        )
        for seed, success in enumerate(successes)
    ]  # fmt: skip


def test_a_cell_is_compared_with_sequential_inference_without_delay():
    content = delay_content(
        results("overlapped", 0.2, [True, True, False, False], 60)
        + results("sequential", 0.0, [True, True, True, False], 40),
        0.05,
    )
    cell = content["tasks"]["PushCube"][0]
    assert (cell["num_successes"], cell["num_rollouts"]) == (2, 4)
    assert cell["difference"]["mean"] == -0.25
    assert cell["difference"]["low"] <= -0.25 <= cell["difference"]["high"] <= 0.0
    assert cell["task_time_s"]["value"] == pytest.approx(3.0)
    assert cell["task_time_ratio"]["value"] == pytest.approx(1.5)
    assert cell["seams"]["count"] == 8
    assert cell["seams"]["speed_lost"]["median"]["value"] == 0.5
    assert cell["rest_share"]["value"] == 0.25
    assert cell["num_late"] == 4
    assert cell["limits"] == {
        "num_chunks": 16, "beyond": 0.5, "beyond_acceleration": 0.25, "beyond_jerk": 0.25
    }  # fmt: skip
    rows = table_lines(content)
    assert {len(row) for row in rows} == {len(rows[0])}
    assert rows[1][rows[0].index("beyond limits")] == "50.0%"
    assert rows[1][:3] == ["PushCube overlapped", "200 ms", "2/4 (15-85%)"]


def test_the_cells_are_what_the_policy_can_do():
    plain = ScriptedPolicy(None).spec
    names = {timing.inference for timing in cells(plain, (0.2,), 0.1)}
    assert names == {"sequential", "overlapped_without_prefix"}
    trained = dataclasses.replace(plain, max_delay_steps=10)
    found = cells(trained, (0.2,), 0.1)
    assert found[0].inference == "sequential"
    assert [timing.policy_delay_s for timing in found] == [0.0, 0.2] * 3
    assert [timing.delay_jitter_s for timing in found] == [0.0, 0.1] * 3
