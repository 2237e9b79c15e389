# SPDX-License-Identifier: Apache-2.0
"""One contract for every runtime (par_tiny: 6 slots of 12 tokens after 3 of text, 4 steps).

Numbers: outputs within 1e-4 of PyTorch's over 20 control steps with rebases; rows that were never
written hold 1e4 and change nothing.
"""

import dataclasses

import numpy as np
import pytest
import torch

from par_model.backends.torch_compiled import InPlaceOperations
from par_model.graphs.goldens import deviations, replay, rollout_steps
from par_model.graphs.modules import build_graphs
from par_model.graphs.policy_graphs import Expectation, SlotInputs, as_float32
from par_model.presets import preset
from tests.backends.runtimes import (
    RUNTIMES,
    eager,
    make_runtime,
    poison,
    small_checkpoint,
    text_of,
)

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=RUNTIMES)
def graphs(request, checkpoint, export_folder):
    return make_runtime(request.param, checkpoint, export_folder)


@pytest.fixture(scope="module")
def steps(checkpoint):
    return rollout_steps(checkpoint.config, 20, seed=5)


def slots_of(graphs, steps):
    return SlotInputs(
        tuple(graphs.encode(step.image) for step in steps),
        tuple(step.actions for step in steps),
        tuple(step.proprio for step in steps),
    )


def append(graphs, cache, steps, first_slot):
    """(context of the last slot, longer cache)"""
    extended = graphs.extend(cache, slots_of(graphs, steps), first_slot, first_slot == 0)
    return extended.last, extended.cache


def close(context, other):
    for name in ("frame", "action"):
        a, b = as_float32(getattr(context, name)), as_float32(getattr(other, name))
        np.testing.assert_allclose(a, b, atol=TOLERANCE)


def test_twenty_steps_with_rebases_are_those_of_eager(graphs, checkpoint, steps):
    text = text_of(checkpoint)
    expected = list(replay(eager(checkpoint), text, steps))
    found = deviations(expected, replay(graphs, text, steps))
    assert max(item.max_abs for item in found.values()) < TOLERANCE
    # The rollout is not trivial: chunks differ from step to step.
    assert np.abs(expected[0]["actions"] - expected[1]["actions"]).max() > 0.01


def test_rows_never_written_change_nothing(graphs, checkpoint, steps):
    cache = graphs.prefill(text_of(checkpoint))
    _, cache = append(graphs, cache, steps[:2], 0)
    clean, _ = append(graphs, cache, steps[2:3], 2)
    clean_chunk = graphs.act(clean, steps[2].noise, 0)
    poison(cache)
    poisoned, _ = append(graphs, cache, steps[2:3], 2)
    close(clean, poisoned)
    np.testing.assert_allclose(clean_chunk, graphs.act(poisoned, steps[2].noise, 0), atol=TOLERANCE)


def test_a_slot_beyond_the_capacity_is_refused(graphs, checkpoint, steps):
    num_slots = checkpoint.config.num_slots
    cache = graphs.prefill(text_of(checkpoint))
    for n in range(num_slots):
        _, cache = append(graphs, cache, steps[n : n + 1], n)
    with pytest.raises(ValueError, match="the cache holds 6 slots"):
        append(graphs, cache, steps[num_slots : num_slots + 1], num_slots)


def test_a_shorter_cache_stays_valid_and_is_written_over(graphs, checkpoint, steps):
    _, cache = append(graphs, graphs.prefill(text_of(checkpoint)), steps[:1], 0)
    alone, _ = append(graphs, cache, steps[1:2], 1)
    other, longer = append(graphs, cache, steps[5:6], 1)
    append(graphs, longer, steps[6:7], 2)
    again, _ = append(graphs, cache, steps[1:2], 1)
    close(alone, again)
    assert np.abs(as_float32(alone.action) - as_float32(other.action)).max() > 0.01


def test_rewound_to_the_instruction_it_starts_anew(graphs, checkpoint, steps):
    cache = graphs.prefill(text_of(checkpoint))
    fresh, _ = append(graphs, cache, steps[4:5], 0)
    _, long = append(graphs, cache, steps[:3], 0)
    restarted, _ = append(graphs, graphs.rewind_to_instruction(long), steps[4:5], 0)
    close(fresh, restarted)


