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


def test_the_cache_has_the_size_and_type_that_was_asked_for():
    cache = KVCache.allocate(2, 3, 4, 5, 6, torch.float16, torch.device("meta"))
    for rows in (cache.keys_YBHSD, cache.values_YBHSD):
        assert rows.shape == (2, 3, 4, 5, 6)
        assert (rows.dtype, rows.device.type) == (torch.float16, "meta")
    assert (cache.length, cache.capacity) == (0, 5)


def test_a_full_cache_takes_no_more_and_says_what_to_do():
    """12 of 12 tokens are held; one more is refused, and what was held stays."""
    _, _, full = append_rows(new_cache(), CAPACITY, 1)
    with pytest.raises(ValueError) as caught:
        append_rows(full, 1, 50)
    assert str(caught.value) == (
        "the KV cache holds 12 tokens and 13 were asked for; choose an overflow mode or a larger "
        "num_slots."
    )
    assert full.keys_YBHSD[0, 0, 0, :, 0].tolist() == list(range(1, CAPACITY + 1))


@pytest.mark.parametrize("length", [-1, 5])
def test_rewinding_to_what_is_not_held_is_refused(length):
    _, _, cache = append_rows(new_cache(), 4, 1)
    with pytest.raises(ValueError) as caught:
        cache.rewind(length)
    assert str(caught.value) == f"the KV cache holds 4 tokens; cannot rewind to {length}."


@pytest.mark.parametrize(("start", "num_tokens"), [(-1, 2), (3, -1), (3, 2)])
def test_evicting_what_is_not_held_is_refused(start, num_tokens):
    _, _, cache = append_rows(new_cache(), 4, 1)
    with pytest.raises(ValueError) as caught:
        cache.evict(start, num_tokens)
    end = start + num_tokens
    assert str(caught.value) == f"the KV cache holds 4 tokens; cannot evict {start} to {end}."
