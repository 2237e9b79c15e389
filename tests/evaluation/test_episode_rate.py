# SPDX-License-Identifier: Apache-2.0
"""The rate of episodes: what is left out, the model of more workers, and the command."""

import time

import pytest

from par_model.episode_rate import EpisodeRate, main, measure


def test_what_comes_before_the_warm_up_does_not_count():
    """2 results of 1000 bytes after 0.2 s each, then 4 of 10 bytes at once."""

    def results():
        for _ in range(2):
            time.sleep(0.2)
            yield 1000
        while True:
            yield 10

    rate = measure(results(), warm_up=2, num_episodes=4)
    assert rate.result_bytes == 10
    assert rate.episodes_per_s > 100


def test_jobs_without_a_result_take_time_and_do_not_count():
    """1 of 3 jobs gives no demonstration, 0.02 s each: 4 demonstrations of 10 bytes in 0.12 s."""

    def results():
        while True:
            for size in (None, 10, 10):
                time.sleep(0.02)
                yield size

    rate = measure(results(), warm_up=1, num_episodes=4)
    assert rate.result_bytes == 10
    assert rate.num_without == 1
    assert rate.episodes_per_s < 4 / (5 * 0.02)


def test_too_few_results_are_one_sentence():
    with pytest.raises(ValueError, match="gave only 1 results of the 4 asked for; give fewer"):
        measure(iter([10, None, 10, None]), warm_up=1, num_episodes=4)


def test_more_workers_are_limited_by_the_one_process():
    """2 workers made 3 a second, each result took 10 ms: 64 make 96, 100 make 100."""
    rate = EpisodeRate(episodes_per_s=3.0, driver_ms=10.0, result_bytes=1.0)
    assert rate.modelled(2, 64) == (96.0, "the workers")
    assert rate.modelled(2, 100) == (100.0, "the command's process")


def test_no_episodes_are_refused(capsys):
    assert main(["--task", "PushCube", "--episodes", "0"]) == 1
    assert capsys.readouterr().err == "error: --episodes and --warm-up must be at least 1.\n"


@pytest.mark.sim
def test_demonstrations_are_counted(capsys):
    words = ["--task", "PushCube", "--num-workers", "1", "--warm-up", "1", "--episodes", "2"]
    assert main(words) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("PushCube: ")
    assert "(2 measured, engine local)" in first
    assert second.startswith("model, not measured: 64 workers ")
