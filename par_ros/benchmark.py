# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros bench`: what the ROS graph costs, beside the same environment without ROS.

Both step the same task with fixed chunks and no policy, and draw a picture at every step. Each
loop is run several times, the direct one half before and half after the graph, and medians are
compared, so that a machine that gets slower or is busy for a while does not lie.
"""

import dataclasses
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from par_model.interface import FloatArray, Observation
from par_model.output_files import write_text
from par_model.simulation.tasks import FIRST_MEASUREMENT_SEED, task
from par_ros.control.settings import parameter
from par_ros.fixed_chunk_node import IMAGE_SIZE, PANDA_TASKS, FixedChunkPolicy
from par_ros.graph_environment import graph_environment
from par_ros.graph_runner import GraphRunner
from par_ros.node_graph import NodeEntry, NodeGraph
from par_ros.run_results import RESULTS_FILE, hardware
from par_ros.topics import BRIDGE, EPISODES, GUARD, POLICY

if TYPE_CHECKING:
    from par_model.simulation.maniskill_env import ManiSkillArm


@dataclass(frozen=True)
class BenchArguments:
    """bench: control steps a second with and without ROS, drawing every step."""

    task: str = parameter("PushCube", "what is simulated", choices=PANDA_TASKS)
    steps: int = parameter(200, "control steps of each loop", minimum=8, maximum=100_000)
    rounds: int = parameter(
        3, "runs of the graph's loop, and of the direct one before and after", minimum=1, maximum=99
    )
    seed: int = parameter(FIRST_MEASUREMENT_SEED, "scene", minimum=0, maximum=2**31 - 1)
    json: str = parameter("", "file to write the numbers to; not set: none")
    domain_id: int | None = parameter(
        None, "ROS domain; not set: ROS_DOMAIN_ID, or 0", minimum=0, maximum=232
    )


@dataclass(frozen=True)
class StepRates:
    """Control steps a wall second, of each run."""

    direct_before_hz: tuple[float, ...]
    graph_hz: tuple[float, ...]
    direct_after_hz: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median of the graph over the median of all direct loops."""
        direct_hz = (*self.direct_before_hz, *self.direct_after_hz)
        return statistics.median(self.graph_hz) / statistics.median(direct_hz)


def run_benchmark(arguments: BenchArguments) -> StepRates:
    """Measure and print. Raises RunError where the graph could not run."""
    before_hz = direct_rates_hz(arguments)
    with tempfile.TemporaryDirectory(prefix="par_bench_") as folder:
        with GraphRunner(bench_graph(arguments, Path(folder))) as runner:
            runner.start()
            runner.wait()
        results = json.loads((Path(folder) / RESULTS_FILE).read_text(encoding="utf-8"))
    graph_hz = tuple(episode["step_rate_hz"] for episode in results["episodes"])
    rates = StepRates(before_hz, graph_hz, direct_rates_hz(arguments))
    _print(rates, arguments)
    if arguments.json:
        content = {
            "task": arguments.task,
            "steps": arguments.steps,
            **dataclasses.asdict(rates),
            "ratio": rates.ratio,
            "hardware": hardware(),
        }
        write_text("the result", Path(arguments.json), json.dumps(content, indent=1) + "\n")
    return rates


def direct_rates_hz(arguments: BenchArguments) -> tuple[float, ...]:
    """Step, read the joints and draw, with the same chunks, in this process."""
    # Here: every command of par_ros imports this file, for its arguments.
    from par_model.simulation.maniskill_env import ManiSkillArm

    with ManiSkillArm(task(arguments.task), image_size=IMAGE_SIZE) as arm:
        return tuple(
            _direct_rate_hz(arm, arguments.seed + index, arguments.steps)
            for index in range(arguments.rounds)
        )


def _direct_rate_hz(arm: "ManiSkillArm", seed: int, num_steps: int) -> float:
    policy = FixedChunkPolicy()
    policy.reset(arm.task.instruction, 0)
    arm.reset(seed)
    positions, _ = arm.read_joints()
    picture = arm.capture()
    targets: FloatArray | None = None
    started_s = time.monotonic()
    for step in range(num_steps):
        row = step % policy.spec.num_actions
        if targets is None or row == 0:
            policy.observe(Observation(picture, positions, arm.joint_names, 0.0, targets))
            targets = policy.act().joint_positions
        arm.step(targets[row])
        positions, _ = arm.read_joints()
        picture = arm.capture()
    return num_steps / (time.monotonic() - started_s)


def bench_graph(arguments: BenchArguments, folder: Path) -> NodeGraph:
    """The sim graph with fixed chunks in the policy's place, an episode a round."""
    instruction = task(arguments.task).instruction
    sim_time = {"use_sim_time": True}
    nodes = (
        NodeEntry(
            BRIDGE,
            BRIDGE,
            {
                "task": arguments.task,
                "seed": arguments.seed,
                "mode": "lockstep",
                "max_steps": arguments.steps,
                "image_size": IMAGE_SIZE,
            },
        ),
        NodeEntry(
            GUARD,
            GUARD,
            {"arm": "panda", "mode": "lockstep", "reference": "topic", **sim_time},
            lifecycle=True,
        ),
        NodeEntry(
            "fixed_chunk_node",
            POLICY,
            {"instruction": instruction, "mode": "lockstep", **sim_time},
            lifecycle=True,
        ),
        NodeEntry(
            EPISODES,
            EPISODES,
            {
                "task": arguments.task,
                "episodes": arguments.rounds,
                "first_seed": arguments.seed,
                "max_steps": arguments.steps,
                "predict_episodes": 0,
                "report": str(folder),
                "video": False,
            },
            ends_run=True,
        ),
    )
    environment = graph_environment(fastdds_profile=True, domain_id=arguments.domain_id)
    return NodeGraph(nodes, "", environment, folder / "logs")


def _print(rates: StepRates, arguments: BenchArguments) -> None:
    table = Table(title=f"{arguments.task}, {arguments.steps} steps, {IMAGE_SIZE} px every step")
    table.add_column("loop")
    table.add_column("steps/s", justify="right")
    for name, rates_hz in (
        ("without ROS, before", rates.direct_before_hz),
        ("through the ROS graph", rates.graph_hz),
        ("without ROS, after", rates.direct_after_hz),
    ):
        table.add_row(name, " ".join(f"{rate_hz:.1f}" for rate_hz in rates_hz))
    table.add_row("graph / without ROS, medians", f"{rates.ratio:.0%}")
    Console().print(table)
