# SPDX-License-Identifier: Apache-2.0
"""A recipe: a YAML file with every stage from nothing to a measured checkpoint, read and checked.

    name: push_short
    tasks: [PushCube]
    seed: 0
    common: {preset: par_small, variants: 1}   # options of every `train` stage
    stages:
      - {stage: collect, minutes: 8, num_demos: 400}
      - {stage: policy, name: policy_1, minutes: 40, steps: 800}

A stage is a command of this package, `minutes` how long it is expected to take, `name` what it is
called (by default as the stage), and everything else an option of the command with underscores for
dashes. The recipe itself says which data, codec and checkpoint a stage reads: what the stages
before it have made. A value of a stage that runs once a task may be a mapping of the tasks.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from par_model.command_line import parse
from par_model.simulation.tasks import task as task_by_name
from par_model.worker_options import WorkerOptions

RECIPE_KEYS = ("name", "tasks", "seed", "common", "stages")
# Of a stage, and no option of its command.
_STAGE_KEYS = ("stage", "name", "minutes")
_WORKERS = tuple(field.name for field in fields(WorkerOptions))


@dataclass(frozen=True)
class StageKind:
    """A command as a stage.

    Attributes:
        module: entry module of the command.
        subcommand: of the command; None: it has none.
        per_task: whether it runs once for each task.
        wired: options that the recipe sets.
        takes_common: whether the recipe's `common` options are its, too.
    """

    module: str
    subcommand: str | None
    wired: tuple[str, ...]
    per_task: bool = False
    takes_common: bool = False


_TRAIN = ("codec", "latents", "pretrained", "seed", "threads", "reset_pictures", "probe_tasks")
_LEARN = (*_TRAIN, "data", "out", "scenes", "start_checkpoint", "resume", "hours")
_RECORDED = ("task", "out", "on_policy", "expert", "show", "sheet", *_WORKERS)
KINDS = {
    "collect": StageKind(
        "collect", None, (*_RECORDED, "max_steps", "disturbed_starts"), per_task=True
    ),
    "scenes": StageKind("perception", "scenes", ("out", "tasks", *_WORKERS)),
    "codec": StageKind(
        "train", "codec", (*_TRAIN, "data", "out", "scenes", "start_from"), takes_common=True
    ),
    "probe": StageKind("train", "probe", _TRAIN, takes_common=True),
    "latents": StageKind("train", "latents", (*_TRAIN, "data"), takes_common=True),
    "frames": StageKind("train", "frames", _LEARN, takes_common=True),
    "policy": StageKind("train", "policy", _LEARN, takes_common=True),
    "forward": StageKind("train", "forward", (*_TRAIN, "data", "out"), takes_common=True),
    "expert": StageKind(
        "collect",
        None,
        (*_RECORDED, "max_steps", "disturbed_starts", "hold_steps"),
        per_task=True,
    ),
    "on_policy": StageKind(
        "collect", None, (*_RECORDED, "noise_share", "hold_steps"), per_task=True
    ),
    "release": StageKind(
        "release", None, ("checkpoint", "out", "evaluation", "data", "codec", "forward_model")
    ),
    "calibrate": StageKind("calibrate", None, ("checkpoint", "out", *_WORKERS)),
    "evaluate": StageKind("evaluate", None, ("checkpoint", "json", *_WORKERS)),
    "card": StageKind(
        "release",
        None,
        (
            *("checkpoint", "out", "evaluation", "data", "codec"),
            *("sampling", "context_slots", "forward_model"),
        ),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class RecipeStage:
    """One entry of the list.

    Attributes:
        kind: one of KINDS.
        name: what it is called; its folder, where it has one.
        minutes: expected, as the file says.
        options: of its command.
    """

    kind: str
    name: str
    minutes: float
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A whole file."""

    name: str
    tasks: tuple[str, ...]
    seed: int
    common: Mapping[str, Any]
    stages: tuple[RecipeStage, ...]

    def identity(self) -> dict[str, Any]:
        """What the result depends on, as JSON values; not the expected times."""
        return {
            "name": self.name,
            "tasks": list(self.tasks),
            "seed": self.seed,
            "common": dict(self.common),
            "stages": [
                {"stage": stage.kind, "name": stage.name, **stage.options} for stage in self.stages
            ],
        }


@dataclass(frozen=True)
class Command:
    """A command line: the entry module's name and the words after it."""

    module: str
    words: tuple[str, ...]


