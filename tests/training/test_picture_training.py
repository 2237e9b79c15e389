# SPDX-License-Identifier: Apache-2.0
"""`train pictures`: what draws the next picture is trained, and nothing else changes.

par_tiny, two recorded episodes of noise; the checkpoint comes from one training step.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from par_model.checkpoint import load_checkpoint
from par_model.config import ModelConfig
from par_model.load_policy import load_policy
from par_model.model import TrainingBatch
from par_model.presets import preset
from par_model.simulation.tasks import TASKS
from par_model.train import main
from par_model.training.policy_training_config import PolicyTrainingConfig
from par_model.training.side_tasks import SideTasks
from par_model.training.training_step import StepLoss
from tests.model.fixtures import random_clip, random_model, random_observation
from tests.training.fixtures import record_noise

SENTENCE = TASKS["PushCube"].instruction
TINY = ["--preset", "par_tiny", "--variants", "1", "--steps-after-success", "all"]
DRAWING = ("mixer.", "image_encoder.", "frame_decoder.")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/, first/policy/checkpoint; first/latents of its codec."""
    folder = tmp_path_factory.mktemp("pictures")
    record_noise(folder / "data", {3: 20, 24: 26}, instruction=SENTENCE)
    words = ["all", "--data", str(folder / "data"), "--out", str(folder / "first"), *TINY]
    more = ["--steps", "1", "--evaluation-episodes", "0", "--codec-steps", "2", "--probe-tasks"]
    assert main([*words, *more]) == 0
    return folder


def random_batch(config: ModelConfig) -> TrainingBatch:
    """Two clips of three slots; one frame is not valid."""
    clip = random_clip(config, 4, batch_size=2, dtype=torch.float32)
    valid = torch.ones(2, 3, dtype=torch.bool)
    valid[1, 2] = False
    return TrainingBatch(
        text_BTC=clip.text,
        latents_BNchw=clip.latents,
        actions_BNLD=clip.actions[:, :3],
        context_actions_BNLD=clip.actions[:, :3],
        proprio_BNJ=clip.proprio,
        action_valid_BNL=torch.ones(2, 3, config.num_actions, dtype=torch.bool),
        frame_valid_BN=valid,
        slot_offset_B=torch.tensor([0, 2]),
        scene_BNP=torch.zeros(2, 3, 0),
    )


def pictures(made: Path, out: Path, *more: str) -> int:
    words = ["--data", str(made / "data"), "--codec", str(made / "first/policy/checkpoint")]
    words += ["--latents", str(made / "first/latents"), "--out", str(out), *TINY]
    return main(["pictures", *words, *more])


def start(made: Path) -> list[str]:
    return ["--from", str(made / "first/policy/checkpoint")]


@pytest.fixture(scope="module")
def trained(made: Path) -> Path:
    more = ["--steps", "20", "--learning-rate", "3e-3", "--warmup-steps", "5", "--log-every", "5"]
    more += ["--slots-per-batch", "4", "--average-decay", "0.5"]
    more += ["--prediction", "v_prediction", "--drawing", "2x1"]
    assert pictures(made, made / "run", *start(made), *more) == 0
    return made / "run"


def test_only_what_draws_changes(made: Path, trained: Path) -> None:
    before = load_checkpoint(made / "first/policy/checkpoint")
    after = load_checkpoint(trained / "checkpoint")
    old, new = before.model.state_dict(), after.model.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed
    assert all(name.startswith(DRAWING) for name in changed)
    assert after.statistics.to_json_dict() == before.statistics.to_json_dict()
    assert after.config.action_diffusion == before.config.action_diffusion


def test_the_actions_stay_the_same_to_the_bit_and_the_pictures_do_not(
    made: Path, trained: Path
) -> None:
    seen = []
    for folder in (made / "first/policy/checkpoint", trained / "checkpoint"):
        policy = load_policy(folder, backend="eager", device="cpu")
        world = np.random.default_rng(0)
        policy.reset(SENTENCE, 0)
        policy.observe(random_observation(world, policy.spec, 0.0))
        first = policy.act().joint_positions
        policy.observe(random_observation(world, policy.spec, 0.4, first))
        seen.append((np.concatenate((first, policy.act().joint_positions)), policy.predict_frame()))
    (actions, picture), (same, other) = seen
    assert np.array_equal(actions, same)
    assert not np.array_equal(picture, other)


