# SPDX-License-Identifier: Apache-2.0
"""Synthetic NOVA folders: the names and shapes that the published weights have, written down here
independently of the table that is tested, with random values."""

import json
import math
from dataclasses import dataclass, replace

import torch
from safetensors.torch import save_file
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from par_model.config import FrameCodecConfig
from par_model.opensora_vae import OpenSoraVae

VAE_CONFIG = {
    "_class_name": "AutoencoderKLOpenSora",
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 2 + ["DownEncoderBlock3D"] * 2,
    "up_block_types": ["UpDecoderBlock3D"] * 4,
    "block_out_channels": [32, 32, 32, 32],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
FULL_VAE_CONFIG = VAE_CONFIG | {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
DDPM_CONFIG = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "clip_sample": False,
    "prediction_type": "epsilon",
    "steps_offset": 1,
}
FLOW_CONFIG = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}


@dataclass(frozen=True)
class Size:
    video_depth: int
    image_depth: int
    width: int
    decoder_depth: int
    decoder_width: int
    text_width: int
    text_tokens: int
    mixer_rank: int
    image_size: tuple[int, int]


PUBLISHED = Size(16, 32, 1024, 3, 1280, 2560, 256, 24, (480, 768))
# All widths of the published weights, autoencoder included, with few blocks.
FULL_WIDTH = replace(PUBLISHED, video_depth=2, image_depth=2)
# A width that NOVA does not have; tests add its number of heads (4) to the known ones.
SMALL = Size(2, 2, 64, 1, 48, 24, 5, 4, (64, 96))