def read_recipe(path: Path) -> Recipe:
    """Raises ValueError, one sentence, for a file that is no recipe: names the key and stage."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"recipe {path} cannot be read ({reason}); check the path.") from error
    where = f"recipe {path}"
    _require_keys(values, RECIPE_KEYS, RECIPE_KEYS, where)
    names = values["tasks"]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{where}: tasks must be a list of names, got {names!r}.")
    if isinstance(values["seed"], bool) or not isinstance(values["seed"], int):
        raise ValueError(f"{where}: seed must be a whole number, got {values['seed']!r}.")
    if not isinstance(values["stages"], list) or not values["stages"]:
        raise ValueError(f"{where}: stages must be a list of stages.")
    stages = tuple(
        _read_stage(entry, number, where) for number, entry in enumerate(values["stages"], 1)
    )
    called = [stage.name for stage in stages]
    twice = sorted({name for name in called if called.count(name) > 1})
    if twice:
        raise ValueError(f"{where}: two stages are called {twice[0]!r}; give one another name.")
    return Recipe(
        name=str(values["name"]),
        tasks=tuple(task_by_name(str(name)).name for name in names),
        seed=values["seed"],
        common=values["common"] or {},
        stages=stages,
    )


def _read_stage(entry: Any, number: int, where: str) -> RecipeStage:
    where = f"{where}, stage {number}"
    if not isinstance(entry, dict) or entry.get("stage") not in KINDS:
        raise ValueError(
            f"{where}: `stage` must be one of {', '.join(KINDS)}, got "
            f"{entry.get('stage') if isinstance(entry, dict) else entry!r}."
        )
    minutes = entry.get("minutes")
    if isinstance(minutes, bool) or not isinstance(minutes, (int, float)):
        raise ValueError(f"{where} ({entry['stage']}): minutes must be a number, got {minutes!r}.")
    options = {key: value for key, value in entry.items() if key not in _STAGE_KEYS}
    return RecipeStage(
        entry["stage"], str(entry.get("name", entry["stage"])), float(minutes), options
    )


def check_options(recipe: Recipe, option_types: Mapping[str, Any], commands: "Commands") -> None:
    """Read every command line as its command will.

    option_types: the dataclass of each stage kind's command.

    Raises ValueError that names the stage and the key or value.
    """
    for stage in recipe.stages:
        kind = KINDS[stage.kind]
        known = {field.name for field in fields(option_types[stage.kind])} - set(kind.wired)
        given = dict(recipe.common) if kind.takes_common else {}
        where = f"recipe {recipe.name!r}, stage {stage.name!r}"
        _require_keys({**given, **stage.options}, (), tuple(sorted(known)), where)
        for command in commands[stage.name]:
            words = command.words[1:] if kind.subcommand else command.words
            sentence = _refusal(option_types[stage.kind], words)
            if sentence:
                raise ValueError(f"{where}: {sentence}")


Commands = dict[str, list[Command]]


def _refusal(options: Any, words: Sequence[str]) -> str | None:
    """What the command would say to `words`; None where it takes them."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parse(options, "the command", None, words)
    except SystemExit:
        sentence = said.getvalue().removeprefix("error: ")
        return sentence.replace(" See the command --help.", "").strip()
    return None


def stage_commands(recipe: Recipe, out: Path, workers: WorkerOptions, threads: int) -> Commands:
    """The command lines of each stage, by its name.

    Raises ValueError for a stage that needs another one before it.
    """
    wiring = _Wiring(recipe, out, workers, threads)
    return {stage.name: wiring.commands(stage) for stage in recipe.stages}


