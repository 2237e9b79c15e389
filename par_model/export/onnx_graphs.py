# SPDX-License-Identifier: Apache-2.0
"""The graphs of a checkpoint as ONNX files, with a manifest and golden values.

Two dialects. "fused" (opset 24) writes cache rows by TensorScatter and keeps attention and rotary
embedding as single operators; TensorRT maps them to its own layers. In float32, where it has no
fused attention, that one is spelled out. "plain" (opset 20) spells everything in small operators,
for a TensorRT before 10.15.
"""

import contextlib
import importlib.metadata
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from par_model.backends.torch_eager import TorchEager
from par_model.checkpoint import Checkpoint
from par_model.export.unrolled_act import export_unrolled
from par_model.graphs.act_graph import ActGraph
from par_model.graphs.contract import (
    CONTRACT_VERSION,
    Graph,
    context_capacity,
    context_slots,
    require_static,
)
from par_model.graphs.goldens import record_goldens
from par_model.graphs.manifest import DTYPES, FILE_NAME, GOLDENS, Manifest, Precision, sha256_of
from par_model.graphs.modules import build_graphs
from par_model.graphs.operations import AttendMasked, attend_by_products, attend_fused
from par_model.layers import rotate_pairs
from par_model.output_files import require_replaceable

FUSED_OPSET, PLAIN_OPSET = 24, 20
# Called with one line of progress.
Report = Callable[[str], None]


@dataclass(frozen=True)
class ExportRequest:
    """What to export.

    Attributes:
        checkpoint_name, checkpoint_sha256: as in the manifest.
        names: which graphs; None is all, fewer are for tests and sizing.
    """

    checkpoint: Checkpoint
    checkpoint_name: str
    checkpoint_sha256: str
    precision: Precision
    opset: int
    num_steps: int
    names: tuple[str, ...] | None = None


