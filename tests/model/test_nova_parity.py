# SPDX-License-Identifier: Apache-2.0
"""NOVA's own public code beside ours, on random weights: they build and save, we convert.

2 + 2 blocks at the full width 1024 and at width 768, and (slow) the published 16 + 32 blocks, whose
file has 646 tensors; 64 x 96 pixels, so 6 video and 24 image tokens; 3 latents. Video-encoder
outputs (masked and cached), image-encoder outputs, one denoising step, whole videos with guidance,
the autoencoder and the scheduler agree within 1e-4 in float32.

Needs NOVA_REPO=<clone of github.com/baaivision/NOVA>, of which nothing is part of this project.
"""

import itertools
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from par_model import video_generation
from par_model.checkpoint import load_checkpoint
from par_model.convert_nova import main as convert
from par_model.diffusion import make_scheduler
from par_model.frame_head import patchify
from par_model.physical_tokenizer import Motion

REPOSITORY = os.environ.get("NOVA_REPO")
pytestmark = pytest.mark.skipif(
    REPOSITORY is None, reason="NOVA_REPO is not set: NOVA's own code is not at hand"
)
TOLERANCE = 1e-4
NUM_LATENTS = 3
IMAGE_SIZE = (64, 96)


def nova_modules():
    if REPOSITORY not in sys.path:
        sys.path.insert(0, REPOSITORY)
    from diffnext.models.autoencoders.autoencoder_kl_opensora import AutoencoderKLOpenSora
    from diffnext.models.transformers import transformer_nova as nova
    from diffnext.schedulers.scheduling_cfm import FlowMatchEulerDiscreteScheduler
    from diffnext.schedulers.scheduling_ddpm import DDPMScheduler

    return nova, AutoencoderKLOpenSora, DDPMScheduler, FlowMatchEulerDiscreteScheduler


def build_theirs(width, depths, scheduler_kind):
    nova, vae_class, ddpm, flow = nova_modules()
    heads = {768: 12, 1024: 16}[width]
    for registry, function, depth in (
        (nova.VIDEO_ENCODERS, nova.video_encoder, depths[0]),
        (nova.IMAGE_ENCODERS, nova.image_encoder, depths[1]),
    ):
        name = f"vit_d{depth}w{width}"
        registry.register(name, depth=depth, embed_dim=width, num_heads=heads)(function)
    torch.manual_seed(0)
    rows, columns = IMAGE_SIZE[0] // 16, IMAGE_SIZE[1] // 16
    transformer = nova.NOVATransformer3DModel(
        image_dim=4,
        image_size=list(IMAGE_SIZE),
        image_stride=8,
        text_token_dim=2560,
        text_token_len=256,
        image_base_size=[rows, columns],
        video_base_size=[16, rows // 2, columns // 2],
        video_mixer_rank=24,
        rotary_pos_embed=False,
        arch=[f"vit_d{depths[0]}w{width}", f"vit_d{depths[1]}w{width}", "mlp_d3w1280"],
    ).eval()
    for parameter in transformer.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    vae = vae_class(
        down_block_types=["DownEncoderBlock2D"] * 2 + ["DownEncoderBlock3D"] * 2,
        up_block_types=["UpDecoderBlock3D"] * 4,
        block_out_channels=[32, 64, 64, 64],
        latent_channels=4,
    ).eval()
    if scheduler_kind == "ddpm":
        scheduler = ddpm(beta_schedule="squaredcos_cap_v2", clip_sample=False, steps_offset=1)
    else:
        scheduler = flow(shift=3.0)
    transformer.sample_scheduler = scheduler
    return transformer, vae, scheduler


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((1024, (2, 2)), id="width 1024"),
        pytest.param((768, (2, 2)), id="width 768"),
        pytest.param((1024, (16, 32)), id="published", marks=pytest.mark.slow),
    ],
)
def both(request, tmp_path_factory):
    """Their transformer, scheduler and autoencoder, and our checkpoint converted from the files."""
    return build_and_convert(tmp_path_factory, *request.param, "ddpm")


@pytest.fixture(scope="module")
def both_flow(tmp_path_factory):
    return build_and_convert(tmp_path_factory, 768, (2, 2), "flow")


