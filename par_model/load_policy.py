# SPDX-License-Identifier: Apache-2.0
"""Checkpoint to Policy: the only place that chooses a runtime."""

import contextlib
import copy
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from par_model.action_head import ActionDit
from par_model.backends.cpu_choice import control_step_ms, cpu_name
from par_model.backends.static_graphs import GraphRuntime, StaticGraphs
from par_model.backends.torch_eager import TorchEager
from par_model.checkpoint import Checkpoint, load_checkpoint
from par_model.config import TimestepSpacing
from par_model.forward_model import read_forward_model
from par_model.graphs.contract import context_slots, require_static
from par_model.graphs.goldens import replay, rollout_steps
from par_model.graphs.manifest import FILE_NAME, Precision, sha256_of
from par_model.graphs.policy_graphs import PolicyGraphs, as_float32
from par_model.policy import PARPolicy

BACKENDS = ("auto", "tensorrt", "compiled", "openvino", "openvino-int8", "onnx", "eager")
# These run the cached export on a CPU in float32: any checkpoint's answers stay within 1e-4.
_ON_EXPORT = ("openvino", "onnx")
# Where the documented `export_trt` command writes: one folder for each checkpoint.
ENGINES = Path("trt_engines")
_MOST_PARAMETERS_EXPORTED_UNASKED = 100_000_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deployment:
    """Options of a runtime.

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
    spacing: TimestepSpacing | None = None,
    context_slots: int | None = None,
    device: str = "auto",
    engines: Path | None = None,
    observation_mode: str | None = None,
) -> PARPolicy:
    """Load a checkpoint folder and make it answer observations.

    Args:
        path: the checkpoint folder.
        backend: one of BACKENDS. "auto" takes on a GPU the first that works of tensorrt, compiled
            and eager; on a CPU the fastest of openvino, onnx and eager, measured once a machine. It
            logs which and why. The first load of a checkpoint on a CPU exports it to ONNX into the
            cache (15 s for par_small), unless it is large or the packages are missing.
        num_steps: sampling steps of the action head; None is the checkpoint's default.
        sampler: of the action head, "ddim", "dpmsolver++" or "ddpm"; None is the checkpoint's
            default. The static runtimes have "ddim" only, "auto" then answers with eager.
        spacing: which training times the sampling steps stand at; None is the checkpoint's. Another
            one runs with backend "eager" only.
        context_slots: observations that the policy remembers; None is the checkpoint's default.
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        engines: folder that export_trt built in; None is trt_engines/NAME, the checkpoint's name.
        observation_mode: "image" or "clip" where the caller can give only that; None takes the
            checkpoint's. The two encode differently, so another than it was trained on is refused.

    Raises:
        ValueError: the checkpoint, the backend, the device, the sampler or the number of steps is
            refused; the sentence says why.
    """
    _, policy = load_chosen(
        path,
        backend=backend,
        num_steps=num_steps,
        sampler=sampler,
        spacing=spacing,
        context_slots=context_slots,
        device=device,
        engines=engines,
        observation_mode=observation_mode,
    )
    return policy


def load_chosen(
    path: Path,
    *,
    backend: str = "auto",
    num_steps: int | None = None,
    sampler: str | None = None,
    spacing: TimestepSpacing | None = None,
    context_slots: int | None = None,
    device: str = "auto",
    engines: Path | None = None,
    observation_mode: str | None = None,
) -> tuple[str, PARPolicy]:
    """As `load_policy`, with the policy's backend by its name in BACKENDS: never "auto"."""
    checkpoint = _with_sampling(load_checkpoint(path), sampler, context_slots)
    checkpoint = _with_spacing(checkpoint, spacing, backend)
    _require_policy(checkpoint, path, observation_mode)
    # Before a runtime takes the codec's weights over, in its own precision.
    forward = read_forward_model(path, checkpoint)
    deployment = Deployment(
        checkpoint=checkpoint,
        name=path.resolve().name,
        sha256=sha256_of(path / FILE_NAME),
        device=runtime_device(device),
        num_steps=_num_steps(checkpoint, num_steps),
        engines=ENGINES / path.resolve().name if engines is None else engines,
    )
    chosen, graphs = _chosen_graphs(deployment, backend)
    _log.info("policy %s answers with %s", path, graphs.name)
    policy = PARPolicy(
        checkpoint.config,
        checkpoint.statistics,
        checkpoint.instructions,
        graphs,
        checkpoint.camera_fit,
        None if forward is None else forward.model,
    )
    return chosen, policy


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