def export_checkpoint(request: ExportRequest, folder: Path, report: Report) -> Manifest:
    """Write ONNX files, goldens and manifest as `folder`, whole or not at all.

    The checkpoint's weights must be float32; they are of `request.precision` afterwards.

    An earlier export of the same name is replaced, engines built from it included.

    Raises:
        ValueError: the model cannot be exported, or `folder` holds something else.
    """
    checkpoint = request.checkpoint
    sampler = checkpoint.config.sampling.action_sampler
    require_static(checkpoint.config, sampler)
    require_replaceable(folder, FILE_NAME, "contract_version", ("an earlier export", "an export"))
    operations = _operations(request.opset, request.precision)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=folder.name + ".", dir=folder.parent))
    try:
        if request.names is None:
            eager = TorchEager(checkpoint, torch.device("cpu"), num_steps=request.num_steps)
            save_file(record_goldens(eager, checkpoint.instructions), partial / GOLDENS)
            report("goldens: recorded from PyTorch in float32")
        graphs = build_graphs(
            checkpoint,
            operations,
            sampler,
            request.num_steps,
            request.names,
            DTYPES[request.precision],
        )
        for graph in graphs.values():
            start = time.perf_counter()
            export_graph(graph, partial / f"{graph.spec.name}.onnx", request.opset)
            report(_line(graph.spec.name, partial, time.perf_counter() - start))
        manifest = _manifest(request, tuple(graphs.values()), partial)
        manifest.write(partial)
        _publish(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def export_graph(graph: Graph, path: Path, opset: int) -> None:
    """Write one graph as `path`, its weights as `path`.data beside it."""

    def export_module(
        module: nn.Module,
        inputs: Sequence[Tensor],
        input_names: Sequence[str],
        output_names: Sequence[str],
        to: Path,
    ) -> None:
        _export_module(module, inputs, input_names, output_names, to, opset)

    if isinstance(graph.module, ActGraph):
        export_unrolled(graph, path, export_module)
        return
    input_names = [spec.name for spec in graph.spec.inputs]
    output_names = [spec.name for spec in graph.spec.outputs]
    export_module(graph.module, graph.example_inputs(), input_names, output_names, path)


def _export_module(
    module: nn.Module,
    inputs: Sequence[Tensor],
    input_names: Sequence[str],
    output_names: Sequence[str],
    path: Path,
    opset: int,
) -> None:
    with torch.no_grad(), warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs),
            dynamo=True,
            opset_version=opset,
            input_names=list(input_names),
            output_names=list(output_names),
            custom_translation_table=_translations(),
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's packages log each rewritten node, and warn of torchvision, unused here."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    loggers.append(logging.getLogger("torch.onnx._internal.exporter._registration"))
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _publish(partial: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        os.rename(partial, folder)
    except OSError:
        # Another process exported the same at the same time; what it wrote is as good.
        Manifest.read(folder)


def _manifest(request: ExportRequest, graphs: tuple[Graph, ...], folder: Path) -> Manifest:
    config = request.checkpoint.config
    return Manifest(
        contract_version=CONTRACT_VERSION,
        checkpoint_name=request.checkpoint_name,
        checkpoint_sha256=request.checkpoint_sha256,
        model=config.name,
        precision=request.precision,
        opset=request.opset,
        sampler=config.sampling.action_sampler,
        num_steps=request.num_steps,
        num_slots=context_slots(config),
        capacity=context_capacity(config),
        versions=exporter_versions(),
        graphs=tuple(graph.spec for graph in graphs),
        files={path.name: sha256_of(path) for path in sorted(folder.iterdir())},
    )


def exporter_versions() -> dict[str, str]:
    """Versions of what decides how a graph is written."""
    return {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxscript")}


def _line(name: str, folder: Path, seconds: float) -> str:
    num_bytes = sum(path.stat().st_size for path in folder.glob(f"{name}.onnx*"))
    return f"export {name}: {seconds:.1f} s, {num_bytes / 2**20:.1f} MiB"


# ---- the two dialects


@torch.library.custom_op("par::write_rows", mutates_args=())
def _write_rows(cache: Tensor, rows: Tensor, position: Tensor) -> Tensor:
    return write_rows_plain(cache, rows, position)


@_write_rows.register_fake
def _(cache: Tensor, rows: Tensor, position: Tensor) -> Tensor:
    return torch.empty_like(cache)


def write_rows_plain(cache: Tensor, rows: Tensor, position: Tensor) -> Tensor:
    index = position + torch.arange(rows.shape[2], device=rows.device)
    return cache.index_copy(2, index, rows)


def _rotate_fused(x_1HSD: Tensor, cos_SP: Tensor, sin_SP: Tensor) -> Tensor:
    return torch.onnx.ops.rotary_embedding(
        x_1HSD,
        cos_SP.unsqueeze(0),
        sin_SP.unsqueeze(0),
        interleaved=True,
        rotary_embedding_dim=2 * cos_SP.shape[-1],
    )


@dataclass(frozen=True)
class _Operations:
    """GraphOperations of a dialect."""

    write_rows: Callable[[Tensor, Tensor, Tensor], Tensor]
    rotate_pairs: Callable[[Tensor, Tensor, Tensor], Tensor]
    attend: AttendMasked


def _operations(opset: int, precision: Precision) -> _Operations:
    if opset == FUSED_OPSET:
        # TensorRT has no float32 kernel for the operator and does not take it apart by itself.
        # ONNX Runtime gives the same bits either way.
        attend = attend_by_products if precision == "fp32" else attend_fused
        return _Operations(torch.ops.par.write_rows.default, _rotate_fused, attend)
    if opset == PLAIN_OPSET:
        # Its exporter takes attention apart.
        return _Operations(write_rows_plain, rotate_pairs, attend_fused)
    raise ValueError(
        f"opset {opset} is unknown; choose {FUSED_OPSET} (fused) or {PLAIN_OPSET} (plain)."
    )


def _translations() -> dict[Any, Callable[..., Any]]:
    from onnxscript.onnx_opset import opset24

    def write_rows(cache, rows, position):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        return opset24.TensorScatter(cache, rows, position, axis=2, mode="linear")

    return {torch.ops.par.write_rows.default: write_rows}
