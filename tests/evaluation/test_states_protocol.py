# SPDX-License-Identifier: Apache-2.0
"""250 states, each met once, noise streams 0 to 4 in turn; and what is counted of 10 rollouts."""

import json

import pytest

from par_model.evaluate import main
from par_model.evaluation import paper_protocol, states_protocol
from par_model.evaluation.result_file import summary
from par_model.evaluation.rollouts import RolloutResult
from tests.evaluation.test_evaluate import checkpoint  # noqa: F401


def test_states_differ_from_each_other_and_from_the_paper_s():
    chosen = states_protocol.states(states_protocol.NUM_STATES)
    seeds = [seed for seed, _ in chosen]
    assert len(set(seeds)) == 250
    assert not set(seeds) & set(paper_protocol.initial_states())
    assert min(seeds) >= 20_241_201
    assert [sum(stream == s for _, s in chosen) for stream in range(5)] == [50] * 5


def test_streams_and_late_episodes_are_counted():
    """Seven successes: five early, two after step 128; three failures."""
    steps = [60, 60, 60, 60, 60, 150, 190, 200, 200, 200]
    results = [
        RolloutResult("PickCube", seed, seed % 5, index < 7, steps[index], [9.0])
        for index, (seed, _) in enumerate(states_protocol.states(10))
    ]
    found = states_protocol.task_summary(results)
    late = found["late"]
    assert (late["num_successes"], late["num_rollouts"]) == (2, 5)
    streams = [found["streams"][str(s)]["num_successes"] for s in range(5)]
    assert sum(streams) == 7
    rows = states_protocol.table_rows({"PickCube": found | summary(results)})
    assert rows[1][1] == "7 of 10 (70.0%)"
    assert rows[1][-1] == "2 of 5"


@pytest.mark.long
@pytest.mark.sim
def test_the_command_writes_each_state_once(checkpoint, tmp_path, capsys):  # noqa: F811
    file = tmp_path / "states.json"
    words = ["--checkpoint", str(checkpoint), "--protocol", "states", "--task", "PushCube"]
    words += ["--episodes", "2", "--num-workers", "1", "--backend", "eager", "--json", str(file)]
    assert main(words) == 0
    content = json.loads(file.read_text())
    episodes = content["tasks"]["PushCube"]["episodes"]
    met = [(episode["seed"], episode["policy_seed"]) for episode in episodes]
    assert met == states_protocol.states(2)
    assert "0 of 2 (0.0%)" in capsys.readouterr().out