def nova_config(size=PUBLISHED):
    rows, columns = size.image_size[0] // 16, size.image_size[1] // 16
    config = {
        "_class_name": "NOVATransformer3DModel",
        "image_dim": 4,
        "image_size": list(size.image_size),
        "image_stride": 8,
        "text_token_dim": size.text_width,
        "text_token_len": size.text_tokens,
        "image_base_size": [rows, columns],
        "video_base_size": [16, rows // 2, columns // 2],
        "rotary_pos_embed": False,
        "arch": [
            f"vit_d{size.video_depth}w{size.width}",
            f"vit_d{size.image_depth}w{size.width}",
            f"mlp_d{size.decoder_depth}w{size.decoder_width}",
        ],
    }
    return config | ({"video_mixer_rank": size.mixer_rank} if size.mixer_rank else {})


def linear(name, out, inputs, bias=True):
    return {f"{name}.weight": (out, inputs)} | ({f"{name}.bias": (out,)} if bias else {})


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def transformer_shapes(size=PUBLISHED):
    """All tensors of NOVA's transformer file: 646 at the published size."""
    width, decoder = size.width, size.decoder_width
    shapes = {
        "mask_embed.bos_token": (1, width),
        "mask_embed.mask_token": (1, width),
        "text_embed.weight": (512, size.text_width),
        "video_encoder.patch_embed.proj.weight": (width, 4, 4, 4),
        "video_encoder.patch_embed.proj.bias": (width,),
        "image_encoder.patch_embed.proj.weight": (width, 4, 2, 2),
        "image_encoder.patch_embed.proj.bias": (width,),
        "image_decoder.patch_embed.proj.weight": (decoder, 4, 2, 2),
        "image_decoder.patch_embed.proj.bias": (decoder,),
    }
    shapes |= linear("text_embed.proj", width, size.text_width) | norm("text_embed.norm", width)
    for encoder, depth in (
        ("video_encoder", size.video_depth),
        ("image_encoder", size.image_depth),
    ):
        for index in range(depth):
            block = f"{encoder}.blocks.{index}"
            shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
            shapes |= linear(f"{block}.attn.qkv", 3 * width, width)
            shapes |= linear(f"{block}.attn.proj", width, width)
            shapes |= linear(f"{block}.mlp.fc1", 4 * width, width)
            shapes |= linear(f"{block}.mlp.fc2", width, 4 * width)
        shapes |= norm(f"{encoder}.norm", width)
    if size.mixer_rank:
        shapes |= linear("video_encoder.mixer.lora", size.mixer_rank, width, bias=False)
        shapes |= linear("video_encoder.mixer.proj", 2 * width, size.mixer_rank)
    for index in range(size.decoder_depth):
        block = f"image_decoder.blocks.{index}"
        shapes |= linear(f"{block}.norm1.proj", 3 * decoder, decoder)
        shapes |= linear(f"{block}.proj.fc1", decoder, decoder)
        shapes |= linear(f"{block}.proj.fc2", decoder, decoder)
        shapes |= norm(f"{block}.norm2", decoder)
    shapes |= linear("image_decoder.norm.proj", 2 * decoder, decoder)
    shapes |= linear("image_decoder.head", 16, decoder)
    embed = "image_decoder.time_cond_embed"
    shapes |= linear(f"{embed}.timestep_proj.fc1", decoder, 256)
    shapes |= linear(f"{embed}.timestep_proj.fc2", decoder, decoder)
    shapes |= linear(f"{embed}.condition_proj.fc1", decoder, width)
    shapes |= linear(f"{embed}.condition_proj.fc2", decoder, decoder)
    for name in ("video_pos_embed.time_proj", "motion_embed.flow_proj", "motion_embed.fps_proj"):
        shapes |= linear(f"{name}.0", width, 256) | linear(f"{name}.2", width, width)
    return shapes | norm("video_pos_embed.norm", width)


def num_parameters(shapes):
    """NOVA's count: the null-prompt rows are a buffer."""
    return sum(math.prod(shape) for name, shape in shapes.items() if name != "text_embed.weight")


def random_tensors(shapes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (0.05 * torch.randn(shape, generator=generator)).to(dtype)
        for name, shape in shapes.items()
    }


def write_folder(folder, config, tensors, scheduler=None, kind="safetensors"):
    """A pipeline folder. `kind`: "safetensors", "sharded", "fp16" (variant infix) or "bin"."""
    transformer = folder / "transformer"
    transformer.mkdir(parents=True)
    (transformer / "config.json").write_text(json.dumps(config))
    base = "diffusion_pytorch_model"
    if kind == "bin":
        torch.save(tensors, transformer / f"{base}.bin")
    elif kind == "sharded":
        _write_shards(transformer, base, tensors)
    else:
        infix = ".fp16" if kind == "fp16" else ""
        save_file(tensors, transformer / f"{base}{infix}.safetensors")
    (folder / "scheduler").mkdir()
    text = json.dumps(scheduler or DDPM_CONFIG)
    (folder / "scheduler" / "scheduler_config.json").write_text(text)
    write_vae(folder / "vae")
    return folder


def _write_shards(folder, base, tensors):
    names = sorted(tensors)
    parts = [names[0::3], names[1::3], names[2::3]]
    weight_map = {}
    for index, part in enumerate(parts, start=1):
        file_name = f"{base}-{index:05d}-of-00003.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file_name)
        weight_map |= dict.fromkeys(part, file_name)
    index_text = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / f"{base}.safetensors.index.json").write_text(index_text)


def small_vae():
    return _vae(VAE_CONFIG)


def _vae(config):
    torch.manual_seed(7)
    channels, layers = tuple(config["block_out_channels"]), config["layers_per_block"]
    return OpenSoraVae(
        FrameCodecConfig("opensora_plan", 4, 8, 1, channels, layers, 32, 0.18215, 2, 4)
    )


def write_vae(folder, config=VAE_CONFIG):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: value.contiguous() for name, value in _vae(config).state_dict().items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")


def write_full_width(folder, image_size=FULL_WIDTH.image_size):
    """A folder of FULL_WIDTH with random weights: transformer, autoencoder, text encoder."""
    size = replace(FULL_WIDTH, image_size=image_size)
    write_folder(folder, nova_config(size), random_tensors(transformer_shapes(size)))
    write_vae(folder / "vae", FULL_VAE_CONFIG)
    write_text_encoder(folder, size.text_width)
    return folder


def write_text_encoder(folder, width=SMALL.text_width):
    """A Phi model of one layer and a tokenizer that knows four words; returns the model."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    phi = PhiForCausalLM(
        PhiConfig(
            vocab_size=8,
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    ).eval()
    phi.save_pretrained(folder / "text_encoder")
    words = {"[PAD]": 0, "push": 1, "the": 2, "cube": 3, "stack": 4, "[UNK]": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(
        folder / "tokenizer"
    )
    return phi
