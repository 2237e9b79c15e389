# SPDX-License-Identifier: Apache-2.0
"""The options of `python -m par_model.train STAGE`, one frozen dataclass a stage."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, Suppress, arg, create_mutex_group, subcommand

from par_model.command_line import default_is, one_of, output_folder, read_by, require_some, some_of
from par_model.drawing import Drawing
from par_model.presets import PRESETS
from par_model.simulation.tasks import PAPER_TASKS, TASKS
from par_model.training.ablations import ABLATIONS, FULL
from par_model.training.codec_training import CodecTrainingConfig
from par_model.training.forward_training import ForwardTrainingConfig
from par_model.training.position_probe import ProbeConfig
from par_model.training.training_presets import FULL_SIZE, SMALL
from par_model.worker_options import WorkerOptions

# Reset pictures of the probe, a task.
NUM_PROBE_PICTURES = 1800

_POLICY = SMALL
_LENGTH = create_mutex_group(required=True)


def by_preset(small: float, full_size: float) -> Any:
    """For a field whose default is the training preset's (training_presets.py)."""
    return default_is(f"{small:g}; par_0_6b {full_size:g}")


def steps_or_all(text: str) -> int | None:
    """A number of steps; None for "all". Raises ValueError for anything else."""
    if text == "all":
        return None
    if not text.isdecimal():
        raise ValueError(f"{text!r} is neither a number of steps nor 'all'.")
    return int(text)


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """What every stage takes."""

    # folder of the codec, or a checkpoint, whose codec is then used
    codec: Annotated[Path | None, arg(metavar="DIR"), default_is("OUT of `codec`")] = None
    # the model's numbers
    preset: Annotated[str, one_of(PRESETS)] = "par_small"
    # a pretrained checkpoint (model, codec and instructions; --preset is not read), trained on as
    # FinetuningConfig says
    pretrained: Annotated[Path | None, arg(name="finetune", metavar="CHECKPOINT")] = None
    # of every random choice
    seed: int = 0
    # CPU threads of torch; the default is one per core
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    # folder of the latents
    latents: Annotated[Path | None, arg(metavar="DIR"), default_is("CODEC/latents")] = None
    # shifts a frame is encoded with
    variants: int = 3
    # folder of the reset pictures
    reset_pictures: Annotated[
        Path | None, arg(metavar="DIR"), default_is("CODEC/reset_pictures")
    ] = None
    # reset pictures drawn, per task
    num_reset_pictures: int = NUM_PROBE_PICTURES
    # tasks whose reset pictures are drawn and probed; nothing after it: none
    probe_tasks: Annotated[tuple[str, ...], some_of(TASKS)] = PAPER_TASKS

    @property
    def written_folder(self) -> Path | None:
        """--out, where a stage has it."""
        return None


@dataclass(frozen=True, kw_only=True)
class DataOptions(StageOptions):
    """Of a stage that reads demonstrations."""

    # data sets; one of someone else by its mapping file (.yaml)
    data: Annotated[tuple[Path, ...], arg(metavar="DIR ...")]
    # episodes that are not used, by their seed or number; with several data sets SET:NUMBER, where
    # SET is as in --data
    leave_out: Annotated[tuple[str, ...], arg(metavar="NUMBER ..."), default_is("none")] = ()

    def __post_init__(self) -> None:
        require_some("--data", self.data)

    def left_out(self, path: Path) -> frozenset[int]:
        """Keys of --leave-out in the data set `path`. Raises ValueError for what names none."""
        found = set()
        for text in self.leave_out:
            name, separator, number = text.rpartition(":")
            if not number.isdecimal() or not (separator or len(self.data) == 1):
                raise ValueError(
                    f"--leave-out: {text!r} must be an episode's number, with several data sets "
                    "SET:NUMBER."
                )
            if separator and Path(name) not in self.data:
                raise ValueError(
                    f"--leave-out: {name!r} is not in --data, which is "
                    f"{', '.join(map(str, self.data))}."
                )
            if not separator or Path(name) == path:
                found.add(int(number))
        return frozenset(found)


@dataclass(frozen=True, kw_only=True)
class OutOptions(DataOptions):
    """Of a stage that writes a folder."""

    # folder that is written
    out: Annotated[Path, output_folder()]

    @property
    def written_folder(self) -> Path | None:
        return self.out