def test_many_slots_at_once_are_the_same_as_one_by_one(graphs, checkpoint, steps):
    """3 slots are the rebase graph, 2 are not."""
    for count in (2, checkpoint.config.num_slots // 2):
        start = graphs.prefill(text_of(checkpoint))
        whole = graphs.extend(start, slots_of(graphs, steps[:count]), 0, True)
        cache = graphs.prefill(text_of(checkpoint))
        for n in range(count):
            last, cache = append(graphs, cache, steps[n : n + 1], n)
            if n == 0:
                close(whole.first, last)
        close(whole.last, last)


def test_two_episodes_in_one_process_share_nothing(graphs, checkpoint, steps):
    text = text_of(checkpoint)
    first, second = steps[:4], steps[4:8]
    alone = [list(replay(graphs, text, episode)) for episode in (first, second)]
    together = [[], []]
    for pair in zip(replay(graphs, text, first), replay(graphs, text, second), strict=True):
        for episode, outputs in zip(together, pair, strict=True):
            episode.append(outputs)
    for before, after in zip(alone, together, strict=True):
        assert max(item.max_abs for item in deviations(before, after).values()) < TOLERANCE


def test_what_a_run_returned_is_not_changed_by_the_next(graphs, checkpoint, steps):
    latent = graphs.encode(steps[0].image)
    kept = as_float32(latent).copy()
    graphs.encode(steps[1].image)
    np.testing.assert_array_equal(as_float32(latent), kept)
    context, _ = append(graphs, graphs.prefill(text_of(checkpoint)), steps[:1], 0)
    chunk = graphs.act(context, steps[0].noise, 0)
    graphs.act(context, steps[1].noise, 0)
    np.testing.assert_array_equal(chunk, graphs.act(context, steps[0].noise, 0))


@pytest.mark.parametrize("name", ["step", "act"])
def test_torch_compile_traces_a_graph_whole(name, checkpoint):
    """The slow runtime "compiled" without its compiler: the graph has no break, outputs agree."""
    graph = build_graphs(checkpoint, InPlaceOperations(), "ddim", 1, [name])[name]
    traced = torch.compile(graph.module, fullgraph=True, dynamic=False, backend="eager")
    with torch.inference_mode():
        inputs = graph.example_inputs()
        torch.testing.assert_close(traced(*inputs), graph.module(*inputs))


@pytest.mark.gpu
def test_the_host_waits_for_nothing_inside_a_control_step(checkpoint, export_folder, steps):
    """Image to actions that are still on the GPU: torch's check raises at the waits that torch
    makes; it sees neither an event's nor those inside TensorRT."""
    graphs = make_runtime("compiled on gpu", checkpoint, export_folder)
    context, cache = append(graphs, graphs.prefill(text_of(checkpoint)), steps[:1], 0)
    graphs.act(context, steps[0].noise, 0)
    append(graphs, cache, steps[1:2], 1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        context, _ = append(graphs, cache, steps[2:3], 1)
        inputs = {"action_context": context.action, "noise": steps[2].noise[None]}
        graphs.runtime.run("act", inputs, None)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_pictures_are_drawn_from_the_runtime_s_contexts(graphs, checkpoint, steps):
    context, _ = append(graphs, graphs.prefill(text_of(checkpoint)), steps[:1], 0)
    reference = eager(checkpoint)
    expected, _ = append(reference, reference.prefill(text_of(checkpoint)), steps[:1], 0)
    picture = graphs.predict_frame(context, None, 3)
    assert picture.dtype == np.uint8
    difference = picture.astype(int) - reference.predict_frame(expected, None, 3).astype(int)
    assert np.abs(difference).max() <= 1


def test_observed_errors_are_those_of_eager(graphs, checkpoint, steps):
    """Of the second slot, whose expectation has no anchor, and of the third, which has one."""
    found = []
    for runtime in (graphs, eager(checkpoint)):
        cache, contexts = runtime.prefill(text_of(checkpoint)), []
        for index in (0, 1):
            context, cache = append(runtime, cache, steps[index : index + 1], index)
            contexts.append(context)
        latent = runtime.encode(steps[2].image)
        expectations = Expectation(contexts[0], None), Expectation(contexts[1], contexts[0])
        found.append(
            [runtime.observed_errors(runtime.foretell(one), latent) for one in expectations]
        )
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3)
    assert found[0][0].shape == (checkpoint.config.num_image_tokens,)
    assert np.abs(found[0][0] - found[0][1]).max() > 1e-3


def test_attention_is_that_of_the_context_s_tokens(graphs, checkpoint, steps):
    """3 tokens of text and 4 slots of 12: rows of weights, none of them on a later action of the
    same chunk, all on the tokens that decide the action context: where the weights of the first
    layer are applied to its values by hand, its output is that of the layer."""
    config = checkpoint.config
    slots = slots_of(graphs, steps[:4])
    weights = graphs.attention(text_of(checkpoint), slots)
    shape = (config.transformer.depth, config.transformer.num_heads, config.num_actions, 3 + 4 * 12)
    assert weights.shape == shape
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-5)
    own = weights[..., -config.num_actions :]
    assert (own[..., ~np.tri(config.num_actions, dtype=bool)] == 0).all()
    assert (own[..., np.eye(config.num_actions, dtype=bool)] > 0).all()
    model = eager(checkpoint).model
    seen = {}
    attention = model.transformer.blocks[0].attn
    handles = [
        attention.qkv.register_forward_hook(lambda _, given, out: seen.update(qkv=out)),
        attention.proj.register_forward_pre_hook(lambda _, given: seen.update(attended=given[0])),
    ]
    try:
        eager(checkpoint).attention(text_of(checkpoint), slots_of(eager(checkpoint), steps[:4]))
    finally:
        for handle in handles:
            handle.remove()
    values = seen["qkv"][0].unflatten(-1, (3, shape[1], -1))[:, 2].transpose(0, 1)
    expected = torch.from_numpy(weights[0]) @ values
    attended = seen["attended"][0, -config.num_actions :]
    found = expected.transpose(0, 1).flatten(1)
    np.testing.assert_allclose(found.numpy(), attended.numpy(), atol=TOLERANCE)


