# SPDX-License-Identifier: Apache-2.0
"""Every number of a PAR model, as frozen dataclasses; to and from JSON. Values: presets.py.

[NOVA] is baaivision/NOVA's d48w1024-osp480. Torch is not imported here.
"""

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from par_model.depth_view import DepthView
from par_model.json_file import kind_of, shown
from par_model.value_ranges import MAX_LEVELS, Range, require_ranges

PositionMode = Literal["ape", "ape+rope_time"]
FirstSlot = Literal["boa", "bov"]
OverflowMode = Literal["rebase", "slide", "episode", "error"]
ObservationMode = Literal["image", "clip"]
ActionFrame = Literal["absolute", "relative"]
ContextAction = Literal["commanded", "proprio"]
HeadKind = Literal["diffusion", "regression"]
NoiseSchedule = Literal["squaredcos_cap_v2", "linear", "scaled_linear", "flow_matching"]
TimestepSpacing = Literal["leading", "linspace", "trailing"]
Prediction = Literal["epsilon", "v_prediction"]
CodecKind = Literal["autoencoder_kl", "opensora_plan"]


# How wide a layer, how deep a stack, how many of something there are.
_Width = Annotated[int, Range(1, 16_384)]
_Depth = Annotated[int, Range(1, 256)]
_Heads = Annotated[int, Range(1, 256)]
_MlpRatio = Annotated[int, Range(1, 64)]
_Channels = Annotated[int, Range(1, 4096)]
_Pixels = Annotated[int, Range(1, 8192)]
_Patch = Annotated[int, Range(1, 64)]
_Slots = Annotated[int, Range(1, 10_000)]
_Steps = Annotated[int, Range(1, 1000)]
_Share = Annotated[float, Range(0.0, 1.0)]
_Positive = Annotated[float, Range(1e-9, 1e9)]
_NotNegative = Annotated[float, Range(0.0, 1e9)]

# What the ranges leave possible together.
MAX_CONTEXT_TOKENS = 1_000_000
# Flow and frame rate.
NUM_MOTION_TOKENS = 2


@dataclass(frozen=True)
class FrameCodecConfig:
    """The frozen autoencoder between RGB frames and latents."""

    # which implementation: diffusers' AutoencoderKL, or Open-Sora-Plan's causal 3D VAE [NOVA]
    kind: CodecKind
    # channels of a latent pixel
    latent_channels: _Channels
    # image pixels per latent pixel, each way
    stride: _Patch
    # pixels are folded into channels (space to depth) by this factor before the first layer
    pixel_fold: _Patch
    # channels of each resolution level, finest first
    channels: tuple[_Channels, ...]
    # residual blocks per level
    layers_per_block: Annotated[int, Range(1, 16)]
    # groups of the group norms
    norm_groups: _Channels
    # latents are multiplied by this after encoding
    scaling_factor: _Positive
    # how many of the coarsest levels convolve over time too: encoder and decoder [NOVA: 2 and 4]
    num_3d_down_levels: Annotated[int, Range(0, MAX_LEVELS)] = 0
    num_3d_up_levels: Annotated[int, Range(0, MAX_LEVELS)] = 0


@dataclass(frozen=True)
class EncoderConfig:
    """A stack of res-post-norm transformer blocks."""

    width: _Width
    depth: _Depth
    num_heads: _Heads
    # hidden width of the MLP over the width of the block
    mlp_ratio: _MlpRatio


@dataclass(frozen=True)
class ActionDitConfig:
    """The Action-DiT: noise prediction for the L actions of a chunk, conditioned on Z_A."""

    width: _Width
    depth: _Depth
    num_heads: _Heads
    mlp_ratio: _MlpRatio
    # width of the sinusoidal diffusion-time embedding
    time_frequencies: Annotated[int, Range(2, 16_384)]


@dataclass(frozen=True)
class FrameDecoderConfig:
    """The diffusion MLP that turns image-encoder outputs into latents."""

    width: _Width
    depth: _Depth
    # width of the sinusoidal diffusion-time embedding
    time_frequencies: Annotated[int, Range(2, 16_384)]


@dataclass(frozen=True)
class RotaryConfig:
    """Temporal rotary embedding of queries and keys, on a clock that counts env steps."""

    theta_frame: _Positive
    theta_action: _Positive
    # clock units per env step
    scale_frame: _NotNegative
    scale_action: _NotNegative
    # rotated dimensions of a head; the rest pass unrotated
    rotary_dim: Annotated[int, Range(0, 16_384)]


