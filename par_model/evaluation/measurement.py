# SPDX-License-Identifier: Apache-2.0
"""The rollouts of one result file: what they depend on, their log, and the file."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from par_model.evaluation.result_file import checkpoint_hash, write_result
from par_model.evaluation.rollouts import Rollout, RolloutLog, RolloutResult, run_rollouts
from par_model.weights_hash import weights_hash
from par_model.worker_options import WorkerOptions

_OF_ROLLOUTS = ("checkpoint", "max_steps", "num_steps", "context_slots", "sampler", "spacing")


def settings_of(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """What the results of these rollouts depend on, always with the same names.

    None: the checkpoint's, of no effect here, or not the same for all of them (the cells of a
    protocol). Raises ValueError where there is no checkpoint.
    """
    first = rollouts[0]
    timings = [rollout.timing for rollout in rollouts if rollout.timing is not None]
    arm_file = Path(first.arm_file).read_bytes() if first.arm_file else None
    return {
        **{name: _common(getattr(rollout, name) for rollout in rollouts) for name in _OF_ROLLOUTS},
        "checkpoint_sha256": checkpoint_hash(Path(first.checkpoint)),
        "weights_sha256": weights_hash(Path(first.checkpoint)),
        # By name, as `open_rollout` gives it: what "auto" takes depends on the machine.
        "backend": ", ".join(dict.fromkeys(rollout.backend for rollout in rollouts)),
        "seam_smoothness": _common(timing.smoothness for timing in timings),
        "delay_jitter_s": max((timing.delay_jitter_s for timing in timings), default=None),
        "arm_file_sha256": None if arm_file is None else hashlib.sha256(arm_file).hexdigest(),
    }


def _common(values: Iterable[Any]) -> Any:
    found = set(values)
    return found.pop() if len(found) == 1 else None


@dataclass(frozen=True)
class Measurement:
    """Rollouts of one checkpoint that are run, continued or read back.

    Attributes:
        file: the result.
        rollouts: in the order of the results; each with its backend by name.
        protocol: as asked for.
    """

    file: Path
    rollouts: Sequence[Rollout]
    protocol: str | None

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """What log and file say of them: `settings_of`, as the files are when it is first asked."""
        return settings_of(self.rollouts)

    def run(
        self, workers: WorkerOptions, report: Callable[[RolloutResult], None]
    ) -> list[RolloutResult]:
        """Run what the log beside the file lacks. Blocks until done.

        Raises ValueError as RolloutLog and run_jobs.
        """
        targets = self.rollouts[0].record_targets
        own = {"protocol": self.protocol, "record_targets": targets}
        log = RolloutLog(self._log_path(), self.settings | own)
        return run_rollouts(self.rollouts, log, workers, report)

    def stored(self) -> list[RolloutResult] | None:
        """The file's results; None where there is no file, or one of other settings or rollouts."""
        if not self.file.is_file():
            return None
        content = json.loads(self.file.read_text())
        if any(content.get(name) != value for name, value in self.settings.items()):
            return None
        results = [RolloutResult.from_json(entry) for entry in content["rollouts"]]
        wanted = {rollout.task for rollout in self.rollouts}
        return results if {result.task for result in results} == wanted else None

    def finish(self, content: dict[str, Any]) -> None:
        """Write the file; the log is not needed any more."""
        write_result(self.file, content)
        self._log_path().unlink()

    def _log_path(self) -> Path:
        return self.file.with_name(self.file.name + ".episodes.jsonl")
