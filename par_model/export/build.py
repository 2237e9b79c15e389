# SPDX-License-Identifier: Apache-2.0
"""ONNX to a TensorRT plan: parser, strongly typed network, compiler.

The same code drives TensorRT (builds for the GPU it runs on) and TensorRT-RTX (builds for a named
compute capability without any GPU, and is how a CPU proves that the graphs compile). Both modules
have one API for what is used here.
"""

import importlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from par_model.export.engine_files import Target, engine_key, write_engine
from par_model.export.manifest import Manifest

TENSORRT_VERSION = "11.4.0.106"
INSTALL_TENSORRT = (
    f"TensorRT is not installed: `pip install tensorrt=={TENSORRT_VERSION}` (or "
    "`pip install -e '.[trt]'`) on the machine with the NVIDIA GPU, where NVIDIA's package index "
    "must be reachable; with a driver older than r580, "
    f"`pip install tensorrt-cu12=={TENSORRT_VERSION}`"
)


@dataclass(frozen=True)
class CompiledGraph:
    """A compiled plan and the compiler's log.

    Attributes:
        layers: layers of the parsed network by type, e.g. {"KV_CACHE_UPDATE": 32}.
        warnings: what parser and compiler warned of.
    """

    plan: bytes
    layers: Counter[str]
    warnings: tuple[str, ...]
    parse_s: float
    compile_s: float


def tensorrt_module() -> Any:
    """TensorRT's Python module. Raises ValueError with the line that installs it."""
    try:
        return importlib.import_module("tensorrt")
    except ImportError as error:
        raise ValueError(f"{INSTALL_TENSORRT} ({error}).") from error


def started(trt: Any, name: str, logger: Any) -> Any:
    """trt.Builder or trt.Runtime, made.

    Raises:
        ValueError: CUDA cannot be initialised, for which the binding has a TypeError only.
    """
    try:
        return getattr(trt, name)(logger)
    except TypeError as error:
        reason = logger.text() if hasattr(logger, "text") else str(error)
        raise ValueError(
            f"{trt.__name__} {trt.__version__} cannot start its {name} ({reason}); most likely the "
            "NVIDIA driver is older than this build of TensorRT wants: see nvidia-smi, and with a "
            f"driver older than r580 take `pip install tensorrt-cu12=={TENSORRT_VERSION}`."
        ) from error


def compiler_flags(precision: str) -> tuple[str, ...]:
    """Flags of the builder's configuration that the engine's key carries. TF32 would cost three
    digits of a float32 engine."""
    return ("no_tf32",) if precision == "fp32" else ()


def compile_graph(
    trt: Any, path: Path, precision: str, compute_capability: str | None = None
) -> CompiledGraph:
    """Parse and compile one ONNX file.

    Args:
        trt: the module tensorrt or tensorrt_rtx.
        compute_capability: name in trt.ComputeCapability, for TensorRT-RTX without a GPU; None
            compiles for the GPU at hand.

    Raises:
        ValueError: the parser or the compiler refused the graph; with its own words.
    """
    logger = _collecting_logger(trt)
    builder = started(trt, "Builder", logger)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    start = time.perf_counter()
    if not parser.parse_from_file(str(path)):
        errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise ValueError(f"{trt.__name__} cannot parse {path.name}: {errors or logger.text()}.")
    parsed = time.perf_counter()
    layers = Counter(network.get_layer(i).type.name for i in range(network.num_layers))
    config = builder.create_builder_config()
    if "no_tf32" in compiler_flags(precision):
        config.clear_flag(trt.BuilderFlag.TF32)
    if compute_capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, compute_capability), 0)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ValueError(f"{trt.__name__} cannot compile {path.name}: {logger.text()}.")
    return CompiledGraph(
        bytes(memoryview(plan)),
        layers,
        tuple(logger.warnings),
        parsed - start,
        time.perf_counter() - parsed,
    )


def build_engines(folder: Path, manifest: Manifest, report: Callable[[str], None]) -> None:
    """Compile every graph of an export for the GPU at hand, plans beside the ONNX files.

    Raises:
        ValueError: no TensorRT, no GPU, or a graph is refused.
    """
    trt = tensorrt_module()
    target = current_target(trt)
    flags = compiler_flags(manifest.precision)
    for spec in manifest.graphs:
        key = engine_key(manifest, spec.name, target, flags)
        report(f"build {spec.name}: compiling for {target.gpu_name}")
        compiled = compile_graph(trt, folder / f"{spec.name}.onnx", manifest.precision)
        path = write_engine(folder, key, compiled.plan)
        report(
            f"build {spec.name}: {compiled.compile_s:.1f} s, {len(compiled.plan) / 2**20:.1f} MiB, "
            f"{path.name}"
        )


def current_target(trt: Any) -> Target:
    """This machine's compiler and GPU. Raises ValueError where there is no GPU."""
    if not torch.cuda.is_available():
        raise ValueError(
            "an engine is built and run on the GPU it is for, and torch sees no CUDA GPU here; "
            "run this on the GPU machine, or check the driver with nvidia-smi."
        )
    major, minor = torch.cuda.get_device_capability()
    return Target(
        compiler=trt.__name__,
        compiler_version=trt.__version__,
        compute_capability=f"{major}.{minor}",
        gpu_name=torch.cuda.get_device_name(),
        driver_version=_driver_version(),
    )


def _driver_version() -> str:
    """The installed NVIDIA driver, from the kernel module; "unknown" where it does not say."""
    path = Path("/proc/driver/nvidia/version")
    if not path.is_file():
        return "unknown"
    words = path.read_text().split()
    numbers = [word for word in words if word.replace(".", "").isdigit() and "." in word]
    return numbers[0] if numbers else "unknown"


def _collecting_logger(trt: Any) -> Any:
    class CollectingLogger(trt.ILogger):  # type: ignore[misc]
        """Keeps errors and warnings instead of printing them."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)
            elif severity == trt.ILogger.Severity.WARNING:
                self.warnings.append(message)

        def text(self) -> str:
            return "; ".join(self.errors) or "it gave no reason"

    return CollectingLogger()
