# SPDX-License-Identifier: Apache-2.0
"""Paired tests and the two tables made of stored rollouts.

McNemar: 5 pairs that all favour one side give 1/32; 6 against 1 give 8/128.
"""

import numpy as np
import pytest

from par_model.evaluation import ablations, pareto
from par_model.evaluation.rollouts import RolloutResult
from par_model.evaluation.statistics import mcnemar_p_value, paired_difference_interval
from par_model.evaluation.text_table import markdown_table, plain_table

LATENCIES = {
    "ddim 1": {"p50": 5.0, "p99": 6.0, "worst": 7.0},
    "ddim 4": {"p50": 9.0, "p99": 10.0, "worst": 11.0},
    "ddim 10": {"p50": 20.0, "p99": 22.0, "worst": 30.0},
}


def result(seed, success, sampler=None, num_steps=None, task="PushCube", policy_seed=0):
    return RolloutResult(
        task=task,
        seed=seed,
        policy_seed=policy_seed,
        success=success,
        steps=80,
        chunk_latencies_ms=[30.0] * 10,
        outcome="success" if success else "pushed aside",
        sampler=sampler,
        num_steps=num_steps,
    )


def test_mcnemar_is_exact():
    better = np.array([True] * 5 + [False] * 5)
    assert mcnemar_p_value(better, np.zeros(10, bool)) == 1 / 32
    assert mcnemar_p_value(better, better) == 1.0
    with pytest.raises(ValueError, match="same seeds"):
        mcnemar_p_value(better, better[:4])


def test_six_against_one():
    first = np.array([True] * 6 + [False])
    assert mcnemar_p_value(first, ~first) == pytest.approx(8 / 128)


def test_the_difference_is_resampled_by_state():
    """4 states; the two of seed 1 and 2 differ in both rollouts, so ends are in 0 to 1."""
    states = np.repeat(np.arange(4), 2)
    first = np.ones(8, bool)
    second = np.repeat([False, False, True, True], 2)
    interval = paired_difference_interval(first, second, states)
    assert 0.0 <= interval.low < 0.5 < interval.high <= 1.0
    same = paired_difference_interval(first, first, states)
    assert (same.low, same.high) == (0.0, 0.0)


def test_the_cheapest_that_is_not_worse_is_chosen():
    """40 seeds: 10 steps 36, 4 steps 35 (as good), 1 step 20 (worse by 16 pairs)."""
    results = []
    for name, num in (("ddim 1", 20), ("ddim 4", 35), ("ddim 10", 36)):
        sampler, steps = name.split()
        results += [result(seed, seed < num, sampler, int(steps)) for seed in range(40)]
    content = pareto.pareto_content(results, LATENCIES, 0.05)
    assert (content["best"], content["chosen"]) == ("ddim 10", "ddim 4")
    one, four, ten = content["cells"]
    assert one["below_best_p"] == pytest.approx(2.0**-16)
    assert four["below_best_p"] == 0.5
    assert one["tasks"]["PushCube"]["failed_seeds"] == {"pushed aside": list(range(20, 40))}
    # 80 steps of 0.05 s and 10 chunks of 20 ms.
    assert ten["tasks"]["PushCube"]["mean_task_time_s"] == pytest.approx(4.2)
    rows = pareto.table_lines(content)
    assert rows[0] == ["sampler", "chunk latency", "PushCube", "task time", "p against the best"]
    assert rows[2][0] == "ddim 4 (chosen)"
    assert rows[3][:3] == ["ddim 10 (best)", "20.0 ms", "36/40 (77-96%)"]
    assert markdown_table(rows).count("\n") == 4
    assert len({line.find("ms") for line in plain_table(rows).splitlines()[1:]}) == 1


def test_table_3_has_the_papers_rows_and_ours():
    full = [result(seed, seed < 45) for seed in range(50)]
    worse = [result(seed, seed < 30) for seed in range(50)]
    variants = {}
    for name, results in (("full", full), ("noar", worse)):
        variants[name] = {
            "tasks": ablations.variant_content(results),
            "against_full": ablations.compared_with_full(full, results),
        }
    rows = ablations.table_rows(variants)
    assert rows[1] == ["PAR-NoAR (paper)", "29.6%", "4.0%", "0.0%", "11.2%"]
    assert rows[-2][:3] == ["PAR-NoAR (ours)", "60.0% (46-72)", "-"]
    assert rows[-1][:2] == ["PAR-Full (ours)", "90.0% (79-96)"]
    gain = ablations.gain_rows(variants)[1]
    assert gain[0] == "PAR-NoAR"
    assert gain[1].startswith("+30 (+")
    assert gain[1].endswith("p 0.000")
