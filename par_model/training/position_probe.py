# SPDX-License-Identifier: Apache-2.0
"""Can a cube's position be read from the codec's latents? The measurement that accepts a codec.

Shapes: B pictures; K tokens of a picture; D width of a token; M numbers to predict.

A small net is trained on the latents of reset pictures (one per seed, demonstration seeds) and
judged on seeds it has not seen. A convolutional net per task says whether the latents hold the
position: it accepts or refuses the codec. How well a policy can read them is another question: an
attention net on tokens cut as the policy cuts them, one for all tasks, answers it, for a number of
tokens and with or without the frame stem.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from par_model.frame_codec import FrameCodec
from par_model.frame_stem import stem_and_patches
from par_model.interface import FloatArray, ImageArray

ACCEPTED_MEDIAN_ERROR_MM = 5.0
# Cube x, y; then x, y, z of the second thing (goal or cube_b), metres.
_NUM_TARGETS = 5


@dataclass(frozen=True)
class ProbePictures:
    """Reset pictures of one task: uint8 [N, H, W, 3], and positions float64 [N, 3] by name."""

    task: str
    first_seed: int
    images: ImageArray
    positions: dict[str, FloatArray]


# Called with (step, number of steps) of the net that is trained.
Report = Callable[[int, int], None]


def _silent(step: int, num_steps: int) -> None:
    pass


@dataclass(frozen=True)
class ProbeConfig:
    """Numbers of the probe's training."""

    # one in so many pictures, at the end of each task's list, is what the probe is judged on
    held_out_part: int = 6
    num_steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 1e-3
    num_channels: int = 64
    token_width: int = 192
    depth: int = 2
    num_heads: int = 6
    seed: int = 0


@dataclass(frozen=True)
class TokenCut:
    """How a picture is cut into tokens: latent pixels per token, and the channels of the frame stem
    before that (0 for none)."""

    frame_patch: int
    stem_channels: int


@dataclass(frozen=True)
class ProbeResult:
    """Errors on held-out seeds, millimetres, in the plane for cubes and in space for goals.

    `num_tokens` is None for the convolutional net, which reads the latents as they are;
    `stem_channels` are those of the tokens' frame stem, 0 for none.
    """

    task: str
    num_tokens: int | None
    stem_channels: int
    median_cube_error_mm: float
    mean_cube_error_mm: float
    second_name: str
    median_second_error_mm: float
    mean_second_error_mm: float

    @property
    def accepted(self) -> bool | None:
        """Whether the codec passes for this task; tokens do not decide it."""
        if self.num_tokens is not None:
            return None
        return self.median_cube_error_mm <= ACCEPTED_MEDIAN_ERROR_MM


def num_training_pictures(images: ImageArray, config: ProbeConfig) -> int:
    """How many of a task's pictures are not held out."""
    return len(images) - max(1, len(images) // config.held_out_part)


def render_reset_pictures(
    task: str, first_seed: int, num_pictures: int, image_size: int
) -> ProbePictures:
    """Draw one picture per seed with ManiSkill (about 0.03 s each)."""
    from par_model.simulation.maniskill_env import ManiSkillArm

    images, positions = [], []
    with ManiSkillArm(task, image_size=image_size) as arm:
        for seed in range(first_seed, first_seed + num_pictures):
            arm.reset(seed, rebuild=seed == first_seed)
            images.append(arm.capture())
            positions.append(arm.environment_state())
    by_name = {name: np.stack([p[name] for p in positions]) for name in positions[0]}
    return ProbePictures(task, first_seed, np.stack(images), by_name)


def load_or_render(
    folder: Path, task: str, first_seed: int, num_pictures: int, image_size: int
) -> ProbePictures:
    """Reset pictures of `task`, kept in `folder` so that a second call does not draw again."""
    path = folder / f"{task}_{first_seed}_{num_pictures}_{image_size}px.npz"
    if not path.exists():
        pictures = render_reset_pictures(task, first_seed, num_pictures, image_size)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, images=pictures.images, **pictures.positions)
        return pictures
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    return ProbePictures(task, first_seed, arrays.pop("images"), arrays)


