# SPDX-License-Identifier: Apache-2.0
"""The simulator in real time, so slow that the guard's joint states take long to come: at the
smallest real_time_factor, and with the longest control steps of checkpoints."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from par_model.config import to_json
from par_model.presets import preset
from par_ros.checkpoint_form import MAX_REALTIME_STEP_S
from par_ros.control.joint_states import JointSample
from par_ros.control.joint_watch import MIN_SAMPLES, JointWatch
from par_ros.control.timeline import Moment
from par_ros.episode_node import ENGAGE_TIMEOUT_S, engage_timeout_s
from par_ros.graph_arguments import SimArguments
from par_ros.messages import seconds_to_ns
from par_ros.node_graph import sim_graph
from par_ros.parameters import EpisodeNodeParameters, read_arm_spec
from tests.ros.processes import run

# As SimArguments takes it.
SLOWEST = 0.01


def checkpoint_with(folder: Path, step_s: float) -> str:
    config = dataclasses.replace(preset("par_small"), step_s=step_s)
    (folder / "config.json").write_text(to_json(config))
    return str(folder)


@pytest.mark.parametrize(
    ("period_s", "is_enough"), [(MAX_REALTIME_STEP_S, True), (MAX_REALTIME_STEP_S + 0.001, False)]
)
def test_the_guard_s_own_limit_is_the_one_of_the_refusal(period_s: float, is_enough: bool) -> None:
    spec = read_arm_spec("panda")
    watch = JointWatch(
        spec, max_age_s=0.2, max_engage_speed_rad_s=0.02, simulated=True, lockstep=False
    )
    for index in range(1, 3 * MIN_SAMPLES):
        moment = Moment(seconds_to_ns(index * period_s), seconds_to_ns(index))
        watch.take(JointSample(moment.ros_ns, np.append(spec.home, 0.04), np.zeros(8)), moment)
    assert (watch.why_not_standing(moment) == "") is is_enough


def test_a_step_with_which_no_guard_engages_is_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    checkpoint = checkpoint_with(tmp_path, 0.2)
    with pytest.raises(
        ValueError, match=r"^sim: mode:=realtime needs .* at most 0\.1125 s.*0\.2 s"
    ):
        sim_graph(SimArguments(checkpoint=checkpoint, mode="realtime"))
    sim_graph(SimArguments(checkpoint=checkpoint, mode="lockstep"))
    sim_graph(SimArguments(checkpoint=checkpoint_with(tmp_path, 0.1), mode="realtime"))


@pytest.mark.parametrize("step_s", [0.05, 0.1])
def test_the_factor_reaches_the_episodes_and_their_patience(tmp_path: Path, step_s: float) -> None:
    checkpoint = checkpoint_with(tmp_path, step_s)
    arguments = SimArguments(checkpoint=checkpoint, mode="realtime", real_time_factor=SLOWEST)
    (entry,) = (one for one in sim_graph(arguments).nodes if one.name == "episode_node")
    assert entry.parameters["real_time_factor"] == SLOWEST
    parameters = EpisodeNodeParameters(**entry.parameters)
    samples_s = MIN_SAMPLES * step_s / SLOWEST
    assert engage_timeout_s(parameters) >= samples_s + ENGAGE_TIMEOUT_S
    # Where physics waits, no simulated time has to pass.
    lockstep = dataclasses.replace(parameters, mode="lockstep")
    assert engage_timeout_s(lockstep) == ENGAGE_TIMEOUT_S


@pytest.mark.ros
@pytest.mark.sim
@pytest.mark.long
def test_the_smallest_factor_runs(free_domain: str, tmp_path: Path) -> None:
    """A control step takes 5 s: 20 s until the guard engages, then one step of the first chunk,
    since steps before it do not count."""
    finished = run(
        "sim", "episodes:=1", "max_steps:=1", "mode:=realtime", f"real_time_factor:={SLOWEST}",
        f"report:={tmp_path}", "backend:=eager", "predict_episodes:=0",
    )  # fmt: skip
    assert finished.code == 0, finished.error
    (episode,) = json.loads((tmp_path / "results.json").read_text())["episodes"]
    assert episode["steps"] == 1
