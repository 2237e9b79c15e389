# SPDX-License-Identifier: Apache-2.0
"""python -m par_model.train STAGE: from demonstrations to a checkpoint.

    D=$HOME/par_data
    python -m par_model.train all --data $D/PushCube --out runs/push --hours 1

does all of it: the frame codec, its position probe, the latents, the policy. Each stage is also a
command of its own, goes on where it was stopped, and says what it needs.

    python -m par_model.train recipe config/recipes/push_short.yaml --out runs/push_short

runs all stages of a file, demonstrations and measurement included.
"""

import dataclasses
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from par_model.checkpoint import is_checkpoint
from par_model.command_line import parse, run_command
from par_model.inference_defaults import read_defaults
from par_model.interface import ImageArray
from par_model.presets import preset
from par_model.surprise import FORWARD_FILE
from par_model.training.ablations import ABLATIONS, FULL, ablated_model
from par_model.training.codec_training import (
    CodecTrainingConfig,
    FrameSource,
    load_codec,
    train_codec,
)
from par_model.training.forward_data import forward_data, forward_provenance
from par_model.training.forward_training import ForwardTrainingConfig, train_forward_model
from par_model.training.latent_cache import encode_demonstrations
from par_model.training.policy_data import (
    Start,
    demonstration_sets,
    drawing_alone,
    finetuning,
    going_on_from,
    interval_s,
    latent_cache,
    policy_parts,
    read_start,
    require_picture_size,
    spread_frames,
    without_actions,
    writable_codec_folder,
)
from par_model.training.policy_options import (
    execution,
    latent_memory,
    memory_plan,
    training_config,
    training_device,
)
from par_model.training.policy_training import PolicyTrainer
from par_model.training.position_probe import (
    ProbeConfig,
    ProbePictures,
    TokenCut,
    load_or_render,
    num_training_pictures,
    probe_latents,
    probe_tokens,
    save_report,
)
from par_model.training.processes import Processes, is_under_torchrun, joined
from par_model.training.run_log import Progress
from par_model.training.scene_pictures import spread_scenes
from par_model.training.stage_options import (
    AblationsOptions,
    AllOptions,
    CodecOptions,
    DataOptions,
    ForwardOptions,
    FramesOptions,
    LatentsOptions,
    LearningOptions,
    PicturesOptions,
    PolicyOptions,
    ProbeOptions,
    RecipeOptions,
    Stage,
    StageOptions,
)
from par_model.training.training_presets import training_preset
from par_model.training.training_state import FILE_NAME

PROGRAM = "python -m par_model.train"
# Reset pictures of the probe: demonstration seeds that `collect` reaches last.
FIRST_PROBE_SEED = 4000


def main(arguments: list[str] | None = None) -> int:
    # Vanishing gradients are denormal numbers, with which a CPU multiplies many times slower.
    # Worker threads take the setting over when they are made, so it comes first.
    torch.set_flush_denormal(True)
    try:
        options = parse(Stage, PROGRAM, __doc__, arguments)
        torch.set_num_threads(options.threads)
        return run_command(
            lambda: _run_stage(options),
            "par_model.train",
            "stopped; the same command continues from the last saved step.",
        )
    finally:
        # It belongs to the thread, not to this command.
        torch.set_flush_denormal(False)


def _run_stage(options: StageOptions | RecipeOptions) -> None:
    if is_under_torchrun() and type(options) not in (PolicyOptions, FramesOptions, PicturesOptions):
        raise ValueError(
            "torchrun is for the stages `policy`, `frames` and `pictures`; run this one by itself "
            "first."
        )
    _STAGES[type(options)](options)


def run_codec(options: CodecOptions) -> None:
    """Train the frame codec on the demonstrations' frames and on reset pictures."""
    sets = demonstration_sets(options)
    config = CodecTrainingConfig(
        num_steps=options.codec_steps,
        learning_rate=options.codec_learning_rate,
        position_weight=0.0 if options.decoder_only else options.position_weight,
        decoder_only=options.decoder_only,
        seed=options.seed,
    )
    if options.decoder_only and options.start_from is None:
        raise ValueError("--decoder-only is with --start-from: whose latents stay the same.")
    pictures: dict[str, ImageArray] = {}
    shares: dict[str, float] = {}
    numbers: dict[str, npt.NDArray[np.float32]] = {}
    for demonstrations in sets:
        pictures[str(demonstrations.path)] = spread_frames(
            demonstrations, options.frames, preset(options.preset).views
        )
        shares[str(demonstrations.path)] = 1.0
    for resets in _probe_pictures(options):
        name = f"reset pictures of {resets.task}"
        pictures[name] = resets.images[: num_training_pictures(resets.images, ProbeConfig())]
        shares[name] = 0.5
    for folder in options.scenes:
        name = f"scenes of {folder}"
        pictures[name], numbers[name] = spread_scenes(folder, options.frames)
        shares[name] = 1.0
    source = FrameSource(pictures, shares, numbers)
    with tqdm(total=config.num_steps, desc="codec", mininterval=interval_s()) as bar:

        def report(step: int, num_steps: int, error: float) -> None:
            bar.n = step
            bar.set_postfix(error=f"{error:.2f}/255", refresh=False)
            bar.update(0)

        train_codec(
            preset(options.preset).codec,
            source,
            config,
            writable_codec_folder(options, "a codec"),
            report,
            start_from=options.start_from,
        )


