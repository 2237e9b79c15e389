# SPDX-License-Identifier: Apache-2.0
"""Fully sharded training (torch's FSDP2): each process of torchrun keeps a part of every weight,
gradient, moment and averaged weight, cut along the first dimension.

The blocks of transformer, image encoder and frame decoder are gathered one at a time, forwards and
backwards; all other weights are gathered for the whole of a step.
"""

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from par_model.model import PARModel
from par_model.training.training_step import StepLoss


def sharded_blocks(model: PARModel) -> list[nn.Module]:
    """The modules that are gathered one at a time."""
    stacks = (model.transformer, model.image_encoder, model.frame_decoder)
    return [block for stack in stacks for block in getattr(stack, "blocks", ())]


def shard(loss: StepLoss, device: torch.device) -> None:
    """Keep this process's part of the weights of `loss`, in place: its parameters become DTensors.
    They must be equal in all processes."""
    _shard(loss, loss.model, device)
    # A cast weight that autocast keeps would stay whole until the forward pass ends.
    loss.keeps_casts = False


def sharded_copy(model: PARModel, device: torch.device) -> PARModel:
    """A frozen copy of a model that is whole, sharded in the same way."""
    other = copy.deepcopy(model).requires_grad_(False).eval()
    _shard(other, other, device)
    return other


def _shard(root: nn.Module, model: PARModel, device: torch.device) -> None:
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for block in sharded_blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(root, mesh=mesh)


def own_part(whole: Tensor, like: Tensor) -> Tensor:
    """This process's part of `whole`, which every process has; `whole` where `like` is whole."""
    if not isinstance(like, DTensor):
        return whole
    on_device = whole.to(like.device)
    return distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None)


def local_parts(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The parts that this process keeps, in the same memory."""
    return [t.to_local() if isinstance(t, DTensor) else t for t in tensors]


@torch.no_grad()
def gathered(tensors: Mapping[str, Tensor], wanted: bool) -> dict[str, Tensor]:
    """The tensors whole, on the CPU where they are sharded; empty in a process that does not want
    them. All processes must call it with the same names in the same order."""
    found = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if wanted:
            found[name] = whole.cpu() if isinstance(tensor, DTensor) else whole
    return found
