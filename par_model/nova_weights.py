# SPDX-License-Identifier: Apache-2.0
"""NOVA's folders: which of their numbers and tensors become which of ours.

A NOVA folder is a diffusers pipeline: transformer/, scheduler/, vae/, text_encoder/, tokenizer/,
each with its own configuration and weights. The sub-folder names are read, never the class paths
in model_index.json, which changed between releases.

Every tensor of a file is used, dropped by name (`DROPPED`), or refused with its name; every tensor
of ours is filled from the file or listed as new (`NEW`). Names: SPEC of NOVA d48w1024-osp480.
"""

import dataclasses
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from par_model.config import (
    PRESETS,
    DiffusionConfig,
    EncoderConfig,
    FrameCodecConfig,
    FrameDecoderConfig,
    ModelConfig,
)
from par_model.json_file import read_object, require_plain_name

Form = Literal["par", "nova"]

# NOVA's name (or its beginning, where it ends in a dot) to ours.
NAMES: tuple[tuple[str, str], ...] = (
    ("video_encoder.patch_embed.proj.", "tokenizer.frame_embed."),
    ("video_encoder.blocks.", "transformer.blocks."),
    ("video_encoder.norm.", "transformer.norm."),
    ("video_encoder.mixer.", "mixer."),
    ("image_encoder.patch_embed.proj.", "image_encoder.embed."),
    ("image_encoder.blocks.", "image_encoder.blocks."),
    ("image_encoder.norm.", "image_encoder.norm."),
    ("image_decoder.patch_embed.proj.", "frame_decoder.embed."),
    ("image_decoder.time_cond_embed.timestep_proj.", "frame_decoder.timestep_proj."),
    ("image_decoder.time_cond_embed.condition_proj.", "frame_decoder.condition_proj."),
    ("image_decoder.blocks.", "frame_decoder.blocks."),
    ("image_decoder.norm.", "frame_decoder.norm."),
    ("image_decoder.head.", "frame_decoder.head."),
    ("mask_embed.bos_token", "tokenizer.begin_of_video"),
    ("mask_embed.mask_token", "image_encoder.mask_token"),
    ("text_embed.weight", "tokenizer.text_padding"),
    ("text_embed.proj.", "tokenizer.text_proj."),
    ("text_embed.norm.", "tokenizer.text_norm."),
    ("video_pos_embed.time_proj.0.", "tokenizer.time_embed.proj.fc1."),
    ("video_pos_embed.time_proj.2.", "tokenizer.time_embed.proj.fc2."),
    ("video_pos_embed.norm.", "tokenizer.time_embed.norm."),
)
# NOVA's motion tokens (flow, fps): frozen in its training and absent from the paper's context.
DROPPED = ("motion_embed.",)
# What PAR adds to NOVA; the last is PAR-Discrete's, in place of the diffusion MLP.
NEW = (
    "tokenizer.action_embed.",
    "tokenizer.begin_of_action",
    "tokenizer.proprio_embed.",
    "action_head.",
    "frame_decoder.mlp.",
)
# Convolutions over whole patches there, matrices over patch values (dy, dx, channel) here.
_PATCH_MATRICES = ("image_encoder.embed.weight", "frame_decoder.embed.weight")

# Heads of NOVA's encoders by width.
_NUM_HEADS = {768: 12, 1024: 16, 1536: 16}
RESOLUTIONS = {"p256": (256, 256), "p480": (480, 480), "p512": (512, 512), "p768": (480, 768)}


@dataclass(frozen=True)
class Conversion:
    """The result of the conversion, tensor by tensor.

    Attributes:
        used: NOVA's names, in the table's order.
        new: our names that NOVA does not have; they keep their initial values.
        dropped: NOVA's names that PAR does not have.
    """

    used: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]


def our_name(nova_name: str) -> str | None:
    """Our name of a NOVA tensor; None if the table does not know it."""
    for theirs, ours in NAMES:
        if nova_name == theirs or (theirs.endswith(".") and nova_name.startswith(theirs)):
            return ours + nova_name[len(theirs) :]
    return None


def nova_name(name: str) -> str | None:
    """NOVA's name of one of our tensors; None if NOVA does not have it."""
    for theirs, ours in NAMES:
        if name == ours or (ours.endswith(".") and name.startswith(ours)):
            return theirs + name[len(ours) :]
    return None