@dataclass(frozen=True, kw_only=True)
class CodecOptions(OutOptions):
    """Train the frame codec on the demonstrations' frames and on reset pictures."""

    # training steps of the codec
    codec_steps: int = 2000
    # peak of the codec's learning rate
    codec_learning_rate: float = CodecTrainingConfig().learning_rate
    # a finished codec to start from
    start_from: Annotated[Path | None, arg(metavar="DIR"), default_is("random weights")] = None
    # with --start-from: train only what makes pictures of latents; the latents, and with them every
    # policy, stay the same
    decoder_only: bool = False
    # frames per data set, and pictures of each folder of scenes
    frames: int = 4000
    # folders of rendered scenes (`python -m par_model.perception scenes`), one per task; the codec
    # learns from their pictures and keeps their positions
    scenes: Annotated[tuple[Path, ...], arg(metavar="DIR ..."), default_is("none")] = ()
    # with --scenes: weight of reading their positions from the latents
    position_weight: Annotated[float, arg(metavar="W")] = CodecTrainingConfig().position_weight


@dataclass(frozen=True, kw_only=True)
class ProbeFields:
    """What the position probe takes."""

    # training steps of the probe
    probe_steps: int = ProbeConfig().num_steps
    # read tokens of these sizes too [latent pixels]
    frame_patch: Annotated[tuple[int, ...] | None, arg(metavar="INT ..."), default_is("none")] = (
        None
    )
    # with frame stems of these channels before the tokens; 0: none
    frame_stem: Annotated[tuple[int, ...], arg(metavar="CHANNELS ...")] = (0,)

    def require_values(self) -> None:
        """Raise ValueError for an option with nothing after it."""
        require_some("--frame-patch", self.frame_patch)
        require_some("--frame-stem", self.frame_stem)


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(ProbeFields, StageOptions):
    """Measure how well cube positions can be read from the latents; write probe.json."""

    # folder of the codec
    codec: Annotated[Path, arg(metavar="DIR")] = field()

    def __post_init__(self) -> None:
        self.require_values()


@dataclass(frozen=True, kw_only=True)
class LatentsOptions(DataOptions):
    """Encode what the cache lacks."""


