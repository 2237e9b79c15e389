# SPDX-License-Identifier: Apache-2.0
"""Several views of one slot (par_tiny: 4 frame tokens a view): tokens, codec, files, refusals.

Values are compared bit for bit, except where a test gives a tolerance.
"""

import dataclasses
import json

import numpy as np
import pytest
import torch

from par_model.checkpoint import load_checkpoint, save_checkpoint
from par_model.config import from_values, to_json
from par_model.frame_codec import decode_views, encode_views
from par_model.interface import Observation, split_views, stack_views
from par_model.model import PARModel, count_parameters
from par_model.presets import preset
from par_model.training.start_weights import take_weights
from tests.backends.runtimes import eager, small_checkpoint
from tests.backends.runtimes import make_runtime as runtime_of
from tests.model.fixtures import random_checkpoint_parts, random_model

VIEWS = ("front", "right")
TWO = dataclasses.replace(preset("par_tiny"), views=VIEWS)


def test_a_second_view_doubles_the_tokens_of_a_frame_and_adds_two_vectors() -> None:
    one = preset("par_tiny")
    assert TWO.num_frame_tokens == 2 * one.num_frame_tokens
    assert TWO.num_image_tokens == 2 * one.num_image_tokens
    assert TWO.picture_shape == (64, 32, 3)
    added = count_parameters(PARModel(TWO)) - count_parameters(PARModel(one))
    assert added == 2 * (TWO.transformer.width + TWO.image_encoder.width)


def test_the_preset_names_its_views() -> None:
    two_views = preset("par_small_two_views")
    assert two_views.views == VIEWS
    assert dataclasses.replace(two_views, name="par_small", views=("front",)) == preset("par_small")


def test_a_configuration_without_views_has_the_one_called_front() -> None:
    values = json.loads(to_json(preset("par_small")))
    assert values.pop("views") == ["front"]
    assert from_values(values) == preset("par_small")
    assert from_values(json.loads(to_json(TWO))) == TWO


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"views": ("front", "front")}, "a name of its own"),
        ({"views": ("front", "Right")}, "a name of its own"),
        ({"views": ("front", "a/b")}, "a name of its own"),
        ({"views": ()}, "a list of 1 to 8 values"),
        ({"views": VIEWS, "observation_mode": "clip"}, 'observation_mode "image"'),
    ],
)
def test_views_that_cannot_be_are_refused(changes, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(preset("par_tiny"), **changes).validate()


@torch.no_grad()
def test_each_view_is_encoded_by_itself() -> None:
    codec = small_checkpoint(views=VIEWS).codec
    generator = torch.Generator().manual_seed(0)
    front, right = torch.randint(0, 256, (2, 1, 32, 32, 3), generator=generator, dtype=torch.uint8)
    latents = encode_views(codec, torch.cat((front, right), dim=1), 2)
    apart = torch.cat((codec.encode(front), codec.encode(right)), dim=2)
    torch.testing.assert_close(latents, apart, rtol=0, atol=1e-6)
    pictures = decode_views(codec, latents, 2)
    assert pictures.shape == (1, 64, 32, 3)
    difference = pictures[:, 32:].int() - codec.decode(latents[:, :, 4:]).int()
    assert difference.abs().max() <= 1


@torch.no_grad()
def test_a_view_s_tokens_show_it_alone_and_carry_its_own_vector() -> None:
    model = random_model(TWO).eval()
    one = random_model(preset("par_tiny")).eval()
    one.load_state_dict({name: model.state_dict()[name] for name in one.state_dict()})
    latents = torch.randn(3, 4, 8, 4, generator=torch.Generator().manual_seed(1))
    tokens = model.tokenizer.frame_patches(latents)
    vectors = model.tokenizer.view_embed
    for view, rows in enumerate((slice(0, 4), slice(4, 8))):
        alone = one.tokenizer.frame_patches(latents[:, :, rows]) + vectors[view]
        torch.testing.assert_close(tokens[:, 4 * view : 4 * view + 4], alone, rtol=0, atol=1e-6)
    # Both views have the same places.
    places = model.tokenizer.frame_positions
    assert torch.equal(places[:4], places[4:])
    assert torch.equal(places[:4], one.tokenizer.frame_positions)


def observation(spec, pictures, views=VIEWS) -> Observation:
    return Observation(
        image=stack_views(pictures, views),
        measured_joint_positions=np.zeros(8),
        joint_names=spec.joint_names,
        stamp_s=0.0,
        views=views,
    )


def test_the_policy_acts_on_both_views_and_draws_both(tmp_path) -> None:
    from par_model.load_policy import load_policy

    save_checkpoint(tmp_path / "two", **random_checkpoint_parts("par_tiny", views=VIEWS))
    policy = load_policy(tmp_path / "two", backend="eager")
    spec = policy.spec
    assert (spec.views, spec.picture_shape) == (VIEWS, (64, 32, 3))
    rng = np.random.default_rng(0)
    front, right, other = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)

    def chunk(pictures) -> np.ndarray:
        policy.reset(spec.instructions[0], 0)
        policy.observe(observation(spec, pictures))
        return policy.act().joint_positions

    first = chunk({"front": front, "right": right})
    assert policy.predict_frame().shape == (64, 32, 3)
    np.testing.assert_array_equal(first, chunk({"right": right, "front": front}))
    for changed in ({"front": front, "right": other}, {"front": other, "right": right}):
        assert np.abs(first - chunk(changed)).max() > 1e-6


