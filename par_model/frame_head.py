# SPDX-License-Identifier: Apache-2.0
"""From Z_O to the next latent: image encoder (set by set) and diffusion MLP (NOVA, section 3.3);
networks, loss and sampling.

Image tokens are patches of a latent, row-major, each ordered (dy, dx, channel). The latents of
several views stand one above the other: a set is drawn from all of them.

Shape letters: B batch, S slots, N image tokens, V visible tokens, K condition tokens, C width,
E values of an image token, M tokens of any number, c h w of a latent.
"""

import itertools
import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from par_model.config import ModelConfig
from par_model.diffusion import add_noise, denoising_errors, sample, sampling_times
from par_model.layers import AdaptiveNorm, Block, SiluMlp, sinusoid, spatial_embedding
from par_model.transformer import Mixer

# Diffusion times of the surprise, as shares of the training times (docs/lab_notebook/surprise.md).
_SURPRISE_TIMES = (0.15, 0.3, 0.5)


def patchify(latents_Bchw: Tensor, patch: int) -> Tensor:
    """[B, c, h, w] to [B, N, E]."""
    return rearrange(latents_Bchw, "b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch)


def unpatchify(tokens_BNE: Tensor, patch: int, rows: int) -> Tensor:
    """[B, N, E] to [B, c, h, w]; `rows` of tokens."""
    return rearrange(tokens_BNE, "b (h w) (p q c) -> b c (h p) (w q)", p=patch, q=patch, h=rows)


def set_sizes(num_tokens: int, num_sets: int) -> list[int]:
    """How many tokens each autoregressive set generates; cosine schedule, empty sets left out.

    Differences of round(N cos(pi/2 k/K)), k = 0..K [NOVA]. Sums to `num_tokens`.
    """
    left = [round(num_tokens * math.cos(math.pi / 2 * k / num_sets)) for k in range(num_sets + 1)]
    sizes = [before - after for before, after in itertools.pairwise(left)]
    return [size for size in sizes if size > 0]


class ImageEncoder(nn.Module):
    """Masked set prediction: the first half of the blocks sees [condition; known tokens],
    the second half [condition; all tokens]. Bidirectional, no mask, no cache."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        stack, width = config.image_encoder, config.image_encoder.width
        self.embed = nn.Linear(config.image_token_width, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, width))
        self.blocks = nn.ModuleList(
            Block(width, stack.num_heads, stack.mlp_ratio) for _ in range(stack.depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.view_embed = (
            nn.Parameter(0.02 * torch.randn(config.num_views, width))
            if config.num_views > 1
            else None
        )
        rows = config.latent_height // config.num_views // config.image_patch
        columns = config.latent_width // config.image_patch
        places = spatial_embedding(rows, columns, width).float()
        self.register_buffer("positions", places.repeat(config.num_views, 1), persistent=False)

    def forward(
        self,
        tokens_BNE: Tensor,
        visible_BV: Tensor,
        condition_BKC: Tensor,
        checkpoint_gradients: bool = False,
    ) -> Tensor:
        """Returns one vector per image token [B, N, C].

        Args:
            tokens_BNE: the latent's tokens; only the visible ones are read.
            visible_BV: int64 indices of the tokens that are known; V may be 0.
            condition_BKC: Z_O (through the mixer), prepended; it gets no position.
        """
        num_condition = condition_BKC.shape[1]
        half = len(self.blocks) // 2
        positions = self.positions.to(condition_BKC.dtype)
        if self.view_embed is not None:
            tokens_of_view = len(positions) // len(self.view_embed)
            positions = positions + self.view_embed.repeat_interleave(tokens_of_view, dim=0)
        index_BVC = visible_BV.unsqueeze(-1).expand(-1, -1, condition_BKC.shape[-1])

        visible_BVE = tokens_BNE.gather(
            1, visible_BV.unsqueeze(-1).expand(-1, -1, tokens_BNE.shape[-1])
        )
        x = torch.cat((condition_BKC, self.embed(visible_BVE) + positions[visible_BV]), dim=1)
        x = _through(self.blocks[:half], x, checkpoint_gradients)

        all_tokens = (self.mask_token + positions).expand(tokens_BNE.shape[0], -1, -1)
        all_tokens = all_tokens.scatter(1, index_BVC, x[:, num_condition:])
        x = torch.cat((x[:, :num_condition], all_tokens), dim=1)
        x = _through(self.blocks[half:], x, checkpoint_gradients)
        return self.norm(x)[:, num_condition:]


def _through(blocks: nn.ModuleList, x_BSC: Tensor, checkpoint_gradients: bool) -> Tensor:
    for block in blocks:
        if checkpoint_gradients:
            x_BSC = checkpoint(block, x_BSC, use_reentrant=False)
        else:
            x_BSC = block(x_BSC)
    return x_BSC


class FrameDecoderBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = AdaptiveNorm(width, width, 3)
        self.proj = SiluMlp(width, width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-5)

    def forward(self, x_MC: Tensor, condition_MC: Tensor) -> Tensor:
        hidden, (gate,) = self.norm1(x_MC, condition_MC)
        return x_MC + gate * self.norm2(self.proj(hidden))


class FrameDecoder(nn.Module):
    """The diffusion MLP: (noisy token, t, z) -> noise, each token on its own (paper, Eq. 4).

    Attributes:
        diffusion: the noise process that `loss` trains on and `sample` reverses.
        num_draws: times and noises that `loss` draws for each token.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.diffusion = config.frame_diffusion
        self.num_draws = config.loss.num_draws
        mlp, width = config.frame_decoder, config.frame_decoder.width
        self.time_frequencies = mlp.time_frequencies
        self.embed = nn.Linear(config.image_token_width, width)
        self.timestep_proj = SiluMlp(mlp.time_frequencies, width, width)
        self.condition_proj = SiluMlp(config.transformer.width, width, width)
        self.blocks = nn.ModuleList(FrameDecoderBlock(width) for _ in range(mlp.depth))
        self.norm = AdaptiveNorm(width, width, 2)
        self.head = nn.Linear(width, config.image_token_width)

    def time_condition(self, times_M: Tensor) -> Tensor:
        """Diffusion times to [M, C]."""
        waves = sinusoid(times_M, self.time_frequencies // 2, cos_first=True)
        return self.timestep_proj(waves.to(self.head.weight.dtype))

    def forward(
        self, noisy_ME: Tensor, time_condition_MC: Tensor, z_condition_MC: Tensor
    ) -> Tensor:
        """`z_condition_MC` is `condition_proj(z)`: once a token, reused over the steps."""
        condition_MC = time_condition_MC + z_condition_MC
        x_MC = self.embed(noisy_ME)
        for block in self.blocks:
            x_MC = block(x_MC, condition_MC)
        x_MC, _ = self.norm(x_MC, condition_MC)
        return self.head(x_MC)

    def loss(self, z_MC: Tensor, tokens_ME: Tensor, generator: torch.Generator) -> Tensor:
        """Eq. 4, 0-d: one t and one noise per token and draw."""
        errors = denoising_errors(
            lambda noisy, times: self(
                noisy,
                self.time_condition(times),
                self.condition_proj(z_MC).repeat(self.num_draws, 1),
            ),
            tokens_ME,
            self.diffusion,
            self.num_draws,
            generator,
        )
        return errors.mean()

    def sample(
        self,
        z_BMC: Tensor,
        noise_BME: Tensor,
        sampler: str,
        num_steps: int,
        guidance: float,
        generator: torch.Generator,
    ) -> Tensor:
        """Tokens like `noise_BME`. Where `guidance` is not 1, z has twice as many rows: the second
        half are those without instruction."""
        condition = self.condition_proj(z_BMC)
        times = sampling_times(self.diffusion, sampler, num_steps).to(z_BMC.device)
        time_conditions = self.time_condition(times)

        def predict(noisy: Tensor, index: int) -> Tensor:
            if guidance == 1.0:
                return self(noisy, time_conditions[index], condition)
            both = self(noisy.repeat(2, 1, 1), time_conditions[index], condition)
            conditioned, null = both.chunk(2)
            return null + guidance * (conditioned - null)

        return sample(predict, noise_BME, self.diffusion, sampler, num_steps, generator)


class FrameRegressor(nn.Module):
    """PAR-Discrete's head for frames: an MLP from z to the token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mlp = SiluMlp(
            config.transformer.width, config.frame_decoder.width, config.image_token_width
        )

    def forward(self, z_MC: Tensor) -> Tensor:
        return self.mlp(z_MC)

    def loss(self, z_MC: Tensor, tokens_ME: Tensor, generator: torch.Generator) -> Tensor:
        """As `FrameDecoder.loss`, of the tokens themselves; draws nothing."""
        return (self(z_MC) - tokens_ME).square().mean()

    def sample(
        self,
        z_BMC: Tensor,
        noise_BME: Tensor,
        sampler: str,
        num_steps: int,
        guidance: float,
        generator: torch.Generator,
    ) -> Tensor:
        """As `FrameDecoder.sample`; reads z only, and has no guidance."""
        return self(z_BMC[: noise_BME.shape[0]])


def make_frame_decoder(config: ModelConfig) -> FrameDecoder | FrameRegressor:
    """The decoder that `config.frame_head` names."""
    return FrameDecoder(config) if config.frame_head == "diffusion" else FrameRegressor(config)


class FrameHead:
    """Z_O to the next latent: what the image encoder is told, the loss, and the generation.

    No module itself: mixer, image encoder and decoder are the PARModel's, under the names that
    they have in checkpoint files.
    """

    def __init__(
        self,
        config: ModelConfig,
        mixer: Mixer | None,
        image_encoder: ImageEncoder,
        decoder: FrameDecoder | FrameRegressor,
    ) -> None:
        self._config = config
        self._mixer, self._image_encoder, self._decoder = mixer, image_encoder, decoder

    def condition(self, z_BKC: Tensor, anchor_BKC: Tensor | None) -> Tensor:
        """Z_O of a slot to what the image encoder is told.

        Args:
            anchor_BKC: Z_O of the context's first slot, which the mixer scales and shifts;
                None where this is that first slot: its output is used as it is.
        """
        if self._mixer is None or anchor_BKC is None:
            return z_BKC
        return self._mixer(z_BKC, anchor_BKC)

    def clip_conditions(self, z_BSKC: Tensor) -> Tensor:
        """`condition` of every slot of a clip, anchored at its first."""
        anchor = z_BSKC[:, :1]
        if self._mixer is None:
            return z_BSKC
        return torch.cat((anchor, self._mixer(z_BSKC[:, 1:], anchor)), dim=1)

    def loss(
        self,
        z_BSKC: Tensor,
        latents_BSchw: Tensor,
        valid_M: Tensor,
        generator: torch.Generator,
        checkpoint_gradients: bool = False,
        mask_ratio: float | None = None,
    ) -> Tensor:
        """L_obs of the paper's Eq. 11, 0-d: Eq. 4 on NOVA's masked sets, t and noise per token, on
        a random share of the frames.

        Args:
            z_BSKC: Z_O of each slot, raw.
            latents_BSchw: what followed each slot.
            valid_M: int64, which of the B * S latents count.
            mask_ratio: masked share of the tokens; None: drawn, which on a GPU waits for it.
        """
        loss = self._config.loss
        if loss.frame_weight == 0:
            return z_BSKC.new_zeros(())
        none_counts = valid_M.shape[0] == 0
        if none_counts:
            # Of several processes each must use the same modules.
            valid_M = valid_M.new_zeros(1)
        count = max(1, round(loss.frame_fraction * valid_M.shape[0]))
        order = torch.rand(valid_M.shape[0], generator=generator, device=valid_M.device).argsort()
        chosen_M = valid_M[order[:count]]
        condition_MKC = self.clip_conditions(z_BSKC).flatten(0, 1)[chosen_M]
        tokens_MNE = patchify(latents_BSchw.flatten(0, 1)[chosen_M], self._config.image_patch)
        if mask_ratio is None:
            mask_ratio = sample_mask_ratio(loss.mask_ratio_low, loss.mask_ratio_std, generator)
        visible, masked_MV = visible_tokens(count, tokens_MNE.shape[1], mask_ratio, generator)
        z_MNC = self._image_encoder(tokens_MNE, visible, condition_MKC, checkpoint_gradients)
        rows_M1 = torch.arange(count, device=masked_MV.device)[:, None]
        z, tokens = z_MNC[rows_M1, masked_MV], tokens_MNE[rows_M1, masked_MV]
        result = self._decoder.loss(z.flatten(0, 1), tokens.flatten(0, 1), generator)
        return 0.0 * result if none_counts else result

    def foretell(self, condition_BKC: Tensor) -> Tensor:
        """[B, N, C]: what the decoder is told of each image token of the next latent, without any
        visible token.

        Args:
            condition_BKC: Z_O of a slot through `condition`.
        """
        shape = (len(condition_BKC), self._config.num_image_tokens, self._config.image_token_width)
        none_visible = torch.zeros(shape[0], 0, dtype=torch.int64, device=condition_BKC.device)
        return self._image_encoder(condition_BKC.new_zeros(shape), none_visible, condition_BKC)

    def observed_errors(
        self, z_BNC: Tensor, latents_Bchw: Tensor, noise_DNE: Tensor, times_D: Tensor
    ) -> Tensor:
        """[B, N]: Eq. 4 of each image token of a latent that was observed, mean over D given noises
        and diffusion times. For PAR-Discrete the squared error of its one prediction, which reads
        no noise.

        Args:
            z_BNC: what `foretell` said in the slot before.
        """
        tokens_BNE = patchify(latents_Bchw, self._config.image_patch)
        if isinstance(self._decoder, FrameRegressor):
            return (self._decoder(z_BNC) - tokens_BNE).square().mean(dim=-1)
        clean_DBNE = tokens_BNE.expand(len(times_D), -1, -1, -1)
        noise_DBNE = noise_DNE[:, None].expand_as(clean_DBNE).to(clean_DBNE.dtype)
        noisy, target = add_noise(self._config.frame_diffusion, clean_DBNE, noise_DBNE, times_D)
        predicted = self._decoder(
            noisy,
            self._decoder.time_condition(times_D)[:, None, None],
            self._decoder.condition_proj(z_BNC),
        )
        return (predicted - target).square().mean(dim=-1).mean(dim=0)

    def sample(
        self,
        condition_BKC: Tensor,
        order_N: Tensor,
        generator: torch.Generator,
        sampler: str,
        num_steps: int,
        num_sets: int,
        null_condition_BKC: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """The next latent [B, c, h, w], set by set (paper, Eq. 7).

        Args:
            condition_BKC: Z_O through `condition`.
            order_N: the random order of image tokens, one per episode.
            null_condition_BKC: the same without instruction; needed where guidance is not 1.

        Raises:
            ValueError: guidance without `null_condition_BKC`; as `make_scheduler`.
        """
        config = self._config
        if guidance != 1.0:
            if null_condition_BKC is None:
                raise ValueError("guidance other than 1 needs the condition without instruction.")
            condition_BKC = torch.cat((condition_BKC, null_condition_BKC))
        batch_size, num_tokens = condition_BKC.shape[0], config.num_image_tokens
        single = batch_size // 2 if guidance != 1.0 else batch_size
        tokens = condition_BKC.new_zeros(batch_size, num_tokens, config.image_token_width)
        done = 0
        for size in set_sizes(num_tokens, num_sets):
            visible = order_N[:done].expand(batch_size, -1)
            chosen = order_N[done : done + size]
            z = self._image_encoder(tokens, visible, condition_BKC)[:, chosen]
            noise = torch.randn(
                single, num_tokens, config.image_token_width, generator=generator, device=z.device
            )
            values = self._decoder.sample(
                z, noise[:, chosen].to(z.dtype), sampler, num_steps, guidance, generator
            )
            tokens = tokens.index_copy(1, chosen, values.repeat(batch_size // single, 1, 1))
            done += size
        rows = config.latent_height // config.image_patch
        return unpatchify(tokens[:single], config.image_patch, rows)


def surprise_draws(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """The noises float32 [D, N, E] and diffusion times int64 [D] of `FrameHead.observed_errors`:
    the same for every observation, machine and run."""
    shares = torch.tensor(_SURPRISE_TIMES)
    times = (shares * config.frame_diffusion.num_train_timesteps).long()
    generator = torch.Generator().manual_seed(0)
    shape = (len(times), config.num_image_tokens, config.image_token_width)
    return torch.randn(shape, generator=generator), times


def visible_tokens(
    batch_size: int, num_tokens: int, mask_ratio: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A random choice of visible tokens per sample, the same number for all.

    Returns int64 indices: the visible tokens [B, V], and those to be predicted [B, N - V], in
    order.
    """
    num_visible = round((1 - mask_ratio) * num_tokens)
    noise_BN = torch.rand(batch_size, num_tokens, generator=generator, device=generator.device)
    order_BN = noise_BN.argsort(dim=1)
    return order_BN[:, :num_visible], order_BN[:, num_visible:].sort(dim=1).values


def sample_mask_ratio(low: float, std: float, generator: torch.Generator) -> float:
    """Normal around 1 with `std`, truncated to [low, 1] [NOVA]: the half normal by inversion."""
    half_width = 0.5 * math.erf((1 - low) / (std * math.sqrt(2)))
    uniform = torch.rand((), generator=generator, device=generator.device, dtype=torch.float64)
    depth = torch.erfinv(uniform * half_width * 2) * math.sqrt(2) * std
    return 1.0 - float(depth)


def generation_order(num_tokens: int, generator: torch.Generator) -> Tensor:
    """The random order of an episode's image tokens: drawn once, reused for every frame."""
    noise = torch.rand(num_tokens, generator=generator, device=generator.device)
    return noise.argsort()
