# SPDX-License-Identifier: Apache-2.0
"""Checkpoint to Policy: the only place that chooses a runtime."""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from par_model.backends.graphs import context_slots, require_static
from par_model.backends.policy_graphs import PolicyGraphs
from par_model.backends.static_graphs import GraphRuntime, StaticGraphs
from par_model.backends.torch_eager import TorchEager
from par_model.checkpoint import Checkpoint, load_checkpoint
from par_model.export.manifest import FILE_NAME, sha256_of
from par_model.policy import PARPolicy

BACKENDS = ("auto", "tensorrt", "compiled", "onnx", "eager")
# Where `export_trt` is told to write by README: a folder a checkpoint.
ENGINES = Path("trt_engines")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deployment:
    """What decides how a checkpoint runs.

    Attributes:
        checkpoint: float32 weights on the CPU.
        name, sha256: of the checkpoint, as in an export's manifest.
        num_steps: sampling steps of the action head.
        engines: folder with TensorRT engines.
    """

    checkpoint: Checkpoint
    name: str
    sha256: str
    device: torch.device
    num_steps: int
    engines: Path

    @property
    def dtype(self) -> torch.dtype:
        """Of PyTorch's weights: bfloat16 on a GPU, float32 on a CPU."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32


def load_policy(
    path: Path,
    *,
    backend: str = "auto",
    num_steps: int | None = None,
    sampler: str | None = None,
    context_slots: int | None = None,
    device: str = "auto",
    engines: Path | None = None,
    observation_mode: str | None = None,
) -> PARPolicy:
    """Load a checkpoint folder and make it answer observations.

    Args:
        path: the checkpoint folder.
        backend: one of BACKENDS. "auto" takes the first that works: on a GPU tensorrt, compiled,
            eager; on a CPU onnx, eager. It logs which, and why not an earlier one. It exports
            nothing: it takes onnx where an earlier load with backend "onnx" has exported.
        num_steps: sampling steps of the action head; None is the checkpoint's default.
        sampler: of the action head, "ddim", "dpmsolver++" or "ddpm"; None is the checkpoint's
            default. The static runtimes have "ddim" only, "auto" then answers with eager.
        context_slots: observations that the policy remembers; None is the checkpoint's default.
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        engines: folder that export_trt built in; None is trt_engines/NAME, the checkpoint's name.
        observation_mode: "image" or "clip" where the caller can give only that; None takes the
            checkpoint's. The two encode differently, so another than it was trained on is refused.

    Raises:
        ValueError: the checkpoint, the backend, the device, the sampler or the number of steps is
            refused; the sentence says why.
    """
    checkpoint = _with_sampling(load_checkpoint(path), sampler, context_slots)
    _require_policy(checkpoint, path, observation_mode)
    deployment = Deployment(
        checkpoint=checkpoint,
        name=path.resolve().name,
        sha256=sha256_of(path / FILE_NAME),
        device=_device(device),
        num_steps=_num_steps(checkpoint, num_steps),
        engines=ENGINES / path.resolve().name if engines is None else engines,
    )
    graphs = make_graphs(deployment, backend)
    _log.info("policy %s answers with %s", path, graphs.name)
    return PARPolicy(
        checkpoint.config,
        checkpoint.statistics,
        checkpoint.instructions,
        graphs,
        checkpoint.camera_fit,
    )


def _with_sampling(
    checkpoint: Checkpoint, sampler: str | None, context_slots: int | None
) -> Checkpoint:
    """The checkpoint with other defaults of inference; None leaves one as it is."""
    asked: dict[str, str | int] = {}
    if sampler is not None:
        asked["action_sampler"] = sampler
    if context_slots is not None:
        asked["context_slots"] = context_slots
    sampling = dataclasses.replace(checkpoint.config.sampling, **asked)  # type: ignore[arg-type]
    config = dataclasses.replace(checkpoint.config, sampling=sampling)
    config.validate()
    return dataclasses.replace(checkpoint, config=config)


def _require_policy(checkpoint: Checkpoint, path: Path, observation_mode: str | None) -> None:
    config = checkpoint.config
    if not config.num_actions:
        raise ValueError(
            f"checkpoint {path} is a video model without actions; use "
            "`python -m par_model.video_generation`, or convert NOVA's weights with --form par and "
            "fine-tune them."
        )
    if observation_mode not in (None, config.observation_mode):
        raise ValueError(
            f"observation mode {observation_mode!r} was asked for and checkpoint {path} was "
            f"trained in mode {config.observation_mode!r}; the two encode differently and cannot "
            "be mixed."
        )


def make_graphs(deployment: Deployment, backend: str) -> PolicyGraphs:
    """The runtime called `backend`; "auto" is the first that works on the device.

    Raises:
        ValueError: an unknown backend, or the reason why the one that was asked for cannot run.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown; choose one of {', '.join(BACKENDS)}.")
    config = deployment.checkpoint.config
    if backend not in ("auto", "eager"):
        require_static(config, config.sampling.action_sampler)
    if backend != "auto":
        return _MAKERS[backend](deployment)
    order = ("tensorrt", "compiled") if deployment.device.type == "cuda" else ("onnx",)
    for name in order:
        try:
            require_static(config, config.sampling.action_sampler)
            if name == "onnx":
                _require_exported(deployment)
            graphs = _MAKERS[name](deployment)
        except ValueError as reason:
            _log.warning("backend auto: not %s: %s", name, reason)
            continue
        _log.info("backend auto: %s, the fastest that works on %s", name, deployment.device.type)
        return graphs
    _log.warning("backend auto: eager, the slowest, because nothing faster works here")
    return _eager(deployment)


