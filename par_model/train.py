# SPDX-License-Identifier: Apache-2.0
"""python -m par_model.train STAGE: from demonstrations to a checkpoint.

    D=$HOME/par_data
    python -m par_model.train all --data $D/PushCube --out runs/push --hours 1

does all of it: the frame codec, its position probe, the latents, the policy. Each stage is also a
command of its own, goes on where it was stopped, and says what it needs.
"""

import argparse
import dataclasses
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from par_model.checkpoint import is_checkpoint, load_checkpoint
from par_model.config import ModelConfig
from par_model.frame_codec import FrameCodec
from par_model.instruction import InstructionTable, code_table
from par_model.interface import ImageArray
from par_model.json_file import read_object
from par_model.normalization import Statistics, fit_statistics, from_json_dict
from par_model.presets import PRESETS, preset
from par_model.simulation.tasks import TASKS
from par_model.training.ablations import ABLATIONS, FULL, ablated_model
from par_model.training.clip_config import ClipConfig
from par_model.training.clips import TrainingEpisode
from par_model.training.codec_training import (
    CodecTrainingConfig,
    FrameSource,
    codec_provenance,
    load_codec,
    train_codec,
)
from par_model.training.demonstrations_on_disk import DemonstrationSet, is_held_out
from par_model.training.finetuning import LEARNING_RATE, FinetuningConfig
from par_model.training.latent_cache import LatentCache, ShiftConfig, encode_demonstrations
from par_model.training.lerobot_dataset import ROBOT_TYPE
from par_model.training.policy_training import (
    PolicyParts,
    PolicyTrainer,
    PolicyTrainingConfig,
    Progress,
)
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

# Reset pictures of the probe: demonstration seeds that `collect` reaches last.
FIRST_PROBE_SEED = 4000
NUM_PROBE_PICTURES = 1800


def main(arguments: list[str] | None = None) -> int:
    # Vanishing gradients are denormal numbers, with which a CPU multiplies many times slower.
    # Worker threads take the setting over when they are made, so it comes first.
    torch.set_flush_denormal(True)
    parser = _parser()
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        options.run(options)
    except ValueError as error:
        print(f"par_model.train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last saved step.", file=sys.stderr)
        return 130
    return 0


def run_codec(options: argparse.Namespace) -> None:
    """Train the frame codec on the demonstrations' frames and on reset pictures."""
    sets = [DemonstrationSet(path) for path in options.data]
    config = CodecTrainingConfig(
        num_steps=options.codec_steps,
        learning_rate=options.codec_learning_rate,
        seed=options.seed,
    )
    pictures: dict[str, ImageArray] = {}
    shares: dict[str, float] = {}
    for demonstrations in sets:
        pictures[str(demonstrations.path)] = _spread_frames(demonstrations, options.frames)
        shares[str(demonstrations.path)] = 1.0
    for resets in _probe_pictures(options):
        name = f"reset pictures of {resets.task}"
        pictures[name] = resets.images[: num_training_pictures(resets.images, ProbeConfig())]
        shares[name] = 0.5
    source = FrameSource(pictures, shares)
    with tqdm(total=config.num_steps, desc="codec", mininterval=_interval_s()) as bar:

        def report(step: int, num_steps: int, error: float) -> None:
            bar.n = step
            bar.set_postfix(error=f"{error:.2f}/255", refresh=False)
            bar.update(0)

        train_codec(
            preset(options.preset).codec,
            source,
            config,
            _writable_codec_folder(options, "a codec"),
            report,
            start_from=options.start_from,
        )


def run_probe(options: argparse.Namespace) -> None:
    """Measure how well cube positions can be read from the latents; write probe.json."""
    if any(options.frame_stem) and not options.frame_patch:
        raise ValueError("--frame-stem stands before tokens; say their size with --frame-patch.")
    folder = _writable_codec_folder(options, "the probe's report")
    codec, config = load_codec(folder), ProbeConfig(num_steps=options.probe_steps)
    pictures = _probe_pictures(options)
    with tqdm(desc="probe", mininterval=_interval_s()) as bar:

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


