# SPDX-License-Identifier: Apache-2.0
"""python -m par_model.describe --preset P: what a model is made of and what a control step costs.

    python -m par_model.describe --preset par_0_6b           Table 1, FLOPs, bytes, bounds
    python -m par_model.describe --preset par_0_6b --json    parameters by module
    python -m par_model.describe --preset par_0_6b_p256 --run-step     one step on this machine
    python -m par_model.describe --preset par_small --cache-drift      bf16 cache against float32

Everything is computed from the built modules and the configuration.
"""

import copy
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn
from tyro.conf import arg, create_mutex_group

from par_model.checkpoint import load_checkpoint, save_checkpoint
from par_model.command_line import BAD_USE, default_is, parse
from par_model.config import ModelConfig
from par_model.export.untrained import untrained_checkpoint
from par_model.interface import FloatArray, Observation
from par_model.load_policy import load_policy
from par_model.model import PARModel, count_parameters
from par_model.presets import PRESETS, preset
from par_model.roofline import (
    GPUS,
    Networks,
    Phase,
    bytes_per_cached_token,
    frame_phases,
    policy_phases,
)

# Table 1 of the paper, millions of parameters.
PAPER_MILLIONS = {
    "causal_transformer": 608.7,
    "frame_detokenizer": 32.8,
    "action_tokenizer": 0.6,
    "action_detokenizer": 21.1,
    "total": 663.2,
}


def parameter_table(model: PARModel) -> dict[str, int]:
    """Parameters by the rows of Table 1. The Causal-Transformer is all that is in no other row:
    both encoders, mixer, and the embeddings of text, time, masks and Begin-Of-Action."""
    total = count_parameters(model)
    config = model.config
    rows = {
        "frame_detokenizer": count_parameters(model.frame_decoder),
        "action_tokenizer": _count(model.tokenizer.action_embed) if config.num_actions else 0,
        "action_detokenizer": _count(model.action_head),
    }
    return {"causal_transformer": total - sum(rows.values()), **rows, "total": total}


def _count(module: nn.Module | None) -> int:
    return 0 if module is None else count_parameters(module)


_WHAT = create_mutex_group(required=False)


@dataclass(frozen=True)
class DescribeOptions:
    """The command line."""

    preset: Annotated[
        str, arg(metavar="NAME", help=f"the model's numbers: {', '.join(PRESETS)}")
    ] = "par_0_6b"
    # sampling steps of the action head
    num_steps: Annotated[int | None, default_is("the preset's or the checkpoint's")] = None
    # parameters by module, as JSON
    json: Annotated[bool, _WHAT] = False
    # time random weights here [s, GiB]
    run_step: Annotated[bool, _WHAT] = False
    # time this one [s, GiB]
    time_checkpoint: Annotated[Path | None, _WHAT, arg(metavar="FOLDER")] = None
    # bf16 cache against float32
    cache_drift: Annotated[bool, _WHAT] = False
    # weights for --cache-drift
    checkpoint: Annotated[Path | None, arg(metavar="FOLDER"), default_is("random")] = None
    # control steps of --cache-drift
    steps: int = 50
    # of --cache-drift: cut to so many blocks
    transformer_depth: Annotated[int | None, default_is("all")] = None


def main(arguments: list[str] | None = None) -> int:
    options = parse(DescribeOptions, "python -m par_model.describe", __doc__, arguments)
    try:
        config = preset(options.preset)
        if options.run_step:
            _run_step(config, options.num_steps)
        elif options.time_checkpoint:
            _time_checkpoint(options.time_checkpoint, options.num_steps)
        elif options.cache_drift:
            if options.transformer_depth:
                cut = dataclasses.replace(config.transformer, depth=options.transformer_depth)
                config = dataclasses.replace(config, transformer=cut)
            _print_drift(config, options.checkpoint, options.steps)
        elif options.json:
            with torch.device("meta"):
                print(json.dumps(parameter_table(PARModel(config))))
        else:
            _describe(config, options.num_steps)
    except ValueError as error:
        print(f"par_model.describe: {error}", file=sys.stderr)
        return BAD_USE
    return 0