def _with_spacing(
    checkpoint: Checkpoint, spacing: TimestepSpacing | None, backend: str
) -> Checkpoint:
    own = checkpoint.config.action_diffusion.spacing
    if spacing in (None, own):
        return checkpoint
    if backend != "eager":
        raise ValueError(
            f"spacing {spacing!r} was asked for, the checkpoint has {own!r}, and backend "
            f"{backend!r} takes the checkpoint's; use backend 'eager', or "
            "`python -m par_model.release --sampling` to change the checkpoint."
        )
    diffusion = dataclasses.replace(checkpoint.config.action_diffusion, spacing=spacing)
    config = dataclasses.replace(checkpoint.config, action_diffusion=diffusion)
    # The model was loaded for this policy alone; its head has its own copy of the noise process.
    checkpoint.model.config = config
    if isinstance(checkpoint.model.action_head, ActionDit):
        checkpoint.model.action_head.diffusion = diffusion
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
    return _chosen_graphs(deployment, backend)[1]


def _chosen_graphs(deployment: Deployment, backend: str) -> tuple[str, PolicyGraphs]:
    """As make_graphs, with the name of the runtime."""
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown; choose one of {', '.join(BACKENDS)}.")
    config = deployment.checkpoint.config
    if backend not in ("auto", "eager"):
        require_static(config, config.sampling.action_sampler)
    if backend != "auto":
        return backend, _MAKERS[backend](_own_weights(deployment))
    if deployment.device.type == "cpu":
        return _auto_on_cpu(deployment)
    for name in ("tensorrt", "compiled"):
        try:
            require_static(config, config.sampling.action_sampler)
            graphs = _MAKERS[name](_own_weights(deployment))
        except ValueError as reason:
            _log.warning("backend auto: not %s: %s", name, reason)
            continue
        _log.info("backend auto: %s, the fastest that works on a GPU here", name)
        return name, graphs
    return _eager_after_all(_own_weights(deployment))


def _own_weights(deployment: Deployment) -> Deployment:
    """On a GPU a runtime casts and moves the weights it is given; the next one to be tried needs
    them as they were."""
    if deployment.device.type == "cpu":
        return deployment
    return dataclasses.replace(deployment, checkpoint=copy.deepcopy(deployment.checkpoint))


def _auto_on_cpu(deployment: Deployment) -> tuple[str, PolicyGraphs]:
    config = deployment.checkpoint.config
    try:
        require_static(config, config.sampling.action_sampler)
        _require_small_or_exported(deployment)
    except ValueError as reason:
        _log.warning("backend auto: not %s: %s", " or ".join(_ON_EXPORT), reason)
        return _eager_after_all(deployment)
    candidates: dict[str, PolicyGraphs] = {}
    for name in _ON_EXPORT:
        try:
            candidates[name] = _MAKERS[name](deployment)
        except ValueError as reason:
            _log.warning("backend auto: not %s: %s", name, reason)
    if not candidates:
        return _eager_after_all(deployment)
    candidates["eager"] = _eager(deployment)
    text = as_float32(deployment.checkpoint.instructions.embeddings_ITC[0].float())
    with _cache_folder(deployment) as folder:
        times = control_step_ms(candidates, text, folder, cpu_name())
    fastest = min(times, key=lambda name: times[name])
    _log.info(
        "backend auto: %s, as a control step took %s when it was measured on this CPU",
        fastest,
        " and ".join(f"{ms:.1f} ms with {name}" for name, ms in times.items()),
    )
    return fastest, candidates[fastest]


