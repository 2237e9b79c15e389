# SPDX-License-Identifier: Apache-2.0
"""Closed-loop success of checkpoints while training goes on, in a process beside it.

Only these results choose the checkpoint that is kept; they never influence the weights. What is
pending is on disk (a checkpoint folder without a result), so a killed run misses none of it.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from par_model.simulation.tasks import FIRST_SELECTION_SEED


@dataclass(frozen=True)
class ClosedLoopResult:
    """Successes by task of one training step's checkpoint."""

    step: int
    num_successes: dict[str, int]
    num_episodes: int

    @property
    def score(self) -> float:
        """Mean success rate over the tasks."""
        return sum(self.num_successes.values()) / (len(self.num_successes) * self.num_episodes)


class ClosedLoopQueue:
    """Evaluates the checkpoints `folder`/step_NNNNNN on selection seeds, one at a time."""

    def __init__(self, folder: Path, tasks: list[str], num_episodes: int) -> None:
        self.folder = folder
        self.tasks = tasks
        self.num_episodes = num_episodes
        self._process: subprocess.Popen[bytes] | None = None
        self._running: tuple[Path, str] | None = None

    def checkpoint_folder(self, step: int) -> Path:
        return self.folder / f"step_{step:06d}"

    def poll(self) -> list[ClosedLoopResult]:
        """Start what is pending, without waiting; return all results so far, oldest first.

        Raises:
            ValueError: an evaluation ended with an error.
        """
        if self._process is not None and self._process.poll() is not None:
            self._finish()
        if self._process is None and (pending := self._pending()):
            self._start(*pending[0])
        return self.results()

    def wait(self) -> list[ClosedLoopResult]:
        """Run all that is pending to its end."""
        self.poll()
        while self._process is not None:
            self._process.wait()
            self.poll()
        return self.results()

    def results(self) -> list[ClosedLoopResult]:
        """Checkpoints for which every task has a result."""
        found = []
        for folder in sorted(self.folder.glob("step_??????")):
            if all(_result_file(folder, task).exists() for task in self.tasks):
                counts = {task: _num_successes(_result_file(folder, task)) for task in self.tasks}
                found.append(ClosedLoopResult(int(folder.name[5:]), counts, self.num_episodes))
        return found

    @property
    def judges(self) -> bool:
        """Whether there are results, or will be."""
        return bool(self.results() or (self.num_episodes and self._pending()))

    def best(self) -> ClosedLoopResult | None:
        """The highest score; of equals the latest."""
        results = self.results()
        return max(results, key=lambda result: (result.score, result.step)) if results else None

    def drop_all_but(self, kept: int | None) -> None:
        """Remove the weights of judged checkpoints other than `kept`; results stay."""
        for result in self.results():
            folder = self.checkpoint_folder(result.step) / "checkpoint"
            if result.step != kept and folder.exists():
                shutil.rmtree(folder)

    def _pending(self) -> list[tuple[Path, str]]:
        return [
            (folder, task)
            for folder in sorted(self.folder.glob("step_??????"))
            for task in self.tasks
            if (folder / "checkpoint").is_dir() and not _result_file(folder, task).exists()
        ]

    def _start(self, folder: Path, task: str) -> None:
        command = [
            sys.executable, "-m", "par_model.evaluate",
            "--checkpoint", str(folder / "checkpoint"),
            "--task", task,
            "--episodes", str(self.num_episodes),
            "--first-seed", str(FIRST_SELECTION_SEED),
            # One process: the training beside it keeps its core.
            "--num-workers", "1",
            # Every selection checkpoint is used once: an export would cost more than it saves.
            "--backend", "eager",
            "--json", str(_result_file(folder, task).with_suffix(".unfinished")),
        ]  # fmt: skip
        with open(folder / f"{task}.log", "wb") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self._running = (folder, task)

    def _finish(self) -> None:
        assert self._process is not None
        assert self._running is not None
        folder, task = self._running
        code, self._process, self._running = self._process.returncode, None, None
        if code != 0:
            # What it had judged may be why: another version's, or damaged.
            for file in folder.glob(f"{task}.unfinished*"):
                file.unlink()
            raise ValueError(
                f"the closed-loop evaluation of {folder} on {task} ended with exit code {code}; "
                f"see {folder / (task + '.log')}. Training can be resumed with the same command."
            )
        os.replace(
            _result_file(folder, task).with_suffix(".unfinished"), _result_file(folder, task)
        )


def _result_file(folder: Path, task: str) -> Path:
    return folder / f"{task}.json"


def _num_successes(path: Path) -> int:
    return int(json.loads(path.read_text())["num_successes"])
