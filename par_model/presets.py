# SPDX-License-Identifier: Apache-2.0
"""The named presets: a preset states every value; nothing is inferred from a name. Torch-free."""

import dataclasses
from collections.abc import Callable

from par_model.config import (
    ActionDitConfig,
    DiffusionConfig,
    EncoderConfig,
    FrameCodecConfig,
    FrameDecoderConfig,
    LossConfig,
    ModelConfig,
    RotaryConfig,
    SamplingConfig,
)

_PAR_SMALL = ModelConfig(
    name="par_small",
    image_height=128,
    image_width=128,
    views=("front",),
    depth_views=(),
    codec=FrameCodecConfig(
        kind="autoencoder_kl",
        latent_channels=16,
        stride=8,
        pixel_fold=4,
        channels=(32, 64),
        layers_per_block=1,
        norm_groups=16,
        scaling_factor=1.0,
        num_3d_down_levels=0,
        num_3d_up_levels=0,
    ),
    frame_patch=4,
    image_patch=2,
    frame_stem_channels=64,
    transformer=EncoderConfig(width=192, depth=6, num_heads=6, mlp_ratio=4),
    image_encoder=EncoderConfig(width=192, depth=4, num_heads=6, mlp_ratio=4),
    frame_decoder=FrameDecoderConfig(width=192, depth=3, time_frequencies=256),
    mixer_rank=24,
    text_width=64,
    num_text_tokens=4,
    motion_tokens=False,
    num_actions=8,
    max_delay_steps=0,
    step_s=0.05,
    action_width=8,
    action_tokenizer_hidden=128,
    proprio_width=8,
    action_dit=ActionDitConfig(width=160, depth=3, num_heads=5, mlp_ratio=4, time_frequencies=256),
    action_head="diffusion",
    frame_head="diffusion",
    num_slots=32,
    base_time=32,
    history_slots=None,
    autoregressive=True,
    action_sees_frame=True,
    position_mode="ape+rope_time",
    rotary=RotaryConfig(
        theta_frame=10000.0,
        theta_action=10000.0,
        scale_frame=1.0,
        scale_action=1.0,
        rotary_dim=32,
    ),
    first_slot="boa",
    text_joint_with_first_slot=False,
    overflow="rebase",
    observation_mode="image",
    action_frame="relative",
    context_action="commanded",
    frame_diffusion=DiffusionConfig(
        schedule="squaredcos_cap_v2",
        prediction="epsilon",
        num_train_timesteps=1000,
        beta_start=0.0001,
        beta_end=0.02,
        spacing="leading",
        steps_offset=1,
        flow_shift=1.0,
        clip_range=None,
    ),
    action_diffusion=DiffusionConfig(
        schedule="squaredcos_cap_v2",
        prediction="v_prediction",
        num_train_timesteps=1000,
        beta_start=0.0001,
        beta_end=0.02,
        spacing="trailing",
        steps_offset=0,
        flow_shift=1.0,
        clip_range=6.0,
    ),
    sampling=SamplingConfig(
        action_sampler="ddim",
        action_num_steps=10,
        frame_sampler="ddim",
        frame_num_steps=25,
        frame_num_sets=8,
        frame_guidance=1.0,
        context_slots=32,
    ),
    loss=LossConfig(
        num_draws=4,
        mask_ratio_low=0.7,
        mask_ratio_std=0.25,
        frame_fraction=0.125,
        frame_weight=1.0,
        action_weight=1.0,
    ),
)

_NOVA_ENCODER = EncoderConfig(width=1024, depth=16, num_heads=16, mlp_ratio=4)