def build_and_convert(tmp_path_factory, width, depths, scheduler_kind):
    folder: Path = tmp_path_factory.mktemp(f"nova{width}{scheduler_kind}")
    transformer, vae, scheduler = build_theirs(width, depths, scheduler_kind)
    if depths == (16, 32):
        parameters = sum(parameter.numel() for parameter in transformer.parameters())
        assert (len(transformer.state_dict()), parameters) == (646, 644_194_320)
    transformer.save_pretrained(folder / "nova" / "transformer")
    vae.save_pretrained(folder / "nova" / "vae")
    scheduler.save_pretrained(folder / "nova" / "scheduler")
    assert convert([str(folder / "nova"), "--out", str(folder / "ours"), "--form", "nova"]) == 0
    checkpoint = load_checkpoint(folder / "ours")
    shutil.rmtree(folder)  # gigabytes at the published size
    return transformer, vae, scheduler, video_generation._with_length(checkpoint, NUM_LATENTS)


def clip(seed=1):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(
        1, NUM_LATENTS, 4, IMAGE_SIZE[0] // 8, IMAGE_SIZE[1] // 8, generator=generator
    )
    return torch.randn(1, 256, 2560, generator=generator), latents


def close(ours, theirs, what):
    error = (ours - theirs).abs().max().item()
    print(f"{what}: max abs error {error:.2e}")
    assert ours.shape == theirs.shape
    assert error < TOLERANCE


@torch.no_grad()
def test_video_encoder_masked_and_cached(both):
    theirs, _, _, checkpoint = both
    model = checkpoint.model
    text, latents = clip()

    tokens = theirs.video_encoder.patch_embed(latents[:, :-1].transpose(1, 2))
    bov = theirs.mask_embed.bos_token.expand(1, 1, tokens.size(-2), -1)
    tokens = theirs.video_pos_embed(torch.cat((bov, tokens), dim=1))
    prompt = theirs.text_embed(text)
    prompt = torch.cat((prompt, theirs.motion_embed(prompt, [3.0], [12.0])), dim=1)
    mask = theirs.mask_embed.get_attn_mask(tokens, prompt, persistent=False)
    for block in theirs.video_encoder.blocks:
        block.attn.attn_mask = mask
    masked = theirs.video_encoder(tokens.flatten(1, 2), prompt)
    for block in theirs.video_encoder.blocks:
        block.attn.attn_mask = None
    masked = masked.view(1, NUM_LATENTS, -1, masked.shape[-1])
    mixed = theirs.video_encoder.mixer(masked[:, :1], masked[:, 1:])

    # Ours: row 0 of the latents stands under begin-of-video and is not read.
    shifted = torch.cat((torch.full_like(latents[:, :1], torch.nan), latents[:, :-1]), dim=1)
    none = latents.new_zeros(1, NUM_LATENTS, 0, 8)
    motion = Motion(flow=3.0, fps=12.0)
    start = torch.zeros(1, dtype=torch.int64)
    context = model.encode_clip(text, shifted, none, None, start, motion=motion)
    close(context.frame_BNKC, masked, "video encoder, masked")
    close(model.frame_head.clip_conditions(context.frame_BNKC)[:, 1:], mixed, "mixer")

    cache = model.prefill(text, motion)
    for slot in range(NUM_LATENTS):
        one = shifted[:, slot : slot + 1]
        step, cache = model.extend(
            cache, text, one, none[:, :1], None, slot, slot == 0, motion=motion
        )
        close(step.frame_BNKC[:, 0], masked[:, slot], f"video encoder, cached, slot {slot}")


@torch.no_grad()
def test_image_encoder_and_one_denoising_step(both):
    theirs, _, scheduler, checkpoint = both
    model = checkpoint.model
    _, latents = clip(2)
    latent = latents[:, 0]
    generator = torch.Generator().manual_seed(3)
    condition = torch.randn(1, 6, model.config.transformer.width, generator=generator)
    known = torch.randperm(24, generator=generator)[:9][None]

    embedded = theirs.image_encoder.patch_embed(latent)
    theirs.mask_embed.mask = torch.ones(1, 24, 1).scatter(1, known[..., None], 0)
    masked = theirs.mask_embed.apply_mask(embedded)
    z_theirs = theirs.image_encoder(masked, condition, known[..., None])
    z = model.image_encoder(patchify(latent, 2), known, condition)
    close(z, z_theirs, "image encoder")

    noisy = torch.randn(latent.shape, generator=generator)
    predicted_theirs = theirs.image_decoder(noisy, torch.tensor([441]), z_theirs)
    decoder = model.frame_decoder
    predicted = decoder(
        patchify(noisy, 2), decoder.time_condition(torch.tensor([441])), decoder.condition_proj(z)
    )
    close(predicted, predicted_theirs, "diffusion MLP")

    scheduler.set_timesteps(25)
    ours = make_scheduler(model.config.frame_diffusion, "ddpm", 25)
    assert torch.equal(ours.timesteps, scheduler.timesteps)
    noise = patchify(noisy, 2)
    for index in (0, 12, 24):
        steps = [
            one.step(
                predicted,
                one.timesteps[index],
                noise,
                generator=torch.Generator().manual_seed(4),
                return_dict=False,
            )[0]
            for one in (ours, scheduler)
        ]
        close(steps[0], steps[1], f"DDPM step {index}")


