# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning of par_tiny from a checkpoint: frozen parts stay, LoRA changes no base weight, a
killed run ends with the same bits, kept and recomputed activations give the same gradients.

The cut of par_0_6b has 2 + 2 blocks of the full width 1024, 256 x 256 pixels, 2 slots.
"""

import dataclasses
from pathlib import Path

import pytest
import torch

from par_model.checkpoint import load_checkpoint
from par_model.config import ModelConfig
from par_model.model import PARModel, TrainingBatch, count_parameters
from par_model.nova_weights import NEW
from par_model.presets import preset
from par_model.training.finetuning import (
    FinetuningConfig,
    merged_model,
    prepare,
    with_dropped_text,
)
from par_model.training.policy_training import PolicyParts, PolicyTrainer, PolicyTrainingConfig
from tests.model.fixtures import random_model
from tests.training.fixtures import LONG_CLIPS, MODEL
from tests.training.test_policy_training import CONFIG, make_parts

SETTINGS = dataclasses.replace(
    CONFIG,
    num_steps=6,
    clips=dataclasses.replace(LONG_CLIPS, slots_per_batch=12, batches_per_round=2),
)


def parts_for(folder: Path, finetuning: FinetuningConfig) -> PolicyParts:
    start = random_model(MODEL)
    return dataclasses.replace(
        make_parts(folder), initial_weights=start.state_dict(), finetuning=finetuning
    )


def train(
    parts: PolicyParts, folder: Path, config: PolicyTrainingConfig, stop_at: int | None = None
) -> PolicyTrainer:
    trainer = PolicyTrainer(parts, config, folder, torch.device("cpu"))
    trainer.run(lambda progress: None, stop_at)
    return trainer


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_a_killed_finetuning_ends_with_the_same_bits(tmp_path: Path, lora_rank: int | None) -> None:
    parts = parts_for(tmp_path, FinetuningConfig(lora_rank=lora_rank, text_dropout=0.5))
    train(parts, tmp_path / "whole", SETTINGS)
    train(parts, tmp_path / "killed", SETTINGS, stop_at=3)
    train(parts, tmp_path / "killed", SETTINGS)
    whole, killed = (
        load_checkpoint(tmp_path / name / "checkpoint").model.state_dict()
        for name in ("whole", "killed")
    )
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())


def test_full_finetuning_starts_from_the_weights_and_keeps_the_text_norm(tmp_path: Path) -> None:
    parts = parts_for(tmp_path, FinetuningConfig())
    slow = dataclasses.replace(SETTINGS, learning_rate=1e-6)
    trained = train(parts, tmp_path / "run", slow).model.state_dict()
    assert parts.initial_weights is not None
    for name, value in parts.initial_weights.items():
        assert (trained[name] - value).abs().max() < 1e-3, name
    for name in ("tokenizer.text_norm.weight", "tokenizer.text_norm.bias"):
        assert torch.equal(trained[name], parts.initial_weights[name])
    assert not torch.equal(
        trained["transformer.norm.weight"], parts.initial_weights["transformer.norm.weight"]
    )


def test_lora_trains_differences_and_the_new_parts_only(tmp_path: Path) -> None:
    parts = parts_for(tmp_path, FinetuningConfig(lora_rank=2))
    trainer = train(parts, tmp_path / "run", SETTINGS)
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    assert trainable < 0.6 * count_parameters(trainer.model)
    start, trained = parts.initial_weights, trainer.model.state_dict()
    assert start is not None
    block = "transformer.blocks.0.attn.qkv"
    assert torch.equal(trained[f"{block}.base_layer.weight"], start[f"{block}.weight"])
    merged = load_checkpoint(tmp_path / "run" / "checkpoint").model.state_dict()
    assert not torch.equal(merged[f"{block}.weight"], start[f"{block}.weight"])
    for name, value in start.items():
        changed = not torch.equal(merged[name], value)
        in_block = name.startswith(("transformer.blocks.", "image_encoder.blocks."))
        is_matrix = name.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight"))
        assert not changed or (in_block and is_matrix) or name.startswith(NEW), name


def test_merged_weights_answer_like_the_lora_model() -> None:
    model = random_model(MODEL).double().eval()
    prepare(model, FinetuningConfig(lora_rank=3))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    plain = merged_model(model, MODEL).double()
    data = batch(MODEL, torch.float64)
    losses = [
        one.training_loss(data, torch.Generator().manual_seed(0)).total for one in (model, plain)
    ]
    with_lora, plain_loss = (float(loss.detach()) for loss in losses)
    assert abs(with_lora - plain_loss) < 1e-9 * abs(with_lora)


def test_recomputed_activations_give_the_same_gradients() -> None:
    data, gradients = batch(MODEL, torch.float64), []
    for recompute in (False, True):
        model = random_model(MODEL).double()
        model.training_loss(data, torch.Generator().manual_seed(0), recompute).total.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        assert (gradient is None) == (other is None)
        assert gradient is None or (gradient - other).abs().max() < 1e-10, name


def test_text_dropout_leaves_the_stated_share_out() -> None:
    model = random_model(MODEL)
    model.tokenizer.text_padding.normal_()
    data = batch(MODEL, torch.float32, batch_size=400)
    generator = torch.Generator().manual_seed(0)
    dropped = with_dropped_text(data, model, 0.1, generator)
    null = model.tokenizer.null_text(400)
    share = (dropped.text_BTC == null).all(dim=(1, 2)).float().mean()
    assert 0.05 < share < 0.15
    assert with_dropped_text(data, model, 0.0, generator).text_BTC.equal(data.text_BTC)


@pytest.mark.slow
def test_training_steps_of_a_cut_at_full_width() -> None:
    full = preset("par_0_6b_p256")
    config = dataclasses.replace(
        full,
        transformer=dataclasses.replace(full.transformer, depth=2),
        image_encoder=dataclasses.replace(full.image_encoder, depth=2),
    )
    torch.manual_seed(0)
    model = PARModel(config)
    prepare(model, FinetuningConfig())
    data = batch(config, torch.float32, batch_size=1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    totals = []
    for _ in range(4):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.training_loss(data, torch.Generator().manual_seed(0), True).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(float(loss.detach()))
    assert totals[-1] < totals[0]


def batch(
    config: ModelConfig, dtype: torch.dtype, batch_size: int = 2, num_slots: int = 2
) -> TrainingBatch:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(batch_size, *shape, generator=generator, dtype=dtype)

    actions = draw(num_slots, config.num_actions, config.action_width)
    latent = (config.codec.latent_channels, config.latent_height, config.latent_width)
    return TrainingBatch(
        text_BTC=draw(config.num_text_tokens, config.text_width),
        latents_BNchw=draw(num_slots + 1, *latent),
        actions_BNLD=actions,
        context_actions_BNLD=actions,
        proprio_BNJ=draw(num_slots + 1, config.proprio_width),
        action_valid_BNL=torch.ones(batch_size, num_slots, config.num_actions, dtype=torch.bool),
        frame_valid_BN=torch.ones(batch_size, num_slots, dtype=torch.bool),
        slot_offset_B=torch.zeros(batch_size, dtype=torch.int64),
        scene_BNP=torch.zeros(batch_size, num_slots, 0),
    )
