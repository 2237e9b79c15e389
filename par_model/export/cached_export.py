# SPDX-License-Identifier: Apache-2.0
"""The float32 ONNX export that a CPU runs, made once a checkpoint and kept in a cache folder."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from par_model.checkpoint import Checkpoint
from par_model.export.onnx_graphs import (
    FUSED_OPSET,
    ExportRequest,
    export_checkpoint,
    exporter_versions,
)
from par_model.graphs.contract import CONTRACT_VERSION, context_slots
from par_model.graphs.manifest import Manifest, verify_files

_log = logging.getLogger(__name__)


def cached_export_folder(checkpoint: Checkpoint, name: str, sha256: str, num_steps: int) -> Path:
    """Where the export lies or would: $PAR_CACHE/onnx (default ~/.cache/par/onnx), named by all
    that it depends on."""
    parts = {
        "checkpoint": sha256,
        "contract": CONTRACT_VERSION,
        "opset": FUSED_OPSET,
        "sampler": checkpoint.config.sampling.action_sampler,
        "num_steps": num_steps,
        "context_slots": context_slots(checkpoint.config),
        "versions": exporter_versions(),
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return _cache_folder() / "onnx" / f"{name}-{key}"


def cached_export(checkpoint: Checkpoint, name: str, sha256: str, num_steps: int) -> Path:
    """The folder of the export; made now if there is none (13 s for par_small), and said. The
    caller holds its `lock`.

    Raises:
        ValueError: the model cannot be exported.
    """
    folder = cached_export_folder(checkpoint, name, sha256, num_steps)
    if _is_whole(folder):
        return folder
    # A warning is seen without any logging set up: nobody should wonder what takes so long.
    _log.warning("exporting %s to ONNX, this once (13 s for par_small), into %s", name, folder)
    request = ExportRequest(checkpoint, name, sha256, "fp32", FUSED_OPSET, num_steps)
    export_checkpoint(request, folder, _log.info)
    return folder


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """One process at a time works on a cached export; the others wait and take its result.

    Raises:
        OSError: the cache cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_whole(folder: Path) -> bool:
    if not folder.exists():
        return False
    try:
        verify_files(folder, Manifest.read(folder))
    except ValueError as reason:
        _log.warning("%s; it is made anew", reason)
        return False
    return True


def _cache_folder() -> Path:
    return Path(os.environ.get("PAR_CACHE") or Path.home() / ".cache" / "par")