def _describe(config: ModelConfig, num_steps: int | None) -> None:
    networks = Networks.build(config)
    table = parameter_table(networks.model)
    views = f", views {', '.join(config.views)}" if config.num_views > 1 else ""
    print(f"{config.name}: {config.image_height} x {config.image_width} pixels{views}\n")
    print(f"{'module':24}{'paper (M)':>12}{'ours':>16}")
    for name, count in table.items():
        print(f"{name:24}{PAPER_MILLIONS[name]:>12.1f}{count:>16,}")
    ratio = table["total"] / (PAPER_MILLIONS["total"] * 1e6) - 1
    print(f"{'difference of totals':24}{ratio:>28.3%}")
    print(
        f"frame codec (frozen, outside Table 1): {count_parameters(networks.codec):,} parameters\n"
    )
    print(
        f"K_O {config.num_frame_tokens}, L {config.num_actions}, image tokens "
        f"{config.num_image_tokens}; {config.num_slots} slots, cache of {config.cache_capacity} "
        f"tokens, {config.cache_capacity * bytes_per_cached_token(config) / 2**20:.0f} MiB in bf16"
    )
    sampling = config.sampling
    steps = num_steps or sampling.action_num_steps
    policy = policy_phases(networks, steps)
    _print_phases("control step, full context, no frame drawn", policy)
    frames = frame_phases(networks, sampling.frame_num_sets, sampling.frame_num_steps)
    _print_phases("one predicted frame more", frames)


def _print_phases(title: str, phases: list[Phase]) -> None:
    print(f"\n{title} (batch 1, bf16; lower bounds)")
    names = "".join(f"{gpu.name + ' ms':>10}" for gpu in GPUS)
    print(f"{'phase':44}{'GFLOP':>12}{'MB':>12}{names}")
    for phase in phases:
        bounds = "".join(f"{phase.bound_ms(gpu):>10.2f}" for gpu in GPUS)
        print(f"{phase.name:44}{phase.gflop:>12.1f}{phase.megabytes:>12.1f}{bounds}")
    totals = "".join(f"{sum(p.bound_ms(gpu) for p in phases):>10.2f}" for gpu in GPUS)
    gflop, megabytes = sum(p.gflop for p in phases), sum(p.megabytes for p in phases)
    print(f"{'total':44}{gflop:>12.1f}{megabytes:>12.1f}{totals}")


# ---- measured on this machine


def _run_step(config: ModelConfig, num_steps: int | None) -> None:
    """Write random weights, and time them in a process of their own, so that its memory counts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / config.name
        checkpoint = untrained_checkpoint(config)
        save_checkpoint(
            path,
            config=config,
            model=checkpoint.model,
            codec=checkpoint.codec,
            statistics=checkpoint.statistics,
            instructions=checkpoint.instructions,
            card="Random weights.\n",
            training=checkpoint.training,
        )
        del checkpoint
        command = [sys.executable, "-m", "par_model.describe", "--time-checkpoint", str(path)]
        if num_steps is not None:
            command += ["--num-steps", str(num_steps)]
        subprocess.run(command, check=True)


def _time_checkpoint(path: Path, num_steps: int | None) -> None:
    """Load a checkpoint and answer three observations: seconds and peak memory."""
    before = _peak_gib()
    started, cpu_s = time.perf_counter(), time.process_time()
    policy = load_policy(path, backend="eager", num_steps=num_steps)
    print(
        f"{path.name}: loaded in {time.perf_counter() - started:.1f} s "
        f"({time.process_time() - cpu_s:.1f} s of CPU), {policy.backend}"
    )
    spec = policy.spec
    policy.reset(spec.instructions[0], seed=0)
    rng = np.random.default_rng(0)
    executed: FloatArray | None = None
    for index in range(3):
        observation = Observation(
            image=rng.integers(0, 256, spec.picture_shape, dtype=np.uint8),
            views=spec.views,
            measured_joint_positions=np.zeros(len(spec.joint_names)),
            joint_names=spec.joint_names,
            stamp_s=0.4 * index,
            executed_actions=executed,
        )
        started, cpu_s = time.perf_counter(), time.process_time()
        policy.observe(observation)
        observed_s = time.perf_counter() - started
        executed = policy.act().joint_positions
        total_s = time.perf_counter() - started
        print(
            f"control step {index}: {total_s:.2f} s (picture and context {observed_s:.2f} s, "
            f"actions {total_s - observed_s:.2f} s; {time.process_time() - cpu_s:.1f} s of CPU) "
            f"with {torch.get_num_threads()} threads"
        )
    print(f"peak memory {_peak_gib():.2f} GiB, of which {before:.2f} GiB before loading")


def _peak_gib() -> float:
    """Of this program alone: getrusage's peak begins with that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(kib) / 2**20


