# SPDX-License-Identifier: Apache-2.0
"""LeRobotPolicy: a policy that LeRobot trained, behind this project's interface."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from par_model.interface import ActionChunk, FloatArray, Observation, PolicySpec
from par_model.json_file import shown
from par_model.peers.lerobot_folder import read_lerobot_folder, verify_lerobot_folder
from par_model.peers.other_process import OtherProcess

# The Python of the environment in which lerobot is installed.
PYTHON_VARIABLE = "PAR_LEROBOT_PYTHON"
# Importing torch and lerobot takes 10 s on an idle machine.
LOAD_TIMEOUT_S = 300.0
ANSWER_TIMEOUT_S = 60.0
_PROGRAM = Path(__file__).with_name("lerobot_program.py")


class LeRobotPolicy:
    """Answers from the newest observation alone: LeRobot keeps no history of executed actions.

    A chunk is what LeRobot itself executes of one answer: its action queue, filled from one
    observation and emptied. So a policy trained with n_action_steps 8 answers 8 actions.

    Args:
        folder: what `import_lerobot` wrote.
        command: the program that answers, and its arguments.
        timeout_s: for an answer; a program that takes longer is stopped.

    Raises:
        ValueError: the folder is damaged, or the program cannot load it; the sentence says why.
    """

    def __init__(
        self, folder: Path, command: Sequence[str], timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        verify_lerobot_folder(folder)
        described, self._spec = read_lerobot_folder(folder)
        self._timeout_s = timeout_s
        self._process = OtherProcess("the LeRobot process", [*command, str(folder)])
        version = self._process.ready(LOAD_TIMEOUT_S).get("version")
        self._backend = f"lerobot {version}, {described.policy}"
        self._instruction = ""
        # Sent with the first question after a reset.
        self._seed: int | None = None
        self._observation: Observation | None = None

    @property
    def spec(self) -> PolicySpec:
        return self._spec

    @property
    def backend(self) -> str:
        """LeRobot's version and its name of the policy."""
        return self._backend

    def reset(self, instruction: str, seed: int) -> None:
        """Start an episode. Raises ValueError for an unknown instruction."""
        self._spec.require_instruction(instruction)
        self._instruction, self._seed, self._observation = instruction, seed, None

    def observe(self, observation: Observation) -> None:
        """Keep the newest observation. Raises ValueError for one that does not fit `spec`."""
        observation.validate(self._spec)
        self._observation = observation

    def act(self, committed: FloatArray | None = None) -> ActionChunk:
        """L actions that answer the newest observation.

        Raises:
            ValueError: no observation yet; any `committed`; an answer that does not fit `spec`.
            PolicyEnded: the LeRobot process has ended or hangs.
        """
        if committed is not None:
            self._spec.require_prefixes()
        observation = self._observation
        if observation is None:
            raise ValueError("act needs an observation: call reset, then observe.")
        question = {
            "seed": self._seed,
            "instruction": self._instruction,
            "joints": observation.measured_joint_positions.tolist(),
            "image_shape": observation.image.shape,
        }
        answer = self._process.ask(question, observation.image.tobytes(), self._timeout_s)
        self._seed = None
        chunk = ActionChunk(
            joint_positions=_numbers(answer.get("actions")),
            joint_names=self._spec.joint_names,
            step_s=self._spec.step_s,
            stamp_s=observation.stamp_s,
        )
        chunk.validate(self._spec)
        return chunk


def load_lerobot_policy(
    folder: Path,
    *,
    device: str = "auto",
    num_threads: int | None = None,
    unused: Mapping[str, object],
) -> LeRobotPolicy:
    """Load a folder of `import_lerobot` under the interpreter that PAR_LEROBOT_PYTHON names.

    Args:
        device: "cpu", "cuda", or "auto": CUDA where LeRobot's torch has it.
        num_threads: of torch there; None is its default.
        unused: settings of our own checkpoints, by name; None, "" and "auto" are not set.

    Raises:
        ValueError: one of `unused` is set; the variable is missing; as LeRobotPolicy.
    """
    if given := [name for name, value in unused.items() if value not in (None, "", "auto")]:
        raise ValueError(
            f"{', '.join(given)} has no effect on a LeRobot policy ({folder}); leave it out."
        )
    # -E: PYTHONPATH is of this environment, not of that one.
    options = ["-E", str(_PROGRAM), "--device", device]
    if num_threads is not None:
        options += ["--num-threads", str(num_threads)]
    return LeRobotPolicy(folder, [lerobot_python(), *options])


def lerobot_python() -> str:
    """The interpreter that PAR_LEROBOT_PYTHON names. Raises ValueError where it names none."""
    python = os.environ.get(PYTHON_VARIABLE, "")
    if not python or shutil.which(python) is None:
        raise ValueError(
            f"a LeRobot policy needs {PYTHON_VARIABLE}, the Python of the environment in which "
            f"lerobot is installed, got {shown(python)}; see docs/how_to/compare_with_lerobot.md."
        )
    return python


def _numbers(actions: object) -> FloatArray:
    """float64 of nested lists. Raises ValueError for anything else."""
    try:
        return np.asarray(actions, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the LeRobot process must answer lists of numbers, got {shown(actions)}; its program "
            "is at fault."
        ) from error
