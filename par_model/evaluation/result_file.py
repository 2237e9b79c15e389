# SPDX-License-Identifier: Apache-2.0
"""The JSON file of an evaluation: results, and all that is needed to repeat them."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from par_model.evaluation.rollouts import RolloutResult, all_latencies_ms
from par_model.evaluation.statistics import wilson_interval
from par_model.output_files import write_text

_VERSIONED = ("torch", "numpy", "mani-skill", "sapien", "diffusers")
# Runtimes, of which there may be none.
_VERSIONED_IF_INSTALLED = ("onnxruntime", "openvino")


def write_result(path: Path, content: dict[str, Any]) -> None:
    """Written whole or not at all."""
    write_text("the result", path, json.dumps(content, indent=2) + "\n")


def summary(results: Sequence[RolloutResult]) -> dict[str, Any]:
    """num_successes with interval, lengths, latencies, and the episodes one by one."""
    num_successes = sum(result.success for result in results)
    interval = wilson_interval(num_successes, len(results))
    latencies_ms = all_latencies_ms(results)
    return {
        "num_episodes": len(results),
        "num_successes": num_successes,
        "success_rate": num_successes / len(results),
        "interval": asdict(interval) | {"confidence": 0.95, "method": "Wilson"},
        "mean_steps": float(np.mean([result.steps for result in results])),
        "chunk_latency_ms": {
            "p50": float(np.percentile(latencies_ms, 50)),
            "p99": float(np.percentile(latencies_ms, 99)),
            "worst": float(latencies_ms.max()),
        },
        "outcomes": dict(Counter(result.outcome for result in results if result.outcome)),
        "episodes": [result.to_json() for result in results],
    }


def provenance(command: Sequence[str]) -> dict[str, Any]:
    """The command, when, on what hardware, with which versions."""
    return {
        "command": " ".join(command),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "hardware": _hardware(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _VERSIONED}
        | _runtime_versions(),
    }


def _runtime_versions() -> dict[str, str]:
    versions = {}
    for name in _VERSIONED_IF_INSTALLED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def checkpoint_hash(checkpoint: Path) -> str:
    """sha256 of the checkpoint's manifest, which holds the hash of each of its files.

    Raises ValueError where there is no checkpoint.
    """
    manifest = checkpoint / "manifest.json"
    if not manifest.is_file():
        raise ValueError(
            f"checkpoint {checkpoint} does not exist or has no manifest.json; give the folder that "
            "holds config.json, or train one with `python -m par_model.train`."
        )
    return hashlib.sha256(manifest.read_bytes()).hexdigest()


def _hardware() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": _cpu_name(), "num_cpus": os.cpu_count(), "gpu": gpu}


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
