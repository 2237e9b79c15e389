# SPDX-License-Identifier: Apache-2.0
"""An engine's words are read back, and whatever else stands in that file is one sentence."""

import dataclasses

import pytest

from par_model.graphs.engine_files import EngineKey, read_engine, write_engine

KEY = EngineKey(
    "step", "aa", "bb", 1, "fp16", 24, 10, 6, 147, ("no_tf32",), "tensorrt", "11", "8.0", "A", "5"
)
DAMAGES = [b"", b"null", b"[]", b"\xff", b"[" * 100_000]


@pytest.fixture
def plan(tmp_path):
    return write_engine(tmp_path, KEY, b"plan")


def test_written_and_read(plan):
    assert read_engine(plan.parent, KEY) == b"plan"


@pytest.mark.parametrize("content", DAMAGES, ids=lambda content: repr(content[:4]))
def test_a_damaged_file_of_words_is_one_sentence(plan, content):
    plan.with_suffix(".json").write_bytes(content)
    with pytest.raises(ValueError, match=r"\.json .*build the engine again"):
        read_engine(plan.parent, KEY)


@pytest.mark.parametrize("content", DAMAGES, ids=lambda content: repr(content[:4]))
def test_a_damaged_neighbour_is_named_where_no_engine_fits(plan, content):
    plan.with_suffix(".json").write_bytes(content)
    other = dataclasses.replace(KEY, gpu_name="B")
    with pytest.raises(ValueError, match=rf"no engine of graph 'step'.*{plan.stem}\.json"):
        read_engine(plan.parent, other)
