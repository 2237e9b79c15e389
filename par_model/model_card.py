# SPDX-License-Identifier: Apache-2.0
"""README.md of a shipped checkpoint: what it is, how it was made, what was measured, what fails.

Everything comes from the checkpoint and from result files; `par_model.release` puts those into its
training.json, so that a card can be written again.
"""

import json
import shlex
from collections.abc import Sequence
from typing import Any

from par_model.checkpoint import Checkpoint
from par_model.evaluation import paper_protocol, pareto, states_protocol
from par_model.evaluation.text_table import markdown_table
from par_model.model import count_parameters
from par_model.simulation.task import SUCCESS
from par_model.simulation.tasks import TASKS
from par_model.training.checkpoint_card import cameras, origin
from par_model.training.staged_episodes import recorded_views

# Entries of training.json that have a section of their own, or are too long for a card.
_SECTIONS = ("config", "evaluations", "paper", "states", "pareto", "ablations", "graph")
_SECTIONS += ("codec", "notes", "data_sets", "wall_s", "command")


def model_card(checkpoint: Checkpoint, training: dict[str, Any]) -> str:
    """Markdown text; `training` is what goes into training.json."""
    sections = [
        f"# {checkpoint.config.name}",
        *_introduction(checkpoint, training),
        "## Measured success\n\n" + _success(training),
    ]
    if "graph" in training:
        sections.append("## Through the ROS graph\n\n" + _graph_table(training["graph"]))
    if "pareto" in training:
        sections.append("## Samplers\n\n" + _pareto(training["pareto"]))
    if "ablations" in training:
        sections.append("## Ablations\n\n" + _ablations(training["ablations"]))
    sections.append("## Known failures and limits\n\n" + _failures(training))
    sections.append("## How it was made\n\n" + _training_table(training))
    if training.get("data_sets"):
        sections.append("## Data\n\n" + _data_table(training["data_sets"]))
    # Without a probe only the codec's training is known.
    if "results" in training.get("codec", {}):
        sections.append("## Frame codec\n\n" + _probe_table(training["codec"]))
    sections.append(
        "## Licence\n\nApache-2.0: weights, code, and the demonstrations that these commands "
        "record. ManiSkill's simulator and assets have licences of their own and are not part of "
        "this folder."
    )
    sections.append("Every number of the training is in training.json.")
    return "\n\n".join(sections) + "\n"


def _introduction(checkpoint: Checkpoint, training: dict[str, Any]) -> list[str]:
    config, sampling = checkpoint.config, checkpoint.config.sampling
    slots = sampling.context_slots
    memory = "one observation" if slots == 1 else f"up to {slots} observations"
    data_sets = training.get("data_sets", ())
    # Recordings may be of the policy itself, on a real arm.
    is_known = not any(map(_is_of_recordings, data_sets))
    on_hardware = "It was never on a real arm: use" if is_known else "Use"
    return [
        f"A PAR policy {origin(training)} on {_taught_by(data_sets)}, "
        f"{checkpoint.statistics.arm.capitalize()} arm, {cameras(config)}, joint-position targets "
        f"at {1 / config.step_s:g} Hz in chunks of {config.num_actions}. {on_hardware} it "
        "on hardware in dry run only. Licence: Apache-2.0.",
        f"{count_parameters(checkpoint.model) / 1e6:.2f} M parameters and "
        f"{count_parameters(checkpoint.codec) / 1e6:.2f} M in its frame codec; "
        f"{config.num_frame_tokens} frame tokens and {config.num_actions} actions a slot, "
        f"{config.num_slots} slots; weights stored as bfloat16, computed in float32. By default it "
        f"remembers {memory} and samples actions with {sampling.action_sampler} in "
        f"{sampling.action_num_steps} steps.",
        "It accepts these instructions, word for word:\n\n"
        + "\n".join(f"- {text}" for text in checkpoint.instructions.texts),
    ]


def _taught_by(data_sets: Sequence[dict[str, Any]]) -> str:
    of_recordings = [_is_of_recordings(data) for data in data_sets]
    if not any(of_recordings):
        return "simulated demonstrations: ManiSkill"
    if all(of_recordings):
        return "recordings of an arm"
    return "recordings of an arm and simulated demonstrations: ManiSkill"