def _eager(deployment: Deployment) -> TorchEager:
    return TorchEager(
        deployment.checkpoint, deployment.device, deployment.dtype, deployment.num_steps
    )


def _require_exported(deployment: Deployment) -> None:
    cached_export = _onnx_modules()[1]
    folder = cached_export.cached_export_folder(
        deployment.checkpoint, deployment.name, deployment.sha256, deployment.num_steps
    )
    if not folder.is_dir():
        raise ValueError(
            f"{deployment.name} is not exported yet; load it once with backend 'onnx', which "
            "exports it (half a minute for par_small)"
        )


def _onnx_modules() -> tuple[ModuleType, ModuleType]:
    """backends.onnx and export.cached_export, which need optional packages."""
    try:
        from par_model.backends import onnx
        from par_model.export import cached_export
    except ImportError as error:
        raise ValueError(
            f"ONNX Runtime or the exporter is not installed ({error}); "
            "pip install onnx onnxscript onnxruntime, or choose backend 'eager'."
        ) from error
    return onnx, cached_export


def _onnx(deployment: Deployment) -> StaticGraphs:
    onnx, cached_export = _onnx_modules()
    if deployment.device.type != "cpu":
        raise ValueError("backend 'onnx' runs on the CPU; use device 'cpu', or another backend.")
    folder = cached_export.cached_export(
        deployment.checkpoint, deployment.name, deployment.sha256, deployment.num_steps
    )
    return _verified(deployment, onnx.OnnxRuntime(folder), folder)


def _tensorrt(deployment: Deployment) -> StaticGraphs:
    from par_model.backends.tensorrt import TensorRTRuntime

    if deployment.device.type != "cuda":
        raise ValueError("backend 'tensorrt' needs a CUDA GPU; use backend 'onnx' or 'eager'.")
    runtime = TensorRTRuntime(deployment.engines, deployment.sha256)
    if runtime.manifest.num_steps != deployment.num_steps:
        raise ValueError(
            f"the engines in {deployment.engines} unroll {runtime.manifest.num_steps} sampling "
            f"steps and {deployment.num_steps} were asked for; export with "
            f"--steps {deployment.num_steps}."
        )
    asked_sampler = deployment.checkpoint.config.sampling.action_sampler
    if runtime.manifest.sampler != asked_sampler:
        raise ValueError(
            f"the engines in {deployment.engines} unroll the sampler {runtime.manifest.sampler!r} "
            f"and {asked_sampler!r} was asked for; use backend 'eager' for it."
        )
    held, asked = runtime.manifest.num_slots, context_slots(deployment.checkpoint.config)
    if held != asked:
        raise ValueError(
            f"the engines in {deployment.engines} remember {held} slots and {asked} were asked "
            "for; export with the context that is to be used."
        )
    return _verified(deployment, runtime, deployment.engines)


def _compiled(deployment: Deployment) -> StaticGraphs:
    from par_model.backends.torch_compiled import TorchCompiled

    checkpoint = deployment.checkpoint
    runtime = TorchCompiled(
        checkpoint,
        deployment.device,
        deployment.dtype,
        checkpoint.config.sampling.action_sampler,
        deployment.num_steps,
    )
    return StaticGraphs(checkpoint, runtime, _eager(deployment))


def _verified(deployment: Deployment, runtime: GraphRuntime, folder: Path) -> StaticGraphs:
    """The runtime as PolicyGraphs, after one golden rollout."""
    from par_model.export.verify import verify_goldens

    graphs = StaticGraphs(deployment.checkpoint, runtime, _eager(deployment))
    verify_goldens(graphs, folder, runtime.manifest)  # type: ignore[attr-defined]
    return graphs


_MAKERS: dict[str, Callable[[Deployment], PolicyGraphs]] = {
    "tensorrt": _tensorrt,
    "compiled": _compiled,
    "onnx": _onnx,
    "eager": _eager,
}


def _num_steps(checkpoint: Checkpoint, num_steps: int | None) -> int:
    return checkpoint.config.sampling.action_num_steps if num_steps is None else num_steps


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for and torch sees no CUDA GPU; use 'cpu'.")
    if name not in ("cpu", "cuda"):
        raise ValueError(f"device {name!r} is unknown; choose auto, cpu or cuda.")
    return torch.device(name)