def _eager_after_all(deployment: Deployment) -> tuple[str, PolicyGraphs]:
    _log.warning("backend auto: eager, the slowest, because nothing faster works here")
    return "eager", _eager(deployment)


def _eager(deployment: Deployment) -> TorchEager:
    return TorchEager(
        deployment.checkpoint, deployment.device, deployment.dtype, deployment.num_steps
    )


def _require_small_or_exported(deployment: Deployment) -> None:
    """Refuse an export that takes minutes and gigabytes unless it was requested."""
    checkpoint = deployment.checkpoint
    modules = (checkpoint.model, checkpoint.codec)
    num_parameters = sum(value.numel() for module in modules for value in module.parameters())
    if (
        num_parameters <= _MOST_PARAMETERS_EXPORTED_UNASKED
        or _cached_export_path(deployment).is_dir()
    ):
        return
    raise ValueError(
        f"{deployment.name} is not exported and has {num_parameters / 1e6:.0f} M parameters, whose "
        "export takes minutes and gigabytes of disk; load it once with backend 'onnx' to have it"
    )


def _cached_export_path(deployment: Deployment) -> Path:
    folder: Path = _exporter().cached_export_folder(
        deployment.checkpoint, deployment.name, deployment.sha256, deployment.num_steps
    )
    return folder


@contextlib.contextmanager
def _cache_folder(deployment: Deployment) -> Iterator[Path]:
    """Path of the ONNX export, locked for this process."""
    cached_export = _exporter()
    folder = _cached_export_path(deployment)
    try:
        with cached_export.lock(folder):
            yield folder
    except OSError as error:
        raise ValueError(
            f"the cache {folder.parent} cannot be written ({error}); name another folder in the "
            "environment variable PAR_CACHE, or choose backend 'eager'."
        ) from error


def _exporter() -> ModuleType:
    """export.cached_export, which needs optional packages."""
    try:
        from par_model.export import cached_export
    except ImportError as error:
        raise _not_installed("the exporter", "onnx onnxscript", error) from error
    return cached_export


def _not_installed(what: str, packages: str, error: ImportError) -> ValueError:
    return ValueError(
        f"{what} is not installed ({error}); pip install {packages}, or choose backend 'eager'."
    )


def _onnx(deployment: Deployment) -> StaticGraphs:
    try:
        from par_model.backends.onnx import OnnxRuntime
    except ImportError as error:
        packages = "onnx onnxscript onnxruntime"
        raise _not_installed("ONNX Runtime", packages, error) from error
    return _on_export(deployment, "onnx", OnnxRuntime)


def _openvino(deployment: Deployment, precision: Precision = "fp32") -> StaticGraphs:
    try:
        from par_model.backends.openvino import OpenVinoRuntime
    except ImportError as error:
        raise _not_installed("OpenVINO", "onnx onnxscript openvino", error) from error
    return _on_export(
        deployment, "openvino", functools.partial(OpenVinoRuntime, precision=precision)
    )


def _on_export(
    deployment: Deployment, backend: str, runtime: Callable[[Path], GraphRuntime]
) -> StaticGraphs:
    """A runtime of the cached export, which is made now if there is none."""
    if deployment.device.type != "cpu":
        raise ValueError(
            f"backend {backend!r} runs on the CPU; use device 'cpu', or another backend."
        )
    with _cache_folder(deployment):
        folder = _exporter().cached_export(
            deployment.checkpoint, deployment.name, deployment.sha256, deployment.num_steps
        )
    return _verified(deployment, runtime(folder), folder)


