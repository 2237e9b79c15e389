# SPDX-License-Identifier: Apache-2.0
"""How long a control step takes each runtime on this CPU: measured once, kept beside the export.

Kept, so that every process of a machine takes the same runtime: the direct loop and the ROS graph
have to answer alike to the last digit.
"""

import json
import platform
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

from par_model.graphs.goldens import replay, rollout_steps
from par_model.graphs.policy_graphs import Float32Array, PolicyGraphs
from par_model.json_file import read_object

_FILE_NAME = "control_step_ms.json"
_WARM_UP_STEPS, _MEASURED_STEPS = 4, 16


def control_step_ms(
    candidates: Mapping[str, PolicyGraphs], text: Float32Array, folder: Path, cpu: str
) -> dict[str, float]:
    """Median time of a control step (picture to actions) of each candidate, in milliseconds.

    The first call on a machine measures (a second for par_small) and writes `folder`; the caller
    holds the folder's lock.

    Args:
        text: rows of an instruction.
        cpu: its name; times of another CPU are not taken.
    """
    path = folder / _FILE_NAME
    kept = _kept(path, cpu)
    if kept is None or not set(kept).issuperset(candidates):
        kept = _measure(candidates, text)
        path.write_text(json.dumps({"cpu": cpu, "control_step_ms": kept}) + "\n")
    # Another environment of this machine may have a runtime more.
    return {name: kept[name] for name in candidates}


def cpu_name() -> str:
    """As the machine calls it, e.g. "Intel(R) Xeon(R) Processor"."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _kept(path: Path, cpu: str) -> dict[str, float] | None:
    try:
        content = read_object(path, "it is measured again")
    except ValueError:
        # None yet, or its writer was killed.
        return None
    times = content.get("control_step_ms")
    is_whole = isinstance(times, dict) and all(isinstance(ms, float) for ms in times.values())
    return times if is_whole and content.get("cpu") == cpu else None


def _measure(candidates: Mapping[str, PolicyGraphs], text: Float32Array) -> dict[str, float]:
    """Step by step in turn, so that what else the machine does meets all of them."""
    config = next(iter(candidates.values())).config
    steps = rollout_steps(config, _WARM_UP_STEPS + _MEASURED_STEPS, seed=3)
    rollouts = {name: replay(graphs, text, steps) for name, graphs in candidates.items()}
    times_ms: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in steps:
        for name, rollout in rollouts.items():
            start = time.perf_counter()
            next(rollout)
            times_ms[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(times[_WARM_UP_STEPS:]) for name, times in times_ms.items()}