class _Wiring:
    """What the stages so far have made."""

    def __init__(self, recipe: Recipe, out: Path, workers: WorkerOptions, threads: int) -> None:
        self._recipe, self._out = recipe, out
        self._workers, self._threads = workers.words(), str(threads)
        self._made: dict[str, list[str]] = {}

    def commands(self, stage: RecipeStage) -> list[Command]:
        kind = KINDS[stage.kind]
        common = self._recipe.common if kind.takes_common else {}
        tasks: Sequence[str | None] = self._recipe.tasks if kind.per_task else (None,)
        found = []
        for task in tasks:
            options = {**common, **stage.options}
            words = [*([kind.subcommand] if kind.subcommand else []), *self._wired(stage, task)]
            for name, value in options.items():
                if task is not None and isinstance(value, dict) and task not in value:
                    raise ValueError(
                        f"recipe {self._recipe.name!r}, stage {stage.name!r}: {name} says nothing "
                        f"of {task}; it names {', '.join(map(str, value))}."
                    )
                words += _option_words(name, value, task)
            found.append(Command(kind.module, tuple(words)))
        self._remember(stage)
        return found

    def _wired(self, stage: RecipeStage, task: str | None) -> list[str]:
        name, out = stage.kind, self._out
        if name == "collect":
            return ["--task", str(task), "--out", str(out / "data" / str(task)), *self._workers]
        if name in ("expert", "on_policy"):
            policy = ["--on-policy", self._checkpoint(stage)] if name == "on_policy" else []
            words = ["--task", str(task), *(policy or ["--expert"])]
            return [*words, "--out", str(self._round_folder(stage, str(task))), *self._workers]
        if name == "scenes":
            words = ["--out", str(out / "scenes"), "--tasks", *self._recipe.tasks]
            return [*words, *self._workers]
        if name == "release":
            words = ["--checkpoint", self._checkpoint(stage), "--out", str(out / "checkpoint")]
            words += ["--data", *self._need("data", stage), *self._got("rounds")]
            words += self._option("--forward-model", self._got("forward"))
            return [*words, *self._option("--codec", self._got("probed"))]
        if name == "calibrate":
            return ["--checkpoint", self._released(stage), *self._workers]
        if name == "evaluate":
            file = out / "results" / f"{stage.name}.json"
            return ["--checkpoint", self._released(stage), "--json", str(file), *self._workers]
        if name == "card":
            checkpoint = self._released(stage)
            results = self._need("results", stage)
            return ["--checkpoint", checkpoint, "--out", checkpoint, "--evaluation", *results]
        return self._wired_training(stage)

    def _wired_training(self, stage: RecipeStage) -> list[str]:
        name, out = stage.kind, self._out
        words = ["--seed", str(self._recipe.seed), "--threads", self._threads]
        codec = str(out / "codec")
        if name in ("codec", "probe"):
            words += ["--probe-tasks", *self._recipe.tasks]
            if name == "probe":
                self._need("codec", stage)
                return [*words, "--codec", codec]
            words += ["--data", *self._need("data", stage), "--out", codec]
            return [*words, *self._option("--scenes", self._got("scenes"))]
        self._need("codec", stage)
        words += ["--codec", codec, "--data", *self._need("data", stage), *self._got("rounds")]
        if name == "latents":
            return words
        words += ["--out", str(out / stage.name)]
        if name == "forward":
            if "released" in self._made:
                raise ValueError(
                    f"recipe {self._recipe.name!r}: stage {stage.name!r} comes after `release`, "
                    "which puts the forward model beside the checkpoint; put it before."
                )
            return words
        words += self._option("--scenes", self._got("scenes"))
        return [*words, *self._option("--from", self._got("checkpoint"))]

    def _remember(self, stage: RecipeStage) -> None:
        out, name = self._out, stage.kind
        if name == "collect":
            self._made["data"] = [str(out / "data" / task) for task in self._recipe.tasks]
        elif name == "scenes":
            self._made["scenes"] = [str(out / "scenes" / task) for task in self._recipe.tasks]
        elif name == "codec":
            self._made["codec"] = [str(out / "codec")]
        elif name == "probe":
            self._made["probed"] = [str(out / "codec")]
        elif name == "forward":
            self._made["forward"] = [str(out / stage.name)]
        elif name in ("frames", "policy"):
            self._made["checkpoint"] = [str(out / stage.name / "checkpoint")]
        elif name in ("expert", "on_policy"):
            rounds = [str(self._round_folder(stage, task)) for task in self._recipe.tasks]
            self._made["rounds"] = [*self._got("rounds"), *rounds]
        elif name == "release":
            self._made["released"] = [str(out / "checkpoint")]
        elif name == "evaluate":
            file = str(out / "results" / f"{stage.name}.json")
            self._made["results"] = [*self._got("results"), file]

    def _round_folder(self, stage: RecipeStage, task: str) -> Path:
        return self._out / "data" / f"{task}_{stage.name}"

    def _checkpoint(self, stage: RecipeStage) -> str:
        return self._need("checkpoint", stage)[0]

    def _released(self, stage: RecipeStage) -> str:
        return self._need("released", stage)[0]

    def _got(self, what: str) -> list[str]:
        return self._made.get(what, [])

    def _need(self, what: str, stage: RecipeStage) -> list[str]:
        makers = {"data": "collect", "checkpoint": "policy", "released": "release",
                  "results": "evaluate"}  # fmt: skip
        if what not in self._made:
            raise ValueError(
                f"recipe {self._recipe.name!r}: stage {stage.name!r} needs a stage "
                f"`{makers.get(what, what)}` before it."
            )
        return self._made[what]

    @staticmethod
    def _option(flag: str, values: Sequence[str]) -> list[str]:
        return [flag, *values] if values else []


def _option_words(name: str, value: Any, task: str | None) -> list[str]:
    """`num_demos`, 400 -> --num-demos 400; true: the flag alone; null and false: nothing."""
    if isinstance(value, dict):
        if task is not None:
            value = value[task]
        else:
            value = ",".join(f"{key}={number}" for key, number in value.items())
    if value is None or value is False:
        return []
    flag = "--" + name.replace("_", "-")
    if value is True:
        return [flag]
    values = value if isinstance(value, list) else [value]
    return [flag, *(str(each) for each in values)]


def _require_keys(values: Any, needed: Sequence[str], known: Sequence[str], where: str) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be a mapping of names, got {values!r}.")
    unknown = sorted(str(key) for key in values if key not in known)
    missing = [key for key in needed if key not in values]
    if unknown or missing:
        what = f"unknown key {unknown[0]!r}" if unknown else f"missing key {missing[0]!r}"
        raise ValueError(f"{where}: {what}; known are {', '.join(known)}.")
