# SPDX-License-Identifier: Apache-2.0
"""What the stages of par_model.train read and make ready: data sets, codec, latents, statistics."""

import dataclasses
import json
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from par_model.checkpoint import is_checkpoint, load_checkpoint
from par_model.config import ModelConfig
from par_model.depth_view import require_depth_views
from par_model.drawing import Drawing
from par_model.frame_codec import FrameCodec
from par_model.instruction import InstructionTable, code_table
from par_model.interface import ImageArray, split_views
from par_model.json_file import read_object
from par_model.normalization import Statistics, fit_statistics, from_json_dict
from par_model.presets import preset
from par_model.simulation.tasks import PAPER_TASKS, TASKS
from par_model.training.ablations import FULL, ablated_model
from par_model.training.clips import TrainingEpisode
from par_model.training.codec_training import codec_provenance, load_codec
from par_model.training.demonstrations_on_disk import DemonstrationSet, is_held_out
from par_model.training.finetuning import FinetuningConfig
from par_model.training.latent_cache import LatentCache, ShiftConfig
from par_model.training.policy_training import PolicyParts
from par_model.training.scene_pictures import ScenePictures, read_scene_pictures
from par_model.training.stage_options import (
    DataOptions,
    LearningOptions,
    PicturesOptions,
    StageOptions,
)
from par_model.training.start_weights import grown_table, require_same_codec
from par_model.training.training_presets import training_preset, training_preset_of_checkpoint
from par_model.training.training_state import FILE_NAME


@dataclass(frozen=True)
class Start:
    """What training begins with: a preset and its codec, or a pretrained checkpoint; and which of
    TRAINING_PRESETS it is trained with by default."""

    model: ModelConfig
    codec: FrameCodec
    instructions: InstructionTable
    weights: Mapping[str, torch.Tensor] | None
    training_preset: str


def demonstration_sets(options: DataOptions) -> list[DemonstrationSet]:
    """The sets of --data without what --leave-out names."""
    return [DemonstrationSet(path, options.left_out(path)) for path in options.data]


def read_start(options: DataOptions, ablation: str) -> Start:
    """Raises ValueError for a codec or checkpoint that cannot be read or does not fit."""
    if options.pretrained is None:
        model = ablated_model(ablation, preset(options.preset))
        codec = load_codec(codec_folder(options))
        sets = demonstration_sets(options)
        model = _with_joints(model, len(sets[0].joint_names))
        model = dataclasses.replace(model, depth_views=sets[0].depth_of(model.views))
        if codec.config != model.codec:
            raise ValueError(
                f"the codec in {codec_folder(options)} has other numbers than {model.name}'s; "
                "give the codec of this preset."
            )
        table, defaults = _instruction_table(model, sets), training_preset(options.preset)
        return Start(model, codec, table, None, defaults)
    if ablation != FULL:
        raise ValueError("--ablation changes a preset; --finetune's checkpoint has its own model.")
    checkpoint = load_checkpoint(options.pretrained)
    return Start(
        checkpoint.config,
        checkpoint.codec,
        checkpoint.instructions,
        checkpoint.model.state_dict(),
        training_preset_of_checkpoint(checkpoint.training),
    )


def going_on_from(start: Start, folder: Path, texts: tuple[str, ...]) -> Start:
    """`start` with what the checkpoint of --from brings beside its weights: its instructions, how
    much it remembers, and how it samples, where the model's head predicts the same.

    texts: instructions of the data.

    Raises ValueError for a checkpoint with another codec, or that does not know an instruction.
    """
    checkpoint, model = load_checkpoint(folder), start.model
    require_same_codec(folder, start.codec, checkpoint.codec)
    table = grown_table(start.instructions, texts, folder, checkpoint.instructions)
    sampling, diffusion = checkpoint.config.sampling, checkpoint.config.action_diffusion
    own = model.action_diffusion
    if dataclasses.replace(diffusion, spacing=own.spacing) != own:
        remembered = sampling.context_slots
        sampling = dataclasses.replace(model.sampling, context_slots=remembered)
        diffusion = own
    model = dataclasses.replace(
        model,
        sampling=sampling,
        action_diffusion=diffusion,
        frame_diffusion=checkpoint.config.frame_diffusion,
    )
    return dataclasses.replace(start, model=model, instructions=table)


