# SPDX-License-Identifier: Apache-2.0
"""The configurations in a NOVA folder (nova_files.py) to ours; what this program does not know is
refused by name."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from par_model.config import (
    DiffusionConfig,
    EncoderConfig,
    FrameCodecConfig,
    FrameDecoderConfig,
    ModelConfig,
)
from par_model.nova_files import TensorFiles, read_json, transformer_folder
from par_model.presets import PRESETS

Form = Literal["par", "nova"]

# Heads of NOVA's encoders by width.
_NUM_HEADS = {768: 12, 1024: 16, 1536: 16}
RESOLUTIONS = {"p256": (256, 256), "p480": (480, 480), "p512": (512, 512), "p768": (480, 768)}


def model_config(
    folder: Path, vae_folder: Path, form: Form, resolution: str | None = None
) -> ModelConfig:
    """ModelConfig of the model in a NOVA folder.

    Args:
        folder: the pipeline's folder.
        vae_folder: the autoencoder's, usually its vae/.
        form: "par" adds actions, drops motion and begins with BOA; "nova" stays the video model.
        resolution: a key of RESOLUTIONS; None is the folder's own. No weight depends on it.

    Raises:
        ValueError: a file is missing, or holds what this program does not know; it is named.
    """
    path = transformer_folder(folder) / "config.json"
    values = read_json(path)
    _refuse_unknown_kind(values, path)
    video_encoder, image_encoder, decoder = _architecture(values, path)
    stride, base = int(_number(values, "image_stride", path)), _sizes(values, path)
    preset = PRESETS["par_0_6b" if form == "par" else "nova_d48w1024_osp480"]
    height, width = RESOLUTIONS[resolution] if resolution else base.image
    patch = 15 // stride + 1
    config = dataclasses.replace(
        preset,
        name=f"{form}_{folder.resolve().name}",
        image_height=height,
        image_width=width,
        views=("front",),
        depth_views=(),
        codec=dataclasses.replace(
            codec_config(vae_folder),
            latent_channels=int(_number(values, "image_dim", path)),
            stride=stride,
        ),
        frame_patch=2 * patch,
        image_patch=patch,
        transformer=video_encoder,
        image_encoder=image_encoder,
        frame_decoder=decoder,
        mixer_rank=_mixer_rank(folder, values),
        motion_tokens=form == "nova" and base.time > 1,
        text_width=int(_number(values, "text_token_dim", path)),
        num_text_tokens=int(_number(values, "text_token_len", path)),
        base_time=base.time,
        rotary=dataclasses.replace(
            preset.rotary, rotary_dim=video_encoder.width // video_encoder.num_heads
        ),
        frame_diffusion=diffusion_config(folder / "scheduler"),
    )
    if config.frame_diffusion.schedule == "flow_matching":
        sampling = dataclasses.replace(config.sampling, frame_sampler="flow_matching")
        config = dataclasses.replace(config, sampling=sampling)
    config.validate()
    return config


def _refuse_unknown_kind(values: Mapping[str, object], path: Path) -> None:
    if values.get("rotary_pos_embed"):
        raise ValueError(
            f"{path}: rotary_pos_embed is true, but the released models have absolute positions "
            "and only those can be converted."
        )
    if not values.get("text_token_dim"):
        raise ValueError(
            f"{path}: text_token_dim is not set; this is a class-conditional model, and PAR needs "
            "a text-conditional one."
        )


@dataclass(frozen=True)
class _Sizes:
    image: tuple[int, int]
    time: int


def _sizes(values: Mapping[str, object], path: Path) -> _Sizes:
    """The image's size in pixels and the time embedding's length, checked against each other."""
    size = values.get("image_size")
    image = [size, size] if isinstance(size, int) else size
    video_base, image_base = values.get("video_base_size"), values.get("image_base_size")
    stride = int(_number(values, "image_stride", path))
    if not isinstance(image, list) or not isinstance(video_base, list) or len(video_base) != 3:
        raise ValueError(
            f"{path}: image_size must be [height, width] and video_base_size [time, rows, "
            f"columns], got {size} and {video_base}."
        )
    patch = stride * (15 // stride + 1)
    expected_image = [image[0] // patch, image[1] // patch]
    expected_video = [image[0] // (2 * patch), image[1] // (2 * patch)]
    if image_base != expected_image or video_base[1:] != expected_video:
        raise ValueError(
            f"{path}: image_base_size {image_base} and video_base_size {video_base} do not fit "
            f"image_size {image}; expected {expected_image} and [time, *{expected_video}]."
        )
    return _Sizes((int(image[0]), int(image[1])), int(video_base[0]))


def _architecture(
    values: Mapping[str, object], path: Path
) -> tuple[EncoderConfig, EncoderConfig, FrameDecoderConfig]:
    arch = values.get("arch")
    if not isinstance(arch, list) or len(arch) != 3:
        raise ValueError(f"{path}: arch must be three names, got {arch}.")
    decoder = re.fullmatch(r"mlp_d(\d+)w(\d+)", str(arch[2]))
    encoders = [re.fullmatch(r"vit_d(\d+)w(\d+)", str(name)) for name in arch[:2]]
    for match, name in zip([*encoders, decoder], arch, strict=True):
        known = match is not None and (match is decoder or int(match[2]) in _NUM_HEADS)
        if not known:
            raise ValueError(
                f"{path}: arch {name!r} is unknown; expected vit_d<depth>w<width> twice with "
                f"width one of {sorted(_NUM_HEADS)}, then mlp_d<depth>w<width>."
            )
    video, image = (
        EncoderConfig(int(match[2]), int(match[1]), _NUM_HEADS[int(match[2])], mlp_ratio=4)
        for match in encoders
        if match is not None
    )
    assert decoder is not None
    return video, image, FrameDecoderConfig(int(decoder[2]), int(decoder[1]), time_frequencies=256)


def _mixer_rank(folder: Path, values: Mapping[str, object]) -> int:
    """The configured rank; the weights' own where the configuration does not say."""
    stated = values.get("video_mixer_rank")
    if isinstance(stated, int) and stated:
        return stated
    shapes = TensorFiles(transformer_folder(folder)).shapes
    if "video_encoder.mixer.proj.weight" not in shapes:
        return 0
    lora = shapes.get("video_encoder.mixer.lora.weight")
    return lora[0] if lora else -1