def _tensorrt(deployment: Deployment) -> StaticGraphs:
    from par_model.backends.tensorrt import TensorRTRuntime

    if deployment.device.type != "cuda":
        raise ValueError("backend 'tensorrt' needs a CUDA GPU; use backend 'onnx' or 'eager'.")
    # A sentence that names it helps from wherever it is read.
    engines = deployment.engines.resolve()
    runtime = TensorRTRuntime(engines, deployment.sha256)
    if runtime.manifest.num_steps != deployment.num_steps:
        raise ValueError(
            f"the engines in {engines} unroll {runtime.manifest.num_steps} sampling "
            f"steps and {deployment.num_steps} were asked for; export with "
            f"--steps {deployment.num_steps}."
        )
    asked_sampler = deployment.checkpoint.config.sampling.action_sampler
    if runtime.manifest.sampler != asked_sampler:
        raise ValueError(
            f"the engines in {engines} unroll the sampler {runtime.manifest.sampler!r} "
            f"and {asked_sampler!r} was asked for; use backend 'eager' for it."
        )
    held, asked = runtime.manifest.num_slots, context_slots(deployment.checkpoint.config)
    if held != asked:
        raise ValueError(
            f"the engines in {engines} remember {held} slots and {asked} were asked "
            "for; export with the context that is to be used."
        )
    try:
        return _verified(deployment, runtime, engines)
    except RuntimeError as error:
        raise ValueError(
            f"the engines in {engines} do not run here ({_first_line(error)}); see "
            "nvidia-smi for memory and driver, and build them again on this machine."
        ) from error


def _compiled(deployment: Deployment) -> StaticGraphs:
    # Two seconds to import, for this backend alone.
    from torch._dynamo.exc import TorchDynamoException

    from par_model.backends.torch_compiled import TorchCompiled

    checkpoint = deployment.checkpoint
    runtime = TorchCompiled(
        checkpoint,
        deployment.device,
        deployment.dtype,
        checkpoint.config.sampling.action_sampler,
        deployment.num_steps,
    )
    graphs = StaticGraphs(checkpoint, runtime, _eager(deployment))
    _log.warning("backend compiled: compiling, which takes a minute or more")
    try:
        _run_every_graph(graphs)
    except TorchDynamoException as error:
        raise ValueError(
            f"torch.compile failed ({_first_line(error)}); it needs a C++ "
            "compiler on a CPU and Triton on a GPU. Install it, or choose backend 'eager'."
        ) from error
    return graphs


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _run_every_graph(graphs: StaticGraphs) -> None:
    """A rollout that fills the context and goes on: what is compiled or captured at its first run
    is so before an arm waits for it."""
    config = graphs.config
    text = np.zeros((config.num_text_tokens, config.text_width), dtype=np.float32)
    for _ in replay(graphs, text, rollout_steps(config, context_slots(config) + 1, seed=0)):
        pass


def _verified(deployment: Deployment, runtime: GraphRuntime, folder: Path) -> StaticGraphs:
    """The runtime as PolicyGraphs, after one golden rollout."""
    from par_model.export.verify import verify_goldens

    graphs = StaticGraphs(deployment.checkpoint, runtime, _eager(deployment))
    precision = getattr(runtime, "precision", None)
    verify_goldens(graphs, folder, runtime.manifest, precision)  # type: ignore[attr-defined]
    if deployment.device.type == "cuda":
        _run_every_graph(graphs)
    return graphs


_MAKERS: dict[str, Callable[[Deployment], PolicyGraphs]] = {
    "tensorrt": _tensorrt,
    "compiled": _compiled,
    "openvino": _openvino,
    "openvino-int8": functools.partial(_openvino, precision="int8"),
    "onnx": _onnx,
    "eager": _eager,
}


def _num_steps(checkpoint: Checkpoint, num_steps: int | None) -> int:
    return checkpoint.config.sampling.action_num_steps if num_steps is None else num_steps


def runtime_device(name: str) -> torch.device:
    """ "auto", "cpu" or "cuda" as an available device. Raises ValueError for any other."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for and torch sees no CUDA GPU; use 'cpu'.")
    if name not in ("cpu", "cuda"):
        raise ValueError(
            f"device {name!r} is unknown; choose auto, cpu or cuda (one of several GPUs by "
            "CUDA_VISIBLE_DEVICES)."
        )
    return torch.device(name)