# PAR on NOVA d48w1024-osp480; Table 1 of the paper is met module by module.
_PAR_0_6B_P480 = ModelConfig(
    name="par_0_6b_p480",
    image_height=480,
    image_width=480,
    views=("front",),
    depth_views=(),
    codec=FrameCodecConfig(
        kind="opensora_plan",
        latent_channels=4,
        stride=8,
        pixel_fold=1,
        channels=(128, 256, 512, 512),
        layers_per_block=2,
        norm_groups=32,
        scaling_factor=0.18215,
        num_3d_down_levels=2,
        num_3d_up_levels=4,
    ),
    frame_patch=4,
    image_patch=2,
    frame_stem_channels=0,
    transformer=_NOVA_ENCODER,
    image_encoder=dataclasses.replace(_NOVA_ENCODER, depth=32),
    frame_decoder=FrameDecoderConfig(width=1280, depth=3, time_frequencies=256),
    mixer_rank=24,
    text_width=2560,
    num_text_tokens=256,
    motion_tokens=False,
    num_actions=8,
    max_delay_steps=0,
    step_s=0.05,
    action_width=8,
    action_tokenizer_hidden=576,
    proprio_width=0,
    action_dit=ActionDitConfig(width=512, depth=3, num_heads=8, mlp_ratio=4, time_frequencies=256),
    action_head="diffusion",
    frame_head="diffusion",
    num_slots=16,
    base_time=16,
    history_slots=None,
    autoregressive=True,
    action_sees_frame=True,
    position_mode="ape+rope_time",
    rotary=RotaryConfig(
        theta_frame=10000.0,
        theta_action=10000.0,
        scale_frame=1.0,
        scale_action=1.0,
        rotary_dim=64,
    ),
    first_slot="boa",
    text_joint_with_first_slot=False,
    overflow="rebase",
    observation_mode="image",
    action_frame="absolute",
    context_action="commanded",
    frame_diffusion=DiffusionConfig(
        schedule="squaredcos_cap_v2",
        prediction="epsilon",
        num_train_timesteps=1000,
        beta_start=0.0001,
        beta_end=0.02,
        spacing="leading",
        steps_offset=1,
        flow_shift=1.0,
        clip_range=None,
    ),
    action_diffusion=DiffusionConfig(
        schedule="squaredcos_cap_v2",
        prediction="v_prediction",
        num_train_timesteps=1000,
        beta_start=0.0001,
        beta_end=0.02,
        spacing="trailing",
        steps_offset=0,
        flow_shift=1.0,
        clip_range=6.0,
    ),
    sampling=SamplingConfig(
        action_sampler="ddim",
        action_num_steps=10,
        frame_sampler="ddpm",
        frame_num_steps=100,
        frame_num_sets=64,
        frame_guidance=1.0,
        context_slots=16,
    ),
    loss=LossConfig(
        num_draws=4,
        mask_ratio_low=0.7,
        mask_ratio_std=0.25,
        frame_fraction=1.0,
        frame_weight=1.0,
        action_weight=1.0,
    ),
)

# The real model's structure at the smallest size, for tests.
_PAR_TINY = dataclasses.replace(
    _PAR_SMALL,
    name="par_tiny",
    image_height=32,
    image_width=32,
    codec=dataclasses.replace(
        _PAR_SMALL.codec, latent_channels=4, channels=(16, 32), norm_groups=8
    ),
    frame_patch=2,
    image_patch=1,
    frame_stem_channels=8,
    transformer=EncoderConfig(width=32, depth=2, num_heads=2, mlp_ratio=2),
    image_encoder=EncoderConfig(width=32, depth=2, num_heads=2, mlp_ratio=2),
    frame_decoder=FrameDecoderConfig(width=32, depth=2, time_frequencies=32),
    mixer_rank=4,
    text_width=16,
    num_text_tokens=3,
    action_tokenizer_hidden=16,
    action_dit=ActionDitConfig(width=32, depth=2, num_heads=2, mlp_ratio=2, time_frequencies=32),
    num_slots=6,
    base_time=6,
    rotary=dataclasses.replace(_PAR_SMALL.rotary, rotary_dim=16),
)


