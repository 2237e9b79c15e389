# SPDX-License-Identifier: Apache-2.0
"""Golden step before trust: a runtime's answers against the ones recorded from PyTorch."""

from collections.abc import Callable
from pathlib import Path

from safetensors.numpy import load_file

from par_model.graphs.goldens import (
    Deviation,
    Tensors,
    compare_goldens,
    deviations,
    replay,
    require_close,
    rollout_steps,
)
from par_model.graphs.manifest import GOLDENS, Manifest, Precision
from par_model.graphs.policy_graphs import PolicyGraphs

LONG_ROLLOUT_STEPS = 50


def load_goldens(folder: Path, manifest: Manifest) -> Tensors:
    """Raises ValueError if the export has no goldens: nothing could be trusted."""
    if GOLDENS not in manifest.files or not (folder / GOLDENS).is_file():
        raise ValueError(
            f"{folder} has no {GOLDENS}, so its graphs cannot be verified; export again with all "
            "graphs."
        )
    return load_file(folder / GOLDENS)


def verify_goldens(
    graphs: PolicyGraphs, folder: Path, manifest: Manifest, precision: Precision | None = None
) -> dict[str, Deviation]:
    """Replay the golden rollout.

    Args:
        precision: whose bounds are taken; None is the manifest's.

    Raises:
        ValueError: an output is out of its bounds.
    """
    found = compare_goldens(graphs, load_goldens(folder, manifest))
    require_close(found, precision or manifest.precision, f"{graphs.name} on {folder}")
    return found


def verify_rollout(
    graphs: PolicyGraphs,
    reference: PolicyGraphs,
    goldens: Tensors,
    precision: str,
    report: Callable[[str], None],
    num_steps: int = LONG_ROLLOUT_STEPS,
    same_precision: PolicyGraphs | None = None,
) -> dict[str, Deviation]:
    """`num_steps` control steps with cache (and rebases) beside a reference runtime.

    Args:
        reference: in float32.
        same_precision: PyTorch in the graphs' own precision: what rounding alone does to this
            checkpoint widens the bounds.

    Raises:
        ValueError: an output is out of its bounds.
    """
    text = goldens["text"]
    steps = rollout_steps(reference.config, num_steps, seed=7)
    expected = list(replay(reference, text, steps))
    usual = None
    if same_precision is not None:
        usual = deviations(expected, replay(same_precision, text, steps))
        report(_line(num_steps, f"{same_precision.name} in {precision}", usual))
    found = deviations(expected, replay(graphs, text, steps))
    report(_line(num_steps, graphs.name, found))
    require_close(found, precision, f"{graphs.name} over {num_steps} steps", usual)
    return found


def _line(num_steps: int, name: str, found: dict[str, Deviation]) -> str:
    parts = (
        f"{output} max abs {item.max_abs:.2e} cosine {item.cosine:.7f}"
        for output, item in found.items()
    )
    return f"verify {num_steps} steps, {name} against PyTorch in float32: {', '.join(parts)}"