_SHARES = (
    "from_start_share", "single_slot_share", "random_span_share", "late_start_share",
    "slow_start_share", "no_prefix_share", "offset_share", "on_policy_share",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LearningOptions(OutOptions):
    """How a policy is trained."""

    # length of the run [steps]
    steps: Annotated[int | None, _LENGTH] = None
    # length of the run [hours of wall time]
    hours: Annotated[float | None, _LENGTH] = None
    # with --finetune: train low-rank differences of this rank
    lora_rank: Annotated[int | None, default_is("all weights")] = None
    # go on with the run in --out; never: refuse one; other-data: go on with changed data sets
    resume: Literal["auto", "never", "other-data"] = "auto"
    # where torch computes; auto: CUDA if there
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # share of the clips by task
    shares: Annotated[str | None, arg(metavar="TASK=NUMBER,..."), default_is("equal")] = None
    # peak of the policy's learning rate
    learning_rate: Annotated[
        float | None,
        default_is(f"{SMALL.learning_rate:g}; with --finetune {FULL_SIZE.learning_rate:g}"),
    ] = None
    # steps until that peak
    warmup_steps: Annotated[
        int | None, by_preset(SMALL.num_warmup_steps, FULL_SIZE.num_warmup_steps)
    ] = None
    # slots of all clips of a step together: the effective batch, whatever fits into memory at once
    slots_per_batch: Annotated[
        int | None, by_preset(SMALL.clips.slots_per_batch, FULL_SIZE.clips.slots_per_batch)
    ] = None
    # slots of a micro-batch, padding included; gradients of a step's micro-batches are added up
    micro_slots: Annotated[int | None, default_is("the most that fit into memory")] = None
    # memory to plan with [GiB]
    memory: Annotated[float | None, arg(metavar="GIB"), default_is("the device's")] = None
    # only print how much memory the training takes and how a step is divided
    plan: bool = False
    # with --plan: among how many processes
    processes: Annotated[int | None, default_is("torchrun's, else 1")] = None
    # under torchrun: fsdp2 keeps a part of weights, gradients, moments and average in each process;
    # none: each keeps them whole
    sharding: Literal["none", "fsdp2"] = "none"
    # processes that cut batches ahead of the training
    data_workers: Annotated[int | None, default_is("4 with a GPU, else 0")] = None
    # write the losses to the log every so many steps
    log_every: int = SMALL.log_every
    # save the training's state every so many steps
    save_every: Annotated[int | None, by_preset(SMALL.save_every, FULL_SIZE.save_every)] = None
    # standard deviation of noise on the history's normalised actions
    context_noise: Annotated[
        float | None, by_preset(SMALL.clips.context_noise, FULL_SIZE.clips.context_noise)
    ] = None
    # start from a checkpoint's weights, statistics, instructions, sampling and memory
    start_checkpoint: Annotated[Path | None, arg(name="from", metavar="CHECKPOINT")] = None
    # how the policy samples by default; a judgement in the simulator does so, too
    sampling: Annotated[
        str | None,
        arg(metavar="SAMPLER:STEPS[:SPACING]"),
        default_is("the checkpoint's of --from, else the preset's"),
    ] = None
    # how many observations it remembers by default
    context_slots: Annotated[int | None, default_is("as for --sampling")] = None
    # with --from: fit the statistics to the data again
    new_statistics: bool = False
    # cut demonstrations N steps after their first success, where they know it; all: use them whole
    steps_after_success: Annotated[
        int | None, read_by(steps_or_all, "N|all", lambda value: "all" if value is None else value)
    ] = 2
    # weight of reading the objects' positions beside the policy's own losses, where the
    # demonstrations know them; 0: not done
    scene_weight: Annotated[
        float | None, arg(metavar="W"), by_preset(SMALL.scene_weight, FULL_SIZE.scene_weight)
    ] = None
    # weight of reading the chunk directly beside the policy's own losses; 0: not done
    chunk_weight: Annotated[
        float | None, arg(metavar="W"), by_preset(SMALL.chunk_weight, FULL_SIZE.chunk_weight)
    ] = None
    # folders of rendered scenes (`python -m par_model.perception scenes`), one per task, whose
    # positions are learnt beside the demonstrations
    scenes: Annotated[tuple[Path, ...], arg(metavar="DIR ..."), default_is("none")] = ()
    # with --scenes: weight of reading their positions
    picture_weight: Annotated[float, arg(metavar="W")] = _POLICY.picture_weight
    # with --scenes: pictures per step
    pictures_per_step: int = _POLICY.pictures_per_step
    # of the moving average of the weights, a step
    average_decay: Annotated[
        float | None, by_preset(SMALL.average_decay, FULL_SIZE.average_decay)
    ] = None
    # share of the clips that start in an episode's first chunk; the others start anywhere
    from_start_share: Annotated[
        float | None, by_preset(SMALL.clips.from_start_share, FULL_SIZE.clips.from_start_share)
    ] = None
    # share of the clips that are cut after their first slot
    single_slot_share: Annotated[
        float | None, by_preset(SMALL.clips.single_slot_share, FULL_SIZE.clips.single_slot_share)
    ] = None
    # most slots of a clip
    max_clip_slots: Annotated[int | None, default_is("the model's")] = None
    # with a preset for overlapped inference: share of the clips with pictures 1 step to the longer
    # of slot and largest delay apart; the others have one a slot
    random_span_share: float = _POLICY.clips.random_span_share
    # with such a preset: share of the clips from an episode's start before which the arm stands
    late_start_share: float = _POLICY.clips.late_start_share
    # with such a preset: share of the other clips at whose beginning the arm is slow or stands
    slow_start_share: float = _POLICY.clips.slow_start_share
    # with such a preset: share of the clips whose chunks are learnt without a prefix, as after a
    # rest; the others with 0 to the largest delay of actions given, evenly
    no_prefix_share: float = _POLICY.clips.no_prefix_share
    # share of the clips whose first slot is a random one; the others start at slot 0
    offset_share: float = _POLICY.clips.offset_share
    # share of each task's clips that come from data sets with labels (collect --on-policy and
    # --expert), where there are any
    on_policy_share: float = _POLICY.clips.on_policy_share
    # how much more often a clip starts with a chunk that closes or opens the gripper
    decisive_weight: Annotated[float, arg(metavar="W")] = _POLICY.clips.decisive_weight
    # use at most this many per data set
    max_episodes: Annotated[int | None, default_is("all")] = None
    # judge the policy in the simulator every so many steps; 0: at the end only
    evaluate_every: int = _POLICY.evaluate_every or 0
    # episodes per task and judgement; 0: none, the last checkpoint is then kept
    evaluation_episodes: int = _POLICY.num_evaluation_episodes

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "hours", "learning_rate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} must be above 0, got {value:g}.")
        for name in _SHARES:
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} must be in 0 to 1, got {value:g}.")
        if self.max_clip_slots is not None and self.max_clip_slots < 1:
            raise ValueError(f"--max-clip-slots must be 1 or more, got {self.max_clip_slots}.")
        if self.processes is not None and not self.plan:
            raise ValueError("--processes is for --plan; torchrun's --nproc-per-node starts them.")
        if self.processes is not None and self.processes < 1:
            raise ValueError(f"--processes must be 1 or more, got {self.processes}.")


@dataclass(frozen=True, kw_only=True)
class PolicyOptions(LearningOptions):
    """Train the policy on the cached latents."""

    # variant of the model
    ablation: Annotated[str, one_of(ABLATIONS)] = FULL


