# SPDX-License-Identifier: Apache-2.0
"""The contract's graphs as modules, made from a checkpoint."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from par_model.checkpoint import Checkpoint
from par_model.frame_codec import encode_views
from par_model.graphs.act_graph import act_graph
from par_model.graphs.cache_graphs import BY_CLOCK, extend_graph, prefill_graph
from par_model.graphs.contract import (
    MODEL_TYPE,
    Graph,
    GraphSpec,
    TensorSpec,
    as_type,
    graph_names,
    rebase_slots,
    require_static,
)
from par_model.graphs.operations import GraphOperations, attend_by_products
from par_model.opensora_vae import FrameAttention

# tables that stay float32 whatever the type of the weights
_ANGLES = ("cos", "sin")
_FLOAT32_TABLES = (
    *_ANGLES,
    *(f"{BY_CLOCK}{kind}_{name}" for kind in ("frame", "action") for name in _ANGLES),
    "coefficients",
)


def build_graphs(
    checkpoint: Checkpoint,
    operations: GraphOperations,
    sampler: str,
    num_steps: int,
    names: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Graph]:
    """Graphs of a checkpoint, on the device of its weights, which they share.

    Tables are computed with the weights as they are; then weights and tables (not rotary
    angles and sampling coefficients) become `dtype`: give float32 weights.

    Raises:
        ValueError: the model has something that static graphs cannot express.
    """
    model = checkpoint.model
    config = checkpoint.config
    require_static(config, sampler)
    makers: dict[str, Callable[[], Graph]] = {
        "encode": lambda: _encode_graph(checkpoint),
        "prefill": lambda: prefill_graph(config, model, operations),
        "step": lambda: extend_graph(config, model, operations, "step", 1),
        "rebase": lambda: extend_graph(config, model, operations, "rebase", rebase_slots(config)),
        "act": lambda: act_graph(model, operations, sampler, num_steps),
    }
    graphs = {name: makers[name]() for name in names or graph_names(config)}
    # All are made before any is cast: they share the weights.
    return {name: _cast(graph, dtype) for name, graph in graphs.items()}


def _cast(graph: Graph, dtype: torch.dtype) -> Graph:
    kept = {name: table for name, table in graph.module.named_buffers() if name in _FLOAT32_TABLES}
    graph.module.to(dtype)
    for name, table in kept.items():
        setattr(graph.module, name, table)
    return Graph(as_type(graph.spec, str(dtype).removeprefix("torch.")), graph.module)


class EncodeGraph(nn.Module):
    """The latent of the views' pictures. The video autoencoder attends with one head of 512, for
    which TensorRT has no fused kernel."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.codec = checkpoint.codec.for_pictures()
        self.num_views = checkpoint.config.num_views
        for module in self.codec.modules():
            if isinstance(module, FrameAttention):
                module.attend = attend_by_products

    def forward(self, image_1HWC: Tensor) -> Tensor:
        return encode_views(self.codec, image_1HWC, self.num_views)


def _encode_graph(checkpoint: Checkpoint) -> Graph:
    config = checkpoint.config
    image = TensorSpec("image", "uint8", (1, *config.picture_shape))
    shape = (1, config.codec.latent_channels, config.latent_height, config.latent_width)
    spec = GraphSpec("encode", (image,), (TensorSpec("latent", MODEL_TYPE, shape),))
    return Graph(spec, EncodeGraph(checkpoint))
