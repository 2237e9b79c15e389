# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning of a pretrained model: what stays frozen, LoRA, and what makes it fit into memory.

Frozen always, as NOVA trains: the norm of the instruction's tokens; the frame codec and the text
encoder are outside the model. LoRA (the paper's future work) trains low-rank differences of the
blocks' matrices through peft, and in full what NOVA does not have: the action parts.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from par_model.config import ModelConfig
from par_model.model import PARModel, TrainingBatch
from par_model.nova_weights import NEW

# The matrices that get low-rank differences.
_LORA_TARGETS = r"(transformer|image_encoder)\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(fc1|fc2))"
_FROZEN = ("tokenizer.text_norm.",)


@dataclass(frozen=True)
class FinetuningConfig:
    """How a pretrained model is trained on."""

    # rank of LoRA's matrices; None trains all weights
    lora_rank: int | None = None
    # LoRA's differences are scaled by alpha / rank
    lora_alpha: float = 16.0
    # activations are computed again on the way back instead of kept
    checkpoint_gradients: bool = True
    # matrix products in bfloat16 on a CPU too; on a GPU they always are
    bf16: bool = True
    # share of the clips whose instruction is left out, for guidance [NOVA: 0.1]
    text_dropout: float = 0.1


def prepare(model: PARModel, config: FinetuningConfig) -> None:
    """Freeze what stays, and put LoRA's matrices beside the blocks' where it is asked for.

    Raises:
        ValueError: LoRA is asked for and peft is not installed.
    """
    if config.lora_rank is not None:
        _add_lora(model, config)
        for name, parameter in model.named_parameters():
            if name.startswith(NEW):
                parameter.requires_grad_(True)
    for name, parameter in model.named_parameters():
        if name.startswith(_FROZEN):
            parameter.requires_grad_(False)


def _add_lora(model: PARModel, config: FinetuningConfig) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError(
            f"LoRA needs the package peft ({error}); pip install peft, or train all weights."
        ) from error
    lora = LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=_LORA_TARGETS
    )
    inject_adapter_in_model(lora, model)


def merged_model(model: PARModel, config: ModelConfig) -> PARModel:
    """A plain model with LoRA's differences added to the weights; `model` itself if it has none."""
    if not any(".lora_" in name for name, _ in model.named_parameters()):
        return model
    from peft.tuners.lora import LoraLayer

    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    state = {
        name.replace(".base_layer.", "."): value
        for name, value in model.state_dict().items()
        if ".lora_" not in name
    }
    for name, layer in layers.items():
        state[f"{name}.weight"] = state[f"{name}.weight"] + _difference(layer)
    plain = PARModel(config)
    plain.load_state_dict(state)
    return plain.requires_grad_(False).eval()


@torch.no_grad()
def _difference(layer: nn.Module) -> Tensor:
    difference: Tensor = layer.get_delta_weight("default")  # type: ignore[operator]
    return difference


def with_dropped_text(
    batch: TrainingBatch, model: PARModel, share: float, generator: torch.Generator
) -> TrainingBatch:
    """The batch with `share` of its instructions replaced by the null instruction [NOVA]."""
    batch_size = batch.text_BTC.shape[0]
    draws_B = torch.rand(batch_size, generator=generator, device=generator.device)
    null_BTC = model.tokenizer.null_text(batch_size).to(batch.text_BTC)
    text_BTC = torch.where((draws_B < share)[:, None, None], null_BTC, batch.text_BTC)
    return dataclasses.replace(batch, text_BTC=text_BTC)