@dataclass(frozen=True, kw_only=True)
class FramesOptions(LearningOptions):
    """Train what sees, without actions: the loss on frames of demonstrations and the positions of
    rendered scenes. Goes before `policy --from OUT/checkpoint`."""

    # never judged in the simulator: there is no policy yet
    evaluation_episodes: Suppress[int] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scenes:
            raise ValueError("--scenes is needed: what is seen is learnt from them.")


@dataclass(frozen=True, kw_only=True)
class PicturesOptions(LearningOptions):
    """Train only what draws the next picture, from the checkpoint of --from: its actions stay the
    same to the bit. Surprise must be calibrated again (`python -m par_model.calibrate`)."""

    # what the drawing predicts; v_prediction is sharper in few sampling steps
    prediction: Annotated[
        Literal["v_prediction", "epsilon"] | None, default_is("the checkpoint's")
    ] = None
    # how pictures are drawn by default
    drawing: Annotated[str | None, arg(metavar="SETSxSTEPS"), default_is("the checkpoint's")] = None
    # never judged in the simulator: the actions are known
    evaluation_episodes: Suppress[int] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start_checkpoint is None:
            raise ValueError("--from is needed: the checkpoint whose pictures are trained.")
        if self.pretrained is not None or self.lora_rank is not None or self.scenes:
            raise ValueError("--finetune, --lora-rank and --scenes do not go with `pictures`.")
        if self.drawing is not None:
            Drawing.of(self.drawing)


@dataclass(frozen=True, kw_only=True)
class ForwardOptions(OutOptions):
    """Train the forward model, by which surprise judges pictures: the next latent, from the latest
    one and the joints at both. Needs the latents (`latents`) and no policy; `python -m
    par_model.release --forward-model OUT` puts it beside a checkpoint of the same codec."""

    # training steps
    steps: int = ForwardTrainingConfig().num_steps
    # peak of the learning rate
    learning_rate: float = ForwardTrainingConfig().learning_rate

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"--steps must be above 0, got {self.steps}.")
        if not 0.0 < self.learning_rate < math.inf:
            raise ValueError(f"--learning-rate must be above 0, got {self.learning_rate:g}.")


@dataclass(frozen=True, kw_only=True)
class AllOptions(CodecOptions, ProbeFields, PolicyOptions):
    """Codec, probe, latents, policy; stages that are finished are left as they are."""

    # folder of the codec, or a checkpoint, whose codec is then used
    codec: Annotated[
        Path | None, arg(metavar="DIR"), default_is("the checkpoint of --from, else OUT/codec")
    ] = None
    # folder of the latents
    latents: Annotated[Path | None, arg(metavar="DIR"), default_is("OUT/latents")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_values()


@dataclass(frozen=True, kw_only=True)
class AblationsOptions(LearningOptions):
    """Train the full model and its variants one after another, each into OUT/NAME; finished ones
    are left as they are. Same data, seed and steps for all; compare them with
    `python -m par_model.evaluate --protocol ablations --checkpoint OUT --json OUT/table_3.json`."""

    # variants
    only: Annotated[tuple[str, ...] | None, some_of(ABLATIONS), default_is("all")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_some("--only", self.only)


@dataclass(frozen=True, kw_only=True)
class RecipeOptions(WorkerOptions):
    """Run all stages of a recipe file, from nothing to a measured checkpoint. The same command goes
    on where it was stopped or killed; a recipe that was changed needs another --out."""

    # the recipe, such as config/recipes/par_small.yaml
    file: Annotated[Positional[Path], arg(metavar="FILE")]
    # folder of the run
    out: Annotated[Path, output_folder()]
    # of every random choice of the training
    seed: Annotated[int | None, default_is("the recipe's")] = None
    # only say which stages there are, how long they take, what is done, and the commands
    plan: bool = False
    # CPU threads of torch; the default is one a core
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))


# What `python -m par_model.train` reads: one of these.
Stage = (
    Annotated[CodecOptions, subcommand("codec")]
    | Annotated[ProbeOptions, subcommand("probe")]
    | Annotated[LatentsOptions, subcommand("latents")]
    | Annotated[FramesOptions, subcommand("frames")]
    | Annotated[PolicyOptions, subcommand("policy")]
    | Annotated[PicturesOptions, subcommand("pictures")]
    | Annotated[ForwardOptions, subcommand("forward")]
    | Annotated[AllOptions, subcommand("all")]
    | Annotated[AblationsOptions, subcommand("ablations")]
    | Annotated[RecipeOptions, subcommand("recipe")]
)