@dataclass(frozen=True)
class CacheDrift:
    """What a bf16 cache does to the context, against float32 without a cache.

    Attributes:
        context_N: mean absolute difference of Z_A (layer-normed, so about 1) by step.
        actions_N: mean absolute difference of the normalised actions sampled from it, by step.
    """

    context_N: FloatArray
    actions_N: FloatArray


@torch.inference_mode()
def cache_drift(model: PARModel, num_slots: int, seed: int = 0) -> CacheDrift:
    """Cached bf16 slot by slot against one uncached float32 pass, on random inputs.

    The action head runs in float32 on both contexts from the same noise, so that what is measured
    is the context's drift alone.
    """
    config, generator = model.config, torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator)

    text = draw(config.num_text_tokens, config.text_width)
    latents = draw(
        num_slots, config.codec.latent_channels, config.latent_height, config.latent_width
    )
    actions = draw(num_slots, config.num_actions, config.action_width).clamp(-1, 1)
    proprio = draw(num_slots, config.proprio_width) if config.proprio_width else None
    noise = draw(config.horizon, config.action_width)
    start = torch.zeros(1, dtype=torch.int64)
    exact = model.encode_clip(text, latents, actions, proprio, start)
    half = copy.deepcopy(model).bfloat16()
    cache = half.prefill(text.bfloat16())
    context_errors, action_errors = [], []
    for slot in range(num_slots):
        one = slice(slot, slot + 1)
        context, cache = half.extend(
            cache,
            text.bfloat16(),
            latents[:, one].bfloat16(),
            actions[:, one].bfloat16(),
            None if proprio is None else proprio[:, one].bfloat16(),
            slot,
            slot == 0,
        )
        z_exact, z_half = exact.action_BNZC[:, slot], context.action_BNZC[:, 0].float()
        sampled = [model.predict_actions(z, noise, "ddim", 10) for z in (z_exact, z_half)]
        context_errors.append(float((z_exact - z_half).abs().mean()))
        action_errors.append(float((sampled[0] - sampled[1]).abs().mean()))
    return CacheDrift(np.array(context_errors), np.array(action_errors))


def _print_drift(config: ModelConfig, checkpoint: Path | None, num_steps: int) -> None:
    if checkpoint is not None:
        stored = load_checkpoint(checkpoint)
        config, state = stored.config, stored.model.state_dict()
    if not config.autoregressive:
        raise ValueError(f"{config.name} has no transformer and so no cache; choose another.")
    config = dataclasses.replace(config, num_slots=max(config.num_slots, num_steps + 1))
    model = untrained_checkpoint(config).model
    if checkpoint is not None:
        model.load_state_dict(state)
    drift = cache_drift(model, num_steps + 1)
    weights = f"weights of {checkpoint}" if checkpoint else "random weights"
    print(
        f"bf16 cache against uncached float32, {config.name}, {weights}, {num_steps} steps on "
        f"random inputs, mean absolute difference"
    )
    print(f"{'step':>6}{'context Z_A':>14}{'actions':>12}")
    for step in sorted({0, 1, num_steps // 5, num_steps // 2, num_steps}):
        print(f"{step:>6}{drift.context_N[step]:>14.2e}{drift.actions_N[step]:>12.2e}")
    print(f"{'worst':>6}{drift.context_N.max():>14.2e}{drift.actions_N.max():>12.2e}")


if __name__ == "__main__":
    sys.exit(main())