def run_latents(options: argparse.Namespace) -> None:
    """Encode what the cache lacks."""
    start = _start(options)
    codec = start.codec
    for path in options.data:
        demonstrations = DemonstrationSet(path)
        _require_picture_size(demonstrations, start.model)
        cache = _cache(options, start, demonstrations)
        with tqdm(desc=f"latents of {path.name}", unit="episode", mininterval=_interval_s()) as bar:

            def report(done: int, total: int, bar: tqdm = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            encode_demonstrations(demonstrations, codec, cache, report)


def run_policy(options: argparse.Namespace) -> None:
    """Train the policy on the cached latents."""
    device = _device(options.device)
    parts = _parts(options, _start(options))
    tasks = sorted({episode.task for episode in parts.training_episodes})
    shares = _shares(options.shares, tasks)
    config = PolicyTrainingConfig(
        num_steps=options.steps,
        hours=None if options.steps else options.hours,
        learning_rate=_learning_rate(options),
        num_warmup_steps=options.warmup_steps,
        average_decay=options.average_decay,
        scene_weight=options.scene_weight,
        chunk_weight=options.chunk_weight,
        seed=options.seed,
        task_shares=tuple(sorted(shares.items())),
        clips=ABLATIONS[options.ablation].clips(
            ClipConfig(
                slots_per_batch=options.slots_per_batch,
                context_noise=options.context_noise,
                offset_share=options.offset_share,
                from_start_share=options.from_start_share,
                single_slot_share=options.single_slot_share,
            )
        ),
        evaluate_every=options.evaluate_every,
        evaluate_from=options.evaluate_every or 0,
        num_evaluation_episodes=options.evaluation_episodes,
    )
    if options.resume == "never" and (options.out / "state.safetensors").exists():
        raise ValueError(f"{options.out} holds a run; resume it (--resume auto) or change --out.")
    trainer = PolicyTrainer(
        parts, config, options.out, device, options.resume == "other-data", options.start_checkpoint
    )
    with tqdm(desc="policy", mininterval=_interval_s()) as bar:
        trainer.run(lambda progress: _show(bar, progress))
    print(f"checkpoint: {options.out / 'checkpoint'}")


def run_all(options: argparse.Namespace) -> None:
    """Codec, probe, latents, policy; stages that are finished are left as they are."""
    options.codec = options.codec or options.out / "codec"
    options.latents = options.latents or options.out / "latents"
    if options.pretrained is None and not is_checkpoint(options.codec):
        if not (options.codec / "codec.safetensors").exists():
            run_codec(options)
        if not (options.codec / "probe.json").exists():
            run_probe(options)
    run_latents(options)
    options.out = options.out / "policy"
    run_policy(options)


def run_ablations(options: argparse.Namespace) -> None:
    """Train the full model and its variants one after another, each into OUT/NAME; finished ones
    are left as they are. Same data, seed and steps for all; compare them with
    `python -m par_model.evaluate --protocol ablations --checkpoint OUT --json OUT/table_3.json`."""
    root = options.out
    for name in options.only or ABLATIONS:
        options.ablation, options.out = name, root / name
        print(f"{ABLATIONS[name].title}: {options.out}", flush=True)
        run_policy(options)


@dataclass(frozen=True)
class _Start:
    """What training begins with: a preset and its codec, or a pretrained checkpoint."""

    model: ModelConfig
    codec: FrameCodec
    instructions: InstructionTable
    weights: Mapping[str, torch.Tensor] | None


def _start(options: argparse.Namespace) -> _Start:
    if options.pretrained is None:
        model = ablated_model(options.ablation, preset(options.preset))
        codec = load_codec(_codec_folder(options))
        sets = [DemonstrationSet(path) for path in options.data]
        model = _with_joints(model, len(sets[0].joint_names))
        if codec.config != model.codec:
            raise ValueError(
                f"the codec in {_codec_folder(options)} has other numbers than {model.name}'s; "
                "give the codec of this preset."
            )
        return _Start(model, codec, _instruction_table(model, sets), None)
    if options.ablation != FULL:
        raise ValueError("--ablation changes a preset; --finetune's checkpoint has its own model.")
    checkpoint = load_checkpoint(options.pretrained)
    state = checkpoint.model.state_dict()
    return _Start(checkpoint.config, checkpoint.codec, checkpoint.instructions, state)


def _with_joints(model: ModelConfig, num_joints: int) -> ModelConfig:
    """The same model for an arm with another number of joints."""
    proprio_width = num_joints if model.proprio_width else 0
    return dataclasses.replace(model, action_width=num_joints, proprio_width=proprio_width)


def _learning_rate(options: argparse.Namespace) -> float:
    if options.learning_rate is not None:
        return float(options.learning_rate)
    return PolicyTrainingConfig().learning_rate if options.pretrained is None else LEARNING_RATE


def _require_picture_size(demonstrations: DemonstrationSet, model: ModelConfig) -> None:
    if not demonstrations.keys:
        return
    height, width = demonstrations.read_frames(demonstrations.keys[0]).shape[1:3]
    if (height, width) != (model.image_height, model.image_width):
        raise ValueError(
            f"{demonstrations.path} has pictures of {height} x {width} pixels and {model.name} "
            f"takes {model.image_height} x {model.image_width}; record with `collect --image-size "
            f"{model.image_height}`, or convert NOVA's weights with another --resolution."
        )


def _finetuning(options: argparse.Namespace) -> FinetuningConfig | None:
    if options.pretrained is None:
        if options.lora_rank is not None:
            raise ValueError("--lora-rank needs --finetune, a checkpoint to start from.")
        return None
    if options.start_checkpoint is not None:
        raise ValueError("--from and --finetune both say where the weights come from; give one.")
    return FinetuningConfig(lora_rank=options.lora_rank)


def _parts(options: argparse.Namespace, start: _Start) -> PolicyParts:
    model = start.model
    training: list[TrainingEpisode] = []
    validation: list[TrainingEpisode] = []
    sets = [DemonstrationSet(path) for path in options.data]
    for demonstrations in sets:
        cache = _cache(options, start, demonstrations, _machine_bytes() // 2 // len(sets))
        for key in demonstrations.keys[: options.max_episodes]:
            if not cache.has(key):
                raise ValueError(
                    f"episode {key} of {demonstrations.path} has no latents in {cache.folder}; "
                    "run `python -m par_model.train latents` with the same --codec first."
                )
            steps = demonstrations.read_steps(key, options.steps_after_success)
            episode = TrainingEpisode(_task_name(steps.instruction), steps, cache)
            (validation if is_held_out(key) else training).append(episode)
    joint_names, arm = sets[0].joint_names, sets[0].arm
    for demonstrations in sets:
        if (demonstrations.arm, demonstrations.joint_names) != (arm, joint_names):
            raise ValueError(
                f"{demonstrations.path} has the arm {demonstrations.arm!r} with joints "
                f"{list(demonstrations.joint_names)}, {sets[0].path} has {arm!r} with "
                f"{list(joint_names)}; train on sets of one arm."
            )
    if len(joint_names) != model.action_width:
        raise ValueError(
            f"the data has {len(joint_names)} joints and {model.name} {model.action_width}; "
            "start from a checkpoint of this arm, or from a preset."
        )
    _require_judgeable(options, arm, [*training, *validation])
    return PolicyParts(
        model=model,
        codec=start.codec,
        statistics=_statistics(options, model, training, arm, joint_names),
        instructions=start.instructions,
        training_episodes=training,
        validation_episodes=validation,
        provenance=_provenance(sets, _codec_folder(options)) | _pretrained_provenance(options),
        initial_weights=start.weights,
        finetuning=_finetuning(options),
    )


def _require_judgeable(
    options: argparse.Namespace, arm: str, episodes: list[TrainingEpisode]
) -> None:
    """The simulator judges its own arm and tasks only."""
    unknown = sorted({episode.task for episode in episodes} - set(TASKS))
    if options.evaluation_episodes and (unknown or arm != ROBOT_TYPE):
        raise ValueError(
            f"closed-loop evaluation knows the arm {ROBOT_TYPE!r} and the tasks "
            f"{', '.join(TASKS)}, not {arm!r} with {unknown or 'these'}; give "
            "--evaluation-episodes 0, the last checkpoint is then kept."
        )


def _statistics(
    options: argparse.Namespace,
    model: ModelConfig,
    episodes: list[TrainingEpisode],
    arm: str,
    joint_names: tuple[str, ...],
) -> Statistics:
    """The run's own statistics; fitted once, so that added data does not move them."""
    if options.new_statistics and options.start_checkpoint is None:
        raise ValueError("--new-statistics needs --from; without it they are fitted to the data.")
    folder = options.out
    start_from = None if options.new_statistics else options.start_checkpoint
    file = folder / "statistics.json"
    for existing in (file, (start_from or folder) / "statistics.json"):
        if existing.exists():
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(existing.read_text())
            return from_json_dict(read_object(file, "remove it to fit statistics anew"))
    statistics = fit_statistics(
        [(episode.steps.actions, episode.steps.measured_joints) for episode in episodes],
        arm=arm,
        joint_names=joint_names,
        action_frame=model.action_frame,
        num_actions=model.num_actions,
    )
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(statistics.to_json_dict(), indent=2) + "\n")
    return statistics


def _provenance(sets: list[DemonstrationSet], codec: Path) -> dict[str, object]:
    return {
        "command": shlex.join(["python", "-m", "par_model.train", *sys.argv[1:]]),
        "data": {demonstrations.name: len(demonstrations) for demonstrations in sets},
        "hardware": f"{platform.machine()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} CPU thread(s), "
        + (torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"),
        "date": time.strftime("%Y-%m-%d"),
        "codec": codec_provenance(codec),
    }


def _pretrained_provenance(options: argparse.Namespace) -> dict[str, object]:
    tuning = _finetuning(options)
    if tuning is None:
        return {}
    name = options.pretrained.resolve().name
    return {"finetuned_from": name, "finetuning": dataclasses.asdict(tuning)}


def _instruction_table(model: ModelConfig, sets: list[DemonstrationSet]) -> InstructionTable:
    """Our tasks' sentences, and the data's own."""
    texts = [task.instruction for task in TASKS.values()]
    texts += [text for demonstrations in sets for text in demonstrations.instructions]
    return code_table(tuple(dict.fromkeys(texts)), model.num_text_tokens, model.text_width)


def _task_name(instruction: str) -> str:
    """The task of an instruction; an instruction of no task here counts as a task of its own."""
    for task in TASKS.values():
        if task.instruction == instruction:
            return task.name
    return instruction


def _shares(text: str | None, tasks: list[str]) -> dict[str, float]:
    """ "PushCube=0.8,PickCube=0.2" -> shares; all tasks alike where nothing is given."""
    if text is None:
        return {task: 1.0 / len(tasks) for task in tasks}
    shares = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            shares[name] = float(number)
        except ValueError:
            raise ValueError(f"--shares: {part!r} is not TASK=NUMBER.") from None
        if name not in tasks:
            raise ValueError(f"--shares: no data of {name!r} is given; there is {tasks}.")
    return {task: shares.get(task, 0.0) for task in tasks}


def _spread_frames(demonstrations: DemonstrationSet, num_frames: int) -> ImageArray:
    """About `num_frames` frames, spread evenly over the episodes that are not held out."""
    keys = [key for key in demonstrations.keys if not is_held_out(key)]
    if not keys:
        raise ValueError(f"{demonstrations.path} holds no episodes yet; run collect first.")
    per_episode = 40
    num_episodes = max(1, min(len(keys), num_frames // per_episode))
    chosen = [keys[i] for i in np.linspace(0, len(keys) - 1, num_episodes).astype(int)]
    parts = []
    for key in tqdm(chosen, desc=f"frames of {demonstrations.name}", mininterval=_interval_s()):
        frames = demonstrations.read_frames(key)
        count = min(len(frames), max(per_episode, num_frames // num_episodes))
        parts.append(frames[np.linspace(0, len(frames) - 1, count).astype(int)])
    return np.concatenate(parts)


def _probe_pictures(options: argparse.Namespace) -> list[ProbePictures]:
    folder = options.reset_pictures
    folder = folder or _writable_codec_folder(options, "reset pictures") / "reset_pictures"
    image_size = preset(options.preset).image_height
    return [
        load_or_render(folder, task, FIRST_PROBE_SEED, options.num_reset_pictures, image_size)
        for task in options.probe_tasks
    ]


def _codec_folder(options: argparse.Namespace) -> Path:
    folder: Path | None = options.codec or getattr(options, "out", None)
    if folder is None:
        raise ValueError("--codec is missing: the folder of the codec, or of the latents.")
    return folder


def _writable_codec_folder(options: argparse.Namespace, what: str) -> Path:
    """Raises ValueError if the codec is a checkpoint's: nothing is added to a checkpoint."""
    folder = _codec_folder(options)
    if is_checkpoint(folder):
        raise ValueError(
            f"{folder} is a checkpoint, to which nothing is added, and {what} would be; give "
            "--latents, --reset-pictures or --codec a folder of its own."
        )
    return folder


def _machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cache(
    options: argparse.Namespace,
    start: _Start,
    demonstrations: DemonstrationSet,
    memory_bytes: int = 0,
) -> LatentCache:
    shifts = ShiftConfig(num_variants=options.variants)
    root = options.latents or _writable_codec_folder(options, "latents") / "latents"
    mode = start.model.observation_mode
    return LatentCache(root, start.codec, demonstrations.name, shifts, mode, memory_bytes)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda was asked for, but torch finds no GPU; check nvidia-smi.")
    return torch.device(name)


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


def _interval_s() -> float:
    """A line now and then where nobody watches."""
    return 0.2 if sys.stderr.isatty() else 20.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m par_model.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    stages = parser.add_subparsers(required=True, metavar="STAGE")
    for name, run in (
        ("codec", run_codec),
        ("probe", run_probe),
        ("latents", run_latents),
        ("policy", run_policy),
        ("all", run_all),
        ("ablations", run_ablations),
    ):
        stage = stages.add_parser(name, help=run.__doc__, description=run.__doc__)
        stage.set_defaults(run=run, ablation=FULL)
        _add_common(stage, needs_data=name != "probe", needs_out=name not in ("probe", "latents"))
        if name in ("codec", "all"):
            stage.add_argument("--codec-steps", type=int, default=2000)
            stage.add_argument(
                "--codec-learning-rate", type=float, default=CodecTrainingConfig().learning_rate
            )
            stage.add_argument(
                "--start-from", type=Path, metavar="DIR", help="a finished codec to start from"
            )
            stage.add_argument("--frames", type=int, default=4000, help="frames a data set")
        if name in ("probe", "all"):
            stage.add_argument("--probe-steps", type=int, default=ProbeConfig().num_steps)
            stage.add_argument(
                "--frame-patch", type=int, nargs="+", help="read tokens of these sizes too"
            )
            stage.add_argument(
                "--frame-stem", type=int, nargs="+", default=[0], metavar="CHANNELS",
                help="with frame stems of these channels before the tokens; 0: none",
            )  # fmt: skip
        if name in ("policy", "all", "ablations"):
            _add_policy(stage)
        if name == "ablations":
            stage.add_argument(
                "--only", nargs="+", choices=list(ABLATIONS), help="variants; default: all"
            )
        elif name in ("policy", "all"):
            stage.add_argument(
                "--ablation", choices=list(ABLATIONS), default=FULL, help="variant of the model"
            )
    return parser


def _add_common(stage: argparse.ArgumentParser, needs_data: bool, needs_out: bool) -> None:
    if needs_data:
        stage.add_argument(
            "--data",
            type=Path,
            nargs="+",
            required=True,
            metavar="DIR",
            help="data sets; one of someone else by its mapping file (.yaml)",
        )
    if needs_out:
        stage.add_argument("--out", type=Path, required=True, metavar="DIR")
    stage.add_argument(
        "--codec",
        type=Path,
        metavar="DIR",
        required=not needs_out and not needs_data,
        help="folder of the codec, or a checkpoint, whose codec is then used",
    )
    stage.add_argument("--preset", choices=list(PRESETS), default="par_small")
    stage.add_argument(
        "--finetune",
        type=Path,
        dest="pretrained",
        metavar="CHECKPOINT",
        help="a pretrained checkpoint (model, codec and instructions; --preset is not read), "
        "trained on as FinetuningConfig says",
    )
    stage.add_argument("--seed", type=int, default=0)
    cores = len(os.sched_getaffinity(0))
    stage.add_argument(
        "--threads", type=int, default=cores, help="CPU threads of torch (default: cores)"
    )
    stage.add_argument("--latents", type=Path, metavar="DIR", help="default: CODEC/latents")
    stage.add_argument("--variants", type=int, default=3, help="shifts a frame is encoded with")
    stage.add_argument("--reset-pictures", type=Path, metavar="DIR")
    stage.add_argument("--num-reset-pictures", type=int, default=NUM_PROBE_PICTURES)
    stage.add_argument(
        "--probe-tasks",
        nargs="*",
        choices=list(TASKS),
        default=list(TASKS),
        help="tasks whose reset pictures are drawn and probed; nothing after it: none",
    )


def _steps_or_all(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of steps nor 'all'.")
    return int(text)


def _add_policy(stage: argparse.ArgumentParser) -> None:
    defaults = PolicyTrainingConfig()
    length = stage.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int)
    length.add_argument("--hours", type=float)
    stage.add_argument(
        "--lora-rank", type=int, help="with --finetune: train low-rank differences of this rank"
    )
    stage.add_argument("--resume", choices=["auto", "never", "other-data"], default="auto")
    stage.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    stage.add_argument("--shares", metavar="TASK=NUMBER,...", help="share of the clips by task")
    stage.add_argument(
        "--learning-rate",
        type=float,
        help=f"default: {defaults.learning_rate:g}; with --finetune {LEARNING_RATE:g}",
    )
    stage.add_argument("--warmup-steps", type=int, default=defaults.num_warmup_steps)
    stage.add_argument("--slots-per-batch", type=int, default=defaults.clips.slots_per_batch)
    stage.add_argument("--context-noise", type=float, default=defaults.clips.context_noise)
    stage.add_argument(
        "--from",
        dest="start_checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="start from a checkpoint's weights and statistics",
    )
    stage.add_argument(
        "--new-statistics", action="store_true", help="with --from: fit them to the data again"
    )
    stage.add_argument(
        "--steps-after-success",
        type=_steps_or_all,
        default=2,
        metavar="N",
        help="cut demonstrations N steps after their first success, where they know it; all: use "
        "them whole",
    )
    stage.add_argument(
        "--scene-weight",
        type=float,
        default=defaults.scene_weight,
        metavar="W",
        help="weight of reading the objects' positions beside the policy's own losses, where the "
        "demonstrations know them; 0: not done",
    )
    stage.add_argument(
        "--chunk-weight",
        type=float,
        default=defaults.chunk_weight,
        metavar="W",
        help="weight of reading the chunk directly beside the policy's own losses; 0: not done",
    )
    stage.add_argument("--average-decay", type=float, default=defaults.average_decay)
    stage.add_argument("--from-start-share", type=float, default=defaults.clips.from_start_share)
    stage.add_argument("--single-slot-share", type=float, default=defaults.clips.single_slot_share)
    stage.add_argument("--offset-share", type=float, default=defaults.clips.offset_share)
    stage.add_argument("--max-episodes", type=int, help="use at most this many a data set")
    stage.add_argument("--evaluate-every", type=int, default=defaults.evaluate_every)
    stage.add_argument("--evaluation-episodes", type=int, default=defaults.num_evaluation_episodes)


if __name__ == "__main__":
    sys.exit(main())
