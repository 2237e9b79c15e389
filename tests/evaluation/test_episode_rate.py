# SPDX-License-Identifier: Apache-2.0
"""The rate of episodes: what is left out, the model of more workers, and the command."""

import time
from types import SimpleNamespace

import pytest

from par_model import episode_rate
from par_model.episode_rate import EpisodeRate, main, measure


class Clock:
    """Wall time that jobs take: a busy machine's own would be in the rate."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def pass_time(self, duration_s: float) -> None:
        self.now_s += duration_s


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    times = SimpleNamespace(perf_counter=lambda: made.now_s, process_time=time.process_time)
    monkeypatch.setattr(episode_rate, "time", times)
    return made


def test_what_comes_before_the_warm_up_does_not_count(clock):
    """2 results of 1000 bytes after 0.2 s each, then 4 of 10 bytes after 0.01 s each."""

    def results():
        for _ in range(2):
            clock.pass_time(0.2)
            yield 1000
        while True:
            clock.pass_time(0.01)
            yield 10

    rate = measure(results(), warm_up=2, num_episodes=4)
    assert rate.result_bytes == 10
    assert rate.episodes_per_s == pytest.approx(100.0)


def test_jobs_without_a_result_take_time_and_do_not_count(clock):
    """1 of 3 jobs gives no demonstration, 0.02 s each: behind the first, 4 demonstrations of 10
    bytes in 5 jobs, 0.1 s."""

    def results():
        while True:
            for size in (None, 10, 10):
                clock.pass_time(0.02)
                yield size

    rate = measure(results(), warm_up=1, num_episodes=4)
    assert rate.result_bytes == 10
    assert rate.num_without == 1
    assert rate.episodes_per_s == pytest.approx(4 / (5 * 0.02))


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
