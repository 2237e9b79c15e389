# SPDX-License-Identifier: Apache-2.0
"""TensorRT as it is installed here: the Python module, its builder or runtime started, and what
engines of this machine depend on. Builds (export/build.py) and runs (tensorrt.py) share it."""

import importlib
from pathlib import Path
from typing import Any

import torch

from par_model.graphs.engine_files import Target

TENSORRT_VERSION = "11.4.0.106"
INSTALL_TENSORRT = (
    f"TensorRT is not installed: `pip install tensorrt=={TENSORRT_VERSION}` (or "
    "`pip install -e '.[trt]'`) on the machine with the NVIDIA GPU, where NVIDIA's package index "
    "must be reachable; with a driver older than r580, "
    f"`pip install tensorrt-cu12=={TENSORRT_VERSION}`"
)


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
