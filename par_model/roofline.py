# SPDX-License-Identifier: Apache-2.0
"""Work and lower bounds of one control step, counted from the built modules.

FLOPs are counted by torch's FlopCounterMode while the real modules run on the meta device, so no
formula can drift from the code; a multiply-add is 2 FLOPs. Bytes are the weights that a phase must
read (bf16) and the cache that it must read or write. A phase's bound is max(FLOPs / peak,
bytes / bandwidth), phases are summed, activations are ignored: true lower bounds at batch 1.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from par_model.action_head import ActionDit
from par_model.config import ModelConfig
from par_model.frame_codec import FrameCodec, decode_views, encode_views
from par_model.frame_head import FrameDecoder, set_sizes
from par_model.model import PARModel, count_parameters

BYTES_PER_VALUE = 2


@dataclass(frozen=True)
class Gpu:
    """Dense bf16 peak and memory bandwidth."""

    name: str
    tflop_per_s: float
    tb_per_s: float


# From NVIDIA's data sheets, with two exceptions that were measured on an H200: the bf16 peak of
# H100 SXM and H200 (790; data sheet: 989), and the H200's bandwidth (data sheet: 4.8).
GPUS = (
    Gpu("A100", 312.0, 2.0),
    Gpu("A100 40GB", 312.0, 1.555),
    Gpu("H100", 790.0, 3.35),
    Gpu("H200", 790.0, 4.3),
)


def gpu_of(driver_name: str) -> Gpu | None:
    """The entry of GPUS for a GPU as its driver calls it ("NVIDIA A100-SXM4-40GB"), or None."""
    words = set(re.split(r"[\s-]+", driver_name))
    known = [gpu for gpu in GPUS if words.issuperset(gpu.name.split())]
    return max(known, key=lambda gpu: len(gpu.name.split()), default=None)


@dataclass(frozen=True)
class Phase:
    """One part of a control step."""

    name: str
    gflop: float
    megabytes: float

    def bound_ms(self, gpu: Gpu) -> float:
        compute_s = self.gflop / 1e3 / gpu.tflop_per_s
        memory_s = self.megabytes / 1e6 / gpu.tb_per_s
        return 1e3 * max(compute_s, memory_s)


@dataclass(frozen=True)
class Networks:
    """The modules of one configuration, on the meta device: shapes without memory."""

    config: ModelConfig
    model: PARModel
    codec: FrameCodec

    @staticmethod
    def build(config: ModelConfig) -> "Networks":
        with torch.device("meta"):
            return Networks(config, PARModel(config), FrameCodec(config.codec))


def policy_phases(
    networks: Networks, num_steps: int, num_earlier_slots: int | None = None
) -> list[Phase]:
    """A control step without frame generation: encode, append, denoise.

    Args:
        num_steps: denoising steps of the action head.
        num_earlier_slots: in the context; None is all but the newest.
    """
    if num_earlier_slots is None:
        num_earlier_slots = networks.config.num_slots - 1
    return [
        _encode_phase(networks),
        _append_phase(networks, num_earlier_slots),
        _action_phase(networks, num_steps),
    ]


def frame_phases(networks: Networks, num_sets: int, num_steps: int) -> list[Phase]:
    """What one predicted frame adds: image encoder per set, diffusion MLP per set and step."""
    sizes = set_sizes(networks.config.num_image_tokens, num_sets)
    return [
        _image_encoder_phase(networks, sizes),
        _diffusion_phase(networks, sizes, num_steps),
        _decode_phase(networks),
    ]


def _encode_phase(networks: Networks) -> Phase:
    config = networks.config
    with torch.device("meta"):
        codec = networks.codec.for_pictures()
        image = torch.empty(1, *config.picture_shape, dtype=torch.uint8)
        gflop = _gflop(lambda: encode_views(codec, image, config.num_views))
    weights = [codec.network.encoder]
    if codec.network.quant_conv is not None:
        weights.append(codec.network.quant_conv)
    return Phase("encode the picture", gflop, _megabytes(weights))


def _append_phase(networks: Networks, num_earlier_slots: int) -> Phase:
    """One physical token after `num_earlier_slots`."""
    config, model = networks.config, networks.model
    if model.transformer is None:
        return Phase("embed (no transformer)", 0.0, _megabytes([model.tokenizer]))
    num_cached = config.num_prefix_tokens + num_earlier_slots * config.slot_length
    with torch.device("meta"):
        # Tokens alone: the layout's positions are values, which the meta device does not have.
        tokens = torch.empty(1, config.slot_length, config.transformer.width)
        cache = model.transformer.allocate_cache(1, config.cache_capacity).advance(num_cached)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            # As attend_slot: frame queries see no action of their own slot.
            frames = config.num_frame_tokens
            seen = k.shape[2] - (q.shape[2] - frames)
            parts = [(q[:, :, :frames], k[:, :, :seen], v[:, :, :seen])]
            parts += [(q[:, :, frames:], k, v)] if config.num_actions else []
            return torch.cat(
                [nn.functional.scaled_dot_product_attention(*part) for part in parts], dim=2
            )

        transformer = model.transformer
        latent = torch.empty(
            1, config.codec.latent_channels, config.latent_height, config.latent_width
        )
        gflop = _gflop(lambda: transformer.forward_cached(tokens, None, attend, cache))
        gflop += _gflop(lambda: model.tokenizer.frame_stem(latent))
    tokenizer = model.tokenizer
    weights = [transformer, tokenizer.frame_stem, tokenizer.frame_embed, tokenizer.time_embed]
    weights += [tokenizer.action_embed] if config.num_actions else []
    num_tokens = num_cached + config.slot_length
    moved = _megabytes(weights) + num_tokens * bytes_per_cached_token(config) / 1e6
    return Phase("append a physical token", gflop, moved)


def _action_phase(networks: Networks, num_steps: int) -> Phase:
    """Norm statistics are computed once a schedule and cross keys and values once a step."""
    config, head = networks.config, networks.model.action_head
    if not isinstance(head, ActionDit):
        parameters = 0.0 if head is None else _megabytes([head])
        return Phase("regress the actions", parameters / BYTES_PER_VALUE * 2e-3, parameters)
    with torch.device("meta"):
        modulation = head.modulation(torch.empty(1))
        z = torch.empty(1, config.num_actions, config.transformer.width)
        noisy = torch.empty(1, config.horizon, config.action_width)
        context = head.context(z)
        once = _gflop(lambda: head.context(z))
        step = _gflop(lambda: head(noisy, modulation, context))
    once_only: list[nn.Module] = [head.time_proj, head.context_proj, head.last_modulation]
    for block in head.blocks:
        once_only += [block.modulation, block.cross_attention.kv]
    context_weights = [head.context_proj, *(block.cross_attention.kv for block in head.blocks)]
    each_step = _megabytes([head]) - _megabytes(once_only)
    return Phase(
        f"denoise the actions, {num_steps} steps",
        once + num_steps * step,
        _megabytes(context_weights) + num_steps * each_step,
    )


def _image_encoder_phase(networks: Networks, sizes: list[int]) -> Phase:
    config, encoder = networks.config, networks.model.image_encoder
    with torch.device("meta"):
        tokens = torch.empty(1, config.num_image_tokens, config.image_token_width)
        condition = torch.empty(1, config.num_frame_tokens, config.image_encoder.width)

        def count(num_known: int) -> float:
            known = torch.empty(1, num_known, dtype=torch.int64)
            return _gflop(lambda: encoder(tokens, known, condition))

        # Attention makes the work of a set quadratic in the number of known tokens: three counts
        # give it for every set.
        middle = config.num_image_tokens // 2
        points = [0, middle, 2 * middle]
        work = np.polynomial.Polynomial.fit(points, [count(point) for point in points], deg=2)
    known_before = np.cumsum([0, *sizes[:-1]])
    gflop = float(work(known_before).sum())
    return Phase(f"image encoder, {len(sizes)} sets", gflop, len(sizes) * _megabytes([encoder]))


def _diffusion_phase(networks: Networks, sizes: list[int], num_steps: int) -> Phase:
    config, decoder = networks.config, networks.model.frame_decoder
    if not isinstance(decoder, FrameDecoder):
        return Phase("regress the frame", 0.0, len(sizes) * _megabytes([decoder]))
    num_tokens = config.num_image_tokens
    with torch.device("meta"):
        noisy = torch.empty(1, num_tokens, config.image_token_width)
        z = torch.empty(1, num_tokens, config.transformer.width)
        time = decoder.time_condition(torch.empty(1))
        condition = decoder.condition_proj(z)
        once = _gflop(lambda: decoder.condition_proj(z))
        step = _gflop(lambda: decoder(noisy, time, condition))
    once_only = [decoder.timestep_proj, decoder.condition_proj]
    each_step = _megabytes([decoder]) - _megabytes(once_only)
    return Phase(
        f"diffusion MLP, {len(sizes)} sets of {num_steps} steps",
        once + num_steps * step,
        len(sizes) * (_megabytes([decoder.condition_proj]) + num_steps * each_step),
    )


def _decode_phase(networks: Networks) -> Phase:
    config = networks.config
    with torch.device("meta"):
        codec = networks.codec.for_pictures()
        shape = (1, config.codec.latent_channels, config.latent_height, config.latent_width)
        gflop = _gflop(lambda: decode_views(codec, torch.empty(shape), config.num_views))
    return Phase("decode the picture (optional)", gflop, _megabytes([codec.network.decoder]))


def bytes_per_cached_token(config: ModelConfig) -> int:
    """Keys and values of all layers."""
    return 2 * config.transformer.depth * config.transformer.width * BYTES_PER_VALUE


def _gflop(run: Callable[[], object]) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def _megabytes(modules: Iterable[nn.Module]) -> float:
    return sum(count_parameters(module) for module in modules) * BYTES_PER_VALUE / 1e6
