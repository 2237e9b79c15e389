# SPDX-License-Identifier: Apache-2.0
"""Options of engines, what is refused, and the contract on the processes of this machine."""

import dataclasses
import sys

import pytest

from par_model.calibrate import CalibrateOptions
from par_model.collect import CollectOptions
from par_model.command_line import parse
from par_model.evaluate import EvaluateOptions
from par_model.perception import CamerasOptions, ScenesOptions
from par_model.simulation import ray_engine
from par_model.simulation.worker_pool import run_jobs
from par_model.training.stage_options import RecipeOptions
from par_model.worker_options import WorkerOptions
from tests.simulation.worker_jobs import check_contract, sleep

ON_RAY = ["--num-workers", "64", "--engine", "ray", "--ray-address", "192.0.2.7:6379"]
NEEDED = {
    CollectOptions: ["--task", "PushCube", "--out", "o"],
    EvaluateOptions: ["--checkpoint", "c", "--json", "j"],
    CalibrateOptions: ["--checkpoint", "c"],
    ScenesOptions: ["--out", "o"],
    CamerasOptions: ["--json", "j"],
    RecipeOptions: ["recipe.yaml", "--out", "o"],
}


@pytest.mark.parametrize("options", NEEDED)
def test_every_command_with_jobs_takes_the_engine(options, capsys):
    read = parse(options, "the command", None, [*NEEDED[options], *ON_RAY])
    assert read.words() == ON_RAY
    assert (read.engine, read.num_workers, read.cluster) == ("ray", 64, "192.0.2.7:6379")
    assert parse(options, "the command", None, NEEDED[options]).words() == []
    with pytest.raises(SystemExit):
        parse(options, "the command", None, [*NEEDED[options], "--ray-address", "a:1"])
    assert "--ray-address has no effect without --engine ray" in capsys.readouterr().err


def test_the_cluster_is_the_option_then_the_environment_then_this_machines(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.8:6379")
    assert WorkerOptions(engine="ray", ray_address="a:1").cluster == "a:1"
    assert WorkerOptions(engine="ray").cluster == "192.0.2.8:6379"
    monkeypatch.delenv("RAY_ADDRESS")
    assert WorkerOptions(engine="ray").cluster == "auto"


def test_without_ray_the_extra_is_named(monkeypatch):
    """As in an environment without it: nothing of that name can be imported."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"extra `scale`.*pip install 'par_ros\[scale\]'"):
        run_jobs(sleep, [0.0], WorkerOptions(engine="ray"))


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_no_workers_are_refused(engine):
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        run_jobs(sleep, [0.0], WorkerOptions(engine=engine, num_workers=0))


def test_a_worker_that_is_another_program_refuses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = ray_engine._this_program(str(tmp_path))
    assert {"onnxruntime", "openvino"} <= dict(own.versions).keys()
    ray_engine._become(own)
    with pytest.raises(ValueError, match="has another version of par_model"):
        ray_engine._become(dataclasses.replace(own, sources="0" * 64))
    versions = (("Python", "2.7"), *own.versions[1:])
    with pytest.raises(ValueError, match=r"has other packages: Python 3\S+ instead of 2\.7\."):
        ray_engine._become(dataclasses.replace(own, versions=versions))
    with pytest.raises(ValueError, match="has no folder"):
        ray_engine._become(dataclasses.replace(own, folder=str(tmp_path / "nothing")))


@pytest.mark.processes
def test_processes_of_this_machine_keep_the_contract():
    check_contract(WorkerOptions(num_workers=2))