def _success(training: dict[str, Any]) -> str:
    parts = []
    if "states" in training:
        states = training["states"]
        rows = states_protocol.table_rows(states["tasks"])
        parts.append(
            f"{markdown_table(rows)}\n\n{states_protocol.METHOD} {_where(states)}; "
            f"`{states['command']}`."
        )
    if "paper" in training:
        paper = training["paper"]
        rows = paper_protocol.table_rows(paper["tasks"])
        parts.append(
            f"The paper's Table 2 with our rows ({_where(paper)}; `{paper['command']}`):\n\n"
            f"{markdown_table(rows)}\n\n{paper_protocol.DIFFERENCES}"
        )
    if training.get("evaluations"):
        parts.append(_success_table(training["evaluations"]))
    return "\n\n".join(parts) or "Not measured yet."


def _success_table(evaluations: Sequence[dict[str, Any]]) -> str:
    rows = [["task", "successes", "rate", "95% interval (Wilson)", "mean steps", "command"]]
    for result in evaluations:
        rows.append(
            [
                result["task"],
                f"{result['num_successes']} of {result['num_episodes']}",
                f"{100 * result['success_rate']:.0f}%",
                _percent(result["interval"]),
                f"{result['mean_steps']:.0f}",
                f"`{result['command']}`",
            ]
        )
    return f"{markdown_table(rows)}\n\n{_where(evaluations[0])}."


def _graph_table(graph: Sequence[dict[str, Any]]) -> str:
    rows = [["task", "mode", "successes", "95% interval (Wilson)", "command"]]
    for result in graph:
        rows.append(
            [
                result["task"],
                result["mode"],
                f"{result['num_successes']} of {result['num_episodes']}",
                _percent(result["interval"]),
                f"`{result['command']}`",
            ]
        )
    return markdown_table(rows)


def _pareto(content: dict[str, Any]) -> str:
    return (
        f"{markdown_table(pareto.table_lines(content))}\n\n{pareto.METHOD}\n\n"
        f"{_where(content)}, {content['backend']}; `{content['command']}`."
    )


def _ablations(content: dict[str, Any]) -> str:
    rows = [["variant", "training steps", "hours", "on"]]
    for name, entry in content["variants"].items():
        seconds = entry.get("wall_s")
        hours = "-" if seconds is None else f"{seconds / 3600:.1f}"
        rows.append([name, str(entry.get("step", "-")), hours, str(entry.get("hardware", "-"))])
    return (
        f"The paper's Table 3 with ours, at a reduced equal budget and Wilson 95% intervals:\n\n"
        f"{markdown_table(content['rows'])}\n\n"
        "What the full model gains, in points, with a paired bootstrap interval over initial "
        "states and the p value of an exact one-sided McNemar test:\n\n"
        f"{markdown_table(content['gain_rows'])}\n\n{markdown_table(rows)}\n\n"
        f"{_where(content)}; `{content['command']}`."
    )


def _failures(training: dict[str, Any]) -> str:
    """Counted kinds first, then what was written by hand."""
    measured = [*training.get("states", {}).get("tasks", {}).items()]
    measured += [*training.get("paper", {}).get("tasks", {}).items()]
    measured += [(result["task"], result) for result in training.get("evaluations", [])]
    rows = [["task", "kind of failure", "rollouts", "seeds"]]
    for task, result in measured:
        outcomes = result.get("outcomes", {})
        for kind in TASKS[task].failure_kinds if task in TASKS else ():
            if outcomes.get(kind):
                seeds = result.get("failed_seeds_by_kind", {}).get(kind, [])
                count = f"{outcomes[kind]} of {sum(outcomes.values())}"
                rows.append([task, kind, count, _seeds(seeds)])
    parts = []
    if len(rows) > 1:
        parts.append(
            "Kinds are measured, not judged by eye (par_model/evaluation/milestones.py):\n\n"
            + markdown_table(rows)
        )
    elif any(SUCCESS in result.get("outcomes", {}) for _, result in measured):
        parts.append("No measured rollout failed.")
    if training.get("notes"):
        parts.append("\n".join(f"- {note}" for note in training["notes"]))
    return "\n\n".join(parts) or "Not measured yet."


def _seeds(seeds: Sequence[int], most: int = 8) -> str:
    shown = ", ".join(str(seed) for seed in seeds[:most])
    return shown if len(seeds) <= most else f"{shown} and {len(seeds) - most} more"


