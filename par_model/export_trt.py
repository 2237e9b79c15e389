# SPDX-License-Identifier: Apache-2.0
"""python -m par_model.export_trt --checkpoint C --out trt_engines/NAME: a checkpoint's engines.

    export   ONNX files, golden values and manifest.json, by PyTorch (no GPU)
    check    the files: ONNX validity, the graph contract, PyTorch's numbers (not bf16), and whether
             TensorRT-RTX, if installed, compiles them (no GPU)
    build    TensorRT engines beside them, for the GPU of this machine
    verify   the engines against the golden values and over 50 steps beside PyTorch

Without --stage all four run in this order. Without TensorRT the first two still do, and the exit
status says that there is no engine. Load the result with `backend:=tensorrt`.
"""

import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
from tyro.conf import arg, create_mutex_group

from par_model.backends.static_graphs import StaticGraphs
from par_model.backends.torch_eager import TorchEager
from par_model.checkpoint import Checkpoint, load_checkpoint
from par_model.command_line import default_is, one_of, output_folder, parse, require_some, some_of
from par_model.export.build import build_engines
from par_model.graphs.contract import GRAPH_NAMES
from par_model.graphs.manifest import (
    DTYPES,
    FILE_NAME,
    PRECISIONS,
    Manifest,
    sha256_of,
    verify_files,
)
from par_model.presets import preset

Stage = Literal["export", "check", "build", "verify"]
STAGES: tuple[Stage, ...] = get_args(Stage)
_ONNX_ROUTE, _TORCH_ROUTE = "onnx", "torch-tensorrt"


_SOURCE = create_mutex_group(required=False)


@dataclass(frozen=True)
class ExportOptions:
    """The command line."""

    # folder to write, e.g. trt_engines/X
    out: Annotated[Path, output_folder()]
    # checkpoint folder
    checkpoint: Annotated[Path | None, _SOURCE, arg(metavar="DIR")] = None
    # random weights of this preset, for sizes and times
    preset: Annotated[str | None, _SOURCE, arg(metavar="NAME")] = None
    # of the weights and the arithmetic
    precision: Annotated[str, one_of(PRECISIONS)] = "bf16"
    # sampling steps in the act graph
    steps: Annotated[int | None, default_is("the checkpoint's")] = None
    # only these, to see whether they compile; nothing runs without all
    graphs: Annotated[tuple[str, ...] | None, some_of(GRAPH_NAMES), default_is("all")] = None
    # one stage only
    stage: Annotated[Stage | None, default_is("all in turn")] = None
    # how engines are built
    route: Annotated[str, one_of((_ONNX_ROUTE, _TORCH_ROUTE))] = _ONNX_ROUTE
    # ONNX dialect; 20 for a TensorRT before 10.15, which copies the cache
    opset: Literal[20, 24] = 24

    def __post_init__(self) -> None:
        require_some("--graphs", self.graphs)


def main(arguments: list[str] | None = None) -> int:
    options = parse(ExportOptions, "python -m par_model.export_trt", __doc__, arguments)
    stages = STAGES if options.stage is None else (options.stage,)
    for stage in stages:
        try:
            _STAGES[stage](options)
        except ValueError as error:
            print(f"par_model.export_trt: {stage}: {error}", file=sys.stderr)
            return 1
    return 0


def _export(options: ExportOptions) -> None:
    try:
        from par_model.export.onnx_graphs import ExportRequest, export_checkpoint
    except ImportError as error:
        raise ValueError(
            f"the exporter's packages are missing ({error}); pip install onnx onnxscript."
        ) from error
    _require_route(options)
    checkpoint, name, sha256 = _load(options)
    num_steps = options.steps
    if num_steps is None:
        num_steps = checkpoint.config.sampling.action_num_steps
    request = ExportRequest(
        checkpoint=checkpoint,
        checkpoint_name=name,
        checkpoint_sha256=sha256,
        precision=options.precision,
        opset=options.opset,
        num_steps=num_steps,
        names=options.graphs,
    )
    _report(
        f"export: {name}, {options.precision}, opset {request.opset}, {num_steps} sampling steps, "
        f"context of {checkpoint.config.sampling.context_slots} slots"
    )
    export_checkpoint(request, options.out, _report)
    _report(f"export: {options.out / FILE_NAME} written")