def test_views_are_refused_by_name(tmp_path) -> None:
    from par_model.load_policy import load_policy

    save_checkpoint(tmp_path / "two", **random_checkpoint_parts("par_tiny", views=VIEWS))
    policy = load_policy(tmp_path / "two", backend="eager")
    picture = np.zeros((32, 32, 3), np.uint8)
    both = {"front": picture, "wrist": picture}
    policy.reset(policy.spec.instructions[0], 0)
    with pytest.raises(ValueError, match=r"missing \['right'\], unknown \[\]"):
        policy.observe(observation(policy.spec, {"front": picture}, ("front",)))
    with pytest.raises(ValueError, match=r"missing \['right'\], unknown \['wrist'\]"):
        policy.observe(observation(policy.spec, both, ("front", "wrist")))
    half = observation(policy.spec, {"front": picture, "right": picture})
    with pytest.raises(ValueError, match=r"uint8 \[64, 32, 3\]"):
        policy.observe(dataclasses.replace(half, image=picture))
    with pytest.raises(ValueError, match="no picture of the view 'right'"):
        stack_views({"front": picture}, VIEWS)


def test_stacked_views_come_apart_by_name() -> None:
    pictures = np.arange(2 * 4 * 3 * 2).reshape(2, 4, 3, 2).astype(np.uint8)
    apart = split_views(pictures, VIEWS)
    np.testing.assert_array_equal(apart["right"], pictures[:, 2:])


def test_training_starts_from_weights_of_one_view(tmp_path) -> None:
    save_checkpoint(tmp_path / "one", **random_checkpoint_parts("par_tiny"))
    one = load_checkpoint(tmp_path / "one")
    torch.manual_seed(3)
    clipped = one.config.action_diffusion
    model = PARModel(dataclasses.replace(TWO, action_diffusion=clipped))
    vectors = model.tokenizer.view_embed.detach().clone()
    take_weights(tmp_path / "one", model)
    taken = model.state_dict()
    for name, value in one.model.state_dict().items():
        assert torch.equal(taken[name], value), name
    assert torch.equal(model.tokenizer.view_embed, vectors)


@pytest.mark.parametrize("runtime", ["static", pytest.param("onnx", marks=pytest.mark.slow)])
def test_static_graphs_answer_two_views_as_eager_does(runtime, tmp_path) -> None:
    """12 control steps with rebases, 1e-4."""
    from par_model.graphs.goldens import deviations, replay, rollout_steps
    from tests.backends.runtimes import export_fused, text_of

    checkpoint = small_checkpoint(views=VIEWS)
    graphs = runtime_of(runtime, checkpoint, lambda: export_fused(checkpoint, tmp_path / "x"))
    steps = rollout_steps(checkpoint.config, 12, seed=5)
    expected = list(replay(eager(checkpoint), text_of(checkpoint), steps))
    found = deviations(expected, replay(graphs, text_of(checkpoint), steps))
    assert max(item.max_abs for item in found.values()) < 1e-4