@dataclass(frozen=True)
class DiffusionConfig:
    """A noise process: its training schedule and what the network predicts."""

    schedule: NoiseSchedule
    # the noise [PAPER Eq. 10], or v = signal * noise - spread * clean (arXiv 2202.00512), which at
    # full noise is the clean sample itself; flow matching has its own target and does not read it
    prediction: Prediction
    num_train_timesteps: Annotated[int, Range(1, 10_000)]
    # ends of the schedules "linear" and "scaled_linear"; the others do not read them
    beta_start: _Share
    beta_end: _Share
    # which training timesteps the sampling steps stand at; flow matching does not read it
    spacing: TimestepSpacing
    # shift of the timesteps in "leading" spacing
    steps_offset: Annotated[int, Range(0, 1000)]
    # shift of flow matching's noise levels towards noise; 1 is none
    flow_shift: _Positive
    # predicted clean samples are kept within +- this while sampling; None leaves them. Normalised
    # actions have unit variance: a range of one or two would cut what demonstrations do
    clip_range: _Positive | None


@dataclass(frozen=True)
class SamplingConfig:
    """Defaults of inference; each can be changed at run time."""

    # "ddim", "ddpm" or "dpmsolver++" for actions
    action_sampler: str
    action_num_steps: _Steps
    # "ddpm", "ddim", or "flow_matching" for frames
    frame_sampler: str
    frame_num_steps: _Steps
    # sets in which a frame's tokens are generated
    frame_num_sets: Annotated[int, Range(1, 100_000)]
    # classifier-free guidance scale of frames; 1 is off
    frame_guidance: _NotNegative
    # slots that the policy remembers before the overflow rule applies; 1 is no history
    context_slots: _Slots


@dataclass(frozen=True)
class LossConfig:
    """Eq. 11: diffusion losses of frames and actions."""

    # draws of (t, noise) per target [PAPER section 4.3: 4]
    num_draws: _Steps
    # masked share of a frame: truncated normal on [low, 1] around 1 [NOVA]
    mask_ratio_low: _Share
    mask_ratio_std: _NotNegative
    # share of a batch's frames on which the frame loss is computed (an unbiased estimate)
    frame_fraction: _Share
    frame_weight: _NotNegative
    action_weight: _NotNegative