def drawing_alone(start: Start, options: PicturesOptions) -> Start:
    """`start` where only what draws the next picture is trained, on every frame."""
    model = start.model
    diffusion = model.frame_diffusion
    if options.prediction not in (None, diffusion.prediction):
        assert options.prediction is not None
        # The noisiest time is the first: trailing (arXiv 2305.08891).
        diffusion = dataclasses.replace(
            diffusion, prediction=options.prediction, spacing="trailing", steps_offset=0
        )
    loss = dataclasses.replace(model.loss, frame_fraction=1.0)
    model = dataclasses.replace(model, loss=loss, frame_diffusion=diffusion)
    if options.drawing is not None:
        model = Drawing.of(options.drawing).as_default_of(model)
    return dataclasses.replace(start, model=model)


def _with_joints(model: ModelConfig, num_joints: int) -> ModelConfig:
    """The same model for an arm with another number of joints."""
    proprio_width = num_joints if model.proprio_width else 0
    return dataclasses.replace(model, action_width=num_joints, proprio_width=proprio_width)


def require_picture_size(demonstrations: DemonstrationSet, model: ModelConfig) -> None:
    """Raise ValueError for pictures that are not of the model's size."""
    if not demonstrations.keys:
        return
    frames = demonstrations.read_frames(demonstrations.keys[0], model.views)
    height, width = frames.shape[1] // model.num_views, frames.shape[2]
    if (height, width) != (model.image_height, model.image_width):
        raise ValueError(
            f"{demonstrations.path} has pictures of {height} x {width} pixels and {model.name} "
            f"takes {model.image_height} x {model.image_width}; record with `collect --image-size "
            f"{model.image_height}`, or convert NOVA's weights with another --resolution."
        )


def require_rate(demonstrations: DemonstrationSet, model: ModelConfig) -> None:
    """Raise ValueError for data whose step differs from the model's step_s."""
    if not math.isclose(demonstrations.fps * model.step_s, 1.0):
        raise ValueError(
            f"{demonstrations.path} has steps of {1 / demonstrations.fps:g} s and {model.name} "
            f"acts every {model.step_s:g} s; record at the model's rate, or use a "
            "preset with the step_s of the data."
        )


def finetuning(options: LearningOptions) -> FinetuningConfig | None:
    if options.pretrained is None:
        if options.lora_rank is not None:
            raise ValueError("--lora-rank needs --finetune, a checkpoint to start from.")
        return None
    if options.start_checkpoint is not None:
        raise ValueError("--from and --finetune both say where the weights come from; give one.")
    return FinetuningConfig(lora_rank=options.lora_rank)


def policy_parts(options: LearningOptions, start: Start, latent_bytes: int) -> PolicyParts:
    """latent_bytes: how much of the latents each process that reads them keeps in memory.

    Raises ValueError for data without latents, of several arms or of another arm than the model's,
    and for options that do not go together.
    """
    model, sets = start.model, demonstration_sets(options)
    training, validation = read_episodes(
        options, start, sets, latent_bytes, options.max_episodes, options.steps_after_success
    )
    for demonstrations in sets:
        _warn_of_actions_equal_to_states(demonstrations)
        require_rate(demonstrations, model)
    require_one_arm(sets, model)
    joint_names, arm = sets[0].joint_names, sets[0].arm
    _require_judgeable(options, arm, [*training, *validation])
    return PolicyParts(
        model=model,
        codec=start.codec,
        statistics=_statistics(options, model, training, arm, joint_names),
        instructions=start.instructions,
        training_episodes=training,
        validation_episodes=validation,
        provenance=provenance(sets, codec_folder(options))
        | {"training_preset": start.training_preset}
        | _pretrained_provenance(options),
        initial_weights=start.weights,
        finetuning=finetuning(options),
        scene_pictures=_scene_pictures(options, start),
    )


