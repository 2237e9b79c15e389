# SPDX-License-Identifier: Apache-2.0
"""The cache against a plain list: 3 layers, 2 heads, capacity 12, any sequence of operations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from par_model.kv_cache import KVCache

CAPACITY, LAYERS = 12, 3


def new_cache():
    return KVCache.allocate(LAYERS, 1, 2, CAPACITY, 4, torch.float64, torch.device("cpu"))


def append_rows(cache, count, start_value):
    rows = torch.arange(start_value, start_value + count, dtype=torch.float64)
    rows = rows.view(1, 1, count, 1).expand(1, 2, count, 4)
    for layer in range(LAYERS):
        keys, values = cache.append(layer, rows + 100 * layer, -rows)
    return keys, values, cache.advance(count)


operation = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 5)),
    st.tuples(st.just("rewind"), st.integers(0, CAPACITY)),
    st.tuples(st.just("evict"), st.integers(0, CAPACITY), st.integers(0, CAPACITY)),
)


@given(st.lists(operation, max_size=25))
@settings(max_examples=200, deadline=None)
def test_any_sequence_equals_a_list(operations):
    cache, model, next_value = new_cache(), [], 1
    for name, *arguments in operations:
        if name == "append":
            (count,) = arguments
            if len(model) + count > CAPACITY:
                with pytest.raises(ValueError, match="holds 12 tokens"):
                    append_rows(cache, count, next_value)
                continue
            keys, _, cache = append_rows(cache, count, next_value)
            model = [*model, *range(next_value, next_value + count)]
            next_value += count
            assert (keys[0, 0, :, 0] - 100 * (LAYERS - 1)).tolist() == model
        elif name == "rewind":
            (length,) = arguments
            if length > len(model):
                with pytest.raises(ValueError, match="cannot rewind"):
                    cache.rewind(length)
                continue
            cache, model = cache.rewind(length), model[:length]
        else:
            start, count = arguments
            if start + count > len(model):
                with pytest.raises(ValueError, match="cannot evict"):
                    cache.evict(start, count)
                continue
            cache, model = cache.evict(start, count), model[:start] + model[start + count :]
        assert cache.length == len(model)
        for layer in range(LAYERS):
            held = cache.keys_YBHSD[layer, 0, 1, : cache.length, 2] - 100 * layer
            assert held.tolist() == model
            assert (-cache.values_YBHSD[layer, 0, 0, : cache.length, 0]).tolist() == model


def test_a_longer_cache_leaves_the_shorter_one_as_it_was():
    _, _, short = append_rows(new_cache(), 4, 1)
    append_rows(short, 3, 50)
    assert short.length == 4
    assert short.keys_YBHSD[0, 0, 0, :4, 0].tolist() == [1, 2, 3, 4]


def test_unwritten_rows_are_zero():
    cache = new_cache()
    assert cache.keys_YBHSD.abs().max() == 0
    assert cache.values_YBHSD.abs().max() == 0
