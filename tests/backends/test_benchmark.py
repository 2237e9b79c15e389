# SPDX-License-Identifier: Apache-2.0
"""The benchmark's numbers: percentiles of known times, a run of par_tiny, a comparison."""

import json

import numpy as np
import pytest

from par_model import benchmark
from par_model.latency import summary


def test_percentiles():
    """1 to 1000 ms: p50 500.5, p95 950.05, p99 990.01, max 1000."""
    times = summary(np.arange(1, 1001))
    assert times["p50"] == pytest.approx(500.5)
    assert times["p95"] == pytest.approx(950.05)
    assert times["p99"] == pytest.approx(990.01)
    assert (times["max"], times["runs"]) == (1000, 1000)


@pytest.mark.slow
def test_control_part(tmp_path, capsys):
    path = tmp_path / "tiny.json"
    arguments = ["--preset", "par_tiny", "--backend", "eager", "--device", "cpu"]
    assert benchmark.main([*arguments, "--json", str(path), "--warm-up", "2"]) == 0
    report = json.loads(path.read_text())
    entry = report["backends"]["eager"]
    assert set(entry["ms"]) == {"encode", "extend", "act", "end_to_end", "surprise", "foretell"}
    assert entry["ms"]["end_to_end"]["runs"] == 200
    assert entry["times_bound"] > 1
    assert report["context"] == {"filled_slots": 5, "slots": 6, "capacity_tokens": 75}
    assert benchmark.main(["--compare", str(path), str(path)]) == 0
    assert "/backends/eager/ms/act p50" in capsys.readouterr().out


@pytest.mark.slow
def test_cache_part_gives_the_same_answer_both_ways(tmp_path):
    path = tmp_path / "cache.json"
    arguments = ["--preset", "par_tiny", "--part", "cache", "--device", "cpu"]
    assert benchmark.main([*arguments, "--runs", "3", "--json", str(path)]) == 0
    cache = json.loads(path.read_text())["cache"]
    assert cache["max_abs_difference"] < 1e-4
    assert cache["cached_ms"]["runs"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --checkpoint FOLDER or --preset NAME"),
        (["--preset", "par_tiny", "--runs", "10"], "percentiles need at least 200"),
        (["--preset", "par_tiny", "--fill", "6"], "the context holds 0 to 5 slots"),
        (["--preset", "par_huge"], "preset 'par_huge' is unknown"),
        (["--preset", "par_tiny", "--device", "cuda:1"], "choose auto, cpu or cuda"),
        (["--compare", "a.json", "b.json"], "a.json is no benchmark file"),
    ],
)
def test_bad_use_is_one_sentence(arguments, words, capsys):
    assert benchmark.main(arguments) == 1
    assert words in capsys.readouterr().err