def _check(options: ExportOptions) -> None:
    from par_model.export.check import check_onnx, compile_without_gpu

    manifest = Manifest.read(options.out)
    verify_files(options.out, manifest)
    check_onnx(options.out, manifest, _report)
    if manifest.precision == "bf16":
        _report(
            "check numbers: left out, ONNX Runtime's CPU has no bf16 kernels; `--stage verify` "
            "compares on the GPU"
        )
    else:
        _check_numbers(options, manifest)
    names = tuple(spec.name for spec in manifest.graphs)
    compile_without_gpu(options.out, manifest, names, _report)


def _check_numbers(options: ExportOptions, manifest: Manifest) -> None:
    from par_model.backends.onnx import OnnxRuntime
    from par_model.export.verify import load_goldens, verify_goldens, verify_rollout

    checkpoint = _same_checkpoint(options, manifest)
    same_precision = _in_precision(checkpoint, manifest, torch.device("cpu"))
    eager = TorchEager(checkpoint, torch.device("cpu"), num_steps=manifest.num_steps)
    graphs = StaticGraphs(checkpoint, OnnxRuntime(options.out), eager)
    verify_goldens(graphs, options.out, manifest)
    goldens = load_goldens(options.out, manifest)
    verify_rollout(
        graphs, eager, goldens, manifest.precision, _report, same_precision=same_precision
    )


def _in_precision(
    checkpoint: Checkpoint, manifest: Manifest, device: torch.device
) -> TorchEager | None:
    """PyTorch in the export's precision, on weights of its own; None for float32."""
    if manifest.precision == "fp32":
        return None
    weights = copy.deepcopy(checkpoint)
    return TorchEager(weights, device, DTYPES[manifest.precision], manifest.num_steps)


def _build(options: ExportOptions) -> None:
    _require_route(options)
    manifest = Manifest.read(options.out)
    verify_files(options.out, manifest)
    build_engines(options.out, manifest, _report)


def _verify(options: ExportOptions) -> None:
    from par_model.backends.tensorrt import TensorRTRuntime
    from par_model.export.verify import load_goldens, verify_goldens, verify_rollout

    # PyTorch's reference in float32 would have convolutions of three digits less.
    torch.backends.cudnn.allow_tf32 = False
    manifest = Manifest.read(options.out)
    checkpoint = _same_checkpoint(options, manifest)
    runtime = TensorRTRuntime(options.out, manifest.checkpoint_sha256)
    same_precision = _in_precision(checkpoint, manifest, runtime.device)
    eager = TorchEager(checkpoint, runtime.device, num_steps=manifest.num_steps)
    graphs = StaticGraphs(checkpoint, runtime, eager)
    for name, deviation in verify_goldens(graphs, options.out, manifest).items():
        _report(f"verify goldens: {name} max abs {deviation.max_abs:.2e}")
    goldens = load_goldens(options.out, manifest)
    verify_rollout(
        graphs, eager, goldens, manifest.precision, _report, same_precision=same_precision
    )


_STAGES = {"export": _export, "check": _check, "build": _build, "verify": _verify}


def _load(options: ExportOptions) -> tuple[Checkpoint, str, str]:
    """The checkpoint, its name and its sha256."""
    if options.preset is not None:
        from par_model.export.untrained import untrained_checkpoint, untrained_sha256

        config = preset(options.preset)
        return untrained_checkpoint(config), options.preset, untrained_sha256(config)
    if options.checkpoint is None:
        raise ValueError("give --checkpoint FOLDER, or --preset NAME for random weights.")
    checkpoint = load_checkpoint(options.checkpoint)
    name = options.checkpoint.resolve().name
    return checkpoint, name, sha256_of(options.checkpoint / FILE_NAME)


def _same_checkpoint(options: ExportOptions, manifest: Manifest) -> Checkpoint:
    checkpoint, name, sha256 = _load(options)
    if sha256 != manifest.checkpoint_sha256:
        raise ValueError(
            f"{options.out} was exported from {manifest.checkpoint_name!r} "
            f"({manifest.checkpoint_sha256[:12]}), not from {name!r} ({sha256[:12]}); give the "
            "same checkpoint, or export again."
        )
    return checkpoint


def _require_route(options: ExportOptions) -> None:
    if options.route == _TORCH_ROUTE:
        raise ValueError(
            "the route torch-tensorrt is not offered: torch-tensorrt 2.13 writes one cache row at "
            "a time in place and copies the whole cache for more, and it cannot be imported "
            "without a GPU, so nothing of it could be tested. Use --route onnx."
        )


def _report(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
