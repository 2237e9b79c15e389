# SPDX-License-Identifier: Apache-2.0
"""A killed and resumed run equals one that was never stopped, bit for bit; the run's files.

par_tiny on three episodes of 20 to 40 steps, 8 training steps, state saved every 2; the killed run
stops after step 5, so step 5 is done twice.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from par_model.checkpoint import load_checkpoint
from par_model.frame_codec import FrameCodec
from par_model.instruction import code_table
from par_model.training.policy_training import (
    PolicyParts,
    PolicyTrainer,
    PolicyTrainingConfig,
    Progress,
)
from par_model.training.training_state import FILE_NAME, load_state, require_same_run
from tests.training.fixtures import LONG_CLIPS, MODEL, fit, make_episode

CPU = torch.device("cpu")
CONFIG = PolicyTrainingConfig(
    num_steps=8,
    num_warmup_steps=2,
    task_shares=(("Push", 1.0),),
    clips=dataclasses.replace(
        LONG_CLIPS, slots_per_batch=12, batches_per_round=2, context_noise=0.1
    ),
    log_every=1,
    save_every=2,
    validate_every=4,
    num_evaluation_episodes=0,
    scene_weight=0.0,
    chunk_weight=0.0,
)
WITH_SCENE = dataclasses.replace(CONFIG, scene_weight=0.5)
WITH_BOTH = dataclasses.replace(WITH_SCENE, chunk_weight=0.5)


def make_parts(folder: Path) -> PolicyParts:
    torch.manual_seed(0)
    episodes = [make_episode(folder, length, key) for key, length in enumerate((20, 31, 40))]
    return PolicyParts(
        model=MODEL,
        codec=FrameCodec(MODEL.codec),
        statistics=fit(episodes, MODEL),
        instructions=code_table(("Push",), MODEL.num_text_tokens, MODEL.text_width),
        training_episodes=episodes[:2],
        validation_episodes=episodes[2:],
        provenance={"command": "test"},
    )


def train(
    parts: PolicyParts, folder: Path, config: PolicyTrainingConfig, stop_at: int | None = None
) -> list[Progress]:
    seen: list[Progress] = []
    PolicyTrainer(parts, config, folder, CPU).run(seen.append, stop_at)
    return seen


def logged(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "step_s"} for line in lines]


@pytest.mark.parametrize("config", [CONFIG, WITH_BOTH], ids=["plain", "side tasks"])
def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path, config: PolicyTrainingConfig) -> None:
    parts = make_parts(tmp_path)
    whole = train(parts, tmp_path / "whole", config)
    train(parts, tmp_path / "killed", config, stop_at=5)
    assert load_state(tmp_path / "killed").values["step"] == 4
    with (tmp_path / "killed" / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "ki')
    resumed = train(parts, tmp_path / "killed", config)
    assert [p.step for p in resumed] == [5, 6, 7, 8]
    assert [p.action_loss for p in resumed] == [p.action_loss for p in whole[4:]]
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    first, second = load_state(tmp_path / "whole"), load_state(tmp_path / "killed")
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    assert first.values["place"] == second.values["place"]


def test_the_checkpoint_holds_the_average_and_loads(tmp_path: Path) -> None:
    parts = make_parts(tmp_path)
    train(parts, tmp_path / "run", CONFIG)
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint")
    tensors = load_state(tmp_path / "run").tensors
    for name, value in checkpoint.model.state_dict().items():
        assert torch.equal(value, tensors[f"average.{name}"])
    assert checkpoint.training["step"] == 8
    assert checkpoint.statistics.arm == "panda"


def test_losses_fall_and_are_logged(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, num_steps=60, learning_rate=3e-3, validate_every=30)
    # These chunks are random: of v a context that knows nothing of them learns little.
    noise = dataclasses.replace(MODEL.action_diffusion, prediction="epsilon")
    model = dataclasses.replace(MODEL, action_diffusion=noise)
    parts = dataclasses.replace(make_parts(tmp_path), model=model)
    seen = train(parts, tmp_path / "run", config)
    assert sum(p.action_loss for p in seen[-10:]) < 0.8 * sum(p.action_loss for p in seen[:10])
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "validation/Push"] == [30, 60]
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_side_tasks_are_logged_and_stay_out_of_the_checkpoint(tmp_path: Path) -> None:
    config = dataclasses.replace(WITH_BOTH, num_steps=60, learning_rate=3e-3, validate_every=60)
    seen = train(make_parts(tmp_path), tmp_path / "run", config)
    errors = [progress.scene_mm for progress in seen]
    assert sum(errors[-10:]) < 0.5 * sum(errors[:10])
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    (validation,) = [line for line in lines if line["kind"] == "validation/Push"]
    assert 0 < validation["scene_mm"] < errors[0]
    (single,) = [line for line in lines if line["kind"] == "validation/Push/single"]
    assert 0 < single["scene_mm"] < errors[0]
    assert single["chunk_loss"] > 0
    assert seen[-1].chunk_loss is not None
    names: list[str] = []
    for shard in (tmp_path / "run" / "checkpoint").glob("*.safetensors"):
        with safe_open(shard, "np") as tensors:
            names += tensors.keys()
    assert names
    assert not [name for name in names if "side" in name or "scene" in name or "chunk" in name]


def test_clipping_covers_the_side_tasks(tmp_path: Path) -> None:
    config = dataclasses.replace(WITH_BOTH, gradient_clip=1e-3)
    trainer = PolicyTrainer(make_parts(tmp_path), config, tmp_path / "run", CPU)
    trainer.run(lambda _: None, stop_at=1)
    for modules in ([trainer.side], [trainer.model, trainer.side]):
        gradients = [p.grad for m in modules for p in m.parameters() if p.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        assert 0 < float(norm) < 1.01e-3


def test_demonstrations_without_a_scene_train_as_without_the_head(tmp_path: Path) -> None:
    parts = make_parts(tmp_path)
    for episodes in (parts.training_episodes, parts.validation_episodes):
        for index, episode in enumerate(episodes):
            blind = dataclasses.replace(episode.steps, scene=episode.steps.scene[:, :0])
            episodes[index] = dataclasses.replace(episode, steps=blind)
    plain = train(parts, tmp_path / "plain", CONFIG)
    asked = train(parts, tmp_path / "asked", WITH_SCENE)
    assert [p.action_loss for p in asked] == [p.action_loss for p in plain]
    assert asked[-1].scene_mm is None


def test_another_setting_cannot_resume(tmp_path: Path) -> None:
    parts = make_parts(tmp_path)
    train(parts, tmp_path / "run", CONFIG, stop_at=2)
    other = dataclasses.replace(CONFIG, learning_rate=1e-4)
    with pytest.raises(ValueError, match="other settings"):
        train(parts, tmp_path / "run", other)


def test_a_run_without_scenes_may_have_begun_before_there_were_any(tmp_path: Path) -> None:
    """Its state names none; one that goes on with some is refused with a sentence."""
    parts = make_parts(tmp_path)
    own = PolicyTrainer(parts, CONFIG, tmp_path / "run", CPU).identity
    stored = {name: value for name, value in own.items() if name != "scenes"}
    require_same_run(tmp_path, {"identity": stored}, own, allow_other_data=False)
    with pytest.raises(ValueError, match="other settings or other data"):
        require_same_run(
            tmp_path, {"identity": stored}, own | {"scenes": ["a"]}, allow_other_data=False
        )


def test_another_codec_cannot_resume(tmp_path: Path) -> None:
    parts = make_parts(tmp_path)
    train(parts, tmp_path / "run", CONFIG)
    other = dataclasses.replace(parts, codec=FrameCodec(MODEL.codec))
    with pytest.raises(ValueError, match=r"run holds a run with the codec \w+, got the codec \w+;"):
        train(other, tmp_path / "run", dataclasses.replace(CONFIG, num_steps=10))
    assert load_state(tmp_path / "run").values["step"] == 8


def test_hours_cannot_prolong_a_run_of_fixed_length(tmp_path: Path) -> None:
    parts = make_parts(tmp_path)
    hours = dataclasses.replace(CONFIG, num_steps=None, hours=1e-4)
    for stop_at in (4, None):
        train(parts, tmp_path / "run", CONFIG, stop_at=stop_at)
        with pytest.raises(ValueError, match=r"of a run of 8 steps, whose length --hours cannot"):
            train(parts, tmp_path / "run", hours)
    longer = train(parts, tmp_path / "run", dataclasses.replace(CONFIG, num_steps=10))
    assert [progress.step for progress in longer] == [9, 10]


def test_a_run_from_before_on_policy_data_can_resume() -> None:
    """Its stored settings lack what was added; at the defaults the new ones do, too."""
    assert "on_policy_share" not in CONFIG.identity()["clips"]
    clips = dataclasses.replace(CONFIG.clips, decisive_weight=2.0)
    assert dataclasses.replace(CONFIG, clips=clips).identity()["clips"]["decisive_weight"] == 2.0


def test_a_half_written_state_is_never_read(tmp_path: Path) -> None:
    parts = make_parts(tmp_path)
    train(parts, tmp_path / "run", CONFIG, stop_at=2)
    (tmp_path / "run" / (FILE_NAME + ".writing")).write_bytes(b"half")
    assert train(parts, tmp_path / "run", CONFIG)[0].step == 3
    (tmp_path / "run" / FILE_NAME).write_bytes(b"garbage")
    with pytest.raises(ValueError, match="cannot be read"):
        train(parts, tmp_path / "run", CONFIG)


def test_hours_become_a_fixed_number_of_steps(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, num_steps=None, hours=1e-4)
    seen = train(make_parts(tmp_path), tmp_path / "run", config)
    assert seen[-1].step == seen[-1].num_steps == load_state(tmp_path / "run").values["num_steps"]
    assert seen[-1].step >= 40
    # the same command has nothing left to do
    assert train(make_parts(tmp_path / "again"), tmp_path / "run", config) == []


def test_a_run_can_start_from_a_checkpoint(tmp_path: Path) -> None:
    parts = make_parts(tmp_path)
    train(parts, tmp_path / "first", CONFIG)
    start = tmp_path / "first" / "checkpoint"
    trainer = PolicyTrainer(parts, CONFIG, tmp_path / "second", CPU, start_from=start)
    for name, value in load_checkpoint(start).model.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name])
        assert torch.equal(value, trainer.average.model.state_dict()[name])
    clip = dataclasses.replace(MODEL.action_diffusion, clip_range=9.0)
    model = dataclasses.replace(MODEL, name="renamed", action_diffusion=clip)
    sampled = dataclasses.replace(parts, model=model)
    PolicyTrainer(sampled, CONFIG, tmp_path / "sampled", CPU, start_from=start)
    other = dataclasses.replace(parts, model=dataclasses.replace(MODEL, num_slots=7))
    with pytest.raises(ValueError, match="another size"):
        PolicyTrainer(other, CONFIG, tmp_path / "third", CPU, start_from=start)
