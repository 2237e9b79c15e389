# SPDX-License-Identifier: Apache-2.0
"""Every runtime with a model that goes on from 10 committed actions, against PyTorch: prefixes
of 0 to 10 actions, slots of 1 to 17, rebases; and the border of models that do not."""

import dataclasses
import functools

import numpy as np
import pytest

from par_model.graphs.goldens import compare_goldens, deviations, record_goldens, replay
from par_model.graphs.goldens import rollout_steps as made_up_steps
from par_model.graphs.modules import build_graphs
from par_model.graphs.policy_graphs import Slot, slot_inputs
from tests.backends.runtimes import (
    NUM_STEPS,
    RUNTIMES,
    eager,
    export_fused,
    make_runtime,
    small_checkpoint,
    text_of,
)

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def checkpoint():
    return small_checkpoint(max_delay_steps=10)


@pytest.fixture(scope="module")
def export_folder(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "prefix"
    return functools.cache(lambda: export_fused(checkpoint, folder))


@pytest.fixture(scope="module", params=RUNTIMES)
def graphs(request, checkpoint, export_folder):
    return make_runtime(request.param, checkpoint, export_folder)


def test_a_rollout_with_prefixes_is_that_of_eager(graphs, checkpoint):
    steps, text = made_up_steps(checkpoint.config, 20, seed=5), text_of(checkpoint)
    assert {int(step.prefix_length[0]) for step in steps} >= {0, 10}
    expected = list(replay(eager(checkpoint), text, steps))
    found = deviations(expected, replay(graphs, text, steps))
    assert max(item.max_abs for item in found.values()) < TOLERANCE
    for step, outputs in zip(steps, expected, strict=True):
        length = int(step.prefix_length[0])
        np.testing.assert_array_equal(outputs["actions"][:length], step.prefix[:length])
    others = [dataclasses.replace(step, prefix=step.prefix + 0.5) for step in steps]
    moved = deviations(expected, replay(graphs, text, others))
    assert moved["frame_context"].max_abs < TOLERANCE < moved["actions"].max_abs


def test_goldens_hold_the_prefixes(graphs, checkpoint):
    tensors = record_goldens(eager(checkpoint), checkpoint.instructions)
    assert {"0.prefix", "0.prefix_length", "0.executed", "0.span"} <= set(tensors)
    found = compare_goldens(graphs, tensors)
    assert max(item.max_abs for item in found.values()) < TOLERANCE


def test_a_longer_prefix_than_it_was_trained_for_is_refused(graphs, checkpoint):
    step = made_up_steps(checkpoint.config, 1, seed=5)[0]
    slot = Slot(graphs.encode(step.image), step.actions, step.proprio, step.executed, 0)
    cache = graphs.prefill(text_of(checkpoint))
    context = graphs.extend(cache, slot_inputs([slot]), 0, True).last
    with pytest.raises(ValueError, match=r"11 committed actions .* at most 10"):
        graphs.act(context, step.noise, 0, np.zeros((11, 8), np.float32))


def test_only_a_checkpoint_that_declares_prefixes_has_their_inputs(checkpoint):
    from par_model.backends.torch_compiled import InPlaceOperations

    def inputs(parts):
        graphs = build_graphs(parts, InPlaceOperations(), "ddim", NUM_STEPS)
        return {name: {spec.name for spec in graph.spec.inputs} for name, graph in graphs.items()}

    plain, own = inputs(small_checkpoint()), inputs(checkpoint)
    added = {name: own[name] - plain[name] for name in plain}
    assert added == {
        "encode": set(),
        "prefill": set(),
        "step": {"executed", "clock"},
        "rebase": {"executed", "clock"},
        "act": {"prefix", "prefix_length"},
    }
    assert not any(plain[name] - own[name] for name in plain)
    goldens = record_goldens(eager(small_checkpoint()), checkpoint.instructions)
    assert not [name for name in goldens if "prefix" in name or "span" in name]
