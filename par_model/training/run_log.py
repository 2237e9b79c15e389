# SPDX-License-Identifier: Apache-2.0
"""What a policy's training reports: log.jsonl, tensorboard, and one Progress now and then."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from par_model.output_files import write_text
from par_model.training.closed_loop import ClosedLoopResult


@dataclass(frozen=True)
class Progress:
    """One logged moment; losses are means since the last one."""

    step: int
    num_steps: int | None
    frame_loss: float
    action_loss: float
    # mean error along an axis, and loss of the chunk read directly; None where it is not read
    scene_mm: float | None
    chunk_loss: float | None
    # mean error along an axis on rendered scenes
    picture_mm: float | None
    step_s: float
    learning_rate: float

    @property
    def side(self) -> dict[str, float]:
        """The side tasks that are learnt, by name."""
        values = {
            "scene_mm": self.scene_mm,
            "chunk_loss": self.chunk_loss,
            "picture_mm": self.picture_mm,
        }
        return {name: value for name, value in values.items() if value is not None}


class RunLog:
    """log.jsonl for people and programs, and the same numbers for tensorboard: each step once."""

    def __init__(self, folder: Path, step: int) -> None:
        """step: after which the run goes on; what a killed run logged of later ones is dropped."""
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._lines = folder / "log.jsonl"
        kept = [line for line in _read_lines(self._lines) if line["step"] <= step]
        if self._lines.exists():
            write_text("log", self._lines, "".join(json.dumps(line) + "\n" for line in kept))
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._logged_results = {line["step"] for line in kept if line["kind"] == "closed_loop"}

    def training(self, progress: Progress) -> None:
        self._write(progress.step, "training", {
            "frame_loss": progress.frame_loss,
            "action_loss": progress.action_loss,
            **progress.side,
            "step_s": progress.step_s,
            "learning_rate": progress.learning_rate,
        })  # fmt: skip

    def validation(self, step: int, losses: dict[str, dict[str, float]]) -> None:
        for task, values in losses.items():
            self._write(step, f"validation/{task}", values)

    def closed_loop(self, results: list[ClosedLoopResult]) -> None:
        for result in results:
            if result.step not in self._logged_results:
                self._logged_results.add(result.step)
                rates = {
                    task: count / result.num_episodes
                    for task, count in result.num_successes.items()
                }
                self._write(result.step, "closed_loop", rates)

    def _write(self, step: int, kind: str, values: dict[str, float]) -> None:
        with open(self._lines, "a") as file:
            file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)
        self._board.flush()


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a kill may have cut the last one."""
    if not path.exists():
        return []
    *whole, _ = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in whole]