def diffusion_config(folder: Path) -> DiffusionConfig:
    """The noise process of NOVA's scheduler folder. Flow matching has no `prediction_type`.

    Raises:
        ValueError: the file is missing, or asks for what NOVA's samplers do not do.
    """
    path = folder / "scheduler_config.json"
    values = read_json(path)
    plain = PRESETS["par_0_6b"].frame_diffusion
    num_train_timesteps = int(values.get("num_train_timesteps", 1000))  # type: ignore[call-overload]
    if "prediction_type" not in values:
        if values.get("use_dynamic_shifting"):
            raise ValueError(f"{path}: use_dynamic_shifting is true; it must be false.")
        return dataclasses.replace(
            plain,
            schedule="flow_matching",
            num_train_timesteps=num_train_timesteps,
            flow_shift=_number(values, "shift", path, 1.0),
        )
    for name, known in (
        ("prediction_type", ("epsilon",)),
        ("beta_schedule", ("squaredcos_cap_v2", "linear", "scaled_linear")),
        ("timestep_spacing", ("leading", "linspace", "trailing")),
        ("variance_type", ("fixed_small",)),
        ("thresholding", (False,)),
        ("rescale_betas_zero_snr", (False, 0)),
        ("trained_betas", (None,)),
    ):
        if values.get(name, _DDPM_DEFAULTS[name]) not in known:
            raise ValueError(
                f"{path}: {name} is {values[name]!r}; expected "
                f"{' or '.join(repr(one) for one in known)}."
            )
    # NOVA's sampler never clips, whatever clip_sample says.
    return dataclasses.replace(
        plain,
        schedule=values.get("beta_schedule", _DDPM_DEFAULTS["beta_schedule"]),
        num_train_timesteps=num_train_timesteps,
        beta_start=_number(values, "beta_start", path, 0.0001),
        beta_end=_number(values, "beta_end", path, 0.02),
        spacing=values.get("timestep_spacing", _DDPM_DEFAULTS["timestep_spacing"]),
        steps_offset=int(_number(values, "steps_offset", path, 0)),
        clip_range=None,
    )


# What a scheduler file leaves out has diffusers' default.
_DDPM_DEFAULTS: dict[str, object] = {
    "prediction_type": "epsilon",
    "beta_schedule": "linear",
    "timestep_spacing": "leading",
    "variance_type": "fixed_small",
    "thresholding": False,
    "rescale_betas_zero_snr": False,
    "trained_betas": None,
}


def codec_config(folder: Path) -> FrameCodecConfig:
    """FrameCodecConfig of a vae folder: AutoencoderKLOpenSora, or an all-2D one of that layout.

    Raises:
        ValueError: the file is missing or describes another layout.
    """
    path = folder / "config.json"
    values = read_json(path)
    for name, known in (
        ("use_quant_conv", True),
        ("use_post_quant_conv", True),
        ("mid_block_add_attention", True),
        ("latents_mean", None),
        ("latents_std", None),
    ):
        if values.get(name, known) != known:
            raise ValueError(f"{path}: {name} is {values[name]!r}; expected {known!r}.")
    channels = values.get("block_out_channels", [128, 256, 512, 512])
    if not isinstance(channels, list):
        raise ValueError(f"{path}: block_out_channels must be a list, got {channels!r}.")
    return FrameCodecConfig(
        kind="opensora_plan",
        latent_channels=int(_number(values, "latent_channels", path)),
        stride=2 ** (len(channels) - 1),
        pixel_fold=1,
        channels=tuple(channels),
        layers_per_block=int(_number(values, "layers_per_block", path, 2)),
        norm_groups=int(_number(values, "norm_num_groups", path, 32)),
        scaling_factor=_number(values, "scaling_factor", path, 0.18215),
        num_3d_down_levels=_num_3d_levels(values, "down_block_types", len(channels), path),
        num_3d_up_levels=_num_3d_levels(values, "up_block_types", len(channels), path),
    )


def shift_factor(folder: Path) -> float:
    """What NOVA subtracts from a latent before scaling it."""
    return float(read_json(folder / "config.json").get("shift_factor") or 0.0)  # type: ignore[arg-type]


def _num_3d_levels(values: Mapping[str, object], name: str, num_levels: int, path: Path) -> int:
    types = values.get(name)
    if types is None:
        return 0
    is_3d = [str(one).endswith("Block3D") for one in types] if isinstance(types, list) else []
    known = isinstance(types, list) and all(re.search(r"Block[23]D$", str(one)) for one in types)
    # The 3D levels must be the coarsest; the decoder's are all of one kind.
    if not known or len(is_3d) != num_levels or is_3d != sorted(is_3d):
        raise ValueError(
            f"{path}: {name} {types} is a layout that this program does not know; expected "
            f"{num_levels} levels, 2D ones first, then 3D ones."
        )
    return sum(is_3d)


def _number(
    values: Mapping[str, object], name: str, path: Path, default: float | None = None
) -> float:
    value = values.get(name, default)
    if not isinstance(value, int | float):
        raise ValueError(f"{path}: {name} must be a number, got {value!r}.")
    return float(value)