def _training_table(training: dict[str, Any]) -> str:
    rows = [["", ""]]
    if "command" in training:
        rows.append(["command", f"`{training['command']}`"])
    if training.get("wall_s") is not None:
        rows.append(["wall time", f"{training['wall_s'] / 3600:.2f} h (the policy's stage)"])
    config = training.get("config")
    if isinstance(config, dict) and "seed" in config and "seed" not in training:
        rows.append(["seed", str(config["seed"])])
    for name, value in training.items():
        if name not in _SECTIONS:
            rows.append([name, value if isinstance(value, str) else json.dumps(value)])
    return markdown_table(rows)


def _data_table(data_sets: Sequence[dict[str, Any]]) -> str:
    rows = [["task", "demonstrations", "seeds", "with noise", "command"]]
    for data in data_sets:
        if _is_of_recordings(data):
            rows.append(_recordings_row(data))
            continue
        if "policy" in data:
            noise = f"on-policy, {100 * data['disturbed_starts']:.0f}% disturbed starts"
        else:
            noise = f"{100 * data['noise_share']:.0f}% of the seeds"
        seeds = f"{data['first_seed']} to {data['last_seed']}, {data['num_failed_seeds']} failed"
        rows.append(
            [data["task"], str(data["num_episodes"]), seeds, noise, f"`{collect_command(data)}`"]
        )
    versions = dict.fromkeys(
        ", ".join(f"{name} {value}" for name, value in data["versions"].items())
        for data in data_sets
    )
    return (
        f"{markdown_table(rows)}\n\nRecorded with {'; '.join(versions)}. "
        "Equal commands give equal data."
    )


def _is_of_recordings(data: dict[str, Any]) -> bool:
    """Whether `par_ros to_dataset` made it."""
    return data.get("source") == "recordings"


def _recordings_row(data: dict[str, Any]) -> list[str]:
    """In the columns of the demonstrations; there are no seeds, and no noise was added."""
    labels = "an operator's corrections" if data["corrections"] else "no"
    names = ", ".join(data["recordings"])
    made_by = f"`python -m par_ros to_dataset` of {names}"
    return [data["task"], str(data["num_episodes"]), "recordings", labels, made_by]


def collect_command(data: dict[str, Any]) -> str:
    """The command that records this data set again; on-policy: with the named checkpoint."""
    if "policy" in data:
        made_by = ["--on-policy", data["policy"], "--max-steps", str(data["max_steps"])]
        made_by += ["--disturbed-starts", str(data["disturbed_starts"])]
    else:
        made_by = ["--noise-share", str(data["noise_share"])]
        expert = "acted_by" in data
        made_by += ["--expert"] if expert else ["--hold-steps", str(data["num_hold_steps"])]
    return shlex.join(
        [
            *("python", "-m", "par_model.collect", "--task", data["task"]),
            *("--num-demos", str(data["num_episodes"]), "--first-seed", str(data["first_seed"])),
            *made_by,
            *("--image-size", str(data["image_size"])),
            *(["--views", *recorded_views(data)] if "further_cameras" in data else []),
            *("--out", f"datasets/{data['task']}"),
        ]
    )


def _probe_table(codec: dict[str, Any]) -> str:
    rows = [["task", "read from", "cube", "second object or goal", ""]]
    for row in codec["results"]:
        rows.append(
            [
                row["task"],
                "latents" if row["num_tokens"] is None else f"{row['num_tokens']} tokens",
                str(row["median_cube_error_mm"]),
                f"{row['median_second_error_mm']} ({row['second_name']})",
                {True: "accepted", False: "not accepted", None: ""}[row["accepted"]],
            ]
        )
    return (
        "Position probe on held-out seeds, median error in mm "
        f"(accepted up to {codec['accepted_median_cube_error_mm']:g}):\n\n{markdown_table(rows)}"
    )


def _where(result: dict[str, Any]) -> str:
    """ "2026-01-02, CPU, 2 cores, no GPU" """
    hardware = result["hardware"]
    gpu = f", {hardware['gpu']}" if hardware.get("gpu") else ", no GPU"
    return f"{result['date'][:10]}, {hardware['cpu']}, {hardware['num_cpus']} cores{gpu}"


def _percent(interval: dict[str, Any]) -> str:
    return f"{100 * interval['low']:.0f}-{100 * interval['high']:.0f}%"