def latent_probe(
    latent_channels: int, latent_size: int, config: ProbeConfig, num_targets: int = _NUM_TARGETS
) -> nn.Module:
    """Latents [B, C, h, w] -> normalised positions [B, M], by convolutions."""
    width, small = config.num_channels, (latent_size + 1) // 2
    layers: list[nn.Module] = []
    for channels in (latent_channels, width, width):
        layers += [nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.GELU()]
    layers += [nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1), nn.GELU()]
    layers += [nn.Conv2d(width, width // 2, kernel_size=1), nn.GELU(), nn.Flatten()]
    layers += [nn.Linear(width // 2 * small * small, 4 * width), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(4 * width, num_targets))


class TokenProbe(nn.Module):
    """Tokens of a picture -> positions: each token votes, an attention weighs the votes."""

    def __init__(
        self, latent_channels: int, latent_size: int, cut: TokenCut, config: ProbeConfig
    ) -> None:
        super().__init__()
        num_tokens = (latent_size // cut.frame_patch) ** 2
        width = config.token_width
        self.stem, self.patch_embed = stem_and_patches(
            latent_channels, cut.stem_channels, cut.frame_patch, width
        )
        self.position_KD = nn.Parameter(0.02 * torch.randn(num_tokens, width))
        layer = nn.TransformerEncoderLayer(
            width, config.num_heads, 2 * width, dropout=0.1, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, config.depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.votes = nn.Linear(width, 2 * _NUM_TARGETS)

    def forward(self, latents_BChw: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> normalised positions [B, M]."""
        patches_BDhw = self.patch_embed(self.stem(latents_BChw))
        tokens_BKD = patches_BDhw.flatten(2).transpose(1, 2) + self.position_KD
        votes, weights = self.votes(self.norm(self.blocks(tokens_BKD))).chunk(2, dim=-1)
        return (votes * weights.softmax(dim=1)).sum(dim=1)


def probe_latents(
    codec: FrameCodec, tasks: list[ProbePictures], config: ProbeConfig, report: Report = _silent
) -> list[ProbeResult]:
    """Train a convolutional net for each task on its pictures; judge it on held-out seeds."""
    results = []
    for task in tasks:
        latents = encode_all(codec, task.images)
        torch.manual_seed(config.seed)
        net = latent_probe(latents.shape[1], latents.shape[2], config)
        results += _fit_and_judge(net, [task], [latents], None, 0, config, report)
    return results


def probe_tokens(
    codec: FrameCodec,
    tasks: list[ProbePictures],
    cut: TokenCut,
    config: ProbeConfig,
    report: Report = _silent,
) -> list[ProbeResult]:
    """Train one attention net on all tasks' tokens; judge it on each task's held-out seeds."""
    latents = [encode_all(codec, task.images) for task in tasks]
    torch.manual_seed(config.seed)
    net = TokenProbe(latents[0].shape[1], latents[0].shape[2], cut, config)
    num_tokens = len(net.position_KD)
    return _fit_and_judge(net, tasks, latents, num_tokens, cut.stem_channels, config, report)


def _fit_and_judge(
    net: nn.Module,
    tasks: list[ProbePictures],
    latents: list[Tensor],
    num_tokens: int | None,
    stem_channels: int,
    config: ProbeConfig,
    report: Report,
) -> list[ProbeResult]:
    targets = [_targets(task) for task in tasks]
    cuts = [num_training_pictures(task.images, config) for task in tasks]
    train_latents = torch.cat([x[:cut] for x, cut in zip(latents, cuts, strict=True)])
    train_targets = torch.cat([y[:cut] for y, cut in zip(targets, cuts, strict=True)])
    mean, std = train_targets.mean(dim=0), train_targets.std(dim=0) + 1e-6
    fit_probe(net, train_latents, (train_targets - mean) / std, config, report)
    results = []
    for task, x, y, cut in zip(tasks, latents, targets, cuts, strict=True):
        with torch.no_grad():
            predicted = torch.cat([net(part) for part in x[cut:].split(256)]) * std + mean
        results.append(_result(task, num_tokens, stem_channels, predicted, y[cut:]))
    return results


@torch.no_grad()
def encode_all(codec: FrameCodec, images: ImageArray, batch_size: int = 32) -> Tensor:
    """Latents float32 [N, C, h, w] of uint8 pictures [N, H, W, 3]."""
    parts = torch.from_numpy(images).split(batch_size)
    return torch.cat([codec.encode(part).contiguous() for part in parts])


def save_report(path: Path, results: list[ProbeResult], config: ProbeConfig) -> None:
    """Write the results as JSON."""
    report = {
        "accepted_median_cube_error_mm": ACCEPTED_MEDIAN_ERROR_MM,
        "probe": asdict(config),
        "results": [{**asdict(result), "accepted": result.accepted} for result in results],
    }
    path.write_text(json.dumps(report, indent=2) + "\n")


def _second_name(task: ProbePictures) -> str:
    return next(name for name in task.positions if name != "cube")


def _targets(task: ProbePictures) -> Tensor:
    columns = [task.positions["cube"][:, :2], task.positions[_second_name(task)]]
    return torch.from_numpy(np.concatenate(columns, axis=1)).float()


def fit_probe(
    net: nn.Module,
    latents_NChw: Tensor,
    targets_NM: Tensor,
    config: ProbeConfig,
    report: Report = _silent,
    known_NM: Tensor | None = None,
) -> None:
    """Train `net` to read normalised targets from latents; it is in evaluation mode afterwards.

    known_NM: which targets count, bool; None: all.
    """
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.num_steps
    )
    generator = torch.Generator().manual_seed(config.seed)
    for step in range(config.num_steps):
        chosen = torch.randint(len(latents_NChw), (config.batch_size,), generator=generator)
        read_BM, target_BM = net(latents_NChw[chosen]), targets_NM[chosen]
        if known_NM is None:
            loss = functional.smooth_l1_loss(read_BM, target_BM, beta=0.1)
        else:
            known_BM = known_NM[chosen]
            error_BM = functional.smooth_l1_loss(read_BM, target_BM, reduction="none", beta=0.1)
            loss = (error_BM * known_BM).sum() / known_BM.sum().clamp(min=1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        report(step + 1, config.num_steps)
    net.eval()


def _result(
    task: ProbePictures,
    num_tokens: int | None,
    stem_channels: int,
    predicted: Tensor,
    truth: Tensor,
) -> ProbeResult:
    error_mm = (predicted - truth) * 1000.0
    cube_mm = error_mm[:, :2].norm(dim=-1)
    second_mm = error_mm[:, 2:].norm(dim=-1)
    return ProbeResult(
        task=task.task,
        num_tokens=num_tokens,
        stem_channels=stem_channels,
        median_cube_error_mm=round(float(cube_mm.median()), 2),
        mean_cube_error_mm=round(float(cube_mm.mean()), 2),
        second_name=_second_name(task),
        median_second_error_mm=round(float(second_mm.median()), 2),
        mean_second_error_mm=round(float(second_mm.mean()), 2),
    )