def nova_shapes(model: nn.Module, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The tensors that NOVA's file must hold for `model`, dropped ones left out."""
    shapes = {}
    for name, value in model.state_dict().items():
        theirs = nova_name(name)
        if theirs is None:
            continue
        shape = tuple(value.shape)
        if name in _PATCH_MATRICES:
            channels, patch = config.codec.latent_channels, config.image_patch
            shape = (shape[0], channels, patch, patch)
        shapes[theirs] = shape
    return shapes


def dropped_names(config: ModelConfig) -> dict[str, str]:
    """Beginnings of the NOVA names that a model of `config` has no place for, and why."""
    reasons = dict.fromkeys(DROPPED, "PAR has no motion tokens")
    if not config.autoregressive:
        blocks = ("video_encoder.blocks.", "video_encoder.norm.")
        reasons |= dict.fromkeys(blocks, "PAR-NoAR has no transformer")
    if config.frame_head == "regression":
        reasons["image_decoder."] = "PAR-Discrete regresses frames"
    return reasons


@torch.no_grad()
def load_nova_transformer(folder: Path, model: nn.Module, config: ModelConfig) -> Conversion:
    """Copy the weights in `folder`/transformer into a PARModel of `config`.

    Raises:
        ValueError: no weights, a file that cannot be read, a tensor missing, unknown or of another
            shape. The sentence names it.
    """
    tensors = TensorFiles(transformer_folder(folder))
    expected = nova_shapes(model, config)
    unused = tuple(dropped_names(config))
    dropped = tuple(sorted(name for name in tensors.shapes if name.startswith(unused)))
    _require_names(tensors, set(expected), set(dropped), "transformer")
    for name, shape in expected.items():
        _require_shape(tensors, name, shape)
    own = model.state_dict()
    new = tuple(name for name in own if nova_name(name) is None)
    assert all(name.startswith(NEW) for name in new), new
    for name, value in tensors.read(set(expected)):
        target = our_name(name)
        assert target is not None
        if target in _PATCH_MATRICES:
            value = rearrange(value, "o c p q -> o (p q c)")
        own[target].copy_(value)
    return Conversion(tuple(expected), new, dropped)


@torch.no_grad()
def load_nova_vae(folder: Path, network: nn.Module) -> None:
    """Copy the weights in a vae folder into an OpenSoraVae.

    Raises:
        ValueError: as `load_nova_transformer`.
    """
    tensors = TensorFiles(folder)
    own = network.state_dict()
    _require_names(tensors, set(own), set(), "vae")
    for name, value in own.items():
        _require_shape(tensors, name, tuple(value.shape))
    for name, value in tensors.read(set(own)):
        own[name].copy_(value)


# ---- configurations


def transformer_folder(folder: Path) -> Path:
    """`folder`/transformer of a pipeline, or `folder` itself where it is that part alone."""
    return folder / "transformer" if (folder / "transformer").is_dir() else folder


def read_json(path: Path) -> dict[str, object]:
    """Raises ValueError if the file is missing or not a JSON object."""
    if not path.is_file():
        raise ValueError(
            f"{path} is missing; give the folder that NOVA's save_pretrained wrote, with "
            "transformer/, scheduler/ and vae/ in it."
        )
    return read_object(path, "copy the folder again")


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


# ---- files


class TensorFiles:
    """The tensors of one folder: safetensors or .bin, whole or sharded, any variant infix.

    Attributes:
        shapes: shape of every tensor by name.

    Raises:
        ValueError: no weights, or a file that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = _weight_files(folder)
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in self._files:
            for name, shape in _shapes(path).items():
                self.shapes[name] = shape

    def read(self, names: set[str]) -> Iterator[tuple[str, Tensor]]:
        """Each of `names` once, in the files' order; one tensor in memory at a time."""
        for path in self._files:
            if path.suffix == ".bin":
                for name, value in _load_bin(path).items():
                    if name in names:
                        yield name, value
                continue
            with safe_open(path, framework="pt") as file:
                for name in names.intersection(file.keys()):
                    yield name, file.get_tensor(name)


def _weight_files(folder: Path) -> list[Path]:
    """The one set of weights in the folder; plain names before variants, safetensors before bin."""
    for suffix in ("safetensors", "bin"):
        indices = sorted(folder.glob(f"*.{suffix}.index*.json"), key=lambda p: (len(p.name), p))
        if indices:
            weight_map = read_json(indices[0]).get("weight_map")
            is_map = isinstance(weight_map, dict)
            if not is_map or not all(isinstance(name, str) for name in weight_map.values()):
                raise ValueError(f"{indices[0]} has no weight_map; copy the folder again.")
            for name in set(weight_map.values()):
                require_plain_name(folder, name, str(indices[0]))
            files = [folder / name for name in sorted(set(weight_map.values()))]
            if missing := [path.name for path in files if not path.is_file()]:
                raise ValueError(f"{folder} lacks the shard {missing[0]}; copy the whole folder.")
            return files
        whole = [path for path in folder.glob(f"*.{suffix}") if "-of-" not in path.name]
        if whole:
            return [min(whole, key=lambda path: (len(path.name), path.name))]
    raise ValueError(
        f"{folder} holds no weights (*.safetensors or *.bin); give the folder that NOVA's "
        "save_pretrained wrote."
    )


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    if path.suffix == ".bin":
        return {name: tuple(value.shape) for name, value in _load_bin(path).items()}
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read ({error}); the copy is incomplete or damaged, copy it again."
        ) from error


def _load_bin(path: Path) -> dict[str, Tensor]:
    """A pickle file, through torch's restricted reader and no other."""
    try:
        # The one pickle that is read: older NOVA folders hold .bin files. weights_only takes plain
        # tensors from it and runs no code.
        values = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # torch raises what the damage happens to cause
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{path} cannot be read as plain tensors ({reason}); the file is damaged or holds "
            "more than weights. Convert it to safetensors where you trust it."
        ) from error
    if not isinstance(values, dict) or not all(isinstance(v, Tensor) for v in values.values()):
        raise ValueError(f"{path} must hold tensors by name and nothing else.")
    return values


def _require_names(tensors: TensorFiles, expected: set[str], dropped: set[str], what: str) -> None:
    found = set(tensors.shapes)
    if missing := sorted(expected - found):
        raise ValueError(
            f"{tensors.folder} lacks the tensor {missing[0]} ({len(missing)} of {len(expected)} "
            f"are missing); its config.json and weights belong to different models, or this is no "
            f"NOVA {what}."
        )
    if unknown := sorted(found - expected - dropped):
        raise ValueError(
            f"{tensors.folder} has the tensor {unknown[0]}, which NOVA's {what} does not have "
            f"({len(unknown)} such); unknown tensors are refused. Check config.json."
        )


def _require_shape(tensors: TensorFiles, name: str, shape: tuple[int, ...]) -> None:
    if tensors.shapes[name] != shape:
        raise ValueError(
            f"{tensors.folder}: tensor {name} must have shape {list(shape)}, got "
            f"{list(tensors.shapes[name])}; its config.json and weights belong to different models."
        )