def _p(name: str, height: int, width: int) -> ModelConfig:
    return dataclasses.replace(
        _PAR_0_6B_P480, name=f"par_0_6b_{name}", image_height=height, image_width=width
    )


# NOVA itself: the video model that par_0_6b starts from, 9 latents (33 frames) of 480 x 768.
_NOVA_OSP480 = dataclasses.replace(
    _p("p768", 480, 768),
    name="nova_d48w1024_osp480",
    num_actions=0,
    motion_tokens=True,
    step_s=0.05,
    num_slots=9,
    position_mode="ape",
    first_slot="bov",
    text_joint_with_first_slot=True,
    overflow="error",
    sampling=dataclasses.replace(_PAR_0_6B_P480.sampling, frame_num_steps=25, frame_guidance=5.0),
)


def _without_transformer(config: ModelConfig) -> ModelConfig:
    """PAR-NoAR (paper, section 5.3.1): the heads see the embedded tokens of one slot."""
    return dataclasses.replace(config, name=f"{config.name}_noar", autoregressive=False)


def _without_diffusion(config: ModelConfig) -> ModelConfig:
    """PAR-Discrete (paper, section 5.3.2): regression heads instead of diffusion."""
    return dataclasses.replace(
        config, name=f"{config.name}_discrete", action_head="regression", frame_head="regression"
    )


def predicting_noise(config: ModelConfig) -> ModelConfig:
    """The paper's Action-DiT (Eq. 10): it predicts noise and samples as it was trained, by DDPM.

    At full noise the predicted noise tells the chunk nothing: an error of 1 % in it is 200 standard
    deviations of the chunk. Only a sampler that draws noise on the way forgets such a beginning.
    """
    return dataclasses.replace(
        config,
        name=f"{config.name}_noise",
        action_diffusion=dataclasses.replace(config.action_diffusion, prediction="epsilon"),
        sampling=dataclasses.replace(config.sampling, action_sampler="ddpm", action_num_steps=100),
    )


_PAR_0_6B = dataclasses.replace(_PAR_0_6B_P480, name="par_0_6b")

# The paper's ablations (section 5.3), as changes of any configuration.
ABLATIONS: dict[str, Callable[[ModelConfig], ModelConfig]] = {
    "noar": _without_transformer,
    "discrete": _without_diffusion,
}

PRESETS: dict[str, ModelConfig] = {
    "par_small": _PAR_SMALL,
    # for overlapped inference: goes on from up to 0.5 s of committed actions
    "par_small_overlap": dataclasses.replace(
        _PAR_SMALL, name="par_small_overlap", max_delay_steps=10
    ),
    # for goals and cubes that the arm hides from the front (docs/lab_notebook/cameras.md)
    "par_small_two_views": dataclasses.replace(
        _PAR_SMALL, name="par_small_two_views", views=("front", "right")
    ),
    # the front camera's depth image beside its colours; the data set says its range
    "par_small_depth": dataclasses.replace(
        _PAR_SMALL, name="par_small_depth", views=("front", "front_depth")
    ),
    "par_small_noar": _without_transformer(_PAR_SMALL),
    "par_small_discrete": _without_diffusion(_PAR_SMALL),
    "par_0_6b": _PAR_0_6B,
    "par_0_6b_p256": _p("p256", 256, 256),
    "par_0_6b_p480": _PAR_0_6B_P480,
    "par_0_6b_p512": _p("p512", 512, 512),
    "par_0_6b_p768": _p("p768", 480, 768),
    "par_0_6b_noise": predicting_noise(_PAR_0_6B),
    "par_0_6b_noar": _without_transformer(_PAR_0_6B),
    "par_0_6b_discrete": _without_diffusion(_PAR_0_6B),
    "nova_d48w1024_osp480": _NOVA_OSP480,
    "par_tiny": _PAR_TINY,
}


def preset(name: str) -> ModelConfig:
    """Raises ValueError with the list of presets for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is unknown; the presets are {', '.join(PRESETS)}.")
    return PRESETS[name]
