# SPDX-License-Identifier: Apache-2.0
"""What the latency command measures without ROS: a third of its chunks has to be tracked."""

from par_ros.proof.guard_latency import in_process, summary


def test_in_process_unchanged_and_tracked_chunks_are_timed_apart() -> None:
    times_ms = in_process(60)
    assert sum(map(len, times_ms.values())) == 60
    assert 20 <= len(times_ms["tracked"]) <= 30
    tracked, unchanged = summary(times_ms["tracked"]), summary(times_ms["unchanged"])
    assert 0.0 < unchanged["p50_ms"] < tracked["p50_ms"]
