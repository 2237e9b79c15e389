# SPDX-License-Identifier: Apache-2.0
"""Runs a recipe's stages in order, each once; what is done stands in OUT/recipe.json. Only latents
that are missing are encoded again while a later stage is to do.

A stage is the command that a user would type, run in this process. A stage that was stopped or
killed goes on as its command does.
"""

import dataclasses
import importlib
import json
import os
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from par_model.calibrate import CalibrateOptions
from par_model.collect import CollectOptions
from par_model.evaluate import EvaluateOptions
from par_model.evaluation.text_table import plain_table
from par_model.json_file import read_object
from par_model.perception import ScenesOptions
from par_model.release import ReleaseOptions
from par_model.training.recipe import (
    Command,
    Commands,
    Recipe,
    check_options,
    read_recipe,
    stage_commands,
)
from par_model.training.stage_options import (
    CodecOptions,
    ForwardOptions,
    FramesOptions,
    LatentsOptions,
    PolicyOptions,
    ProbeOptions,
)
from par_model.worker_options import WorkerOptions

STATE_FILE = "recipe.json"
# What each kind of stage reads.
STAGE_OPTIONS = {
    "collect": CollectOptions,
    "scenes": ScenesOptions,
    "codec": CodecOptions,
    "probe": ProbeOptions,
    "latents": LatentsOptions,
    "frames": FramesOptions,
    "policy": PolicyOptions,
    "forward": ForwardOptions,
    "expert": CollectOptions,
    "on_policy": CollectOptions,
    "release": ReleaseOptions,
    "calibrate": CalibrateOptions,
    "evaluate": EvaluateOptions,
    "card": ReleaseOptions,
}


@dataclass(frozen=True)
class RecipeRun:
    """A recipe in a folder."""

    recipe: Recipe
    commands: Commands
    out: Path

    @property
    def state_file(self) -> Path:
        return self.out / STATE_FILE

    def done(self) -> dict[str, dict[str, Any]]:
        """Stage name -> when it ended and how long it took.

        Raises ValueError if the folder holds a run of another recipe.
        """
        if not self.state_file.exists():
            return {}
        state = read_object(self.state_file, "give another --out")
        own = json.loads(json.dumps(self.recipe.identity()))
        if state["recipe"] != own:
            raise ValueError(
                f"{self.out} holds a run of another recipe ({_difference(state['recipe'], own)}); "
                "give another --out, or the recipe that it was begun with."
            )
        done: dict[str, dict[str, Any]] = state["done"]
        return done

    def run(self) -> None:
        """Run what is not done. Raises ValueError where a stage ends with an error, and
        KeyboardInterrupt where it was stopped."""
        done = self.done()
        self.out.mkdir(parents=True, exist_ok=True)
        self._write(done)
        for number, stage in enumerate(self.recipe.stages, 1):
            if stage.name in done:
                if stage.kind == "latents" and len(done) < len(self.recipe.stages):
                    # What is missing, as after a set was recorded anew; seconds where nothing is.
                    for command in self.commands[stage.name]:
                        self._run_command(command, stage.name)
                continue
            print(
                f"[{number}/{len(self.recipe.stages)}] {stage.name}: about {stage.minutes:g} min",
                flush=True,
            )
            started_s = time.monotonic()
            for command in self.commands[stage.name]:
                print(shown(command), flush=True)
                self._run_command(command, stage.name)
            minutes = round((time.monotonic() - started_s) / 60, 2)
            done[stage.name] = {"minutes": minutes, "ended": time.strftime("%Y-%m-%d %H:%M")}
            self._write(done)
            print(f"{stage.name}: done in {minutes:g} min", flush=True)

    def _run_command(self, command: Command, stage: str) -> None:
        code = _main_of(command.module)(list(command.words))
        if code == 130:
            raise KeyboardInterrupt
        if code:
            raise ValueError(
                f"recipe {self.recipe.name!r}: stage {stage!r} ended with an error (above); the "
                "same command goes on with it."
            )

    def _write(self, done: dict[str, dict[str, Any]]) -> None:
        writing = self.state_file.with_name(STATE_FILE + ".writing")
        state = {"recipe": self.recipe.identity(), "done": done}
        writing.write_text(json.dumps(state, indent=2) + "\n")
        os.replace(writing, self.state_file)

    def plan(self) -> str:
        """The stages with their expected times, what is done, and the commands of the rest."""
        done = self.done()
        rows = [["stage", "expected", "state"]]
        for stage in self.recipe.stages:
            entry = done.get(stage.name)
            state = "to do" if entry is None else f"done, {entry['minutes']:g} min"
            rows.append([stage.name, f"{stage.minutes:g} min", state])
        total = sum(stage.minutes for stage in self.recipe.stages)
        left = sum(stage.minutes for stage in self.recipe.stages if stage.name not in done)
        rows.append(["all", f"{total:g} min", f"{left:g} min to do"])
        todo = [s.name for s in self.recipe.stages if s.name not in done]
        lines = [shown(command) for name in todo for command in self.commands[name]]
        return "\n".join([plain_table(rows), "", *lines])


def open_run(
    file: Path, out: Path, workers: WorkerOptions, threads: int, seed: int | None = None
) -> RecipeRun:
    """The recipe `file` in folder `out`, all its command lines checked; with another `seed` than
    the file's where one is given.

    Raises ValueError for a recipe that cannot be run.
    """
    recipe = read_recipe(file)
    if seed is not None:
        recipe = dataclasses.replace(recipe, seed=seed)
    commands = stage_commands(recipe, out, workers, threads)
    check_options(recipe, STAGE_OPTIONS, commands)
    return RecipeRun(recipe, commands, out)


def shown(command: Command) -> str:
    """As a user would type it."""
    return f"python -m par_model.{command.module} {shlex.join(command.words)}"


def _main_of(module: str) -> Callable[[list[str]], int]:
    main: Callable[[list[str]], int] = importlib.import_module(f"par_model.{module}").main
    return main


def _difference(stored: dict[str, Any], own: dict[str, Any]) -> str:
    """The first thing that differs."""
    for name in ("name", "tasks", "seed", "common"):
        if stored.get(name) != own[name]:
            return f"{name} {stored.get(name)!r}, asked for now {own[name]!r}"
    for before, now in zip(stored["stages"], own["stages"], strict=False):
        for key in [*before, *now]:
            if before.get(key) != now.get(key):
                return (
                    f"stage {before['name']!r}: {key} {before.get(key)!r}, asked for now "
                    f"{now.get(key)!r}"
                )
    return f"{len(stored['stages'])} stages, asked for now {len(own['stages'])}"
