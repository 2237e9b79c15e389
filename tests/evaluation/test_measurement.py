# SPDX-License-Identifier: Apache-2.0
"""What a result depends on: when it is read back, when its log is continued, when neither."""

import dataclasses
import json

import pytest

from par_model.checkpoint import save_checkpoint
from par_model.evaluation.delayed_loop import Timing
from par_model.evaluation.measurement import Measurement, settings_of
from par_model.evaluation.rollouts import Rollout, RolloutResult, open_rollout, with_chosen_backend
from par_model.instruction import code_table
from par_model.simulation.tasks import TASKS
from par_model.worker_options import WorkerOptions
from tests.model.fixtures import random_checkpoint_parts
from tests.packaging.test_repository import ROOT

PANDA = ROOT / "config/arms/panda.yaml"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """par_tiny with random weights that knows PushCube's instruction."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    parts = random_checkpoint_parts("par_tiny")
    config = parts["config"]
    texts = (TASKS["PushCube"].instruction,)
    parts["instructions"] = code_table(texts, config.num_text_tokens, config.text_width)
    save_checkpoint(folder, **parts)
    return folder


def rollout(checkpoint, seed=10000, **changes):
    plain = Rollout(str(checkpoint), "PushCube", seed, 0, 8, None, None, False, backend="eager")
    return dataclasses.replace(plain, **changes)


OTHERS = (
    {"sampler": "dpmsolver++"},
    {"spacing": "leading"},
    {"backend": "onnx"},
    {"num_steps": 2},
    {"context_slots": 1},
    {"max_steps": 9},
)


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: next(iter(other)))
def test_a_result_of_other_settings_is_not_read_back(checkpoint, tmp_path, other):
    """Whether the other setting was asked for then or is now."""
    usual, changed = rollout(checkpoint), rollout(checkpoint, **other)
    for stored, wanted in ((usual, changed), (changed, usual)):
        file = tmp_path / "result.json"
        result = RolloutResult("PushCube", 10000, 0, True, 8, [9.0])
        content = Measurement(file, [stored], None).settings | {"rollouts": [result.to_json()]}
        file.write_text(json.dumps(content))
        assert Measurement(file, [stored], None).stored() == [result]
        assert Measurement(file, [wanted], None).stored() is None


def test_a_result_that_lacks_a_setting_had_none(checkpoint, tmp_path):
    """As older files do, which name only what was asked for."""
    measurement = Measurement(tmp_path / "result.json", [rollout(checkpoint)], None)
    assert measurement.stored() is None
    result = RolloutResult("PushCube", 10000, 0, True, 8, [9.0])
    older = {name: value for name, value in measurement.settings.items() if value is not None}
    measurement.file.write_text(json.dumps(older | {"rollouts": [result.to_json()]}))
    assert measurement.stored() == [result]


def test_settings_of_cells_are_those_that_all_have(checkpoint):
    cells = [
        rollout(checkpoint, sampler="ddim", num_steps=4, backend="onnx"),
        rollout(checkpoint, sampler="ddim", num_steps=1, backend="eager"),
    ]
    found = settings_of(cells)
    assert (found["sampler"], found["num_steps"]) == ("ddim", None)
    assert found["backend"] == "onnx, eager"


def test_the_arms_file_counts_by_its_content(checkpoint, tmp_path):
    arm = tmp_path / "arm.yaml"
    arm.write_bytes(PANDA.read_bytes())
    timed = [rollout(checkpoint, timing=Timing(), arm_file=str(arm))]
    panda = [rollout(checkpoint, timing=Timing(), arm_file=str(PANDA))]
    assert settings_of(timed) == settings_of(panda)
    arm.write_text(arm.read_text().replace("acceleration", "acceleration ", 1))
    assert settings_of(timed)["arm_file_sha256"] != settings_of(panda)["arm_file_sha256"]
    assert settings_of([rollout(checkpoint)])["arm_file_sha256"] is None


@pytest.mark.sim
def test_an_interrupted_run_is_not_continued_with_another_arm_file(checkpoint, tmp_path):
    """2 rollouts of 8 steps, stopped after the first; then another arm file in its place."""
    arm = tmp_path / "arm.yaml"
    arm.write_bytes(PANDA.read_bytes())
    rollouts = [
        rollout(checkpoint, seed, timing=Timing(), arm_file=str(arm)) for seed in (10000, 10001)
    ]

    def run(report):
        measurement = Measurement(tmp_path / "delay.json", rollouts, "delay")
        return measurement.run(WorkerOptions(num_workers=1), report)

    def stop(result):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(stop)
    arm.write_text(f"{PANDA.read_text()}# as edited meanwhile\n")
    with pytest.raises(ValueError, match=r"other settings \(arm_file_sha256 differ\)"):
        run(stop)
    arm.write_bytes(PANDA.read_bytes())
    seen = []
    results = run(seen.append)
    assert [result.seed for result in results] == [10000, 10001]
    assert seen == results


def test_auto_is_a_name_before_any_worker_starts(checkpoint, monkeypatch):
    """Here a model that is too large to be exported unasked; the workers may find otherwise."""
    monkeypatch.setattr("par_model.load_policy._MOST_PARAMETERS_EXPORTED_UNASKED", 1000)
    chosen, policy = open_rollout(rollout(checkpoint, backend="auto"))
    assert chosen == rollout(checkpoint, backend="eager")
    assert policy.backend.startswith("torch eager")
    assert with_chosen_backend(rollout(checkpoint, backend="auto")) == chosen
    nowhere = rollout("nowhere", backend="onnx")
    assert with_chosen_backend(nowhere) == nowhere