def test_prediction_and_drawing_are_those_that_were_asked_for(made: Path, trained: Path) -> None:
    before = load_checkpoint(made / "first/policy/checkpoint").config
    config = load_checkpoint(trained / "checkpoint").config
    assert before.frame_diffusion.prediction == "epsilon"
    diffusion = config.frame_diffusion
    assert (diffusion.prediction, diffusion.spacing, diffusion.steps_offset) == (
        "v_prediction", "trailing", 0,
    )  # fmt: skip
    assert (config.sampling.frame_num_sets, config.sampling.frame_num_steps) == (2, 1)
    assert config.sampling.action_num_steps == before.sampling.action_num_steps
    kept = ["--steps", "1", *start(made)]
    assert pictures(made, trained.parent / "kept", *kept) == 0
    config = load_checkpoint(trained.parent / "kept" / "checkpoint").config
    assert config.frame_diffusion == before.frame_diffusion
    assert config.sampling == before.sampling


def test_a_policy_that_goes_on_from_it_keeps_its_pictures(made: Path, trained: Path) -> None:
    words = ["policy", "--data", str(made / "data"), *TINY, "--steps", "1"]
    words += ["--codec", str(trained / "checkpoint"), "--evaluation-episodes", "0"]
    words += ["--latents", str(made / "first/latents"), "--from", str(trained / "checkpoint")]
    assert main([*words, "--out", str(trained.parent / "next")]) == 0
    config = load_checkpoint(trained.parent / "next" / "checkpoint").config
    assert config.frame_diffusion.prediction == "v_prediction"


def test_loss_and_gradients_are_those_of_the_whole_loss(trained: Path) -> None:
    """Where the loss on actions has no weight and there are no side tasks."""
    config = preset("par_tiny")
    loss = dataclasses.replace(config.loss, action_weight=0.0, frame_weight=1.0, frame_fraction=1.0)
    config = dataclasses.replace(config, loss=loss)
    batch = random_batch(config)
    found = []
    for part in ("all", "next_picture"):
        model = random_model(config).float().train()
        training = PolicyTrainingConfig(trained=part, scene_weight=0.0, chunk_weight=0.0)
        step = StepLoss(model, SideTasks(config.transformer.width, 0, None), training, None)
        loss = step(batch, None, 0.5, torch.Generator().manual_seed(3), scale=2.0)
        loss.total.backward()
        gradients = {
            name: parameter.grad
            for name, parameter in model.named_parameters()
            if name.startswith(DRAWING)
        }
        found.append((loss, gradients, model))
    (whole, gradients, _), (alone, same, model) = found
    assert torch.equal(whole.total, alone.total)
    assert torch.equal(whole.parts, alone.parts)
    assert all(torch.equal(gradients[name], same[name]) for name in gradients)
    others = [p.grad for name, p in model.named_parameters() if not name.startswith(DRAWING)]
    assert others
    assert all(gradient is None for gradient in others)


def test_only_the_pictures_loss_is_in_the_log(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    logged = [line for line in lines if line["kind"] == "training"]
    assert [line["step"] for line in logged] == [5, 10, 15, 20]
    assert all(line["frame_loss"] > 0 and line["action_loss"] == 0 for line in logged)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ([], "--from is needed: the checkpoint whose pictures are trained"),
        (["--from", "x", "--scenes", "y"], "do not go with `pictures`"),
        (["--from", "x", "--drawing", "8"], "a drawing is SETSxSTEPS, such as 8x25, got '8'"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    made: Path, tmp_path: Path, more: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        pictures(made, tmp_path / "run", "--steps", "1", *more)
    assert sentence in " ".join(capsys.readouterr().err.replace("│", " ").split())