@pytest.mark.parametrize(
    ("guidance", "given_picture", "flow", "num_latents"),
    [
        (1.0, False, 5.0, NUM_LATENTS),
        (4.0, False, 5.0, NUM_LATENTS),
        (1.0, True, 5.0, NUM_LATENTS),
        (4.0, True, 5.0, NUM_LATENTS),
        (1.0, False, 1.0, NUM_LATENTS),
        (3.0, False, 9.0, NUM_LATENTS),
        (1.0, False, 5.0, 1),
        (3.0, False, 2.0, 1),
    ],
)
def test_whole_video_is_the_same(
    both_flow, monkeypatch, guidance, given_picture, flow, num_latents
):
    """Flow matching draws no noise on the way, so equal first noise gives equal videos. Their
    noise is drawn as a latent and ours as tokens: ours is handed theirs, and their order."""
    theirs, _, _, checkpoint = both_flow
    checkpoint = video_generation._with_length(checkpoint, num_latents)
    text, latents = clip(5)
    first = latents[:, 0] if given_picture else None
    num_sets, num_steps = 4, 3
    sizes = [24, 22, 17, 9, 0]
    null = theirs.text_embed.weight[:256][None]
    theirs_in = {
        "c": [theirs.text_embed(torch.cat((text, null)) if guidance > 1 else text)],
        "x": torch.empty(1, 4, IMAGE_SIZE[0] // 8, IMAGE_SIZE[1] // 8),
        "generator": torch.Generator().manual_seed(6),
        "num_preds": [a - b for a, b in itertools.pairwise(sizes)],
        "num_diffusion_steps": num_steps,
        "guidance_scale": guidance,
        "max_latent_length": num_latents,
        "motion_flow": [flow],
        "latents": [first.clone()] if given_picture else [],
        "tqdm1": False,
    }
    expected = theirs.eval()(theirs_in)["x"].transpose(1, 2)

    noise = torch.Generator().manual_seed(6)
    order = torch.empty(1, 24, 1).uniform_(generator=noise).argsort(dim=1).flatten()
    monkeypatch.setattr(video_generation, "generation_order", lambda *_: order)
    drawn = torch.empty(1, 4, IMAGE_SIZE[0] // 8, IMAGE_SIZE[1] // 8)
    monkeypatch.setattr(
        torch, "randn", lambda *_, **__: patchify(drawn.normal_(generator=noise), 2)
    )
    config = video_generation.GenerationConfig(
        "flow_matching", num_steps, num_sets, guidance, Motion(flow)
    )
    ours = video_generation.generate_latents(
        checkpoint.model, text, config, torch.Generator(), first
    )
    what = f"guidance {guidance}, picture {given_picture}, flow {flow}, {num_latents} latents"
    close(ours, expected, f"video, {what}")


@torch.no_grad()
def test_autoencoder(both_flow):
    _, vae, _, checkpoint = both_flow
    generator = torch.Generator().manual_seed(8)
    frames = torch.randint(0, 256, (1, 5, *IMAGE_SIZE, 3), dtype=torch.uint8, generator=generator)
    pixels = (frames.float() - 127.5) / 127.5
    clip_latents = vae.encode(pixels.permute(0, 4, 1, 2, 3)).latent_dist.mean * 0.18215
    close(checkpoint.codec.encode_clip(frames), clip_latents.transpose(1, 2), "autoencoder, clip")
    picture = vae.encode(pixels[:, 0].permute(0, 3, 1, 2)).latent_dist.mean * 0.18215
    close(checkpoint.codec.encode(frames[:, 0]), picture, "autoencoder, picture")
    close(checkpoint.codec.for_pictures().encode(frames[:, 0]), picture, "autoencoder, folded")
