# SPDX-License-Identifier: Apache-2.0
"""Each variant differs from the full model in what its name says, and trains.

par_tiny, 3 steps on two episodes of 20 and 31 steps (3 and 4 slots).
"""

import dataclasses
import json
import math

import pytest

from par_model.causal_mask import MaskRules
from par_model.checkpoint import load_checkpoint
from par_model.model import PARModel
from par_model.simulation.tasks import TASKS
from par_model.train import main
from par_model.training.ablations import ABLATIONS, FULL, ablated_model
from par_model.training.policy_training import PolicyTrainer
from tests.training.fixtures import MODEL, record_noise
from tests.training.test_policy_training import CONFIG, CPU, make_parts


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_variant_trains_and_is_what_it_says(name, tmp_path):
    model = ablated_model(name, MODEL)
    clips = ABLATIONS[name].clips(CONFIG.clips)
    config = dataclasses.replace(CONFIG, num_steps=3, clips=clips)
    trainer = PolicyTrainer(
        dataclasses.replace(make_parts(tmp_path), model=model), config, tmp_path / "run", CPU
    )
    seen = []
    trainer.run(seen.append)
    assert all(math.isfinite(progress.action_loss) for progress in seen)
    assert all((progress.frame_loss == 0.0) == (name == "no_frame_loss") for progress in seen)
    stored = load_checkpoint(tmp_path / "run" / "checkpoint").config
    assert stored == model
    assert (stored.name == MODEL.name) == (name == FULL)
    assert (stored.sampling.context_slots == 1) == (name == "memoryless")
    slots = {
        plan.num_slots
        for round_index in range(3)
        for batch in trainer.sampler.plan_round(round_index)
        for plan in batch
    }
    assert (slots == {1}) == (name == "memoryless")


def test_the_networks_differ():
    full = PARModel(MODEL)
    assert full.rules == MaskRules()
    assert not PARModel(ablated_model("no_action_to_frame", MODEL)).rules.action_sees_frame
    assert PARModel(ablated_model("noar", MODEL)).transformer is None
    discrete = ablated_model("discrete", MODEL)
    assert (discrete.action_head, discrete.frame_head) == ("regression", "regression")
    with pytest.raises(ValueError, match="'none' is unknown; there are full, noar"):
        ablated_model("none", MODEL)


def test_the_command_trains_the_variants_that_are_asked_for(tmp_path):
    """Two recorded pushes at 32x32 pixels, seed 24 held out; codec and latents by the commands."""
    data, codec = tmp_path / "PushCube", tmp_path / "codec"
    record_noise(data, {3: 20, 24: 26}, instruction=TASKS["PushCube"].instruction)
    common = ["--data", str(data), "--codec", str(codec), "--preset", "par_tiny"]
    common += ["--variants", "2", "--probe-tasks"]
    assert main(["codec", *common, "--out", str(codec), "--codec-steps", "2"]) == 0
    assert main(["latents", *common]) == 0
    runs = tmp_path / "runs"
    ablations = ["ablations", *common, "--out", str(runs), "--steps", "2"]
    ablations += ["--steps-after-success", "all"]
    assert main([*ablations, "--evaluation-episodes", "0", "--only", "full", "memoryless"]) == 0
    assert sorted(path.name for path in runs.iterdir()) == ["full", "memoryless"]
    training = json.loads((runs / "memoryless" / "checkpoint" / "training.json").read_text())
    assert training["step"] == 2
    assert training["config"]["clips"]["single_slot_share"] == 1.0