def run_probe(options: ProbeOptions | AllOptions) -> None:
    """Measure how well cube positions can be read from the latents; write probe.json."""
    if any(options.frame_stem) and not options.frame_patch:
        raise ValueError("--frame-stem needs the size of the tokens after it: give --frame-patch.")
    folder = writable_codec_folder(options, "the probe's report")
    codec, config = load_codec(folder), ProbeConfig(num_steps=options.probe_steps)
    pictures = _probe_pictures(options)
    with tqdm(desc="probe", mininterval=interval_s()) as bar:

        def report(step: int, num_steps: int) -> None:
            bar.total, bar.n = num_steps, step
            bar.update(0)

        results = probe_latents(codec, pictures, config, report)
        for frame_patch in options.frame_patch or []:
            for stem_channels in options.frame_stem:
                cut = TokenCut(frame_patch, stem_channels)
                results += probe_tokens(codec, pictures, cut, config, report)
    for result in results:
        verdict = {None: "", True: "; accepted", False: "; NOT accepted"}[result.accepted]
        reader = "the latents" if result.num_tokens is None else f"{result.num_tokens} tokens"
        reader += f" behind a stem of {result.stem_channels}" if result.stem_channels else ""
        print(
            f"{result.task}, read from {reader}: cube error median "
            f"{result.median_cube_error_mm} mm, mean {result.mean_cube_error_mm} mm; "
            f"{result.second_name} median {result.median_second_error_mm} mm{verdict}"
        )
    save_report(folder / "probe.json", results, config)


