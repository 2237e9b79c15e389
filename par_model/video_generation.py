# SPDX-License-Identifier: Apache-2.0
"""python -m par_model.video_generation CHECKPOINT: NOVA's own use of the network, by our code.

    python -m par_model.video_generation nova --instruction "A robot arm pushes a cube." \\
        --out push.mp4 [--image first.png]

CHECKPOINT is what `par_model.convert_nova --form nova` wrote. Latents are generated one after the
other, each set by set; the context grows as a KV cache.

Shape letters: B videos, N latents, T text tokens, K frame tokens, C width, c h w of a latent.
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor
from tyro.conf import Positional, arg

from par_model.checkpoint import Checkpoint, load_checkpoint
from par_model.command_line import default_is, output_file, parse
from par_model.frame_head import generation_order
from par_model.interface import ImageArray
from par_model.model import PARModel
from par_model.physical_tokenizer import Motion

FRAMES_PER_S = 12


@dataclass(frozen=True)
class GenerationConfig:
    """How frames are sampled.

    Attributes:
        sampler: "ddpm", "ddim" or "flow_matching".
        num_steps: denoising steps of each set.
        num_sets: sets in which a latent's tokens are generated.
        guidance: classifier-free guidance scale; 1 is off.
        motion: what it is to move like; read by models with motion tokens only.
    """

    sampler: str
    num_steps: int
    num_sets: int
    guidance: float
    motion: Motion = Motion()  # noqa: RUF009


@torch.inference_mode()
def generate_latents(
    model: PARModel,
    text_BTC: Tensor,
    config: GenerationConfig,
    generator: torch.Generator,
    first_latent_Bchw: Tensor | None = None,
) -> Tensor:
    """All latents of the model's clip length [B, N, c, h, w] (NOVA, sections 3.2 and 3.3).

    Args:
        model: a video model (first_slot "bov"), whose num_slots is N.
        first_latent_Bchw: latent 0 where a picture is continued; None generates it too.

    Raises:
        ValueError: the model has actions, so its slots are no video.
    """
    settings = model.config
    if settings.first_slot != "bov":
        raise ValueError(
            f"{settings.name} has actions and begins with a frame; video generation needs a "
            "checkpoint of `par_model.convert_nova --form nova`."
        )
    batch_size = text_BTC.shape[0]
    guided = config.guidance != 1.0
    if guided:
        text_BTC = torch.cat((text_BTC, model.tokenizer.null_text(batch_size).to(text_BTC)))
    order = generation_order(settings.num_image_tokens, generator)
    cache = model.prefill(text_BTC, config.motion)
    none = text_BTC.new_zeros(len(text_BTC), 1, 0, settings.action_width)
    shape = (settings.codec.latent_channels, settings.latent_height, settings.latent_width)
    latent_Bchw = text_BTC.new_zeros(batch_size, *shape)
    anchor, latents = None, []
    for slot in range(settings.num_slots):
        # Slot 0 is begin-of-video; the latent given for it is not read.
        seen = latent_Bchw.repeat(2 if guided else 1, 1, 1, 1).unsqueeze(1)
        context, cache = model.extend(
            cache, text_BTC, seen, none, None, slot, slot == 0, motion=config.motion
        )
        z_BKC = context.frame_BNKC[:, 0]
        condition = model.frame_head.condition(z_BKC, anchor)
        anchor = z_BKC if slot == 0 else anchor
        if slot == 0 and first_latent_Bchw is not None:
            latent_Bchw = first_latent_Bchw
        else:
            latent_Bchw = model.predict_frame(
                condition[:batch_size],
                order,
                generator,
                config.sampler,
                config.num_steps,
                config.num_sets,
                condition[batch_size:] if guided else None,
                config.guidance,
            )
        latents.append(latent_Bchw)
    return torch.stack(latents, dim=1)


def generate_video(
    checkpoint: Checkpoint,
    text_TC: Tensor,
    config: GenerationConfig,
    seed: int,
    first_image: ImageArray | None = None,
) -> ImageArray:
    """One video, uint8 [4 (N - 1) + 1, H, W, 3].

    Raises:
        ValueError: as `generate_latents`; the picture is not of the model's size.
    """
    first_latent = None
    if first_image is not None:
        size = (checkpoint.config.image_height, checkpoint.config.image_width, 3)
        if first_image.shape != size:
            raise ValueError(
                f"the first picture must be {list(size)}, got {list(first_image.shape)}; resize it."
            )
        with torch.inference_mode():
            first_latent = checkpoint.codec.encode(torch.from_numpy(first_image.copy())[None])
    generator = torch.Generator().manual_seed(seed)
    latents = generate_latents(
        checkpoint.model, text_TC.unsqueeze(0), config, generator, first_latent
    )
    with torch.inference_mode():
        frames: ImageArray = checkpoint.codec.decode_clip(latents)[0].numpy()
    return frames


@dataclass(frozen=True)
class VideoOptions:
    """The command line."""

    # folder of the checkpoint
    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")]
    # mp4 file to write
    out: Annotated[Path, output_file()]
    # one that the checkpoint knows
    instruction: Annotated[str | None, arg(metavar="TEXT"), default_is("none")] = None
    # picture to continue, of the model's size
    image: Annotated[Path | None, arg(metavar="FILE"), default_is("none")] = None
    # length of the video; 4 frames each after the first, and 1 is a picture
    num_latents: Annotated[int | None, default_is("the checkpoint's")] = None
    # denoising steps of each set
    num_steps: Annotated[int | None, default_is("the checkpoint's")] = None
    # sets in which a latent is generated
    num_sets: Annotated[int | None, default_is("the checkpoint's")] = None
    # classifier-free guidance; 1 is off
    guidance: Annotated[float | None, default_is("the checkpoint's")] = None
    # how much moves [NOVA: 1 to 10]
    motion_flow: float = Motion().flow
    # of the noise
    seed: int = 0


def main(arguments: list[str] | None = None) -> int:
    options = parse(VideoOptions, "python -m par_model.video_generation", __doc__, arguments)
    try:
        _generate(options)
    except ValueError as error:
        print(f"par_model.video_generation: {error}", file=sys.stderr)
        return 1
    return 0


def _generate(options: VideoOptions) -> None:
    checkpoint = load_checkpoint(options.checkpoint)
    if options.num_latents is not None:
        checkpoint = _with_length(checkpoint, options.num_latents)
    if options.instruction:
        text = checkpoint.instructions.embedding(options.instruction)
    else:
        text = checkpoint.model.tokenizer.null_text(1)[0]
    sampling = checkpoint.config.sampling
    config = GenerationConfig(
        sampler=sampling.frame_sampler,
        num_steps=options.num_steps or sampling.frame_num_steps,
        num_sets=options.num_sets or sampling.frame_num_sets,
        guidance=sampling.frame_guidance if options.guidance is None else options.guidance,
        motion=Motion(options.motion_flow, FRAMES_PER_S),
    )
    picture = None if options.image is None else _read_picture(options.image)
    frames = generate_video(checkpoint, text, config, options.seed, picture)
    # Here, not above: only writing the file needs PyAV.
    from par_model.video_file import FIGURE, write_video

    write_video(options.out, frames, FRAMES_PER_S, FIGURE)
    print(f"{options.out}: {len(frames)} frames at {FRAMES_PER_S} frames per second")


def _with_length(checkpoint: Checkpoint, num_latents: int) -> Checkpoint:
    """The same weights for another clip length, which NOVA's time embedding depends on."""
    config = dataclasses.replace(checkpoint.config, num_slots=num_latents)
    config.validate()
    model = PARModel(config)
    model.load_state_dict(checkpoint.model.state_dict())
    return dataclasses.replace(checkpoint, config=config, model=model.eval().requires_grad_(False))


def _read_picture(path: Path) -> ImageArray:
    from PIL import Image, UnidentifiedImageError

    try:
        return np.asarray(Image.open(path).convert("RGB"))
    except (FileNotFoundError, UnidentifiedImageError) as error:
        raise ValueError(f"the picture {path} cannot be read ({error}).") from error


if __name__ == "__main__":
    sys.exit(main())
