# SPDX-License-Identifier: Apache-2.0
"""Rollouts read back from the result files of par_model.evaluate."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from par_model.evaluation.rollouts import Rollout, RolloutResult
from par_model.simulation.tasks import task as task_by_name


@dataclass(frozen=True)
class StoredRollouts:
    """What a result file holds.

    Attributes:
        path: the file.
        settings: its top level: checkpoint, weights_sha256, max_steps, command, date, hardware ...
        results: all rollouts, each with milestones.
    """

    path: Path
    settings: dict[str, Any]
    results: list[RolloutResult]

    def of_task(self, task: str) -> list[RolloutResult]:
        return [result for result in self.results if result.task == task]

    def rollout(self, result: RolloutResult, checkpoint: Path) -> Rollout:
        """What to run to see `result` again."""
        settings = self.settings
        return Rollout(
            checkpoint=str(checkpoint),
            task=result.task,
            seed=result.seed,
            policy_seed=result.policy_seed,
            max_steps=settings["max_steps"],
            num_steps=settings.get("num_steps"),
            context_slots=settings.get("context_slots"),
            record_targets=False,
            sampler=settings.get("sampler"),
            backend=settings.get("backend", "auto"),
            spacing=settings.get("spacing"),
        )


def _require_one_condition(path: Path, protocol: str | None, entries: list[Any]) -> None:
    is_other = protocol in ("delay", "disturbances") or any(
        isinstance(entry, dict) and (entry.get("inference") or entry.get("disturbance"))
        for entry in entries
    )
    if is_other:
        raise ValueError(
            f"{path} holds rollouts with different delays or disturbances, which have no common "
            "success rate; give a file that `python -m par_model.evaluate` wrote for a task or for "
            "--protocol paper or states."
        )


def read_rollouts(path: Path) -> StoredRollouts:
    """Read the result of one task, of protocol paper or states, or of one ablation.

    Raises:
        ValueError: the file cannot be read, is no such result, has rollouts of different conditions
            (protocols delay and disturbances), or was written before rollouts were measured.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); check the path.") from error
    entries = content.get("episodes") or content.get("rollouts")
    if "tasks" in content and entries is None:
        entries = [entry for task in content["tasks"].values() for entry in task["episodes"]]
    if not isinstance(entries, list) or not entries:
        raise ValueError(
            f"{path} holds no rollouts; give a file that `python -m par_model.evaluate` wrote for "
            "a task or for --protocol paper."
        )
    _require_one_condition(path, content.get("protocol"), entries)
    try:
        stored = [RolloutResult.from_json(entry) for entry in entries]
    except TypeError as error:
        raise ValueError(
            f"{path} holds episodes of another kind ({error}); give a file that "
            "`python -m par_model.evaluate` wrote."
        ) from error
    results = []
    for result in stored:
        if result.milestones is None:
            raise ValueError(
                f"{path} was written before positions were recorded; run its command again: "
                f"{content.get('command', 'par_model.evaluate')}."
            )
        # Measurements are stored, what they are called is today's.
        kind = task_by_name(result.task).outcome(result.success, result.milestones)
        results.append(dataclasses.replace(result, outcome=kind))
    settings = {name: value for name, value in content.items() if name not in ("episodes", "tasks")}
    return StoredRollouts(path, settings, results)