def encode_latents(options: DataOptions, ablation: str = FULL) -> None:
    """Encode what the cache lacks."""
    start = read_start(options, ablation)
    codec = start.codec
    for demonstrations in demonstration_sets(options):
        require_picture_size(demonstrations, start.model)
        cache = latent_cache(options, start, demonstrations)
        with tqdm(
            desc=f"latents of {demonstrations.path.name}", unit="episode", mininterval=interval_s()
        ) as bar:

            def report(done: int, total: int, bar: tqdm = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            encode_demonstrations(demonstrations, codec, cache, report)


def train_policy(options: LearningOptions, ablation: str) -> None:
    """Train a variant of the policy on the cached latents."""
    if options.plan:
        _print_plan(options, ablation)
        return
    _train(options, read_start(options, ablation), ablation)


def _train(options: LearningOptions, start: Start, ablation: str) -> None:
    if options.start_checkpoint is not None and options.pretrained is None:
        sets = demonstration_sets(options)
        texts = tuple(text for demonstrations in sets for text in demonstrations.instructions)
        start = going_on_from(start, options.start_checkpoint, texts)
    if isinstance(options, PicturesOptions):
        start = drawing_alone(start, options)
    defaults = read_defaults(options.sampling, options.context_slots)
    # What a variant says of its memory holds whatever is asked of the full model.
    model = ABLATIONS[ablation].model(defaults.of(start.model))
    start = dataclasses.replace(start, model=dataclasses.replace(model, name=start.model.name))
    with joined(training_device(options.device)) as device:
        parts = policy_parts(options, start, latent_memory(options, device))
        tasks = sorted({episode.task for episode in parts.training_episodes})
        config = training_config(options, start.training_preset, tasks, ablation)
        plan = memory_plan(options, parts.model, config, parts.finetuning, device)
        if plan is not None and Processes().is_first:
            print(plan.report(), flush=True)
        if options.resume == "never" and (options.out / FILE_NAME).exists():
            raise ValueError(
                f"{options.out} holds a run; resume it (--resume auto) or change --out."
            )
        trainer = PolicyTrainer(
            parts,
            config,
            options.out,
            device,
            options.resume == "other-data",
            options.start_checkpoint,
            execution(options, plan, device),
        )
        with tqdm(desc="policy", mininterval=interval_s(), disable=not Processes().is_first) as bar:
            trainer.run(lambda progress: _show(bar, progress))
        if Processes().is_first:
            print(f"checkpoint: {options.out / 'checkpoint'}")


def _print_plan(options: LearningOptions, ablation: str) -> None:
    """Needs neither latents nor a codec."""
    if options.pretrained is None:
        model, name = ablated_model(ablation, preset(options.preset)), options.preset
        defaults = training_preset(name)
    else:
        start = read_start(options, ablation)
        model, defaults = start.model, start.training_preset
    config = training_config(options, defaults, (), ablation)
    device = training_device(options.device)
    plan = memory_plan(options, model, config, finetuning(options), device)
    assert plan is not None
    if int(os.environ.get("RANK", "0")) == 0:
        print(plan.report())


def run_frames(options: FramesOptions) -> None:
    """Train what sees on scenes and frames; the action head and the chunk's reader rest."""
    options = dataclasses.replace(options, chunk_weight=0.0)
    if options.plan:
        _print_plan(options, FULL)
        return
    _train(options, without_actions(read_start(options, FULL)), FULL)


def run_pictures(options: PicturesOptions) -> None:
    """Train only what draws the next picture."""
    train_policy(dataclasses.replace(options, scene_weight=0.0, chunk_weight=0.0), FULL)


def run_forward(options: ForwardOptions) -> None:
    """Train the forward model on the cached latents."""
    start, sets = read_start(options, FULL), demonstration_sets(options)
    config = ForwardTrainingConfig(
        num_steps=options.steps, learning_rate=options.learning_rate, seed=options.seed
    )
    data = forward_data(options, start, sets, config.whole_chunk_share)
    with tqdm(total=config.num_steps, desc="forward", mininterval=interval_s()) as bar:

        def report(step: int, num_steps: int, likelihood: float) -> None:
            bar.n = step
            bar.set_postfix(nll=f"{likelihood:.3f}", refresh=False)
            bar.update(0)

        about = forward_provenance(options, sets)
        stored = train_forward_model(data, config, options.out, about, report)
    assert stored is not None
    judged = stored.training.get("held_out")
    if judged is None:
        print("No episode was held out, so the forward model was not measured.")
    else:
        print(
            f"On held-out episodes the squared error is {judged['squared_error']:g}; between two "
            f"pictures {judged['squared_change']:g} changes (squared deviations of a latent)."
        )
    print(f"forward model: {options.out / FORWARD_FILE}")


def run_policy(options: PolicyOptions) -> None:
    """Train the policy on the cached latents."""
    train_policy(options, options.ablation)


def run_all(options: AllOptions) -> None:
    """Codec, probe, latents, policy; stages that are finished are left as they are."""
    if options.plan:
        _print_plan(options, options.ablation)
        return
    codec = options.codec or options.start_checkpoint or options.out / "codec"
    latents = options.latents or options.out / "latents"
    options = dataclasses.replace(options, codec=codec, latents=latents)
    if options.pretrained is None and not is_checkpoint(codec):
        if not (codec / "codec.safetensors").exists():
            if (options.out / "policy" / FILE_NAME).exists():
                raise ValueError(
                    f"{options.out} holds a policy whose codec is not in {codec}; give the same "
                    "--codec as before, or another --out."
                )
            run_codec(options)
        if not (codec / "probe.json").exists():
            run_probe(options)
    encode_latents(options, options.ablation)
    run_policy(dataclasses.replace(options, out=options.out / "policy"))


def run_ablations(options: AblationsOptions) -> None:
    """Train the variants one after another."""
    for name in options.only or ABLATIONS:
        one = dataclasses.replace(options, out=options.out / name)
        print(f"{ABLATIONS[name].title}: {one.out}", flush=True)
        train_policy(one, name)


def run_recipe(options: RecipeOptions) -> None:
    """All stages of a recipe file that are not done; or say which these are."""
    # The commands that are stages import this module.
    from par_model.training.recipe_run import open_run

    run = open_run(options.file, options.out, options, options.threads, options.seed)
    if options.plan:
        print(run.plan())
    else:
        run.run()


_STAGES: dict[type[StageOptions | RecipeOptions], Callable[[Any], None]] = {
    CodecOptions: run_codec,
    ProbeOptions: run_probe,
    LatentsOptions: encode_latents,
    FramesOptions: run_frames,
    PicturesOptions: run_pictures,
    ForwardOptions: run_forward,
    PolicyOptions: run_policy,
    AllOptions: run_all,
    AblationsOptions: run_ablations,
    RecipeOptions: run_recipe,
}


def _probe_pictures(options: StageOptions) -> list[ProbePictures]:
    folder = options.reset_pictures
    folder = folder or writable_codec_folder(options, "reset pictures") / "reset_pictures"
    image_size = preset(options.preset).image_height
    return [
        load_or_render(folder, task, FIRST_PROBE_SEED, options.num_reset_pictures, image_size)
        for task in options.probe_tasks
    ]


def _show(bar: tqdm, progress: Progress) -> None:
    bar.total = progress.num_steps
    bar.set_postfix(
        frame=f"{progress.frame_loss:.4f}",
        action=f"{progress.action_loss:.4f}",
        **{name: f"{value:.3g}" for name, value in progress.side.items()},
        step_s=f"{progress.step_s:.2f}",
        refresh=False,
    )
    if bar.n == 0:
        # A resumed run: the steps before it took no time here.
        bar.initial = bar.n = bar.last_print_n = progress.step
    bar.update(progress.step - bar.n)


if __name__ == "__main__":
    sys.exit(main())