@dataclass(frozen=True)
class ModelConfig:
    """A whole PAR model."""

    name: str
    # picture of one view
    image_height: _Pixels
    image_width: _Pixels
    # names of the cameras; a slot has the frame tokens of all of them, view by view
    views: tuple[str, ...]
    # those of the views that are depth, with their range
    depth_views: tuple[DepthView, ...]
    codec: FrameCodecConfig
    # latent pixels per transformer token, each way; the image encoder's patch is half of it
    frame_patch: _Patch
    image_patch: _Patch
    # channels of the convolutions between latents and frame tokens; 0 is none [NOVA]
    frame_stem_channels: Annotated[int, Range(0, 4096)]
    transformer: EncoderConfig
    # the image encoder's first half sees known tokens only, its second half all [NOVA]
    image_encoder: EncoderConfig
    frame_decoder: FrameDecoderConfig
    # rank of the scale-and-shift layer of later slots; 0 is no layer, negative full rank [NOVA: 24]
    mixer_rank: Annotated[int, Range(-1, 16_384)]
    # width and count of the instruction's embedding rows
    text_width: _Width
    num_text_tokens: Annotated[int, Range(0, 10_000)]
    # the video model: two tokens after the instruction say how much moves and how fast [NOVA]
    motion_tokens: bool
    # L actions of D dimensions in a chunk; 0 is a video model without actions (NOVA itself)
    num_actions: Annotated[int, Range(0, 1000)]
    # the most committed actions that a chunk goes on from (overlapped inference): the action head
    # predicts num_actions and so many more, and slots are as long as what was executed between two
    # pictures; 0: chunks and slots of num_actions, as in the paper
    max_delay_steps: Annotated[int, Range(0, 1000)]
    # time between two actions; training data and simulator run at this step [s]
    step_s: Annotated[float, Range(0.001, 1.0)]
    action_width: Annotated[int, Range(1, 256)]
    action_tokenizer_hidden: _Width
    # joints whose measured positions are added to a slot's action tokens; 0 is none
    proprio_width: Annotated[int, Range(0, 256)]
    action_dit: ActionDitConfig
    action_head: HeadKind
    frame_head: HeadKind
    # slots of the context; the time embedding is computed for this many
    num_slots: Annotated[int, Range(1, 10_000)]
    # the time embedding's own unit: slot i sits at i * base_time / num_slots [NOVA: 16]
    base_time: Annotated[int, Range(1, 1_000_000)]
    # slots of history that a query may see; None is all of them (1 is the memoryless ablation)
    history_slots: _Slots | None
    # False is PAR-NoAR: no transformer, the Action-DiT sees embedded tokens
    autoregressive: bool
    # False removes the implicit inverse kinematics (actions do not look at their frame)
    action_sees_frame: bool
    position_mode: PositionMode
    rotary: RotaryConfig
    first_slot: FirstSlot
    # NOVA's mask: the prefix and slot 0 see each other
    text_joint_with_first_slot: bool
    overflow: OverflowMode
    observation_mode: ObservationMode
    action_frame: ActionFrame
    context_action: ContextAction
    frame_diffusion: DiffusionConfig
    action_diffusion: DiffusionConfig
    sampling: SamplingConfig
    loss: LossConfig

    @property
    def num_views(self) -> int:
        return len(self.views)

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """Pictures of all views, one above the other."""
        return self.num_views * self.image_height, self.image_width, 3

    @property
    def latent_height(self) -> int:
        """Of the views' latents, one above the other."""
        return self.num_views * (self.image_height // self.codec.stride)

    @property
    def latent_width(self) -> int:
        return self.image_width // self.codec.stride

    @property
    def frame_rows(self) -> int:
        return self.latent_height // self.frame_patch

    @property
    def frame_columns(self) -> int:
        return self.latent_width // self.frame_patch

    @property
    def num_frame_tokens(self) -> int:
        """K_O, frame tokens in a physical token."""
        return self.frame_rows * self.frame_columns

    @property
    def num_image_tokens(self) -> int:
        """N, tokens that the image encoder generates for one frame, all views of it."""
        return (self.latent_height // self.image_patch) * (self.latent_width // self.image_patch)

    @property
    def image_token_width(self) -> int:
        return self.codec.latent_channels * self.image_patch**2

    @property
    def horizon(self) -> int:
        """Actions that the action head predicts."""
        return self.num_actions + self.max_delay_steps

    @property
    def slot_length(self) -> int:
        """K_O + L, tokens in a physical token."""
        return self.num_frame_tokens + self.num_actions

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before slot 0: the instruction's, and those of motion."""
        return self.num_text_tokens + (NUM_MOTION_TOKENS if self.motion_tokens else 0)

    @property
    def cache_capacity(self) -> int:
        """Tokens of the instruction and of all slots."""
        return self.num_prefix_tokens + self.num_slots * self.slot_length

    def validate(self) -> None:
        """Raise ValueError if a value is out of its range, or the numbers do not fit together."""
        require_ranges(self, "")
        self._require_views_possible()
        for what, size in (("image_height", self.image_height), ("image_width", self.image_width)):
            unit = self.codec.stride * self.frame_patch
            if size % unit:
                raise ValueError(
                    f"{what} is {size}; it must be a multiple of codec.stride * frame_patch = "
                    f"{unit}."
                )
        if self.frame_stem_channels and self.frame_patch % 2:
            raise ValueError(
                f"frame_patch is {self.frame_patch}; with a frame stem, which halves the picture, "
                "it must be even."
            )
        for what, stack in (
            ("transformer", self.transformer),
            ("image_encoder", self.image_encoder),
            ("action_dit", self.action_dit),
        ):
            if stack.width % stack.num_heads:
                raise ValueError(
                    f"{what}.width {stack.width} must be a multiple of num_heads {stack.num_heads}."
                )
        if self.image_encoder.depth % 2:
            raise ValueError(
                f"image_encoder.depth is {self.image_encoder.depth}; it must be even: "
                "one half sees known tokens, the other all tokens."
            )
        if self.transformer.width != self.image_encoder.width:
            raise ValueError(
                f"transformer.width {self.transformer.width} and image_encoder.width "
                f"{self.image_encoder.width} must be equal."
            )
        head_width = self.transformer.width // self.transformer.num_heads
        if self.rotary.rotary_dim > head_width or self.rotary.rotary_dim % 2:
            raise ValueError(
                f"rotary.rotary_dim is {self.rotary.rotary_dim}; it must be even and at most the "
                f"head width {head_width}."
            )
        self._require_policy_or_video()
        self._require_committed_possible()
        if self.observation_mode == "clip" and not self.codec.num_3d_down_levels:
            raise ValueError(
                'observation_mode is "clip" and the frame codec has no level that spans time; use '
                '"image", or a video autoencoder.'
            )
        if self.cache_capacity > MAX_CONTEXT_TOKENS:
            raise ValueError(
                f"instruction and {self.num_slots} slots have {self.cache_capacity} tokens; at "
                f"most {MAX_CONTEXT_TOKENS} are possible. Check num_slots, the picture's size and "
                "frame_patch."
            )

    def _require_views_possible(self) -> None:
        well_named = all(re.fullmatch(r"[a-z][a-z0-9_]{0,31}", view) for view in self.views)
        if not well_named or len(set(self.views)) < len(self.views):
            raise ValueError(
                f"views are {list(self.views)}; each needs a name of its own of at most 32 small "
                "letters, digits and underscores, a letter first."
            )
        is_single = self.observation_mode == "image" and self.first_slot == "boa"
        if self.num_views > 1 and not is_single:
            raise ValueError(
                f"views are {list(self.views)}; more than one needs actions and observation_mode "
                '"image".'
            )
        self._require_depth_possible()

    def _require_depth_possible(self) -> None:
        names = [view.name for view in self.depth_views]
        if len(set(names)) < len(names) or not set(names) <= set(self.views):
            raise ValueError(
                f"depth_views are {names}; each must be one of the views {list(self.views)}, once."
            )
        for view in self.depth_views:
            view.validate()

    def _require_policy_or_video(self) -> None:
        if (self.num_actions == 0) != (self.first_slot == "bov"):
            raise ValueError(
                f'first_slot is "{self.first_slot}" and num_actions is {self.num_actions}; "bov" '
                'is for the video model, which has no actions, and "boa" for every other.'
            )
        if self.num_actions and (self.motion_tokens or self.num_slots < 2):
            raise ValueError(
                f"num_slots is {self.num_slots} and motion_tokens {self.motion_tokens}; a policy "
                "has at least 2 slots and no motion tokens (those are the video model's)."
            )

    def _require_committed_possible(self) -> None:
        is_possible = self.num_actions and self.action_head == "diffusion"
        if self.max_delay_steps and not (is_possible and self.observation_mode == "image"):
            raise ValueError(
                f"max_delay_steps is {self.max_delay_steps}; committed actions need actions, the "
                'diffusion head and observation_mode "image".'
            )


def to_values(config: ModelConfig) -> dict[str, Any]:
    """The configuration as JSON values. `depth_views` is left out where there is none: the files of
    colour policies are those of earlier versions."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return values if config.depth_views else _without(values, "depth_views")


def _without(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def to_json(config: ModelConfig) -> str:
    return json.dumps(to_values(config), indent=2) + "\n"


def from_values(values: object) -> ModelConfig:
    """Read what `to_json` wrote, from parsed JSON.

    Raises:
        ValueError: a field is missing or unknown, or numbers do not fit.
    """
    config: ModelConfig = _build(ModelConfig, values, "config")
    config.validate()
    return config


def codec_from_values(values: object) -> FrameCodecConfig:
    """The configuration of a frame codec that stands alone; as `from_values`."""
    config: FrameCodecConfig = _build(FrameCodecConfig, values, "codec")
    require_ranges(config, "codec.")
    return config


_NESTED = {
    "codec": FrameCodecConfig,
    "transformer": EncoderConfig,
    "image_encoder": EncoderConfig,
    "frame_decoder": FrameDecoderConfig,
    "action_dit": ActionDitConfig,
    "rotary": RotaryConfig,
    "frame_diffusion": DiffusionConfig,
    "action_diffusion": DiffusionConfig,
    "sampling": SamplingConfig,
    "loss": LossConfig,
}


# Values of the fields that older config.json files lack.
_MEANT_BEFORE = {
    "step_s": 0.05,
    "max_delay_steps": 0,
    "views": ["front"],
    "depth_views": [],
    "motion_tokens": False,
}


def _build(kind: type, values: object, where: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be a JSON object, got {kind_of(values)}.")
    if kind is ModelConfig:
        values = _MEANT_BEFORE | values
    names = {field.name for field in dataclasses.fields(kind)}
    if missing := sorted(names - set(values)):
        raise ValueError(f"{where} lacks {missing}; was it written by another version?")
    if unknown := sorted(set(values) - names):
        raise ValueError(
            f"{where} has unknown fields {shown(unknown)}; was it written by another version?"
        )
    built = {}
    for name, value in values.items():
        if kind is ModelConfig and name in _NESTED:
            built[name] = _build(_NESTED[name], value, f"{where}.{name}")
        elif kind is ModelConfig and name == "depth_views" and isinstance(value, list):
            built[name] = tuple(_build(DepthView, one, f"{where}.{name}") for one in value)
        else:
            built[name] = tuple(value) if isinstance(value, list) else value
    return kind(**built)