class TestStaticGraphsRefuse:
    """On the host, before anything runs."""

    @pytest.fixture(scope="class")
    def static(self, checkpoint, export_folder):
        return make_runtime("static", checkpoint, export_folder)

    def test_a_gap(self, static, checkpoint, steps):
        cache = static.prefill(text_of(checkpoint))
        with pytest.raises(ValueError, match="slot 1 starts at token 15 and the cache holds 3"):
            append(static, cache, steps[:1], 1)

    def test_begin_of_action_elsewhere(self, static, checkpoint, steps):
        _, cache = append(static, static.prefill(text_of(checkpoint)), steps[:1], 0)
        with pytest.raises(ValueError, match="belongs to slot 0"):
            static.extend(cache, slots_of(static, steps[1:2]), 1, True)

    def test_a_rewind_forward(self, static, checkpoint):
        with pytest.raises(ValueError, match="holds 3 tokens; cannot rewind to 4"):
            static.prefill(text_of(checkpoint)).rewind(4)

    def test_a_model_that_has_no_static_graphs(self):
        for changes, words in (
            ({"autoregressive": False}, "has no transformer"),
            ({"overflow": "slide"}, "overflow 'slide'"),
            ({"text_joint_with_first_slot": True}, "sees slot 0"),
            ({"num_actions": 0, "first_slot": "bov"}, "video model without actions"),
        ):
            with pytest.raises(ValueError, match=words):
                make_runtime("static", small_checkpoint(**changes), None)

    def test_a_short_context_has_small_caches(self):
        """sampling.context_slots 1 is no history: one slot of 12 tokens after 3 of text, and the
        rollout is eager's, which re-encodes nothing."""
        sampling = dataclasses.replace(preset("par_tiny").sampling, context_slots=1)
        short = small_checkpoint(sampling=sampling)
        static = make_runtime("static", short, None)
        cache = static.prefill(text_of(short))
        assert cache.buffers.value["k_cache_0"].shape[2] == 15
        steps = rollout_steps(short.config, 4, seed=5)
        expected = replay(eager(short), text_of(short), steps)
        found = deviations(list(expected), replay(static, text_of(short), steps))
        assert max(item.max_abs for item in found.values()) < TOLERANCE

    def test_buffers_are_lent_again_when_an_episode_is_forgotten(self, static, checkpoint):
        first = static.prefill(text_of(checkpoint))
        buffers = first.buffers.value
        second = static.prefill(text_of(checkpoint))
        assert second.buffers.value is not buffers
        del first
        assert static.prefill(text_of(checkpoint)).buffers.value is buffers