def read_episodes(
    options: DataOptions,
    start: Start,
    sets: Sequence[DemonstrationSet],
    latent_bytes: int = 0,
    max_episodes: int | None = None,
    steps_after_success: int | None = None,
) -> tuple[list[TrainingEpisode], list[TrainingEpisode]]:
    """Episodes to train on, and those held out.

    Args:
        latent_bytes: as policy_parts.
        max_episodes: of each set; None: all.
        steps_after_success: None: episodes are whole.

    Raises ValueError for data without latents.
    """
    training: list[TrainingEpisode] = []
    validation: list[TrainingEpisode] = []
    for demonstrations in sets:
        cache = latent_cache(options, start, demonstrations, latent_bytes // len(sets))
        for key in demonstrations.keys[:max_episodes]:
            steps = demonstrations.read_steps(key, steps_after_success)
            if not cache.has(key, steps.digest):
                raise ValueError(
                    f"episode {key} of {demonstrations.path} has no latents in {cache.folder}; "
                    "run `python -m par_model.train latents` with the same --codec first."
                )
            episode = TrainingEpisode(_task_name(steps.instruction), steps, cache)
            # What a policy did tells nothing of how well another one learns.
            held_out = steps.teaches is None and is_held_out(key)
            (validation if held_out else training).append(episode)
    return training, validation


def require_one_arm(sets: Sequence[DemonstrationSet], model: ModelConfig) -> None:
    """Raise ValueError for sets of several arms, of another number of joints than the model's, or
    whose views are depth where the model's are not."""
    arm, joint_names = sets[0].arm, sets[0].joint_names
    for demonstrations in sets:
        require_depth_views(
            f"data set {demonstrations.path}",
            demonstrations.depth_of(model.views),
            model.depth_views,
        )
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


def _warn_of_actions_equal_to_states(demonstrations: DemonstrationSet) -> None:
    if demonstrations.action_is_state():
        print(
            f"warning: every action of {demonstrations.path} equals the measured joints of the "
            "same step: a policy that learns this stands still. Give the commanded targets, or "
            "the joints of the next step, as the action.",
            file=sys.stderr,
        )


def without_actions(start: Start) -> Start:
    """The same beginning for a training that learns to see, not to act."""
    loss = dataclasses.replace(start.model.loss, action_weight=0.0)
    return dataclasses.replace(start, model=dataclasses.replace(start.model, loss=loss))


def _scene_pictures(options: LearningOptions, start: Start) -> tuple[ScenePictures, ...]:
    """The scenes of --scenes with their latents, which are encoded where they are missing."""
    if not options.scenes:
        return ()
    root = options.latents or writable_codec_folder(options, "latents") / "latents"
    found = []
    for folder in options.scenes:
        with tqdm(desc=f"latents of {folder.name}", unit="file", mininterval=interval_s()) as bar:

            def report(done: int, total: int, bar: tqdm = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            views = start.model.views
            found.append(read_scene_pictures(folder, start.codec, root, views, report))
        height, width = found[-1].latents[0].shape[2:]
        size = len(views) * height, width
        if size != (start.model.latent_height, start.model.latent_width):
            raise ValueError(
                f"the scenes in {folder} have latents of {size[0]} x {size[1]} and "
                f"{start.model.name} takes {start.model.latent_height} x "
                f"{start.model.latent_width}; render them with the model's picture size."
            )
    return tuple(found)


def _require_judgeable(options: LearningOptions, arm: str, episodes: list[TrainingEpisode]) -> None:
    """The simulator judges its own arms and tasks only."""
    tasks = {episode.task for episode in episodes}
    known = sorted(name for name in tasks & set(TASKS) if TASKS[name].robot.name == arm)
    if options.evaluation_episodes and known != sorted(tasks):
        arms = ", ".join(f"{name} ({found.robot.name})" for name, found in TASKS.items())
        raise ValueError(
            f"closed-loop evaluation knows the tasks, with their arm, {arms}, not {arm!r} with "
            f"{sorted(tasks - set(known))}; give --evaluation-episodes 0, the last checkpoint is "
            "then kept."
        )


def _statistics(
    options: LearningOptions,
    model: ModelConfig,
    episodes: list[TrainingEpisode],
    arm: str,
    joint_names: tuple[str, ...],
) -> Statistics:
    """The run's own statistics; fitted once, so that added data does not move them."""
    if options.new_statistics and options.start_checkpoint is None:
        raise ValueError("--new-statistics needs --from; without it they are fitted to the data.")
    folder = options.out

    def fitted() -> Statistics:
        return fit_statistics(
            [
                (episode.steps.actions, episode.steps.measured_joints)
                for episode in episodes
                if episode.steps.teaches is None
            ],
            arm=arm,
            joint_names=joint_names,
            action_frame=model.action_frame,
            num_actions=model.horizon,
        )

    start_from = None if options.new_statistics else options.start_checkpoint
    file = folder / "statistics.json"
    # Before its first state a run has not begun: another one's may lie there.
    begun = (folder / FILE_NAME).exists()
    existing = file if begun else None if start_from is None else start_from / "statistics.json"
    if existing is None:
        statistics = fitted()
    else:
        read = from_json_dict(read_object(existing, "remove it to fit statistics anew"))
        if (read.arm, read.joint_names) != (arm, joint_names):
            raise ValueError(
                f"{existing} is of the arm {read.arm!r} with joints {list(read.joint_names)}, and "
                f"the data of {arm!r} with {list(joint_names)}; give --new-statistics with --from."
            )
        statistics = read if read.num_actions >= model.horizon else read.longer(fitted())
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(statistics.to_json_dict(), indent=2) + "\n"
    if not file.exists() or file.read_text() != text:
        # Whole or not at all: other processes of the training read it.
        writing = file.with_suffix(f".{os.getpid()}.writing")
        writing.write_text(text)
        os.replace(writing, file)
    return statistics


def provenance(sets: Sequence[DemonstrationSet], codec: Path) -> dict[str, object]:
    """What was read, how and where."""
    return {
        "command": shlex.join(["python", "-m", "par_model.train", *sys.argv[1:]]),
        "data": {demonstrations.name: len(demonstrations) for demonstrations in sets},
        "hardware": f"{platform.machine()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} CPU thread(s), "
        + (torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"),
        "date": time.strftime("%Y-%m-%d"),
        "codec": codec_provenance(codec),
    }


def _pretrained_provenance(options: LearningOptions) -> dict[str, object]:
    tuning = finetuning(options)
    if tuning is None or options.pretrained is None:
        return {}
    name = options.pretrained.resolve().name
    return {"finetuned_from": name, "finetuning": dataclasses.asdict(tuning)}


def _instruction_table(model: ModelConfig, sets: list[DemonstrationSet]) -> InstructionTable:
    """The sentences of the paper's tasks, and the data's own."""
    texts = [TASKS[name].instruction for name in PAPER_TASKS]
    texts += [text for demonstrations in sets for text in demonstrations.instructions]
    return code_table(tuple(dict.fromkeys(texts)), model.num_text_tokens, model.text_width)


def _task_name(instruction: str) -> str:
    """The task of an instruction; an instruction of no task here counts as a task of its own."""
    for task in TASKS.values():
        if task.instruction == instruction:
            return task.name
    return instruction


def spread_frames(
    demonstrations: DemonstrationSet, num_frames: int, views: tuple[str, ...]
) -> ImageArray:
    """About `num_frames` pictures, uint8 [N, H, W, 3], spread evenly over these views and the
    episodes that are not held out."""
    keys = [key for key in demonstrations.keys if not is_held_out(key)]
    if not keys:
        raise ValueError(f"{demonstrations.path} holds no episodes yet; run collect first.")
    per_episode, num_frames = 40, num_frames // len(views)
    num_episodes = max(1, min(len(keys), num_frames // per_episode))
    chosen = [keys[i] for i in np.linspace(0, len(keys) - 1, num_episodes).astype(int)]
    parts = []
    for key in tqdm(chosen, desc=f"frames of {demonstrations.name}", mininterval=interval_s()):
        frames = demonstrations.read_frames(key, views)
        count = min(len(frames), max(per_episode, num_frames // num_episodes))
        chosen_frames = frames[np.linspace(0, len(frames) - 1, count).astype(int)]
        parts += split_views(chosen_frames, views).values()
    return np.concatenate(parts)


def codec_folder(options: StageOptions) -> Path:
    """Raises ValueError where none is given."""
    folder = options.codec or options.written_folder
    if folder is None:
        raise ValueError("--codec is missing: the folder of the codec, or of the latents.")
    return folder


def writable_codec_folder(options: StageOptions, what: str) -> Path:
    """Raises ValueError if the codec is a checkpoint's: nothing is added to a checkpoint."""
    folder = codec_folder(options)
    if is_checkpoint(folder):
        raise ValueError(
            f"{folder} is a checkpoint, to which nothing is added, and {what} would be; give "
            "--latents, --reset-pictures or --codec a folder of its own."
        )
    return folder


def latent_cache(
    options: DataOptions,
    start: Start,
    demonstrations: DemonstrationSet,
    memory_bytes: int = 0,
) -> LatentCache:
    """The cache of one data set, which holds at most `memory_bytes` in memory."""
    shifts = ShiftConfig(num_variants=options.variants)
    root = options.latents or writable_codec_folder(options, "latents") / "latents"
    mode, views = start.model.observation_mode, start.model.views
    return LatentCache(root, start.codec, demonstrations.name, shifts, mode, memory_bytes, views)


def interval_s() -> float:
    """A line now and then where nobody watches."""
    return 0.2 if sys.stderr.isatty() else 20.0
